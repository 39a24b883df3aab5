"""Replaces grouped convolutions by plain ones, for TensorFlow on a CPU.

On a CPU, TensorFlow has a kernel for a grouped convolution, but none for its
gradient, and none for its fusion (by Grappler) with a bias or FusedBatchNorm
that follows: the call of the function fails. A grouped convolution equals a
plain convolution whose kernel is zero between groups.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from dsg_tf.graph import ir


def groups(graph: ir.Graph, node: ir.Node) -> int:
    """Number of groups of a Conv2D; 1 if its shapes are unknown.

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
    """Replaces the grouped convolutions of a graph by plain ones.

    A kernel (H, W, C / G, O) becomes (H, W, C, O), with zeros where input and
    output channel are in different groups. The new kernel is computed in the
    graph from the old kernel's tensor, which can still be fed. All tensors keep
    their names. The convolution does G times as many multiplications, with the
    same results.

    Args:
      graph: the graph.

    Examples:
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
    nodes: dict[str, ir.Node] = {}
    taken = set(graph.nodes)
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
    """Nodes that compute the plain convolution's kernel; it comes last."""
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
    times = ir.Node.constant(
        name("groups"), np.array([1, 1, count, 1], np.int32)
    )
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
