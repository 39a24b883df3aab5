"""Tells which operations LiteRT Quantizer supports.

Which operations it quantizes, and which of them need the same scale for inputs
and outputs, is read from the library and not copied, so that it stays right
after an upgrade.
"""

from __future__ import annotations

import dataclasses
import enum
import functools

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from litert_quantizer import algorithm_manager, qtyping
from litert_quantizer.algorithms.utils import common_utils
from litert_quantizer.utils import constrained_ops_utils, tfl_flatbuffer_utils

from dsg_tf.quant import qtypes
from dsg_tf.tflite import flatbuffer, op_aliases

# "Width" of activations that stay float while weights become integers.
FLOAT_BITS = 32

ALGORITHM = algorithm_manager.AlgorithmName.MIN_MAX_UNIFORM_QUANT


class Scales(enum.Enum):
    """Constraints of an operation's kernels on scales."""

    FREE = "each tensor has its own"
    AS_INPUT = "outputs have the input's"
    AS_OUTPUT = "inputs have the output's"
    FIXED = "the output has one that the kernel prescribes"


@dataclasses.dataclass(frozen=True)
class Weights:
    """Where an operation keeps its weights.

    Attributes:
      weight: operand of the weights.
      data: operand of the activations.
      bias: operand of the bias.
      axis: the weights' output-channel axis.
    """

    weight: int
    data: int
    bias: int
    axis: int


# The TFLite quantization specification.
WEIGHTS = {
    "CONV_2D": Weights(weight=1, data=0, bias=2, axis=0),
    "DEPTHWISE_CONV_2D": Weights(weight=1, data=0, bias=2, axis=3),
    "FULLY_CONNECTED": Weights(weight=1, data=0, bias=2, axis=0),
    "TRANSPOSE_CONV": Weights(weight=1, data=2, bias=3, axis=0),
}

# Output (scale, zero point) by operation, then by activation bits; likewise.
FIXED_OUTPUTS = {
    "L2_NORMALIZATION": {8: (1 / 128, 0)},
    "LOG_SOFTMAX": {8: (16 / 256, 127)},
    "LOGISTIC": {8: (1 / 256, -128), 16: (1 / 32768, 0)},
    "SOFTMAX": {8: (1 / 256, -128), 16: (1 / 32768, 0)},
    "TANH": {8: (1 / 128, 0), 16: (1 / 32768, 0)},
}


# Conversions between float and integers, or between two integer grids.
CONVERSIONS = frozenset({"DEQUANTIZE", "QUANTIZE"})


@dataclasses.dataclass(frozen=True)
class UnsupportedOp:
    """An operation that would stay float.

    Attributes:
      op: builtin or custom name.
      tensor: name of its first output.
      reason: why.
    """

    op: str
    tensor: str
    reason: str


def activation_spec(activation_bits: int) -> qtypes.QuantSpec:
    """The grid of activations: 8 bits asymmetric, 16 bits symmetric."""
    return qtypes.QuantSpec(activation_bits, symmetric=activation_bits == 16)


def op_config(
    activation_bits: int,
    granularity: qtypes.Granularity,
    *,
    unsigned: bool = False,
    packed: bool = False,
) -> qtyping.OpQuantizationConfig:
    """The quantizer's config of an operation.

    Args:
      activation_bits: 8, 16, or 32: float, with weights that a DEQUANTIZE
        makes float.
      granularity: of weight scales.
      unsigned: uint8 activations; only for the model's inputs and outputs.
      packed: int4 weights instead of int8 ones.
    """
    weight_config = qtyping.TensorQuantizationConfig(
        num_bits=4 if packed else 8,
        symmetric=True,
        granularity=(
            qtyping.QuantGranularity.CHANNELWISE
            if granularity is qtypes.Granularity.CHANNEL
            else qtyping.QuantGranularity.TENSORWISE
        ),
    )
    if activation_bits == FLOAT_BITS:
        return qtyping.OpQuantizationConfig(
            weight_tensor_config=weight_config,
            compute_precision=qtyping.ComputePrecision.FLOAT,
            explicit_dequantize=True,
        )
    spec = activation_spec(activation_bits)
    dtype = qtyping.TensorDataType.UINT if unsigned else None
    return qtyping.OpQuantizationConfig(
        activation_tensor_config=qtyping.TensorQuantizationConfig(
            num_bits=spec.bits,
            symmetric=spec.symmetric,
            **({"dtype": dtype} if dtype else {}),
        ),
        weight_tensor_config=weight_config,
        compute_precision=qtyping.ComputePrecision.INTEGER,
    )


def quantizer_name(op_name: str) -> qtyping.TFLOperationName | None:
    """The quantizer's name of a builtin operation, None where it has none."""
    code = getattr(schema.BuiltinOperator, op_name, None) if op_name else None
    return tfl_flatbuffer_utils.TFL_OP_CODE_TO_NAME.get(code)


def scales(op: flatbuffer.Op) -> Scales:
    """The constraint of an operation on the scales of its tensors."""
    if op.name in FIXED_OUTPUTS:
        return Scales.FIXED
    name = (
        op_aliases.STAND_INS[op.name].op
        if op.name in op_aliases.STAND_INS
        else op.name
    )
    return _scales_by_name().get(quantizer_name(name), Scales.FREE)


def reason_for_float(op: flatbuffer.Op, activation_bits: int) -> str:
    """Why an operation would stay float; empty where it becomes integer."""
    if op.custom:
        return "a custom operation"
    name = quantizer_name(op_aliases.of(op, activation_bits))
    if name is None:
        return f"no integer form with {activation_bits}-bit activations"
    try:
        algorithm_manager.check_op_quantization_config(
            ALGORITHM,
            name,
            op_config(activation_bits, qtypes.Granularity.CHANNEL),
        )
    except ValueError:
        return f"no integer form with {activation_bits}-bit activations"
    return ""


def unsupported_ops(
    float_tflite: bytes, *, activation_bits: int = 8
) -> list[UnsupportedOp]:
    """Operations that the export cannot quantize.

    A cast of integer inputs to float is not listed: it is the model's own
    input conversion.

    Args:
      float_tflite: a float .tflite.
      activation_bits: 8, 16 or 32; with 32 (float activations) the list is
        empty.

    Returns:
      The operations, in execution order.
    """
    if activation_bits == FLOAT_BITS:
        return []
    view = flatbuffer.read(float_tflite)
    found = []
    for op in view.ops:
        reason = reason_for_float(op, activation_bits)
        if reason and touches_float(view, op) and not is_input_cast(view, op):
            tensor = view.tensors[op.outputs[0]].name if op.outputs else ""
            found.append(UnsupportedOp(op.name, tensor, reason))
    return found


def float_ops(quantized_tflite: bytes) -> list[UnsupportedOp]:
    """Operations of a quantized file that compute in float.

    QUANTIZE, DEQUANTIZE and the cast of an integer input are not listed.

    Args:
      quantized_tflite: by any exporter.

    Returns:
      The operations, in execution order.
    """
    view = flatbuffer.read(quantized_tflite)
    return [
        UnsupportedOp(op.name, view.tensors[op.outputs[0]].name, "float")
        for op in view.ops
        if op.name not in CONVERSIONS
        and touches_float(view, op)
        and not is_input_cast(view, op)
    ]


def short_biases(
    view: flatbuffer.Model,
) -> list[tuple[flatbuffer.Op, flatbuffer.Tensor, int]]:
    """Layers whose bias has fewer numbers than the layer has channels.

    Kernels do not check it, and read beyond the bias.

    Returns:
      The operation, its bias, and its number of output channels.
    """
    found = []
    for op in view.ops:
        place = WEIGHTS.get(op.name)
        if place is None or len(op.inputs) <= place.bias:
            continue
        if op.inputs[place.bias] < 0:
            continue
        bias = view.tensors[op.inputs[place.bias]]
        shape = view.tensors[op.inputs[place.weight]].shape
        channels = shape[place.axis] if place.axis < len(shape) else 0
        if bias.constant and int(np.prod(bias.shape)) < channels:
            found.append((op, bias, channels))
    return found


def touches_float(view: flatbuffer.Model, op: flatbuffer.Op) -> bool:
    """Whether an operation reads or computes a float32 activation."""
    return any(
        index >= 0
        and view.tensors[index].dtype == "float32"
        and not view.tensors[index].constant
        for index in (*op.inputs, *op.outputs)
    )


def is_input_cast(view: flatbuffer.Model, op: flatbuffer.Op) -> bool:
    """Whether an operation casts integers to float."""
    return op.name == "CAST" and view.tensors[op.inputs[0]].dtype != "float32"


@functools.cache
def _scales_by_name() -> dict[qtyping.TFLOperationName, Scales]:
    constraints = common_utils.OpQuantConstraint
    kinds = {
        constraints.SAME_AS_INPUT_SCALE: Scales.AS_INPUT,
        constraints.SAME_AS_OUTPUT_SCALE: Scales.AS_OUTPUT,
        constraints.FIXED_OUTPUT_SCALE: Scales.FIXED,
    }
    return {
        name: kind
        for constraint, kind in kinds.items()
        for name in constrained_ops_utils.get_constrained_op_list(constraint)
    }
