"""Checks and reserves disk space, and reports a full disk in one line."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import re
import shutil
import sqlite3
from collections.abc import Iterator, Sequence

from dsg_tf.core import errors

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NUMBERS = (*_NO_ROOM, errno.EFBIG, errno.EROFS)
# Some libraries give the errno only in the text of the error.
_IN_TEXT = re.compile(r"\berrno\s*[=:]?\s*(\d+)", re.IGNORECASE)
_OF_SQLITE = {
    "disk is full": errno.ENOSPC,
    "readonly database": errno.EROFS,
}
_BLOCK_BYTES = 4096
_CHUNK_BYTES = 1 << 20
# Errors of `posix_fallocate` on file systems without support for it.
_CANNOT_RESERVE = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV)


@contextlib.contextmanager
def reported(
    path: str | os.PathLike, *, bytes_needed: int = 0, every: bool = False
) -> Iterator[None]:
    """Turns errors of a full or read-only disk into a `ResourceError`.

    Recognises the errors of Python, and those that SQLite, HDF5 and TensorFlow
    give only in a text or as the cause of another error.

    Args:
      path: what is written, or the folder of it.
      bytes_needed: how much is written; 0 where that is not known.
      every: whether every other OSError is said in a line too. Around the
        writing itself: nothing else can have raised it there.

    Raises:
      errors.ResourceError: there is no room, a quota or a limit is reached, or
        the disk is read-only. Any other error passes.

    Examples:
      >>> try:
      ...     with reported("net.tflite", bytes_needed=10):
      ...         raise OSError(errno.EROFS, "Read-only file system")
      ... except errors.UserError as error:
      ...     print(error)
      net.tflite: got a read-only disk; expected a writable one
    """
    try:
        yield
    except errors.UserError:
        raise
    except Exception as error:
        found = _found(error)
        if found is None:
            if not (every and isinstance(error, OSError)):
                raise
            raise errors.UserError(
                str(path),
                got=error.strerror or str(error),
                expected="a path that can be written",
            ) from error
        number, cause = found
        raise _refusal(number, _place(cause, path), bytes_needed) from error


def require(needs: Sequence[tuple[pathlib.Path, int]]) -> None:
    """Raises an error before the work if the outputs would not fit.

    Args:
      needs: folders, or paths in folders, and the bytes that go to each.

    Raises:
      errors.ResourceError: a disk has less room than all that goes to it.
    """
    totals: dict[int, tuple[pathlib.Path, int]] = {}
    for path, size in needs:
        disk = os.stat(_there(path)).st_dev
        first, total = totals.get(disk, (path, 0))
        totals[disk] = (first, total + size)
    for path, total in totals.values():
        if total > free_bytes(path):
            raise _refusal(errno.ENOSPC, path, total)


def reserve(path: pathlib.Path, size: int) -> None:
    """Allocates disk blocks for the first bytes of a file.

    A write through a memory map cannot raise an error on a full disk: the
    process is killed by SIGBUS. The content of the file is kept.

    Args:
      path: a file that is there.
      size: bytes.

    Raises:
      errors.ResourceError: there is no room for them.
    """
    with reported(path, bytes_needed=size), path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except AttributeError:
            _rewrite(file.fileno(), size)
        except OSError as error:
            if error.errno not in _CANNOT_RESERVE:
                raise
            _rewrite(file.fileno(), size)


def free_bytes(path: str | os.PathLike) -> int:
    """Free bytes for the user on the disk of a path, which need not exist."""
    return shutil.disk_usage(_there(pathlib.Path(path))).free


def allocated_bytes(path: pathlib.Path) -> int:
    """Bytes allocated to a file on disk; 0 if it does not exist."""
    try:
        return path.stat().st_blocks * 512
    except (AttributeError, OSError):
        return 0


def _rewrite(descriptor: int, size: int) -> None:
    """Rewrites the content, padded with zeros, to allocate its blocks."""
    for start in range(0, size, _CHUNK_BYTES):
        length = min(_CHUNK_BYTES, size - start)
        content = os.pread(descriptor, length, start).ljust(length, b"\0")
        while content:
            done = os.pwrite(descriptor, content, start)
            content, start = content[done:], start + done
    os.fsync(descriptor)


def _there(path: pathlib.Path) -> pathlib.Path:
    """The path, or its nearest existing parent folder."""
    path = path.absolute()
    return next((p for p in (path, *path.parents) if os.path.exists(p)), path)


def _found(error: BaseException) -> tuple[int, BaseException] | None:
    """The errno that prevents writing, and the exception that has it."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        number = _number(cause)
        if number in _NUMBERS:
            return number, cause
        hidden = None if cause.__suppress_context__ else cause.__context__
        cause = cause.__cause__ or hidden
    return None


def _place(error: BaseException, path: str | os.PathLike) -> pathlib.Path:
    """The path that could not be written: the error's, or `path`."""
    named = getattr(error, "filename", None)
    if isinstance(named, str | bytes | os.PathLike) and not str(named).endswith(
        ".tmp"
    ):
        return pathlib.Path(os.fsdecode(named))
    return pathlib.Path(path)


def _number(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    text = str(error)
    if isinstance(error, sqlite3.Error):
        return next((n for part, n in _OF_SQLITE.items() if part in text), None)
    for number in _NUMBERS:
        if os.strerror(number) in text:
            return number
    found = _IN_TEXT.search(text)
    return int(found[1]) if found else None


def _refusal(
    number: int, path: pathlib.Path, bytes_needed: int
) -> errors.ResourceError:
    needed = (
        f"{bytes_needed:,} bytes"
        if bytes_needed
        else f"at least {_BLOCK_BYTES:,} bytes"
    )
    if number == errno.EROFS:
        return errors.ResourceError(
            str(path), got="a read-only disk", expected="a writable one"
        )
    if number == errno.EFBIG:
        return errors.ResourceError(
            str(path),
            got=f"a file of {needed}, which is larger than the disk or the"
            " limits of this shell allow",
            expected="room for it",
            remedy="see `ulimit -f`, or write to another disk",
        )
    try:
        free = f"{free_bytes(path):,} bytes"
    except OSError:
        free = "an unknown number of bytes"
    return errors.ResourceError(
        str(path),
        got=f"a disk with no room left ({os.strerror(number)}): {needed}"
        f" needed, {free} free",
        expected="room for what is written",
        remedy="free some and give the same command again, or write to"
        " another disk",
    )
