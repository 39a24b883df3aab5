"""Recognises BatchNormalization that was decomposed into arithmetic.

Keras 3, tf.nn.batch_normalization and hand-written code produce additions,
multiplications and a square root of constants. A pattern describes the form;
the constants (epsilon, channel axis) decide whether a match is a BN.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from dsg_tf.graph import ir, ops, pattern

_ADD = "Add|AddV2"
_DIVIDE = "RealDiv|Div"


@dataclasses.dataclass(frozen=True)
class Layer:
    """A BN layer whose constants are not evaluated yet.

    Attributes:
      input: the tensor that is normalised.
      output: the normalised tensor.
      tensors: those of mean, variance, epsilon, gamma and beta that the layer
        has; or `total`, the sum of variance and epsilon, in their place.
      epsilon: where it is an attribute of the operation.
      channel_axis: the axis of the input that the constants run along.
    """

    input: str
    output: str
    tensors: dict[str, str]
    epsilon: float | None
    channel_axis: int


def _decomposed_patterns() -> tuple[pattern.Pattern, ...]:
    """Every arithmetic form of BN, the larger ones first.

    Batch normalization is `x * k + (beta - mean * k)` with
    `k = gamma / sqrt(variance + epsilon)` (tf.nn, Keras 3), or
    `(x - mean) * k + beta` or `gamma * (x - mean) / sigma + beta`
    (hand-written). Gamma and beta may be missing.
    """
    const, op, one_of = pattern.const, pattern.op, pattern.one_of
    x, mean, beta = pattern.varying("x"), const("mean"), const("beta")
    gamma = const("gamma")
    total = one_of(
        op(_ADD, const("variance"), const("epsilon")), const("total")
    )
    sigma = one_of(op("Sqrt", total), op("Pow", total, pattern.literal(0.5)))
    inverse = one_of(
        op("Rsqrt", total),
        op("Inv|Reciprocal", sigma),
        op(_DIVIDE, pattern.literal(1.0), sigma),
        op("Pow", total, pattern.literal(-0.5)),
    )
    k = one_of(op("Mul", inverse, gamma), inverse, op(_DIVIDE, gamma, sigma))
    mean_k = op("Mul", mean, k)
    minus_mean_k = one_of(op("Neg", mean_k), op("Mul", op("Neg", mean), k))
    scaled = op("Mul", x, k)
    centred = op("Sub", x, mean)
    normalised = one_of(
        op("Mul", centred, k),
        op("Mul", op("Mul", centred, inverse), gamma),
        op("Mul", op("Mul", centred, gamma), inverse),
        op("Mul", op(_DIVIDE, centred, sigma), gamma),
        op(_DIVIDE, op("Mul", centred, gamma), sigma),
        op(_DIVIDE, centred, sigma),
    )
    return (
        op(_ADD, scaled, op("Sub", beta, mean_k)),
        op("Sub", scaled, op("Sub", mean_k, beta)),
        op(_ADD, scaled, op(_ADD, beta, minus_mean_k)),
        op(_ADD, op("Sub", scaled, mean_k), beta),
        op("Sub", op(_ADD, scaled, beta), mean_k),
        op(_ADD, scaled, minus_mean_k),
        op("Sub", scaled, mean_k),
        op(f"{_ADD}|BiasAdd", normalised, beta),
        normalised,
    )


_DECOMPOSED = _decomposed_patterns()
_ROOTS = ops.ARITHMETIC | {"BiasAdd", "Div"}
_KEYS = ("mean", "variance", "epsilon", "total", "gamma", "beta")


def match(graph: ir.Graph, node: ir.Node) -> Layer | None:
    """The BN layer that ends at `node`, without fused operations.

    Args:
      graph: a frozen graph.
      node: any node of it.
    """
    if node.op not in _ROOTS or graph.is_constant(node.output):
        return None
    for candidate in _DECOMPOSED:
        found = pattern.match(candidate, graph, node.output)
        if not found:
            continue
        tensors = {key: found[key] for key in _KEYS if found.get(key)}
        if not {"epsilon", "gamma", "beta"} & set(tensors):
            # (x - mean) / sqrt(variance) prepares an input; it learned
            # nothing.
            continue
        axis = _channel_axis(graph, found["x"], tensors.values())
        if axis is None:
            continue
        return Layer(
            input=found["x"],
            output=node.output,
            tensors=tensors,
            epsilon=None,
            channel_axis=axis,
        )
    return None


def _channel_axis(
    graph: ir.Graph, x: str, constants: Iterable[str]
) -> int | None:
    """The axis of x that the constants run along, None where there is not one.

    The constants broadcast against x: (C,) and (1, 1, 1, C) along the last
    axis, (1, C, 1, 1) along the second; scalars along any.
    """
    shape = graph.shape(x)
    if shape is None or len(shape) < 2:
        return None
    axes: dict[int, int] = {}
    for constant in map(graph.shape, constants):
        if constant is None or len(constant) > len(shape):
            return None
        first = len(shape) - len(constant)
        axes |= {first + i: n for i, n in enumerate(constant) if n != 1}
    if not axes:
        # One channel, or the same numbers for all: only the first is BN.
        single = [i for i in (len(shape) - 1, 1) if shape[i] in (1, None)]
        return single[0] if single else None
    (axis, channels), *rest = axes.items()
    if rest or axis == 0 or shape[axis] not in (channels, None):
        return None
    return axis
