"""Keeps the chatter of native libraries off the user's screen.

TensorFlow, MLIR and XNNPACK write to the process's standard error past Python
and past their own log level. What they say while a block runs is collected; it
is shown again only if the block fails. A command line keeps it for the log of
the fault instead, and shows one line.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

from dsg_tf.core import stages

_KEPT_CHARACTERS = 65_536


class _Screen:
    """Where standard error leads, past what is collected.

    Attributes:
      descriptor: of standard error.
      kept: what failed blocks said; None where that is shown at once.
      original: a copy of standard error as the command found it; None outside
        of commands.
    """

    def __init__(self):
        self.descriptor = 2
        self.original: int | None = None
        self.kept: list[str] | None = None


_screen = _Screen()


@contextlib.contextmanager
def captured_stderr(*, show_on_error: bool = False) -> Iterator[list[str]]:
    """Collects what C++ and Python write to stderr, into a list of one text.

    Args:
      show_on_error: write it out after all where the block raises.

    Yields:
      A list that holds the text once the block is over.
    """
    collected: list[str] = []
    failed = True
    sys.stderr.flush()
    saved = os.dup(2)
    outer, _screen.descriptor = (
        _screen.descriptor,
        saved if _screen.descriptor == 2 else _screen.descriptor,
    )
    try:
        with tempfile.TemporaryFile() as sink:
            os.dup2(sink.fileno(), 2)
            try:
                yield collected
                failed = False
            finally:
                sys.stderr.flush()
                os.dup2(saved, 2)
                sink.seek(0)
                collected.append(sink.read().decode("utf-8", "replace"))
    finally:
        # Again: a signal may have come right after the redirection.
        os.dup2(saved, 2)
        _screen.descriptor = outer
        os.close(saved)
        if failed and show_on_error and collected:
            _show(collected[0])


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Around imports that load TensorFlow, which takes seconds and talks."""
    with (
        stages.within("import TensorFlow", idle=True),
        captured_stderr(show_on_error=True),
    ):
        yield


def keep() -> None:
    """From now on what failed blocks said is for `kept`, not for the screen."""
    _screen.kept = []
    with contextlib.suppress(OSError):  # Standard error may be closed.
        _screen.original = os.dup(2)


def restore() -> None:
    """Points standard error to the screen again, after `keep`.

    A signal can interrupt `captured_stderr` anywhere, also while it restores
    standard error; the last line of a command must reach the screen.
    """
    if _screen.original is not None:
        os.dup2(_screen.original, 2)


def kept() -> str:
    """The end of what failed blocks said."""
    return "".join(_screen.kept or ())[-_KEPT_CHARACTERS:]


def say(line: str) -> None:
    """Writes a line to the screen, from a signal's handler too."""
    with contextlib.suppress(OSError):
        os.write(_screen.descriptor, f"{line}\n".encode("utf-8", "replace"))


def _show(text: str) -> None:
    if _screen.kept is None:
        sys.stderr.write(text)
    else:
        _screen.kept.append(text)
