"""Grids and integers of the constants in a .tflite: weights, biases, operands.

Weight scales are ours: per channel or per tensor, by the largest value or by
least squared error, and floored where an unfloored one would break the file
(see `_scale_floor`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from dsg_tf import errors, qtypes, uniform
from dsg_tf.tflite import flatbuffer, policy

RANGE_METHODS = ("minmax", "mse")

# A bias above 2^30 steps is too near to the end of int32, where LiteRT
# Quantizer saturates in silence (of 64-bit biases too) and INT32_MIN comes
# out for either sign.
_MAX_BIAS_CODE = 2.0**30
# A channel whose products weigh less than this many output steps cannot move
# its output: accumulators stay below 2^29. The kernels' fixed-point
# multipliers end there too.
_MIN_MULTIPLIER = 2.0**-31
# Share of the largest value at which weights are clipped, searched by `mse`.
_CLIPS = np.linspace(1.0, 0.3, 71)


@dataclasses.dataclass(frozen=True, eq=False)
class Quantized:
    """What one tensor should be in the file.

    Attributes:
      params: its grid.
      codes: its integers, for a constant; None for an activation.
    """

    params: qtypes.QuantParams
    codes: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class WeightGrid:
    """Weights that lie on a grid already, from AdaRound for instance.

    Attributes:
      values: float32 weights in TFLite layout, on the grid. They are found in
        the file by their bytes, for names do not survive fusing.
      params: the grid.
    """

    values: np.ndarray
    params: qtypes.QuantParams

    def matches(self, values: np.ndarray) -> bool:
        """Whether a file's weights are these, bit by bit."""
        own = np.asarray(self.values, np.float32)
        return own.shape == values.shape and own.tobytes() == values.tobytes()


@dataclasses.dataclass(frozen=True)
class Options:
    """How weights are quantized.

    Attributes:
      bits: 2 to 8; the file stores int8 in any case.
      granularity: scales per output channel or per tensor.
      range_method: `minmax`, or `mse`: the clip of least squared error.
      grids: weights with grids of their own.
    """

    bits: int = 8
    granularity: qtypes.Granularity = qtypes.Granularity.CHANNEL
    range_method: str = "minmax"
    grids: Sequence[WeightGrid] = ()

    def __post_init__(self):
        if self.bits not in range(2, 9):
            raise errors.UserError(
                "weight_bits", got=repr(self.bits), expected="2 to 8"
            )
        if self.range_method not in RANGE_METHODS:
            raise errors.UserError(
                "weight range method",
                got=repr(self.range_method),
                expected="one of " + ", ".join(RANGE_METHODS),
            )


def operand(
    view: flatbuffer.Model, op: flatbuffer.Op
) -> flatbuffer.Tensor | None:
    """The weights of an operation; None where it has none in the file."""
    where = policy.WEIGHTS.get(op.name)
    if where is None:
        return None
    tensor = view.tensors[op.inputs[where.weight]]
    return tensor if tensor.constant and tensor.dtype == "float32" else None


def bias_operand(
    view: flatbuffer.Model, op: flatbuffer.Op
) -> flatbuffer.Tensor | None:
    """The constant bias of an operation with weights; None without one."""
    where = policy.WEIGHTS[op.name]
    index = op.inputs[where.bias] if where.bias < len(op.inputs) else -1
    if index < 0 or not view.tensors[index].constant:
        return None
    return view.tensors[index]


def choose(
    view: flatbuffer.Model, options: Options
) -> dict[int, qtypes.QuantParams]:
    """Grids of all weights, by their values alone.

    Args:
      view: the float file.
      options: how weights are quantized.

    Returns:
      Grid by tensor index.

    Raises:
      ValueError: a grid of `options` is nowhere in the file, by its bytes: its
        integers would be lost.
    """
    chosen: dict[int, qtypes.QuantParams] = {}
    matched: set[int] = set()
    for op in view.ops:
        tensor = operand(view, op)
        if tensor is None or tensor.index in chosen:
            continue
        values = view.constant(tensor)
        hits = [i for i, g in enumerate(options.grids) if g.matches(values)]
        matched.update(hits)
        axis = policy.WEIGHTS[op.name].axis
        chosen[tensor.index] = (
            options.grids[hits[0]].params
            if hits
            else _own_params(values, axis, options)
        )
    for number, grid in enumerate(options.grids):
        if number not in matched:
            raise ValueError(
                f"weight grid {number} of shape {np.shape(grid.values)}: got no"
                " weights with its bytes in the .tflite; expected them there"
            )
    return chosen


def quantized(
    view: flatbuffer.Model,
    op: flatbuffer.Op,
    activations: Mapping[int, qtypes.QuantParams],
    chosen: Mapping[int, qtypes.QuantParams],
) -> dict[str, Quantized]:
    """The weights of one operation.

    Args:
      view: the float file.
      op: an operation with `operand` weights.
      activations: grid by tensor index, of all activations.
      chosen: grid by tensor index, of all weights, by `choose`.

    Returns:
      One entry, by tensor name.
    """
    tensor = operand(view, op)
    params = chosen[tensor.index]
    floor = np.zeros(params.scale.shape)
    # Weights that several operations share have one grid for all of them.
    for consumer in view.consumers[tensor.index]:
        if operand(view, consumer) is tensor:
            least = _scale_floor(view, consumer, activations)
            floor = np.maximum(
                floor, least if params.axis is not None else least.max()
            )
    params = dataclasses.replace(params, scale=np.maximum(params.scale, floor))
    codes = uniform.quantize(view.constant(tensor), params)
    return {tensor.name: Quantized(params, codes)}


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
    data = activations[op.inputs[policy.WEIGHTS[op.name].data]]
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
    """A constant that is no weight: quantized as an activation would be.

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
    """The least weight scale that keeps an operation right, by channel.

    A bias is stored in steps of input_scale * weight_scale. In a channel of
    (nearly) zero weights, dead in training, that step is so small that the
    bias overflows int32: scale >= |bias| / (input_scale * 2^30).

    Returns:
      (channels,) or (), float64.
    """
    where = policy.WEIGHTS[op.name]
    input_scale = float(activations[op.inputs[where.data]].scale[0])
    output_scale = float(activations[op.outputs[0]].scale[0])
    floor = np.float64(_MIN_MULTIPLIER * output_scale / input_scale)
    bias = bias_operand(view, op)
    if bias is None:
        return floor
    values = np.abs(view.constant(bias).astype(np.float64))
    return np.maximum(floor, values / (input_scale * _MAX_BIAS_CODE))


def _own_params(
    values: np.ndarray, axis: int, options: Options
) -> qtypes.QuantParams:
    """The grid of one weight tensor."""
    per_channel = options.granularity is qtypes.Granularity.CHANNEL
    rows = (
        np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
        if per_channel
        else values.reshape(1, -1)
    )
    bound = np.abs(rows).max(axis=1, initial=0.0).astype(np.float64)
    if options.range_method == "mse":
        bound = _clipped_bound(rows, bound, options.bits)
    return uniform.symmetric_params(
        bound, options.bits, axis if per_channel else None
    )


def _clipped_bound(
    rows: np.ndarray, bound: np.ndarray, bits: int
) -> np.ndarray:
    """Per row, the bound whose grid has the least squared error, (n,)."""
    best, least = bound, np.full(bound.shape, np.inf)
    for clip in _CLIPS:
        params = uniform.symmetric_params(bound * clip, bits, axis=0)
        error = (uniform.fake_quantize(rows, params) - rows) ** 2
        total = error.sum(axis=1)
        best = np.where(total < least, bound * clip, best)
        least = np.minimum(total, least)
    return best
