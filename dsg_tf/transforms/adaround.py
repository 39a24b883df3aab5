"""AdaRound: rounding of weights learned from samples, layer by layer.

Rounding to nearest is not what changes a layer's output least. Layer by layer
in topological order, AdaRound learns for each weight whether to round down or
up, so that the layer, fed by the layers that are rounded already, gives what
it gave in the float network (asymmetric reconstruction, through the activation
behind it). `dsg_tf.transforms.learned_rounding` has the arithmetic.

A layer is seen as a product of rows (`dsg_tf.analysis.layer_rows`): patches
from random positions of all samples, computed once a layer and held within a
memory bound. The bias is set so that the mean of each output channel is that
of the float network, so that no bias correction is left to do.

References:
  Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization",
  ICML 2020, section 3.3 (asymmetric reconstruction: equation 25).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import numpy as np

from dsg_tf.analysis import layer_edits, layer_rows, linear_layers
from dsg_tf.graph import evaluation, ir, walk
from dsg_tf.quant import qtypes, uniform
from dsg_tf.transforms import learned_rounding, pass_report

# Rows of one layer: at most so many, in at most so many bytes.
MAX_ROWS = 8192
MAX_BYTES = 256 * 2**20
# Samples that go through the network at a time.
_BATCH_SIZE = 16


class Store(Protocol):
    """Keeps finished layers, so that a killed run goes on from there."""

    def get(self, name: str) -> Mapping[str, np.ndarray] | None:
        """What was put under a name, None where nothing was."""

    def put(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Keeps arrays under a name."""


def adaround(
    graph: ir.Graph,
    grids: Mapping[str, qtypes.QuantParams],
    samples: Mapping[str, np.ndarray],
    *,
    config: learned_rounding.Config | None = None,
    seed: int = 0,
    store: Store | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[ir.Graph, pass_report.PassReport]:
    """Rounds the weights of all layers, each behind those before it.

    Args:
      graph: a frozen graph, BN folded.
      grids: by node of the layer: scales (O,) along axis 0 of its rows, or
        one scale (`weight_scales.choose`). Layers without one stay float.
      samples: (N, ...) by input name, model input units.
      config: how rounding is learned.
      seed: of positions and batches.
      store: keeps finished layers.
      progress: called with (layers done, layers) after each.

    Returns:
      The graph, with `weight_grids`, and a row for each layer with its mean
      squared errors behind the activation, `nearest_error` and `error`, and
      the steps that it took. Layers that are no products of rows are rounded
      to nearest, and the row says so; it says too which have no grid.

    Examples:
      >>> from dsg_tf.quant import weight_scales
      >>> from dsg_tf.graph.load import loading
      >>> from dsg_tf.transforms import fold_batch_norm
      >>> graph = loading.load("examples/digits_saved_model")
      >>> graph, _ = fold_batch_norm.fold_batch_norm(graph)
      >>> grids = {
      ...     layer.node: weight_scales.choose(layer.rows(), 3)
      ...     for layer in linear_layers.find(graph)
      ... }
      >>> shape = (32, *graph.inputs[0].shape[1:])
      >>> noise = np.random.default_rng(0).uniform(0, 16, shape)
      >>> rounded, report = adaround(
      ...     graph,
      ...     grids,
      ...     {graph.inputs[0].name: noise.astype(np.float32)},
      ...     config=learned_rounding.Config(steps=20),
      ... )
      >>> all(
      ...     row.measured["error"] <= row.measured["nearest_error"]
      ...     for row in report.rows
      ... )
      True
    """
    config = config or learned_rounding.Config()
    # A layer without a bias gets one, and its operation another name for it.
    nodes = {x.output: x.node for x in linear_layers.find(graph)}
    graph = layer_edits.with_own_constants(graph)
    found = linear_layers.find(graph)
    layers = [x for x in found if nodes[x.output] in grids]
    prefix = _Prefix(graph, layers, samples)
    edit = layer_edits.Edit(graph)
    rows = {
        x.output: pass_report.Row(x.name, False, "no grid; left float")
        for x in found
    }
    for number, layer in enumerate(layers):
        node = nodes[layer.output]
        grid = grids[node]
        reason = layer_rows.reason_against(layer)
        if reason:
            values = uniform.fake_quantize(layer.rows(), grid)
            kernel, bias = layer.from_rows(values), layer.bias
            row = pass_report.Row(
                layer.name, False, f"{reason}; rounded to nearest"
            )
        else:
            done = store.get(node) if store is not None else None
            if done is None:
                done = _rounded(
                    graph, layer, grid, prefix, config, [seed, number]
                )
                if store is not None:
                    store.put(node, done)
            kernel, bias = done["kernel"], done["bias"]
            names = ("nearest_error", "error", "steps")
            row = pass_report.Row(
                layer.name, True, measured={n: float(done[n]) for n in names}
            )
        rows[layer.output] = row
        prefix.set(layer, kernel, bias)
        edit.set(layer, kernel, bias, grid=grid)
        if progress is not None:
            progress(number + 1, len(layers))
    return edit.graph(), pass_report.PassReport(
        "adaround", tuple(rows.values())
    )


def _rounded(
    graph: ir.Graph,
    layer: linear_layers.LinearLayer,
    grid: qtypes.QuantParams,
    prefix: _Prefix,
    config: learned_rounding.Config,
    seed: list[int],
) -> dict[str, np.ndarray]:
    """A layer's kernel on the grid, its bias, and what they are worth."""
    rng = np.random.default_rng(seed)
    batches = prefix.batches(layer)
    first = next(batches)
    rows = layer_rows.collect(
        graph,
        layer,
        itertools.chain([first], batches),
        share=prefix.share(layer, first[1]),
        rng=rng,
    )
    channels = (layer.out_channels,)
    scale = np.broadcast_to(grid.scale.astype(np.float64), channels)
    scale = layer_rows.by_group(layer, scale)
    low, high = linear_layers.activation_bounds(graph, layer)
    learned = learned_rounding.learn(
        layer_rows.grouped(layer, layer.kernel.astype(np.float64)),
        scale,
        rows,
        grid=grid,
        bounds=(
            layer_rows.by_group(layer, low),
            layer_rows.by_group(layer, high),
        ),
        config=config,
        seed=int(rng.integers(2**31)),
    )
    kernel = layer_rows.ungrouped(layer, learned.codes * scale)
    return {
        "kernel": kernel.astype(np.float32),
        "bias": learned.bias.reshape(-1).astype(np.float32),
        "nearest_error": np.asarray(learned.nearest_error, np.float64),
        "error": np.asarray(learned.error, np.float64),
        "steps": np.asarray(learned.steps, np.int64),
    }


class _Prefix:
    """Inputs of layers behind rounded ones, and their outputs in float.

    Two walks through the network: each layer's rows are computed from the
    layers before it, and not from the network's input.
    """

    def __init__(self, graph, layers, samples):
        self._count = len(next(iter(samples.values())))
        self._batch_size = min(
            self._count, evaluation.batch_size(graph.inputs, _BATCH_SIZE)
        )
        # Not `layer.output`: what stands before the bias may move positions.
        self._outputs = {x.node: graph[x.node].output for x in layers}
        self._rounded, self._float = (
            walk.Walk(graph, targets, samples, batch_size=_BATCH_SIZE)
            for targets in (
                [layer.input for layer in layers],
                list(self._outputs.values()),
            )
        )

    def set(self, layer: linear_layers.LinearLayer, kernel, bias) -> None:
        """Rounds a layer, for those behind it."""
        for tensor, value in (
            (layer.kernel_tensor, kernel),
            (layer.bias_tensor, bias),
        ):
            self._rounded.set_constant(tensor, np.asarray(value, np.float32))

    def batches(
        self, layer: linear_layers.LinearLayer
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(input behind rounded layers, float output), a batch at a time."""
        rounded = self._rounded.to([layer.input])
        wanted = self._float.to([self._outputs[layer.node]])
        for (x,), (y,) in zip(rounded, wanted, strict=True):
            yield x, y + layer.bias

    def share(
        self, layer: linear_layers.LinearLayer, output: np.ndarray
    ) -> float:
        """Share of the layer's positions whose rows are within the bounds.

        Args:
          layer: the layer.
          output: its output in the first batch. The graph need not know how
            many positions that has, nor be a sample's positions one of them.
        """
        positions = output[..., 0].size * self._count / self._batch_size
        fitting = MAX_BYTES // (4 * layer_rows.size(layer))
        return min(MAX_ROWS, fitting) / positions
