"""Many models, many settings, one command: a grid of runs of dsg_tf.quantize.

  python -m dsg_tf.batch --models=a.keras,b.keras --weight_bits=4,8 \\
      --seed=0,1,2 --output_dir=out

Exit codes: 0 all runs are done, 1 the user can mend it, 2 some runs failed or
are below --min_agreement, 130 interrupted; the same command goes on.
"""

from __future__ import annotations

import contextlib
import functools
import pathlib
import signal
from collections.abc import Iterator, Sequence

from absl import flags, logging

from dsg_tf import (
    batch_flags,
    batch_plan,
    cli,
    errors,
    files,
    fingerprints,
    folder_lock,
    local_runner,
    run_record,
    run_table,
    schedule,
)
from dsg_tf import config as config_lib

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


def _check() -> pathlib.Path:
    """The output folder, absolute; what can be said at once is said here."""
    cli.require(_FLAGS, "output_dir")
    if not _FLAGS.models and not _FLAGS.export:
        raise errors.UserError(
            "--models",
            got="nothing",
            expected="models to run, or --export",
            remedy="--help lists all flags",
        )
    if _FLAGS.saved_model:
        raise errors.UserError(
            "--saved_model",
            got=repr(_FLAGS.saved_model),
            expected="--models; --saved_model is for flagfiles of models",
        )
    batch_flags.check_axes(_FLAGS)
    config_lib.PipelineConfig(min_agreement=_FLAGS.min_agreement)
    if _FLAGS.export:
        run_table.check(_FLAGS.export)
    return pathlib.Path(_FLAGS.output_dir).absolute()


def _make_folder(folder: pathlib.Path) -> None:
    try:
        (folder / batch_plan.SAMPLES).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.UserError(
            "--output_dir",
            got=f"{folder} ({error.strerror})",
            expected="a folder that can be written to",
        ) from error
    files.check_place(folder, subject="--output_dir")


def _runs(
    folder: pathlib.Path, rows: Sequence[run_record.Row] = ()
) -> list[schedule.Run]:
    """The runs of the grid, in the folders that the record has them in."""
    return batch_plan.runs(
        _FLAGS,
        folder,
        # Where a run failed, another of that name may take its place.
        taken={row.folder: row.key for row in rows if row.status == "done"},
        fingerprint=_fingerprint,
    )


# Models and images are read once a process.
_fingerprint = functools.cache(fingerprints.of_path)


def _planned(
    folder: pathlib.Path, rows: Sequence[run_record.Row]
) -> schedule.Plan:
    """What to do, given the rows of the record."""
    return schedule.plan(
        _runs(folder, rows),
        {row.key: row for row in rows},
        rerun_failed=_FLAGS.rerun_failed,
        exists=lambda path: (folder / path).exists(),
    )


def _tell(planned: schedule.Plan) -> None:
    logging.info(
        "%d runs to do, %d done before",
        len(planned.todo),
        len(planned.done),
    )
    if planned.failed:
        logging.warning(
            "%d runs failed before and are not run again: --rerun_failed"
            " takes them up",
            len(planned.failed),
        )


def _run(folder: pathlib.Path) -> int:
    """Runs the grid; returns the exit code."""
    # Once without a folder: what is wrong leaves nothing behind.
    _runs(folder)
    if _FLAGS.dry_run:
        return _dry_run(folder)
    _make_folder(folder)
    with folder_lock.hold(folder) as lock:
        record = run_record.RunRecord(folder)
        for row in record.rows():
            if row.status == "running":  # Of a driver that is dead.
                record.delete(row.key)
        planned = _planned(folder, record.rows())
        _tell(planned)
        workers = local_runner.LocalRunner(_FLAGS.jobs, keep_open=[lock])
        driver = schedule.Driver(folder, record, workers)
        failed = driver.drive(planned.todo, skipped=len(planned.done))
        asked = {run.key for run in (*planned.todo, *planned.done)}
        rows = [row for row in record.rows() if row.key in asked]
        record.close()
    below = _below(rows, _FLAGS.min_agreement)
    for row in below:
        logging.error(
            "%s: agreement %.3f is below --min_agreement %g",
            row.folder,
            row.metrics["agreement"],
            _FLAGS.min_agreement,
        )
    if failed or planned.failed:
        logging.error(
            "%d runs failed now, %d before; their log.txt says why",
            failed,
            len(planned.failed),
        )
    return 2 if failed or planned.failed or below else 0


def _below(
    rows: Sequence[run_record.Row], least: float
) -> list[run_record.Row]:
    """Runs that are done, but whose agreement with float is too low."""
    return [
        row
        for row in rows
        if row.status == "done" and row.metrics.get("agreement", 1.0) < least
    ]


def _dry_run(folder: pathlib.Path) -> int:
    rows: list[run_record.Row] = []
    if (folder / run_record.NAME).exists():
        rows = run_record.RunRecord(folder, create=False).rows()
    planned = _planned(folder, rows)
    for status, runs in (
        ("to do", planned.todo),
        ("done", planned.done),
        ("failed", planned.failed),
    ):
        for run in runs:
            print(f"{status:6} {run.folder}")
    return 0


def _export(folder: pathlib.Path) -> None:
    record = run_record.RunRecord(folder, create=False)
    target = pathlib.Path(_FLAGS.export)
    files.write_atomically(target, run_table.render(record.rows(), str(target)))
    record.close()
    logging.info("table: %s", target)


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM, as clusters and service managers send it, ends as Ctrl-C."""

    def interrupt(*_) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def main() -> int:
    """Does what the flags ask for; returns the exit code."""
    folder = _check()
    logging.set_verbosity(max(logging.get_verbosity(), logging.INFO))
    code = 0
    if _FLAGS.models:
        with _terminated_like_interrupted():
            code = _run(folder)
    if _FLAGS.export and not _FLAGS.dry_run:
        _export(folder)
    return code


if __name__ == "__main__":
    cli.run(main, usage=_USAGE, groups=batch_flags.GROUPS, values=_FLAGS)
