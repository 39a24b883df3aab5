"""FakeQuant operations of a model that was trained for quantization.

Their ranges are learned or measured on real data, better than what samples can
tell. The operations themselves go: weights keep the values that FakeQuant gives
them, activations are quantized again by the export, with the same ranges.

References:
  Jacob et al., "Quantization and Training of Neural Networks for Efficient
  Integer-Arithmetic-Only Inference", CVPR 2018, section 3.
"""

from __future__ import annotations

import numpy as np

from dsg_tf.graph import evaluation, ir
from dsg_tf.quant import qtypes

_PREFIX = "FakeQuantWithMinMax"
_ROUNDING = "QuantizeAndDequantize"
# Operations on integers that stand for real values.
_QUANTIZED = (
    "Dequantize",
    "Quantized",
    "QuantizeV2",
    "Requantize",
    "UniformDequantize",
    "UniformQuantize",
    "UniformRequantize",
)


def quantized_op(graph: ir.Graph) -> ir.Node | None:
    """An operation of a graph that is quantized already; None without any."""
    for node in graph:
        if node.op.startswith(_QUANTIZED):
            return node
    return None


def without(graph: ir.Graph) -> ir.Graph:
    """The graph without FakeQuant, which knows its ranges.

    Args:
      graph: a frozen graph.

    Returns:
      The graph, with `ranges` of the tensors that were fake-quantized; itself
      where it has none.
    """
    fakes = [node for node in graph if _is_fake(node)]
    if not fakes:
        return graph
    weights = [node for node in fakes if graph.is_constant(node.output)]
    values = evaluation.evaluate(graph, [node.output for node in weights])
    nodes = {
        node.name: ir.Node.constant(node.name, values[node.output])
        for node in weights
    }
    instead, ranges = {}, {}
    for node in fakes:
        bounds = None if node.name in nodes else _bounds(graph, node)
        if bounds is not None:
            instead[node.output] = node.inputs[0]
            ranges[node.inputs[0]] = bounds
    # Of two in a row the first one's range is the tensor's.
    known = {t: bounds for t, bounds in ranges.items() if t not in instead}
    return graph.redirected(instead, nodes=nodes, ranges=known)


def _is_fake(node: ir.Node) -> bool:
    """Whether a node rounds to a grid whose ends it is given."""
    if node.op.startswith(_PREFIX):
        return not node.op.endswith("Gradient")
    return node.op.startswith(_ROUNDING) and node.attr("range_given", False)


def _bounds(graph: ir.Graph, node: ir.Node) -> qtypes.TensorRange | None:
    """A node's range, where it is one for the whole tensor and constant."""
    if node.op == f"{_PREFIX}Args":
        return qtypes.TensorRange(
            node.attr("min", -6.0), node.attr("max", 6.0)
        ).with_zero()
    ends = node.inputs[1:3]
    if not all(graph.is_constant(tensor) for tensor in ends):
        return None
    low, high = evaluation.evaluate(graph, ends).values()
    if np.size(low) != 1 or np.size(high) != 1:
        return None
    return qtypes.TensorRange(float(low), float(high)).with_zero()
