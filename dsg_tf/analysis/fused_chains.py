"""What TFLiteConverter merges into a linear operation beside it.

Behind it: constants by channel (a bias, a scale, a BN), then a ReLU, and
reshapes in between. Before it: one number that scales or shifts the input of
a convolution. The rules are the converter's as observed, exceptions included.
"""

from __future__ import annotations

import dataclasses

from dsg_tf.graph import ir, ops

# BatchMatMul has no form in a .tflite.
_PRODUCTS = ops.PRODUCTS - {"BatchMatMul"}
_TRANSPOSED = "Conv2DBackpropInput"
LINEAR = ops.CONVOLUTIONS | _PRODUCTS | {_TRANSPOSED}
_VECTORS = ops.ARITHMETIC | ops.BATCH_NORMS | {"BiasAdd"}


@dataclasses.dataclass(frozen=True)
class Chain:
    """What the converter can merge into the producer of a tensor.

    Attributes:
      source: the tensor.
      path: reshapes behind it, up to the tensor that was asked for.
      vectors: operations with a constant by channel.
      activation: whether a ReLU.
    """

    source: str
    path: tuple[str, ...] = ()
    vectors: frozenset[str] = frozenset()
    activation: bool = False

    def reshaped(self, tensor: str, *, same_channels: bool) -> Chain:
        """The chain behind a reshape."""
        return dataclasses.replace(
            self,
            path=(*self.path, tensor),
            vectors=self.vectors if same_channels else frozenset(),
        )


def after(
    graph: ir.Graph, node: ir.Node, before: Chain | None = None
) -> Chain | None:
    """The chain behind an operation.

    Args:
      graph: the graph.
      node: the operation.
      before: the chain that it goes on with, see `continues`.

    Returns:
      The chain; None where nothing merges with the operation.
    """
    if node.op in LINEAR:
        return _after_linear(graph, node)
    if node.op not in _VECTORS:
        return None
    vectors = frozenset() if before is None else before.vectors
    return Chain(node.output, vectors=vectors, activation=True)


def data_operand(graph: ir.Graph, node: ir.Node) -> str:
    """The operand that a bias or scale would be a constant beside."""
    if node.op in ops.ARITHMETIC:
        return _varying_operand(graph, node) or node.inputs[0]
    return node.inputs[0]


def continues(graph: ir.Graph, node: ir.Node, chain: Chain) -> bool:
    """Whether an operation behind a chain is a constant by channel."""
    if node.op not in chain.vectors:
        return False
    if node.op not in ops.ARITHMETIC:
        return all(graph.is_constant(t) for t in node.inputs[1:])
    data = _varying_operand(graph, node)
    if data is None:
        return False
    (constant,) = [t for t in node.inputs if t != data]
    shape, channels = graph.shape(constant), graph.shape(data)
    if shape is None or not channels or len(shape) > len(channels):
        return False
    last = shape[-1:]
    return set(shape[:-1]) <= {1} and last in ((), (1,), channels[-1:])


def merged_forward(graph: ir.Graph) -> frozenset[str]:
    """Outputs of operations that a convolution behind them takes in.

    w * (s x) = (s w) * x for one number s; likewise w * (x + s), but for a
    convolution that pads with zeros.
    """
    found: set[str] = set()
    outputs = {port.tensor for port in graph.outputs}
    for node in reversed(list(graph)):
        readers = graph.consumers(node.output)
        if (
            node.op in ops.ARITHMETIC
            and readers
            and node.output not in outputs
            and _is_by_one_number(graph, node)
            and all(
                reader.output in found or _takes_in(graph, reader, node)
                for reader in readers
            )
        ):
            found.add(node.output)
    return frozenset(found)


def _after_linear(graph: ir.Graph, node: ir.Node) -> Chain:
    vectors = _VECTORS
    if node.op in _PRODUCTS:
        vectors -= {"Sub"}
        # More than a matrix of weights stays a BATCH_MATMUL, without a bias.
        rank = len(graph.shape(node.inputs[-1]) or ())
        if node.op.startswith("Batch") and rank != 2:
            return Chain(node.output)
    # A transposed convolution takes a ReLU once it has a bias.
    return Chain(
        node.output, vectors=vectors, activation=node.op != _TRANSPOSED
    )


def _varying_operand(graph: ir.Graph, node: ir.Node) -> str | None:
    """The operand that is no constant, where the other one is."""
    constant = [graph.is_constant(t) for t in node.inputs]
    # c - x and c / x are no bias and no scale.
    if constant == [False, True] or (
        constant == [True, False] and node.op not in ("RealDiv", "Sub")
    ):
        return node.inputs[constant.index(False)]
    return None


def _is_by_one_number(graph: ir.Graph, node: ir.Node) -> bool:
    data = _varying_operand(graph, node)
    if data is None:
        return False
    (constant,) = [t for t in node.inputs if t != data]
    shape = graph.shape(constant)
    return shape is not None and set(shape) <= {1}


def _takes_in(graph: ir.Graph, reader: ir.Node, node: ir.Node) -> bool:
    """Whether a convolution takes in the operation before it."""
    return (
        reader.op in ops.CONVOLUTIONS
        and graph.is_constant(reader.inputs[1])
        and (node.op not in ops.SUMS or reader.attr("padding") == "VALID")
    )
