"""Normalisation layers without stored statistics, in place of BN.

LayerNorm, GroupNorm and the like normalise by moments of the very input that
passes, and so does BatchNormalization in training mode. None of them says
anything about the training set.
"""

from __future__ import annotations

import collections
import dataclasses

import numpy as np

from dsg_tf.graph import ir, ops

BATCH = "BatchNormalization in training mode"
LAYER = "LayerNorm"
GROUP = "InstanceNorm or GroupNorm"

_CONVOLUTIONS = ops.CONVOLUTIONS | {"Conv3D"}
_DIVISIONS = frozenset({"RealDiv", "Div", "DivNoNan"})
# What stands between a variance and its root: epsilon, Bessel's correction,
# E[x^2] - E[x]^2 and its guard, squeezes and casts.
_BETWEEN = _DIVISIONS | frozenset(
    {
        "Add",
        "AddV2",
        "Cast",
        "Maximum",
        "Mul",
        "Relu",
        "Reshape",
        "Squeeze",
        "Sub",
    }
)
# More steps than any of them needs; bounds the search on a large graph.
_MAX_STEPS = 16


@dataclasses.dataclass(frozen=True)
class Norm:
    """A normalisation by moments of its own input.

    Attributes:
      kind: `BATCH`, `LAYER` or `GROUP`.
      node: the operation that ends its deviation.
    """

    kind: str
    node: ir.Node


def find(graph: ir.Graph) -> list[Norm]:
    """All normalisations by moments that depend on the model's inputs.

    Args:
      graph: a frozen graph.

    Returns:
      Them in topological order.
    """
    found = []
    for node in graph:
        if node.op in ops.BATCH_NORMS and node.attr("is_training", True):
            kind = LAYER if is_fused_layer_norm(graph, node) else BATCH
            found.append(Norm(kind, node))
        elif _is_root(graph, node) and not graph.is_constant(node.output):
            kind = _kind(*_variance_axes(graph, node.inputs[0]))
            if kind is not None:
                found.append(Norm(kind, node))
    return found


def is_fused_layer_norm(graph: ir.Graph, node: ir.Node) -> bool:
    """Whether a FusedBatchNorm in training mode is Keras 2's LayerNorm.

    It reshapes (N, C) to (1, N, C, 1), so that the samples are the channels.
    """
    shape = graph.shape(node.inputs[0])
    reshaped = graph.producer(node.inputs[0]).op == "Reshape"
    return reshaped and bool(shape) and shape[0] == 1


def describe(graph: ir.Graph) -> str:
    """What a graph without BN has in its place, in a few words."""
    counts = collections.Counter(node.op for node in graph)
    parts = []
    convolutions = sum(counts[op] for op in _CONVOLUTIONS)
    if convolutions:
        biased = sum(
            node.op in ops.BIAS_ADDITIONS
            and graph.producer(node.inputs[0]).op in _CONVOLUTIONS
            for node in graph
        )
        parts.append(
            f"{convolutions} convolutions, {biased} with a bias: BN may have"
            " been folded into them"
        )
    kinds = collections.Counter(norm.kind for norm in find(graph))
    parts += [f"{count} x {kind}" for kind, count in sorted(kinds.items())]
    if not parts:
        listed = [
            f"{count} x {op}"
            for op, count in counts.most_common()
            if op not in ("Const", "Placeholder")
        ]
        parts.append("operations " + (", ".join(listed[:4]) or "none at all"))
    return "; ".join(parts)


def _is_root(graph: ir.Graph, node: ir.Node) -> bool:
    if node.op in ("Sqrt", "Rsqrt"):
        return True
    if node.op != "Pow":
        return False
    power = graph.literal(node.inputs[1])
    return power is not None and bool(np.all(np.abs(power) == 0.5))


def _variance_axes(
    graph: ir.Graph, tensor: str
) -> tuple[frozenset[int], int] | tuple[None, int]:
    """Axes and rank of the variance behind a root; None where it is not one.

    A sum counts as a mean only below a division: the root of a mere sum of
    squares is a length.
    """
    queue = collections.deque([(tensor, False)])
    for _ in range(_MAX_STEPS):
        if not queue:
            break
        tensor, divided = queue.popleft()
        node = graph.producer(tensor)
        if node.op == "Mean" or (node.op == "Sum" and divided):
            if _is_square(graph, node.inputs[0]):
                rank = len(graph.shape(node.inputs[0]) or ())
                axes = graph.literal(node.inputs[1])
                if axes is None or not rank:
                    return None, 0
                return frozenset(int(a) % rank for a in np.ravel(axes)), rank
        elif node.op in _BETWEEN:
            divided = divided or node.op in _DIVISIONS
            queue += [
                (t, divided) for t in node.inputs if not graph.is_constant(t)
            ]
    return None, 0


def _is_square(graph: ir.Graph, tensor: str) -> bool:
    node = graph.producer(tensor)
    if node.op == "Mul" and node.inputs[0] != node.inputs[1]:
        # Weighted moments: weights times squared differences.
        return any(
            graph.producer(t).op in ("SquaredDifference", "Square")
            for t in node.inputs
        )
    return node.op in ("SquaredDifference", "Square", "Mul")


def _kind(axes: frozenset[int] | None, rank: int) -> str | None:
    if not axes:
        return None
    if 0 in axes:
        # BN leaves one axis, that of the channels. Other statistics of the
        # batch (of a GAN's discriminator) are none of its business.
        return BATCH if len(axes) == rank - 1 else None
    if axes == {rank - 1} or len(axes) == rank - 1:
        return LAYER
    return GROUP
