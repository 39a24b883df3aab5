"""What every config test asks: wrong values are refused, none is unchecked."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import pytest

from dsg_tf.core import errors

# The flag that the error names, the wrong fields, a part of what it expects.
Fault = tuple[str, dict[str, object], str]


def assert_refused(config_class: type, *, fault: Fault) -> None:
    """The config is refused in one line with flag, got and expected."""
    flag, fields, expected = fault
    with pytest.raises(errors.UserError) as caught:
        config_class(**fields)
    error = caught.value
    assert error.subject == flag
    assert expected in error.expected
    assert error.got
    assert len(str(error).splitlines()) == 1


def untested_fields(config_class: type, *, faults: Iterable[Fault]) -> set[str]:
    """Fields without a fault: added without a check, or without a test."""
    known = {field.name for field in dataclasses.fields(config_class)}
    return known - {name for _, fields, _ in faults for name in fields}


def names(faults: Iterable[Fault]) -> list[str]:
    """An id for each fault, by flag and place."""
    return [f"{flag}-{i}" for i, (flag, _, _) in enumerate(faults)]
