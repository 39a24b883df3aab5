"""Moments of BN layers' inputs, measured on the folded graph.

After folding, the convolution computes the BN layer's output directly:
y = k (x - mean) + beta, with k = gamma / sigma. The moments of x follow from
those of y, so samples can be optimised on the folded graph, which saves two
passes over memory per layer forward and one backward.

Moments and the activation behind the layer are computed by one function with a
custom gradient. A synthesis step is bound by memory bandwidth, not arithmetic:
with automatic differentiation every feature map was read and written a dozen
times.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from dsg_tf.analysis import bn_statistics
from dsg_tf.graph import frozen, ir, padding, strided, tapped
from dsg_tf.synthesis import losses
from dsg_tf.transforms import fold_batch_norm

# Activations that are computed with the moments, by the bound above.
_ACTIVATIONS = {"Relu": np.inf, "Relu6": 6.0}
# A channel whose |gamma| is below this share of its layer's largest, or of its
# own |beta|, does not tell the moments of its input in float32.
_SMALLEST_GAMMA = 1e-5
# A mean of so many deviations costs the variance, E[y^2] - E[y]^2, more than a
# hundredth of itself: such layers are measured around what BN says the mean is.
_ILL_CONDITIONED = 300.0
# Compiled by XLA, the backward pass of a feature map of at least so many
# numbers is one pass over memory; below, starting it costs more.
_COMPILED_FROM = 100_000


@dataclasses.dataclass(frozen=True, eq=False)
class _Reading:
    """How to tell a BN layer's moments from a tensor of the folded graph.

    Attributes:
      tensor: the tensor that is measured.
      activation: its only reader where that is Relu or Relu6, else None.
      axis: of its channels.
      gain: k, float32 (C,): the tensor is k (x - mean) + centre.
      offset: mean, float32 (C,).
      centre: beta, float32 (C,), the mean that BN gives the tensor.
      spread: |gamma|, float32 (C,), about the deviation that it has.
      alive: bool (C,): channels that tell the moments of x.
    """

    tensor: str
    activation: ir.Node | None
    axis: int
    gain: np.ndarray
    offset: np.ndarray
    centre: np.ndarray
    spread: np.ndarray
    alive: np.ndarray


class MeasuredGraph:
    """A graph that tells the moments of its BN layers' inputs.

    Args:
      graph: the frozen graph, BN intact, batch size known.
      layers: its BN layers.

    Attributes:
      graph: the graph that runs: BN folded wherever that is possible.
      layers: the BN layers, in order.
      channels: how many each has.
    """

    def __init__(
        self, graph: ir.Graph, layers: Sequence[bn_statistics.BatchNorm]
    ):
        self.layers = tuple(layers)
        self.channels = tuple(layer.num_channels for layer in layers)
        folded, _ = fold_batch_norm.fold_batch_norm(graph)
        readings = _readings(graph, folded, self.layers)
        if readings is None:
            folded = graph
            readings = [_unfolded(graph, layer) for layer in self.layers]
        self.graph = frozen.with_sums_in_pairs(padding.absorbed(folded))
        self._readings = readings

    def values(
        self, inputs: Sequence[tf.Tensor], tensors: Sequence[str]
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """Puts the graph into the trace.

        Args:
          inputs: in the order of the graph's inputs.
          tensors: further tensors to compute, that folding leaves as they are.

        Returns:
          m and s of every sample, of all layers side by side, float (B, sum
          of channels), s = sqrt(variance + epsilon), in units of the BN
          layers' inputs, with a gradient; and the values of `tensors`. Of a
          layer without positions s is sqrt(epsilon).
        """
        batch = inputs[0].shape[0]
        measured: dict[str, tuple[tf.Tensor, tf.Tensor | None]] = {}
        taps = []
        for reading in {r.tensor: r for r in self._readings}.values():
            keep = functools.partial(
                _measure, reading, batch, measured, reading.tensor
            )
            activation = reading.activation
            replaced = activation.output if activation else reading.tensor
            taps.append(tapped.Tap.of_each(reading.tensor, replaced, keep))
        taken = {tap.source for tap in taps} | {tap.replaced for tap in taps}
        taps += [
            tap
            for tap in strided.taps(self.graph)
            if taken.isdisjoint((tap.source, tap.replaced))
        ]
        (others,) = tapped.splice(self.graph, [inputs], tensors, taps=taps)
        found = [measured[reading.tensor] for reading in self._readings]
        mean = tf.concat([m for m, _ in found], 1)
        variance = tf.concat(
            [tf.zeros_like(m) if v is None else v for m, v in found], 1
        )
        return *self._of_inputs(mean, variance), others

    @functools.cached_property
    def has_positions(self) -> tuple[bool, ...]:
        """Whether a single sample has a deviation at each layer."""
        found = []
        for reading in self._readings:
            shape = self.graph.shape(reading.tensor)
            axes = [a for a in range(1, len(shape)) if a != reading.axis]
            found.append(any(shape[a] != 1 for a in axes))
        return tuple(found)

    def _of_inputs(
        self, mean: tf.Tensor, variance: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """m and s of the layers' inputs, from the moments of what is measured.

        All layers at once, (B, sum of channels): a step is a thousand nodes
        smaller than with the same done layer by layer.
        """
        alive, gain, centre, offset = (
            np.concatenate([getattr(r, name) for r in self._readings])
            for name in ("alive", "gain", "centre", "offset")
        )
        per_unit = (1.0 / np.where(alive, gain, 1.0)).astype(np.float32)
        mean = mean * per_unit + (offset - centre * per_unit)
        epsilon = np.repeat(
            [np.float32(layer.epsilon) for layer in self.layers], self.channels
        )
        deviation = losses.deviation(variance * np.square(per_unit) + epsilon)
        if alive.all():
            return mean, deviation
        # What folding has lost has no distance, and no gradient.
        sigma = np.concatenate([layer.sigma for layer in self.layers])
        return (
            tf.where(alive, mean, offset),
            tf.where(alive, deviation, sigma),
        )


def _readings(
    graph: ir.Graph,
    folded: ir.Graph,
    layers: Sequence[bn_statistics.BatchNorm],
) -> list[_Reading] | None:
    """Where to measure each layer in the folded graph; None if impossible.

    Of two BN layers behind one convolution the first is nowhere to be seen,
    and what it reads has been scaled for the second.
    """
    readings = []
    still_there = {layer.output for layer in bn_statistics.find(folded)}
    for layer in layers:
        if layer.output in folded.moments:
            readings.append(_folded(folded, layer))
        elif layer.output in still_there:
            readings.append(_unfolded(folded, layer))
        else:
            return None
    return readings


def _folded(graph: ir.Graph, layer: bn_statistics.BatchNorm) -> _Reading:
    gain = (layer.gamma / layer.sigma).astype(np.float32)
    size = np.abs(layer.gamma)
    alive = size > _SMALLEST_GAMMA * np.maximum(
        size.max(initial=0.0), np.abs(layer.beta)
    )
    return _Reading(
        tensor=layer.output,
        activation=_activation(graph, layer.output),
        axis=layer.channel_axis,
        gain=gain,
        offset=layer.mean,
        centre=layer.beta,
        spread=size,
        alive=alive,
    )


def _unfolded(graph: ir.Graph, layer: bn_statistics.BatchNorm) -> _Reading:
    zeros = np.zeros(layer.num_channels, np.float32)
    return _Reading(
        tensor=layer.input,
        activation=_activation(graph, layer.input),
        axis=layer.channel_axis,
        gain=zeros + 1,
        offset=layer.mean,
        centre=layer.mean,
        spread=layer.sigma,
        alive=np.ones(layer.num_channels, bool),
    )


def _activation(graph: ir.Graph, tensor: str) -> ir.Node | None:
    """The only reader of a tensor, where it is an activation we compute."""
    readers = graph.consumers(tensor)
    outputs = {port.tensor for port in graph.outputs}
    if len(readers) != 1 or tensor in outputs:
        return None
    (reader,) = readers
    return reader if reader.op in _ACTIVATIONS else None


def _measure(reading, batch, measured, tensor, features):
    """A tap: keeps the moments of `features`, returns what readers get."""
    shape, dtype = features.shape, features.dtype
    features = tf.cast(features, tf.float32)
    positions = int(np.prod(shape)) // (shape[reading.axis] * batch)
    op = reading.activation.op if reading.activation else ""
    if positions <= 1:
        flat = tf.reshape(features, (batch, shape[reading.axis]))
        measured[tensor] = flat, None
        return tf.cast(_activated(op, features), dtype)
    axis = reading.axis
    if axis != shape.rank - 1 and (axis != 1 or shape[0] != batch):
        # Channels between positions, or first where a sample has several rows.
        order = [*(a for a in range(shape.rank) if a != axis), axis]
        reading = dataclasses.replace(reading, axis=shape.rank - 1)
        moved = tf.transpose(features, order)
        moved = _measure(reading, batch, measured, tensor, moved)
        return tf.cast(tf.transpose(moved, np.argsort(order)), dtype)
    if axis != shape.rank - 1:
        # Channels first: a view of it as (B, C, P).
        passed, mean, variance = _moments(
            tf.reshape(features, (batch, shape[1], positions)),
            op=op,
            centre=_centre(reading),
            first=True,
        )
    else:
        passed, mean, variance = _moments(
            tf.reshape(features, (batch, positions, shape[axis])),
            op=op,
            centre=_centre(reading),
            first=False,
        )
    measured[tensor] = mean, variance
    return tf.cast(tf.reshape(passed, shape), dtype)


def _centre(reading: _Reading) -> np.ndarray | None:
    """What to measure around, float32 (C,); None for zero."""
    spread = np.maximum(reading.spread, 1e-30)
    ratio = np.abs(reading.centre / spread)[reading.alive]
    ill = ratio.max(initial=0.0) > _ILL_CONDITIONED
    return reading.centre.astype(np.float32) if ill else None


def _activated(op: str, values: tf.Tensor) -> tf.Tensor:
    if op == "Relu":
        return tf.nn.relu(values)
    if op == "Relu6":
        return tf.nn.relu6(values)
    return values


def _moments(features: tf.Tensor, *, op: str, centre, first: bool):
    """(activated features, mean, variance) with one gradient for all three.

    With P positions, d m / d h = 1 / P and d v / d h = 2 (h - m) / P: the
    gradient is that of the activation, plus h times a factor, plus a summand.

    Args:
      features: float32 (B, P, C), or (B, C, P) with `first`.
      op: the activation, or "".
      centre: float32 (C,) to measure around, or None.
      first: whether channels stand before positions.
    """
    axis = 2 if first else 1
    positions = features.shape[axis]
    along = -1 if first else -2

    def mean_of(values):
        # As a matrix product: half the time of a reduction.
        shares = tf.fill((values.shape[0], 1, positions), 1 / positions)
        return tf.matmul(shares, values, transpose_b=first)[:, 0]

    @tf.custom_gradient
    def compute(h):
        passed = _activated(op, h)
        shifted = h
        if centre is not None:
            shifted = h - (centre[:, None] if first else centre)
        mean = mean_of(shifted)
        variance = mean_of(tf.square(shifted)) - tf.square(mean)
        if centre is not None:
            mean = mean + centre

        def gradient(upstream, mean_upstream, variance_upstream):
            factor = (2.0 / positions) * variance_upstream
            summand = mean_upstream / positions - factor * mean
            factor, summand = (
                tf.expand_dims(v, along) for v in (factor, summand)
            )
            return _backward(op, h, upstream, factor, summand)

        return (passed, mean, tf.nn.relu(variance)), gradient

    return compute(features)


def _backward(op, h, upstream, factor, summand):
    """The gradient by h; in one pass over memory where it is large."""
    if h.shape.num_elements() >= _COMPILED_FROM:
        return _compiled(op)(h, upstream, factor, summand)
    return _plain(op, h, upstream, factor, summand)


def _plain(op, h, upstream, factor, summand):
    if op == "Relu":
        upstream = tf.where(h > 0, upstream, 0.0)
    elif op == "Relu6":
        upstream = tf.where((h > 0) & (h < 6), upstream, 0.0)
    return upstream + (h * factor + summand)


@functools.cache
def _compiled(op: str):
    return tf.function(
        functools.partial(_plain, op), jit_compile=True, autograph=False
    )
