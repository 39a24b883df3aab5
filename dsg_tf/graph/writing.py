"""A graph as a SavedModel folder, all of it or nothing."""

from __future__ import annotations

import keyword
import os
import pathlib
import re
import tempfile
from collections.abc import Sequence

import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from dsg_tf import errors
from dsg_tf.graph import ir

_SIGNATURE = "serving_default"
# What only a SavedModel holds.
_MARKS = ("saved_model.pb", "saved_model.pbtxt", "saved_model.cpb")
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

    Example:
      >>> import tempfile
      >>> from dsg_tf.graph import loading
      >>> double = tf.function(
      ...     lambda x: 2.0 * x,
      ...     input_signature=[tf.TensorSpec((None, 3), name="x")],
      ... )
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     save(loading.load(double), f"{folder}/double")
      ...     loading.load(f"{folder}/double").inputs[0].shape
      (None, 3)
    """
    path = pathlib.Path(path).absolute()
    saved_model = saved_model_pb2.SavedModel(
        saved_model_schema_version=1, meta_graphs=[_meta_graph(graph)]
    )
    check(path)
    try:
        with tempfile.TemporaryDirectory(
            dir=path.parent, prefix=f".{path.name}."
        ) as workspace:
            fresh = pathlib.Path(workspace) / "new"
            fresh.mkdir()
            content = saved_model.SerializeToString(deterministic=True)
            (fresh / "saved_model.pb").write_bytes(content)
            _swap(fresh, path, pathlib.Path(workspace) / "old")
    except OSError as error:
        raise errors.UserError(
            str(path),
            got=error.strerror or str(error),
            expected="a place where a folder can be written",
        ) from error


def check(path: str | os.PathLike) -> None:
    """Refuses a place where `save` would not write.

    It replaces a SavedModel or an empty folder, and nothing else.

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
    replaceable = (
        path.is_dir()
        and not path.is_symlink()
        and (
            not any(path.iterdir())
            or any((path / name).is_file() for name in _MARKS)
        )
    )
    if not replaceable:
        raise errors.UserError(
            str(path),
            got="something that is no SavedModel",
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


def _swap(fresh: pathlib.Path, path: pathlib.Path, old: pathlib.Path) -> None:
    """Puts a folder into the place of another, which goes to `old`."""
    if path.exists():
        os.rename(path, old)
    try:
        os.rename(fresh, path)
    except OSError:
        if old.exists():
            os.rename(old, path)
        raise
