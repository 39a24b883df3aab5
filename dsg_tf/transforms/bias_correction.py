"""Bias correction: what rounding the weights did to the means, undone.

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

from collections.abc import Callable, Mapping

import numpy as np

from dsg_tf import channel_statistics, errors, layer_edits, linear_layers
from dsg_tf.graph import ir, parametric
from dsg_tf.transforms import pass_report

METHODS = ("analytic", "auto", "empirical")


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
    means = _Means(graph, layers, before, samples) if samples else None
    edit = layer_edits.Edit(graph)
    rows = []
    for number, layer in enumerate(layers):
        original = before.get(layer.output)
        rounding = None if original is None else layer.kernel - original.kernel
        bias = None
        if rounding is None or not rounding.any():
            row = pass_report.Row(
                layer.name, False, "its weights are as before"
            )
        elif method != "empirical" and original.input in known:
            expected = known[original.input].expectation()
            bias = _bias_of(original) - _mean_response(
                graph, layer, rounding.astype(np.float64), expected
            )
            row = pass_report.Row(layer.name, True, "analytic")
        elif method != "analytic":
            shift, relative = means.shift(layer)
            bias = layer.bias - shift
            row = pass_report.Row(
                layer.name, True, "empirical", {"relative_shift": relative}
            )
        else:
            row = pass_report.Row(
                layer.name, False, "no BN tells the mean of its input"
            )
        rows.append(row)
        if bias is not None:
            edit.set(
                layer,
                layer.kernel,
                bias,
                grid=graph.weight_grids.get(layer.kernel_tensor),
            )
            if means is not None:
                means.set_bias(layer, bias)
        if progress is not None:
            progress(number + 1, len(layers))
    return edit.graph(), pass_report.PassReport("bias_correction", tuple(rows))


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


class _Means:
    """Means of layers' outputs, float and behind corrected layers."""

    def __init__(self, graph, layers, before, samples):
        self._samples = samples
        self._values, self._float_values = {}, {}
        for layer in layers:
            original = before.get(layer.output, layer)
            self._float_values[layer.kernel_tensor] = original.kernel
            self._float_values[layer.bias_tensor] = _bias_of(original)
            self._values[layer.kernel_tensor] = layer.kernel
            self._values[layer.bias_tensor] = layer.bias
        self._runner = parametric.Parametric(graph, list(self._values))

    def set_bias(self, layer: linear_layers.LinearLayer, bias) -> None:
        self._values[layer.bias_tensor] = np.asarray(bias, np.float32)

    def shift(
        self, layer: linear_layers.LinearLayer
    ) -> tuple[np.ndarray, float]:
        """E[y~] - E[y] by channel, and its size in deviations of y."""
        function = self._runner.function([layer.output])
        rounded, _ = self._moments(function, self._values, layer)
        wanted, deviation = self._moments(function, self._float_values, layer)
        shift = rounded - wanted
        unit = np.sqrt(np.mean(deviation**2))
        return shift, float(np.sqrt(np.mean(shift**2)) / max(unit, 1e-30))

    def _moments(self, function, values, layer):
        total = square = 0.0
        count = 0
        for (y,) in self._runner.values(function, self._samples, values):
            rows = np.moveaxis(y, layer.channel_axis, -1)
            rows = rows.reshape(-1, rows.shape[-1]).astype(np.float64)
            total += rows.sum(axis=0)
            square += (rows**2).sum(axis=0)
            count += len(rows)
        mean = total / count
        return mean, np.sqrt(np.maximum(square / count - mean**2, 0.0))
