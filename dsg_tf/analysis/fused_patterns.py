"""Several operations of a graph that are one in a .tflite.

Activation functions are written out in TensorFlow and recognized by
TFLiteConverter; here are the same patterns, for those that it knows:
clipped ReLUs, hard-swish, GELU, PReLU, L2 normalization.
"""

from __future__ import annotations

import dataclasses
import math

from dsg_tf.graph import ir, pattern

_X = pattern.varying("x")
_PAIRS = ((0.0, 6.0), (-1.0, 1.0))


def _clipped(x: pattern.Pattern, low: float, high: float) -> pattern.Pattern:
    """min(max(x, low), high), in either order."""
    floor, roof = pattern.literal(low), pattern.literal(high)
    floored = [pattern.op("Maximum", x, floor)]
    if low == 0:
        floored.append(pattern.op("Relu", x))
    return pattern.one_of(
        pattern.op("Maximum", pattern.op("Minimum", x, roof), floor),
        *(pattern.op("Minimum", inner, roof) for inner in floored),
    )


# The longest first: a ReLU is a part of others.
_ACTIVATION = pattern.one_of(
    *(_clipped(_X, low, high) for low, high in _PAIRS),
    pattern.op("Relu|Relu6", _X),
    pattern.op("Maximum", _X, pattern.literal(0.0)),
)
_UNCHANGED = pattern.one_of(
    pattern.op("Mul|RealDiv", _X, pattern.literal(1.0)),
    pattern.op("Add|AddV2|Sub", _X, pattern.literal(0.0)),
)


def _hard_swish() -> pattern.Pattern:
    """x relu6(x + 3) / 6, divided or scaled, before or after the product."""

    def sixth(p: pattern.Pattern) -> pattern.Pattern:
        return pattern.one_of(
            pattern.op("RealDiv", p, pattern.literal(6.0)),
            pattern.op("Mul", p, pattern.literal(1 / 6)),
        )

    shifted = pattern.op("Add|AddV2", _X, pattern.literal(3.0))
    gate = pattern.one_of(
        pattern.op("Relu6", shifted), _clipped(shifted, 0.0, 6.0)
    )
    return pattern.one_of(
        sixth(pattern.op("Mul", _X, gate)),
        pattern.op("Mul", _X, sixth(gate)),
    )


def _gelu() -> pattern.Pattern:
    """x / 2 erfc(-x / sqrt 2), or its approximation by tanh."""
    half = pattern.op("Mul", _X, pattern.literal(0.5))
    scaled = pattern.op(
        "Mul", pattern.op("Neg", _X), pattern.literal(math.sqrt(0.5))
    )
    cube = pattern.op("Pow", _X, pattern.literal(3.0))
    inner = pattern.op(
        "Add|AddV2",
        _X,
        pattern.op("Mul", cube, pattern.literal(0.044715)),
    )
    tanh = pattern.op(
        "Tanh",
        pattern.op("Mul", inner, pattern.literal(math.sqrt(2 / math.pi))),
    )
    gate = pattern.one_of(
        pattern.op("Erfc", scaled),
        pattern.op("Add|AddV2", tanh, pattern.literal(1.0)),
    )
    return pattern.op("Mul", half, gate)


def _prelu() -> pattern.Pattern:
    """relu(x) + (-alpha) relu(-x)."""
    negative = pattern.op("Relu", pattern.op("Neg", _X))
    return pattern.op(
        "Add|AddV2",
        pattern.op("Relu", _X),
        pattern.op("Mul", pattern.const("operand"), negative),
    )


def _l2_normalization() -> pattern.Pattern:
    """x / sqrt(max(sum x^2, epsilon))."""
    total = pattern.op("Sum", pattern.op("Square", _X))
    floored = pattern.op("Maximum", total, pattern.const("epsilon"))
    return pattern.op("Mul", _X, pattern.op("Rsqrt", floored))


_FUSED = (
    ("HARD_SWISH", _hard_swish()),
    ("GELU", _gelu()),
    ("PRELU", _prelu()),
    ("L2_NORMALIZATION", _l2_normalization()),
)
_ACTIVATIONS = frozenset({"Maximum", "Minimum", "Relu", "Relu6"})
_ROOTS = frozenset({"Add", "AddV2", "Mul", "RealDiv"})


@dataclasses.dataclass(frozen=True)
class Fused:
    """A match of several operations.

    Attributes:
      name: the one operation of the .tflite.
      root: its output.
      inside: tensors that the .tflite does not have.
      operands: (node, constant) that it quantizes.
      unit_range: whether its grid covers [-1, 1], whatever comes in.
    """

    name: str
    root: str
    inside: tuple[str, ...]
    operands: tuple[tuple[str, str], ...] = ()
    unit_range: bool = False


def fused(graph: ir.Graph) -> dict[str, Fused]:
    """All matches, by root.

    Only those whose inner tensors nobody else reads: others exist in the
    .tflite too.
    """
    found = {}
    for node in graph:
        if node.op not in _ROOTS or graph.is_constant(node.output):
            continue
        for name, wanted in _FUSED:
            match = pattern.match(wanted, graph, node.output)
            if not match:
                continue
            inside = between(graph, match["x"], node.output)
            if _private(graph, inside, node.output):
                constant = match.get("operand")
                found[node.output] = Fused(
                    name,
                    node.output,
                    inside,
                    tuple(
                        (reader.name, constant)
                        for reader in graph.consumers(constant or "")
                        if reader.output in inside
                    ),
                    name == "L2_NORMALIZATION",
                )
                break
    return found


def activations(graph: ir.Graph) -> dict[str, str]:
    """What a ReLU, ReLU6 or clip to [-1, 1] is of, by its output."""
    found = {}
    for node in graph:
        if node.op in _ACTIVATIONS and not graph.is_constant(node.output):
            source = _source(_ACTIVATION, graph, node.output)
            if source is not None:
                found[node.output] = source
    return found


def unchanged(graph: ir.Graph, tensor: str) -> str | None:
    """What `tensor` is equal to, by x * 1 or x + 0; None for neither."""
    source = _source(_UNCHANGED, graph, tensor)
    same = source is not None and graph.shape(source) == graph.shape(tensor)
    return source if same else None


def between(graph: ir.Graph, source: str, tensor: str) -> tuple[str, ...]:
    """Tensors that depend on inputs, on the way from one to the other.

    Args:
      graph: the graph.
      source: where the way begins.
      tensor: where it ends; neither is among the result.
    """
    found: dict[str, None] = {}
    queue = [tensor]
    while queue:
        for operand in graph.producer(queue.pop()).inputs:
            if (
                operand != source
                and operand not in found
                and not graph.is_constant(operand)
            ):
                found[operand] = None
                queue.append(operand)
    return tuple(found)


def _source(
    wanted: pattern.Pattern, graph: ir.Graph, tensor: str
) -> str | None:
    match = pattern.match(wanted, graph, tensor)
    if not match:
        return None
    inside = between(graph, match["x"], tensor)
    return match["x"] if _private(graph, inside, tensor) else None


def _private(graph: ir.Graph, inside: tuple[str, ...], root: str) -> bool:
    """Whether nothing outside reads any of the inner tensors."""
    outputs = {port.tensor for port in graph.outputs}
    whole = {*inside, root}
    return all(
        tensor not in outputs
        and all(reader.output in whole for reader in graph.consumers(tensor))
        for tensor in inside
    )
