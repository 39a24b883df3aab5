"""Hashes of files, folders and settings, to recognise equal work."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib

from dsg_tf.core import errors, files

_CHUNK_BYTES = 1 << 20


def of_path(path: str | os.PathLike, *, subject: str = "") -> str:
    """SHA-256, hex, of a file's content, or of a folder's names and contents.

    Args:
      path: where it lies does not count, nor do times.
      subject: what an error is about; by default the path.

    Raises:
      errors.UserError: nothing readable is there, or a pipe or device.
    """
    path = pathlib.Path(path)
    files.refuse_special(
        path, subject=subject or None, expected="a readable file or folder"
    )
    digest = hashlib.sha256()
    expected = "a readable file or folder"
    files.refuse_special(path, subject=subject or None, expected=expected)
    try:
        if not path.is_dir():
            _add_file(digest, path)
            return digest.hexdigest()
        inner = sorted(p for p in path.rglob("*") if p.is_file())
        for file in inner:
            name = file.relative_to(path).as_posix()
            head = f"{len(name)} {name} {file.stat().st_size} "
            # A name need not be UTF-8.
            digest.update(head.encode("utf-8", "surrogateescape"))
            _add_file(digest, file)
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        raise errors.UserError(
            subject or str(path),
            got=f"{str(path)[:300]} ({cause})",
            expected=expected,
        ) from error
    return digest.hexdigest()


def _add_file(digest, path: pathlib.Path) -> None:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)


def of_settings(settings: object) -> str:
    """SHA-256, hex, of anything that JSON holds; order does not count.

    Examples:
      >>> of_settings({"a": 1, "b": 2}) == of_settings({"b": 2, "a": 1})
      True
    """
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
