"""A lock on a folder, released by the kernel when its process ends."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import os
import pathlib
import re
import stat
import time
from collections.abc import Iterator

from absl import logging

from dsg_tf.core import disk_space, errors

_NAME = ".lock"
# After kill -9 of the driver its workers take a moment to exit; see `hold`.
_PATIENCE_S = 10.0
_PAUSE_S = 0.1
# Content of the lock file: a process id, or nothing.
_CONTENT = re.compile(rb"[0-9]{0,20}\n?")
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@dataclasses.dataclass(frozen=True)
class Purpose:
    """What a lock is for.

    Attributes:
      got: what is said where another process holds it.
      expected: what would have been right.
      remedy: what to do.
      stays: whether the file stays there afterwards.
    """

    got: str
    expected: str
    remedy: str
    stays: bool


BATCH = Purpose(
    "a folder that another batch is at work in",
    "one batch at a time",
    "wait for it, or take another --output_dir",
    stays=True,
)
RUN = Purpose(
    "an output that another run is at work on",
    "one run at a time for an output",
    "wait for it, or take another --output",
    stays=False,
)


@contextlib.contextmanager
def hold(
    folder: pathlib.Path,
    *,
    patience_s: float = _PATIENCE_S,
    purpose: Purpose = BATCH,
    subject: str = "",
) -> Iterator[int]:
    """Holds a folder's lock.

    The kernel releases the lock when the last process that holds the descriptor
    has ended, for whatever reason. A process can pass the descriptor to its
    workers: the folder then stays locked until they have ended too, so that no
    other run starts while a worker may still write.

    Args:
      folder: it must exist.
      patience_s: how long to wait for the workers of a process that is dead.
      purpose: what the lock is for.
      subject: what an error is about; by default the folder.

    Yields:
      The descriptor.

    Raises:
      errors.UserError: another process holds it, or a file that is no lock
        has its name.
      FileNotFoundError: the folder is not there.
    """
    path = folder / _NAME
    subject = subject or str(folder)
    deadline = time.monotonic() + patience_s
    while True:
        descriptor = _open(path)
        try:
            _acquire(descriptor, subject, deadline, purpose)
        except BaseException:
            os.close(descriptor)
            raise
        # The previous holder may have deleted the lock file.
        if _is_at(path, descriptor):
            break
        os.close(descriptor)
    try:
        with disk_space.reported(path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield descriptor
        os.ftruncate(descriptor, 0)
    finally:
        if not purpose.stays:
            path.unlink(missing_ok=True)
        os.close(descriptor)


def _open(path: pathlib.Path) -> int:
    """Opens or creates the lock file; refuses one with other content."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        with disk_space.reported(path):
            descriptor = os.open(path, flags, 0o666)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise errors.UserError(
            str(path),
            got=error.strerror or str(error),
            expected="a file that can be written, to lock the folder with",
        ) from error
    is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
    if not is_file or not _CONTENT.fullmatch(os.pread(descriptor, 64, 0)):
        os.close(descriptor)
        raise errors.UserError(
            str(path),
            got="something that is no lock of dsg_tf",
            expected="nothing of this name",
            remedy="move it away, or write to another folder",
        )
    return descriptor


def _acquire(
    descriptor: int, subject: str, deadline: float, purpose: Purpose
) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            logging.warning(
                "%s: this disk has no locks; see to it that nothing else"
                " writes there now",
                subject,
            )
            return
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        if _alive(holder) or time.monotonic() >= deadline:
            raise errors.UserError(
                subject,
                got=purpose.got + (f" (process {holder})" if holder else ""),
                expected=purpose.expected,
                remedy=purpose.remedy,
            )
        time.sleep(_PAUSE_S)


def _is_at(path: pathlib.Path, descriptor: int) -> bool:
    """Whether the open file is still the one at this path."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _alive(holder: str) -> bool:
    """Whether a process of this machine is running."""
    try:
        os.kill(int(holder), 0)
    except (ValueError, ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
