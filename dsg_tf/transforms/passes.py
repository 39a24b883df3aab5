"""The order of the passes, from the frozen graph to weights on a grid.

fold BN (or write it as a layer) -> equalize -> absorb biases -> round weights
-> correct biases

BN is folded first because the other passes need whole layers; weights are
equalized before scales are chosen; biases are corrected after rounding. Each
pass can be used alone: see `dsg_tf.transforms`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container, Mapping

import numpy as np
from absl import logging

from dsg_tf.analysis import bn_statistics, layer_edits, linear_layers
from dsg_tf.config import export_config
from dsg_tf.core import progress
from dsg_tf.graph import ir
from dsg_tf.quant import qtypes, weight_scales
from dsg_tf.transforms import (
    adaround,
    bias_absorption,
    bias_correction,
    cross_layer_equalization,
    depthwise_batch_norm,
    fold_batch_norm,
    learned_rounding,
    pass_report,
    weight_rounding,
)

# Samples that absorbing and equalizing are measured on.
_MEASURED_ON = 32


@dataclasses.dataclass(frozen=True, eq=False)
class PreparedGraph:
    """The graph with weights on their grids, and the reports of the passes.

    Attributes:
      graph: with `weight_grids`.
      reference: the float graph that was rounded, of the same structure.
      reports: of the passes, in order.
      untreated: (layer, operation) of layers with weights that no pass treats;
        the exporter rounds them to nearest.
    """

    graph: ir.Graph
    reference: ir.Graph
    reports: tuple[pass_report.PassReport, ...]
    untreated: tuple[tuple[str, str], ...]


def run(
    graph: ir.Graph,
    samples: Mapping[str, np.ndarray],
    config: export_config.ExportConfig,
    *,
    seed: int = 0,
    store: Callable[[ir.Graph], adaround.Store] | None = None,
    stay_float: Container[str] = (),
) -> PreparedGraph:
    """Runs the passes that a config asks for.

    Args:
      graph: the frozen graph, BN intact.
      samples: (N, ...) by input name, model input units.
      config: which, and how.
      seed: of learned rounding.
      store: makes what keeps finished layers of a graph.
      stay_float: outputs of layers whose weights are not rounded.

    Returns:
      The graphs and reports.
    """
    reports = []

    def keep(result: tuple[ir.Graph, pass_report.PassReport]) -> ir.Graph:
        logging.info("%s", result[1].summary())
        reports.append(result[1])
        return result[0]

    few = {name: values[:_MEASURED_ON] for name, values in samples.items()}
    graph = keep(fold_batch_norm.fold_batch_norm(graph))
    if bn_statistics.find(graph):
        graph = keep(depthwise_batch_norm.depthwise_batch_norm(graph))
    if config.equalize:
        graph = keep(cross_layer_equalization.equalize(graph, samples=few))
    if config.absorb_bias:
        graph = keep(bias_absorption.absorb_bias(graph, samples=few))
    # Rounding may add biases: the reference shall have the same tensors.
    graph = layer_edits.with_own_constants(graph)
    grids = choose_grids(graph, config, stay_float)
    rounded = keep(_round(graph, grids, samples, config, seed, store))
    # Learned rounding leaves the means where they were.
    learned = config.weight_rounding == "adaround"
    if config.bias_correction != "none" and not learned:
        with progress.task("bias correction", len(grids), unit="layers") as t:
            rounded = keep(
                bias_correction.correct_bias(
                    rounded,
                    graph,
                    method=config.bias_correction,
                    samples=samples,
                    progress=t.reach,
                )
            )
    untreated = linear_layers.untreated(graph)
    for layer, op in untreated:
        logging.warning("layer %s (%s): rounded to nearest", layer, op)
    return PreparedGraph(rounded, graph, tuple(reports), untreated)


def folded(graph: ir.Graph) -> ir.Graph:
    """The graph that is rounded where nothing comes between.

    BN folded, and constants of their own for all layers.
    """
    graph, _ = fold_batch_norm.fold_batch_norm(graph)
    graph, _ = depthwise_batch_norm.depthwise_batch_norm(graph)
    return layer_edits.with_own_constants(graph)


def choose_grids(
    graph: ir.Graph,
    config: export_config.ExportConfig,
    stay_float: Container[str] = (),
) -> dict[str, qtypes.QuantParams]:
    """The grid of each layer's weights, by the layer's node.

    Below 8 bits scales clip where that has the least squared error: a lone
    large weight would cost all others their resolution.
    """
    granularity = qtypes.Granularity(config.granularity)
    layers = linear_layers.find(graph)
    ends = _first_and_last(graph, layers)
    grids = {}
    for layer in layers:
        if layer.output in stay_float:
            continue
        kept = config.keep_first_last_8bit and layer.node in ends
        bits = 8 if kept else config.weight_bits
        grids[layer.node] = weight_scales.choose(
            layer.rows(),
            bits,
            granularity=granularity,
            method=export_config.weight_range_method(bits),
        )
    return grids


def _round(graph, grids, samples, config, seed, store):
    """Weights on their grids, by the rounding that the config asks for."""
    if config.weight_rounding == "nearest":
        return weight_rounding.round_weights(graph, grids)
    with progress.task("adaround", len(grids), unit="layers") as stage:
        return adaround.adaround(
            graph,
            grids,
            samples,
            config=learned_rounding.Config(),
            seed=seed,
            store=None if store is None else store(graph),
            progress=stage.reach,
        )


def _first_and_last(
    graph: ir.Graph, layers: tuple[linear_layers.LinearLayer, ...]
) -> set[str]:
    """Nodes of the layers that no layer is before, or behind."""
    nodes = {layer.node for layer in layers}
    before = {
        layer.node: {
            node.name
            for node in graph.ancestors(layer.input)
            if node.name in nodes
        }
        for layer in layers
    }
    first = {node for node, found in before.items() if not found}
    return first | (nodes - set().union(*before.values()))
