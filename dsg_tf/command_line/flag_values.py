"""Refuses values that are invalid for every flag."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable
from typing import Any

from absl import flags

from dsg_tf.core import errors

# Of signed integers of 64 bits, which TensorFlow and files hold.
_MOST = 2**63 - 1
_SHOWN = 60


def check(values: flags.FlagValues) -> None:
    """Refuses numbers and texts that only lead to riddles later.

    Args:
      values: parsed.

    Raises:
      errors.UserError: an integer beyond 64 bits, a number that is not finite,
        text with control characters or with bytes that are no UTF-8.
    """
    for name in values:
        for value in _each(values[name].value):
            check_value(f"--{name}", value)


def check_value(subject: str, value: Any) -> None:
    """Refuses one value; see `check`.

    Args:
      subject: what an error is about.
      value: of any type that flags have.

    Raises:
      errors.UserError: as `check`.
    """
    fault = _fault(value)
    if fault:
        got, expected = fault
        raise errors.UserError(subject, got=got, expected=expected)


def _each(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list | tuple) else (value,)


def _fault(value: Any) -> tuple[str, str] | None:
    """What a value is, and what it should be."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int) and not -_MOST <= value <= _MOST:
        # As hexadecimal: Python refuses thousands of decimal digits.
        return f"{_short(hex(value))}", "an integer of at most 64 bits"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value), "a finite number"
    if isinstance(value, str):
        kinds = {unicodedata.category(character) for character in value}
        if "Cc" in kinds:
            return (
                ascii(_short(value)),
                "text without control characters, on one line",
            )
        if "Cs" in kinds:  # How Python holds bytes that it cannot decode.
            return ascii(_short(value)), "text in UTF-8"
    return None


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
