"""Converts a graph from another float type to float32.

A model that was trained with Keras' `mixed_float16` policy computes in float16
between casts, and one with `floatx` float64 in float64. TFLite has kernels for
float32, and quantization starts from float32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import function_pb2, node_def_pb2

from dsg_tf.graph import ir

_OTHERS = frozenset({tf.float16, tf.bfloat16, tf.float64})
_FLOAT = tf.float32.as_datatype_enum
_ENUMS = frozenset(dtype.as_datatype_enum for dtype in _OTHERS)


def in_float32(graph: ir.Graph) -> ir.Graph:
    """Replaces float16, bfloat16 and float64 in a graph by float32.

    Constants are converted, casts between float types vanish, inputs and
    outputs become float32. float32 holds every value of the 16-bit types, so
    that nothing is rounded but what was float64.

    Args:
      graph: a frozen graph.

    Returns:
      The graph itself where it has none of these types.
    """
    if not any(_mentions(node.definition) for node in graph):
        return graph
    library = graph.library or function_pb2.FunctionDefLibrary()
    functions = {f.signature.name for f in library.function}
    nodes = {
        node.name: ir.Node.from_def(_converted(node.definition, functions))
        for node in graph
    }
    converted = ir.Graph.build(
        nodes.values(),
        inputs=map(_port, graph.inputs),
        outputs=map(_port, graph.outputs),
        library=_library(library, functions) if functions else None,
    )
    return converted.redirected(
        {n.output: n.inputs[0] for n in converted if _casts_nothing(n)}
    )


def _mentions(definition: node_def_pb2.NodeDef) -> bool:
    """Whether a node computes in one of the other float types."""
    return any(
        value.type in _ENUMS or not _ENUMS.isdisjoint(value.list.type)
        for value in definition.attr.values()
    )


def _converted(
    definition: node_def_pb2.NodeDef, functions: Container[str]
) -> node_def_pb2.NodeDef:
    """A node with float32 in its attributes, calling converted functions."""
    found = node_def_pb2.NodeDef()
    found.CopyFrom(definition)
    if found.op in functions:
        found.op = _renamed(found.op)
    for value in found.attr.values():
        for called in (value.func, *value.list.func):
            if called.name in functions:
                called.name = _renamed(called.name)
        if value.type in _ENUMS:
            value.type = _FLOAT
        if not _ENUMS.isdisjoint(value.list.type):
            types = [_FLOAT if t in _ENUMS else t for t in value.list.type]
            del value.list.type[:]
            value.list.type.extend(types)
        if value.tensor.dtype in _ENUMS:
            values = tf.make_ndarray(value.tensor).astype(np.float32)
            value.tensor.CopyFrom(tf.make_tensor_proto(values))
    return found


def _casts_nothing(node: ir.Node) -> bool:
    return (
        node.op == "Cast" and node.attr("SrcT") == node.attr("DstT") == _FLOAT
    )


def _port(port: ir.Port) -> ir.Port:
    dtype = tf.float32 if port.dtype in _OTHERS else port.dtype
    return dataclasses.replace(port, dtype=dtype)


def _renamed(function: str) -> str:
    """Another name: TensorFlow knows the functions of the model by theirs."""
    return f"{function}_in_float32"


def _library(
    library: function_pb2.FunctionDefLibrary, functions: Container[str]
) -> function_pb2.FunctionDefLibrary:
    """The bodies of loops and branches, likewise."""
    found = function_pb2.FunctionDefLibrary()
    found.CopyFrom(library)
    for function in found.function:
        signature = function.signature
        signature.name = _renamed(signature.name)
        for argument in (*signature.input_arg, *signature.output_arg):
            if argument.type in _ENUMS:
                argument.type = _FLOAT
        for node in function.node_def:
            node.CopyFrom(_converted(node, functions))
    return found
