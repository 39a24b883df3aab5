"""One process at a time in a folder, by a lock that dies with it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import time
from collections.abc import Iterator

from dsg_tf import errors

_NAME = ".lock"
# After a kill -9 the workers need a moment to notice; see `hold`.
_PATIENCE_S = 10.0
_PAUSE_S = 0.1


@contextlib.contextmanager
def hold(
    folder: pathlib.Path, *, patience_s: float = _PATIENCE_S
) -> Iterator[int]:
    """Holds a folder's lock.

    The kernel releases it when the last process that holds the descriptor has
    ended, however it ended. A process that hands the descriptor to its workers
    keeps the folder until these are gone too: nobody else begins while one of
    them may still write.

    Args:
      folder: it must exist.
      patience_s: how long to wait for the workers of a process that is dead.

    Yields:
      The descriptor.

    Raises:
      errors.UserError: another process holds it.
    """
    descriptor = os.open(folder / _NAME, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _acquire(descriptor, folder, patience_s)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield descriptor
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, folder: pathlib.Path, patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        if _alive(holder) or time.monotonic() >= deadline:
            raise errors.UserError(
                str(folder),
                got="a folder that another batch is at work in"
                + (f" (process {holder})" if holder else ""),
                expected="one batch at a time",
                remedy="wait for it, or take another --output_dir",
            )
        time.sleep(_PAUSE_S)


def _alive(holder: str) -> bool:
    """Whether a process is there; one of another machine never is."""
    try:
        os.kill(int(holder), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
