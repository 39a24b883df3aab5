"""Loops of a known number of steps, written out.

A recurrent layer of Keras is a While over the time steps, whose inputs and
outputs go through TensorLists. TFLite's integer kernels, and every analysis of
this package, want plain operations: the body once for each step, the elements
of a list as tensors of their own. The network computes the same.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import function_pb2, node_def_pb2
from tensorflow.python.framework import function_def_to_graph

from dsg_tf.graph import inlining, ir

_LOOPS = frozenset({"StatelessWhile", "While"})
_LISTS = frozenset(
    {
        *("EmptyTensorList", "TensorListFromTensor", "TensorListGetItem"),
        *("TensorListLength", "TensorListPushBack", "TensorListReserve"),
        *("TensorListSetItem", "TensorListStack"),
    }
)
# A number says which element, or how many there are.
_NUMBERED = frozenset(
    {"TensorListGetItem", "TensorListReserve", "TensorListSetItem"}
)
# What they tell depends on the shape of what they read alone.
_SHAPES = frozenset({"Rank", "Shape", "ShapeN", "Size"})
# A network of more operations takes the converter minutes.
_MOST_NODES = 50_000


class TooLongError(ValueError):
    """A loop of more steps than can be written out."""


def unrolled(graph: ir.Graph) -> ir.Graph:
    """The graph with loops of a known number of steps written out.

    Args:
      graph: a frozen graph, all dimensions of its inputs known but the batch.

    Returns:
      The graph; loops whose number of steps depends on the inputs stay.

    Raises:
      TooLongError: naming a loop that has too many steps.
    """
    tried: set[str] = set()
    changed = False
    while True:
        loops = [n for n in graph if n.op in _LOOPS and n.name not in tried]
        if not loops:
            break
        steps = {}
        for loop in loops:
            tried.add(loop.name)
            count = _steps(graph, loop)
            if count is not None:
                steps[loop.name] = count
        if steps:
            graph, changed = _written_out(graph, steps), True
    return _without_lists(graph) if changed else graph


class _Function:
    """A function of the library, flat.

    Attributes:
      graph_def: its body; arguments are placeholders.
      arguments: their names.
      results: the tensors that it returns.
    """

    def __init__(self, definition: function_pb2.FunctionDef):
        self.graph_def, names = function_def_to_graph.function_def_to_graph_def(
            definition
        )
        self.arguments = [a.name for a in definition.signature.input_arg]
        self.results = [
            names[definition.ret[o.name]]
            for o in definition.signature.output_arg
        ]
        self._inputs = {
            node.name: [i.lstrip("^").split(":")[0] for i in node.input]
            for node in self.graph_def.node
        }

    def reads(self, tensor: str) -> set[int]:
        """The arguments that a tensor depends on, by position."""
        queue, seen = [tensor.split(":")[0]], set()
        while queue:
            name = queue.pop()
            if name not in seen:
                seen.add(name)
                queue += self._inputs.get(name, ())
        return {i for i, name in enumerate(self.arguments) if name in seen}

    @functools.cached_property
    def _session(self) -> tf.compat.v1.Session:
        graph = tf.Graph()
        with graph.as_default():
            tf.graph_util.import_graph_def(self.graph_def, name="")
        return tf.compat.v1.Session(graph=graph)

    def evaluate(
        self, tensors: Sequence[str], values: Mapping[int, np.ndarray]
    ) -> list[np.ndarray]:
        """Values of tensors that depend on the arguments given alone."""
        feeds = {f"{self.arguments[i]}:0": value for i, value in values.items()}
        return self._session.run(list(tensors), feed_dict=feeds)


def _steps(graph: ir.Graph, loop: ir.Node) -> int | None:
    """How many steps a loop has; None where that depends on the inputs.

    Raises:
      TooLongError: more than can be written out.
    """
    library = {f.signature.name: f for f in graph.library.function}
    condition = _Function(library[loop.definition.attr["cond"].func.name])
    body = _Function(library[loop.definition.attr["body"].func.name])
    initial = _fixed(graph, loop.inputs)
    known = {i for i, tensor in enumerate(loop.inputs) if tensor in initial}
    reads = [body.reads(result) for result in body.results]
    while True:
        kept = {index for index in known if reads[index] <= known}
        if kept == known:
            break
        known = kept
    if not condition.reads(condition.results[0]) <= known:
        return None
    # Only what the condition needs, over all steps.
    needed = condition.reads(condition.results[0])
    while not (more := set().union(*(reads[i] for i in needed))) <= needed:
        needed |= more
    order = sorted(needed)
    values = {i: initial[loop.inputs[i]] for i in order}
    most = _MOST_NODES // max(len(body.graph_def.node), 1)
    for count in range(most + 1):
        (goes_on,) = condition.evaluate(condition.results, values)
        if not goes_on:
            return count
        results = body.evaluate([body.results[i] for i in order], values)
        values = dict(zip(order, results, strict=True))
    raise TooLongError(
        f"loop {loop.name!r} of more than {most} steps of"
        f" {len(body.graph_def.node)} operations"
    )


def _written_out(graph: ir.Graph, steps: Mapping[str, int]) -> ir.Graph:
    """The graph with a call for each step, and the calls inlined."""
    definition = graph.to_graph_def()
    final: dict[str, list[str]] = {}
    nodes: list[node_def_pb2.NodeDef] = []
    for node in definition.node:
        if node.name not in steps:
            nodes.append(node)
            continue
        values = [i for i in node.input if not i.startswith("^")]
        for step in range(steps[node.name]):
            call = node_def_pb2.NodeDef(
                name=f"{node.name}/step_{step}", op="PartitionedCall"
            )
            call.input.extend(values)
            call.attr["f"].func.name = node.attr["body"].func.name
            nodes.append(call)
            values = [f"{call.name}:{i}" for i in range(len(values))]
        final[node.name] = values

    def now(tensor: str) -> str:
        """Where a tensor of the old graph is."""
        name, _, index = ir.tensor_name(tensor).rpartition(":")
        while name in final:
            tensor = final[name][int(index)]
            name, _, index = ir.tensor_name(tensor).rpartition(":")
        return tensor

    for node in nodes:
        inputs = [now(i) for i in node.input if not i.startswith("^")]
        del node.input[:]
        node.input.extend(inputs)
    flat, moved = inlining.inline_calls(
        tf.compat.v1.GraphDef(
            node=nodes, library=definition.library, versions=definition.versions
        )
    )
    moved = {ir.tensor_name(a): ir.tensor_name(b) for a, b in moved.items()}
    by_name = {n.name: ir.Node.from_def(n) for n in flat.node}

    def port(old: ir.Port) -> ir.Port:
        tensor = ir.tensor_name(now(old.tensor))
        tensor = ir.source(by_name, moved.get(tensor, tensor))
        return ir.Port(old.name, tensor, old.dtype, old.shape)

    return ir.Graph.build(
        ir.without_pass_through(by_name).values(),
        inputs=graph.inputs,
        outputs=[port(p) for p in graph.outputs],
        library=flat.library if flat.library.function else None,
    )


def _without_lists(graph: ir.Graph) -> ir.Graph:
    """The graph with the elements of TensorLists as tensors of their own.

    Where an element is read that nobody has set, or one that the inputs decide,
    the graph stays as it is.
    """
    lists = [node for node in graph if node.op in _LISTS]
    wanted = [node.inputs[1] for node in lists if node.op in _NUMBERED]
    numbers = _fixed(graph, wanted)
    if not numbers.keys() >= set(wanted):
        return graph
    lengths = _lengths(graph, lists)
    elements: dict[str, tuple[str | None, ...]] = {}
    new: dict[str, ir.Node] = {}
    instead: dict[str, str] = {}
    for node in lists:
        held = elements.get(node.inputs[0], ()) if node.inputs else ()
        if node.op == "EmptyTensorList":
            elements[node.output] = ()
        elif node.op == "TensorListReserve":
            elements[node.output] = (None,) * int(numbers[node.inputs[1]])
        elif node.op == "TensorListPushBack":
            elements[node.output] = (*held, node.inputs[1])
        elif node.op == "TensorListSetItem":
            index = int(numbers[node.inputs[1]])
            changed = list(held)
            changed[index] = node.inputs[2]
            elements[node.output] = tuple(changed)
        elif node.op == "TensorListFromTensor":
            count = lengths[node.inputs[0]]
            new[node.name] = _unpack(graph, node, count)
            elements[node.output] = tuple(
                f"{node.name}:{index}" for index in range(count)
            )
        elif node.op == "TensorListLength":
            new[node.name] = ir.Node.constant(
                node.name, np.array(len(held), np.int32)
            )
        elif node.op == "TensorListGetItem":
            element = held[int(numbers[node.inputs[1]])]
            if element is None:
                return graph
            instead[node.output] = element
        else:
            if None in held:
                return graph
            new[node.name] = _pack(graph, node, held)

    return graph.redirected(instead, nodes=new)


def _unpack(graph: ir.Graph, node: ir.Node, count: int) -> ir.Node:
    return ir.Node.of(
        node.name,
        "Unpack",
        node.inputs[:1],
        num=count,
        axis=0,
        T=graph.dtype(node.inputs[0]),
    )


def _pack(graph: ir.Graph, node: ir.Node, held: Sequence[str]) -> ir.Node:
    dtype = tf.as_dtype(node.attr("element_dtype"))
    return ir.Node.of(node.name, "Pack", held, N=len(held), axis=0, T=dtype)


def _lengths(graph: ir.Graph, lists: Iterable[ir.Node]) -> dict[str, int]:
    """The first dimension of tensors that become lists."""
    wanted = [n.inputs[0] for n in lists if n.op == "TensorListFromTensor"]
    (found,) = _evaluated(graph, wanted, (1,), shapes=True)
    return {tensor: int(shape[0]) for tensor, shape in found.items()}


def _fixed(graph: ir.Graph, tensors: Iterable[str]) -> dict[str, np.ndarray]:
    """Values of those tensors that are the same for all inputs.

    They are constant, or depend on the shapes of the inputs alone, and not on
    the number of samples.
    """
    wanted = [
        tensor
        for tensor in dict.fromkeys(tensors)
        if graph.dtype(tensor) != tf.variant and _of_shapes(graph, tensor)
    ]
    one, other = _evaluated(graph, wanted, (1, 3))
    return {
        tensor: value
        for tensor, value in one.items()
        if np.array_equal(value, other[tensor])
    }


def _of_shapes(graph: ir.Graph, tensor: str) -> bool:
    """Whether no value of an input reaches a tensor, only its shape."""
    queue, seen = [tensor], set()
    while queue:
        tensor = queue.pop()
        node = graph.producer(tensor)
        if node.name in seen or node.op in _SHAPES:
            continue
        seen.add(node.name)
        if node.op == "Placeholder" or node.op in _LOOPS:
            return False
        queue += node.inputs
    return True


def _evaluated(
    graph: ir.Graph,
    tensors: Sequence[str],
    batches: Sequence[int],
    *,
    shapes: bool = False,
) -> list[dict[str, np.ndarray]]:
    """Values of tensors, or their shapes, on zeros, for each batch size."""
    if not tensors:
        return [{} for _ in batches]
    tf_graph = tf.Graph()
    with tf_graph.as_default():
        tf.graph_util.import_graph_def(graph.to_graph_def(), name="")
        wanted = {t: tf_graph.get_tensor_by_name(t) for t in tensors}
        if shapes:
            wanted = {t: tf.shape(tensor) for t, tensor in wanted.items()}
    found = []
    with tf.compat.v1.Session(graph=tf_graph) as session:
        for batch in batches:
            feeds = {
                port.tensor: np.zeros(
                    [d or batch for d in port.shape], port.dtype.as_numpy_dtype
                )
                for port in graph.inputs
            }
            found.append(session.run(wanted, feed_dict=feeds))
    return found
