"""An immutable inference graph, keyed by node name.

A `Graph` is what every model becomes (SavedModel, Keras, tf.Module), and what
every analysis and transform reads. It holds TensorFlow's own NodeDefs, so
that no operation is out of its reach, but gives them the two things a GraphDef
lacks: typed edges in both directions, and a guarantee that it does not change.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import function_pb2, node_def_pb2

from dsg_tf.graph import ops
from dsg_tf.quant import qtypes


def tensor_name(ref: str) -> str:
    """The canonical form `node:index` of a NodeDef's input.

    Examples:
      >>> tensor_name("conv"), tensor_name("split:1")
      ('conv:0', 'split:1')
    """
    return ref if ":" in ref else f"{ref}:0"


def node_name(ref: str) -> str:
    """The node that produces a tensor, or that a control edge names.

    Examples:
      >>> node_name("split:1"), node_name("^init")
      ('split', 'init')
    """
    return ref.lstrip("^").split(":")[0]


@dataclasses.dataclass(frozen=True)
class Node:
    """One operation.

    Attributes:
      name: unique in its graph.
      op: TensorFlow's operation, e.g. `Conv2D`.
      inputs: the tensors it reads, each `node:index`, without control edges.
      definition: the NodeDef with its attributes; never to be modified.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    definition: node_def_pb2.NodeDef = dataclasses.field(
        repr=False, compare=False
    )

    @classmethod
    def from_def(cls, definition: node_def_pb2.NodeDef) -> Node:
        return cls(
            name=definition.name,
            op=definition.op,
            inputs=tuple(
                tensor_name(i)
                for i in definition.input
                if not i.startswith("^")
            ),
            definition=definition,
        )

    @classmethod
    def of(
        cls,
        name: str,
        op: str,
        inputs: Iterable[str] = (),
        **attributes: tf.DType | str | int | bool | np.ndarray,
    ) -> Node:
        """A new operation.

        Args:
          name: unique in its graph.
          op: TensorFlow's operation.
          inputs: the tensors it reads.
          **attributes: by TensorFlow's name; types, text, numbers, truth
            values, and arrays for the value of a Const.

        Examples:
          >>> Node.of("y", "Relu", ["x:0"], T=tf.float32)
          Node(name='y', op='Relu', inputs=('x:0',))
        """
        definition = node_def_pb2.NodeDef(name=name, op=op, input=inputs)
        for key, value in attributes.items():
            attribute = definition.attr[key]
            if isinstance(value, tf.DType):
                attribute.type = value.as_datatype_enum
            elif isinstance(value, str):
                attribute.s = value.encode()
            elif isinstance(value, bool):
                attribute.b = value
            elif isinstance(value, int):
                attribute.i = value
            else:
                attribute.tensor.CopyFrom(tf.make_tensor_proto(value))
        return cls.from_def(definition)

    @classmethod
    def constant(cls, name: str, value: np.ndarray) -> Node:
        """A Const of the value's type."""
        value = np.asarray(value)
        return cls.of(
            name, "Const", dtype=tf.as_dtype(value.dtype), value=value
        )

    @property
    def output(self) -> str:
        """The first output tensor."""
        return f"{self.name}:0"

    def attr(self, name: str, default: Any = None):
        """An attribute as a plain Python value, or `default` if absent."""
        if name not in self.definition.attr:
            return default
        value = self.definition.attr[name]
        kind = value.WhichOneof("value")
        if kind == "list":
            items = value.list
            return list(items.i or items.f or items.s or items.b)
        plain = getattr(value, kind)
        return plain.decode() if isinstance(plain, bytes) else plain

    def with_inputs(
        self, inputs: Iterable[str], *, name: str | None = None
    ) -> Node:
        """The same operation with other inputs, without control edges."""
        definition = node_def_pb2.NodeDef()
        definition.CopyFrom(self.definition)
        definition.name = self.name if name is None else name
        del definition.input[:]
        definition.input.extend(inputs)
        return Node.from_def(definition)


@dataclasses.dataclass(frozen=True)
class Port:
    """An input or output of the graph.

    Attributes:
      name: its key in the signature, as the caller of the model knows it.
      tensor: the tensor, `node:index`.
      dtype: its TensorFlow type.
      shape: its dimensions, batch first, None where unknown; None altogether
        where even the rank is unknown.
    """

    name: str
    tensor: str
    dtype: tf.DType
    shape: tuple[int | None, ...] | None


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """Mean and deviation of a tensor over the training set, by channel.

    Attributes:
      mean: float64 (C,).
      deviation: float64 (C,), not negative.
    """

    mean: np.ndarray
    deviation: np.ndarray

    def scaled(self, scale: np.ndarray) -> Moments:
        """Those of the tensor times `scale`, (C,)."""
        return Moments(self.mean * scale, self.deviation * np.abs(scale))

    def shifted(self, shift: np.ndarray) -> Moments:
        """Those of the tensor plus `shift`, (C,)."""
        return Moments(self.mean + shift, self.deviation)


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """A frozen inference graph; nodes stand in topological order.

    Args:
      nodes: by name, in topological order.
      inputs: what the caller feeds.
      outputs: what the caller fetches.
      library: the bodies of While and If, where the model has any.
      moments: of tensors whose BN was folded, by tensor; what a fold would
        otherwise forget. Passes that rescale or shift a tensor keep them true.
      weight_grids: of constants whose values lie on a grid of integers, by
        tensor; one scale for each output channel, or one for all.
      ranges: of tensors that the model's training quantized, by tensor.
    """

    nodes: Mapping[str, Node]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    library: function_pb2.FunctionDefLibrary | None = None
    moments: Mapping[str, Moments] = dataclasses.field(default_factory=dict)
    weight_grids: Mapping[str, qtypes.QuantParams] = dataclasses.field(
        default_factory=dict
    )
    ranges: Mapping[str, qtypes.TensorRange] = dataclasses.field(
        default_factory=dict
    )

    @classmethod
    def build(
        cls,
        nodes: Iterable[Node],
        *,
        inputs: Iterable[Port],
        outputs: Iterable[Port],
        library: function_pb2.FunctionDefLibrary | None = None,
        moments: Mapping[str, Moments] | None = None,
        weight_grids: Mapping[str, qtypes.QuantParams] | None = None,
        ranges: Mapping[str, qtypes.TensorRange] | None = None,
    ) -> Graph:
        """Keeps the nodes that the outputs need, sorts and verifies them."""
        inputs, outputs = tuple(inputs), tuple(outputs)
        by_name = {node.name: node for node in nodes}
        roots = [node_name(p.tensor) for p in (*outputs, *inputs)]
        order = _topological(by_name, roots)
        kept = {name: by_name[name] for name in order}

        def known(table: Mapping) -> dict:
            return {t: v for t, v in table.items() if node_name(t) in kept}

        graph = cls(
            kept,
            inputs,
            outputs,
            library,
            known(moments or {}),
            known(weight_grids or {}),
            known(ranges or {}),
        )
        graph.verify()
        return graph

    def verify(self) -> None:
        """Checks that every edge leads somewhere and comes from above.

        Raises:
          ValueError: naming the node and the edge that are wrong.
        """
        seen: set[str] = set()
        for name, node in self.nodes.items():
            if name != node.name:
                raise ValueError(f"node {node.name!r} is filed under {name!r}")
            for tensor in node.inputs:
                if node_name(tensor) not in seen:
                    raise ValueError(
                        f"node {name!r} reads {tensor!r}, which no node above"
                        " it produces"
                    )
            seen.add(name)
        for port in (*self.inputs, *self.outputs):
            if node_name(port.tensor) not in seen:
                raise ValueError(
                    f"{port.name!r} names {port.tensor!r}, which no node"
                    " produces"
                )

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes.values())

    def __len__(self) -> int:
        return len(self.nodes)

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    def producer(self, tensor: str) -> Node:
        """The node that produces `tensor`."""
        return self.nodes[node_name(tensor)]

    def consumers(self, tensor: str) -> tuple[Node, ...]:
        """The nodes that read `tensor`, in topological order."""
        return self._consumers.get(tensor, ())

    def is_constant(self, tensor: str) -> bool:
        """Whether `tensor` is the same for every input of the model."""
        return node_name(tensor) not in self._varying

    def ancestors(self, tensor: str) -> list[Node]:
        """All nodes that `tensor` depends on, itself first, breadth first."""
        queue = collections.deque([node_name(tensor)])
        seen = {queue[0]: None}
        while queue:
            for t in self.nodes[queue.popleft()].inputs:
                if node_name(t) not in seen:
                    seen[node_name(t)] = None
                    queue.append(node_name(t))
        return [self.nodes[name] for name in seen]

    def descendants(self, tensor: str) -> list[Node]:
        """All nodes that depend on `tensor`, in topological order."""
        reached = {tensor}
        found = []
        for node in self:
            if any(t in reached for t in node.inputs):
                found.append(node)
                reached.update(self.output_tensors(node))
        return found

    def output_tensors(self, node: Node) -> list[str]:
        """All tensors that `node` produces."""
        operation = self.tf_graph.get_operation_by_name(node.name)
        return [t.name for t in operation.outputs]

    def shape(self, tensor: str) -> tuple[int | None, ...] | None:
        """The static shape of `tensor`; None where its rank is unknown."""
        shape = self.tf_graph.get_tensor_by_name(tensor).shape
        return None if shape.rank is None else tuple(shape.as_list())

    def dtype(self, tensor: str) -> tf.DType:
        return self.tf_graph.get_tensor_by_name(tensor).dtype

    def literal(self, tensor: str) -> np.ndarray | None:
        """The value of a Const node's tensor; None for any other."""
        node = self.producer(tensor)
        if node.op != "Const":
            return None
        return tf.make_ndarray(node.definition.attr["value"].tensor)

    def replace_nodes(
        self,
        nodes: Mapping[str, Node],
        *,
        inputs: Iterable[Port] | None = None,
        outputs: Iterable[Port] | None = None,
        moments: Mapping[str, Moments] | None = None,
        weight_grids: Mapping[str, qtypes.QuantParams] | None = None,
        ranges: Mapping[str, qtypes.TensorRange] | None = None,
    ) -> Graph:
        """A new graph with some nodes replaced or added, and pruned.

        Args:
          nodes: by name.
          inputs: None keeps them; so do the others.
          outputs: likewise.
          moments: all that hold in the new graph.
          weight_grids: likewise.
          ranges: None keeps them.
        """
        return Graph.build(
            {**self.nodes, **nodes}.values(),
            inputs=self.inputs if inputs is None else inputs,
            outputs=self.outputs if outputs is None else outputs,
            library=self.library,
            moments=self.moments if moments is None else moments,
            weight_grids=(
                self.weight_grids if weight_grids is None else weight_grids
            ),
            ranges=self.ranges if ranges is None else ranges,
        )

    def redirected(
        self,
        instead: Mapping[str, str],
        *,
        nodes: Mapping[str, Node] | None = None,
        ranges: Mapping[str, qtypes.TensorRange] | None = None,
    ) -> Graph:
        """A new graph that reads other tensors in the place of some.

        Args:
          instead: the tensor to read, by the tensor that was read; chains are
            followed.
          nodes: nodes to replace or add, by name.
          ranges: as for `replace_nodes`.
        """

        def now(tensor: str) -> str:
            while tensor in instead:
                tensor = instead[tensor]
            return tensor

        changed = {
            name: node.with_inputs(map(now, node.inputs))
            for name, node in {**self.nodes, **(nodes or {})}.items()
        }
        return self.replace_nodes(
            changed,
            outputs=[
                dataclasses.replace(port, tensor=now(port.tensor))
                for port in self.outputs
            ],
            ranges=ranges,
        )

    def to_graph_def(self) -> tf.compat.v1.GraphDef:
        graph_def = tf.compat.v1.GraphDef()
        graph_def.versions.producer = tf.version.GRAPH_DEF_VERSION
        graph_def.node.extend(node.definition for node in self)
        if self.library is not None:
            graph_def.library.CopyFrom(self.library)
        return graph_def

    def text(self) -> str:
        """One line per node that is not a constant, for people and tests."""
        lines = [
            f"{node.name} = {node.op}({', '.join(node.inputs)})"
            for node in self
            if node.op != "Const"
        ]
        lines += [f"-> {port.name}: {port.tensor}" for port in self.outputs]
        return "\n".join(lines)

    @functools.cached_property
    def tf_graph(self) -> tf.Graph:
        """The graph as a tf.Graph, for shapes and types only."""
        graph = tf.Graph()
        with graph.as_default():
            tf.graph_util.import_graph_def(self.to_graph_def(), name="")
        return graph

    @functools.cached_property
    def _consumers(self) -> dict[str, tuple[Node, ...]]:
        found: dict[str, list[Node]] = collections.defaultdict(list)
        for node in self:
            for tensor in dict.fromkeys(node.inputs):
                found[tensor].append(node)
        return {tensor: tuple(nodes) for tensor, nodes in found.items()}

    @functools.cached_property
    def _varying(self) -> set[str]:
        varying = {node_name(port.tensor) for port in self.inputs}
        for node in self:
            # A random or stateful operation has no inputs that vary, but its
            # value does.
            stateful = node.op != "Const" and _is_stateful(node.op)
            if stateful or any(node_name(t) in varying for t in node.inputs):
                varying.add(node.name)
        return varying


def without_pass_through(nodes: Mapping[str, Node]) -> dict[str, Node]:
    """Removes Identity-like nodes and all control edges.

    A frozen graph has no state, so a control edge orders nothing. The nodes
    that remain keep their names; whoever read an Identity reads its source.

    Examples:
      A chain `Const -> Identity -> Identity -> Conv2D`, as inlining leaves
      behind for every variable, becomes `Const -> Conv2D`.
    """
    return {
        name: node.with_inputs(source(nodes, t) for t in node.inputs)
        for name, node in nodes.items()
        if node.op not in ops.IDENTITIES and node.op != "NoOp"
    }


def source(nodes: Mapping[str, Node], tensor: str) -> str:
    """The tensor behind a chain of Identity nodes."""
    while nodes[node_name(tensor)].op in ops.IDENTITIES:
        # IdentityN hands on each of its inputs, the others their first.
        index = int(tensor.rpartition(":")[2])
        tensor = nodes[node_name(tensor)].inputs[index]
    return tensor


def renamed(
    nodes: Mapping[str, Node], names: Mapping[str, str]
) -> dict[str, Node]:
    """Gives some nodes other names, wherever they are read."""

    def new(tensor: str) -> str:
        name, _, index = tensor.rpartition(":")
        return f"{names.get(name, name)}:{index}"

    return {
        names.get(name, name): node.with_inputs(
            map(new, node.inputs), name=names.get(name, name)
        )
        for name, node in nodes.items()
    }


def free_name(wanted: str, taken: Container[str]) -> str:
    """`wanted` as a legal node name, with a number where it is taken.

    Examples:
      >>> free_name("input image", {"input_image"})
      'input_image_1'
    """
    # A slash at the end would reopen a name scope.
    name = re.sub(r"[^A-Za-z0-9_.\\/>-]", "_", wanted).rstrip("/")
    if not re.match(r"[A-Za-z0-9.]", name):
        name = f"x{name}"
    count, free = 0, name
    while free in taken:
        count += 1
        free = f"{name}_{count}"
    return free


@functools.cache
def _is_stateful(op: str) -> bool:
    from tensorflow.python.framework import op_def_registry

    definition = op_def_registry.get(op)
    return definition is not None and definition.is_stateful


def _topological(nodes: Mapping[str, Node], roots: Iterable[str]) -> list[str]:
    """Names of `roots` and their ancestors, in topological order."""
    order: dict[str, None] = {}
    stack = [(root, False) for root in reversed(list(roots))]
    open_nodes: set[str] = set()
    while stack:
        name, done = stack.pop()
        if done:
            open_nodes.discard(name)
            order[name] = None
            continue
        if name in order:
            continue
        if name in open_nodes:
            raise ValueError(f"node {name!r} depends on itself")
        if name not in nodes:
            raise ValueError(f"no node is named {name!r}")
        open_nodes.add(name)
        stack.append((name, True))
        for tensor in reversed(nodes[name].inputs):
            if node_name(tensor) not in order:
                stack.append((node_name(tensor), False))
    return list(order)
