"""Handles model outputs that other operations of the model read.

LiteRT Quantizer converts an output to the I/O type (float32 or uint8), and then
wrongly connects the operations that read the output to the converted tensor; or
it returns a tensor that was converted for one of these operations. Therefore
such tensors are removed from the model's outputs before it runs, and the
conversion is added afterwards.
"""

from __future__ import annotations

import copy

from ai_edge_litert import schema_py_generated as schema

from dsg_tf.quant import qtypes
from dsg_tf.tflite import flatbuffer


def find(view: flatbuffer.Model) -> frozenset[int]:
    """Indices of computed model outputs that operations also read."""
    return frozenset(
        index
        for index in view.outputs
        if view.consumers[index] and index not in view.inputs
    )


def without(view: flatbuffer.Model) -> bytes:
    """The model's bytes with shared outputs removed from its outputs."""
    raw = copy.copy(view.raw)
    raw.subgraphs = [copy.copy(view.raw.subgraphs[0])]
    shared = find(view)
    flatbuffer.set_interface(
        raw,
        [(name, t.index) for name, t in view.input_names().items()],
        [
            (name, index)
            for name, index in zip(
                view.output_names(), view.outputs, strict=True
            )
            if index not in shared
        ],
    )
    return flatbuffer.write(raw)


def converted(
    raw: schema.ModelT,
    index: int,
    *,
    io_type: str,
    params: qtypes.QuantParams | None,
) -> int:
    """Adds the conversion of a shared output.

    Args:
      raw: the quantized model, changed in place.
      index: the tensor.
      io_type: the requested type of inputs and outputs.
      params: the tensor's grid; None for an integer tensor that is not
        quantized, which keeps its type.

    Returns:
      Index of the model's new output tensor.
    """
    graph = raw.subgraphs[0]
    tensor = graph.tensors[index]
    dtype = getattr(schema.TensorType, io_type.upper())
    if params is None or tensor.type == dtype:
        return index
    result = copy.copy(tensor)
    result.type = dtype
    result.buffer = 0
    result.quantization = None
    if io_type != "float32":
        shift = 128 if io_type == "uint8" else 0
        result.quantization = schema.QuantizationParametersT()
        result.quantization.scale = [float(params.scale[0])]
        result.quantization.zeroPoint = [int(params.zero_point[0]) + shift]
    kind = "dequant" if io_type == "float32" else "quantized"
    result.name = _free_name(graph.tensors, tensor.name + f"_{kind}".encode())
    graph.tensors.append(result)
    operator = schema.OperatorT()
    operator.inputs, operator.outputs = [index], [len(graph.tensors) - 1]
    operator.opcodeIndex = flatbuffer.code_index(
        raw, "DEQUANTIZE" if io_type == "float32" else "QUANTIZE"
    )
    graph.operators.append(operator)
    return len(graph.tensors) - 1


def _free_name(tensors: list[schema.TensorT], name: bytes) -> bytes:
    taken = {tensor.name for tensor in tensors}
    while name in taken:
        name += b"_output"
    return name
