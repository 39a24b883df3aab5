"""High biases absorbed into the next layer.

After equalization a channel can have a large bias, and its activations a wide
range far above zero. What of a channel is always above a constant c passes a
ReLU as it is, and may as well be added behind it:

    W2 relu(W1 x + b1) + b2 = W2 relu(W1 x + b1 - c) + (b2 + W2 c),
    c = max(0, beta - 3 gamma),

with mean beta and deviation gamma of the channel before the ReLU, from BN.
For 99.87 % of a normal variable this is exact; an upper bound behind the ReLU
moves down by c. At padded borders it is not: zeros are padded where c would
have to be. So what the next layer gives is compared over samples, and where it
changes by more than a bound, the pair is left as it was.

References:
  Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
  Correction", ICCV 2019, section 4.1.3.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dsg_tf.analysis import channel_paths, layer_edits, linear_layers
from dsg_tf.graph import evaluation, ir, ops
from dsg_tf.transforms import pass_report

_CLIPPING = frozenset({"Minimum", "Relu", "Relu6"})
# They hand a constant on as it is, borders apart.
_KEEPING = ops.PADS | ops.POOLS | ops.RESHAPES | {"Mean"}
# What is left of an upper bound, at the least, as a share of it.
_LEAST_BOUND = 0.05


def absorb_bias(
    graph: ir.Graph,
    *,
    samples: Mapping[str, np.ndarray] | None = None,
    deviations: float = 3.0,
    max_change: float = 0.02,
) -> tuple[ir.Graph, pass_report.PassReport]:
    """Absorbs high biases, pair by pair.

    Args:
      graph: a frozen graph, BN folded, with the moments of what was folded.
      samples: (N, ...) by input name, model input units, to measure on.
        Without them only pairs that no padding stands between are treated.
      deviations: how far below its mean a channel counts as never.
      max_change: root mean square change of the next layer's output, relative
        to its deviation, beyond which a pair is left as it was.

    Returns:
      The graph, and a row for each layer, with `relative_change` where it was
      measured and `absorbed_channels`.
    """
    found = channel_paths.find(graph)
    shifts, rows = {}, []
    for path in found:
        if isinstance(path, channel_paths.Path):
            name = path.name
            shift, reason = _absorbable(graph, path, deviations)
            if not reason and not samples and _is_padded(graph, path):
                reason = "padded, and there are no samples to measure on"
            if not reason:
                shifts[path.first.node] = shift
        else:
            name, reason = path.first, path.reason
        rows.append(pass_report.Row(name, not reason, reason))
    if samples and shifts:
        changes = _changes(graph, shifts, samples, max_change)
        rows = [
            _measured(row, path, shifts, changes, max_change)
            for row, path in zip(rows, found, strict=True)
        ]
        shifts = {n: s for n, s in shifts.items() if changes[n] <= max_change}
    return (
        _absorbed(graph, shifts),
        pass_report.PassReport("bias_absorption", tuple(rows)),
    )


def _absorbable(
    graph: ir.Graph, path: channel_paths.Path, deviations: float
) -> tuple[np.ndarray, str]:
    """The constants c (C,) of a pair, and why there are none."""
    none = np.zeros(path.first.out_channels)
    ops = [node.op for node in path.nodes]
    clips = [op for op in ops if op in ("Relu", "Relu6")]
    if len(clips) != 1 or set(ops) - _CLIPPING - _KEEPING:
        return none, "no ReLU alone stands between"
    if path.second.op == "Conv2DBackpropInput":
        return none, "a transposed convolution adds it unevenly"
    moments = graph.moments.get(path.first.output)
    if moments is None:
        return none, "no BN tells the moments of its output"
    shift = np.maximum(moments.mean - deviations * moments.deviation, 0.0)
    for bound in path.clips.values():
        shift = np.minimum(shift, (1 - _LEAST_BOUND) * bound)
    if not shift.any():
        return none, "no channel is far enough above zero"
    return shift, ""


def _is_padded(graph: ir.Graph, path: channel_paths.Path) -> bool:
    if any(node.op in ops.PADS for node in path.nodes):
        return True
    padding = graph[path.second.node].attr("padding", "VALID")
    return padding != "VALID" and path.second.kernel_size != (1, 1)


def _measured(row, path, shifts, changes, max_change) -> pass_report.Row:
    """A row with what was measured, skipped where it is too much."""
    if not row.applied:
        return row
    change = changes[path.first.node]
    reason = ""
    if not change <= max_change:
        reason = "the next layer's output would change too much"
    channels = int(np.count_nonzero(shifts[path.first.node]))
    measured = {"relative_change": change, "absorbed_channels": channels}
    return pass_report.Row(row.node, not reason, reason, measured)


def _absorbed(graph: ir.Graph, shifts: Mapping[str, np.ndarray]) -> ir.Graph:
    """The graph with the constants of some pairs absorbed."""
    if not shifts:
        return graph
    graph = layer_edits.with_own_constants(graph)
    paths = {
        path.first.node: path
        for path in channel_paths.find(graph)
        if isinstance(path, channel_paths.Path)
    }
    edit = layer_edits.Edit(graph)
    moments = dict(graph.moments)
    biases = {
        x.node: x.bias.astype(np.float64) for x in linear_layers.find(graph)
    }
    for node, shift in shifts.items():
        path = paths[node]
        first, second = path.first, path.second
        biases[first.node] = biases[first.node] - shift
        biases[second.node] = biases[second.node] + second.respond(
            second.kernel.astype(np.float64), path.at_second(shift)
        )
        moments[first.output] = moments[first.output].shifted(-shift)
        channel_paths.set_bounds(
            edit, graph, {n: b - shift for n, b in path.clips.items()}
        )
    for layer in linear_layers.find(graph):
        grid = graph.weight_grids.get(layer.kernel_tensor)
        edit.set(layer, layer.kernel, biases[layer.node], grid=grid)
    return edit.graph(moments=moments)


def _changes(
    graph: ir.Graph,
    shifts: Mapping[str, np.ndarray],
    samples: Mapping[str, np.ndarray],
    max_change: float,
) -> dict[str, float]:
    """How much each pair alone changes the next layer's output.

    Behind the pairs before it that stay within the bound.

    Returns:
      Root mean square change in deviations of the output, by first node.
    """
    changes: dict[str, float] = {}
    accepted: dict[str, np.ndarray] = {}
    seconds = {
        path.first.node: path.second
        for path in channel_paths.find(graph)
        if isinstance(path, channel_paths.Path)
    }
    current = graph
    for node, shift in shifts.items():
        candidate = _absorbed(graph, {**accepted, node: shift})
        output = seconds[node].output
        changes[node] = _relative_rms(current, candidate, output, samples)
        if changes[node] <= max_change:
            accepted[node], current = shift, candidate
    return changes


def _relative_rms(
    graph: ir.Graph,
    other: ir.Graph,
    tensor: str,
    samples: Mapping[str, np.ndarray],
) -> float:
    """Root mean square change of a tensor in units of its deviation."""
    error = square = total = 0.0
    count = 0
    for (a,), (b,) in zip(
        evaluation.batches(graph, [tensor], samples),
        evaluation.batches(other, [tensor], samples),
        strict=True,
    ):
        a = a.astype(np.float64)
        error += np.sum((b - a) ** 2)
        square += np.sum(a**2)
        total += np.sum(a)
        count += a.size
    variance = max(square / count - (total / count) ** 2, 1e-30)
    return float(np.sqrt(error / count / variance))
