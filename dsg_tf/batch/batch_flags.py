"""The flags of `dsg_tf.batch`: those of `dsg_tf.quantize`, some as lists."""

from __future__ import annotations

import re
from collections.abc import Mapping

from absl import flags

from dsg_tf.batch import grid
from dsg_tf.command_line import flag_values, image_flags, quantize_flags
from dsg_tf.config import synthesis_config
from dsg_tf.core import errors

_WIDTHS = ("weight_bits", "activation_bits")
# The axes of the grid: flags of dsg_tf.quantize that take several values here,
# and `bits`, which stands for two of them. The last one varies fastest.
AXES = tuple(
    axis
    for name in grid.NAMES
    for axis in (("bits", name) if name == _WIDTHS[0] else (name,))
)
# What a run gets from the batch itself, or what the batch sees to.
_THRESHOLDS = ("min_agreement", "min_sqnr_db")
_OWN = ("saved_model", "samples", "output", "resume", *_THRESHOLDS)
# Methods that are no synthesis: images of --calibration_data.
REAL = "real"
_BITS = re.compile(r"W([2-8])A([1-9][0-9]?)", re.IGNORECASE)

GROUPS = {
    "Batch": (
        "models",
        "output_dir",
        "jobs",
        "rerun_failed",
        "dry_run",
        "export",
        *_THRESHOLDS,
    ),
    "Real images": ("eval_data", "calibration_data", *image_flags.NAMES),
    "Grid: each takes several values, comma-separated": AXES,
    "For every run, as in dsg_tf.quantize": tuple(
        name
        for names in quantize_flags.GROUPS.values()
        for name in names
        if name not in (*AXES, *_OWN)
    ),
}
PASSED_ON = GROUPS["For every run, as in dsg_tf.quantize"]


def define(values: flags.FlagValues) -> None:
    """Defines every flag of `dsg_tf.batch`."""
    _define_own(values)
    image_flags.define(values)
    whole = quantize_flags.own_values()
    flags.DEFINE_list(
        "bits",
        [],
        "Bits of weights and activations together, as W4A8: for widths that are"
        " no grid. In place of the two flags below.",
        flag_values=values,
    )
    for name in AXES:
        if name == "bits":
            continue
        text = whole[name].help
        if name == "method":
            text = text.rstrip(".") + f"; {REAL}: --calibration_data."
        if name == "num_samples":
            text = text.rstrip(".") + f", {REAL}: all images."
        if whole[name].default is not None:
            text += f" [{whole[name].default}]"
        flags.DEFINE_list(name, [], text, flag_values=values)
    # Of these the help does not show saved_model: in flagfiles of models alone.
    for name in (*PASSED_ON, *_THRESHOLDS, "saved_model"):
        values[name] = whole[name]


def _define_own(values: flags.FlagValues) -> None:
    flags.DEFINE_list(
        "models",
        [],
        "Models: PATH, NAME=PATH, or FILE.flags, a flagfile with --saved_model"
        " and whatever holds for that model alone; * and ? as in a shell.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "output_dir",
        None,
        "Folder of the runs and of runs.sqlite, their record.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "jobs",
        1,
        "Runs at a time; the cores are divided among them.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_bool(
        "rerun_failed",
        False,
        "Take up runs that have failed before.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "dry_run",
        False,
        "Say what would run, and run nothing.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "export",
        "",
        "Write the record as a table, at the end or alone: .csv, .md, .jsonl.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "eval_data",
        "",
        "Labelled images for top-1: an .npz with images and labels, a folder"
        " of <class index>.jpg, or a folder of one folder a class.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "calibration_data",
        "",
        f"Images for --method={REAL}: an .npz with images, or a folder.",
        flag_values=values,
    )


def widths_apart(point: Mapping[str, str]) -> dict[str, str]:
    """A point of the grid with `bits` as the two axes that it stands for.

    Examples:
      >>> widths_apart({"bits": "W4A8", "seed": "0"})
      {'weight_bits': '4', 'activation_bits': '8', 'seed': '0'}

    Raises:
      errors.UserError: `bits` is no such text.
    """
    apart: dict[str, str] = {}
    for name, value in point.items():
        if name == "bits":
            apart |= zip(_WIDTHS, _widths(value), strict=True)
        else:
            apart[name] = value
    return apart


def _widths(text: str) -> tuple[str, str]:
    match = _BITS.fullmatch(text)
    if match is None:
        raise errors.UserError(
            "--bits",
            got=repr(text),
            expected="W<2..8>A<bits of activations>, e.g. W4A8",
        )
    return match[1], match[2]


def _check_bits(values: flags.FlagValues) -> None:
    for text in values.bits:
        _widths(text)
    for name in _WIDTHS:
        if values.bits and values[name].value:
            raise errors.UserError(
                "--bits",
                got=f"--{name} too",
                expected="widths together or apart, not both",
                remedy=f"--{name}= takes the other back, as does --bits=",
            )


def check_axes(values: flags.FlagValues) -> None:
    """Refuses values that their flag in dsg_tf.quantize could not parse.

    Raises:
      errors.UserError: e.g. `--seed=0,one`.
    """
    _check_bits(values)
    whole = quantize_flags.own_values()
    methods = (*synthesis_config.METHODS, REAL)
    for method in values.method:
        if method not in methods:
            raise errors.UserError(
                "--method", got=repr(method), expected=", ".join(methods)
            )
    for name in AXES:
        if name == "bits":
            continue
        for text in values[name].value:
            try:
                parsed = whole[name].parser.parse(text)
            except (ValueError, TypeError):
                raise errors.UserError(
                    f"--{name}",
                    got=repr(text),
                    expected=whole[name].parser.syntactic_help,
                ) from None
            flag_values.check_value(f"--{name}", parsed)
