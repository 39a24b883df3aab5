"""Grouped convolutions in the form that TensorFlow runs on a CPU.

TensorFlow's CPU has a kernel for a grouped convolution, but none for its
gradient, and none for the fused operation that Grappler makes of it and of a
bias or a FusedBatchNorm behind it: it fails when the function is called. What
a grouped convolution computes is also a plain convolution, whose kernel is zero
between groups.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from dsg_tf.graph import ir


def groups(graph: ir.Graph, node: ir.Node) -> int:
    """Number of groups of a Conv2D; 1 where its shapes do not tell.

    Args:
      graph: the node's graph.
      node: any node of it.
    """
    if node.op != "Conv2D":
        return 1
    first = node.attr("data_format", "NHWC").startswith("NC")
    image, kernel = (graph.shape(t) for t in node.inputs)
    channels = image[1 if first else -1] if image else None
    read = kernel[2] if kernel else None
    return channels // read if channels and read else 1


def as_dense(graph: ir.Graph) -> ir.Graph:
    """The graph with plain convolutions for the grouped ones.

    A kernel (H, W, C / G, O) becomes (H, W, C, O), with zeros where an input
    channel is of another group than the output channel. It is computed in the
    graph from the tensor that it was read from, so that this may be fed. Every
    tensor keeps its name; the convolution has G times as many products, and
    the same sums.

    Args:
      graph: the graph.

    Example:
      >>> from dsg_tf.graph.load import loading
      >>> kernel = np.ones((1, 1, 1, 2), np.float32)
      >>> twice = tf.function(
      ...     lambda x: tf.nn.conv2d(x, 2 * kernel, 1, "SAME"),
      ...     input_signature=[tf.TensorSpec((None, 4, 4, 2), name="x")],
      ... )
      >>> graph = loading.load(twice)
      >>> [groups(g, g["Conv2D"]) for g in (graph, as_dense(graph))]
      [2, 1]
    """
    nodes, taken = {}, set(graph.nodes)
    for node in graph:
        count = groups(graph, node)
        if count < 2:
            continue
        made = _dense_kernel(graph, node, count, taken)
        nodes.update((n.name, n) for n in made)
        nodes[node.name] = node.with_inputs([node.inputs[0], made[-1].output])
    return graph.replace_nodes(nodes) if nodes else graph


def _dense_kernel(
    graph: ir.Graph, node: ir.Node, count: int, taken: set[str]
) -> list[ir.Node]:
    """What computes the kernel of the plain convolution, itself last."""
    _, _, read, outputs = graph.shape(node.inputs[1])
    dtype = graph.dtype(node.inputs[1])

    def name(what: str) -> str:
        free = ir.free_name(f"{node.name}/{what}", taken)
        taken.add(free)
        return free

    own = np.kron(np.eye(count), np.ones((read, outputs // count)))
    mask = ir.Node.constant(
        name("same_group"), own.astype(dtype.as_numpy_dtype)
    )
    times = ir.Node.constant(name("groups"), np.int32([1, 1, count, 1]))
    tiled = ir.Node.of(
        name("tiled_kernel"),
        "Tile",
        [node.inputs[1], times.output],
        T=dtype,
        Tmultiples=tf.int32,
    )
    dense = ir.Node.of(
        name("dense_kernel"), "Mul", [tiled.output, mask.output], T=dtype
    )
    return [mask, times, tiled, dense]
