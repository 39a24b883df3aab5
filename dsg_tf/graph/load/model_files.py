"""Checks the path of a model, and that it does not change while loaded.

A path is looked at before anything opens it: opening a pipe waits for a
writer, and a device may never end.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import stat
from collections.abc import Iterator

from dsg_tf.core import errors, files

EXPECTED = (
    "a SavedModel folder, a .keras, .h5, frozen GraphDef .pb or float .tflite"
    " file"
)
# A folder of a model has tens of files; one of millions is something else.
_MAX_ENTRIES = 100_000


def check(path: pathlib.Path, *, expected: str = EXPECTED) -> None:
    """Refuses what cannot be opened, and pipes, sockets and devices.

    Args:
      path: a file, or a folder with all that is in it.
      expected: what would have been right.

    Raises:
      errors.UserError: nothing that can be looked at is there, or something
        that is neither a file nor a folder.
    """
    shown = _shown(path)
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError as error:
        raise errors.UserError(
            shown, got="no such file or folder", expected=expected
        ) from error
    except (OSError, ValueError) as error:
        raise errors.UserError(
            shown, got=_cause(error), expected=expected
        ) from error
    files.refuse_special(path, expected=expected)
    if stat.S_ISDIR(mode):
        _check_folder(path, shown, expected)


@contextlib.contextmanager
def unchanged(path: pathlib.Path) -> Iterator[None]:
    """Refuses a file or folder that changes between its check and its load.

    What was checked is what is loaded, unless somebody writes the model at
    this very moment and puts its time and its place on the disk back.

    Args:
      path: a file or folder.

    Raises:
      errors.UserError: at the end, in place of any other error.
    """
    before = _state(path)
    try:
        yield
    finally:
        if _state(path) != before:
            raise errors.UserError(
                str(path),
                got="a model that changed while it was loaded",
                expected="one that stays as it was checked",
                remedy="run it again when nothing writes it any more",
            )


def _check_folder(path: pathlib.Path, shown: str, expected: str) -> None:
    count = 0

    def stop(error: OSError) -> None:
        raise errors.UserError(
            shown,
            got=f"{error.filename!r:.160} ({error.strerror})",
            expected=expected,
        ) from error

    for folder, _, names in os.walk(path, onerror=stop):
        count += len(names)
        if count > _MAX_ENTRIES:
            raise errors.UserError(
                shown,
                got=f"a folder with more than {_MAX_ENTRIES:,} files",
                expected=expected,
            )
        for name in names:
            files.refuse_special(
                os.path.join(folder, name), subject=shown, expected=expected
            )


def _state(path: pathlib.Path) -> list[tuple]:
    """What tells versions of files apart: place, size, times."""
    inside = sorted(path.rglob("*")) if path.is_dir() else []
    found = []
    for file in (path, *inside):
        try:
            s = os.stat(file)
        except OSError:
            continue
        if stat.S_ISREG(s.st_mode):
            times = (s.st_mtime_ns, s.st_ctime_ns)
            found.append((str(file), s.st_dev, s.st_ino, s.st_size, *times))
    return found


def _shown(path: pathlib.Path) -> str:
    """A path in an error: printable, and at both ends as it is."""
    text = str(path)
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= 300 else f"{text[:200]}...{text[-60:]}"


def _cause(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"a path that cannot be read ({error.strerror})"
    return f"no path ({error})"
