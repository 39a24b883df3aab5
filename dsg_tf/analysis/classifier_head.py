"""Finds the classifier at the end of a graph.

BN statistics do not describe tensors behind the last BN: pooled features,
logits, probabilities. If the model is a classifier, a classification loss on
the samples drives these tensors to the values that images of a class produce.
"""

from __future__ import annotations

import dataclasses

from dsg_tf.graph import ir, ops

# Operations between the last layer and the output that only rearrange.
_REARRANGING = ops.RESHAPES | {"Cast"}
_LAYERS = frozenset({"MatMul", "Conv2D", "BatchMatMulV2", "Mean", "AvgPool"})


@dataclasses.dataclass(frozen=True)
class ClassifierHead:
    """One output that scores classes.

    Attributes:
      output: the output's name in the graph's signature.
      logits: the tensor of scores before softmax or sigmoid, (N, K) or
        (N, 1, ..., K).
      num_classes: K; 2 for a single sigmoid.
      multi_label: whether each class has a sigmoid of its own.
    """

    output: str
    logits: str
    num_classes: int
    multi_label: bool = False


def find(graph: ir.Graph) -> ClassifierHead | None:
    """The first output that is a classifier, None where there is none.

    A classifier is a softmax or sigmoid over (N, K) scores, or a layer with
    linear (N, K) outputs, K >= 2. A linear layer may also be an embedding or
    a regression; asking it for a class spreads its outputs all the same.
    """
    for port in graph.outputs:
        head = _head_of(graph, port)
        if head is not None:
            return head
    return None


def _head_of(graph: ir.Graph, port: ir.Port) -> ClassifierHead | None:
    shape = graph.shape(port.tensor)
    if not _scores_classes(shape):
        return None
    classes = shape[-1]
    tensor = _skip_rearranging(graph, port.tensor)
    node = graph.producer(tensor)
    if node.op in ("Softmax", "LogSoftmax", "Sigmoid"):
        logits = node.inputs[0]
        binary = node.op == "Sigmoid"
        if not binary and classes < 2:
            return None
        if not _scores_classes(graph.shape(logits)):
            return None
        return ClassifierHead(port.name, logits, max(classes, 2), binary)
    if node.op in ops.BIAS_ADDITIONS:
        varying = [t for t in node.inputs if not graph.is_constant(t)]
        if len(varying) != 1:
            return None
        node = graph.producer(_skip_rearranging(graph, varying[0]))
    if node.op in _LAYERS and classes >= 2:
        return ClassifierHead(port.name, port.tensor, classes)
    return None


def _scores_classes(shape: tuple[int | None, ...] | None) -> bool:
    """Whether a tensor is (N, K) or (N, 1, ..., K)."""
    return (
        shape is not None
        and len(shape) >= 2
        and shape[-1] is not None
        and all(size == 1 for size in shape[1:-1])
    )


def _skip_rearranging(graph: ir.Graph, tensor: str) -> str:
    while graph.producer(tensor).op in _REARRANGING:
        tensor = graph.producer(tensor).inputs[0]
    return tensor
