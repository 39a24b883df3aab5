"""Replaces operations without an integer form by operations that have one.

It works on the float file, after the converter's own fusions: a Neg that is
part of a PRELU, or a Square that is part of an L2_NORMALIZATION, has been fused
by then. Each rule is exact in float arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from dsg_tf.tflite import flatbuffer, op_support

_OPTIONS = {
    "ADD": (schema.BuiltinOptions.AddOptions, schema.AddOptionsT),
    "DIV": (schema.BuiltinOptions.DivOptions, schema.DivOptionsT),
    "MUL": (schema.BuiltinOptions.MulOptions, schema.MulOptionsT),
    "SUB": (schema.BuiltinOptions.SubOptions, schema.SubOptionsT),
    "RELU6": (schema.BuiltinOptions.NONE, None),
}
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
    writer = Writer(view)
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


class Writer:
    """Writes the operations of a file anew, in order.

    Args:
      view: the file; its `raw` object is changed in place.
    """

    def __init__(self, view: flatbuffer.Model):
        self.view = view
        self._graph = view.raw.subgraphs[0]
        self._old = self._graph.operators
        self._new: list[schema.OperatorT] = []

    def keep(self, op: flatbuffer.Op) -> None:
        """Writes an operation unchanged."""
        self._new.append(self._old[op.index])

    def add(
        self, name: str, inputs: Sequence[int], output: int | None = None
    ) -> int:
        """Writes an operation.

        Args:
          name: a key of `_OPTIONS`.
          inputs: tensor indices.
          output: the tensor that it computes; by default a new one, of the
            shape of the first input.

        Returns:
          Index of the output.
        """
        if output is None:
            output = self._like(inputs[0], self._name(name.lower()))
        operator = schema.OperatorT()
        operator.opcodeIndex = flatbuffer.code_index(self.view.raw, name)
        operator.inputs, operator.outputs = list(inputs), [output]
        kind, options = _OPTIONS[name]
        operator.builtinOptionsType = kind
        operator.builtinOptions = options() if options else None
        self._new.append(operator)
        return output

    def constant(self, value: float | np.ndarray) -> int:
        """A float32 constant of any shape; returns its index."""
        tensor = schema.TensorT()
        tensor.type = schema.TensorType.FLOAT32
        tensor.shape = list(np.shape(value))
        tensor.buffer = self._buffer(value)
        tensor.name = self._name("constant")
        return self._append(tensor)

    def fix(self, index: int, values: np.ndarray) -> None:
        """Gives a float32 tensor, computed or constant, these values."""
        self._graph.tensors[index].buffer = self._buffer(values)

    def _buffer(self, values: float | np.ndarray) -> int:
        buffer = schema.BufferT()
        content = np.asarray(values, np.float32).tobytes()
        buffer.data = np.frombuffer(content, np.uint8)
        self.view.raw.buffers.append(buffer)
        return len(self.view.raw.buffers) - 1

    def finish(self) -> bytes:
        """The bytes of the file."""
        self._graph.operators = self._new
        return flatbuffer.write(self.view.raw)

    def _like(self, index: int, name: bytes) -> int:
        model = self._graph.tensors[index]
        tensor = schema.TensorT()
        tensor.type, tensor.shape = model.type, model.shape
        tensor.shapeSignature = model.shapeSignature
        tensor.buffer, tensor.name = 0, name
        return self._append(tensor)

    def _append(self, tensor: schema.TensorT) -> int:
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def _name(self, what: str) -> bytes:
        return f"lowered/{what}_{len(self._graph.tensors)}".encode()


def _negation(writer: Writer, op: flatbuffer.Op) -> bool:
    """-x = x * -1."""
    (x,), (y,) = op.inputs, op.outputs
    writer.add("MUL", [x, writer.constant(-1.0)], y)
    return True


def _square(writer: Writer, op: flatbuffer.Op) -> bool:
    """x^2 = x * x."""
    (x,), (y,) = op.inputs, op.outputs
    writer.add("MUL", [x, x], y)
    return True


def _squared_difference(writer: Writer, op: flatbuffer.Op) -> bool:
    """(a - b)^2 = (a - b) * (a - b), of the output's shape."""
    view = writer.view
    if view.tensors[op.inputs[0]].shape != view.tensors[op.outputs[0]].shape:
        return False
    difference = writer.add("SUB", op.inputs)
    writer.add("MUL", [difference, difference], op.outputs[0])
    return True


def _power(writer: Writer, op: flatbuffer.Op) -> bool:
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


def _sum(writer: Writer, op: flatbuffer.Op) -> bool:
    """A sum of several tensors as sums of two."""
    first, *rest, last = op.inputs
    for index in rest:
        first = writer.add("ADD", [first, index])
    writer.add("ADD", [first, last], op.outputs[0])
    return True


def _hard_swish(writer: Writer, op: flatbuffer.Op) -> bool:
    """x * relu6(x + 3) / 6."""
    (x,), (y,) = op.inputs, op.outputs
    shifted = writer.add("ADD", [x, writer.constant(3.0)])
    gate = writer.add("RELU6", [shifted])
    gate = writer.add("MUL", [gate, writer.constant(1.0 / 6.0)])
    writer.add("MUL", [x, gate], y)
    return True


def _zeros_like(writer: Writer, op: flatbuffer.Op) -> bool:
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


_RULES: dict[str, Callable[[Writer, flatbuffer.Op], bool]] = {
    "ADD_N": _sum,
    "HARD_SWISH": _hard_swish,
    "NEG": _negation,
    "POW": _power,
    "SQUARE": _square,
    "SQUARED_DIFFERENCE": _squared_difference,
    "ZEROS_LIKE": _zeros_like,
}
