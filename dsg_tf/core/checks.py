"""Checks of config values, each with an error of one line.

A check returns nothing, or raises `errors.UserError` with the value and the
valid values.
"""

from __future__ import annotations

import math
from typing import Any

from dsg_tf.core import errors


def require_choice(subject: str, value: Any, choices: tuple) -> None:
    """Refuses a value that is none of the choices.

    Args:
      subject: the flag or field, as the user knows it.
      value: what was given.
      choices: what may be given.

    Raises:
      errors.UserError: naming the choices, sorted.
    """
    if value not in choices:
        raise errors.UserError(
            subject,
            got=repr(value),
            expected="one of " + ", ".join(str(c) for c in sorted(choices)),
        )


def require_int(subject: str, value: Any, minimum: int) -> None:
    """Refuses what is no integer (True is none), or one below `minimum`.

    Args:
      subject: the flag or field, as the user knows it.
      value: what was given.
      minimum: the least integer that may be given.

    Raises:
      errors.UserError: naming the minimum.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise errors.UserError(
            subject, got=repr(value), expected=f"an integer >= {minimum}"
        )


def require_number(
    subject: str, value: Any, minimum: float, maximum: float
) -> None:
    """Refuses what is no finite number from `minimum` to `maximum`.

    Args:
      subject: the flag or field, as the user knows it.
      value: what was given; True and False are no numbers.
      minimum: the least number that may be given.
      maximum: the greatest; `math.inf` for none.

    Raises:
      errors.UserError: naming the bounds.
    """
    valid = isinstance(value, int | float) and not isinstance(value, bool)
    if not (valid and math.isfinite(value) and minimum <= value <= maximum):
        expected = (
            f"a finite number >= {minimum:g}"
            if maximum == math.inf
            else f"a number from {minimum:g} to {maximum:g}"
        )
        raise errors.UserError(subject, got=repr(value), expected=expected)


def require_bool(subject: str, value: Any) -> None:
    """Refuses anything but True and False, also 0 and 1.

    Args:
      subject: the flag or field, as the user knows it.
      value: what was given.

    Raises:
      errors.UserError: naming both.
    """
    if not isinstance(value, bool):
        raise errors.UserError(
            subject, got=repr(value), expected="True or False"
        )
