"""Writing files so that a killed run never leaves half of one."""

from __future__ import annotations

import os
import pathlib
import stat
import tempfile
from collections.abc import Callable

from dsg_tf import errors


def refuse_special(
    path: str | os.PathLike, *, subject: str | None = None, expected: str
) -> None:
    """Refuses a pipe, socket or device before anything opens it.

    Opening a pipe waits for a writer, and a device may never end. A path that
    is not there, or cannot be looked at, is left to whoever opens it.

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


def check_writable(output: pathlib.Path) -> None:
    """Makes sure, before the long work, that the output can be written.

    Args:
      output: the file that will be written; `run_folder(output)` beside it.

    Raises:
      errors.UserError: its folder is missing, is no folder, or is not
        writable; the output is a folder, or its run folder a file.
    """
    folder = output.absolute().parent
    if output.is_dir():
        raise errors.UserError(
            "--output", got=f"a folder, {output}", expected="a file's path"
        )
    if not folder.is_dir():
        raise errors.UserError(
            "--output",
            got=f"{folder}, which is no folder",
            expected="a writable folder",
            remedy="make it first",
        )
    check_place(folder)
    check_run_folder(output)


def check_run_folder(output: pathlib.Path) -> None:
    """Makes sure that the folder of the run can be made and written to.

    Raises:
      errors.UserError: it is a file, or not writable.
    """
    beside = run_folder(output)
    if beside.exists() and not beside.is_dir():
        raise errors.UserError(
            "--output",
            got=f"{beside}, which is a file",
            expected="room for the folder of the run",
            remedy="move the file away",
        )
    check_place(beside if beside.exists() else beside.absolute().parent)


def check_place(folder: pathlib.Path, *, subject: str = "--output") -> None:
    """Makes sure that files can be made in a folder.

    Args:
      folder: it must be there.
      subject: what an error is about.

    Raises:
      errors.UserError: it is missing, is no folder, or is not writable.
    """
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise errors.UserError(
            subject,
            got=f"{folder} ({error.strerror})",
            expected="a writable folder",
        ) from error


def run_folder(output: pathlib.Path) -> pathlib.Path:
    """Where all else of a run goes.

    Example:
      >>> run_folder(pathlib.Path("net.tflite")).name
      'net.tflite.run'
    """
    return output.with_name(output.name + ".run")


def write_atomically(
    path: pathlib.Path,
    content: bytes | str,
    *,
    check: Callable[[bytes], None] | None = None,
) -> None:
    """Writes a file under a temporary name, checks it, and renames it.

    Args:
      path: the file.
      content: what it shall hold.
      check: gets what the disk holds; if it raises, nothing is left behind.
    """
    if isinstance(content, str):
        content = content.encode()
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if check is not None:
            check(temporary.read_bytes())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
