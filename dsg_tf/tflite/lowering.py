"""Replaces operations without an integer form by operations that have one.

It works on the float file, after the converter's own fusions: a Neg that is
part of a PRELU, or a Square that is part of an L2_NORMALIZATION, has been fused
by then. Each rule is exact in float arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dsg_tf.tflite import flatbuffer, op_support, op_writer

# With more multiplications than this, rounding errors add up too much.
_GREATEST_POWER = 4


def lowered(float_tflite: bytes, activation_bits: int) -> bytes:
    """Replaces the operations of a file that have no integer form.

    Args:
      float_tflite: by `convert.to_float`.
      activation_bits: of the quantized file; with 32 (float activations)
        nothing changes.

    Returns:
      The file's bytes; `float_tflite` itself if nothing changes.
    """
    if activation_bits == op_support.FLOAT_BITS:
        return float_tflite
    view = flatbuffer.read(float_tflite)
    writer = op_writer.OpWriter(view)
    changed = False
    for op in view.ops:
        rule = _RULES.get(op.name)
        if (
            rule is not None
            and op_support.touches_float(view, op)
            and op_support.reason_for_float(op, activation_bits)
            and rule(writer, op)
        ):
            changed = True
        else:
            writer.keep(op)
    return writer.finish() if changed else float_tflite


def _negation(writer: op_writer.OpWriter, op: flatbuffer.Op) -> bool:
    """-x = x * -1."""
    (x,), (y,) = op.inputs, op.outputs
    writer.add("MUL", [x, writer.constant(-1.0)], y)
    return True


def _square(writer: op_writer.OpWriter, op: flatbuffer.Op) -> bool:
    """x^2 = x * x."""
    (x,), (y,) = op.inputs, op.outputs
    writer.add("MUL", [x, x], y)
    return True


def _squared_difference(writer: op_writer.OpWriter, op: flatbuffer.Op) -> bool:
    """(a - b)^2 = (a - b) * (a - b), of the output's shape."""
    view = writer.view
    if view.tensors[op.inputs[0]].shape != view.tensors[op.outputs[0]].shape:
        return False
    difference = writer.add("SUB", op.inputs)
    writer.add("MUL", [difference, difference], op.outputs[0])
    return True


def _power(writer: op_writer.OpWriter, op: flatbuffer.Op) -> bool:
    """x^n for small whole n, and 1 / x; the converter knows roots."""
    view = writer.view
    x, exponent = op.inputs
    (y,) = op.outputs
    if not view.tensors[exponent].constant:
        return False
    values = np.unique(view.constant(view.tensors[exponent]))
    if values.size != 1 or view.tensors[x].shape != view.tensors[y].shape:
        return False
    power = float(values[0])
    if power == -1.0:
        writer.add("DIV", [writer.constant(1.0), x], y)
    elif power in range(2, _GREATEST_POWER + 1):
        product = x
        for _ in range(int(power) - 2):
            product = writer.add("MUL", [product, x])
        writer.add("MUL", [product, x], y)
    else:
        return False
    return True


def _sum(writer: op_writer.OpWriter, op: flatbuffer.Op) -> bool:
    """A sum of several tensors as sums of two."""
    first, *rest, last = op.inputs
    for index in rest:
        first = writer.add("ADD", [first, index])
    writer.add("ADD", [first, last], op.outputs[0])
    return True


def _hard_swish(writer: op_writer.OpWriter, op: flatbuffer.Op) -> bool:
    """x * relu6(x + 3) / 6."""
    (x,), (y,) = op.inputs, op.outputs
    shifted = writer.add("ADD", [x, writer.constant(3.0)])
    gate = writer.add("RELU6", [shifted])
    gate = writer.add("MUL", [gate, writer.constant(1.0 / 6.0)])
    writer.add("MUL", [x, gate], y)
    return True


def _zeros_like(writer: op_writer.OpWriter, op: flatbuffer.Op) -> bool:
    """A constant: the shape of what is read does not change."""
    tensor = writer.view.tensors[op.outputs[0]]
    if (
        tensor.dynamic
        or tensor.dtype != "float32"
        or tensor.index in writer.view.outputs
    ):
        return False
    writer.fix(tensor.index, np.zeros(tensor.shape, np.float32))
    return True


_RULES: dict[str, Callable[[op_writer.OpWriter, flatbuffer.Op], bool]] = {
    "ADD_N": _sum,
    "HARD_SWISH": _hard_swish,
    "NEG": _negation,
    "POW": _power,
    "SQUARE": _square,
    "SQUARED_DIFFERENCE": _squared_difference,
    "ZEROS_LIKE": _zeros_like,
}
