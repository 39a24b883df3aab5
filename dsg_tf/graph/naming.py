"""Recovers the layer names of the original model.

Frameworks name operations `<wrappers>/<model>/<layer>/<operation>`; the
wrappers are those leading path parts that (almost) all operations share. When
a model is traced again (Keras 3 does so on export), a layer's operations get
a number behind its name; its weights keep the name, and tell.
"""

from __future__ import annotations

import collections
import re

from dsg_tf.graph import ir

# Parts of a path that name a step inside a layer, not a layer.
_INNER = frozenset({"batchnorm", "FusedBatchNormV3", "FusedBatchNorm"})

# The share of operations that must lie under a wrapper.
_COMMON_SHARE = 0.8


class LayerNames:
    """Names the layer that a tensor of a graph belongs to.

    Args:
      graph: the frozen graph.

    Examples:
      `StatefulPartitionedCall/mobilenet_1/conv_pw_1_bn_1/batchnorm/add_1`
      belongs to `conv_pw_1_bn` if it reads `conv_pw_1_bn/moving_mean`, and
      otherwise to `conv_pw_1_bn_1`.
    """

    def __init__(self, graph: ir.Graph):
        self._prefix = _common_prefix(graph)
        self._names = _without_trace_numbers(
            {
                node.name: self._scope(node.name)
                for node in graph
                if node.op not in ("Const", "Placeholder")
            },
            graph,
        )

    def __call__(self, tensor: str) -> str:
        scope = self._scope(ir.node_name(tensor))
        return self._names.get(scope, scope)

    def _scope(self, name: str) -> str:
        parts = name.split("/")
        for part in self._prefix:
            if len(parts) < 2 or parts[0] != part:
                break
            parts = parts[1:]
        kept = [p for p in parts[:-1] if p not in _INNER]
        return "/".join(kept or parts[:1])


def _common_prefix(graph: ir.Graph) -> list[str]:
    """Leading path parts that most operations share."""
    paths = [
        node.name.split("/")
        for node in graph
        if node.op not in ("Const", "Placeholder")
    ]
    prefix: list[str] = []
    while paths:
        heads = collections.Counter(p[0] for p in paths if len(p) > 2)
        head, count = heads.most_common(1)[0] if heads else ("", 0)
        if count < _COMMON_SHARE * len(paths):
            break
        prefix.append(head)
        paths = [p[1:] for p in paths if p[0] == head and len(p) > 1]
    return prefix


def _without_trace_numbers(
    scopes: dict[str, str], graph: ir.Graph
) -> dict[str, str]:
    """Scopes whose layer is called otherwise, with that name.

    A scope `bn_1` that reads weights of `bn` is the layer `bn`. Where all
    layers with weights carry the same number, those without carry it too. No
    two scopes come to share a name: a layer that is applied twice keeps both.

    Args:
      scopes: scope by operation.
      graph: the frozen graph.
    """
    owners: dict[str, set[str]] = collections.defaultdict(set)
    for name, scope in scopes.items():
        for tensor in graph[name].inputs:
            source = graph.producer(tensor)
            if source.op == "Const" and source.name.count("/"):
                owners[scope].add(source.name.split("/")[-2])
    numbers: dict[str, str] = {}
    weighted = 0
    for scope, names in owners.items():
        own = scope.rpartition("/")[2]
        found = {
            own.removeprefix(name)
            for name in names
            if re.fullmatch(re.escape(name) + r"_\d+", own)
        }
        weighted += bool(found) or own in names
        if len(found) == 1:
            numbers[scope] = found.pop()
    if len(set(numbers.values())) == 1 and len(numbers) == weighted:
        (number,) = set(numbers.values())
        for scope in scopes.values():
            if scope.endswith(number):
                numbers.setdefault(scope, number)
    return _unique(set(scopes.values()), numbers)


def _unique(scopes: set[str], numbers: dict[str, str]) -> dict[str, str]:
    """Drops numbers, but not where two scopes would be called the same."""
    names = {s: s.removesuffix(numbers.get(s, "")) for s in scopes}
    while True:
        counts = collections.Counter(names.values())
        clashes = [s for s, name in names.items() if counts[name] > 1]
        clashes = [s for s in clashes if names[s] != s]
        if not clashes:
            return {s: name for s, name in names.items() if s != name and name}
        for scope in clashes:
            names[scope] = scope
