"""Moments m and s of single samples at the inputs of BN layers.

Notation as in DSG: BN layer l has moving mean mu and deviation
sigma = sqrt(variance + epsilon); its input for sample i has mean m and
deviation s over its positions, for each of its C channels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
from absl import logging

from dsg_tf.analysis import bn_statistics
from dsg_tf.graph import evaluation, frozen, ir, tapped
from dsg_tf.synthesis import losses

# A channel is dead where its variance is lost beside epsilon (BN then shows
# less than a thousandth of gamma of it), or beside the layer's largest: its
# deviation is below 1e-4 of that one's. Pruned channels have 1e-20 and less;
# the weakest ones that still carry something have 1e-5 of the largest.
_DEAD_BESIDE_EPSILON = 1e-6
_DEAD_BESIDE_LARGEST = 1e-8


@dataclasses.dataclass(frozen=True, eq=False)
class SampleMoments:
    """What one BN layer sees of each sample.

    Attributes:
      layer: the BN layer.
      mean: m, float64 (N, C), in units of the layer's input.
      deviation: s = sqrt(variance over positions + epsilon), float64 (N, C),
        the same units, comparable with sigma; None where a sample has one
        position alone (dense layers, pooled features) and so no deviation.
    """

    layer: bn_statistics.BatchNorm
    mean: np.ndarray
    deviation: np.ndarray | None

    @property
    def sigma(self) -> np.ndarray:
        """sqrt(variance + epsilon), float64 (C,)."""
        variance = self.layer.variance.astype(np.float64)
        return np.sqrt(variance + self.layer.epsilon)

    @property
    def alive(self) -> np.ndarray:
        """Channels that BN does not remember as constant, bool (C,)."""
        return alive_channels(self.layer.variance, self.layer.epsilon)


def of_graph(
    graph: ir.Graph,
    samples: Mapping[str, np.ndarray],
    *,
    layers: Sequence[bn_statistics.BatchNorm] | None = None,
    batch_size: int = 16,
) -> tuple[SampleMoments, ...]:
    """m and s of every sample at every BN layer.

    Args:
      graph: any frozen graph, BN intact.
      samples: (N, ...) by input name, N >= 1, model input units; numbers are
        cast to the inputs' dtypes.
      layers: the BN layers to look at; by default all of the graph. One whose
        input has no rows by sample is left out, with a warning.
      batch_size: samples at a time, where the graph leaves that open. Memory
        does not grow with N but for the result.

    Returns:
      The moments, in the order of `layers`; empty without BN. Where a layer
      sees several rows of a sample (the frames of a TimeDistributed), these
      count as positions.

    Raises:
      ValueError: the inputs have different numbers of samples, or none.
      errors.UserError: as `bn_statistics.find`.

    Examples:
      >>> function = tf.function(
      ...     lambda x: tf.nn.batch_normalization(
      ...         x, [1.0], tf.constant([4.0]), [0.0], [1.0], 0.5
      ...     )
      ... ).get_concrete_function(tf.TensorSpec((None, 2, 1), name="x"))
      >>> samples = {"x": np.float32([[[1], [3]], [[6], [6]]])}
      >>> (found,) = of_graph(frozen.freeze(function), samples)
      >>> found.mean.tolist()
      [[2.0], [6.0]]
      >>> np.square(found.deviation).round(6).tolist()
      [[1.5], [0.5]]
    """
    layers = tuple(bn_statistics.find(graph) if layers is None else layers)
    if not layers:
        return ()
    arrays = _as_inputs(graph, samples)
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise ValueError(f"samples by input: got {counts}; expected equal, > 0")
    function = _function(graph, layers)
    gathered: list[list] = [[] for _ in layers]
    for feeds, keep in evaluation.fed(graph.inputs, arrays, batch_size):
        with tapped.unoptimised():
            values = function(*feeds)
        for parts, (mean, deviation) in zip(gathered, values, strict=True):
            parts.append(
                _by_sample(
                    mean.numpy(),
                    None if deviation is None else deviation.numpy(),
                    count=int(feeds[0].shape[0]),
                    keep=keep,
                )
            )
    found = [
        _joined(layer, parts)
        for layer, parts in zip(layers, gathered, strict=True)
    ]
    left_out = [x.name for x, y in zip(layers, found, strict=True) if y is None]
    if left_out:
        logging.warning("%s: no rows by sample, left out", ", ".join(left_out))
    return tuple(x for x in found if x is not None)


def alive_channels(variance: np.ndarray, epsilon: float) -> np.ndarray:
    """Channels that are not constant for all BN remembers, bool (C,).

    Where a graph holds variance and epsilon as one constant, epsilon is 0 here
    and the sum hides which channels are dead: all of them are alive then.

    Args:
      variance: BN's moving variance, float (C,).
      epsilon: BN's epsilon.

    Examples:
      >>> alive_channels(np.array([2.0, 1e-3, 1e-25, 0.0]), 1e-3).tolist()
      [True, True, False, False]
    """
    variance = np.asarray(variance, np.float64)
    return (variance > _DEAD_BESIDE_EPSILON * epsilon) & (
        variance > _DEAD_BESIDE_LARGEST * np.max(variance, initial=0.0)
    )


def _as_inputs(
    graph: ir.Graph, samples: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The arrays of the graph's inputs; TensorFlow casts no float to whole."""
    arrays = {}
    for port in graph.inputs:
        array, dtype = samples[port.name], port.dtype.as_numpy_dtype
        if port.dtype.is_integer and array.dtype != dtype:
            array = np.asarray(array).astype(dtype)
        arrays[port.name] = array
    return arrays


def _function(graph: ir.Graph, layers: Sequence[bn_statistics.BatchNorm]):
    """Mean and deviation of each row of each layer's input, float32.

    Reduced inside of one function, so that a layer's features can be freed
    before the next layer's are made.
    """

    def reduced(features: tf.Tensor, axis: int):
        features = tf.cast(features, tf.float32)
        mean, deviation = losses.sample_moments(features, axis)
        return mean, deviation if losses.has_positions(features, axis) else None

    @tf.function(
        input_signature=[
            tf.TensorSpec(port.shape, port.dtype) for port in graph.inputs
        ],
        autograph=False,
    )
    def function(*inputs):
        tensors = frozen.splice(graph, inputs, [x.input for x in layers])
        return [
            reduced(tensor, layer.channel_axis)
            for tensor, layer in zip(tensors, layers, strict=True)
        ]

    return function.get_concrete_function()


def _by_sample(
    mean: np.ndarray, deviation: np.ndarray | None, *, count: int, keep: slice
) -> tuple[np.ndarray, np.ndarray | None] | None:
    """Mean and variance of each sample, from those of a batch's rows.

    The variance over all rows of a sample is the mean of theirs plus the
    variance of their means.

    Args:
      mean, deviation: of each row, (R, C).
      count: samples in the batch, R = count * rows of a sample.
      keep: which of the samples to keep.

    Returns:
      float64 (N, C) each, the variance None where there is one position; None
      where R is no multiple of count.
    """
    if len(mean) == 0 or len(mean) % count:
        return None
    shape = (count, len(mean) // count, mean.shape[-1])
    mean = mean.astype(np.float64).reshape(shape)[keep]
    between = mean.var(axis=1)
    if deviation is None:
        return mean.mean(axis=1), between if shape[1] > 1 else None
    within = np.square(deviation.astype(np.float64)).reshape(shape)[keep]
    return mean.mean(axis=1), within.mean(axis=1) + between


def _joined(
    layer: bn_statistics.BatchNorm, parts: Sequence
) -> SampleMoments | None:
    if any(part is None for part in parts):
        return None
    means, variances = zip(*parts, strict=True)
    deviation = None
    if variances[0] is not None:
        deviation = np.sqrt(np.concatenate(variances) + layer.epsilon)
    return SampleMoments(layer, np.concatenate(means), deviation)
