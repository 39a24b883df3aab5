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
    fakes = [node for node in graph if _ends(node) is not None]
    if not fakes:
        return graph
    weights = [node for node in fakes if graph.is_constant(node.output)]
    values = evaluation.evaluate(graph, [node.output for node in weights])
    nodes = {
        node.name: ir.Node.constant(node.name, values[node.output])
        for node in weights
    }
    instead, ranges = {}, dict(graph.ranges)
    for node in fakes:
        if node.name in nodes:
            continue
        bounds = _bounds(graph, node)
        if bounds is None:
            continue
        instead[node.output] = node.inputs[0]
        ranges[node.inputs[0]] = bounds

    def behind(tensor: str) -> str:
        while tensor in instead:
            tensor = instead[tensor]
        return tensor

    for node in graph:
        if any(tensor in instead for tensor in node.inputs):
            nodes[node.name] = node.with_inputs(map(behind, node.inputs))
    return graph.replace_nodes(
        nodes,
        outputs=[
            ir.Port(p.name, behind(p.tensor), p.dtype, p.shape)
            for p in graph.outputs
        ],
        ranges={behind(tensor): bounds for tensor, bounds in ranges.items()},
    )


def _ends(node: ir.Node) -> tuple[str, str] | None:
    """The inputs that hold both ends of a node's range; () for attributes."""
    if node.op.endswith("Gradient"):
        return None
    if node.op == f"{_PREFIX}Args":
        return ("", "")
    if node.op.startswith(_PREFIX) or (
        node.op.startswith(_ROUNDING) and node.attr("range_given", False)
    ):
        return node.inputs[1], node.inputs[2]
    return None


def _bounds(graph: ir.Graph, node: ir.Node) -> qtypes.TensorRange | None:
    """A node's range, where it is one for the whole tensor and constant."""
    if node.op == f"{_PREFIX}Args":
        low, high = node.attr("min", -6.0), node.attr("max", 6.0)
    else:
        ends = _ends(node)
        if not all(graph.is_constant(tensor) for tensor in ends):
            return None
        found = evaluation.evaluate(graph, ends)
        low, high = (np.asarray(found[tensor]) for tensor in ends)
        if low.size != 1 or high.size != 1:
            return None
    return qtypes.TensorRange(float(low), float(high)).with_zero()
