"""Options: fields of the configs, each declared once.

A field created by `option` declares its help text, valid values and group.
Checks, flags, `--help`, the axes, labels and columns of a batch, and the
reference page are derived from this declaration.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from dsg_tf.core import checks, errors

_KINDS = {kind.__name__: kind for kind in (bool, int, float, str)}
_KEY = "option"
# How a run's label shows the value of an axis: the value alone, name and value,
# or not at all because the folder name or the widths contain it.
BY_VALUE, BY_NAME, ELSEWHERE = "value", "name", "elsewhere"


@dataclasses.dataclass(frozen=True)
class Option:
    """Help text, valid values and grouping of a field.

    Attributes:
      help: one or two sentences.
      group: title under which `--help` has its flag; empty for fields that
        `--synthesis=NAME=VALUE` sets.
      choices: all valid values, if there is a fixed set.
      least, most: bounds of a number, both included.
      above_least: whether `least` itself is refused.
      axis: `BY_VALUE`, `BY_NAME` or `ELSEWHERE` if the option can be an axis
        of a batch's grid; empty otherwise.
      flag: the flag's name where it is not the field's.
    """

    help: str
    group: str = ""
    choices: tuple = ()
    least: float = -math.inf
    most: float = math.inf
    above_least: bool = False
    axis: str = ""
    flag: str = ""


@dataclasses.dataclass(frozen=True)
class Declared:
    """An option as a config has it.

    Attributes:
      name: of the field.
      option: what was declared.
      kind: bool, int, float or str; None for any other.
      default: of the field.
      may_be_open: whether None is valid; it stands for a default that depends
        on other fields.
    """

    name: str
    option: Option
    kind: type | None
    default: Any
    may_be_open: bool

    @property
    def flag(self) -> str:
        """The flag on the command line, without dashes."""
        if not self.option.group:
            return f"synthesis={self.name}"
        return self.option.flag or self.name


def option(default: Any, help: str, **attributes) -> Any:
    """A field of a config.

    Args:
      default: its default.
      help: one or two sentences.
      **attributes: see `Option`.

    Examples:
      >>> @dataclasses.dataclass(frozen=True)
      ... class Config:
      ...     bits: int = option(8, "Bits of weights.", choices=(4, 8))
      >>> declared(Config)["bits"].default
      8
    """
    return dataclasses.field(
        default=default, metadata={_KEY: Option(help, **attributes)}
    )


def declared(config: Any) -> Mapping[str, Declared]:
    """The options of a config, or of its class, by field, in order."""
    found = {}
    for field in dataclasses.fields(config):
        if _KEY in field.metadata:
            kind, _, rest = str(field.type).partition(" | ")
            found[field.name] = Declared(
                field.name,
                field.metadata[_KEY],
                _KINDS.get(kind),
                field.default,
                rest == "None",
            )
    return found


def check(config: Any) -> None:
    """Raises an error for a value that an option does not accept.

    Args:
      config: an instance.

    Raises:
      errors.UserError: about the field, by its name.

    Examples:
      >>> @dataclasses.dataclass(frozen=True)
      ... class Config:
      ...     bits: int = option(8, "Bits of weights.", choices=(4, 8))
      ...     __post_init__ = check
      >>> Config(bits=5)
      Traceback (most recent call last):
      dsg_tf.core.errors.UserError: bits: got 5; expected one of 4, 8
    """
    for name, entry in declared(config).items():
        value = getattr(config, name)
        if not (value is None and entry.may_be_open):
            _check_value(entry, value)


def _check_value(entry: Declared, value) -> None:
    name, own = entry.name, entry.option
    if entry.kind is bool:
        checks.require_bool(name, value)
    if entry.kind is int:
        least = 1 if own.choices else int(own.least)
        checks.require_int(name, value, least)
    if entry.kind is float:
        checks.require_number(name, value, own.least, own.most)
    if entry.kind is str and not isinstance(value, str):
        raise errors.UserError(name, got=repr(value), expected="text")
    if own.choices:
        checks.require_choice(name, value, own.choices)
    if own.above_least and value == own.least:
        raise errors.UserError(
            name, got=repr(value), expected=f"a number above {own.least:g}"
        )


def axes(*configs) -> dict[str, Declared]:
    """The options that can be axes of a batch's grid, by flag."""
    return {
        entry.flag: entry
        for config in configs
        for entry in declared(config).values()
        if entry.option.axis
    }
