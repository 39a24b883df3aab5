"""Writes a graph as a SavedModel folder, atomically."""

from __future__ import annotations

import keyword
import os
import pathlib
import re
from collections.abc import Sequence

import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from dsg_tf.core import disk_space, errors, staging
from dsg_tf.graph import ir

_SIGNATURE = "serving_default"
# What a SavedModel of ours holds: no variables, all of it is in the graph.
_OURS = ("saved_model.pb", "fingerprint.pb")
_PREDICT = "tensorflow/serving/predict"


def save(graph: ir.Graph, path: str | os.PathLike) -> None:
    """Writes a graph as a SavedModel with one signature, serving_default.

    Names of inputs and outputs are the graph's, whatever characters they
    have; so are its nodes, its constants, and its shapes, an open batch size
    included. It is written beside `path` and renamed, so that a killed run
    leaves no half of one there; a SavedModel that was there is replaced.

    Args:
      graph: the graph.
      path: the folder.

    Raises:
      errors.UserError: there is something else at `path`, or it cannot be
        written; two inputs, or two outputs, have one name.

    Examples:
      >>> import tempfile
      >>> from dsg_tf.graph.load import loading
      >>> double = tf.function(
      ...     lambda x: 2.0 * x,
      ...     input_signature=[tf.TensorSpec((None, 3), name="x")],
      ... )
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     save(loading.load(double), f"{folder}/double")
      ...     loading.load(f"{folder}/double").inputs[0].shape
      (None, 3)
    """
    with staging.Staging() as staged:
        stage(graph, pathlib.Path(path), staged)
        staged.place()


def stage(
    graph: ir.Graph,
    path: pathlib.Path,
    staged: staging.Staging,
    *,
    tell: bool = False,
) -> int:
    """As `save`, but the folder gets its name when everything staged does.

    Args:
      graph: the graph.
      path: the folder.
      staged: what gets names together.
      tell: whether the log says what was replaced.

    Returns:
      The size of what was written, bytes.

    Raises:
      errors.UserError: as `save`.
    """
    saved_model = saved_model_pb2.SavedModel(
        saved_model_schema_version=1, meta_graphs=[_meta_graph(graph)]
    )
    check(path)
    content = saved_model.SerializeToString(deterministic=True)
    fresh = staged.add_folder(path, tell=tell)
    with disk_space.reported(path, bytes_needed=len(content), every=True):
        (fresh / _OURS[0]).write_bytes(content)
    return len(content)


def check(path: str | os.PathLike) -> None:
    """Refuses a path to which `save` could not write.

    It replaces an empty folder or a SavedModel as `save` writes it, and nothing
    else: one with variables has been trained, and other files are not ours.

    Args:
      path: the folder.

    Raises:
      errors.UserError: there is something else, or no folder to write in.
    """
    path = pathlib.Path(path).absolute()
    if not path.parent.is_dir():
        raise errors.UserError(
            str(path),
            got=f"{path.parent}, which is no folder",
            expected="a writable folder",
            remedy="make it first",
        )
    if not path.exists() and not path.is_symlink():
        return
    foreign = "a link or a file"
    if path.is_dir() and not path.is_symlink():
        names = sorted(entry.name for entry in path.iterdir())
        if not names:
            return
        foreign = next((n for n in names if n not in _OURS), "")
        if not foreign and _OURS[0] in names:
            return
    raise errors.UserError(
        str(path),
        got="something that is no SavedModel of an earlier run"
        + (f" ({foreign})" if foreign else ""),
        expected="nothing, or a SavedModel to replace",
        remedy="move it away, or choose another path",
    )


def _meta_graph(graph: ir.Graph) -> meta_graph_pb2.MetaGraphDef:
    # TensorFlow 2's own tf.saved_model.save makes Python arguments of the
    # names of inputs, and so takes identifiers alone. This is the form of
    # TensorFlow 1, which all loaders read.
    meta_graph = meta_graph_pb2.MetaGraphDef()
    meta_graph.meta_info_def.tags.append(tf.saved_model.SERVING)
    meta_graph.meta_info_def.tensorflow_version = tf.version.VERSION
    meta_graph.meta_info_def.tensorflow_git_version = tf.version.GIT_VERSION
    meta_graph.graph_def.CopyFrom(graph.to_graph_def())
    signature = meta_graph.signature_def[_SIGNATURE]
    signature.method_name = _PREDICT
    for kind, ports, infos in (
        ("input", graph.inputs, signature.inputs),
        ("output", graph.outputs, signature.outputs),
    ):
        _check_names(kind, [port.name for port in ports])
        for port in ports:
            info = infos[port.name]
            info.name = port.tensor
            info.dtype = port.dtype.as_datatype_enum
            info.tensor_shape.CopyFrom(tf.TensorShape(port.shape).as_proto())
    return meta_graph


def _check_names(kind: str, names: Sequence[str]) -> None:
    """Refuses names that TensorFlow would not load again.

    It makes the names of inputs parameters of a Python function, any other
    character an underscore.
    """
    distinct = {
        re.sub(r"\W", "_", name) if kind == "input" else name for name in names
    }
    if len(distinct) < len(names) or "" in names:
        raise errors.UserError(
            f"names of {kind}s",
            got=", ".join(map(repr, names)),
            expected=f"a name of its own for every {kind}, punctuation aside",
            remedy="export the model with other names",
        )
    if kind == "input" and any(map(keyword.iskeyword, names)):
        raise errors.UserError(
            f"names of {kind}s",
            got=", ".join(map(repr, names)),
            expected="no word of the Python language",
            remedy="export the model with other names",
        )
