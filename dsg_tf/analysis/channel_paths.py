"""Paths between linear layers on which every channel stays independent.

If the output of a layer is read by exactly one other layer, through operations
that act on each channel separately and commute with a positive factor,

    f(x / s) = f(x) / s,    s > 0, one factor a channel,

the factor can be moved from the first layer's weights into the second's.
Cross-layer equalization and bias absorption work on these paths. For a layer
without such a path the reason is returned.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from dsg_tf.analysis import layer_edits, linear_layers
from dsg_tf.graph import ir, ops

_KEEP_FACTORS = ops.having(ops.Trait.KEEPS_FACTORS)


@dataclasses.dataclass(frozen=True, eq=False)
class Path:
    """A path from a layer to the only layer that reads its output.

    Attributes:
      first: the layer that it starts at.
      second: the layer that it ends at.
      nodes: the operations in between, in order.
      clips: upper bound (C,) by node, of those that clip: Relu6, Minimum.
      repeats: how often the channels stand in the second layer's input, one
        after another: H * W behind a flattened image, else 1.
    """

    first: linear_layers.LinearLayer
    second: linear_layers.LinearLayer
    nodes: tuple[ir.Node, ...]
    clips: Mapping[str, np.ndarray]
    repeats: int

    @property
    def name(self) -> str:
        """`first -> second`."""
        return f"{self.first.name} -> {self.second.name}"

    def at_second(self, values: np.ndarray) -> np.ndarray:
        """Values by channel of `first`, (C,), by channel of `second`."""
        return np.tile(values, self.repeats)


@dataclasses.dataclass(frozen=True)
class Broken:
    """A layer without a path, with the reason.

    Attributes:
      first: the layer's name.
      reason: what is in the way.
    """

    first: str
    reason: str


def find(graph: ir.Graph) -> tuple[Path | Broken, ...]:
    """The path that begins at each layer, in topological order.

    Args:
      graph: a frozen graph, BN folded.

    Returns:
      A path, or what is in the way, for each layer.
    """
    layers = linear_layers.find(graph)
    by_node = {layer.node: layer for layer in layers}
    return tuple(_from(graph, layer, by_node) for layer in layers)


def set_bounds(
    edit: layer_edits.Edit,
    graph: ir.Graph,
    bounds: Mapping[str, np.ndarray | None],
) -> None:
    """Gives nodes that clip other upper bounds.

    A Relu6 becomes a Relu and a Minimum with a bound for each channel; where
    the bound is None, a Relu.

    Args:
      edit: of the graph, changed in place.
      graph: the graph.
      bounds: (C,) or None by node, of `Path.clips`.
    """
    for name, bound in bounds.items():
        node = graph[name]
        (source,) = [t for t in node.inputs if not graph.is_constant(t)]
        if bound is None:
            op = "Relu" if node.op == "Relu6" else "Identity"
            edit.replace(ir.Node.of(name, op, [source], T=tf.float32))
            continue
        if node.op == "Relu6":
            relu = edit.free_name(f"{name}/relu")
            edit.replace(ir.Node.of(relu, "Relu", [source], T=tf.float32))
            source = f"{relu}:0"
        # Behind a flattened image, the channels of each position.
        bound = np.tile(bound, graph.shape(node.output)[-1] // len(bound))
        # Of full rank: LiteRT Quantizer takes constants of no other one here.
        shape = (1,) * (len(graph.shape(node.output)) - 1) + (-1,)
        value = ir.Node.constant(
            edit.free_name(f"{name}/bound"),
            bound.astype(np.float32).reshape(shape),
        )
        minimum = ir.Node.of(
            name, "Minimum", [source, value.output], T=tf.float32
        )
        edit.replace(value, minimum)


def _from(
    graph: ir.Graph,
    first: linear_layers.LinearLayer,
    layers: Mapping[str, linear_layers.LinearLayer],
) -> Path | Broken:
    outputs = {port.tensor for port in graph.outputs}
    tensor, repeats = first.output, 1
    nodes: list = []
    clips: dict = {}
    if first.channel_axis != len(graph.shape(tensor)) - 1:
        return Broken(first.name, "channels stand first")
    while True:
        if tensor in outputs:
            return Broken(first.name, "the way ends at an output of the model")
        readers = graph.consumers(tensor)
        if len(readers) != 1:
            return Broken(first.name, f"read by {len(readers)} operations")
        (node,) = readers
        if node.name in layers:
            second = layers[node.name]
            if second.input != tensor or (
                second.in_channels != first.out_channels * repeats
            ):
                return Broken(first.name, "the next layer mixes the channels")
            return Path(first, second, tuple(nodes), clips, repeats)
        reason = _breaks(graph, node, tensor, first.out_channels * repeats)
        bound = _clip(graph, node, tensor, first.out_channels, repeats)
        if node.op == "Minimum" and bound is None:
            reason = "Minimum without a bound by channel"
        if reason:
            return Broken(first.name, reason)
        if bound is not None:
            clips[node.name] = bound
        if node.op == "Reshape":
            repeats = graph.shape(node.output)[-1] // first.out_channels
        nodes.append(node)
        tensor = node.output


def _breaks(graph: ir.Graph, node: ir.Node, tensor: str, channels: int) -> str:
    """Why a path cannot pass through a node; empty if it can."""
    if node.inputs[0] != tensor and node.op != "Minimum":
        return f"{node.op} reads it as another operand"
    if node.op in _KEEP_FACTORS or node.op in ("Relu6", "Minimum"):
        return ""
    if node.op == "PadV2":
        value = graph.literal(node.inputs[2])
        return (
            "" if value is not None and not value.any() else "Pad with values"
        )
    before, after = graph.shape(tensor), graph.shape(node.output)
    if node.op == "Mean":
        axes = graph.literal(node.inputs[1])
        rank = len(before)
        spatial = axes is not None and all(
            axis % rank not in (0, rank - 1) for axis in axes.reshape(-1)
        )
        return "" if spatial else "Mean over channels"
    if node.op in ops.RESHAPES:
        if after and after[-1] == channels:
            return ""
        # A flattened image: channels stand last in each position.
        sizes = before[1:-1] if before else ()
        flat = after and len(after) == 2 and None not in sizes
        if flat and after[-1] == channels * int(np.prod(sizes)):
            return ""
        return f"{node.op} moves the channels"
    return f"{node.op} does not commute with a factor"


def _clip(
    graph: ir.Graph, node: ir.Node, tensor: str, channels: int, repeats: int
) -> np.ndarray | None:
    """The upper bound of a node that clips, by channel, float64 (C,)."""
    if node.op == "Relu6":
        return np.full(channels, 6.0)
    if node.op != "Minimum":
        return None
    others = [t for t in node.inputs if t != tensor]
    bound = graph.literal(others[0]) if len(others) == 1 else None
    width = channels * repeats
    if bound is None or bound.size not in (1, width) or np.any(bound <= 0):
        return None
    if bound.size > 1 and bound.shape[-1] != width:
        return None
    # Behind a flattened image, the channels of each position.
    by_position = np.broadcast_to(
        bound.astype(np.float64).reshape(-1), (width,)
    ).reshape(repeats, channels)
    if np.any(by_position != by_position[0]):
        return None
    return by_position[0].copy()
