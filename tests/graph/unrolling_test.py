"""Recurrent layers become plain operations that compute the same."""

import numpy as np
import pytest
import tensorflow as tf

from dsg_tf.core import errors
from dsg_tf.graph import evaluation, unrolling
from dsg_tf.graph.load import loading


def _layers(library):
    if library == "keras":
        import keras
    else:
        import tf_keras as keras
    keras.utils.set_random_seed(0)
    return keras, keras.layers


def _gru(layers):
    return [layers.GRU(3, return_sequences=True), layers.GRU(2)]


def _lstm(layers):
    return [layers.LSTM(3), layers.Dense(2)]


def _backwards(layers):
    return [layers.LSTM(3, go_backwards=True, return_sequences=True)]


def _bidirectional(layers):
    return [layers.Bidirectional(layers.GRU(3, return_sequences=True))]


def _masked(layers):
    return [layers.Masking(), layers.Bidirectional(layers.LSTM(3))]


def _simple(layers):
    return [layers.SimpleRNN(3, return_sequences=True)]


def _convolved(layers):
    return [
        layers.Conv1D(4, 3, use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Bidirectional(layers.LSTM(3, return_sequences=True)),
        layers.Dense(2, activation="softmax"),
    ]


_NETS = [_gru, _lstm, _backwards, _bidirectional, _masked, _simple, _convolved]


def _loops(graph):
    return [n.op for n in graph if "While" in n.op or "TensorList" in n.op]


@pytest.mark.parametrize("library", ["keras", "tf_keras"])
@pytest.mark.parametrize("net", _NETS, ids=lambda net: net.__name__[1:])
def test_a_recurrent_layer_is_written_out_and_computes_the_same(net, library):
    keras, layers = _layers(library)
    model = keras.Sequential([layers.Input((6, 4)), *net(layers)])
    graph = loading.load(model)
    assert _loops(graph) == []
    values = np.random.default_rng(0).normal(size=(3, 6, 4))
    values = values.astype(np.float32)
    values[1, 4:] = 0.0  # Steps that are masked.
    ((found,),) = evaluation.batches(
        graph, [graph.outputs[0].tensor], {graph.inputs[0].name: values}
    )
    np.testing.assert_allclose(found, np.asarray(model(values)), atol=1e-6)


def test_an_open_number_of_steps_is_given_by_the_user():
    keras, layers = _layers("keras")
    model = keras.Sequential([layers.Input((None, 4)), layers.GRU(3)])
    assert _loops(loading.load(model, input_shapes=(5, 4))) == []


def test_loops_within_loops_are_written_out():
    @tf.function(input_signature=[tf.TensorSpec((None, 2), tf.float32, "x")])
    def call(x):
        def outer(i, y):
            _, y = tf.while_loop(
                lambda k, _: k < 2, lambda k, z: (k + 1, z * 2.0), (0, y)
            )
            return i + 1, y + 1.0

        return tf.while_loop(lambda i, _: i < 3, outer, (0, x))[1]

    graph = loading.load(call)
    assert _loops(graph) == []
    values = np.ones((2, 2), np.float32)
    ((found,),) = evaluation.batches(
        graph, [graph.outputs[0].tensor], {"x": values}
    )
    np.testing.assert_array_equal(found, call(values))


def test_a_loop_whose_steps_depend_on_the_input_stays():
    @tf.function(input_signature=[tf.TensorSpec((None, 2), tf.float32, "x")])
    def call(x):
        return tf.while_loop(
            lambda y: tf.reduce_max(y) < 10.0, lambda y: (y * 2.0,), (x,)
        )[0]

    assert _loops(loading.load(call)) != []


def test_a_loop_of_no_step_hands_its_inputs_on():
    @tf.function(input_signature=[tf.TensorSpec((None, 2), tf.float32, "x")])
    def call(x):
        return (
            tf.while_loop(
                lambda i, _: i < 0, lambda i, y: (i + 1, y * 2.0), (0, x)
            )[1]
            + 1.0
        )

    graph = loading.load(call)
    assert _loops(graph) == []
    ((found,),) = evaluation.batches(
        graph, [graph.outputs[0].tensor], {"x": np.ones((1, 2), np.float32)}
    )
    np.testing.assert_array_equal(found, [[2.0, 2.0]])


def test_too_many_steps_are_refused_with_a_remedy(monkeypatch):
    monkeypatch.setattr(unrolling, "_MOST_NODES", 100)
    keras, layers = _layers("keras")
    model = keras.Sequential([layers.Input((50, 4)), layers.GRU(3)])
    with pytest.raises(errors.UserError, match="--input_shape"):
        loading.load(model)
