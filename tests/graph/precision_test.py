"""Graphs of other float types become float32."""

import numpy as np
import pytest
import tensorflow as tf

from dsg_tf.analysis import bn_statistics
from dsg_tf.graph import evaluation, precision
from dsg_tf.graph.load import loading

_FLOATS = {tf.float16, tf.bfloat16, tf.float64}


def _network(policy):
    import keras

    layers = keras.layers
    keras.utils.set_random_seed(0)
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(policy)
    try:
        image = keras.Input((6, 6, 2), name="image")
        value = layers.Conv2D(4, 3, use_bias=False)(image)
        value = layers.ReLU()(layers.BatchNormalization()(value))
        value = layers.GlobalAveragePooling2D()(value)
        return keras.Model(image, layers.Dense(3, name="scores")(value))
    finally:
        keras.mixed_precision.set_global_policy(before)


@pytest.mark.parametrize(
    "policy", ["mixed_float16", "float16", "mixed_bfloat16", "float64"]
)
def test_a_model_of_another_float_type_is_computed_in_float32(policy):
    model = _network(policy)
    graph = loading.load(model)
    dtypes = {graph.dtype(node.output) for node in graph}
    assert not dtypes & _FLOATS
    assert not any(node.op == "Cast" for node in graph)
    assert [p.dtype for p in (*graph.inputs, *graph.outputs)] == [
        tf.float32
    ] * 2
    assert len(bn_statistics.find(graph)) == 1
    images = np.random.default_rng(0).normal(size=(4, 6, 6, 2))
    images = images.astype(np.float32)
    ((found,),) = evaluation.batches(
        graph, [graph.outputs[0].tensor], {"image": images}
    )
    expected = np.asarray(tf.cast(model(images), tf.float32))
    # bfloat16 has 8 bits; an error of the mechanism would be of the size of 1.
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_loops_are_converted_too():
    @tf.function(input_signature=[tf.TensorSpec((None, 3), tf.float16, "x")])
    def halve(x):
        return tf.while_loop(
            lambda i, _: i < 3, lambda i, y: (i + 1, y / 2), (0, x)
        )[1]

    graph = loading.load(halve)
    ((found,),) = evaluation.batches(
        graph,
        [graph.outputs[0].tensor],
        {"x": np.ones((2, 3), np.float32)},
        size=2,
    )
    np.testing.assert_array_equal(found, np.full((2, 3), 0.125, np.float32))


def test_a_float32_graph_stays_the_same_object():
    graph = loading.load(_network("float32"))
    assert precision.in_float32(graph) is graph
