"""SavedModels: the choice of tags and signature, and the guarded load."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.python.saved_model import loader_impl

from dsg_tf.core import errors
from dsg_tf.graph.load import endpoint, formats, model_files, safety, sizes

_DEFAULT_SIGNATURE = "serving_default"
_SERVE = frozenset({"serve"})
# Read whole, as messages that cannot be longer.
_BESIDE = ("fingerprint.pb", "debug/saved_model_debug_info.pb")
_MAX_BYTES = 2**31 - 1


def load(
    path: pathlib.Path,
    *,
    signature: str | None = None,
    tags: Sequence[str] | None = None,
    allow_unsafe_ops: bool = False,
) -> tuple[endpoint.Endpoint, object]:
    """Loads a SavedModel.

    Args:
      path: its folder.
      signature: by default serving_default, or the only one, or without any
        the object's own `__call__` with training=False.
      tags: by default `serve`, or the only set of tags there is.
      allow_unsafe_ops: see `loading.load`.

    Returns:
      The function that was chosen, and the object that owns its variables
      and must outlive its use.

    Raises:
      errors.UserError: as `loading.load`.
    """
    with model_files.unchanged(path):
        loaded = _load_checked(path, tags, allow_unsafe_ops)
    return choose(loaded, str(path), signature=signature), loaded


def _load_checked(
    path: pathlib.Path, tags: Sequence[str] | None, allow_unsafe_ops: bool
):
    """What `tf.saved_model.load` makes of a folder that was looked at."""
    meta_graphs = _read(path)
    meta_graph = _choose_tags(meta_graphs, tags, str(path))
    # Each of them, also one that is not chosen: they share their variables.
    for one in meta_graphs:
        sizes.check_meta_graph(one, str(path))
        if not allow_unsafe_ops:
            safety.check_meta_graph(
                one, str(path), is_only_one=len(meta_graphs) == 1
            )
    chosen = list(meta_graph.meta_info_def.tags)
    try:
        loaded = tf.saved_model.load(str(path), tags=chosen)
        dict(loaded.signatures)
        return loaded
    except Exception as error:  # Each damage has its own kind of error.
        raise errors.UserError(
            str(path),
            got="a SavedModel that TensorFlow cannot load"
            f" ({errors.first_line(error)})",
            expected="saved_model.pb with its variables, as it was saved",
            remedy=_remedy(path, error),
        ) from error


def choose(
    loaded: Any, subject: str, *, signature: str | None = None
) -> endpoint.Endpoint:
    """The function to quantize of a SavedModel that is already loaded.

    Args:
      loaded: what `tf.saved_model.load` returned.
      subject: what errors call the model.
      signature: as for `load`.

    Raises:
      errors.UserError: there is no such signature, none at all, or several
        and no serving_default.
    """
    signatures = dict(loaded.signatures)
    listed = ", ".join(sorted(signatures)) or "none at all"
    if signature:
        if signature not in signatures:
            raise errors.UserError(
                "--signature",
                got=repr(signature),
                expected=f"one of {subject}: {listed}",
            )
        return endpoint.Endpoint.of(signatures[signature])
    if _DEFAULT_SIGNATURE in signatures:
        return endpoint.Endpoint.of(signatures[_DEFAULT_SIGNATURE])
    if len(signatures) == 1:
        return endpoint.Endpoint.of(*signatures.values())
    if signatures:
        raise errors.UserError(
            "--signature",
            got="nothing",
            expected=f"one of {subject}, which has no {_DEFAULT_SIGNATURE}:"
            f" {listed}",
        )
    call = loaded.__call__ if callable(loaded) else None
    functions = getattr(call, "concrete_functions", ())
    if not functions:
        raise errors.UserError(
            subject,
            got="a SavedModel without signatures and without __call__",
            expected="a function to quantize",
            remedy="save it with tf.saved_model.save(model, path,"
            " signatures=function)",
        )
    return endpoint.Endpoint.of(inference_function(functions, subject))


def inference_function(
    functions: Sequence[tf.types.experimental.ConcreteFunction], subject: str
) -> tf.types.experimental.ConcreteFunction:
    """The one of a function's traces that computes inference.

    Args:
      functions: traces of one function, which differ in the shapes of their
        inputs or in Python arguments such as `training`.
      subject: what errors call the model.

    Raises:
      errors.UserError: all of them train, or several are left.
    """
    flagged = [(f, _python_arguments(f)) for f in functions]
    # training=False beats an argument that is absent or None.
    inference = [f for f, flags in flagged if _training(flags) is False]
    inference = inference or [
        f for f, flags in flagged if _training(flags) is None
    ]
    if not inference:
        raise errors.UserError(
            subject,
            got="a function that was saved for training only",
            expected="one with training=False",
            remedy="call it once with training=False before saving it",
        )
    by_inputs = {
        repr([(t.shape, t.dtype) for t in _fed(f)]): f
        for f in reversed(inference)
    }
    if len(by_inputs) > 1:
        listed = "; ".join(
            ", ".join(f"{t.dtype.name} {t.shape}" for t in _fed(f))
            for f in reversed(by_inputs.values())
        )
        raise errors.UserError(
            subject,
            got=f"a function saved for several inputs: {listed}",
            expected="one",
            remedy="save it with tf.saved_model.save(model, path,"
            " signatures=function.get_concrete_function(...))",
        )
    return next(iter(by_inputs.values()))


def _read(path: pathlib.Path) -> list[meta_graph_pb2.MetaGraphDef]:
    there = [
        name for name in formats.SAVED_MODEL_FILES if (path / name).exists()
    ]
    if len(there) > 1:
        raise errors.UserError(
            str(path),
            got=f"a folder with {' and '.join(there)}",
            expected="one of them",
            remedy="remove the one that is not the model",
        )
    for name in (*there, *_BESIDE):
        if (path / name).exists() and (path / name).stat().st_size > _MAX_BYTES:
            raise errors.UserError(
                str(path),
                got=f"{name} of {(path / name).stat().st_size:,} bytes",
                expected=f"at most {_MAX_BYTES:,}, as TensorFlow writes it",
                remedy="the file is damaged; export or download it again",
            )
    try:
        return list(loader_impl.parse_saved_model(str(path)).meta_graphs)
    except Exception as error:  # OSError, DecodeError, UnicodeDecodeError ...
        raise errors.UserError(
            str(path),
            got="a saved_model.pb that cannot be read"
            f" ({errors.first_line(error)})",
            expected="a SavedModel",
            remedy="the file is damaged; export or download it again",
        ) from error


def _choose_tags(
    meta_graphs: Sequence[meta_graph_pb2.MetaGraphDef],
    tags: Sequence[str] | None,
    subject: str,
) -> meta_graph_pb2.MetaGraphDef:
    by_tags = {frozenset(m.meta_info_def.tags): m for m in meta_graphs}
    if len(by_tags) < len(meta_graphs):
        raise errors.UserError(
            subject,
            got="two graphs of the same tags",
            expected="one graph for each set of tags",
            remedy="export it again",
        )
    if tags is not None and frozenset(tags) in by_tags:
        return by_tags[frozenset(tags)]
    if tags is None and _SERVE in by_tags:
        return by_tags[_SERVE]
    if tags is None and len(by_tags) == 1:
        return next(iter(by_tags.values()))
    listed = "; ".join(sorted(",".join(sorted(t)) or "''" for t in by_tags))
    raise errors.UserError(
        "--tags",
        got=",".join(tags) if tags else "nothing",
        expected=f"one of the model's sets of tags: {listed or 'it has none'}",
    )


def _python_arguments(function) -> Mapping[str, object]:
    """Values of the arguments that are no tensors, by name."""
    found = {}
    for name, parameter in function.function_type.parameters.items():
        # The type of a tensor argument is a TensorSpec, which has no value.
        if hasattr(parameter.type_constraint, "value"):
            found[name] = parameter.type_constraint.value
    return found


def _training(flags: Mapping[str, object]) -> bool | None:
    for name, value in flags.items():
        if "train" in name.lower() and isinstance(value, bool | int):
            return bool(value)
    return None


def _fed(function) -> Sequence[tf.Tensor]:
    return function.inputs[
        : len(function.inputs) - len(function.captured_inputs)
    ]


def _remedy(path: pathlib.Path, error: Exception) -> str:
    if not (path / "variables").is_dir():
        return "its folder variables/ is missing: copy the whole folder"
    if "not registered" in str(error):
        return (
            "import the library that brings this operation and pass the live"
            " model to dsg_tf.quantize_model, or export the model without it"
        )
    return "the files are damaged; export or download them again"
