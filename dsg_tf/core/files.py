"""Checks of output paths, and atomic writing of files."""

from __future__ import annotations

import os
import pathlib
import stat
import tempfile
import zipfile
from collections.abc import Callable, Mapping

from absl import logging

from dsg_tf.core import disk_space, errors, overlaps, staging

_RUN = ".run"
# Limits of file systems: length of a name, and of a whole path.
_NAME_BYTES = 255
_PATH_BYTES = 3800
# A SavedModel's message begins with schema version 1 and a graph; a GraphDef
# with a node.
SAVED_MODEL_MAGIC = b"\x08\x01\x12"
_SAVED_MODEL = "saved_model.pb"
_KERAS_MEMBERS = {"config.json", "model.weights.h5"}


def refuse_special(
    path: str | os.PathLike, *, subject: str | None = None, expected: str
) -> None:
    """Refuses a pipe, socket or device before anything opens it.

    Opening a pipe blocks until there is a writer, and a device may have no end.
    A path that does not exist or cannot be inspected is accepted; opening it
    raises the error.

    Args:
      path: what is about to be read.
      subject: what the error is about; by default the path.
      expected: what would have been right.

    Raises:
      errors.UserError: it is neither a regular file nor a folder.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return
    for is_kind, kind in (
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    ):
        if is_kind(mode):
            raise errors.UserError(
                subject or os.fspath(path),
                got=kind if subject is None else f"{os.fspath(path)}, {kind}",
                expected=expected,
            )


def destination(
    output: str | os.PathLike,
    inputs: Mapping[str, object],
    *,
    subject: str = "--output",
) -> pathlib.Path:
    """Checks an output file before the long work; returns its real path.

    A symbolic link is followed: its target is the output.

    Args:
      output: the file that will be written.
      inputs: what is read, by what an error calls it; see `overlaps.refuse`.
      subject: the flag that names the output.

    Raises:
      errors.UserError: it is or overlaps with an input, is a folder, a device,
        a trained model or a link to nowhere, or cannot be written.
    """
    try:
        path = resolved(output, subject=subject)
        overlaps.refuse([path], inputs, subject=subject)
        if path.is_dir():
            raise errors.UserError(
                subject, got=f"a folder, {path}", expected="a file's path"
            )
        if _is_trained_model(path):
            raise errors.UserError(
                subject,
                got=f"{path}, which is a trained model, or a part of one",
                expected="a path where no model would be lost",
            )
        check_parent(path, subject=subject)
    except OSError as error:
        raise errors.UserError(
            subject,
            got=f"{os.fspath(output)} ({error.strerror})",
            expected="a path that can be looked at",
        ) from error
    return path


def run_destination(
    output: str | os.PathLike, inputs: Mapping[str, object]
) -> pathlib.Path:
    """Like `destination`, for an output with a run folder beside it."""
    path = destination(output, inputs)
    check_run_folder(path, inputs)
    return path


def resolved(
    output: str | os.PathLike, *, subject: str = "--output"
) -> pathlib.Path:
    """The path itself, or the target if it is a symbolic link.

    Raises:
      errors.UserError: no file can have this name; or it is a link in a circle
        or to a folder that is not there, a pipe, a socket or a device.
    """
    path = pathlib.Path(output)
    check_name(path, subject=subject)
    if path.is_symlink():
        target = pathlib.Path(os.path.realpath(path))
        if target.is_symlink() or not target.parent.is_dir():
            raise errors.UserError(
                subject,
                got=f"{path}, a link that leads nowhere",
                expected="a file's path, or a link to one",
                remedy="remove the link",
            )
        logging.info("%s is a link: what is written is %s", path, target)
        path = target
        check_name(path, subject=subject)
    refuse_special(path, subject=subject, expected="a file's path")
    return path


def saved_model_folder(path: pathlib.Path) -> pathlib.Path:
    """The SavedModel's folder for its saved_model.pb; else the path itself.

    Args:
      path: a file or folder, also one that is not there.

    Examples:
      >>> saved_model_folder(pathlib.Path("net.keras")).name
      'net.keras'
    """
    # A pipe of this name is no file, and is not opened.
    if path.name != _SAVED_MODEL or not path.is_file():
        return path
    try:
        with path.open("rb") as file:
            head = file.read(len(SAVED_MODEL_MAGIC))
    except OSError:
        return path
    return path.absolute().parent if head == SAVED_MODEL_MAGIC else path


def check_name(path: pathlib.Path, *, subject: str = "--output") -> None:
    """Refuses a name that the file system cannot hold.

    Raises:
      errors.UserError: it is empty, holds a zero byte, or is longer than the
        disk takes, with what a run adds to it.
    """
    text = os.fspath(path)
    if not path.name or path.name == "..":
        raise errors.UserError(
            subject, got=repr(text), expected="a path that ends with a name"
        )
    if "\0" in text:
        raise errors.UserError(
            subject,
            got="a path with a zero byte",
            expected="characters that a path can have",
        )
    size = len(os.fsencode(path.name + _RUN))
    whole = len(os.fsencode(path.absolute()))
    if size > _NAME_BYTES or whole > _PATH_BYTES:
        name = path.name if len(path.name) <= 40 else f"{path.name[:40]}..."
        raise errors.UserError(
            subject,
            got=f"{name!r}, a name of {len(os.fsencode(path.name))} bytes in"
            f" a path of {whole}",
            expected=f"a name of at most {_NAME_BYTES - len(_RUN)} bytes, and a"
            f" path of {_PATH_BYTES}",
        )


def check_parent(path: pathlib.Path, *, subject: str = "--output") -> None:
    """Checks that the parent folder of a path exists and is writable.

    Raises:
      errors.UserError: it is missing, is no folder, or is not writable.
    """
    folder = path.absolute().parent
    if not folder.is_dir():
        raise errors.UserError(
            subject,
            got=f"{folder}, which is no folder",
            expected="a writable folder",
            remedy="make it first",
        )
    check_place(folder, subject=subject)


def check_run_folder(
    output: pathlib.Path, inputs: Mapping[str, object] | None = None
) -> None:
    """Checks that the run folder can be created and written to.

    Args:
      output: what the run writes.
      inputs: what it reads; see `overlaps.refuse`.

    Raises:
      errors.UserError: it is a file, is not writable, or overlaps with an
        input.
    """
    beside = run_folder(output)
    if os.path.lexists(beside) and not beside.is_dir():
        raise errors.UserError(
            "--output",
            got=f"{beside}, which is a file or a link that leads nowhere",
            expected="room for the folder of the run",
            remedy="move the file away",
        )
    members = list(beside.iterdir()) if beside.is_dir() else []
    overlaps.refuse([beside, *members], inputs or {})
    check_place(beside if beside.exists() else beside.absolute().parent)


def check_place(folder: pathlib.Path, *, subject: str = "--output") -> None:
    """Checks that files can be created in a folder.

    Args:
      folder: it must be there.
      subject: what an error is about.

    Raises:
      errors.UserError: it is missing, is no folder, or is not writable.
    """
    try:
        with disk_space.reported(folder), tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise errors.UserError(
            subject,
            got=f"{folder} ({error.strerror})",
            expected="a writable folder",
        ) from error


def run_folder(output: pathlib.Path) -> pathlib.Path:
    """The run folder of an output: all other files of the run.

    Examples:
      >>> run_folder(pathlib.Path("net.tflite")).name
      'net.tflite.run'
    """
    return output.with_name(output.name + _RUN)


def write_atomically(
    path: pathlib.Path,
    content: bytes | str,
    *,
    check: Callable[[bytes], None] | None = None,
    tell: bool = False,
) -> None:
    """Writes a file under a temporary name, checks it, and renames it.

    Args:
      path: the file.
      content: what it shall hold.
      check: gets what the disk holds; if it raises, nothing is left behind.
      tell: whether the log says what was replaced.

    Raises:
      errors.UserError: it cannot be written, for want of room for instance.
    """
    with staging.Staging() as staged:
        staged.add(path, content, check=check, tell=tell)
        staged.place()


def _is_trained_model(path: pathlib.Path) -> bool:
    """Whether the path is a model file, which only training could restore."""
    folder = path.parent
    if folder.name == "variables" and path.is_file():
        return (folder.parent / _SAVED_MODEL).is_file()
    if path.name == _SAVED_MODEL and path.is_file():
        return True
    try:
        with path.open("rb") as file:
            head = file.read(8)
        if head.startswith(b"PK"):
            with zipfile.ZipFile(path) as archive:
                return set(archive.namelist()) >= _KERAS_MEMBERS
    except (OSError, ValueError, zipfile.BadZipFile):
        return False
    return head == b"\x89HDF\r\n\x1a\n"
