"""Runs command lines that have flags of their own, in the tests' process."""

from __future__ import annotations

from absl import flags, logging

from dsg_tf.command_line import cli


def run(module, *argv: str) -> int:
    """Exit code of a module's `main` with these flags; leaves no trace."""
    handler = logging.get_absl_handler().python_handler
    stream, level = handler.stream, logging.get_verbosity()
    values: flags.FlagValues = module._FLAGS
    try:
        values(["", *argv])
        return cli.guarded(module.main)
    finally:
        for name in values:
            values[name].unparse()
        handler.stream = stream
        logging.set_verbosity(level)
