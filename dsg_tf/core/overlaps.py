"""Refuses outputs that overlap with inputs of the run.

Two paths can name the same file: through links, mounts, `..`, or letter case on
some file systems. Files are compared by device and inode number; paths that do
not exist are compared after resolving them.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence

from dsg_tf.core import errors

_Identity = tuple[int, int]


def refuse(
    outputs: Sequence[str | os.PathLike],
    inputs: Mapping[str, object],
    *,
    subject: str = "--output",
    holds: bool = True,
) -> None:
    """Refuses outputs that are an input, lie inside one, or contain one.

    Args:
      outputs: files and folders that will be written or replaced.
      inputs: what is read, by what an error calls it; a path, or anything
        else, which is passed over as are paths where nothing is.
      subject: the flag that names the output.
      holds: whether a folder that holds an input is refused too. Where single
        files are written into it, it may.

    Raises:
      errors.UserError: an output overlaps with an input.

    Examples:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as net:
      ...     try:
      ...         refuse([f"{net}/int8.tflite"], {"--saved_model": net})
      ...     except errors.UserError as error:
      ...         "lies inside of --saved_model" in str(error)
      True
    """
    for name, given in inputs.items():
        if not isinstance(given, str | os.PathLike) or not os.fspath(given):
            continue
        try:
            source = _Source(pathlib.Path(given))
        except (OSError, RuntimeError, ValueError):
            continue  # Does not exist: opening it raises the error.
        for output in outputs:
            how = source.overlap(pathlib.Path(output), holds=holds)
            if how:
                raise errors.UserError(
                    subject,
                    got=f"{os.fspath(output)}, which {how} {name},"
                    f" {os.fspath(given)}",
                    expected="a place apart from what is read",
                    remedy=f"choose another {subject}",
                )


class _Source:
    """An input: its path and the identities of its members."""

    def __init__(self, path: pathlib.Path):
        self._path = path
        self._origin = path.resolve(strict=True)
        self._own = _identity(self._origin)
        self._around = {_identity(parent) for parent in self._origin.parents}
        self._folders: frozenset[_Identity] | None = None

    def overlap(self, output: pathlib.Path, *, holds: bool) -> str:
        """How an output overlaps with this input; empty if it does not."""
        try:
            target = output.resolve()
            own = _identity(target)
            above = {_identity(parent) for parent in target.parents}
            linked = own is not None and _names(target) > 1
        except (OSError, RuntimeError, ValueError):
            return ""  # Opening it raises the error.
        if target == self._origin or (own is not None and own == self._own):
            return "is"
        if self._origin in target.parents or self._own in above:
            return "lies inside of"
        if not self._inner().isdisjoint({own, *above}):
            return "is a part of"
        if linked and own in _members(self._origin, files=True):
            return "is a part of"
        around = target in self._origin.parents or own in self._around
        return "holds" if holds and own is not None and around else ""

    def _inner(self) -> frozenset[_Identity]:
        """Folders and linked files in it, looked for once."""
        if self._folders is None:
            self._folders = frozenset(_members(self._origin, files=False))
        return self._folders


def _identity(path: pathlib.Path) -> _Identity | None:
    """(device, inode) of the file at a path; None if there is none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _names(path: pathlib.Path) -> int:
    """How many names a file has; a folder has one."""
    found = os.stat(path)
    return 1 if path.is_dir() else found.st_nlink


def _members(folder: pathlib.Path, *, files: bool) -> Iterator[_Identity]:
    """Identities of the folders and linked files below a folder.

    Args:
      folder: anything; a file has no members.
      files: whether those of plain files are wanted too, which takes a look
        at each. They can only matter to an output with several names.
    """
    seen: set[_Identity] = set()
    waiting = [folder]
    while waiting:
        try:
            entries = list(os.scandir(waiting.pop()))
        except OSError:
            continue
        for entry in entries:
            linked = entry.is_symlink()
            is_folder = entry.is_dir()
            if not (files or linked or is_folder):
                continue
            found = _identity(pathlib.Path(entry.path))
            if found is None or found in seen:
                continue
            seen.add(found)
            yield found
            if is_folder:
                waiting.append(pathlib.Path(entry.path))
