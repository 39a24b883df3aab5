"""Which tensors of a frozen graph have a grid of their own in a .tflite.

The converter merges operations, and kernels tie scales: a convolution, its
bias and its ReLU are one operation with one output; a pooling has its input's
scale. What is left are the places where an integer .tflite rounds, and where
a simulation of it has to. They are found by edges, never by names or order.

The rules are those of TFLiteConverter and LiteRT Quantizer as observed on
graphs of a few operations each; the tests hold them against both. Small
differences stay: operations that the converter writes in several (Softplus)
are one here, and equal operations that it merges are two.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping

from dsg_tf.analysis import fused_chains, fused_patterns
from dsg_tf.graph import ir, ops
from dsg_tf.quant import qtypes

# The output has the scale of this operand. The first of its kind compute, so
# that their output is rounded; the others move values or choose among them.
_TIED_COMPUTING = {"AvgPool": 0, "ResizeBilinear": 0}
_MOVING = (
    "BatchToSpaceND BroadcastTo DepthToSpace ExpandDims Gather GatherNd"
    " GatherV2 Max MaxPool MaxPoolV2 Min MirrorPad Pad Reshape"
    " ResizeNearestNeighbor ReverseV2 Slice SpaceToBatchND SpaceToDepth"
    " SplitV Squeeze StridedSlice Tile Transpose Unpack"
)
_TIED = _TIED_COMPUTING | {"Split": 1} | dict.fromkeys(_MOVING.split(), 0)
# Operands have the scale of the output. Rounding behind such an operation is
# rounding before it, for it moves values or chooses among them.
_CHOOSING = "Concat ConcatV2 Maximum Minimum Pack PadV2 Select SelectV2"
_AS_OUTPUT = frozenset(_CHOOSING.split())
# The kernels prescribe these outputs' grids.
_FIXED = {
    "LogSoftmax": qtypes.TensorRange(-16.0, 0.0),
    "Sigmoid": qtypes.TensorRange(0.0, 1.0),
    "Softmax": qtypes.TensorRange(0.0, 1.0),
    "Tanh": qtypes.TensorRange(-1.0, 1.0),
}
_UNIT = qtypes.TensorRange(-1.0, 1.0)

# Their constants are no operands of a .tflite: a BN is folded or written as
# two operations, a power is written as products.
_OWN_CONSTANTS = ops.BATCH_NORMS | {"BiasAdd", "Pow"}


class Kind(enum.Enum):
    """How a tensor of the .tflite comes to its grid."""

    OWN = "a grid of its own"
    FIXED = "a grid that the kernels prescribe"
    SHARED = "rounded on the grid of another tensor"
    NONE = "not rounded"


@dataclasses.dataclass(frozen=True)
class Place:
    """One float tensor.

    Attributes:
      tensor: its name, `node:index`.
      kind: how it comes to its grid.
      reason: why, for people.
      of: the tensor with the grid that its values come to lie on; itself for
        OWN and FIXED.
      fixed: for FIXED, what the grid covers at any width.
    """

    tensor: str
    kind: Kind
    reason: str
    of: str
    fixed: qtypes.TensorRange | None = None


@dataclasses.dataclass(frozen=True)
class Operand:
    """A constant that a .tflite quantizes as it does activations.

    Attributes:
      node: who reads it.
      tensor: the constant.
      of: the tensor with the grid whose width the constant's grid has.
    """

    node: str
    tensor: str
    of: str


@dataclasses.dataclass(frozen=True)
class Points:
    """All of a graph.

    Attributes:
      places: every float tensor that depends on the inputs and is read or an
        output, by name, in topological order.
      operands: constants, one for each use.
      unrounded: (reader, input of the model) where the reader takes the real
        values and rounds them on its output's grid: once, not twice.
    """

    places: Mapping[str, Place]
    operands: tuple[Operand, ...]
    unrounded: frozenset[tuple[str, str]]


def find(graph: ir.Graph) -> Points:
    """Finds where an integer .tflite of a graph rounds.

    Args:
      graph: a frozen graph; BN folded or not.

    Returns:
      Its places.

    Examples:
      >>> from dsg_tf.graph.load import loading
      >>> import tensorflow as tf
      >>> shifted = tf.function(
      ...     lambda x: tf.nn.relu(x + 1.0),
      ...     input_signature=[tf.TensorSpec((None, 3), name="x")],
      ... )
      >>> points = find(loading.load(shifted))
      >>> [(p.tensor, p.kind.name) for p in points.places.values()]
      [('x:0', 'OWN'), ('add:0', 'NONE'), ('Relu:0', 'OWN')]
    """
    return _Finder(graph).run()


class _Finder:
    """One walk through a graph, in topological order."""

    def __init__(self, graph: ir.Graph):
        self._graph = graph
        self._outputs = {port.tensor for port in graph.outputs}
        self._places: dict[str, Place] = {}
        self._operands: list[Operand] = []
        self._unrounded: set[tuple[str, str]] = set()
        self._chains: dict[str, fused_chains.Chain] = {}
        self._fused = fused_patterns.fused(graph)
        self._activations = fused_patterns.activations(graph)
        # Name of the one operation and its output, by inner tensor.
        self._inside = {
            tensor: (graph.producer(root).op, root)
            for root, source in self._activations.items()
            for tensor in fused_patterns.between(graph, source, root)
        } | {
            tensor: (found.name, root)
            for root, found in self._fused.items()
            for tensor in found.inside
        }
        self._forward = fused_chains.merged_forward(graph)

    def run(self) -> Points:
        graph = self._graph
        for node in graph:
            if graph.is_constant(node.output):
                continue
            for tensor in graph.output_tensors(node):
                read = graph.consumers(tensor) or tensor in self._outputs
                if read and graph.dtype(tensor).is_floating:
                    self._visit(node, tensor)
                elif read and graph.dtype(tensor).is_bool:
                    self._visit_comparison(node)
        places = {
            name: dataclasses.replace(place, of=self._end(place.of))
            for name, place in self._places.items()
        }
        operands = [
            dataclasses.replace(o, of=self._end(o.of)) for o in self._operands
        ]
        return Points(places, tuple(operands), frozenset(self._unrounded))

    def _end(self, tensor: str) -> str:
        """Where the chain of `of` ends."""
        while tensor in self._places and self._places[tensor].of != tensor:
            tensor = self._places[tensor].of
        return tensor

    def _visit(self, node: ir.Node, tensor: str) -> None:
        if tensor in self._inside:
            name, root = self._inside[tensor]
            self._skip(tensor, f"inside {name}", root)
        elif tensor in self._fused:
            found = self._fused[tensor]
            self._own(tensor, _UNIT if found.unit_range else None)
            for reader, constant in found.operands:
                self._operands.append(Operand(reader, constant, tensor))
        elif node.op in _FIXED:
            self._own(tensor, _FIXED[node.op])
        elif tensor in self._forward:
            (next_node, *_) = self._graph.consumers(tensor)
            why = f"merged into {next_node.op}"
            self._skip(tensor, why, next_node.output)
        elif (data := self._tied_to(node)) is not None:
            self._visit_tied(node, tensor, data)
        elif tensor in self._activations:
            self._visit_activation(node, tensor, self._activations[tensor])
        elif node.op in _AS_OUTPUT:
            self._visit_as_output(node, tensor)
        else:
            self._visit_free(node, tensor)

    def _own(
        self, tensor: str, fixed: qtypes.TensorRange | None = None
    ) -> None:
        kind = Kind.OWN if fixed is None else Kind.FIXED
        self._places[tensor] = Place(tensor, kind, kind.value, tensor, fixed)

    def _skip(self, tensor: str, reason: str, of: str) -> None:
        self._places[tensor] = Place(tensor, Kind.NONE, reason, of)

    def _sole_reader(self, tensor: str) -> ir.Node | None:
        """The operation that alone reads a tensor; None for outputs."""
        readers = self._graph.consumers(tensor)
        alone = len(readers) == 1 and tensor not in self._outputs
        return readers[0] if alone else None

    def _chain(self, tensor: str) -> fused_chains.Chain | None:
        """The chain that whoever reads `tensor` could go on with."""
        return self._chains.get(tensor) if self._sole_reader(tensor) else None

    def _merge(self, chain: fused_chains.Chain, node: ir.Node) -> None:
        """The operation becomes a part of the one before it."""
        for tensor in (chain.source, *chain.path):
            self._skip(tensor, f"merged with {node.op}", node.output)

    def _tied_to(self, node: ir.Node) -> str | None:
        """The operand whose grid the outputs have."""
        if node.op in _TIED:
            return node.inputs[_TIED[node.op]]
        if node.op in ops.ARITHMETIC:
            return fused_patterns.unchanged(self._graph, node.output)
        return None

    def _visit_tied(self, node: ir.Node, tensor: str, data: str) -> None:
        graph = self._graph
        if graph.is_constant(data):  # A table of embeddings.
            self._own(tensor)
            self._operands.append(Operand(node.name, data, tensor))
            return
        computes = node.op in _TIED_COMPUTING
        self._places[tensor] = Place(
            tensor,
            Kind.SHARED if computes else Kind.NONE,
            f"{node.op} has its input's grid",
            data,
        )
        chain = self._chain(data)
        if node.op in ops.BEHIND_LAYERS and chain is not None:
            before, behind = graph.shape(data) or (), graph.shape(tensor) or ()
            same = before[-1:] == behind[-1:]
            self._chains[tensor] = chain.reshaped(tensor, same_channels=same)

    def _visit_activation(
        self, node: ir.Node, tensor: str, source: str
    ) -> None:
        """ReLU, ReLU6 and the clip to [-1, 1], by whatever operations."""
        chain = self._chain(source)
        producer = self._graph.producer(source)
        self._own(tensor)
        if chain is not None and chain.activation:
            self._merge(chain, node)
        elif producer.op in ops.POOLS and self._sole_reader(source):
            self._skip(tensor, f"merged with {producer.op}", source)

    def _visit_as_output(self, node: ir.Node, tensor: str) -> None:
        self._own(tensor)
        for operand in node.inputs:
            place = self._places.get(operand)
            if place is None or place.kind is not Kind.OWN:
                continue
            if self._graph.producer(operand).op == "Placeholder":
                self._unrounded.add((node.name, operand))
            elif self._sole_reader(operand):
                self._skip(operand, f"has the grid of {node.op}", tensor)

    def _visit_free(self, node: ir.Node, tensor: str) -> None:
        graph = self._graph
        self._own(tensor)
        before = None
        if node.inputs:
            before = self._chain(fused_chains.data_operand(graph, node))
        if before is not None and not fused_chains.continues(
            graph, node, before
        ):
            before = None
        if before is not None:
            self._merge(before, node)
        chain = fused_chains.after(graph, node, before)
        if chain is not None:
            self._chains[tensor] = chain
        weighted = node.op in fused_chains.LINEAR | _OWN_CONSTANTS
        if before is None and not weighted:
            self._add_operands(node, tensor)

    def _visit_comparison(self, node: ir.Node) -> None:
        for operand in node.inputs:
            if operand in self._places:
                self._add_operands(node, operand)

    def _add_operands(self, node: ir.Node, of: str) -> None:
        for tensor in dict.fromkeys(node.inputs):
            floating = self._graph.dtype(tensor).is_floating
            if floating and self._graph.is_constant(tensor):
                self._operands.append(Operand(node.name, tensor, of))
