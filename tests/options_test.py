"""A field of a config is all that a new option needs."""

from __future__ import annotations

import dataclasses

import pytest
from absl import flags

from dsg_tf.command_line import cli, quantize_flags
from dsg_tf.config import export_config, options
from dsg_tf.core import errors


@dataclasses.dataclass(frozen=True)
class _Extended(export_config.ExportConfig):
    """Who adds an option writes these lines, and what reads it."""

    rounding_steps: int = options.option(
        1000,
        "Steps of learned rounding.",
        group="Quantization",
        least=1,
        axis=options.BY_NAME,
    )
    style: str | None = options.option(
        None,
        "plain or fancy; default: the recipe's.",
        group="Output",
        choices=("plain", "fancy"),
    )


def _values(*argv: str) -> flags.FlagValues:
    values = flags.FlagValues()
    quantize_flags.define(values, [_Extended])
    values(["", *argv])
    return values


def test_a_new_field_has_a_flag_in_its_group_and_a_line_in_help():
    groups = quantize_flags.groups([_Extended])
    assert groups["Quantization"][-1] == "rounding_steps"
    assert groups["Output"][-1] == "style"
    text = cli.help_text("", groups, _values())
    assert "--rounding_steps     Steps of learned rounding. [1000]" in text
    assert "--style              plain or fancy; default: the rec" in text


def test_its_value_comes_from_the_command_line():
    values = _values("--rounding_steps=7", "--weight_bits=4")
    made = _Extended(**quantize_flags.fields(values, _Extended))
    assert (made.rounding_steps, made.weight_bits) == (7, 4)
    assert made.style is None


@pytest.mark.parametrize(
    ("fields", "subject"),
    [
        ({"rounding_steps": 0}, "rounding_steps"),
        ({"rounding_steps": None}, "rounding_steps"),
        ({"style": "bold"}, "style"),
        ({"style": 3}, "style"),
    ],
)
def test_its_values_are_checked(fields, subject):
    with pytest.raises(errors.UserError) as caught:
        _Extended(**fields)
    assert caught.value.subject == subject


def test_it_is_an_axis_of_the_grid():
    found = options.axes(_Extended)
    assert list(found)[-1] == "rounding_steps"
    assert "style" not in found


def test_every_field_of_every_config_is_declared_but_those_that_hold_others():
    for config in quantize_flags.CONFIGS:
        names = {f.name for f in dataclasses.fields(config)}
        left = names - set(options.declared(config))
        assert left <= {"synthesis", "export"}
        for entry in options.declared(config).values():
            assert entry.option.help.endswith(".")
