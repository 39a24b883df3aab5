"""Weights rounded to the nearest value of a grid."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dsg_tf.analysis import layer_edits, linear_layers
from dsg_tf.graph import ir
from dsg_tf.quant import qtypes, uniform
from dsg_tf.transforms import pass_report


def round_weights(
    graph: ir.Graph, grids: Mapping[str, qtypes.QuantParams]
) -> tuple[ir.Graph, pass_report.PassReport]:
    """Rounds the weights of layers to nearest.

    Args:
      graph: a frozen graph, BN folded.
      grids: by node of the layer: scales (O,) along axis 0 of the layer's
        rows, or one scale (`weight_scales.choose`).

    Returns:
      The graph, with `weight_grids`, and a row for each layer with
      `relative_error`, the root mean square error of its weights relative to
      theirs.

    Examples:
      >>> from dsg_tf.quant import weight_scales
      >>> from dsg_tf.graph.load import loading
      >>> graph = loading.load("examples/digits_saved_model")
      >>> grids = {
      ...     layer.node: weight_scales.choose(layer.rows(), 4)
      ...     for layer in linear_layers.find(graph)
      ... }
      >>> rounded, report = round_weights(graph, grids)
      >>> len(rounded.weight_grids) == len(grids)
      True
    """
    edit = layer_edits.Edit(graph)
    rows = []
    for layer in linear_layers.find(graph):
        grid = grids.get(layer.node)
        if grid is None:
            rows.append(
                pass_report.Row(layer.name, False, "its weights stay float")
            )
            continue
        values = uniform.fake_quantize(layer.rows(), grid)
        edit.set(layer, layer.from_rows(values), grid=grid)
        error = float(np.linalg.norm(values - layer.rows()))
        size = max(float(np.linalg.norm(layer.rows())), 1e-30)
        rows.append(
            pass_report.Row(
                layer.name, True, measured={"relative_error": error / size}
            )
        )
    return edit.graph(), pass_report.PassReport("round_weights", tuple(rows))
