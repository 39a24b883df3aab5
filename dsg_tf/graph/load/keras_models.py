"""Keras files and live Keras models, of Keras 3 and of tf_keras (Keras 2).

`keras_files` checks every file before a loader opens it, even with
`--allow_unsafe_ops`: a Lambda layer is Python bytecode, which runs while the
file is loaded.
"""

from __future__ import annotations

import contextlib
import importlib.util
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from dsg_tf.core import errors
from dsg_tf.graph import ir
from dsg_tf.graph.load import (
    endpoint,
    formats,
    keras_config,
    keras_files,
    model_files,
    open_shapes,
)


def load_file(path: pathlib.Path, kind: formats.Format):
    """Reads a .keras or .h5 file, by Keras 3 or else by tf_keras.

    Args:
      path: the file, or the folder of an unpacked .keras file.
      kind: which of them it is.

    Returns:
      The live model.

    Raises:
      errors.UserError: it holds weights only, a Lambda layer, a class that
        is not Keras's own, or is damaged.
    """
    with model_files.unchanged(path):
        keras_files.check(path, kind)
        model = _load_checked(path)
    if not is_model(model):  # Keras reads a file of any of its objects.
        raise errors.UserError(
            str(path),
            got=f"a file that holds a {type(model).__name__}, no model",
            expected="a whole Keras model",
        )
    return model


def _load_checked(path: pathlib.Path):
    import keras

    _check_backend(keras)
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras lets through what its layers raise.
        first_error = error
    # tf_keras takes a folder for a SavedModel of its own.
    if path.is_dir() or importlib.util.find_spec("tf_keras") is None:
        raise errors.UserError(
            str(path),
            got=f"a file that Keras 3 cannot read ({_say(first_error)})",
            expected="a whole Keras model",
            remedy="for a file of Keras 2: pip install 'dsg_tf[legacy-keras]';"
            f" for custom layers: {keras_config.LIVE_OR_SAVED_MODEL}",
        ) from first_error
    import tf_keras

    try:
        return tf_keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        # The library that wrote the file has the better cause.
        is_of_2 = keras_files.version(path).startswith("2.")
        cause = _say(error if is_of_2 else first_error)
        raise errors.UserError(
            str(path),
            got=f"a file that neither Keras 3 nor tf_keras can read ({cause})",
            expected="a whole Keras model of built-in layers",
            remedy=keras_config.LIVE_OR_SAVED_MODEL,
        ) from first_error


def is_model(model: object) -> bool:
    """Whether `model` is a live model of Keras 3 or tf_keras."""
    classes = []
    for name in ("keras", "tf_keras"):
        # A model of a library that was never imported cannot exist.
        library = sys.modules.get(name)
        if library is not None and hasattr(library, "Model"):
            classes.append(library.Model)
    return isinstance(model, tuple(classes))


def to_endpoint(
    model: Any, input_shapes: endpoint.Shapes | None = None
) -> endpoint.Endpoint:
    """Traces a live Keras model in inference mode.

    Args:
      model: a model whose inputs are known: functional, sequential, or
        subclassed and called or built before.
      input_shapes: for a subclassed model that does not know its inputs.

    Raises:
      errors.UserError: the model was never built, or its inputs are no dense
        tensors.
    """
    if not model.__class__.__module__.startswith("tf_keras"):
        import keras

        _check_backend(keras)
    names, specs, structure = _inputs(model, input_shapes)
    specs = _filled(names, specs, input_shapes)

    def call(*tensors):
        return model(
            tf.nest.pack_sequence_as(structure, tensors), training=False
        )

    try:
        with _legal_scopes(model):
            traced = tf.function(call, autograph=False)
            function = traced.get_concrete_function(*specs)
    except Exception as error:
        # Whatever its layers raise: a config may hold what no call can use.
        raise errors.UserError(
            f"model {model.name!r}",
            got=f"layers that cannot be called ({_say(error)})",
            expected="a model that maps a batch of its inputs to outputs",
            remedy=_open_remedy(names, specs)
            or ("" if input_shapes is None else "--input_shape may not fit"),
        ) from error
    outputs = _output_names(model, function)
    return endpoint.Endpoint(function, tuple(names), outputs)


def _check_backend(keras) -> None:
    backend = keras.config.backend()
    if backend != "tensorflow":
        raise errors.UserError(
            "KERAS_BACKEND",
            got=backend,
            expected="tensorflow",
            remedy="run with KERAS_BACKEND=tensorflow; the weights are the"
            " same",
        )


def _inputs(model, input_shapes: endpoint.Shapes | None):
    """Names, specs and structure of a model's inputs, flat in that order."""
    symbolic = getattr(model, "inputs", None)
    if symbolic:
        structure = model.input if _has_input(model) else model.inputs[0]
        flat = tf.nest.flatten(structure)
        names = _unique([t.name.split(":")[0] for t in flat])
        specs = [_spec(t, n) for t, n in zip(flat, names, strict=True)]
        return names, specs, structure
    if not model.built or not model.variables:
        raise errors.UserError(
            f"model {model.name!r}",
            got="a model that was never built and has no weights",
            expected="a trained model",
            remedy="call it on a sample first",
        )
    shape = _shape_of_subclassed(model, input_shapes)
    spec = tf.TensorSpec(shape, model.compute_dtype, name="input")
    if not spec.dtype.is_floating:
        spec = tf.TensorSpec(shape, tf.float32, name="input")
    return ["input"], [spec], 0


@contextlib.contextmanager
def _legal_scopes(model) -> Iterator[None]:
    """Gives layers names that TensorFlow takes as scopes, for a while.

    Keras lets a layer have any name, umlauts and spaces included, and fails
    when such a layer is called in a graph.
    """
    changed = []
    flatten = getattr(model, "_flatten_layers", lambda: ())
    for layer in flatten():
        name = layer.name
        legal = ir.free_name(name, ())
        if legal != name:
            attribute = "_name" if hasattr(layer, "_name") else "name"
            changed.append((layer, attribute, getattr(layer, attribute)))
            setattr(layer, attribute, legal)
    try:
        yield
    finally:
        for layer, attribute, name in changed:
            setattr(layer, attribute, name)


def _filled(
    names: Sequence[str],
    specs: Sequence[tf.TensorSpec],
    input_shapes: endpoint.Shapes | None,
) -> list[tf.TensorSpec]:
    """The specs with open dimensions as the user gives them.

    Some layers cannot be called on open ones. What contradicts the model stays
    as the model has it, and is refused later, when shapes are completed.
    """
    if input_shapes is None:
        return list(specs)
    if not isinstance(input_shapes, Mapping):
        input_shapes = dict.fromkeys(names[:1], input_shapes)
    found = []
    for name, spec in zip(names, specs, strict=True):
        given = input_shapes.get(name)
        if given is not None and spec.shape.rank is not None:
            shape = open_shapes.merged(spec.shape.as_list(), given)
            if shape is not None:
                spec = tf.TensorSpec(shape, spec.dtype, name=spec.name)
        found.append(spec)
    return found


def _open_remedy(names: Sequence[str], specs: Sequence[tf.TensorSpec]) -> str:
    """The flag that may help where dimensions are open; else nothing."""
    for name, spec in zip(names, specs, strict=True):
        shape = spec.shape.as_list() if spec.shape.rank else [None]
        if None in shape[1:]:
            example = open_shapes.example(shape)
            return f"give the open dimensions: --input_shape={name}={example}"
    return ""


def _has_input(model) -> bool:
    """Whether `model.input` is there: not of a Sequential never called."""
    try:
        return model.input is not None
    except AttributeError:
        return False


def _shape_of_subclassed(model, input_shapes) -> Sequence[int | None]:
    """The shape that a subclassed model was built for, batch first."""
    built = getattr(model, "_build_shapes_dict", None) or {}
    shapes = list(built.values())
    if not shapes and getattr(model, "_build_input_shape", None) is not None:
        shapes = [model._build_input_shape]
    if len(shapes) == 1 and _is_shape(shapes[0]):
        return (None, *tuple(shapes[0])[1:])
    if isinstance(input_shapes, Mapping) and len(input_shapes) == 1:
        input_shapes = next(iter(input_shapes.values()))
    if input_shapes is None or isinstance(input_shapes, Mapping):
        raise errors.UserError(
            f"model {model.name!r}",
            got="a subclassed model that does not know the shape of its input",
            expected="one shape",
            remedy="give it as input_shapes, or pass a tf.function of the"
            " model with an input_signature",
        )
    return (None, *input_shapes)


def _is_shape(value) -> bool:
    if isinstance(value, tf.TensorShape):
        return value.rank is not None
    return isinstance(value, list | tuple) and all(
        d is None or isinstance(d, int) for d in value
    )


def _spec(tensor, name: str) -> tf.TensorSpec:
    for kind in ("sparse", "ragged"):
        if getattr(tensor, kind, False):
            raise errors.UserError(
                f"input {name!r}",
                got=f"a {kind} tensor",
                expected="a dense one",
            )
    return tf.TensorSpec(tensor.shape, tensor.dtype, name=_legal(name))


def _output_names(model, function) -> tuple[str, ...]:
    """Keys of a dictionary, or the names of the layers behind the outputs."""
    count = len(function.outputs)
    if isinstance(function.structured_outputs, Mapping):
        return endpoint.output_names(function)
    names = list(getattr(model, "output_names", None) or ())
    if len(names) != count:
        return endpoint.output_names(function)
    return tuple(_unique(names))


def _unique(names: Sequence[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        free, number = name, 1
        while free in found:
            free, number = f"{name}_{number}", number + 1
        found.append(free)
    return found


def _legal(name: str) -> str:
    """A name that a TensorSpec may have; it becomes the placeholder's."""
    legal = "".join(c if c.isalnum() or c in "_.-" else "_" for c in name)
    return legal if legal[:1].isalnum() else f"x{legal}"


def _say(error: Exception) -> str:
    """The cause of a Keras error in one line; Keras puts it at the end."""
    cause = str(error).rpartition("Exception encountered:")[2].strip()
    lines = cause.splitlines() or [type(error).__name__]
    return lines[0] if len(lines[0]) <= 120 else lines[0][:117] + "..."
