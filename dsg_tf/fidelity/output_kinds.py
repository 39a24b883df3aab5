"""Classifies outputs of a model; the kind decides how they are judged.

The operation that makes an output tells most: a softmax scores classes, a
sigmoid decides, whole numbers are counts or classes. A linear layer may score
classes or be a regression; `classifier_head` chooses. All else is values.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator

from dsg_tf.analysis import classifier_head
from dsg_tf.graph import ir, ops


class Kind(str, enum.Enum):
    """What an output holds; the values are those of report.json."""

    # Softmax over the last axis, or its logarithm; at each position of a map.
    PROBABILITIES = "probabilities"
    # A linear layer that scores classes, as far as the graph can tell.
    LOGITS = "logits"
    # Sigmoids: one, one a tag, one a position of a map.
    SIGMOIDS = "sigmoids"
    # Boxes, regressions, features, images.
    VALUES = "values"
    # Classes by index, counts, masks.
    WHOLE = "whole numbers"
    # Does not depend on the inputs: anchors, say.
    CONSTANT = "constant"


_SOFTMAX = ("Softmax", "LogSoftmax")
# Operations that change the places of values, not the values; of a softmax
# only those count that leave the last axis whole.
_REARRANGING = ops.RESHAPES | {"Cast", "StridedSlice", "Transpose"}
_JOINING = ops.having(ops.Trait.JOIN)


def find(graph: ir.Graph) -> dict[str, Kind]:
    """The kind of every output.

    Args:
      graph: a frozen graph.

    Returns:
      Kind by output name.

    Examples:
      >>> import tensorflow as tf
      >>> from dsg_tf.graph.load import loading
      >>> heads = tf.function(
      ...     lambda x: {"tags": tf.sigmoid(x), "image": tf.tanh(x)},
      ...     input_signature=[tf.TensorSpec((None, 3), name="x")],
      ... )
      >>> {n: k.value for n, k in find(loading.load(heads)).items()}
      {'image': 'values', 'tags': 'sigmoids'}
    """
    kinds = {port.name: _kind(graph, port) for port in graph.outputs}
    logits = _logits(graph, kinds)
    return {
        port.name: Kind.LOGITS if port.name in logits else kinds[port.name]
        for port in graph.outputs
    }


def _kind(graph: ir.Graph, port: ir.Port) -> Kind:
    """The kind of an output, linear layers aside."""
    if graph.is_constant(port.tensor):
        return Kind.CONSTANT
    if not port.dtype.is_floating:
        return Kind.WHOLE
    makers = list(_makers(graph, port.tensor))
    ops = {graph.producer(tensor).op for tensor in makers}
    if ops == {"Sigmoid"}:
        return Kind.SIGMOIDS
    if len(ops) == 1 and ops <= set(_SOFTMAX):
        classes = {_last(graph, t) for t in (port.tensor, *makers)}
        if len(classes) == 1 and classes.isdisjoint({None, 1}):
            return Kind.PROBABILITIES
    return Kind.VALUES


def _makers(graph: ir.Graph, tensor: str) -> Iterator[str]:
    """The tensors whose values a tensor holds, rearranged or joined."""
    queue = [tensor]
    while queue:
        tensor = queue.pop()
        node = graph.producer(tensor)
        if node.op in _REARRANGING:
            queue.append(node.inputs[0])
        elif node.op in _JOINING:
            # The axis of a concatenation is its last input, a constant.
            queue += [t for t in node.inputs if not graph.is_constant(t)]
        else:
            yield tensor


def _last(graph: ir.Graph, tensor: str) -> int | None:
    """The size of a tensor's last axis, None where it is unknown."""
    shape = graph.shape(tensor)
    return shape[-1] if shape else None


def _logits(graph: ir.Graph, kinds: dict[str, Kind]) -> set[str]:
    """Outputs that are linear scores of classes.

    What a softmax of the same model reads is. Otherwise the first linear
    layer, and only where nothing else is a classifier: beside one, a linear
    layer regresses.
    """
    read = {
        graph.producer(maker).inputs[0]
        for port in graph.outputs
        if kinds[port.name] is Kind.PROBABILITIES
        for maker in _makers(graph, port.tensor)
    }
    values = {p.name: p for p in graph.outputs if kinds[p.name] is Kind.VALUES}
    found = {name for name, port in values.items() if port.tensor in read}
    head = classifier_head.find(graph)
    others = {Kind.PROBABILITIES, Kind.SIGMOIDS} & set(kinds.values())
    if head is not None and head.output in values and not others:
        found.add(head.output)
    return found
