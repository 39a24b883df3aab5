"""Frozen GraphDefs: the .pb files of TensorFlow 1."""

from __future__ import annotations

import difflib
import pathlib
from collections.abc import Sequence

import tensorflow as tf
from google.protobuf import message

from dsg_tf.core import errors
from dsg_tf.graph import ir
from dsg_tf.graph.load import endpoint, model_files, safety, sizes

_MAX_BYTES = 2**31 - 1
_VARIABLES = frozenset({"VarHandleOp", "Variable", "VariableV2"})
_PLACEHOLDERS = frozenset({"Placeholder", "PlaceholderV2"})
# Names that an error lists.
_SHOWN = 8


def load(
    path: pathlib.Path,
    *,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    allow_unsafe_ops: bool = False,
) -> endpoint.Endpoint:
    """Loads a frozen GraphDef.

    Args:
      path: the file.
      input_names: nodes or tensors that are fed; by default the placeholders.
      output_names: nodes or tensors that are fetched; by default the only node
        that no other reads.
      allow_unsafe_ops: see `loading.load`.

    Returns:
      The function that was chosen; inputs and outputs go by their nodes.

    Raises:
      errors.UserError: the file is damaged, holds variables without values or
        operations that do more than compute; a name is missing or unknown.
    """
    subject = str(path)
    with model_files.unchanged(path):
        graph_def = _read(path)
    sizes.check_constants(_nodes(graph_def), subject)
    sizes.check_promises(list(graph_def.node), subject)
    if not allow_unsafe_ops:
        safety.check_graph_def(graph_def, subject)
    for node in graph_def.node:
        if node.op in _VARIABLES:
            raise errors.UserError(
                subject,
                got=f"a GraphDef with a variable ({node.name}), whose value it"
                " does not hold",
                expected="a frozen GraphDef",
                remedy="freeze it with its checkpoint, or pass a SavedModel",
            )
    inputs = _chosen(
        graph_def,
        subject,
        "--input_names",
        input_names,
        [n.name for n in graph_def.node if n.op in _PLACEHOLDERS],
    )
    outputs = _chosen(
        graph_def, subject, "--output_names", output_names, _ends(graph_def)
    )
    if output_names is None and len(outputs) > 1:
        raise errors.UserError(
            subject,
            got=f"{len(outputs)} nodes that no other reads: {_listed(outputs)}",
            expected="the names of the outputs",
            remedy=f"for instance --output_names={outputs[-1]}",
        )
    return endpoint.Endpoint(
        _function(graph_def, subject, inputs, outputs),
        tuple(map(_public, inputs)),
        tuple(map(_public, outputs)),
    )


def _read(path: pathlib.Path) -> tf.compat.v1.GraphDef:
    if path.stat().st_size > _MAX_BYTES:
        raise _damaged(path, f"{path.stat().st_size:,} bytes")
    graph_def = tf.compat.v1.GraphDef()
    try:
        graph_def.ParseFromString(path.read_bytes())
    except message.DecodeError as error:
        raise _damaged(path, "a file that is no GraphDef") from error
    if not any(node.op for node in graph_def.node):
        raise _damaged(path, "a GraphDef without operations")
    return graph_def


def _damaged(path: pathlib.Path, got: str) -> errors.UserError:
    return errors.UserError(
        str(path),
        got=got,
        expected="a frozen GraphDef",
        remedy="download or freeze it again",
    )


def _nodes(graph_def: tf.compat.v1.GraphDef):
    nodes = list(graph_def.node)
    for function in graph_def.library.function:
        nodes += function.node_def
    return nodes


def _ends(graph_def: tf.compat.v1.GraphDef) -> list[str]:
    """Nodes that compute something that no other reads."""
    read = {ir.node_name(ref) for node in graph_def.node for ref in node.input}
    return [
        node.name
        for node in graph_def.node
        if node.name not in read
        and node.op not in ("Const", "NoOp", *_PLACEHOLDERS)
    ]


def _chosen(
    graph_def: tf.compat.v1.GraphDef,
    subject: str,
    flag: str,
    given: Sequence[str] | None,
    found: Sequence[str],
) -> list[str]:
    """The names given, if the graph has them, or those that were found."""
    known = {node.name for node in graph_def.node}
    for name in given or ():
        if ir.node_name(name) not in known or name.startswith("^"):
            near = difflib.get_close_matches(name, [*found, *known], _SHOWN)
            raise errors.UserError(
                flag,
                got=repr(name),
                expected=f"a node of {subject}: {_listed(near or found)}",
            )
    chosen = list(given or found)
    if not chosen:
        raise errors.UserError(
            subject,
            got="a GraphDef in which none can be told",
            expected=f"{flag} with the names of its nodes",
        )
    return chosen


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _public(name: str) -> str:
    return name.removesuffix(":0")


def _function(
    graph_def: tf.compat.v1.GraphDef,
    subject: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> tf.types.experimental.ConcreteFunction:
    try:
        wrapped = tf.compat.v1.wrap_function(
            lambda: tf.graph_util.import_graph_def(graph_def, name=""), []
        )
        fed, fetched = (
            [wrapped.graph.get_tensor_by_name(ir.tensor_name(n)) for n in names]
            for names in (inputs, outputs)
        )
        return wrapped.prune(fed, fetched)
    except (KeyError, TypeError, ValueError) as error:
        raise errors.UserError(
            subject,
            got=f"a graph that TensorFlow refuses ({errors.first_line(error)})",
            expected="a frozen GraphDef whose outputs depend on its inputs",
            remedy="see --input_names and --output_names",
        ) from error
