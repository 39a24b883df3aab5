"""BatchNormalization that no layer takes, as a depthwise convolution.

Behind an activation, a concatenation or an input, BatchNormalization cannot be
folded into weights. As MUL and ADD of an integer file it has one scale for the
factors of all channels, and rounds twice; a channel whose variance is nearly
zero has a factor so large that nothing is left of the others. A depthwise
convolution of size 1 x 1 computes the same in float, and has a scale for each
channel and a bias of 32 bits.

    gamma (x - mean) / sqrt(variance + epsilon) + beta = k x + (beta - k mean)
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from dsg_tf.analysis import bn_statistics
from dsg_tf.graph import ir, memo
from dsg_tf.transforms import pass_report


@memo.per_graph
def depthwise_batch_norm(
    graph: ir.Graph,
) -> tuple[ir.Graph, pass_report.PassReport]:
    """Writes every BN of a feature map as a depthwise convolution.

    Args:
      graph: a frozen graph, behind `fold_batch_norm`.

    Returns:
      The graph, and a row for each BN layer that it had. One of another rank,
      or with its channels first, stays as it is.

    Raises:
      errors.UserError: as `bn_statistics.find`.
    """
    nodes: dict[str, ir.Node] = {}
    moments = dict(graph.moments)
    rows = []
    taken = set(graph.nodes)
    for layer in bn_statistics.find(graph):
        shape = graph.shape(layer.input)
        fits = shape is not None and len(shape) == 4 and layer.channel_axis == 3
        rows.append(
            pass_report.Row(
                layer.name, fits, "" if fits else "no map of channels last"
            )
        )
        if fits:
            for node in _nodes(layer, taken):
                nodes[node.name] = node
                taken.add(node.name)
            moments[layer.output] = bn_statistics.output_moments(layer)
    report = pass_report.PassReport("depthwise_batch_norm", tuple(rows))
    if not nodes:
        return graph, report
    return graph.replace_nodes(nodes, moments=moments), report


def _nodes(layer: bn_statistics.BatchNorm, taken: set[str]) -> list[ir.Node]:
    """Kernel, convolution, bias and their sum, which has BN's name."""
    factor = layer.gamma / np.sqrt(
        layer.variance.astype(np.float64) + layer.epsilon
    )
    offset = layer.beta - factor * layer.mean.astype(np.float64)
    target = ir.node_name(layer.output)
    scope = target if "/" not in target else target.rpartition("/")[0]

    def free(what: str) -> str:
        return ir.free_name(f"{scope}/{what}", taken)

    kernel = ir.Node.constant(
        free("kernel"), factor.astype(np.float32).reshape(1, 1, -1, 1)
    )
    bias = ir.Node.constant(free("bias"), offset.astype(np.float32))
    convolution = ir.Node.of(
        free("linear"),
        "DepthwiseConv2dNative",
        [layer.input, kernel.output],
        T=tf.float32,
        padding="VALID",
        data_format="NHWC",
    )
    convolution.definition.attr["strides"].list.i.extend([1, 1, 1, 1])
    convolution.definition.attr["dilations"].list.i.extend([1, 1, 1, 1])
    total = ir.Node.of(
        target,
        "BiasAdd",
        [convolution.output, bias.output],
        T=tf.float32,
        data_format="NHWC",
    )
    return [kernel, bias, convolution, total]
