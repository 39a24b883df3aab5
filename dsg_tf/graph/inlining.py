"""Function calls of a GraphDef, and their replacement by what they compute.

TensorFlow inlines most calls itself when it freezes a function. It leaves
those that are to be compiled (`jit_compile=True`) or that asked not to be
inlined, and it never looks into an `If` whose condition is a constant, which
is what `training` becomes in an exported model. A layer behind such a call
would be out of sight, and its gradient would fail.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import tensorflow as tf
from tensorflow.core.framework import function_pb2, node_def_pb2
from tensorflow.python.framework import function_def_to_graph

_CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
_BRANCHES = frozenset({"If", "StatelessIf"})
# Real graphs are not nested deeper than this; deeper ones are damaged.
_MAX_DEPTH = 200

_Nodes = dict[str, node_def_pb2.NodeDef]


def called_functions(node: node_def_pb2.NodeDef) -> Iterator[str]:
    """Names of all functions that a node may call, branches included."""
    yield node.op
    for attribute in node.attr.values():
        kind = attribute.WhichOneof("value")
        if kind == "func":
            yield attribute.func.name
        elif kind == "list":
            for function in attribute.list.func:
                yield function.name


def inline_calls(
    graph_def: tf.compat.v1.GraphDef,
) -> tuple[tf.compat.v1.GraphDef, dict[str, str]]:
    """Replaces calls, and branches on constants, by the nodes they run.

    Args:
      graph_def: a frozen graph. Control edges are not kept: without state
        they order nothing.

    Returns:
      An equal graph, whose library holds what While and If still need; and
      for each output tensor of a replaced call, the tensor that it is now.

    Raises:
      ValueError: calls are nested without end.
    """
    library = {f.signature.name: f for f in graph_def.library.function}
    nodes: _Nodes = {node.name: node for node in graph_def.node}
    moved: dict[str, str] = {}
    for _ in range(_MAX_DEPTH):
        calls = [
            (node, *called)
            for node in nodes.values()
            if (called := _called(node, nodes, library, moved))
        ]
        if not calls:
            break
        for call, function, arguments in calls:
            del nodes[call.name]
            body, results = _expand(call, library[function], arguments)
            nodes.update((node.name, node) for node in body)
            for index, tensor in enumerate(results):
                moved[_tensor(f"{call.name}:{index}")] = tensor
    else:
        raise ValueError(f"calls are nested more than {_MAX_DEPTH} deep")
    inlined = tf.compat.v1.GraphDef(versions=graph_def.versions)
    for node in nodes.values():
        inputs = [_follow(moved, i) for i in node.input if i[:1] != "^"]
        del node.input[:]
        node.input.extend(inputs)
        inlined.node.append(node)
    inlined.library.function.extend(_needed(library, inlined))
    return inlined, {old: _follow(moved, new) for old, new in moved.items()}


def _called(
    node: node_def_pb2.NodeDef,
    nodes: _Nodes,
    library: Mapping[str, function_pb2.FunctionDef],
    moved: Mapping[str, str],
) -> tuple[str, list[str]] | None:
    """The function that a node always runs, and its arguments."""
    inputs = [i for i in node.input if not i.startswith("^")]
    if node.op in library:
        return node.op, inputs
    if node.op in _CALLS:
        return node.attr["f"].func.name, inputs
    if node.op in _BRANCHES:
        value = _constant(nodes, moved, inputs[0])
        if value is not None:
            branch = "then_branch" if value else "else_branch"
            return node.attr[branch].func.name, inputs[1:]
    return None


def _constant(nodes: _Nodes, moved: Mapping[str, str], tensor: str):
    """The value of a scalar constant behind Identity nodes, or None."""
    node = nodes.get(_follow(moved, tensor).split(":")[0])
    while node is not None and node.op == "Identity":
        node = nodes.get(_follow(moved, node.input[0]).split(":")[0])
    if node is None or node.op != "Const":
        return None
    return tf.make_ndarray(node.attr["value"].tensor).item()


def _expand(
    call: node_def_pb2.NodeDef,
    function: function_pb2.FunctionDef,
    arguments: list[str],
) -> tuple[list[node_def_pb2.NodeDef], list[str]]:
    """The nodes of a call's body, and the tensors that it returns."""
    body, flat_names = function_def_to_graph.function_def_to_graph_def(function)
    names = [argument.name for argument in function.signature.input_arg]
    given = dict(zip(names, arguments, strict=True))

    def outside(tensor: str) -> str:
        name = tensor.split(":")[0]
        return given.get(name, f"{call.name}/{tensor}")

    nodes = []
    for node in body.node:
        if node.name in given:
            continue
        inputs = [outside(i) for i in node.input if not i.startswith("^")]
        node.name = f"{call.name}/{node.name}"
        del node.input[:]
        node.input.extend(inputs)
        nodes.append(node)
    results = [
        outside(flat_names[function.ret[output.name]])
        for output in function.signature.output_arg
    ]
    return nodes, results


def _needed(
    library: Mapping[str, function_pb2.FunctionDef],
    graph_def: tf.compat.v1.GraphDef,
) -> list[function_pb2.FunctionDef]:
    """The functions that a graph can still reach, in the library's order."""
    reached: set[str] = set()
    stack = list(graph_def.node)
    while stack:
        for name in called_functions(stack.pop()):
            if name in library and name not in reached:
                reached.add(name)
                stack += library[name].node_def
    return [f for name, f in library.items() if name in reached]


def _tensor(ref: str) -> str:
    return ref.removesuffix(":0")


def _follow(moved: Mapping[str, str], tensor: str) -> str:
    """Where a tensor is now, `node` for `node:0` as in a NodeDef."""
    while _tensor(tensor) in moved:
        tensor = moved[_tensor(tensor)]
    return _tensor(tensor)
