"""Channels of unlike scale that one layer makes, kept apart in integers.

The last layer of a detector or a regression may make boxes (0..160) and scores
(0..1), metres and radians, in one tensor. One int8 scale leaves nothing of the
small ones. Where samples show that, the layer makes all channels of one scale
and centred, and two operations behind it, which stay float with all that
follows, bring them back: in float the network is the same. It is done on the
float file, because the converter would fold the operations into the layer.

Factors are powers of two, so that weights on a grid stay on one.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from dsg_tf.quant import qtypes
from dsg_tf.tflite import (
    feature_scales,
    flatbuffer,
    float_edges,
    interpreter,
    op_support,
    op_writer,
    weight_grids,
    weights,
)

# A channel whose deviation is below so many steps of the common scale has less
# than 20 dB left.
_LEAST_STEPS = 10 / np.sqrt(12)
# A channel that varies less than this part of its values is constant: float32
# has 24 bits.
_CONSTANT = 1e-6
# Samples show less of a channel than real inputs do; at one common scale the
# wider channels left room to the others.
_HEADROOM = 1.25
_NONE, _RELU = 0, 1
# They compare channels with each other, for which one scale is right.
_COMPARING = frozenset({"ARG_MAX", "LOG_SOFTMAX", "SOFTMAX", "TOPK_V2"})


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """A layer whose output channels were brought to one scale.

    Attributes:
      even: name of the tensor that it makes now.
      rows: its weights before, float32 (O, n).
      factors: powers of two by which its channels were divided, (O,).
    """

    even: str
    rows: np.ndarray
    factors: np.ndarray

    def range(self, observed: qtypes.TensorRange) -> qtypes.TensorRange:
        """The range of `even`: wider than what the samples show."""
        return qtypes.TensorRange(
            observed.min * _HEADROOM, observed.max * _HEADROOM
        )

    def scaled(
        self, grid: weight_grids.WeightGrid
    ) -> weight_grids.WeightGrid | None:
        """The grid of the weights as they are now.

        Returns:
          None where it has one scale for all channels, which now have others.
        """
        params = grid.params
        if params.axis is None:
            return None
        return weight_grids.WeightGrid(
            (self.rows / self.factors[:, np.newaxis]).astype(np.float32),
            dataclasses.replace(params, scale=params.scale / self.factors),
            grid.name,
        )


def equalized(
    float_tflite: bytes,
    samples: Mapping[str, np.ndarray],
    *,
    reference: bytes | None = None,
    activation_bits: int = 8,
    granularity: qtypes.Granularity = qtypes.Granularity.CHANNEL,
) -> tuple[bytes, tuple[Layer, ...]]:
    """The file with output channels of unlike scale brought to one.

    Args:
      float_tflite: by `convert.to_float`.
      samples: (N, ...) by input name, on which the channels are measured.
      reference: the same file with weights that are not rounded, where those
        of `float_tflite` are; the channels are measured on it.
      activation_bits: 8 or 16.
      granularity: of the weights. One scale for all channels of a layer has
        rounded the small ones away: they are taken from the reference.

    Returns:
      The bytes, and the layers; the same bytes and none where one scale holds
      all channels.
    """
    view = flatbuffer.read(float_tflite)
    candidates = tuple(_candidates(view))
    if not candidates:
        return float_tflite, ()
    exact = view if reference is None else flatbuffer.read(reference)
    outputs = [view.tensors[op.outputs[0]].name for op in candidates]
    if not exact.by_name.keys() >= set(outputs):
        exact = view
    ends = [exact.by_name[name].index for name in outputs]
    measured = _measure(exact, ends, samples)
    plans = {
        op.index: plan
        for op, values in zip(candidates, measured, strict=True)
        if (plan := _plan(view, op, values, activation_bits)) is not None
    }
    if not plans:
        return float_tflite, ()
    writer = op_writer.OpWriter(view)
    layers = []
    for op in view.ops:
        writer.keep(op)
        if op.index not in plans:
            continue
        held = view, op
        if granularity is qtypes.Granularity.TENSOR:
            end = exact.by_name[view.tensors[op.outputs[0]].name]
            held = exact, exact.producers[end.index]
        layers.append(_rescale(writer, op, *plans[op.index], *held))
    return writer.finish(), tuple(layers)


def _candidates(view: flatbuffer.Model) -> Iterator[flatbuffer.Op]:
    """Layers behind which no other is, nor what compares channels."""
    for op in view.ops:
        tensor = weights.operand(view, op)
        if (
            tensor is None
            or len(view.consumers[tensor.index]) > 1
            or view.tensors[op.outputs[0]].shape[-1] < 2
            or _activation(view, op) not in (_NONE, _RELU)
        ):
            continue
        _, *behind = float_edges.reached(view, op, forward=True)
        if not any(
            float_edges.has_weights(view, other) or other.name in _COMPARING
            for other in behind
        ):
            yield op


def _activation(view: flatbuffer.Model, op: flatbuffer.Op) -> int:
    options = view.raw.subgraphs[0].operators[op.index].builtinOptions
    return getattr(options, "fusedActivationFunction", _NONE)


@dataclasses.dataclass(frozen=True, eq=False)
class _Channels:
    """Least and largest value and deviation of each channel, (C,)."""

    low: np.ndarray
    high: np.ndarray
    deviation: np.ndarray


def _measure(
    view: flatbuffer.Model,
    tensors: Sequence[int],
    samples: Mapping[str, np.ndarray],
) -> list[_Channels]:
    """Runs a file whose outputs are these tensors."""
    raw = copy.deepcopy(view.raw)
    names = [f"layer_{i}" for i in range(len(tensors))]
    inputs = view.input_names().items()
    flatbuffer.set_interface(
        raw,
        [(name, tensor.index) for name, tensor in inputs],
        list(zip(names, tensors, strict=True)),
    )
    made = interpreter.Interpreter(flatbuffer.write(raw)).run(samples)
    flat = [
        made[name].reshape(-1, made[name].shape[-1]).astype(np.float64)
        for name in names
    ]
    return [_Channels(v.min(0), v.max(0), v.std(0)) for v in flat]


def _plan(
    view: flatbuffer.Model,
    op: flatbuffer.Op,
    channels: _Channels,
    activation_bits: int,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Centre and factor of each channel; None where one scale holds them."""
    # NumPy's, which keep NaN.
    whole = np.max(channels.high, initial=0.0) - np.min(
        channels.low, initial=0.0
    )
    reach = np.maximum(np.abs(channels.low), np.abs(channels.high))
    alive = channels.deviation > _CONSTANT * reach
    if not np.isfinite(whole) or not alive.any():
        return None
    step = whole / (2.0**activation_bits - 1)
    if not np.any(channels.deviation[alive] < _LEAST_STEPS * step):
        return None
    centre = np.zeros_like(reach)
    if _activation(view, op) == _NONE:
        centre = (channels.low + channels.high) / 2
        reach = (channels.high - channels.low) / 2
    factor = np.ones_like(reach)
    widest = reach.max()
    factor[alive] = np.exp2(np.ceil(np.log2(reach[alive] / widest)))
    if not feature_scales.unlike_reaches(np.abs(centre) + factor * widest):
        return None
    return centre, factor


def _rescale(
    writer: op_writer.OpWriter,
    op: flatbuffer.Op,
    centre: np.ndarray,
    factor: np.ndarray,
    source: flatbuffer.Model,
    same: flatbuffer.Op,
) -> Layer:
    """Puts the operations behind a layer, in place.

    Args:
      writer: writes the file.
      op: its layer.
      centre: of each channel, (O,).
      factor: of each channel, (O,).
      source: the file that weights and bias are taken from.
      same: the layer there.
    """
    view = writer.view
    tensor, axis = weights.operand(view, op), op_support.WEIGHTS[op.name].axis
    rows = weight_grids.rows(view.constant(tensor), axis)
    kernel = source.constant(weights.operand(source, same))
    bias = weights.bias_operand(source, same)
    old = np.zeros(len(centre)) if bias is None else source.constant(bias)
    along = np.ones(kernel.ndim, int)
    along[axis] = -1
    writer.fix(tensor.index, np.float64(kernel) / factor.reshape(along))
    writer.set_bias(op, (old.astype(np.float64) - centre) / factor)
    output = op.outputs[0]
    even = writer.move_output(op)
    if centre.any():
        spread = writer.add("MUL", [even, writer.constant(factor)])
        writer.add("ADD", [spread, writer.constant(centre)], output)
    else:
        writer.add("MUL", [even, writer.constant(factor)], output)
    name = view.raw.subgraphs[0].tensors[even].name
    return Layer(name.decode("utf-8"), rows, factor)
