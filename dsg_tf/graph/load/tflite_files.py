"""Float .tflite files, read back as TensorFlow functions.

BatchNormalization is folded in them, so that no samples can be drawn: they are
quantized with the user's own. What is read is compared with the interpreter
before it is believed.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf
from absl import logging

from dsg_tf.core import errors
from dsg_tf.graph import ir
from dsg_tf.graph.load import endpoint, model_files, tflite_ops
from dsg_tf.quant import uniform
from dsg_tf.tflite import flatbuffer, interpreter, op_support, rehearsal

# Largest difference from the interpreter, of the output's largest value. Where
# weights are integers, the kernels round activations as they run.
_TOLERANCE, _TOLERANCE_ROUNDED = 1e-3, 0.1
# What reading a file may raise that is not what it seems to be.
_DAMAGE = (
    *(ArithmeticError, AttributeError, LookupError, TypeError, ValueError),
    tf.errors.OpError,
)
_ORIGINAL = "quantize the SavedModel or Keras model that it was made from"


def load(path: pathlib.Path) -> endpoint.Endpoint:
    """Reads a float .tflite.

    Args:
      path: the file.

    Returns:
      A function of its inputs, which go by the names of the signature, or of
      the tensors where there is none.

    Raises:
      errors.UserError: the file is damaged, quantized, or has operations that
        cannot be read.
    """
    subject = str(path)
    with model_files.unchanged(path):
        rehearsal.require_runs(path)
        content = path.read_bytes()
    try:
        view = flatbuffer.read(content)
        _refuse_quantized(view, subject)
        _refuse_short_biases(view, subject)
        found = _function(view, subject)
    except errors.UserError:
        raise
    except _DAMAGE as error:
        raise errors.UserError(
            subject,
            got=f"a damaged .tflite ({errors.first_line(error)})",
            expected="a float .tflite",
            remedy="convert or download it again",
        ) from error
    rounded = [t.dtype for t in view.tensors if t.params is not None]
    if rounded:
        logging.warning(
            "%s: weights of %s are taken as they are", subject, rounded[0]
        )
    _compare(
        found,
        interpreter.Interpreter(content),
        subject,
        tolerance=_TOLERANCE_ROUNDED if rounded else _TOLERANCE,
    )
    return found


def _refuse_quantized(view: flatbuffer.Model, subject: str) -> None:
    for tensor in view.tensors:
        if tensor.params is not None and not tensor.constant:
            raise errors.UserError(
                subject,
                got=f"a .tflite that is quantized already ({tensor.name} is"
                f" {tensor.dtype})",
                expected="a float .tflite",
                remedy=_ORIGINAL,
            )


def _refuse_short_biases(view: flatbuffer.Model, subject: str) -> None:
    """Refuses what TFLiteConverter makes of some transposed convolutions."""
    for op, bias, channels in op_support.short_biases(view):
        raise errors.UserError(
            subject,
            got=f"{op.name} ({view.tensors[op.outputs[0]].name}) with a bias of"
            f" shape {bias.shape}, beyond which the interpreter reads",
            expected=f"{channels} numbers, one a channel",
            remedy=_ORIGINAL,
        )


def _function(view: flatbuffer.Model, subject: str) -> endpoint.Endpoint:
    inputs, outputs = view.input_names(), view.output_names()

    def call(*tensors):
        values = dict(
            zip((t.index for t in inputs.values()), tensors, strict=True)
        )
        _run(view, values, subject)
        return [
            tf.convert_to_tensor(_operand(view, values, t.index))
            for t in outputs.values()
        ]

    def traced_with(shape_of: Callable[[flatbuffer.Tensor], Sequence]):
        # Public names may be no names of arguments.
        specs = [
            tf.TensorSpec(shape_of(t), t.dtype, f"input_{i}")
            for i, t in enumerate(inputs.values())
        ]
        # A new one each time: it would give a trace of wider shapes again.
        function = tf.function(call, autograph=False)
        return function.get_concrete_function(*specs)

    traced = traced_with(lambda tensor: _open_shape(view, tensor))
    if any(t.shape.rank and t.shape[0] == 1 for t in traced.outputs):
        # Operations in between know one sample only, whatever the inputs say.
        traced = traced_with(lambda tensor: tensor.shape)
    return endpoint.Endpoint(traced, tuple(inputs), tuple(outputs))


def _open_shape(
    view: flatbuffer.Model, tensor: flatbuffer.Tensor
) -> tuple[int | None, ...]:
    signature = view.raw.subgraphs[0].tensors[tensor.index].shapeSignature
    if signature is None or not len(signature):
        return tensor.shape
    return tuple(None if d < 0 else int(d) for d in signature)


def _run(
    view: flatbuffer.Model, values: dict[int, object], subject: str
) -> None:
    """Builds all operations; values: tensor or array by index, added to."""
    operators = view.raw.subgraphs[0].operators
    taken: set[str] = set()
    for op in view.ops:
        call = tflite_ops.Call(
            [_operand(view, values, index) for index in op.inputs],
            operators[op.index].builtinOptions,
            [view.tensors[i] for i in op.outputs],
        )
        if op.name == "DEQUANTIZE" and isinstance(call.inputs[0], np.ndarray):
            values[op.outputs[0]] = call.inputs[0].astype(np.float32)
            continue
        name = _scope(view, op, taken)
        try:
            with tf.name_scope(f"{name}/"):
                made = tflite_ops.build(op.name, call)
        except tflite_ops.UnreadableError as error:
            raise _unreadable(subject, op, name, str(error)) from error
        except _DAMAGE as error:
            got = f"which TensorFlow refuses ({errors.first_line(error)})"
            raise _unreadable(subject, op, name, got) from error
        values.update(zip(op.outputs, made, strict=True))


def _operand(view: flatbuffer.Model, values: Mapping[int, object], index: int):
    """A tensor that was computed, an array that the file holds, or None."""
    if index < 0:
        return None
    if index in values:
        return values[index]
    tensor = view.tensors[index]
    held = view.constant(tensor)
    if tensor.params is None:
        return held
    return uniform.dequantize(held, tensor.params).astype(np.float32)


def _scope(view: flatbuffer.Model, op: flatbuffer.Op, taken: set[str]) -> str:
    """The name of the layer that an operation was: that of its result."""
    name = view.tensors[op.outputs[0]].name if op.outputs else ""
    # What the converter fused has all names of it: `x/Relu;x/BiasAdd`.
    scope = ir.free_name(name.split(";")[0] or op.name.lower(), taken)
    taken.add(scope)
    return scope


def _unreadable(
    subject: str, op: flatbuffer.Op, name: str, why: str
) -> errors.UserError:
    return errors.UserError(
        subject,
        got=f"{op.name} ({name}), {why}",
        expected="operations that TensorFlow has too",
        remedy=_ORIGINAL,
    )


def _compare(
    found: endpoint.Endpoint,
    original: interpreter.Interpreter,
    subject: str,
    *,
    tolerance: float,
) -> None:
    """Compares what was read with the interpreter, on noise."""
    generator = np.random.default_rng(0)
    sample = {}
    for name, tensor in original.view.input_names().items():
        if tensor.dtype.startswith("float"):
            sample[name] = generator.random(tensor.shape[1:], np.float32)
        else:  # Whole numbers may index a table: 0 is in each.
            sample[name] = np.zeros(tensor.shape[1:], tensor.dtype)
        sample[name] = sample[name].astype(tensor.dtype)
    original.invoke(sample)
    made = found.function(
        *(tf.constant(sample[name][np.newaxis]) for name in found.inputs)
    )
    outputs = original.view.output_names()
    for (name, tensor), value in zip(outputs.items(), made, strict=True):
        expected = original.tensor(tensor)
        if not _equal(np.asarray(value), expected, tolerance):
            raise errors.UserError(
                subject,
                got=f"a .tflite whose output {name!r} differs when its"
                " operations run in TensorFlow",
                expected="equal results",
                remedy=_ORIGINAL,
            )


def _equal(made: np.ndarray, expected: np.ndarray, tolerance: float) -> bool:
    if made.shape != expected.shape:
        return False
    if made.dtype.kind != "f":
        return bool(np.array_equal(made, expected))
    largest = max(float(np.max(np.abs(expected), initial=0.0)), 1e-6)
    return bool(np.allclose(made, expected, rtol=0, atol=tolerance * largest))
