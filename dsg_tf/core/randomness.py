"""Keeps the random state of the process as it is."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Puts Python's random state back at the end, also after an error.

    Keras draws seeds of its layers and variables from it, whoever needs them.

    Examples:
      >>> random.seed(1)
      >>> with kept():
      ...     _ = random.random()
      >>> random.random() == random.Random(1).random()
      True
    """
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)
