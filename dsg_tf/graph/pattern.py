"""Structural matching on the graph, through edges and never through names.

A pattern is a small tree of operations, read from the output down:

  >>> x, beta = var("x"), const("beta")
  >>> shifted = op("AddV2|Add|BiasAdd", x, beta)

`match(pattern, graph, tensor)` gives a `Match` with what each variable stands
for, or a `NoMatch` that says where it stopped and why, so that a model that is
not understood can be explained to its owner. Commutative operations match in
either order, and `one_of` tries alternatives; both backtrack. On constants, a
Cast between float types is looked through: mixed precision puts them there.

The design follows what works in onnxscript's rewriter (a pattern is a value, a
refusal carries its reason) at the size that this project needs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
import tensorflow as tf

from dsg_tf.graph import ir

COMMUTATIVE = frozenset({"Add", "AddV2", "Mul", "Maximum", "Minimum"})

Bindings = Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Pattern:
    """What a tensor must look like; made by the functions below."""


@dataclasses.dataclass(frozen=True)
class _Variable(Pattern):
    name: str
    constant: bool | None


@dataclasses.dataclass(frozen=True)
class _Literal(Pattern):
    value: float


@dataclasses.dataclass(frozen=True)
class _Operation(Pattern):
    ops: frozenset[str]
    inputs: tuple[Pattern, ...]
    name: str | None


@dataclasses.dataclass(frozen=True)
class _OneOf(Pattern):
    alternatives: tuple[Pattern, ...]


@dataclasses.dataclass(frozen=True)
class Match:
    """A pattern that was found.

    Attributes:
      root: the tensor that matched the whole pattern.
      bindings: the tensor that each variable and named operation stands for.
    """

    root: str
    bindings: Bindings

    def __getitem__(self, name: str) -> str:
        return self.bindings[name]

    def get(self, name: str) -> str | None:
        return self.bindings.get(name)


@dataclasses.dataclass(frozen=True)
class NoMatch:
    """A pattern that was not found; false, and says why.

    Attributes:
      reason: what stood in the way, deepest mismatch first.
      tensor: where.
    """

    reason: str
    tensor: str

    def __bool__(self) -> Literal[False]:
        return False


def var(name: str) -> Pattern:
    """Any tensor; the same name must be the same tensor everywhere."""
    return _Variable(name, None)


def const(name: str) -> Pattern:
    """Any tensor that does not depend on the model's inputs.

    It stands for what lies behind the Casts, where there are any.
    """
    return _Variable(name, True)


def literal(value: float) -> Pattern:
    """A Const whose every element is `value`."""
    return _Literal(value)


def varying(name: str) -> Pattern:
    """Any tensor that depends on the model's inputs."""
    return _Variable(name, False)


def op(ops: str, *inputs: Pattern, name: str | None = None) -> Pattern:
    """An operation of one of the types `A|B|C`, with these first inputs.

    Further inputs of the operation (axes, shapes) are not looked at.
    """
    return _Operation(frozenset(ops.split("|")), inputs, name)


def one_of(*alternatives: Pattern) -> Pattern:
    """The first alternative that lets the whole pattern match."""
    return _OneOf(alternatives)


def match(pattern: Pattern, graph: ir.Graph, tensor: str) -> Match | NoMatch:
    """Matches `pattern` with `tensor` as its root.

    Examples:
      >>> found = match(shifted, graph, "dense/BiasAdd:0")  # doctest: +SKIP
      >>> found["beta"]  # doctest: +SKIP
      'dense/bias:0'
    """
    search = _Search(graph)
    for bindings in search.run(pattern, tensor, {}):
        return Match(tensor, bindings)
    return NoMatch(search.reason, search.where or tensor)


class _Search:
    """One backtracking search; remembers the deepest mismatch."""

    def __init__(self, graph: ir.Graph):
        self._graph = graph
        self._depth = -1
        self.reason = "nothing matched"
        self.where = ""

    def run(
        self, pattern: Pattern, tensor: str, bindings: Bindings, depth: int = 0
    ) -> Iterator[Bindings]:
        if isinstance(pattern, _OneOf):
            for alternative in pattern.alternatives:
                yield from self.run(alternative, tensor, bindings, depth)
        elif isinstance(pattern, _Variable):
            yield from self._variable(pattern, tensor, bindings, depth)
        elif isinstance(pattern, _Literal):
            yield from self._literal(pattern, tensor, bindings, depth)
        elif isinstance(pattern, _Operation):
            yield from self._operation(pattern, tensor, bindings, depth)
        else:
            raise TypeError(f"not a pattern: {pattern!r}")

    def _variable(self, pattern, tensor, bindings, depth):
        constant = self._graph.is_constant(tensor)
        if pattern.constant:
            tensor = _behind_casts(self._graph, tensor)
        if pattern.constant is not None and pattern.constant != constant:
            kind = "a constant" if pattern.constant else "no constant"
            self._fail(f"{pattern.name} should be {kind}", tensor, depth)
        elif bindings.get(pattern.name, tensor) != tensor:
            other = bindings[pattern.name]
            self._fail(f"{pattern.name} is also {other}", tensor, depth)
        else:
            yield {**bindings, pattern.name: tensor}

    def _literal(self, pattern, tensor, bindings, depth):
        value = self._graph.literal(_behind_casts(self._graph, tensor))
        if value is None or not value.size or np.any(value != pattern.value):
            self._fail(f"no constant {pattern.value}", tensor, depth)
        else:
            yield bindings

    def _operation(self, pattern, tensor, bindings, depth):
        if "Cast" not in pattern.ops:
            tensor = _behind_casts(self._graph, tensor)
        node = self._graph.producer(tensor)
        if node.op not in pattern.ops:
            ops = " or ".join(sorted(pattern.ops))
            self._fail(f"{node.op} where {ops} was expected", tensor, depth)
            return
        if len(node.inputs) < len(pattern.inputs):
            self._fail(f"{node.op} has too few inputs", tensor, depth)
            return
        if pattern.name is not None:
            bindings = {**bindings, pattern.name: tensor}
        orders = [node.inputs[: len(pattern.inputs)]]
        if node.op in COMMUTATIVE and len(pattern.inputs) == 2:
            orders.append(orders[0][::-1])
        for order in orders:
            yield from self._inputs(pattern.inputs, order, bindings, depth + 1)

    def _inputs(self, patterns, tensors, bindings, depth):
        if not patterns:
            yield bindings
            return
        for found in self.run(patterns[0], tensors[0], bindings, depth):
            yield from self._inputs(patterns[1:], tensors[1:], found, depth)

    def _fail(self, reason: str, tensor: str, depth: int) -> None:
        if depth > self._depth:
            self._depth, self.reason, self.where = depth, reason, tensor


def _behind_casts(graph: ir.Graph, tensor: str) -> str:
    """What a constant is before it is cast between float types."""
    while graph.is_constant(tensor):
        node = graph.producer(tensor)
        types = (node.attr("SrcT"), node.attr("DstT"))
        if node.op != "Cast" or not all(
            tf.as_dtype(t).is_floating for t in types
        ):
            break
        tensor = node.inputs[0]
    return tensor
