"""Draws the page of a run anew, from the files of the run.

python -m dsg_tf.report model.tflite.run
"""

from __future__ import annotations

import json
import pathlib
import sys

from absl import flags, logging

from dsg_tf.command_line import cli
from dsg_tf.core import errors, files, stages
from dsg_tf.report import page
from dsg_tf.samples import run_folders

_USAGE = """
Draws report.html of a run anew, from its report.json, samples and distances.

  python -m dsg_tf.report FOLDER.run
"""
_FLAGS = flags.FlagValues()
GROUPS = {"Run": ("run",)}

flags.DEFINE_string(
    "run", None, "The folder <output>.run of a run.", flag_values=_FLAGS
)


def main() -> int:
    """Writes the page; returns the exit code."""
    cli.require(_FLAGS, "run")
    logging.set_verbosity(max(logging.get_verbosity(), logging.INFO))
    folder = pathlib.Path(_FLAGS.run)
    with stages.within("read"):
        report = _report(folder / run_folders.REPORT)
    with stages.within("draw"):
        text = page.of_folder(report, folder)
    files.write_atomically(folder / run_folders.PAGE, text)
    logging.info("page: %s", folder / run_folders.PAGE)
    return 0


def _report(path: pathlib.Path) -> dict:
    """A parsed report.json.

    Raises:
      errors.UserError: there is none, or it is none of dsg_tf.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        missing = set(page.NEEDED) - set(found)
    except (OSError, UnicodeDecodeError, ValueError, TypeError) as error:
        raise errors.UserError(
            str(path),
            got=str(error),
            expected="the report.json of a run of dsg_tf.quantize",
            remedy="name the folder <output>.run",
        ) from error
    if missing:
        raise errors.UserError(
            str(path),
            got=f"JSON without {', '.join(sorted(missing))}",
            expected="the report.json of a run of dsg_tf.quantize",
        )
    return found


if __name__ == "__main__":
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        sys.argv[1] = f"--run={sys.argv[1]}"
    cli.run(main, usage=_USAGE, groups=GROUPS, values=_FLAGS)
