"""The containers of Keras models: .keras archives, their folders, .h5 files.

Their content is checked before a loader opens them: names and sizes of members,
the storage of the weights, and the config (`keras_config`).
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import zipfile
from collections.abc import Iterator

from dsg_tf.core import errors, memory
from dsg_tf.graph.load import (
    formats,
    hdf5_files,
    hdf5_rehearsal,
    keras_config,
    keras_layer_graph,
)

CONFIG = "config.json"
_METADATA = "metadata.json"
_WEIGHTS = "model.weights.h5"
# A member that grows more than this was packed to be one that does: Keras
# stores its members as they are.
_MAX_EXPANSION = 100
_SMALL = 1 << 20
_ENCRYPTED = 0x1
# Sizes that are never too large, whatever the file holds.
_ANY = 1024
# Keys of a config that say how many numbers a layer has at least.
_SIZES = frozenset(
    {
        "depth_multiplier",
        "filters",
        "input_dim",
        "key_dim",
        "num_heads",
        "output_dim",
        "units",
        "value_dim",
    }
)


def check(path: pathlib.Path, kind: formats.Format) -> None:
    """Refuses a file that holds anything but layers and their weights.

    Args:
      path: a .keras or .h5 file, or the folder of an unpacked .keras file.
      kind: which of them it is.

    Raises:
      errors.UserError: it is damaged, holds no architecture, reaches out of
        itself, or its config names more than built-in layers.
    """
    subject = str(path)
    hdf5_rehearsal.require_readable(path)
    with _one_line(subject):
        config, numbers = _read(path, kind, subject)
    if config is None:
        raise errors.UserError(
            subject,
            got="weights without an architecture",
            expected="a whole model",
            remedy="load them into the model in your own code and pass that,"
            " or model.save('model.keras')",
        )
    keras_config.check(config, subject)
    keras_layer_graph.check(config, subject)
    _refuse_sizes(config, numbers, subject)


def version(path: pathlib.Path) -> str:
    """The version of Keras that wrote a .keras or .h5 file, such as `2.15.0`.

    Args:
      path: a file that `check` let pass.

    Returns:
      The version; empty where the file does not say it.
    """
    try:
        if zipfile.is_zipfile(path):
            with (
                zipfile.ZipFile(path) as archive,
                archive.open(_METADATA) as member,
            ):
                found = json.loads(member.read(_SMALL))
            return str(found.get("keras_version", ""))
        with hdf5_files.open_member(path) as file:
            text = hdf5_files.attribute(file, "keras_version", limit=_ANY)
        return (text or b"").decode()
    except Exception:  # It only words an error: each damage has its own kind.
        return ""


@contextlib.contextmanager
def _one_line(subject: str) -> Iterator[None]:
    try:
        yield
    except errors.UserError:
        raise
    except Exception as error:  # Each damage has its own kind of error.
        raise errors.UserError(
            subject,
            got=f"a damaged file ({errors.first_line(error)})",
            expected="a whole Keras model",
            remedy="download or save it again",
        ) from error


def _read(
    path: pathlib.Path, kind: formats.Format, subject: str
) -> tuple[dict | None, int]:
    """The config, and how many numbers the weights have."""
    if kind is formats.Format.HDF5:
        return _read_hdf5(path, subject)
    if path.is_dir():
        return _read_folder(path, subject)
    with zipfile.ZipFile(path) as archive:
        members = _members(archive, subject)
        keras_config.check_size(members[CONFIG].file_size, subject)
        config = keras_config.parse(archive.read(CONFIG), subject)
        with (
            archive.open(_WEIGHTS) as member,
            hdf5_files.open_member(member) as file,
        ):
            size = members[_WEIGHTS].file_size
            numbers = hdf5_files.check(file, subject, size=size)
    return config, numbers


def _read_folder(path: pathlib.Path, subject: str) -> tuple[dict, int]:
    text = path / CONFIG
    keras_config.check_size(text.stat().st_size, subject)
    config = keras_config.parse(text.read_bytes(), subject)
    weights = path / _WEIGHTS
    with hdf5_files.open_member(weights) as file:
        size = weights.stat().st_size
        return config, hdf5_files.check(file, subject, size=size)


def _read_hdf5(path: pathlib.Path, subject: str) -> tuple[dict | None, int]:
    with hdf5_files.open_member(path) as file:
        size = path.stat().st_size
        numbers = hdf5_files.check(file, subject, size=size)
        try:
            text = hdf5_files.attribute(
                file, "model_config", limit=keras_config.MAX_BYTES
            )
        except OverflowError as error:
            keras_config.check_size(error.args[0], subject)
            raise
    if text is None:
        return None, numbers
    return keras_config.parse(text, subject), numbers


def _members(
    archive: zipfile.ZipFile, subject: str
) -> dict[str, zipfile.ZipInfo]:
    """The members of an archive, each checked by what its directory says."""
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = info.filename
        parts = pathlib.PurePosixPath(name).parts
        fault = ""
        if name in members:
            fault = f"two members {name!r:.80}"
        elif name.startswith("/") or ".." in parts or "\\" in name:
            fault = f"the member {name!r:.80}, which leaves its folder"
        elif info.flag_bits & _ENCRYPTED:
            fault = f"the member {name!r:.80}, which is encrypted"
        elif info.file_size > max(_SMALL, _MAX_EXPANSION * info.compress_size):
            fault = (
                f"the member {name!r:.80} of {info.compress_size:,} bytes,"
                f" which grows to {info.file_size:,}"
            )
        if fault:
            raise hdf5_files.refusal(subject, fault)
        members[name] = info
    total = sum(info.file_size for info in members.values())
    memory.require(total, subject, what="its members unpacked")
    return members


def _refuse_sizes(config: dict, numbers: int, subject: str) -> None:
    """Refuses layers larger than all weights of the file, or than memory.

    Each unit, filter or table entry has at least one weight, so the file of a
    trained model never has more of them than weights.
    """
    for layer, key, number in keras_config.integers(config):
        if key in _SIZES and number > max(numbers, _ANY):
            raise hdf5_files.refusal(
                subject,
                f"{key}={number} in the layer {layer[:80]!r}, more than the"
                f" {numbers:,} weights of the file",
            )
    for layer, key, count in keras_config.shapes(config):
        # A float of four bytes each.
        memory.require(
            4 * count, subject, what=f"{key} of the layer {layer[:80]!r}"
        )
