"""Checks that the config of a Keras file contains only built-in layers.

A loader of Keras turns every dictionary with a `class_name` into an object: it
looks the name up, in modules that the file itself names, and calls what it
finds. Keras 3 refuses much of that, tf_keras nearly nothing. So the config is
read here as data, before either sees it, and everything that is looked up by
a name must be on the lists of `keras_names`, in a module of Keras that holds
such things.

Parts that no loader reads are not checked: with `compile=False` the outermost
`compile_config` of a .keras file is dropped, and the `training_config` of an
.h5 file is never read.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator

from google.protobuf import json_format
from tensorflow.core.framework import node_def_pb2

from dsg_tf.core import errors
from dsg_tf.graph.load import keras_names, safety

LIVE_OR_SAVED_MODEL = (
    "load it in your own code and pass the live model to"
    " dsg_tf.quantize_model, or export a SavedModel: model.export(path)"
)
# The config of the largest models that Keras ships has 2 MB.
MAX_BYTES = 32 << 20

# With deeper nesting, loaders may not finish.
_MAX_DEPTH = 200
_INT64 = 1 << 63

_NAME = r"(tf_)?keras(\.src)?"
# Kinds of objects: where they live, and their names.
_CLASSES = (
    (
        re.compile(rf"{_NAME}\.layers(\.\w+)*"),
        keras_names.LAYERS | keras_names.VOCABULARIES | {"TensorFlowOpLayer"},
    ),
    (
        re.compile(rf"{_NAME}(\.(models|engine)(\.\w+)?)?"),
        keras_names.MODELS | {"InputLayer", "TensorFlowOpLayer"},
    ),
    (re.compile(rf"{_NAME}\.initializers(\.\w+)*"), keras_names.INITIALIZERS),
    (re.compile(rf"{_NAME}\.regularizers(\.\w+)*"), keras_names.REGULARIZERS),
    (re.compile(rf"{_NAME}\.constraints(\.\w+)*"), keras_names.CONSTRAINTS),
    (
        re.compile(rf"{_NAME}(\.(dtype_policies|mixed_precision)(\.\w+)*)?"),
        keras_names.POLICIES,
    ),
    (re.compile(r"keras\.src\.ops\.\w+"), keras_names.OPERATIONS),
    (re.compile(rf"{_NAME}\.losses(\.\w+)*"), keras_names.LOSSES),
    (re.compile(rf"{_NAME}\.metrics(\.\w+)*"), keras_names.METRICS),
    (re.compile(rf"{_NAME}\.optimizers(\.\w+)*"), keras_names.OPTIMIZERS),
)
_FUNCTIONS = (
    (
        re.compile(rf"builtins|{_NAME}\.(activations|losses|metrics)(\.\w+)*"),
        keras_names.FUNCTIONS,
    ),
    (re.compile(r"keras\.ops"), keras_names.OPERATION_FUNCTIONS),
)
# Values that JSON has no form for, and that become no object of a class.
_VALUES = frozenset(
    {
        "__bytes__",
        "__ellipsis__",
        "__keras_tensor__",
        "__numpy__",
        "__slice__",
        "__tensor__",
        "__tuple__",
        "TensorShape",
    }
)
_DTYPE = re.compile(r"bool|bfloat16|(u?int|float|complex)\d+|string|str")
_OPERATION = "runs a function that the file names while it is loaded"
_CODE = "holds code of its own"
_READS_FILES = "reads a file while it is built"
# What is said of classes that are met in good files too.
_WHY = {
    "Lambda": _CODE,
    "__lambda__": _CODE,
    "TFOpLambda": _OPERATION,
    "SlicingOpLambda": _OPERATION,
    "ClassMethod": _OPERATION,
    "InstanceMethod": _OPERATION,
    "InstanceProperty": _OPERATION,
    "TFSMLayer": _READS_FILES,
    "TorchModuleWrapper": _CODE,
    "JaxLayer": _CODE,
    "FlaxLayer": _CODE,
}


def parse(text: bytes | str, subject: str) -> dict:
    """A config as data, as the loaders of Keras would read it.

    Args:
      text: JSON in UTF-8.
      subject: what errors call the file.

    Raises:
      errors.UserError: it is too long, no JSON, or no dictionary; it is nested
        too deeply, or has numbers that no loader can take.

    Examples:
      >>> parse('{"class_name": "Dense"}', "net.keras")
      {'class_name': 'Dense'}
    """
    check_size(len(text), subject)
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        config = json.loads(text, parse_constant=_constant)
    except UnicodeDecodeError as error:
        raise _damaged(subject, "a config that is not UTF-8") from error
    except RecursionError as error:
        raise _damaged(subject, "a config nested without end") from error
    except ValueError as error:
        said = str(error) or "no JSON"
        if not text.strip():
            said = "it is empty"
        raise _damaged(subject, f"a config that is no JSON ({said})") from error
    if not isinstance(config, dict):
        raise _damaged(subject, f"a config that is a {type(config).__name__}")
    for _, value, depth in _walk(config):
        if depth > _MAX_DEPTH:
            raise _damaged(
                subject, f"a config nested more than {_MAX_DEPTH} deep"
            )
        if isinstance(value, int) and not -_INT64 <= value < _INT64:
            raise _damaged(subject, "a config with an integer beyond 64 bits")
    return config


def check_size(size: int, subject: str) -> None:
    """Refuses a config that is too long to be one, before it is read.

    Args:
      size: bytes.
      subject: what errors call the file.

    Raises:
      errors.UserError: it is longer than `MAX_BYTES`.
    """
    if size > MAX_BYTES:
        raise _damaged(
            subject,
            f"a config of {size:,} bytes",
            expected=f"at most {MAX_BYTES:,}",
        )


def check(config: dict, subject: str) -> None:
    """Refuses a config with anything but layers of Keras that only compute.

    Args:
      config: see `parse`.
      subject: what errors call the file.

    Raises:
      errors.UserError: naming the class or function, the layer it stands in,
        and what it would do.

    Examples:
      >>> layer = {"class_name": "Lambda", "config": {"name": "code"}}
      >>> try:
      ...     check({"class_name": "Model", "config": [layer]}, "net.h5")
      ... except errors.UserError as error:
      ...     print(error.got)
      the Lambda layer 'code', which holds code of its own
    """
    looked_up = {k: v for k, v in config.items() if k != "compile_config"}
    for layer, value, _ in _walk(looked_up):
        if isinstance(value, dict) and "class_name" in value:
            found = _fault(value)
            if found:
                raise _refusal(subject, layer, *found)


def integers(config: dict) -> Iterator[tuple[str, str, int]]:
    """Layer, key and value of every whole number of a config."""
    for layer, value, _ in _walk(config):
        if isinstance(value, dict):
            for key, number in value.items():
                if isinstance(number, int) and not isinstance(number, bool):
                    yield layer, key, number


def shapes(config: dict) -> Iterator[tuple[str, str, int]]:
    """Layer, key and number of elements of every shape of a config."""
    for layer, value, _ in _walk(config):
        for key, dims in value.items() if isinstance(value, dict) else ():
            if key.endswith("shape") and isinstance(dims, list):
                known = [d for d in dims if isinstance(d, int) and d > 0]
                yield layer, key, math.prod(known)


def _walk(config: dict) -> Iterator[tuple[str, object, int]]:
    """Every value of a config, with the layer it stands in and its depth."""
    stack: list[tuple[str, object, int]] = [("", config, 0)]
    while stack:
        layer, value, depth = stack.pop()
        if isinstance(value, dict):
            own = value.get("name")
            inner = value.get("config")
            if isinstance(inner, dict) and not isinstance(own, str):
                own = inner.get("name")
            layer = own if isinstance(own, str) else layer
        yield layer, value, depth
        if isinstance(value, dict | list):
            items = value.values() if isinstance(value, dict) else value
            # The last one goes on the stack first: found as they are written.
            stack += [(layer, item, depth + 1) for item in items][::-1]


def _fault(value: dict) -> tuple[str, str] | None:
    """Names in a dictionary that are not allowed, and what they would do."""
    name = value["class_name"]
    if not isinstance(name, str):
        return repr(name), "no name of a class"
    if name in _WHY:
        return name, _WHY[name]
    if name in _VALUES:
        return _faulty_value(name, value)
    if name == "function":
        name = value.get("config")
        return _faulty_name(value, name, _FUNCTIONS, with_module=True)
    found = _faulty_name(value, name, _CLASSES, with_module=False)
    inner = value.get("config")
    if found is None and isinstance(inner, dict):
        special = _BY_CLASS.get(name)
        found = special(name, inner) if special else None
    return found


def _faulty_name(
    value: dict, name, kinds, *, with_module: bool
) -> tuple[str, str] | None:
    module = value.get("module")
    registered = value.get("registered_name")
    shown = ".".join(str(part)[:60] for part in (module, name) if part)
    # Of a function, Keras writes its name or the word "function".
    own = (None, "", name, value["class_name"], f"Custom>{name}")
    if registered not in own:
        return str(registered)[:60], "is registered under a name of its own"
    if not isinstance(name, str) or (with_module and module is None):
        return shown, "is no function or class of Keras"
    for place, names in kinds:
        here = module is None or (
            isinstance(module, str) and place.fullmatch(module)
        )
        if here and name in names:
            return None
    return shown, "is no built-in layer, nor a part of one, that only computes"


def _faulty_value(name: str, value: dict) -> tuple[str, str] | None:
    inner = value.get("config")
    dtype = inner.get("dtype") if isinstance(inner, dict) else None
    if dtype is not None and not (
        isinstance(dtype, str) and _DTYPE.fullmatch(dtype)
    ):
        return name, f"has the type {str(dtype)[:40]!r}"
    return None


def _faulty_vocabulary(name: str, inner: dict) -> tuple[str, str] | None:
    for key, item in inner.items():
        if isinstance(item, str) and ("vocabulary" in key or "path" in key):
            return name, f"reads a file ({key}={item[:60]!r})"
    return None


def _faulty_operation(name: str, inner: dict) -> tuple[str, str] | None:
    """Of a layer that holds one operation of TensorFlow as a NodeDef."""
    definition = node_def_pb2.NodeDef()
    try:
        json_format.ParseDict(inner.get("node_def"), definition)
    except (json_format.ParseError, TypeError, AttributeError, ValueError):
        return name, "holds an operation that cannot be read"
    calls = any(
        item.WhichOneof("value") == "func" or item.list.func
        for item in definition.attr.values()
    )
    does = "calls a function" if calls else safety.effect(definition)
    return (f"{name} of {definition.op}", does) if does else None


_BY_CLASS: dict[str, Callable] = {
    "TensorFlowOpLayer": _faulty_operation,
    **dict.fromkeys(keras_names.VOCABULARIES, _faulty_vocabulary),
}


def _constant(text: str) -> float:
    if text == "NaN":
        raise ValueError("NaN is no number")
    return float(text)


def _refusal(
    subject: str, layer: str, name: str, does: str
) -> errors.UserError:
    layer = repr(layer[:80]) if layer else ""
    if name in _WHY:
        what = f"the {name} layer {layer}"
    else:
        what = f"{name} in the layer {layer}" if layer else name
    return errors.UserError(
        subject,
        got=f"{what}, which {does}",
        expected="built-in layers that only compute",
        remedy=f"{LIVE_OR_SAVED_MODEL} (if you trust whoever made it)",
    )


def _damaged(
    subject: str, got: str, *, expected: str = "the config of a Keras model"
) -> errors.UserError:
    return errors.UserError(
        subject, got=got, expected=expected, remedy="download or save it again"
    )
