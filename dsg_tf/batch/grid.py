"""Grids of runs: all combinations of the values of the axes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from dsg_tf.config import export_config, options, synthesis_config
from dsg_tf.core import errors

# The options that a batch may span, by flag.
OPTIONS = options.axes(
    synthesis_config.SynthesisConfig, export_config.ExportConfig
)
# Their names; the last one varies fastest.
NAMES = (*(name for name in OPTIONS if name != "seed"), "seed")


def span(axes: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """Every combination of the axes' values; the last axis varies fastest.

    Args:
      axes: values by axis, as texts. An axis without values is left out: the
        default of what it stands for holds.

    Raises:
      errors.UserError: a value is empty, or there twice.

    Examples:
      >>> span({"weight_bits": ["4", "8"], "seed": ["0"], "recipe": []})
      [{'weight_bits': '4', 'seed': '0'}, {'weight_bits': '8', 'seed': '0'}]
    """
    given = {name: list(values) for name, values in axes.items() if values}
    for name, values in given.items():
        if "" in values or len(set(values)) < len(values):
            raise errors.UserError(
                f"--{name}",
                got=repr(",".join(values)),
                expected="values, comma-separated, each of them once",
            )
    return [
        dict(zip(given, point, strict=True))
        for point in itertools.product(*given.values())
    ]


def label(
    point: Mapping[str, str], *, weight_bits: int, activation_bits: int
) -> str:
    """A folder's name that tells a point of the grid by its widths first.

    Examples:
      >>> label(
      ...     {"granularity": "tensor", "steps": "50", "seed": "1"},
      ...     weight_bits=4,
      ...     activation_bits=8,
      ... )
      'W4A8-tensor-steps50'
    """
    parts = [f"W{weight_bits}A{activation_bits}"]
    for name, value in point.items():
        told = OPTIONS[name].option.axis
        if told == options.BY_VALUE:
            parts.append(value)
        elif told == options.BY_NAME:
            parts.append(f"{name}{value}")
    return "-".join(parts)
