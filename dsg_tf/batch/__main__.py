"""Many models, many settings, one command: a grid of runs of dsg_tf.quantize.

  python -m dsg_tf.batch --models=a.keras,b.keras --weight_bits=4,8 \\
      --seed=0,1,2 --output_dir=out

Exit codes: 0 all runs are done, 1 the user can mend it, 2 some runs failed, are
doubtful or below --min_agreement or --min_sqnr_db, 70 a defect of dsg_tf, 130
interrupted and 143 terminated; the same command goes on.
"""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Sequence

from absl import flags, logging

from dsg_tf.batch import (
    batch_flags,
    batch_models,
    batch_plan,
    local_runner,
    run_record,
    run_table,
    schedule,
)
from dsg_tf.command_line import cli, quantize_flags
from dsg_tf.config import run_config
from dsg_tf.core import (
    disk_space,
    errors,
    files,
    fingerprints,
    folder_lock,
    stages,
)

_USAGE = """
Runs a grid of dsg_tf.quantize: models x methods x widths x seeds x ...

  python -m dsg_tf.batch --models=a.keras,b.keras --weight_bits=4,8 \\
      --seed=0,1,2 --output_dir=out [--eval_data=val.npz] [flags]
  python -m dsg_tf.batch --flagfile=zoo.flags --output_dir=out
  python -m dsg_tf.batch --output_dir=out --export=runs.md

What is done is skipped when the command is given again.
"""

_FLAGS = flags.FlagValues()
batch_flags.define(_FLAGS)


def _check(values: flags.FlagValues) -> pathlib.Path:
    """The output folder, absolute; what can be said at once is said here."""
    cli.require(values, "output_dir")
    if not values.models and not values.export:
        raise errors.UserError(
            "--models",
            got="nothing",
            expected="models to run, or --export",
            remedy="--help lists all flags",
        )
    if values.saved_model:
        raise errors.UserError(
            "--saved_model",
            got=repr(values.saved_model),
            expected="--models; --saved_model is for flagfiles of models",
        )
    batch_flags.check_axes(values)
    with quantize_flags.naming_flags():
        run_config.PipelineConfig(
            min_agreement=values.min_agreement, min_sqnr_db=values.min_sqnr_db
        )
    if values.export:
        run_table.check(
            values.export, batch_models.inputs(values) if values.models else {}
        )
    return pathlib.Path(values.output_dir).absolute()


def _check_folder(folder: pathlib.Path) -> None:
    """Refuses an output folder that cannot be written to, or made."""
    places = (folder, *folder.parents)
    there = next(place for place in places if os.path.exists(place))
    files.check_place(there, subject="--output_dir")


def _make_folder(folder: pathlib.Path) -> None:
    try:
        (folder / batch_models.SAMPLES).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.UserError(
            "--output_dir",
            got=f"{folder} ({error.strerror})",
            expected="a writable folder",
        ) from error


def _runs(
    values: flags.FlagValues,
    folder: pathlib.Path,
    rows: Sequence[run_record.Row],
) -> list[schedule.Run]:
    """The runs of the grid, in the folders that the record has them in."""
    return batch_plan.runs(
        values,
        folder,
        # Where a run failed, another of that name may take its place.
        taken={row.folder: row.key for row in rows if row.status == "done"},
        fingerprint=_fingerprint,
    )


def _check_grid(values: flags.FlagValues, folder: pathlib.Path) -> None:
    """Refuses what `_runs` would, before there is a record."""
    batch_plan.runs(
        values,
        folder,
        taken={},
        fingerprint=_fingerprint,
        tell=lambda text: None,  # `_runs` tells.
    )


# Models and images are read once a process.
_fingerprint = functools.cache(fingerprints.of_path)


def _planned(
    values: flags.FlagValues,
    folder: pathlib.Path,
    rows: Sequence[run_record.Row],
) -> schedule.Plan:
    """What to do, given the rows of the record."""
    return schedule.plan(
        _runs(values, folder, rows),
        {row.key: row for row in rows},
        rerun_failed=values.rerun_failed,
        exists=lambda path: (folder / path).exists(),
    )


# What is counted: samples are means to these.
_COUNTED = {"to quantize": ("quantize",), "to evaluate": schedule.EVALUATIONS}


def _counts(**parts: Sequence[schedule.Run]) -> str:
    """How many there are of each kind that is counted, in each part.

    Example: `to quantize: 3 to do, 2 done before; to evaluate: 5 to do, ...`
    """
    texts = []
    for what, kinds in _COUNTED.items():
        counts = {
            name.replace("_", " "): sum(run.kind in kinds for run in runs)
            for name, runs in parts.items()
        }
        if any(counts.values()):
            numbers = ", ".join(f"{n} {name}" for name, n in counts.items())
            texts.append(f"{what}: {numbers}")
    return "; ".join(texts)


def _tell(planned: schedule.Plan) -> None:
    failed = {"failed_before": planned.failed} if planned.failed else {}
    text = _counts(to_do=planned.todo, done_before=planned.done, **failed)
    if failed:
        logging.warning("%s (--rerun_failed takes up what failed)", text)
    else:
        logging.info("%s", text)


def _tell_failed(
    now: Sequence[schedule.Run], before: Sequence[schedule.Run]
) -> None:
    """Says how many models failed, and evaluations of models that did not."""
    lost = {run.key for run in (*now, *before) if run.kind == "quantize"}

    def own(runs: Sequence[schedule.Run]) -> list[schedule.Run]:
        return [run for run in runs if lost.isdisjoint(run.needs)]

    logging.error(
        "failed: %s; the log.txt of each says why",
        _counts(now=own(now), before=own(before)),
    )


def _run(values: flags.FlagValues, folder: pathlib.Path) -> int:
    """Runs the grid; returns the exit code."""
    # Once without a folder: what is wrong leaves nothing behind.
    _check_folder(folder)
    with stages.within("plan"):
        _check_grid(values, folder)
    if values.dry_run:
        return _dry_run(values, folder)
    _make_folder(folder)
    with folder_lock.hold(folder) as lock, disk_space.reported(folder):
        record = run_record.RunRecord(folder)
        for row in record.rows():
            if row.status == "running":  # Of a driver that is dead.
                record.delete(row.key)
        planned = _planned(values, folder, record.rows())
        _tell(planned)
        workers = local_runner.LocalRunner(values.jobs, keep_open=[lock])
        driver = schedule.Driver(folder, record, workers)
        with stages.within("runs"):
            failed = driver.drive(planned.todo, skipped=len(planned.done))
        asked = {run.key for run in (*planned.todo, *planned.done)}
        rows = [row for row in record.rows() if row.key in asked]
        record.close()
    below = _below(rows, values.min_agreement, values.min_sqnr_db)
    for text in below:
        logging.error("%s", text)
    if failed or planned.failed:
        _tell_failed(failed, planned.failed)
    return 2 if failed or planned.failed or below else 0


def _below(
    rows: Sequence[run_record.Row],
    min_agreement: float,
    min_sqnr_db: float | None,
) -> list[str]:
    """What is held against runs that are done, a line for each reason.

    Low signal to noise is a doubt of the run, unless the batch has a threshold
    of its own.
    """
    lines = []
    for row in rows:
        if row.status != "done":
            continue
        told = row.metrics.get("doubt_texts", [])
        if min_sqnr_db is not None:
            low = row.metrics.get("low_sqnr", ())
            told = [t for t in told if t not in low]
        lines += [f"{row.folder}: doubtful: {text}" for text in told]
        if row.metrics.get("agreement", 1.0) < min_agreement:
            lines.append(
                f"{row.folder}: agreement {row.metrics['agreement']:.3f} is"
                f" below --min_agreement {min_agreement:g}"
            )
        ratio = row.metrics.get("sqnr_mean_db")
        if None not in (ratio, min_sqnr_db) and ratio < min_sqnr_db:
            lines.append(
                f"{row.folder}: SQNR {ratio:.1f} dB is below --min_sqnr_db"
                f" {min_sqnr_db:g}"
            )
    return lines


def _dry_run(values: flags.FlagValues, folder: pathlib.Path) -> int:
    rows: list[run_record.Row] = []
    if (folder / run_record.NAME).exists():
        rows = run_record.RunRecord(folder, create=False).rows()
    planned = _planned(values, folder, rows)
    for status, runs in (
        ("to do", planned.todo),
        ("done", planned.done),
        ("failed", planned.failed),
    ):
        for run in runs:
            print(f"{status:6} {run.folder}")
    return 0


def _export(values: flags.FlagValues, folder: pathlib.Path) -> None:
    record = run_record.RunRecord(folder, create=False)
    target = files.resolved(values.export, subject="--export")
    text = run_table.render(record.rows(), values.export)
    files.write_atomically(target, text, tell=True)
    record.close()
    logging.info("table: %s", target)


def main(values: flags.FlagValues = _FLAGS) -> int:
    """Does what the flags ask for; returns the exit code.

    Args:
      values: parsed flags of `batch_flags.define`; by default the command's.
    """
    folder = _check(values)
    logging.set_verbosity(max(logging.get_verbosity(), logging.INFO))
    code = 0
    if values.models:
        stages.set_folder(folder)
        code = _run(values, folder)
    if values.export and not values.dry_run:
        with stages.within("export"):
            _export(values, folder)
    return code


if __name__ == "__main__":
    cli.run(
        main,
        usage=_USAGE,
        groups=batch_flags.GROUPS,
        values=_FLAGS,
        resumes=lambda: True,
    )
