"""Configs whose calls wait for ever are refused, all others pass."""

from __future__ import annotations

import json

import pytest
import tf_keras

from dsg_tf.core import errors
from dsg_tf.graph.load import keras_layer_graph


def _layer(name, *nodes, **more) -> dict:
    return {"name": name, "inbound_nodes": list(nodes), **more}


_INPUT = _layer("x", class_name="InputLayer")


def _config(*layers) -> dict:
    return {"class_name": "Functional", "config": {"layers": list(layers)}}


def _refused(*layers) -> str:
    with pytest.raises(errors.UserError) as caught:
        keras_layer_graph.check(_config(*layers), "net.h5")
    return caught.value.got


@pytest.mark.parametrize(
    ("layers", "told"),
    [
        ([_layer("a", [["a", 0, 0, {}]])], "'a', whose input from 'a'"),
        (
            [_layer("a", [["b", 0, 0]]), _layer("b", [["a", 0, 0]])],
            "'a', whose input from 'b'",
        ),
        ([_layer("a", [["x", 0, 0]]), _layer("b", [["a", 1, 0]])], "'a'"),
        ([_layer("a", [["x", 0, 0]]), _layer("b", [["a", 0.5, 0]])], "'a'"),
        ([_layer("a", [["x", 0, 0]]), _layer("b", [["a", -1, 0]])], "'a'"),
        ([_layer("a", [["x", 0, 0]]), _layer("b", [["a", "0", 0]])], "'a'"),
        ([_layer("a", [["x", 0, 0, {"y": ["a", 0, 0]}]])], "'a'"),
        (
            [
                _layer(
                    "m",
                    [["x", 0, 0]],
                    **{
                        "class_name": "Functional",
                        "config": {"layers": [_INPUT]},
                    },
                ),
                _layer("b", [["m", 0, 0]]),
            ],
            "'m'",
        ),
    ],
)
def test_call_that_never_can_be_made_is_named(layers, told):
    assert told in _refused(_INPUT, *layers)


def test_models_inside_of_models_are_looked_at():
    inner = {"layers": [_INPUT, _layer("a", [["a", 0, 0]])]}
    model = _layer("m", [["x", 0, 0]], class_name="Model", config=inner)
    assert "'a'" in _refused(_INPUT, model)


@pytest.mark.parametrize(
    "layers",
    [
        [],
        [
            _layer("a", [["x", 7, 0]])
        ],  # An input has one call, whatever it says.
        [_layer("a", [["x", 0, 0]]), _layer("b", [["a", 0.0, 0]])],
        [_layer("b", [["a", 0, 0]]), _layer("a", [["x", 0, 0]])],
        [_layer("a", [["x", 0, 0]], [["b", 0, 0]]), _layer("b", [["a", 0, 0]])],
        [_layer("a", [["_CONSTANT_VALUE", -1, [1, 2]]])],
        [_layer("a", [["absent", 0, 0]])],  # Loaders say it.
        [_layer("a", [["x", 0, 0], ["x", 0, 0]])],
        [_layer("a", {"args": [{"class_name": "__keras_tensor__"}]})],
        [_layer("a", 3), _layer("b", None), {"name": 3}],
        [_layer("a", [["x", [], 0]])],
    ],
)
def test_all_else_is_left_to_the_loaders(layers):
    keras_layer_graph.check(_config(_INPUT, *layers), "net.h5")


def _shared():
    x = tf_keras.Input((4,))
    dense = tf_keras.layers.Dense(4)
    inner = tf_keras.Sequential([tf_keras.Input((4,)), tf_keras.layers.ReLU()])
    late = tf_keras.Sequential([tf_keras.layers.Dense(4)])
    y = late(inner(dense(inner(dense(x)))))
    y = tf_keras.layers.Add()([y, late(x), dense(y)])
    return tf_keras.Model(x, y)


def test_models_of_keras_2_pass_with_shared_layers_and_models():
    config = json.loads(_shared().to_json())
    keras_layer_graph.check(config, "net.h5")
    for layer in config["config"]["layers"]:
        for node in layer["inbound_nodes"]:
            node[0][1] += 2  # Every one of these numbers is read.
    with pytest.raises(errors.UserError):
        keras_layer_graph.check(config, "net.h5")
