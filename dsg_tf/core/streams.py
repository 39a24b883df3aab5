"""Makes standard output and error robust against closed pipes.

The reader may close the pipe (`| head`), the encoding may not be UTF-8, or the
streams may be closed from the start: the run still completes its files.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any, TextIO

from dsg_tf.core import errors


class Patient:
    """A text stream whose reader may go away.

    Args:
      stream: where text goes.
      strict: whether it is an error that text cannot be written, for another
        reason than that nobody reads it.
    """

    def __init__(self, stream: TextIO, *, strict: bool):
        self._stream = stream
        self._strict = strict

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """As of any text stream.

        Raises:
          errors.UserError: the disk that the stream leads to is full.
        """
        try:
            return self._stream.write(text)
        except (OSError, ValueError) as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        """As `write`."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """Sends what is left, and what will come, nowhere."""
        # ValueError: the stream is closed.
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
        if self._strict and not isinstance(error, BrokenPipeError | ValueError):
            raise errors.UserError(
                "standard output",
                got=getattr(error, "strerror", None) or str(error),
                expected="room for what is printed",
            ) from error


def harden() -> None:
    """Puts patient streams in the place of this process's own."""
    # A file that is opened later must not become a standard stream.
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, "w")  # noqa: SIM115  (for good)
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, Patient(stream, strict=name == "stdout"))
