"""Cross-layer equalization: equal weight ranges, the same function.

Between two layers W1 -> f -> W2 with f(x / s) = f(x) / s, factors s > 0 move
from W1 into W2, one for each channel c between them:

    W1 / s, b1 / s, W2 * s    with    s_c = sqrt(r1_c / r2_c),

r1_c and r2_c the largest absolute weights that make and that read channel c.
Both ranges become sqrt(r1_c r2_c) (DFQ, equation 11). Pairs that follow one
another are repeated until nothing moves: a chain converts to a state where
all pairs are equal at once, and a depthwise layer between two others, whose
channels are inputs and outputs alike, is just two pairs of such a chain.

ReLU6 is not homogeneous, but min(max(x, 0), 6) / s = min(max(x / s, 0), 6 / s):
it becomes ReLU and a bound for each channel, which is exact. Where samples show
that no channel comes near to its bound, the bound goes, and what that changes
is measured.

References:
  Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
  Correction", ICCV 2019, sections 4.1 and appendix B.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dsg_tf.analysis import (
    channel_paths,
    channel_statistics,
    layer_edits,
    linear_layers,
)
from dsg_tf.graph import evaluation, ir
from dsg_tf.transforms import pass_report

# Factors that no round moves by more than this count as settled. Along a chain
# of 27 layers (MobileNetV1) a round leaves 98.5 % of what is to be moved: 6 %
# of a range are still to come then, a tenth of a bit.
_SETTLED = 1e-3
# MobileNetV1 0.25 takes 213, and 263 without a limit to ranges.
_MAX_ROUNDS = 500
# How far from its mean a normal variable counts as reaching.
_DEVIATIONS = 3.0
# How many times as far as activations reach a bias may lie.
_BIAS_REACH = 64.0
# A bound counts as out of reach below this share of it.
_OUT_OF_REACH = 0.75


def equalize(
    graph: ir.Graph,
    *,
    samples: Mapping[str, np.ndarray] | None = None,
    max_range_growth: float | None = 1.0,
) -> tuple[ir.Graph, pass_report.PassReport]:
    """Equalizes the weights of all pairs of layers.

    Args:
      graph: a frozen graph, BN folded.
      samples: (N, ...) by input name, model input units. With them, a bound
        of ReLU6 that no sample comes near to is dropped; without, every bound
        is kept exactly.
      max_range_growth: how many times as far as the whole tensor reached
        before, by BN, a channel may reach afterwards: a channel of tiny weights
        and a large bias would otherwise be blown up until one scale for all
        activations serves no other channel. None sets no limit, as in the
        paper; nor is there one where no BN tells the range.

    Returns:
      The graph, and a row for each layer: applied to a pair, or what is in the
      way. A row's `range_ratio_before` and `..._after` are the largest over
      the smallest range of weights of the channels in between.

    Examples:
      >>> from dsg_tf.graph.load import loading
      >>> from dsg_tf.transforms import fold_batch_norm
      >>> graph = loading.load("examples/digits_saved_model")
      >>> graph, _ = fold_batch_norm.fold_batch_norm(graph)
      >>> graph, report = equalize(graph)
      >>> len(report.applied) > 0
      True
    """
    found = channel_paths.find(graph)
    paths = [p for p in found if isinstance(p, channel_paths.Path)]
    kernels = {
        layer.node: layer.kernel.astype(np.float64)
        for layer in linear_layers.find(graph)
    }
    before = {p.first.node: _spread(p, kernels) for p in paths}
    least = _least_factors(graph, paths, max_range_growth)
    factors = _balance(paths, kernels, least)
    after = {p.first.node: _spread(p, kernels) for p in paths}
    free = _out_of_reach(graph, paths, samples) if samples else {}
    edit = layer_edits.Edit(graph)
    rows = []
    for item in found:
        if isinstance(item, channel_paths.Broken):
            rows.append(pass_report.Row(item.first, False, item.reason))
            continue
        bounds = _rescale_clips(
            edit, graph, item, factors[item.first.node], free
        )
        rows.append(
            pass_report.Row(
                item.name,
                True,
                bounds,
                {
                    "range_ratio_before": before[item.first.node],
                    "range_ratio_after": after[item.first.node],
                },
            )
        )
    moments = dict(graph.moments)
    for layer in linear_layers.find(graph):
        scale = factors.get(layer.node)
        if scale is None:
            bias = None
        else:
            bias = None if layer.bias is None else layer.bias / scale
            if layer.output in moments:
                moments[layer.output] = moments[layer.output].scaled(1 / scale)
        edit.set(layer, kernels[layer.node], bias)
    result = edit.graph(moments=moments)
    measured = {}
    if any(free.values()):
        measured["relative_output_change"] = evaluation.relative_change(
            graph, result, samples
        )
    return result, pass_report.PassReport(
        "cross_layer_equalization", tuple(rows), measured
    )


def _balance(
    paths: list[channel_paths.Path],
    kernels: dict[str, np.ndarray],
    least: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Scales kernels, in place, until no factor moves.

    Returns:
      What each first layer's outputs were divided by, (O,), by its node.
    """
    factors = {p.first.node: np.ones(p.first.out_channels) for p in paths}
    for _ in range(_MAX_ROUNDS):
        moved = 0.0
        for path in paths:
            first, second = path.first, path.second
            made, read = _ranges(path, kernels)
            alive = (made > 0) & (read > 0)
            factor = factors[first.node].copy()
            factor[alive] *= np.sqrt(made[alive] / read[alive])
            factor = np.maximum(factor, least[first.node])
            scale = factor / factors[first.node]
            kernels[first.node] = first.with_scaled_outputs(
                kernels[first.node], 1 / scale
            )
            kernels[second.node] = second.with_scaled_inputs(
                kernels[second.node], path.at_second(scale)
            )
            factors[first.node] = factor
            moved = max(moved, float(np.abs(np.log(scale)).max()))
        if moved < _SETTLED:
            break
    return factors


def _least_factors(
    graph: ir.Graph,
    paths: list[channel_paths.Path],
    max_range_growth: float | None,
) -> dict[str, np.ndarray]:
    """The least that each channel may be divided by, (O,), by first node."""
    known = channel_statistics.find(graph)
    least = {}
    for path in paths:
        least[path.first.node] = np.zeros(path.first.out_channels)
        ends = [node.output for node in path.nodes if node.output in known]
        tensor = ends[-1] if ends else path.first.output
        if max_range_growth is None or tensor not in known:
            continue
        reach = np.maximum(*np.abs(known[tensor].interval(_DEVIATIONS)))
        if not reach.any():
            continue
        bias = np.zeros(1) if path.first.bias is None else path.first.bias
        # A channel that is always off reaches nothing, but has a bias, which
        # is an integer of 32 bits in the end.
        held = np.maximum(reach, np.abs(bias.astype(np.float64)) / _BIAS_REACH)
        least[path.first.node] = held / (max_range_growth * reach.max())
    return least


def _ranges(
    path: channel_paths.Path, kernels: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Largest absolute weights that make, and that read, each channel."""
    made = np.abs(path.first.rows(kernels[path.first.node])).max(axis=1)
    read = path.second.input_ranges(kernels[path.second.node])
    return made, read.reshape(path.repeats, -1).max(axis=0)


def _spread(
    path: channel_paths.Path, kernels: Mapping[str, np.ndarray]
) -> float:
    """Largest over smallest range of the channels that are alive."""
    made, _ = _ranges(path, kernels)
    alive = made[made > 0]
    return float(alive.max() / alive.min()) if alive.size else 1.0


def _rescale_clips(
    edit: layer_edits.Edit,
    graph: ir.Graph,
    path: channel_paths.Path,
    scale: np.ndarray,
    free: Mapping[str, bool],
) -> str:
    """Puts the bounds of a path where its channels now are; says how."""
    bounds = {
        name: None if free.get(name) else bound / scale
        for name, bound in path.clips.items()
    }
    channel_paths.set_bounds(edit, graph, bounds)
    told = {
        "its bound is out of reach and was dropped"
        if bound is None
        else "its bound is kept, channel by channel"
        for bound in bounds.values()
    }
    return "; ".join(sorted(told))


def _out_of_reach(
    graph: ir.Graph,
    paths: list[channel_paths.Path],
    samples: Mapping[str, np.ndarray],
) -> dict[str, bool]:
    """Whether no sample comes near to any channel's bound, by clip."""
    bounds = {
        name: bound for path in paths for name, bound in path.clips.items()
    }
    if not bounds:
        return {}
    tensors = {
        name: next(t for t in graph[name].inputs if not graph.is_constant(t))
        for name in bounds
    }
    reached = {name: np.full(len(b), -np.inf) for name, b in bounds.items()}
    for values in evaluation.batches(graph, list(tensors.values()), samples):
        for name, value in zip(tensors, values, strict=True):
            top = value.reshape(-1, len(bounds[name])).max(axis=0)
            reached[name] = np.maximum(reached[name], top)
    return {
        name: bool(np.all(reached[name] < _OUT_OF_REACH * bound))
        for name, bound in bounds.items()
    }
