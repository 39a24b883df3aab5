"""Grids and integers of the constants in a .tflite: weights, biases, operands.

Weight scales are computed here, per channel or per tensor, by the largest value
or by least squared error. They are raised where a smaller scale would overflow
the bias or the kernels' fixed-point multipliers (see `_scale_floor`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from dsg_tf.core import errors
from dsg_tf.quant import qtypes, uniform, weight_scales
from dsg_tf.tflite import flatbuffer, op_support, weight_grids

# A bias above 2^30 steps is too near to the end of int32, where LiteRT
# Quantizer saturates in silence (of 64-bit biases too) and INT32_MIN comes
# out for either sign.
_MAX_BIAS_CODE = 2.0**30
# If input_scale * weight_scale / output_scale is below this, a channel cannot
# change its output: accumulators stay below 2^29. The kernels' fixed-point
# multipliers have the same limit.
_MIN_MULTIPLIER = 2.0**-31
# LiteRT Quantizer raises bounds below 1e-9, which in int4 are 7 scales: there
# uniform.MIN_SCALE = 2^-33 would come back as another.
_MIN_PACKED_SCALE = 2.0**-32
# The highest code of an int4, of which two share a byte.
_PACKED_QMAX = 7
# Operations with correct int4 kernels for every width of activations.
# LiteRT 2.3 computes wrong results for int4 DEPTHWISE_CONV_2D with 16-bit
# activations.
PACKABLE = frozenset({"CONV_2D", "FULLY_CONNECTED"})


@dataclasses.dataclass(frozen=True, eq=False)
class Quantized:
    """The planned grid and integers of one tensor in the file.

    Attributes:
      params: its grid.
      codes: its integers, for a constant; None for an activation.
      packed: whether they are int4, two in a byte.
    """

    params: qtypes.QuantParams
    codes: np.ndarray | None = None
    packed: bool = False


@dataclasses.dataclass(frozen=True)
class Options:
    """How weights are quantized.

    Attributes:
      bits: 2 to 8, of weights without a grid of their own.
      granularity: scales per output channel or per tensor, likewise.
      range_method: `minmax`, or `mse`: the clip of least squared error.
      grids: weights with grids of their own, of any width and granularity.
      packed: store weights of at most 4 bits as int4, where the operation can
        take it (see `WeightGrids.packed`); all others are int8.
    """

    bits: int = 8
    granularity: qtypes.Granularity = qtypes.Granularity.CHANNEL
    range_method: str = "minmax"
    grids: Sequence[weight_grids.WeightGrid] = ()
    packed: bool = False

    def __post_init__(self):
        if self.bits not in range(2, 9):
            raise errors.UserError(
                "weight_bits", got=repr(self.bits), expected="2 to 8"
            )
        if self.range_method not in weight_scales.METHODS:
            raise errors.UserError(
                "weight range method",
                got=repr(self.range_method),
                expected="one of " + ", ".join(weight_scales.METHODS),
            )


@dataclasses.dataclass(frozen=True, eq=False)
class WeightGrids:
    """Grids of all weights of a file, computed from their values alone.

    Attributes:
      grids: by tensor index.
      packed: indices of the tensors that are int4 in the file: weights of at
        most 4 bits of a CONV_2D or FULLY_CONNECTED.
      unmatched: names of given grids whose weights are not in the file,
        because the converter has changed the values by folding.
    """

    grids: Mapping[int, qtypes.QuantParams]
    packed: frozenset[int] = frozenset()
    unmatched: tuple[str, ...] = ()


def operand(
    view: flatbuffer.Model, op: flatbuffer.Op
) -> flatbuffer.Tensor | None:
    """The weights of an operation; None where it has none in the file."""
    where = op_support.WEIGHTS.get(op.name)
    if where is None:
        return None
    tensor = view.tensors[op.inputs[where.weight]]
    return tensor if tensor.constant and tensor.dtype == "float32" else None


def bias_operand(
    view: flatbuffer.Model, op: flatbuffer.Op
) -> flatbuffer.Tensor | None:
    """The constant bias of an operation with weights; None without one."""
    where = op_support.WEIGHTS[op.name]
    index = op.inputs[where.bias] if where.bias < len(op.inputs) else -1
    if index < 0 or not view.tensors[index].constant:
        return None
    return view.tensors[index]


def choose(view: flatbuffer.Model, options: Options) -> WeightGrids:
    """Grids of all weights, by their values alone.

    Args:
      view: the float file; see `unshare`.
      options: how weights are quantized.

    Returns:
      The grids; weights whose given grid is unmatched are quantized as
      `options` says of the others.
    """
    grids: dict[int, qtypes.QuantParams] = {}
    packed: set[int] = set()
    matched: set[int] = set()
    for op in view.ops:
        tensor = operand(view, op)
        if tensor is None or tensor.index in grids:
            continue
        values, axis = view.constant(tensor), op_support.WEIGHTS[op.name].axis
        given = [g for g in options.grids if g.matches(values, axis)]
        matched.update(map(id, given))
        if given:
            params = given[0].on_axis(axis)
        else:
            params = _own_params(values, axis, options)
        least = uniform.MIN_SCALE
        if options.packed and _is_packable(op, params):
            packed.add(tensor.index)
            least = _MIN_PACKED_SCALE
        grids[tensor.index] = dataclasses.replace(
            params, scale=np.maximum(params.scale, least)
        )
    unmatched = tuple(
        grid.name or f"weight grid {number}"
        for number, grid in enumerate(options.grids)
        if id(grid) not in matched
    )
    return WeightGrids(grids, frozenset(packed), unmatched)


def quantized(
    view: flatbuffer.Model,
    op: flatbuffer.Op,
    activations: Mapping[int, qtypes.QuantParams] | None,
    chosen: WeightGrids,
) -> dict[str, Quantized]:
    """The weights of one operation.

    Args:
      view: the float file.
      op: an operation with `operand` weights.
      activations: grid by tensor index, of all activations; None where they
        stay float, and biases with them.
      chosen: grids of all weights.

    Returns:
      One entry, by tensor name.
    """
    tensor = operand(view, op)
    params = chosen.grids[tensor.index]
    floor = np.zeros(params.scale.shape)
    # Weights that several operations share have one grid for all of them.
    for consumer in view.consumers[tensor.index]:
        if activations is not None and operand(view, consumer) is tensor:
            least = _scale_floor(view, consumer, activations)
            floor = np.maximum(
                floor, least if params.axis is not None else least.max()
            )
    params = dataclasses.replace(params, scale=np.maximum(params.scale, floor))
    codes = uniform.quantize(view.constant(tensor), params)
    packed = tensor.index in chosen.packed
    return {tensor.name: Quantized(params, codes, packed)}


def quantized_bias(
    view: flatbuffer.Model,
    op: flatbuffer.Op,
    activations: Mapping[int, qtypes.QuantParams],
    found: Mapping[str, Quantized],
) -> dict[str, Quantized]:
    """The bias of one operation, in steps of input_scale * weight_scale.

    Args:
      view: the float file.
      op: an operation with `operand` weights.
      activations: grid by tensor index, of all activations.
      found: the weights' grid, by tensor name.

    Returns:
      One entry, by tensor name; none where there is no bias.
    """
    bias = bias_operand(view, op)
    if bias is None:
        return {}
    data = activations[op.inputs[op_support.WEIGHTS[op.name].data]]
    own = found[operand(view, op).name].params
    scale = data.scale.astype(np.float64) * own.scale.astype(np.float64)
    codes = np.rint(view.constant(bias) / scale).astype(np.int64)
    limit = 2**31 - 1
    params = qtypes.QuantParams(
        scale,
        np.zeros(scale.shape, np.int64),
        -limit,
        limit,
        0 if scale.size > 1 else None,
    )
    return {bias.name: Quantized(params, codes)}


def other_operand(
    view: flatbuffer.Model, index: int, spec: qtypes.QuantSpec
) -> Quantized:
    """Quantizes a constant that is not a weight like an activation.

    Args:
      view: the float file.
      index: of a constant float32 tensor.
      spec: the grid of activations.
    """
    values = view.constant(view.tensors[index])
    bounds = qtypes.TensorRange(values.min(), values.max()).with_zero()
    params = uniform.affine_params(bounds, spec.bits, spec.symmetric)
    return Quantized(params, uniform.quantize(values, params))


def _scale_floor(
    view: flatbuffer.Model,
    op: flatbuffer.Op,
    activations: Mapping[int, qtypes.QuantParams],
) -> np.ndarray:
    """The least weight scale with correct results, by channel.

    A bias is stored in steps of input_scale * weight_scale. If all weights of
    a channel are (nearly) zero, that step is so small that the bias overflows
    int32. Hence scale >= |bias| / (input_scale * 2^30).

    Returns:
      (channels,) or (), float64.
    """
    where = op_support.WEIGHTS[op.name]
    input_scale = float(activations[op.inputs[where.data]].scale[0])
    output_scale = float(activations[op.outputs[0]].scale[0])
    floor = np.asarray(_MIN_MULTIPLIER * output_scale / input_scale)
    bias = bias_operand(view, op)
    if bias is None:
        return floor
    values = np.abs(view.constant(bias).astype(np.float64))
    return np.maximum(floor, values / (input_scale * _MAX_BIAS_CODE))


def _is_packable(op: flatbuffer.Op, params: qtypes.QuantParams) -> bool:
    """Whether an operation takes these codes as int4."""
    return op.name in PACKABLE and params.qmax <= _PACKED_QMAX


def _own_params(
    values: np.ndarray, axis: int, options: Options
) -> qtypes.QuantParams:
    """The grid of one weight tensor."""
    rows = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
    params = weight_scales.choose(
        rows,
        options.bits,
        granularity=options.granularity,
        method=options.range_method,
    )
    if params.axis is None:
        return params
    return dataclasses.replace(params, axis=axis)
