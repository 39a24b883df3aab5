"""Estimates the memory of a graph before anything is allocated.

A few bytes of a file can declare a tensor of terabytes: a constant of one value
and a shape, a Fill, the shape of a variable or an input. TensorFlow notices
only while it computes, and may crash.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import tensorflow as tf
from tensorflow.core.framework import (
    node_def_pb2,
    tensor_pb2,
    tensor_shape_pb2,
)
from tensorflow.core.protobuf import meta_graph_pb2

from dsg_tf.core import errors, memory
from dsg_tf.graph import ir

_EXPORT = "the file is damaged; export or download it again"
_VALUES = (
    "half_val",
    "float_val",
    "double_val",
    "int_val",
    "string_val",
    "scomplex_val",
    "int64_val",
    "bool_val",
    "dcomplex_val",
    "uint32_val",
    "uint64_val",
    "float8_val",
    "resource_handle_val",
    "variant_val",
)
# Operations that make a tensor of a shape, and which input the shape is.
_OF_SHAPE = {
    "BroadcastTo": 1,
    "Empty": 0,
    "Fill": 0,
    "ParameterizedTruncatedNormal": 0,
    "RandomStandardNormal": 0,
    "RandomUniform": 0,
    "RandomUniformInt": 0,
    "Reshape": 1,
    "StatelessRandomNormal": 0,
    "StatelessRandomNormalV2": 0,
    "StatelessRandomUniform": 0,
    "StatelessRandomUniformV2": 0,
    "StatelessTruncatedNormal": 0,
    "StatelessTruncatedNormalV2": 0,
    "Tile": 1,
    "TruncatedNormal": 0,
}
# TensorFlow's own bound of dimensions is 254.
_MAX_RANK = 254
_LEAST_RANK_OF_MAPS = 3
_SMALL = 64 << 20
_VARIABLES = frozenset({"VarHandleOp", "Variable", "VariableV2"})
# Beyond, TensorFlow's own counting of elements and bytes overflows.
_MAX_ELEMENTS = 2**62


def check_meta_graph(
    meta_graph: meta_graph_pb2.MetaGraphDef, subject: str
) -> None:
    """Refuses constants and variables that are damaged or do not fit.

    Args:
      meta_graph: of a SavedModel, as read from its file.
      subject: what the error calls the model.

    Raises:
      errors.UserError: naming the first one, with the bytes that it needs.
    """
    nodes = list(meta_graph.graph_def.node)
    check_promises(nodes, subject)
    for function in meta_graph.graph_def.library.function:
        nodes += function.node_def
        check_promises(function.node_def, subject)
    check_constants(nodes, subject)
    variables = 0
    for name, dtype, shape in _variables(meta_graph):
        count = _elements(shape, subject, name)
        variables += count * _itemsize(dtype)
    memory.require(variables, subject, what="its variables")


def check_constants(
    nodes: Iterable[node_def_pb2.NodeDef], subject: str
) -> None:
    """Refuses constants that are damaged, or do not fit into memory.

    Raises:
      errors.UserError: naming the first one, or all of them together.
    """
    total = 0
    for node in nodes:
        for attribute in node.attr.values():
            for tensor in (attribute.tensor, *attribute.list.tensor):
                if tensor.dtype:
                    total += _bytes(tensor, subject, node.name)
    memory.require(total, subject, what="its constants")


def check_promises(nodes: Sequence[node_def_pb2.NodeDef], subject: str) -> None:
    """Refuses operations that make a tensor of a constant, huge shape.

    TensorFlow computes some of them while it only looks at shapes, and ends
    the process where the number of elements has more than 63 bits.

    Args:
      nodes: of one graph or function.
      subject: what the error calls the model.

    Raises:
      errors.UserError: naming the operation and the bytes that it makes.
    """
    by_name = {node.name: node for node in nodes}
    for node in nodes:
        for attribute in node.attr.values():
            for shape in (attribute.shape, *attribute.list.shape):
                _elements(shape, subject, node.name)
        if node.op != "Range" and node.op not in _OF_SHAPE:
            continue
        given = [_small(_behind(ref, by_name)) for ref in node.input[:3]]
        count = _made(node.op, given)
        if count > _SMALL:
            memory.require(
                count,
                f"{subject}, {node.op} {node.name[:80]!r}",
                what="what it makes",
            )


def check_graph(graph: ir.Graph, subject: str) -> None:
    """Refuses a graph that computes nothing, or more than memory holds.

    Args:
      graph: frozen, its input shapes complete.
      subject: what the error calls the model.

    Raises:
      errors.UserError: a dimension is zero; one sample, or what an operation
        makes of it, takes more bytes than there are.
    """
    for port in graph.inputs:
        _refuse_empty(port.shape, f"{subject}, input {port.name!r}")
    for port in graph.outputs:
        shape = graph.shape(port.tensor)
        _refuse_empty(shape, f"{subject}, output {port.name!r}")
    there = memory.available()
    for node in graph:
        for tensor in graph.output_tensors(node):
            shape = graph.shape(tensor)
            if shape is None:
                continue
            dtype, place = graph.dtype(tensor), f"{node.op} {node.name[:80]!r}"
            # Of lower rank are shapes and indices, some empty for good reason.
            if len(shape) >= _LEAST_RANK_OF_MAPS and dtype.is_floating:
                _refuse_empty(shape, f"{subject}, {place}")
            # An open dimension counts as one: it has a sample at least.
            count = math.prod(1 if d is None else d for d in shape)
            needed = count * max(dtype.size or 1, 1)
            if there is not None and needed > there:
                memory.require(
                    needed,
                    f"{subject}, {place}",
                    what=f"a tensor of the shape {shape}",
                )


def _behind(
    ref: str, by_name: Mapping[str, node_def_pb2.NodeDef]
) -> node_def_pb2.NodeDef | None:
    """What an input is before it is cast; None where that is no constant."""
    for _ in range(_MAX_RANK):
        node = by_name.get(ref.lstrip("^").split(":")[0])
        if node is None or node.op not in ("Cast", "Identity"):
            break
        if not node.input:
            return None
        ref = node.input[0]
    return node if node is not None and node.op == "Const" else None


def _small(node: node_def_pb2.NodeDef | None) -> list | None:
    """The whole numbers of a small constant, None for anything else."""
    if node is None:
        return None
    tensor = node.attr["value"].tensor
    count = math.prod(dim.size for dim in tensor.tensor_shape.dim)
    if not 0 <= count <= _MAX_RANK:
        return None
    try:
        values = tf.make_ndarray(tensor)
    except (TypeError, ValueError):  # Damage, which TensorFlow will tell.
        return None
    if values.dtype.kind not in "iuf":
        return None
    return values.ravel().tolist()


def _made(op: str, given: list) -> int:
    """At least how many bytes an operation makes, by its constant inputs."""
    if op in _OF_SHAPE and len(given) > _OF_SHAPE[op]:
        dims = given[_OF_SHAPE[op]]
        if dims and 0 not in dims and all(isinstance(d, int) for d in dims):
            # A negative one is what is left of the others.
            return math.prod(d for d in dims if d > 0)
    if op == "Range" and len(given) == 3 and all(given):
        (start,), (limit,), (delta,) = (g[:1] for g in given)
        if delta and all(map(math.isfinite, (start, limit, delta))):
            return max(int((limit - start) / delta), 0)
    return 0


def _refuse_empty(shape, subject: str) -> None:
    if shape is not None and 0 in shape:
        raise errors.UserError(
            subject,
            got=f"the shape {shape}",
            expected="at least one number a sample",
            remedy="export the model with its dimensions",
        )


def _variables(
    meta_graph: meta_graph_pb2.MetaGraphDef,
) -> Iterator[tuple[str, int, tensor_shape_pb2.TensorShapeProto]]:
    """Name, type and shape of every variable, each once."""
    objects = meta_graph.object_graph_def.nodes
    if objects:
        for node in objects:
            if node.WhichOneof("kind") == "variable":
                variable = node.variable
                yield variable.name, variable.dtype, variable.shape
        return
    for node in meta_graph.graph_def.node:
        if node.op in _VARIABLES and "shape" in node.attr:
            yield node.name, node.attr["dtype"].type, node.attr["shape"].shape


def _bytes(tensor: tensor_pb2.TensorProto, subject: str, name: str) -> int:
    """Bytes of a constant; refuses one whose values and shape disagree."""
    count = _elements(tensor.tensor_shape, subject, name)
    if tensor.tensor_shape.unknown_rank:
        raise _damaged(subject, name, "no shape")
    size = _itemsize(tensor.dtype)
    content = len(tensor.tensor_content)
    given = max(len(getattr(tensor, values, ())) for values in _VALUES)
    if tensor.dtype in (tf.complex64, tf.complex128):
        given //= 2
    if content and content != count * size and tensor.dtype != tf.string:
        raise _damaged(subject, name, f"{content:,} bytes for {count * size:,}")
    if given > count:
        raise _damaged(subject, name, f"{given:,} values for {count:,}")
    return count * size


def _elements(
    shape: tensor_shape_pb2.TensorShapeProto, subject: str, name: str
) -> int:
    """Numbers of a shape; an open dimension counts as one."""
    sizes = [dim.size for dim in shape.dim]
    if any(size < -1 for size in sizes):
        raise _damaged(subject, name, f"the shape {sizes}")
    count = math.prod(max(size, 1) if size < 0 else size for size in sizes)
    if count > _MAX_ELEMENTS:
        raise _damaged(subject, name, f"the shape {sizes}")
    return count


def _itemsize(dtype: int) -> int:
    try:
        return tf.as_dtype(dtype).base_dtype.size or 1
    except TypeError:  # A number that is no type: TensorFlow says so itself.
        return 1


def _damaged(subject: str, name: str, got: str) -> errors.UserError:
    return errors.UserError(
        subject,
        got=f"{got[:160]} in {name[:80]!r}",
        expected="constants and variables that hold what they promise",
        remedy=_EXPORT,
    )
