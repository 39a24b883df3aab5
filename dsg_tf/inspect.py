"""What dsg_tf finds in a model, and what quantizing it would cost.

  python -m dsg_tf.inspect --saved_model=path/to/saved_model

This module only turns flags into a `PipelineConfig`; `report.inspection` works.
"""

from __future__ import annotations

import pathlib

from absl import flags, logging

from dsg_tf.command_line import cli, quantize_flags
from dsg_tf.core import files, quiet
from dsg_tf.graph.load import formats

_USAGE = """
Looks at a model as dsg_tf.quantize would, and writes nothing.

  python -m dsg_tf.inspect --saved_model=PATH [--format=json] [flags]

Takes the flags of dsg_tf.quantize, and tells what it would do with them.
"""
_FLAGS = flags.FlagValues()
# Nothing is written, resumed or verified.
_WITHOUT = ("output", "resume", "min_agreement", "min_sqnr_db")
GROUPS = {
    title: tuple(name for name in names if name not in _WITHOUT)
    for title, names in quantize_flags.GROUPS.items()
} | {"Report": ("format",)}

flags.DEFINE_enum(
    "format",
    "table",
    ("table", "json"),
    "How to print what was found.",
    flag_values=_FLAGS,
)


def _define(values: flags.FlagValues) -> None:
    whole = quantize_flags.own_values()
    for names in GROUPS.values():
        for name in names:
            if name in whole:
                values[name] = whole[name]


_define(_FLAGS)


def main() -> int:
    """Prints what was found; returns the exit code."""
    cli.require(_FLAGS, "saved_model")
    config = quantize_flags.pipeline_config(_FLAGS)
    source = files.saved_model_folder(pathlib.Path(_FLAGS.saved_model))
    logging.set_verbosity(max(logging.get_verbosity(), logging.WARNING))
    # Wrong paths are told before TensorFlow is imported.
    formats.find(source, needs_moments=config.needs_moments)
    with quiet.importing():
        from dsg_tf.report import inspection_table

    return inspection_table.run(str(source), config, style=_FLAGS.format)


if __name__ == "__main__":
    cli.run(main, usage=_USAGE, groups=GROUPS, values=_FLAGS)
