"""Bias correction: compensates the shift that rounding gives the means.

Rounded weights W~ shift the mean of every output channel, for inputs behind a
ReLU are not centred. The shift goes into the bias:

* `analytic`: b' = b - (W~ - W) E[x], with E[x] the mean of a clipped normal
  variable, from the BN before (DFQ section 4.2). Needs no samples, but a BN.
* `empirical`: b' = b + E[y] - E[y~], over samples, layer by layer behind those
  that are corrected already, so that it works where no BN is near (DFQ
  appendix D; the DSG paper's table 3 runs it on synthetic samples).
* `auto`: analytic where BN says what the input is, empirical elsewhere.

References:
  Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
  Correction", ICCV 2019, section 4.2 and appendix D.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from dsg_tf.analysis import channel_statistics, layer_edits, linear_layers
from dsg_tf.core import errors
from dsg_tf.graph import evaluation, frozen, ir, tapped
from dsg_tf.transforms import pass_report

METHODS = ("analytic", "auto", "empirical")

# Of the largest layer's outputs over all samples that means are taken over.
_MOST_BYTES = 256_000_000
_LEAST_SAMPLES = 4


def correct_bias(
    graph: ir.Graph,
    reference: ir.Graph,
    *,
    method: str = "empirical",
    samples: Mapping[str, np.ndarray] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[ir.Graph, pass_report.PassReport]:
    """Corrects the bias of every layer whose weights were changed.

    Args:
      graph: a frozen graph, weights rounded.
      reference: the graph before, BN folded.
      method: `analytic`, `empirical` or `auto`.
      samples: (N, ...) by input name, model input units; not for `analytic`.
      progress: called with (layers done, layers) after each.

    Returns:
      The graph, and a row for each layer, with the root mean square of its
      shift relative to the deviation of its outputs where samples tell it.

    Raises:
      errors.UserError: an unknown method, or no samples where they are needed.
    """
    if method not in METHODS:
        raise errors.UserError(
            "--bias_correction",
            got=repr(method),
            expected="one of " + ", ".join(METHODS),
        )
    if method != "analytic" and not samples:
        raise errors.UserError(
            f"bias correction, method {method}",
            got="no samples",
            expected="samples to take means over",
            remedy="the method analytic needs none",
        )
    graph = layer_edits.with_own_constants(graph)
    # By output: a layer that gets a bias only now has another name for it.
    before = {x.output: x for x in linear_layers.find(reference)}
    layers = linear_layers.find(graph)
    known = channel_statistics.find(reference)
    # Of each layer whose weights were changed: what to add, None for what the
    # samples say.
    added: dict[str, np.ndarray | None] = {}
    for layer in layers:
        original = before.get(layer.output)
        if original is None or np.array_equal(layer.kernel, original.kernel):
            continue
        if method != "empirical" and original.input in known:
            rounding = layer.kernel.astype(np.float64) - original.kernel
            expected = known[original.input].expectation()
            response = _mean_response(graph, layer, rounding, expected)
            added[layer.output] = _bias_of(original) - response - layer.bias
        elif method != "analytic":
            added[layer.output] = None
    shifts = {}
    if any(change is None for change in added.values()):
        shifts = _shifts(graph, reference, layers, added, samples)
    edit = layer_edits.Edit(graph)
    rows = []
    for number, layer in enumerate(layers):
        bias, row = _corrected(layer, before, added, shifts)
        rows.append(row)
        if bias is not None:
            edit.set(
                layer,
                layer.kernel,
                bias,
                grid=graph.weight_grids.get(layer.kernel_tensor),
            )
        if progress is not None:
            progress(number + 1, len(layers))
    return edit.graph(), pass_report.PassReport("bias_correction", tuple(rows))


def _corrected(
    layer: linear_layers.LinearLayer,
    before: Mapping[str, linear_layers.LinearLayer],
    added: Mapping[str, np.ndarray | None],
    shifts: Mapping[str, tuple[np.ndarray, float]],
) -> tuple[np.ndarray | None, pass_report.Row]:
    """The bias of a layer, None where it stays, and the row of the report."""
    original = before.get(layer.output)
    if original is None or np.array_equal(layer.kernel, original.kernel):
        row = pass_report.Row(layer.name, False, "its weights are as before")
        return None, row
    if layer.output not in added:
        reason = "no BN tells the mean of its input"
        return None, pass_report.Row(layer.name, False, reason)
    if added[layer.output] is not None:
        bias = layer.bias + added[layer.output]
        return bias, pass_report.Row(layer.name, True, "analytic")
    shift, relative = shifts[layer.output]
    measured = {"relative_shift": relative}
    row = pass_report.Row(layer.name, True, "empirical", measured)
    return layer.bias - shift, row


def _bias_of(layer: linear_layers.LinearLayer) -> np.ndarray:
    if layer.bias is None:
        return np.zeros(layer.out_channels, np.float32)
    return layer.bias


def _mean_response(
    graph: ir.Graph,
    layer: linear_layers.LinearLayer,
    kernel: np.ndarray,
    inputs: np.ndarray,
) -> np.ndarray:
    """Mean output of a constant input, borders apart, no bias, (O,)."""
    response = layer.respond(kernel, inputs)
    if layer.op != "Conv2DBackpropInput":
        return response
    # Each output position meets one in so many taps.
    return response / np.prod(graph[layer.node].attr("strides"))


def _shifts(
    graph: ir.Graph,
    reference: ir.Graph,
    layers: Sequence[linear_layers.LinearLayer],
    added: Mapping[str, np.ndarray | None],
    samples: Mapping[str, np.ndarray],
) -> dict[str, tuple[np.ndarray, float]]:
    """By layer output: E[y~] - E[y] by channel, and its size in deviations.

    All samples go through both networks once, in step: behind each layer of the
    rounded one its shift is taken off, so that the layers behind it see what
    they will see of corrected layers.
    """
    axes = {layer.output: layer.channel_axis for layer in layers}
    batches = _batches(graph, samples)
    wanted: dict[str, tuple[tf.Tensor, tf.Tensor]] = {}
    found: dict[str, tuple[tf.Tensor, tf.Tensor]] = {}

    def keep(tensor: str) -> tapped.Tap:
        def function(values):
            wanted[tensor] = _moments(values, axes[tensor])
            return values

        return tapped.Tap(tensor, tensor, function)

    def correct(tensor: str) -> tapped.Tap:
        axis = axes[tensor]

        def function(values):
            change = added[tensor]
            if change is None:
                mean, deviation = wanted[tensor]
                shift = _moments(values, axis)[0] - mean
                found[tensor] = shift, deviation
                change = -shift
            return [value + _along(change, axis, value) for value in values]

        return tapped.Tap(tensor, tensor, function)

    def function(*fed):
        size = len(graph.inputs)
        split = [fed[at : at + size] for at in range(0, len(fed), size)]
        measured = [t for t, change in added.items() if change is None]
        taps = [keep(tensor) for tensor in measured]
        tapped.splice(reference, split, (), taps=taps)
        taps = [correct(tensor) for tensor in added]
        tapped.splice(graph, split, (), taps=taps)
        return found

    graph, reference = (
        frozen.with_sums_in_pairs(g) for g in (graph, reference)
    )
    traced = tf.function(function, autograph=False)
    with tapped.unoptimised():
        values = traced(*(tensor for feeds in batches for tensor in feeds))
    shifts = {}
    for tensor, (shift, deviation) in values.items():
        unit = np.sqrt(np.mean(deviation.numpy().astype(np.float64) ** 2))
        size = np.sqrt(np.mean(shift.numpy().astype(np.float64) ** 2))
        shifts[tensor] = shift.numpy(), float(size / max(unit, 1e-30))
    return shifts


def _batches(
    graph: ir.Graph, samples: Mapping[str, np.ndarray]
) -> list[list[tf.Tensor]]:
    """Samples as the graph takes them, as many as memory has room for.

    One batch where the graph leaves its size open; else as many of the size
    that it has as there are whole ones. Samples that do not fill one stand in
    it again, all of them about as often.
    """
    largest = max(
        int(np.prod([n for n in graph.shape(layer.output)[1:] if n]))
        for layer in linear_layers.find(graph)
    )
    room = max(_MOST_BYTES // (4 * largest), _LEAST_SAMPLES)
    total = len(next(iter(samples.values())))
    size = evaluation.batch_size(graph.inputs, min(total, room))
    # A batch takes the room that it takes, whatever it holds.
    count = max(min(total, room) // size, 1) * size
    rows = np.arange(count) % total
    few = {name: np.asarray(array)[rows] for name, array in samples.items()}
    return [feeds for feeds, _ in evaluation.fed(graph.inputs, few, size)]


def _moments(
    values: Sequence[tf.Tensor], axis: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and deviation by channel over batches, float32 (C,)."""
    positions = [a for a in range(values[0].shape.rank) if a != axis]
    # By sample first: a sum of millions would lose digits.
    inner = positions[1:]
    means, squares = [], []
    for value in values:
        means.append(tf.reduce_mean(value, inner) if inner else value)
        square = tf.square(value)
        squares.append(tf.reduce_mean(square, inner) if inner else square)
    mean = tf.reduce_mean(tf.concat(means, 0), 0)
    square = tf.reduce_mean(tf.concat(squares, 0), 0)
    return mean, tf.sqrt(tf.nn.relu(square - tf.square(mean)))


def _along(change, axis: int, value: tf.Tensor) -> tf.Tensor:
    """A change by channel, (C,), so that it can be added to a tensor."""
    shape = [1] * value.shape.rank
    shape[axis] = -1
    return tf.reshape(tf.cast(change, value.dtype), shape)
