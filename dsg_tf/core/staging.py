"""Writes outputs under temporary names and renames all of them at the end.

Every temporary name is `.<name>.<8 hex digits>.dsg_tf.tmp`, in the folder of
the output. Users' files do not have such names. A writing process holds a lock
on its temporary file, so leftovers of killed runs are recognised and deleted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import pathlib
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator

from absl import logging

from dsg_tf.core import disk_space, errors

SUFFIX = ".dsg_tf.tmp"
# A name is at most 255 bytes on most disks; what is added takes 21.
_NAME_BYTES = 200
_TRIES = 100
_NEW, _OLD = "new", "old"


@dataclasses.dataclass
class _Item:
    """An output in writing; `descriptor` holds the lock on `temporary`."""

    path: pathlib.Path
    temporary: pathlib.Path
    descriptor: int
    is_folder: bool
    tell: bool


class Staging:
    """The outputs of a run until all of them are written and checked.

    A context manager: on exit, outputs that were not placed are deleted.

    Examples:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder) / "a.txt"
      ...     with Staging() as staged:
      ...         staged.add(path, b"content")
      ...         before = path.exists()
      ...         staged.place()
      ...     before, path.read_text(), len(list(path.parent.iterdir()))
      (False, 'content', 1)
    """

    def __init__(self):
        self._items: list[_Item] = []

    def __enter__(self) -> Staging:
        return self

    def __exit__(self, *_) -> None:
        for item in self._items:
            _discard(item)
        self._items = []

    def add(
        self,
        path: pathlib.Path,
        content: bytes | str,
        *,
        check: Callable[[bytes], None] | None = None,
        tell: bool = False,
    ) -> None:
        """Writes a file under a temporary name and checks it.

        Args:
          path: the name that it shall get.
          content: what it shall hold.
          check: gets what the disk holds; if it raises, nothing is left.
          tell: whether the log says what was replaced.

        Raises:
          errors.UserError: there is no room for it.
        """
        if isinstance(content, str):
            content = content.encode()
        with disk_space.reported(path, bytes_needed=len(content), every=True):
            item = self._begin(path, is_folder=False, tell=tell)
            with open(item.descriptor, "wb", closefd=False) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        if check is not None:
            check(item.temporary.read_bytes())

    def add_folder(
        self, path: pathlib.Path, *, tell: bool = False
    ) -> pathlib.Path:
        """Creates an empty folder that will be renamed to `path`.

        Args:
          path: the name; what may be replaced there the caller has checked.
          tell: whether the log says what was replaced.
        """
        with disk_space.reported(path, every=True):
            item = self._begin(path, is_folder=True, tell=tell)
            fresh = item.temporary / _NEW
            fresh.mkdir()
        return fresh

    def place(self, *, last: pathlib.Path | None = None) -> None:
        """Renames all outputs to their final names, in the order of adding.

        If one rename fails, the previous ones are undone.

        Args:
          last: what is to get its name after all others: where it is there,
            so are they.
        """
        undo: list[Callable[[], None]] = []
        replaced: list[tuple[pathlib.Path, os.stat_result]] = []
        items = sorted(self._items, key=lambda item: item.path == last)
        try:
            for number, item in enumerate(items):
                before = _stat(item.path)
                is_last = number == len(items) - 1
                with disk_space.reported(item.path, every=True):
                    undo.append(_place(item, keep_old=not is_last))
                if item.tell and before is not None:
                    replaced.append((item.path, before))
        except BaseException:
            for step in reversed(undo):
                step()
            raise
        for path, before in replaced:
            _tell_replaced(path, before)

    def _begin(self, path, *, is_folder: bool, tell: bool) -> _Item:
        if path.is_symlink():
            raise errors.UserError(
                str(path),
                got="a symbolic link, which would be replaced",
                expected="a file or folder of an earlier run, or nothing",
                remedy="remove the link",
            )
        sweep(path)
        temporary, descriptor = _create(path, is_folder=is_folder)
        item = _Item(path, temporary, descriptor, is_folder, tell)
        self._items.append(item)
        return item


@contextlib.contextmanager
def file(path: pathlib.Path, *, tell: bool = False) -> Iterator[pathlib.Path]:
    """A temporary file that is renamed to `path` if the block succeeds.

    Args:
      path: the name.
      tell: whether the log says what was replaced.

    Yields:
      The temporary path, of an empty file, for what writes by path.
    """
    with Staging() as staged:
        with disk_space.reported(path, every=True):
            item = staged._begin(path, is_folder=False, tell=tell)
        yield item.temporary
        staged.place()


def spare_name(path: pathlib.Path) -> pathlib.Path:
    """An unused temporary name for a path; see `sweep`."""
    middle = secrets.token_hex(4)
    return path.with_name(_prefix(path.name) + middle + SUFFIX)


def sweep(path: pathlib.Path) -> None:
    """Deletes temporary files that killed runs left behind for a path.

    A folder that a killed run had moved aside is moved back.

    Args:
      path: the name that it was to get.
    """
    pattern = re.compile(
        re.escape(_prefix(path.name)) + "[0-9a-f]{8}" + re.escape(SUFFIX)
    )
    try:
        names = [n for n in os.listdir(path.parent) if pattern.fullmatch(n)]
    except OSError:
        return
    for name in names:
        left = path.with_name(name)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        with contextlib.suppress(OSError):
            descriptor = os.open(left, flags)
            try:
                if _lock(descriptor):
                    _delete(left, path)
            finally:
                os.close(descriptor)


def _prefix(name: str) -> str:
    """What temporary names of a file begin with; long names are hashed."""
    encoded = os.fsencode(name)
    if len(encoded) > _NAME_BYTES:
        name = f"{name[:20]}~{hashlib.sha256(encoded).hexdigest()[:16]}"
    return f".{name}."


def _create(path: pathlib.Path, *, is_folder: bool) -> tuple[pathlib.Path, int]:
    """A new file or folder beside `path`, locked."""
    for _ in range(_TRIES):
        temporary = spare_name(path)
        try:
            if is_folder:
                temporary.mkdir()
                descriptor = os.open(temporary, os.O_RDONLY)
            else:
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
                descriptor = os.open(temporary, flags, 0o666)
        except FileExistsError:
            continue
        # Another process may have swept it away before it was locked.
        if _lock(descriptor) is not False and _is_at(temporary, descriptor):
            return temporary, descriptor
        os.close(descriptor)
    raise FileExistsError(f"no free temporary name beside {path}")


def _lock(descriptor: int) -> bool | None:
    """Whether it is locked now; None where the disk has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_at(path: pathlib.Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except OSError:
        return False


def _place(item: _Item, *, keep_old: bool) -> Callable[[], None]:
    """Gives an item its name; returns what takes it back."""
    if item.is_folder:
        return _place_folder(item)
    old = None
    if keep_old and item.path.exists():
        old = spare_name(item.path)
        try:
            os.link(item.path, old)
        except OSError:  # Not every disk has hard links.
            shutil.copy2(item.path, old)
    try:
        os.replace(item.temporary, item.path)
    except BaseException:
        if old is not None:
            old.unlink(missing_ok=True)
        raise
    if old is None:
        return lambda: item.path.unlink(missing_ok=True)
    # Were it deleted at once, there would be nothing to take back to.
    item.temporary = old
    return lambda: os.replace(old, item.path)


def _place_folder(item: _Item) -> Callable[[], None]:
    fresh, old = item.temporary / _NEW, item.temporary / _OLD
    if item.path.exists():
        os.rename(item.path, old)
    try:
        os.rename(fresh, item.path)
    except BaseException:
        _recover(item.temporary, item.path)
        raise

    def undo() -> None:
        os.rename(item.path, fresh)
        _recover(item.temporary, item.path)

    return undo


def _recover(temporary: pathlib.Path, path: pathlib.Path) -> None:
    """Puts a folder back that was moved out of the way."""
    old = temporary / _OLD
    if old.is_dir() and not os.path.lexists(path):
        os.rename(old, path)


def _discard(item: _Item) -> None:
    """Deletes a leftover temporary file or folder."""
    with contextlib.suppress(OSError):
        _delete(item.temporary, item.path)
    with contextlib.suppress(OSError):
        os.close(item.descriptor)


def _delete(temporary: pathlib.Path, path: pathlib.Path) -> None:
    """Deletes a temporary file or folder, but nothing that was there before."""
    if not temporary.is_dir():
        temporary.unlink(missing_ok=True)
        return
    try:
        _recover(temporary, path)
    except OSError:
        logging.error("%s is what was at %s", temporary / _OLD, path)
        return
    shutil.rmtree(temporary, ignore_errors=True)


def _stat(path: pathlib.Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _tell_replaced(path: pathlib.Path, before: os.stat_result) -> None:
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(before.st_mtime))
    what = "" if path.is_dir() else f"{before.st_size:,} bytes, "
    logging.info("replaced %s (%s%s)", path, what, moment)
