"""The tables and figures of the DSG paper, on models and images at hand.

    python -m tools.reproduce --table=1 [flags of dsg_tf.batch]
    python -m tools.reproduce --figure=1

A table is a flagfile of `dsg_tf.batch` in tools/tables/ and the layout of
`tools.paper_table`. Flags behind it override the flagfile: another model, other
images, fewer seeds. Runs are kept in --output_dir; a second start goes on where
the first was stopped, and tables share what they have in common.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags, logging

from dsg_tf import figures
from dsg_tf.batch import __main__ as batch
from dsg_tf.batch import (
    batch_flags,
    batch_models,
    batch_plan,
    run_record,
    run_table,
    schedule,
)
from dsg_tf.command_line import cli
from dsg_tf.core import errors, files
from tools import paper, paper_table

_USAGE = """
Makes a table or a figure of the DSG paper.

  python -m tools.reproduce --table=1..5 [flags of dsg_tf.batch]
  python -m tools.reproduce --figure=1|2 [flags of dsg_tf.batch]

All the ImageNet validation images and a model of one's own:

  python -m tools.reproduce --table=3 --models=resnet18=resnet18_saved_model \\
      --eval_data=imagenet_val --calibration_data=imagenet_train_1k \\
      --preprocess=standardize --mean=0.485,0.456,0.406 --std=0.229,0.224,0.225
"""

_FOLDER = pathlib.Path(__file__).absolute().parent
_PICTURES = {1: figures.HISTOGRAMS, 2: figures.BOXES}
# Flagfiles that others change.
_BEFORE = {"table2": ("table1",), "figures": ("table1",)}
# Weights that the switches stand for, one for all methods.
_LABEL_WEIGHT, _PRIOR_WEIGHT = 1.0, 0.1

_OWN = ("table", "figure", "labels", "image_prior")
# Of the sets of a figure, in the order of its legend.
_SETS = ("zeroq", "dsg", "real")

_FLAGS = flags.FlagValues()
GROUPS = {
    "Of the paper": _OWN,
    **batch_flags.GROUPS,
}


def define(values: flags.FlagValues) -> None:
    """Defines the flags of this command, those of `dsg_tf.batch` included."""
    flags.DEFINE_integer(
        "table",
        None,
        "Which table: 1 to 5.",
        1,
        max(paper.TABLES),
        flag_values=values,
    )
    flags.DEFINE_integer(
        "figure", None, "Which figure: 1 or 2.", 1, 2, flag_values=values
    )
    flags.DEFINE_bool(
        "labels",
        None,
        "Draw samples to classes, with weight 1 for every method, or not;"
        " default: as the table has it, else DSG does and ZeroQ does not.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "image_prior",
        None,
        "Make samples with an image prior, or not; default: as the table has"
        " it, else not.",
        flag_values=values,
    )
    batch_flags.define(values)
    values[
        "output_dir"
    ].help = "Folder of the runs, the tables and the figures."
    values.set_default("output_dir", "reproduced")


define(_FLAGS)


def batch_lines(values: flags.FlagValues) -> list[str]:
    """What `dsg_tf.batch` is asked for: the flagfile, and what overrides it.

    Raises:
      errors.UserError: neither a table nor a figure is asked for, or both.
    """
    table, figure = values.table, values.figure
    if (table is None) == (figure is None):
        raise errors.UserError(
            "--table and --figure",
            got="neither" if table is None else "both",
            expected="one of them",
            remedy="--help lists all flags",
        )
    name = "figures" if table is None else f"table{table}"
    lines = [
        f"--flagfile={_FOLDER / 'tables' / part}.flags"
        for part in (*_BEFORE.get(name, ()), name)
    ]
    for switch, field, weight in (
        ("labels", "label_weight", _LABEL_WEIGHT),
        ("image_prior", "prior_weight", _PRIOR_WEIGHT),
    ):
        on = values[switch].value
        if on is not None:
            lines.append(f"--synthesis={field}={weight if on else 0.0}")
    for names in batch_flags.GROUPS.values():
        for flag in (values[name] for name in names):
            if flag.present:
                lines += flag.serialize().split("\n")
    return [*lines, f"--output_dir={values.output_dir}"]


def main() -> int:
    """Runs what the table or the figure needs, and makes it."""
    lines = batch_lines(_FLAGS)
    asked = flags.FlagValues()
    batch_flags.define(asked)
    asked(["", *lines])
    code = batch.main(asked)
    if code == 1 or asked.dry_run:
        return code
    folder = pathlib.Path(asked.output_dir).absolute()
    record = run_record.RunRecord(folder, create=False)
    rows = record.rows()
    record.close()
    runs = batch_plan.runs(
        asked,
        folder,
        taken={row.folder: row.key for row in rows if row.status == "done"},
        tell=lambda text: None,  # The batch has told.
    )
    if _FLAGS.table is not None:
        keys = {run.key for run in runs}
        _write_table(
            folder, _FLAGS.table, [row for row in rows if row.key in keys]
        )
    else:
        _draw(folder, _FLAGS.figure, batch_models.models(asked), runs)
    return code


def _write_table(
    folder: pathlib.Path, number: int, rows: Sequence[run_record.Row]
) -> None:
    table = paper.TABLES[number]
    found = paper_table.lines(run_table.flat(rows))
    text = f"# Table {number}: {table.title} (the paper: {table.model})\n\n"
    text += paper_table.markdown(table, found)
    print(text)
    for suffix, content in (
        ("md", text),
        ("csv", paper_table.comma_separated(table, found)),
    ):
        path = folder / f"table{number}.{suffix}"
        files.write_atomically(path, content)
        logging.info("%s", path)


def _draw(
    folder: pathlib.Path,
    number: int,
    models: Sequence[batch_models.Model],
    runs: Sequence[schedule.Run],
) -> None:
    """Draws the figure of every model, with its numbers beside it."""
    for model in models:
        target = folder / f"figures-{model.name}"
        sets = _samples(folder, model.name, runs)
        subprocess.run(
            [
                *(sys.executable, "-m", "dsg_tf.figures"),
                f"--saved_model={model.path}",
                "--samples=" + ",".join(f"{k}={v}" for k, v in sets.items()),
                f"--output_dir={target}",
            ],
            check=True,
        )
        numbers = json.loads((target / figures.NUMBERS).read_text())
        text = _medians(numbers)
        print(text)
        files.write_atomically(target / "dispersion.md", text)
        logging.info("%s", target / f"{_PICTURES[number]}.png")


def _samples(
    folder: pathlib.Path, model: str, runs: Sequence[schedule.Run]
) -> dict[str, pathlib.Path]:
    """The first samples of each method, by method, in the legend's order.

    Raises:
      errors.UserError: a file is gone.
    """
    by_key = {run.key: run for run in runs if run.kind == "samples"}
    found: dict[str, pathlib.Path] = {}
    for run in runs:
        if run.kind == "quantize" and run.config["model"] == model:
            (key,) = (key for key in run.needs if key in by_key)
            path = folder / by_key[key].artifact
            found.setdefault(run.config["method"], path)
    for path in found.values():
        if not path.exists():
            raise errors.UserError(
                str(path),
                got="nothing there",
                expected="the samples of an earlier run",
                remedy="begin in another --output_dir",
            )
    order = [*_SETS, *(name for name in found if name not in _SETS)]
    return {name: found[name] for name in order if name in found}


def _medians(numbers: Mapping[str, Any]) -> str:
    """How each set scatters, beside how real data does: Markdown."""
    names = list(
        dict.fromkeys(n for found in numbers.values() for n in found["median"])
    )
    lines = [["samples", *(n.replace("_", " ") for n in names)]]
    lines.append(["---"] * len(lines[0]))
    for name, found in numbers.items():
        values = [found["median"].get(n) for n in names]
        lines.append([name, *("" if v is None else f"{v:.3f}" for v in values)])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


if __name__ == "__main__":
    cli.run(
        main,
        usage=_USAGE,
        groups=GROUPS,
        values=_FLAGS,
        resumes=lambda: True,
    )
