"""Keeps the chatter of native libraries off the user's screen.

TensorFlow, MLIR and XNNPACK write to the process's standard error past Python
and past their own log level. What they say while a block runs is collected; it
is shown again only if the block fails.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator


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
        os.close(saved)
        if failed and show_on_error and collected:
            sys.stderr.write(collected[0])
