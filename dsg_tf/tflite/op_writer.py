"""Writes the operations of a float .tflite again, with others among them."""

from __future__ import annotations

from collections.abc import Sequence

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


class OpWriter:
    """Writes the operations of a file in order, and new ones.

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

    def set_bias(self, op: flatbuffer.Op, values: np.ndarray) -> None:
        """Gives a layer a bias of its own, (O,)."""
        place = op_support.WEIGHTS[op.name].bias
        operator = self._old[op.index]
        operands = list(operator.inputs)
        operands += [-1] * (place + 1 - len(operands))
        operands[place] = self.constant(values)
        operator.inputs = operands

    def move_output(self, op: flatbuffer.Op) -> int:
        """Lets an operation compute a new tensor; returns its index."""
        even = self._like(op.outputs[0], self._name(op.name.lower()))
        self._old[op.index].outputs = [even]
        return even

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
