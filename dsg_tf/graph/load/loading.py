"""Any model to one frozen graph: a path of any format, or a live object.

Nothing after this module knows where a model came from.

  formats       what lies at a path
  saved_models  tags, signature, guarded tf.saved_model.load
  keras_models  .keras and .h5 files, live Keras models
  graph_defs    frozen GraphDefs of TensorFlow 1
  tflite_files  float .tflite files
  endpoint      the checks that all of them share
  open_shapes   dimensions that the model leaves open
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import logging as python_logging
import os
import pathlib
import warnings
from collections.abc import Iterator, Mapping, Sequence

import tensorflow as tf
from absl import logging

from dsg_tf.core import errors
from dsg_tf.graph import ir
from dsg_tf.graph.load import (
    endpoint,
    formats,
    graph_defs,
    keras_models,
    saved_models,
    tflite_files,
)

Shapes = endpoint.Shapes
# The format that alone has a choice.
_ONLY = {
    "input_names": "frozen GraphDef",
    "signature": "SavedModel",
    "tags": "SavedModel",
}


def load(
    model: object,
    *,
    signature: str | None = None,
    tags: Sequence[str] | None = None,
    input_shapes: Shapes | None = None,
    default_shape: Sequence[int] | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    allow_unsafe_ops: bool = False,
) -> ir.Graph:
    """Loads a model as a frozen inference graph.

    Args:
      model: a path (SavedModel folder, .keras, .h5, frozen GraphDef .pb, float
        .tflite, or a folder with one of them), or a live object: a Keras
        3 or tf_keras model, a tf.Module with `__call__`, what
        `tf.saved_model.load` returned, a tf.function or a concrete function.
      signature: the SavedModel's signature; by default serving_default, or
        the only one there is, or without any the object's `__call__` with
        training=False.
      tags: the SavedModel's tags; by default `serve`, or the only set.
      input_shapes: the shape of one sample, with or without the batch, for a
        model with one input; or shapes by input name. Fills dimensions that
        the model leaves open.
      default_shape: of one sample without the batch; for what is open then.
      input_names: of a frozen GraphDef, the nodes that are fed.
      output_names: the outputs to keep; by default all. Of a frozen GraphDef,
        the nodes that are fetched.
      allow_unsafe_ops: accept graphs that touch files or call Python. Of Keras
        files only built-in layers are loaded all the same.

    Returns:
      The graph. Its ports carry the names that the signature or the Keras
      model gives them. All dimensions of the inputs are known but the batch
      size, which is as the model has it; all weights are finite.

    Raises:
      errors.UserError: whatever of this does not hold, with the remedy.

    Examples:
      >>> double = tf.function(
      ...     lambda x: 2.0 * x,
      ...     input_signature=[tf.TensorSpec((None, 3), name="x")],
      ... )
      >>> [(port.name, port.shape) for port in load(double).inputs]
      [('x', (None, 3))]
    """
    choices = _Choices(
        signature,
        tags,
        input_shapes,
        input_names,
        output_names,
        allow_unsafe_ops,
    )
    with _quiet():
        found, owner, subject = _find(model, choices)
        graph = endpoint.to_graph(
            found,
            subject,
            input_shapes=input_shapes,
            default_shape=default_shape,
            output_names=output_names,
            allow_unsafe_ops=allow_unsafe_ops,
        )
    # The object owns the variables that the function reads.
    del owner
    return graph


@dataclasses.dataclass(frozen=True)
class _Choices:
    """What the user says about a model; see `load`."""

    signature: str | None
    tags: Sequence[str] | None
    input_shapes: Shapes | None
    input_names: Sequence[str] | None
    output_names: Sequence[str] | None
    allow_unsafe_ops: bool

    def refuse(self, subject: str, *names: str) -> None:
        """Refuses choices that only models of another format have."""
        for name in names:
            value = getattr(self, name)
            if value:
                raise errors.UserError(
                    f"--{name}",
                    got=value if isinstance(value, str) else ",".join(value),
                    expected=f"nothing: {subject} has no {name}, only a"
                    f" {_ONLY[name]} has",
                )


def _find(model, choices: _Choices):
    """The endpoint, the object that owns it, and what to call the model."""
    if isinstance(model, str | os.PathLike):
        return _find_file(pathlib.Path(model), choices)
    subject = f"model of type {type(model).__name__}"
    choices.refuse(subject, "tags", "input_names")
    if hasattr(model, "signatures") and not keras_models.is_model(model):
        found = saved_models.choose(model, subject, signature=choices.signature)
        return found, model, subject
    choices.refuse(subject, "signature")
    to_endpoint = (
        keras_models.to_endpoint
        if keras_models.is_model(model)
        else functools.partial(_from_callable, subject=subject)
    )
    return to_endpoint(model, input_shapes=choices.input_shapes), model, subject


def _find_file(given: pathlib.Path, choices: _Choices):
    path, kind = formats.find(given)
    subject = str(path)
    if path != given:
        logging.info("the model of %s is %s", given, path)
    if kind is not formats.Format.GRAPH_DEF:
        choices.refuse(subject, "input_names")
    if kind is formats.Format.SAVED_MODEL:
        found, owner = saved_models.load(
            path,
            signature=choices.signature,
            tags=choices.tags,
            allow_unsafe_ops=choices.allow_unsafe_ops,
        )
        return found, owner, subject
    choices.refuse(subject, "signature", "tags")
    if kind is formats.Format.GRAPH_DEF:
        found = graph_defs.load(
            path,
            input_names=choices.input_names,
            output_names=choices.output_names,
            allow_unsafe_ops=choices.allow_unsafe_ops,
        )
        return found, None, subject
    if kind is formats.Format.TFLITE:
        return tflite_files.load(path), None, subject
    model = keras_models.load_file(path, kind)
    found = keras_models.to_endpoint(model, choices.input_shapes)
    return found, model, subject


def _from_callable(
    model, subject: str, input_shapes: Shapes | None
) -> endpoint.Endpoint:
    """The endpoint of a concrete function, tf.function or tf.Module."""
    if isinstance(model, tf.types.experimental.ConcreteFunction):
        return endpoint.Endpoint.of(model)
    call = model
    if not isinstance(model, tf.types.experimental.PolymorphicFunction):
        if not callable(model) or isinstance(model, type):
            raise errors.UserError(
                "model",
                got=f"an object of type {type(model).__name__}",
                expected=f"{formats.EXPECTED}, a Keras model, a tf.Module or a"
                " tf.function",
            )
        call = model.__call__
    if isinstance(call, tf.types.experimental.PolymorphicFunction):
        traced = _traces(call)
        if traced:
            return endpoint.Endpoint.of(
                saved_models.inference_function(traced, subject)
            )
    specs = _specs(subject, input_shapes)
    flags = {"training": False} if _takes_training(call) else {}
    function = tf.function(lambda *tensors: call(*tensors, **flags))
    return endpoint.Endpoint.of(function.get_concrete_function(*specs))


def _traces(call) -> Sequence[tf.types.experimental.ConcreteFunction]:
    """The traces that a tf.function has, or can make without being told."""
    if getattr(call, "input_signature", None) is not None:
        return [call.get_concrete_function()]
    if hasattr(call, "concrete_functions"):  # Restored from a SavedModel.
        return call.concrete_functions
    return call._list_all_concrete_functions_for_serialization()


def _specs(subject: str, input_shapes: Shapes | None) -> list[tf.TensorSpec]:
    """Float inputs of the shapes that the user gave, without the batch."""
    if input_shapes is None:
        raise errors.UserError(
            subject,
            got="a function that does not know the shapes of its inputs",
            expected="an input_signature, or input_shapes",
            remedy="for instance --input_shape=224,224,3 for one image",
        )
    if not isinstance(input_shapes, Mapping):
        input_shapes = {"input": input_shapes}
    return [
        tf.TensorSpec((None, *shape), tf.float32, name=name)
        for name, shape in input_shapes.items()
    ]


def _takes_training(call) -> bool:
    try:
        return "training" in inspect.signature(call).parameters
    except (TypeError, ValueError):
        return False


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences what loaders say about optimizers, metrics and gradients.

    Nothing of it concerns inference. What dsg_tf itself logs through absl
    at warning level or above passes: its records come from this package.
    """
    loggers = [
        python_logging.getLogger("tensorflow"),
        logging.get_absl_logger(),
    ]

    def ours(record: python_logging.LogRecord) -> bool:
        return f"{os.sep}dsg_tf{os.sep}" in record.pathname

    for logger in loggers:
        logger.addFilter(ours)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger in loggers:
            logger.removeFilter(ours)
