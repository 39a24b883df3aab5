"""Layers get the names that the model's owner gave them."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from dsg_tf.graph import frozen, naming


def _names(function, *shape):
    """Layer name by operation, for all operations of a function."""
    spec = tf.TensorSpec((None, *shape), name="x")
    graph = frozen.freeze(tf.function(function).get_concrete_function(spec))
    names = naming.LayerNames(graph)
    return {n.op: names(n.output) for n in graph if n.op != "Const"}, graph


@pytest.mark.parametrize("api", [keras, tf_keras], ids=["keras3", "keras2"])
@pytest.mark.parametrize("exported", [True, False])
def test_keras_layers_keep_their_names(api, exported, tmp_path):
    model = api.Sequential(
        [
            api.Input((4, 4, 2)),
            api.layers.Conv2D(3, 2, name="stem"),
            api.layers.BatchNormalization(name="stem_bn"),
            api.layers.ReLU(name="act"),
            api.layers.Flatten(),
            api.layers.Dense(2, name="logits"),
        ]
    )
    if exported:
        model.export(
            str(tmp_path / "m"), **({"verbose": False} if api is keras else {})
        )
        loaded = tf.saved_model.load(str(tmp_path / "m"))
        graph = frozen.freeze(loaded.signatures["serving_default"])
    else:
        _, graph = _names(lambda x: model(x, training=False), 4, 4, 2)
    names = naming.LayerNames(graph)
    found = {n.op: names(n.output) for n in graph if n.op != "Const"}
    assert found["Conv2D"] == "stem"
    assert found.get("Rsqrt", found.get("FusedBatchNormV3")) == "stem_bn"
    assert found["Relu"] == "act"
    assert found["MatMul"] == "logits"


def test_numbers_of_the_owner_stay():
    """conv_1 and conv are two layers; retraced as conv_1_1 and conv_1."""
    layers = [
        keras.layers.Dense(2, name="conv"),
        keras.layers.Dense(3, name="conv_1"),
        keras.layers.Dense(4, name="conv_1_1"),
    ]
    model = keras.Sequential([keras.Input((2,)), *layers])
    _, graph = _names(lambda x: model(x, training=False), 2)
    names = naming.LayerNames(graph)
    products = [n for n in graph if n.op == "MatMul"]
    assert [names(n.output) for n in products] == ["conv", "conv_1", "conv_1_1"]


def test_a_layer_that_is_applied_twice_has_two_names():
    layer = keras.layers.Dense(2, name="twin")
    x = keras.Input((2,))
    model = keras.Model(x, keras.layers.ReLU()(layer(layer(x))))
    _, graph = _names(lambda x: model(x, training=False), 2)
    names = naming.LayerNames(graph)
    products = [names(n.output) for n in graph if n.op == "MatMul"]
    assert len(set(products)) == 2


def test_layers_without_weights_never_take_a_name_that_exists():
    w = tf.Variable(np.ones((2, 2), np.float32), name="dense/kernel")

    def function(x):
        with tf.name_scope("dense_1"):
            x = x @ w
        with tf.name_scope("relu_1"):
            x = tf.nn.relu(x)
        with tf.name_scope("relu"):
            return tf.nn.relu6(x)

    names, _ = _names(function, 2)
    assert names["MatMul"] == "dense"
    assert names["Relu"] == "relu_1"
    assert names["Relu6"] == "relu"


def test_numbers_that_differ_are_not_taken_for_one_of_tracing():
    first = tf.Variable(np.ones((2, 2), np.float32), name="a/kernel")
    second = tf.Variable(np.ones((2, 2), np.float32), name="b/kernel")

    def function(x):
        with tf.name_scope("a_1"):
            x = x @ first
        with tf.name_scope("b_2"):
            x = x @ second
        with tf.name_scope("relu_1"):
            return tf.nn.relu(x)

    names, graph = _names(function, 2)
    assert names["Relu"] == "relu_1"
    products = [n for n in graph if n.op == "MatMul"]
    layers = naming.LayerNames(graph)
    assert [layers(n.output) for n in products] == ["a", "b"]


def test_a_scope_that_only_begins_like_the_weights_keeps_its_name():
    w = tf.Variable(np.ones((2, 2), np.float32), name="conv/kernel")

    def function(x):
        with tf.name_scope("conv_transposed"):
            return tf.nn.relu(x @ w)

    names, _ = _names(function, 2)
    assert names["MatMul"] == "conv_transposed"


def test_wrappers_and_steps_inside_a_layer_are_left_out():
    w = tf.Variable(np.ones(2, np.float32))

    def function(x):
        with tf.name_scope("outer"), tf.name_scope("model"):
            with tf.name_scope("block/bn/batchnorm"):
                x = x * w
            with tf.name_scope("head"):
                return tf.nn.relu(x)

    names, _ = _names(function, 2)
    assert names["Mul"] == "block/bn"
    assert names["Relu"] == "head"


def test_an_operation_without_a_scope_is_its_own_layer():
    names, _ = _names(lambda x: tf.nn.relu(x, name="lonely"), 2)
    assert names["Relu"] == "lonely"
    assert names["Placeholder"] == "x"
