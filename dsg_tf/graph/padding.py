"""Folds a Pad node before a convolution into the convolution's padding.

PyTorch pads on both sides; with stride 1, TensorFlow's SAME padding does the
same. Models converted from PyTorch have a separate Pad node, which copies the
whole feature map, and its gradient too.
"""

from __future__ import annotations

from dsg_tf.graph import ir, ops


def absorbed(graph: ir.Graph) -> ir.Graph:
    """Removes the Pad nodes that SAME padding can replace.

    All other tensors keep their names and values.

    Args:
      graph: the graph.

    Examples:
      >>> import numpy as np
      >>> import tensorflow as tf
      >>> from dsg_tf.graph.load import loading
      >>> ones = np.ones((3, 3, 1, 1), np.float32)
      >>> borders = [[0, 0], [1, 1], [1, 1], [0, 0]]
      >>> padded = tf.function(
      ...     lambda x: tf.nn.conv2d(tf.pad(x, borders), ones, 1, "VALID"),
      ...     input_signature=[tf.TensorSpec((None, 4, 4, 1), name="x")],
      ... )
      >>> absorbed(loading.load(padded))["Conv2D"].attr("padding")
      'SAME'
    """
    nodes = {}
    outputs = {port.tensor for port in graph.outputs}
    for node in graph:
        if node.op not in ops.CONVOLUTIONS:
            continue
        pad = graph.producer(node.inputs[0])
        if pad.output in outputs or not _is_same(graph, pad, node):
            continue
        changed = node.with_inputs([pad.inputs[0], *node.inputs[1:]])
        changed.definition.attr["padding"].s = b"SAME"
        nodes[node.name] = changed
    return graph.replace_nodes(nodes) if nodes else graph


def _is_same(graph: ir.Graph, pad: ir.Node, node: ir.Node) -> bool:
    """Whether SAME padding gives the same result as Pad and the node."""
    if pad.op not in ("Pad", "PadV2") or node.attr("padding") != "VALID":
        return False
    if pad.op == "PadV2":
        fill = graph.literal(pad.inputs[2])
        if fill is None or fill.any():
            return False
    if node.attr("data_format", "NHWC") != "NHWC":
        return False
    if set(node.attr("strides")) != {1}:
        return False
    borders = graph.literal(pad.inputs[1])
    kernel = graph.shape(node.inputs[1])
    if borders is None or not kernel or None in kernel[:2]:
        return False
    dilations = node.attr("dilations") or [1, 1, 1, 1]
    wanted = [[0, 0]]
    for size, dilation in zip(kernel[:2], dilations[1:3], strict=True):
        total = (size - 1) * dilation
        wanted.append([total // 2, total - total // 2])
    return borders.tolist() == [*wanted, [0, 0]]
