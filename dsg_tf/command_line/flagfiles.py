"""Reads flagfiles safely and inserts their flags into the command line.

absl reads any path given by `--flagfile`. Here pipes, folders, endless files,
encodings other than UTF-8 and circular references are refused.
"""

from __future__ import annotations

import collections
import os
from collections.abc import Sequence

from dsg_tf.core import errors, files

# A zoo of a thousand models takes a tenth of it.
_MOST_BYTES = 1_000_000
_MOST_FLAGS = 100_000
# Files, however often each is named: a short chain can name one 2**40 times.
_MOST_FILES = 100
_EXPECTED = "a text file of flags, one a line"
_NAMES = ("--flagfile", "-flagfile")


def expand(argv: Sequence[str]) -> list[str]:
    """The arguments, with every flagfile's lines in its place.

    Args:
      argv: flags, without the command's name. What stands behind `--` is
        left alone.

    Raises:
      errors.UserError: a flagfile cannot be read, is no UTF-8 text, is very
        large, or names itself.

    Examples:
      >>> import pathlib, tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder, "net.flags")
      ...     _ = path.write_text("# of the net\\n--seed=1\\n")
      ...     expand([f"--flagfile={path}", "--steps=3"])
      ['--seed=1', '--steps=3']
    """
    found: list[str] = []
    _expand(argv, found, within=(), opened=[])
    return found


def _expand(
    argv: Sequence[str],
    found: list[str],
    *,
    within: tuple[str, ...],
    opened: list[str],
) -> None:
    """Adds flags to `found`, and each file that is read to `opened`."""
    rest = collections.deque(argv)
    while rest:
        argument = rest.popleft()
        if argument == "--":
            found += [argument, *rest]
            return
        path = _path(argument, rest)
        if path is None:
            found.append(argument)
            continue
        real = os.path.realpath(path)
        if real in within:
            raise errors.UserError(
                path,
                got="a flagfile that names itself, or one that names it",
                expected="flagfiles without a circle",
            )
        opened.append(real)
        lines = _lines(path)
        if len(opened) > _MOST_FILES or len(found) + len(lines) > _MOST_FLAGS:
            raise errors.UserError(
                path,
                got=f"flagfile {len(opened)} of this command, with"
                f" {len(found) + len(lines)} flags so far",
                expected=f"at most {_MOST_FILES} and {_MOST_FLAGS}",
            )
        _expand(lines, found, within=(*within, real), opened=opened)


def _path(argument: str, rest: collections.deque[str]) -> str | None:
    """The file that an argument names, taken from `rest` if it is there."""
    name, separator, value = argument.partition("=")
    if name not in _NAMES:
        return None
    if not separator:
        value = rest.popleft() if rest else ""
    if not value:
        raise errors.UserError(
            "--flagfile", got="no name of a file", expected=_EXPECTED
        )
    return os.path.expanduser(value)


def _lines(path: str) -> list[str]:
    """Flags of a file, without comments and empty lines."""
    files.refuse_special(path, expected=_EXPECTED)
    text = _text(path).replace("\r\n", "\n").replace("\r", "\n")
    # Not `splitlines`, to which a form feed is the end of a line.
    lines = (line.strip() for line in text.split("\n"))
    return [line for line in lines if line and not line.startswith(("#", "//"))]


def _text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise errors.UserError(
            path,
            got=getattr(error, "strerror", None) or str(error),
            expected=_EXPECTED,
        ) from None
    if len(content) > _MOST_BYTES:
        raise errors.UserError(
            path, got=f"more than {_MOST_BYTES} bytes", expected=_EXPECTED
        )
    try:
        # A byte-order mark, as Windows' editors write it, is none of the text.
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise errors.UserError(
            path,
            got=f"no UTF-8 (byte {error.start})",
            expected=_EXPECTED,
            remedy="save it as UTF-8",
        ) from None
    if "\0" in text:
        raise errors.UserError(
            path, got="a byte of value 0", expected=_EXPECTED
        )
    return text
