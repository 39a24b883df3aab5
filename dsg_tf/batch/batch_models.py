"""The models of a batch: names, paths, and the flags that hold for each."""

from __future__ import annotations

import copy
import dataclasses
import glob
import os
import pathlib
import re

from absl import flags

from dsg_tf.batch import batch_flags
from dsg_tf.command_line import flag_values, flagfiles
from dsg_tf.core import errors, files

# Folder beside those of the models.
SAMPLES = "samples"
_MODEL_FILES = (".keras", ".h5", ".hdf5")
_FLAGFILE = ".flags"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


@dataclasses.dataclass(frozen=True)
class Model:
    """A model of the batch.

    Attributes:
      name: of its folder and in tables.
      path: of the SavedModel, .keras or .h5.
      values: the flags that hold for it.
    """

    name: str
    path: str
    values: flags.FlagValues


def models(values: flags.FlagValues) -> list[Model]:
    """The models of `--models`, each with its own flags.

    Raises:
      errors.UserError: a path is not there, a flagfile is not valid, or two
        models have one name.
    """
    found: list[Model] = []
    for item in values.models:
        name, separator, pattern = item.rpartition("=")
        if not pattern:
            raise errors.UserError(
                "--models",
                got=f"{item!r} among them, without a path",
                expected="PATH or NAME=PATH, separated by commas",
            )
        paths = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else []
        for path in paths or [pattern]:
            found.append(_model(values, name if separator else "", path))
    names = [model.name for model in found]
    for name in names:
        if not _NAME.fullmatch(name) or name == SAMPLES:
            raise errors.UserError(
                "--models",
                got=f"the name {name!r}",
                expected="letters, digits, dots, dashes; and not 'samples'",
                remedy="name it: --models=NAME=PATH",
            )
        if names.count(name) > 1:
            raise errors.UserError(
                "--models",
                got=f"two models of the name {name!r}",
                expected="a name each",
                remedy="name them: --models=NAME=PATH,NAME=PATH",
            )
    return found


def inputs(values: flags.FlagValues) -> dict[str, str]:
    """All that a batch reads, by what an error calls it.

    Raises:
      errors.UserError: as `models`.
    """
    found = {}
    for model in models(values):
        found[f"the model {model.name}"] = model.path
        for flag in ("eval_data", "calibration_data"):
            if model.values[flag].value:
                name = f"--{flag} of {model.name}"
                found[name] = model.values[flag].value
    return found


def _model(values: flags.FlagValues, name: str, path: str) -> Model:
    source = pathlib.Path(path)
    # Not Path.exists, which raises where a name is too long.
    if not os.path.exists(path):
        raise errors.UserError(
            "--models",
            got=f"{path[:300]!r}, which is not there",
            expected="a model",
        )
    files.refuse_special(source, subject="--models", expected="a model")
    if source.suffix != _FLAGFILE:
        # Of a SavedModel the whole folder is the content that counts.
        path = _whole(path)
        stem = pathlib.Path(path).absolute()
        is_file = stem.suffix in _MODEL_FILES
        return Model(
            name or (stem.stem if is_file else stem.name), path, values
        )
    own = copy.deepcopy(values)
    own["saved_model"].unparse()
    try:
        rest = own(["", *flagfiles.expand([f"--flagfile={path}"])])
    except flags.Error as error:
        raise errors.UserError(
            path, got=str(error), expected="flags of dsg_tf.batch, one a line"
        ) from None
    flag_values.check(own)
    for flag in batch_flags.GROUPS["Batch"]:
        if own[flag].value != values[flag].value:
            raise errors.UserError(
                path,
                got=f"--{flag}",
                expected="flags of one model; this one is the whole batch's",
            )
    batch_flags.check_axes(own)
    if len(rest) > 1 or not own.saved_model:
        raise errors.UserError(
            path,
            got=repr(rest[1]) if len(rest) > 1 else "no model",
            expected="flags, one a line, and --saved_model=PATH among them",
        )
    if not os.path.exists(own.saved_model):
        raise errors.UserError(
            path,
            got=f"--saved_model={own.saved_model}, which is not there",
            expected="the path of a model, from the folder of the command",
        )
    return Model(name or source.stem, _whole(own.saved_model), own)


def _whole(path: str) -> str:
    """A path as it is, or the SavedModel's folder for its saved_model.pb."""
    source = pathlib.Path(path)
    folder = files.saved_model_folder(source)
    return path if folder == source else str(folder)
