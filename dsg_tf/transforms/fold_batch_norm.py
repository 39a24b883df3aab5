"""BatchNormalization folded into the layer before it.

With k = gamma / sqrt(variance + epsilon), per output channel,

    gamma * (W x + b - mean) / sqrt(variance + epsilon) + beta
      = (k W) x + (b - mean) k + beta.

In arithmetic this changes nothing. What BN knew of its output, mean beta and
deviation |gamma|, stays in `Graph.moments`, for bias absorption, analytic bias
correction and ranges without samples.

References:
  Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
  Correction", ICCV 2019, section 4 and appendix A.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dsg_tf.analysis import bn_statistics, layer_edits, linear_layers
from dsg_tf.graph import ir, memo, ops
from dsg_tf.transforms import pass_report


@memo.per_graph
def fold_batch_norm(
    graph: ir.Graph,
) -> tuple[ir.Graph, pass_report.PassReport]:
    """Folds every BN that stands behind a convolution or matrix product.

    Args:
      graph: a frozen graph, BN in inference mode.

    Returns:
      The graph, where each BN's output is the sum of a layer and its bias, and
      a row for each BN layer. A BN that is not behind a layer with weights, or
      behind one that others read too, stays as it is.

    Raises:
      errors.UserError: as `bn_statistics.find`.

    Examples:
      >>> from dsg_tf.graph.load import loading
      >>> graph = loading.load("examples/digits_saved_model")
      >>> folded, report = fold_batch_norm(graph)
      >>> len(report.skipped), len(bn_statistics.find(folded))
      (0, 0)
    """
    rows: dict[str, pass_report.Row] = {}
    while True:
        edit = layer_edits.Edit(graph)
        moments = dict(graph.moments)
        layers = {layer.output: layer for layer in linear_layers.find(graph)}
        count = 0
        for batch_norm in bn_statistics.find(graph):
            layer, reason = _layer_before(graph, batch_norm, layers)
            # By output: two in one scope share a name.
            rows[batch_norm.output] = pass_report.Row(
                batch_norm.name, layer is not None, reason
            )
            if layer is not None:
                _fold(edit, graph, layer, batch_norm)
                moments[batch_norm.output] = bn_statistics.output_moments(
                    batch_norm
                )
                count += 1
        if not count:
            return graph, pass_report.PassReport(
                "fold_batch_norm", tuple(rows.values())
            )
        # A BN behind a BN now stands behind a layer.
        graph = edit.graph(moments=moments)


def _fold(
    edit: layer_edits.Edit,
    graph: ir.Graph,
    layer: linear_layers.LinearLayer,
    batch_norm: bn_statistics.BatchNorm,
) -> None:
    sigma = np.sqrt(batch_norm.variance.astype(np.float64) + batch_norm.epsilon)
    factor = batch_norm.gamma / sigma
    kernel = layer.with_scaled_outputs(layer.kernel.astype(np.float64), factor)
    bias = np.zeros(layer.out_channels) if layer.bias is None else layer.bias
    bias = (bias - batch_norm.mean.astype(np.float64)) * factor
    source = batch_norm.input
    if source == layer.output:
        source = layer.linear_output
    elif layer.bias is not None:
        # A reshape stands between the bias and the BN: the bias moves behind
        # it, where it is added to the same channels.
        _bypass(edit, graph, layer.output, layer.linear_output)
    edit.set(
        layer,
        kernel,
        bias + batch_norm.beta,
        source=source,
        output=batch_norm.output,
    )


def _bypass(
    edit: layer_edits.Edit, graph: ir.Graph, old: str, new: str
) -> None:
    """Lets all that read one tensor read another."""
    for node in graph.consumers(old):
        inputs = [new if tensor == old else tensor for tensor in node.inputs]
        edit.replace(node.with_inputs(inputs))


def _layer_before(
    graph: ir.Graph,
    batch_norm: bn_statistics.BatchNorm,
    layers: Mapping[str, linear_layers.LinearLayer],
) -> tuple[linear_layers.LinearLayer | None, str]:
    """The layer that a BN can be folded into; or None, and why not."""
    tensor = batch_norm.input
    passed = []
    while (
        tensor not in layers and graph.producer(tensor).op in ops.BEHIND_LAYERS
    ):
        passed.append(tensor)
        tensor = graph.producer(tensor).inputs[0]
    layer = layers.get(tensor)
    if layer is None:
        op = graph.producer(batch_norm.input).op
        return None, f"behind {op}, which has no weights"
    axis = layer.channel_axis
    if passed and layer.op != "MatMul" and axis == 1:
        return None, "a reshape stands between layer and BN"
    if passed:
        axis = len(graph.shape(batch_norm.input)) - 1
    if (layer.out_channels, axis) != (
        batch_norm.num_channels,
        batch_norm.channel_axis,
    ):
        return None, "its channels are not those of the layer"
    if passed and graph.shape(passed[0])[-1] != layer.out_channels:
        return None, "a reshape stands between layer and BN"
    if _read_elsewhere(graph, layer, batch_norm):
        return None, "others read the layer's output too"
    return layer, ""


def _read_elsewhere(
    graph: ir.Graph,
    layer: linear_layers.LinearLayer,
    batch_norm: bn_statistics.BatchNorm,
) -> bool:
    """Whether anything but the BN reads what lies between both ends."""
    outputs = {port.tensor for port in graph.outputs}
    # Every operation leads to an output: what leaves the way gets there.
    queue, seen = [layer.node], {ir.node_name(batch_norm.output)}
    while queue:
        for tensor in graph.output_tensors(graph[queue.pop()]):
            if tensor in outputs:
                return True
            readers = {node.name for node in graph.consumers(tensor)} - seen
            queue += sorted(readers)
            seen |= readers
    return False
