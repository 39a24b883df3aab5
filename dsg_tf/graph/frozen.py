"""Converts TensorFlow functions to frozen graphs and back.

`freeze` turns a concrete function (of a SavedModel, a Keras model, a
tf.Module) into a `Graph`: variables become constants, calls are inlined,
Identity nodes and control edges go. `to_function` turns a graph, or any part of
it, back into something that runs and has gradients.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import tensorflow as tf
from tensorflow.core.framework import function_pb2, node_def_pb2
from tensorflow.python.eager import context
from tensorflow.python.framework import convert_to_constants

from dsg_tf.graph import grouped_convolutions, inlining, ir, ops, switches

# Operations that move numbers and never compute with them: an input that
# reaches a Cast through these alone can be fed as float just as well.
_MOVING_OPS = (
    ops.RESHAPES | ops.PADS - {"MirrorPad"} | ops.having(ops.Trait.MOVE)
) | {"ConcatV2"}


def freeze(
    function: tf.types.experimental.ConcreteFunction,
    *,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> ir.Graph:
    """Freezes a concrete function to a graph of constants and operations.

    Variables become constants that keep the variables' names, calls are
    inlined, branches on constants decided, custom gradients dropped (the
    operations' own gradients hold). Placeholders take the names of the inputs,
    as far as these are legal names of nodes.

    Args:
      function: what computes the model's outputs, in inference mode.
      input_names: what the caller calls its inputs, in the order of
        `function.inputs` without the captured ones; by default the names of
        the placeholders.
      output_names: likewise for its flat outputs; by default `output_<i>`.

    Returns:
      The graph, with BatchNormalization intact.

    Raises:
      ValueError: the graph has a cycle (loops of TensorFlow 1), or writes to
        a variable.
    """
    frozen = convert_to_constants.convert_variables_to_constants_v2(
        function, lower_control_flow=False
    )
    # A captured resource that is no variable stays a placeholder, but is no
    # input.
    captured = {t.name for t in function.graph.internal_captures}
    inputs = [t for t in frozen.inputs if t.name not in captured]
    fed = [t.op.name for t in inputs]
    if input_names is None:
        input_names = fed
    if output_names is None:
        output_names = [f"output_{i}" for i in range(len(frozen.outputs))]
    nodes, library, moved = _plain_nodes(frozen.graph.as_graph_def(), fed)
    sources = [
        ir.source(nodes, moved.get(t.name, t.name)) for t in frozen.outputs
    ]
    nodes = ir.without_pass_through(nodes)
    wanted = _capture_names(function)
    wanted.update(zip(fed, input_names, strict=True))
    names = _public_names(nodes, wanted)

    def port(name: str, tensor: str, value: tf.Tensor) -> ir.Port:
        node, _, index = tensor.rpartition(":")
        return _port(name, f"{names.get(node, node)}:{index}", value)

    return ir.Graph.build(
        ir.renamed(nodes, names).values(),
        inputs=[
            port(name, t.name, t)
            for name, t in zip(input_names, inputs, strict=True)
        ],
        outputs=[
            port(name, tensor, t)
            for name, tensor, t in zip(
                output_names, sources, frozen.outputs, strict=True
            )
        ],
        library=library,
    )


@contextlib.contextmanager
def in_fixed_order() -> Iterator[None]:
    """Makes TensorFlow add up in a fixed order.

    Floats depend on the order in which they are added, from three addends on,
    and Grappler, which optimises functions when they are first called, gives
    that order away:

    * Its arithmetic optimizer collects sums of sums in one AddN. AddN begins
      with the addend whose buffer nobody else holds: which it is depends on
      what has already run, and differs from call to call.
    * Its memory optimizer splits an AddN of a function that needs more than
      205 MB (80 % of what it takes a CPU to have) into an AssignAdd for each
      addend, which run as the addends get done. MobileNetV1 at 224x224 is
      such a function, with all 27 gradients that enter a BN layer.

    Both are off inside, for the calls that this thread makes; the global
    options stay. Running operations in turn would not do instead: the turn is
    another one in another process.

    What is an AddN before Grappler stays one: see `with_sums_in_pairs`, and
    `tf.AggregationMethod.EXPERIMENTAL_TREE` for gradients.
    """
    eager = context.context()
    before = eager.function_call_options
    config = tf.compat.v1.ConfigProto.FromString(before.config_proto_serialized)
    rewriting = config.graph_options.rewrite_options
    rewriting.memory_optimization = rewriting.NO_MEM_OPT
    rewriting.arithmetic_optimization = rewriting.OFF
    eager.function_call_options = context.FunctionCallOptions(
        executor_type=before.executor_type, config_proto=config
    )
    try:
        yield
    finally:
        eager.function_call_options = before


def with_sums_in_pairs(graph: ir.Graph) -> ir.Graph:
    """Replaces each AddN of three or more inputs by sums of two, in order."""
    nodes, taken = {}, set(graph.nodes)
    for node in graph:
        if node.op != "AddN" or len(node.inputs) < 3:
            continue
        total, *rest = node.inputs
        for left, addend in zip(range(len(rest))[::-1], rest, strict=True):
            name = node.name
            if left:
                name = ir.free_name(f"{node.name}/sum", taken)
                taken.add(name)
            definition = node_def_pb2.NodeDef(
                name=name, op="AddV2", input=[total, addend]
            )
            definition.attr["T"].CopyFrom(node.definition.attr["T"])
            nodes[name] = ir.Node.from_def(definition)
            total = nodes[name].output
    return graph.replace_nodes(nodes)


def splice(
    graph: ir.Graph, inputs: Sequence[tf.Tensor], outputs: Sequence[str]
) -> list[tf.Tensor]:
    """Imports a graph's operations into the function being traced.

    A function of `to_function` would be called there as a whole, and have a
    gradient of its own; so `tf.gradients` sees every operation. Grouped
    convolutions become plain ones, see `grouped_convolutions`.

    Args:
      graph: the graph.
      inputs: its inputs, in the order of `graph.inputs`.
      outputs: tensors to compute, `node:index`.

    Returns:
      The outputs' tensors.
    """
    return tf.graph_util.import_graph_def(
        grouped_convolutions.as_dense(graph).to_graph_def(),
        input_map={
            port.tensor: tensor
            for port, tensor in zip(graph.inputs, inputs, strict=True)
        },
        return_elements=list(outputs),
        name="frozen",
    )


def to_function(
    graph: ir.Graph,
    outputs: Iterable[str] | None = None,
    *,
    as_written: bool = False,
) -> tf.types.experimental.ConcreteFunction:
    """A concrete function of the graph's inputs.

    Args:
      graph: the graph.
      outputs: tensors to compute, `node:index`; by default the graph's
        outputs.
      as_written: for a converter: grouped convolutions stay what they are,
        although a CPU may fail to run them, see `grouped_convolutions`.

    Returns:
      A function of the inputs in `graph.inputs` order, which returns the list
      of outputs. Its gradient reaches the inputs only: all else is constant.
    """
    if outputs is None:
        outputs = [port.tensor for port in graph.outputs]
    outputs = list(outputs)
    if not as_written:
        graph = grouped_convolutions.as_dense(graph)
    graph_def = graph.to_graph_def()
    wrapped = tf.compat.v1.wrap_function(
        lambda: tf.graph_util.import_graph_def(graph_def, name=""), []
    )
    return wrapped.prune(
        [wrapped.graph.get_tensor_by_name(p.tensor) for p in graph.inputs],
        [wrapped.graph.get_tensor_by_name(t) for t in outputs],
    )


def with_input_shapes(
    graph: ir.Graph, shapes: Mapping[str, Sequence[int | None]]
) -> ir.Graph:
    """The graph with other static shapes on its inputs.

    Args:
      graph: the graph.
      shapes: full shape, batch first, by input name; inputs that are not
        named keep theirs.
    """
    nodes, ports = {}, []
    for port in graph.inputs:
        shape = tuple(shapes.get(port.name, port.shape))
        node = graph.producer(port.tensor)
        ports.append(ir.Port(port.name, port.tensor, port.dtype, shape))
        nodes[node.name] = placeholder(node.name, port.dtype, shape)
    return graph.replace_nodes(nodes, inputs=ports)


def with_batch_size(graph: ir.Graph, batch_size: int | None) -> ir.Graph:
    """The graph with one batch size on all its inputs; None leaves it open."""
    return with_input_shapes(
        graph, {p.name: (batch_size, *p.shape[1:]) for p in graph.inputs}
    )


def accepts_batch_size(graph: ir.Graph, batch_size: int) -> bool:
    """Whether the graph computes the same with this batch size.

    A model that was exported with a fixed batch size may have it in the
    constants of its reshapes, or may not.
    """
    try:
        resized = with_batch_size(graph, batch_size)
        shapes = [resized.shape(port.tensor) for port in resized.outputs]
    except ValueError:
        return False
    return all(s is not None and s[:1] == (batch_size,) for s in shapes)


def with_float_input(graph: ir.Graph, name: str) -> ir.Graph:
    """Moves an integer input behind its cast, so that it has a gradient.

    The input becomes float32 and every Cast it reaches (through operations
    that only move numbers) becomes a cast from float32. On whole numbers the
    graph computes what it did before.

    Args:
      graph: the graph.
      name: the input's name.

    Raises:
      ValueError: naming the operation, where the integers are computed with
        (token ids that index a table, for instance).
    """
    port = next(p for p in graph.inputs if p.name == name)
    source = graph.producer(port.tensor)
    nodes = {source.name: placeholder(source.name, tf.float32, port.shape)}
    queue = [port.tensor]
    while queue:
        for node in graph.consumers(queue.pop()):
            if node.name in nodes:
                continue
            if node.op == "Cast":
                nodes[node.name] = _retyped(node, "SrcT")
            elif node.op in _MOVING_OPS and node.inputs[1:] != node.inputs[:1]:
                nodes[node.name] = _retyped(node, "T")
                queue.append(node.output)
            elif node.op != "Shape":
                raise ValueError(
                    f"{port.dtype.name} input {name!r} enters {node.op}"
                    f" ({node.name}), not a Cast to float"
                )
            else:
                nodes[node.name] = _retyped(node, "T")
    ports = [
        ir.Port(name, port.tensor, tf.float32, port.shape) if p is port else p
        for p in graph.inputs
    ]
    return graph.replace_nodes(nodes, inputs=ports)


def with_cast_input(graph: ir.Graph, name: str) -> ir.Graph:
    """Makes an integer input float32 and casts it to its former type.

    Args:
      graph: the graph.
      name: the input's name.
    """
    port = next(p for p in graph.inputs if p.name == name)
    source = graph.producer(port.tensor)
    cast = ir.Node.of(
        ir.free_name(f"{source.name}_whole", graph.nodes),
        "Cast",
        [port.tensor],
        SrcT=tf.float32,
        DstT=port.dtype,
    )
    nodes = {
        reader.name: reader.with_inputs(
            cast.output if tensor == port.tensor else tensor
            for tensor in reader.inputs
        )
        for reader in graph.consumers(port.tensor)
    }
    nodes[cast.name] = cast
    nodes[source.name] = placeholder(source.name, tf.float32, port.shape)
    return graph.replace_nodes(
        nodes,
        inputs=[
            ir.Port(name, port.tensor, tf.float32, port.shape)
            if p is port
            else p
            for p in graph.inputs
        ],
    )


def placeholder(
    name: str, dtype: tf.DType, shape: Sequence[int | None] | None
) -> ir.Node:
    """A Placeholder node."""
    definition = node_def_pb2.NodeDef(name=name, op="Placeholder")
    definition.attr["dtype"].type = dtype.as_datatype_enum
    definition.attr["shape"].shape.CopyFrom(tf.TensorShape(shape).as_proto())
    return ir.Node.from_def(definition)


def _plain_nodes(
    graph_def: tf.compat.v1.GraphDef, fed: Sequence[str]
) -> tuple[
    dict[str, ir.Node], function_pb2.FunctionDefLibrary | None, dict[str, str]
]:
    """Nodes without calls and decided branches, and where outputs went."""
    for node in graph_def.node:
        if node.op == "PlaceholderWithDefault":
            # What nobody feeds has its default, for instance the learning
            # phase of Keras under TensorFlow 1.
            _become(node, "Placeholder" if node.name in fed else "Identity")
    nodes = {n.name: ir.Node.from_def(n) for n in graph_def.node}
    definitions = [n.definition for n in switches.resolve(nodes).values()]
    decided = tf.compat.v1.GraphDef(
        node=definitions,
        library=graph_def.library,
        versions=graph_def.versions,
    )
    inlined, moved = inlining.inline_calls(decided)
    for node in _all_nodes(inlined):
        node.attr.pop("_gradient_op_type", None)
        # Where the model was trained: devices that may not be here, and
        # colocation with nodes that may be gone.
        node.ClearField("device")
        node.attr.pop("_class", None)
    library = inlined.library if inlined.library.function else None
    moved = {
        ir.tensor_name(old): ir.tensor_name(new) for old, new in moved.items()
    }
    return (
        {n.name: ir.Node.from_def(n) for n in inlined.node},
        library,
        moved,
    )


def _become(node: node_def_pb2.NodeDef, op: str) -> None:
    """Turns a PlaceholderWithDefault into a Placeholder or an Identity."""
    node.op = op
    if op == "Placeholder":
        del node.input[:]
    else:
        node.attr["T"].CopyFrom(node.attr["dtype"])
        del node.attr["dtype"]
        node.attr.pop("shape", None)


def _all_nodes(
    graph_def: tf.compat.v1.GraphDef,
) -> Iterator[node_def_pb2.NodeDef]:
    yield from graph_def.node
    for function in graph_def.library.function:
        yield from function.node_def


def _capture_names(
    function: tf.types.experimental.ConcreteFunction,
) -> dict[str, str]:
    """Names of the captured values in the outer graph, by placeholder."""
    variables = {id(v.handle): v.name for v in function.variables}
    names = {}
    for index, (outer, inner) in enumerate(function.graph.captures):
        name = variables.get(id(outer), f"captured_{index}")
        names[inner.op.name] = name.split(":")[0]
    return names


def _public_names(
    nodes: Mapping[str, ir.Node], wanted: Mapping[str, str]
) -> dict[str, str]:
    """The wanted names by node, made legal and unique."""
    names: dict[str, str] = {}
    taken = set(nodes) - set(wanted)
    for node, name in wanted.items():
        if node in nodes:
            names[node] = ir.free_name(name, taken)
            taken.add(names[node])
    return names


def _port(name: str, tensor: str, value: tf.Tensor) -> ir.Port:
    shape = value.shape
    dims = None if shape.rank is None else tuple(shape.as_list())
    return ir.Port(name, tensor, value.dtype, dims)


def _retyped(node: ir.Node, attribute: str) -> ir.Node:
    changed = node.with_inputs(node.inputs)
    changed.definition.attr[attribute].type = tf.float32.as_datatype_enum
    return changed
