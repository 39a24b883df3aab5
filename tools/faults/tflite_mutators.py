"""Damage to .tflite files: files that parse, and whose numbers are wrong."""

from __future__ import annotations

import contextlib
import struct

import numpy as np

_INDICES = (-1, -2, 0, 1, 127, 10_000, 2**31 - 1)
_SIZES = (0, -1, 1, 65_536, 2**31 - 1)
_TENSOR_FIELDS = ("type", "buffer", "shape", "name", "quantization", "scale")


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """The file with one to three of its fields changed.

    Args:
      content: a .tflite of one subgraph.
      rng: decides what changes.
    """
    from ai_edge_litert.tools import flatbuffer_utils

    while True:
        model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
        # One change may take what the next would change, and not everything
        # that an object says has a place in a file.
        with contextlib.suppress(
            AttributeError, IndexError, struct.error, TypeError, ValueError
        ):
            for _ in range(int(rng.integers(1, 4))):
                _change(model, rng)
            made = flatbuffer_utils.convert_object_to_bytearray(model)
            if bytes(made) != content:
                return bytes(made)


def _change(model, rng: np.random.Generator) -> None:
    graph = model.subgraphs[0]
    how = int(rng.integers(8))
    if how == 0:
        operator = _pick(graph.operators, rng)
        operator.opcodeIndex = abs(_pick(_INDICES, rng))
    elif how == 1:
        operator = _pick(graph.operators, rng)
        operator.inputs = [_pick(_INDICES, rng) for _ in operator.inputs]
    elif how == 2:
        operator = _pick(graph.operators, rng)
        operator.outputs = [_pick(_INDICES, rng)]
    elif how == 3:
        ports = _pick(("inputs", "outputs"), rng)
        setattr(graph, ports, _pick(([], [-1], [10_000], [0, 0]), rng))
    elif how == 4:
        code = _pick(model.operatorCodes, rng)
        code.builtinCode = int(rng.integers(0, 200))
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
    elif how == 5:
        _pick(model.buffers, rng).data = list(rng.bytes(5))
    elif how == 6:
        _change_model(model, rng)
    else:
        _change_tensor(_pick(graph.tensors, rng), rng)


def _change_tensor(tensor, rng: np.random.Generator) -> None:
    field = _pick(_TENSOR_FIELDS, rng)
    if field == "type":
        tensor.type = int(rng.integers(0, 20))
    elif field == "buffer":
        tensor.buffer = abs(_pick(_INDICES, rng))
    elif field == "shape":
        rank = int(rng.integers(0, 6))
        tensor.shape = [_pick(_SIZES, rng) for _ in range(rank)]
    elif field == "name":
        tensor.name = _pick((None, b"", b"\xff\xfe", b"x" * 5000), rng)
    elif field == "quantization":
        tensor.quantization = None
    elif tensor.quantization is not None:
        tensor.quantization.scale = [
            _pick((0.0, -1.0, float("nan"), float("inf"), 1e-45), rng)
        ]


def _change_model(model, rng: np.random.Generator) -> None:
    how = int(rng.integers(4))
    if how == 0:
        model.subgraphs = []
    elif how == 1:
        model.buffers = []
    elif how == 2:
        model.operatorCodes = []
    elif model.signatureDefs:
        entry = _pick(model.signatureDefs, rng)
        _pick(entry.inputs, rng).tensorIndex = 10_000


def _pick(values, rng: np.random.Generator):
    return values[int(rng.integers(len(values)))]
