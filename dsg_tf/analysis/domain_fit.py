"""Moments of a layer's input, from its weights and the BatchNorm behind it.

With kernel K (kh, kw, C, O), bias b and BN moments (mu, var) behind:

  * the channel means m solve `A m = mu - b` with `A[o, c] = sum_hw K[h,w,c,o]`;
  * the deviation sigma solves `var_o = sigma^2 k_o^T R k_o`, where R correlates
    neighbours by `rho^distance` and channels by c. Rho and c are searched on a
    grid, sigma is the robust location of the log ratio.

Dead channels do not count. A fit says how well it explains what it was fitted
to, so that its user can decide.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from dsg_tf.analysis import bn_statistics
from dsg_tf.graph import evaluation, ir, ops

LAYER_OPS = ops.CONVOLUTIONS | {"Conv3D", "MatMul"}


# The grid of correlations; 0 is white noise, natural images have 0.9 and more.
_NEIGHBOUR_CORRELATIONS = (
    *(0.0, 0.3, 0.5, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99),
)
_CHANNEL_CORRELATIONS = (0.0, 0.3, 0.6, 0.8, 0.9, 0.95, 0.98, 1.0)


# Of the logarithm of predicted over true variance, for deviations by feature.
_MOST_SPREAD = 0.7
# A feature that explains less of every channel than this says nothing.
_LEAST_SHARE = 1e-3
_SWEEPS = 300


@dataclasses.dataclass(frozen=True, eq=False)
class Fit:
    """The moments of a layer's input.

    Attributes:
      name: the BN layer's.
      mean: float32 (C,), in the units of the layer's input.
      deviation: one for all channels.
      deviations: one for each, float32 (C,), where those fit; else None.
      neighbour_correlation: correlation of neighbouring positions, 0..1.
      channel_correlation: correlation between channels, 0..1.
      quality: adjusted R^2 of the means, at most 1.
    """

    name: str
    mean: np.ndarray
    deviation: float
    neighbour_correlation: float
    channel_correlation: float
    quality: float
    deviations: np.ndarray | None = None


def fit(
    graph: ir.Graph,
    node: ir.Node,
    *,
    layers: Sequence[bn_statistics.BatchNorm],
    input_shape: Sequence[int | None] | None = None,
) -> Fit | None:
    """Fits the input of a layer to the BN behind it.

    Args:
      graph: the frozen graph.
      node: the layer, one of `LAYER_OPS`.
      layers: the graph's BN layers.
      input_shape: the shape of what a dense layer's input was flattened from,
        batch first.

    Returns:
      The fit; None where no BN stands behind the layer alone, its kernel is
      computed from the input, or less than two of its channels are alive.
    """
    found = _batch_norm_behind(graph, node, layers)
    if found is None or not graph.is_constant(node.inputs[1]):
        return None
    layer, bias = found
    kernel = _full_kernel(graph, node, input_shape)
    if kernel is None or kernel.shape[-1] != layer.num_channels:
        return None
    live = live_channels(kernel, layer.variance)
    if live.sum() < 2:
        return None
    kernel = kernel[..., live]
    mean, quality = fit_mean(kernel, (layer.mean - bias)[live])
    deviation, neighbours, channels = fit_deviation(
        kernel, layer.variance[live]
    )
    return Fit(
        layer.name,
        mean,
        deviation,
        neighbours,
        channels,
        quality,
        fit_feature_deviations(kernel, layer.variance[live]),
    )


def live_channels(kernel: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Channels that say something: weights and variance not vanishing.

    Args:
      kernel: (spatial..., C, O).
      variance: BN variance, (O,).

    Returns:
      bool (O,).
    """
    energy = np.sqrt((kernel**2).reshape(-1, kernel.shape[-1]).sum(0))
    return (energy > 1e-3 * np.median(energy)) & (
        variance > 1e-6 * np.median(variance)
    )


def fit_mean(
    kernel: np.ndarray, target: np.ndarray
) -> tuple[np.ndarray, float]:
    """Channel means m with `sum_hw kernel^T m ~ target`.

    One mean per channel where there are more equations than channels,
    otherwise one for all: as many unknowns as equations explain any target,
    so that the quality would say nothing.

    Args:
      kernel: (spatial..., C, O).
      target: BN mean less bias, (O,).

    Returns:
      The means, float32 (C,), and the adjusted R^2 of the fit (against zero,
      since the targets of a zero-mean input are zero).

    Examples:
      >>> kernel = np.array([[1.0, 2.0, 0.0, 1.0], [0.0, 1.0, 3.0, 1.0]])
      >>> mean, quality = fit_mean(kernel, np.array([5.0, 12.0, 6.0, 7.0]))
      >>> mean.round(3).tolist(), round(quality, 3)
      ([5.0, 2.0], 1.0)
    """
    a = kernel.reshape(-1, *kernel.shape[-2:]).sum(0).T
    equations, channels = a.shape
    unknowns = a if equations > channels else a.sum(1, keepdims=True)
    solution = np.linalg.lstsq(unknowns, target, rcond=1e-3)[0]
    unexplained = np.sum((unknowns @ solution - target) ** 2)
    unexplained /= max(np.sum(target**2), 1e-30)
    freedom = max(equations - unknowns.shape[1], 1)
    mean = np.broadcast_to(solution, channels).astype(np.float32)
    return mean, float(1.0 - unexplained * equations / freedom)


def fit_deviation(
    kernel: np.ndarray, variance: np.ndarray
) -> tuple[float, float, float]:
    """Deviation of an input with correlated neighbours and channels.

    Args:
      kernel: (spatial..., C, O).
      variance: BN variance, (O,).

    Returns:
      sigma; the correlation of neighbours; that of channels.
    """
    positions = math.prod(kernel.shape[:-2])
    rhos = _NEIGHBOUR_CORRELATIONS if positions > 1 else (0.0,)
    correlations = _CHANNEL_CORRELATIONS if kernel.shape[-2] > 1 else (0.0,)
    summed = kernel.sum(-2, keepdims=True)
    best = None
    for rho in rhos:
        own = _correlated_energy(kernel, rho)
        cross = _correlated_energy(summed, rho) - own
        for correlation in correlations:
            predicted = np.maximum(own + correlation * cross, 0.0)
            log_ratio = np.log(variance + 1e-12) - np.log(predicted + 1e-12)
            location = np.median(log_ratio)
            # The mean of absolute values: a median ignores half of the
            # channels, and with the few filters of a small layer three
            # parameters then fit the other half exactly.
            spread = np.mean(np.abs(log_ratio - location))
            if best is None or spread < best[0]:
                best = spread, location, rho, correlation
    _, location, rho, correlation = best
    return float(np.exp(location / 2)), rho, correlation


def fit_feature_deviations(
    kernel: np.ndarray, variance: np.ndarray
) -> np.ndarray | None:
    """A deviation for each feature: sensors and columns have unlike units.

    Features that are independent of each other, and of their neighbours in
    time, give a layer's output the variance `sum_c sigma_c^2 sum_t k_tc^2`:
    linear equations, whose solution must not be negative.

    Args:
      kernel: (spatial..., C, O).
      variance: BN variance, (O,).

    Returns:
      float32 (C,); None where there are fewer than two equations a feature, or
      the solution misses the variances by a factor of 2 in the mean.

    Examples:
      >>> rng = np.random.default_rng(0)
      >>> kernel = rng.normal(size=(3, 40))
      >>> true = np.array([0.1, 1.0, 10.0])
      >>> found = fit_feature_deviations(kernel, true**2 @ kernel**2)
      >>> np.allclose(found, true, rtol=0.05)
      True
    """
    features, equations = kernel.shape[-2:]
    if features < 2 or equations < 2 * features:
        return None
    energy = (kernel.astype(np.float64) ** 2).reshape(-1, features, equations)
    matrix = (energy.sum(0) / np.maximum(variance, 1e-30)).T
    # Relative errors count; each column is brought to length 1.
    length = np.linalg.norm(matrix, axis=0)
    if not (np.isfinite(length).all() and (length > 0).all()):
        return None
    solution = _non_negative(matrix / length, np.ones(equations)) / length
    predicted = matrix @ solution
    if (predicted <= 0).any() or np.std(np.log(predicted)) > _MOST_SPREAD:
        return None
    least = (_LEAST_SHARE / features) / np.maximum(matrix.max(0), 1e-30)
    return np.sqrt(np.maximum(solution, least)).astype(np.float32)


def _non_negative(matrix: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Least squares with x >= 0, by coordinate descent."""
    gram, right = matrix.T @ matrix, matrix.T @ target
    solution = np.maximum(right / np.diag(gram) / len(right), 0.0)
    for _ in range(_SWEEPS):
        for index in range(len(solution)):
            slope = right[index] - gram[index] @ solution
            solution[index] = max(
                solution[index] + slope / gram[index, index], 0.0
            )
    return solution


def _correlated_energy(kernel: np.ndarray, rho: float) -> np.ndarray:
    """`sum_c k_c^T R k_c` with `R = rho^(L1 distance)`, float (O,).

    R is a Kronecker product of one matrix per spatial axis, so it is applied
    axis by axis: flattened images have thousands of positions.
    """
    spread = kernel
    for axis, size in enumerate(kernel.shape[:-2]):
        index = np.arange(size)
        weight = float(rho) ** np.abs(index[:, None] - index)
        spread = np.moveaxis(np.tensordot(weight, spread, (1, axis)), 0, axis)
    return (kernel * spread).reshape(-1, kernel.shape[-1]).sum(0)


def _batch_norm_behind(
    graph: ir.Graph,
    node: ir.Node,
    layers: Sequence[bn_statistics.BatchNorm],
) -> tuple[bn_statistics.BatchNorm, np.ndarray] | None:
    """The BN whose input is this layer's output, and the bias in between."""
    tensor, bias = node.output, np.zeros(1)
    by_input = {layer.input: layer for layer in layers}
    while tensor not in by_input:
        following = graph.consumers(tensor)
        if len(following) != 1:
            return None
        step = following[0]
        if step.op in ops.BIAS_ADDITIONS:
            other = [t for t in step.inputs if t != tensor]
            if len(other) != 1 or not graph.is_constant(other[0]):
                return None
            value = evaluation.evaluate(graph, other)[other[0]]
            if value.size != max(value.shape[-1:], default=1):
                return None
            bias = bias + value.ravel().astype(np.float64)
        elif step.op not in ops.BEHIND_LAYERS:
            return None
        tensor = step.output
    layer = by_input[tensor]
    if bias.size not in (1, layer.num_channels):
        return None
    return layer, bias


def _full_kernel(
    graph: ir.Graph, node: ir.Node, input_shape: Sequence[int | None] | None
) -> np.ndarray | None:
    """The kernel as (spatial..., C, O), float64, without groups."""
    tensor = node.inputs[1]
    kernel = evaluation.evaluate(graph, [tensor])[tensor].astype(np.float64)
    if node.op == "MatMul":
        if node.attr("transpose_b", False):
            kernel = kernel.T
        sizes = tuple(input_shape or ())[1:]
        # Of an input with one number a sample there are none.
        if sizes and None not in sizes and math.prod(sizes) == len(kernel):
            kernel = kernel.reshape(*sizes, kernel.shape[-1])
        return kernel
    if node.op == "DepthwiseConv2dNative":
        *spatial, channels, multiplier = kernel.shape
        grouped = kernel.reshape(*spatial, 1, channels * multiplier)
        return _ungrouped(grouped, channels)
    shape = graph.shape(node.inputs[0])
    if shape is None or shape[-1] is None:
        return None
    return _ungrouped(kernel, shape[-1] // kernel.shape[-2])


def _ungrouped(kernel: np.ndarray, groups: int) -> np.ndarray:
    """A grouped kernel (..., C / groups, O) with its zeros, (..., C, O)."""
    *spatial, inputs, outputs = kernel.shape
    full = np.zeros((*spatial, inputs * groups, outputs))
    for group in range(groups):
        own = slice(group * outputs // groups, (group + 1) * outputs // groups)
        rows = slice(group * inputs, (group + 1) * inputs)
        full[..., rows, own] = kernel[..., own]
    return full
