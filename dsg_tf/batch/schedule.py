"""Starts runs whose dependencies are done, and records their results.

A run is ready when the runs that it depends on are done. A run whose key is in
the record is not repeated: it is skipped if it is done, and if it has failed it
is repeated only on request.
"""

from __future__ import annotations

import dataclasses
import errno
import pathlib
import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import logging

from dsg_tf.batch import run_metrics, run_record, runner
from dsg_tf.core import files, progress

# Kinds of runs that give classes to real images.
EVALUATIONS = ("float", "evaluate")
# A disk, or a user's part of it.
_FULL = (errno.ENOSPC, errno.EDQUOT)
# Of dsg_tf.quantize: done, and done with a doubtful result, which the batch
# counts by itself.
_GOOD = {"quantize": (0, 2)}
# Seconds between looks at the runner, which bounds how late a bar moves.
_POLL_S = 1.0


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a batch; paths are below the output folder.

    Attributes:
      key, kind, folder, config: see `run_record.Row`.
      artifact: what it makes.
      commands: see `runner.Task`.
      flagfile: text of `run.flags` in its folder.
      needs: keys of runs that must be done before.
      floats: folder of the float model's evaluation.
    """

    key: str
    kind: str
    folder: str
    config: Mapping[str, Any]
    artifact: str
    commands: Sequence[Sequence[str]]
    flagfile: str = ""
    needs: tuple[str, ...] = ()
    floats: str = ""

    @property
    def told(self) -> str:
        """What was asked for, as a user would say it; without its seed."""
        told = (self.config.get(n) for n in ("model", "method", "label"))
        return "/".join(str(part) for part in told if part)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What there is to do, given what the record knows.

    Attributes:
      todo: in the order in which they start.
      done: runs of the grid that are done already.
      failed: runs that have failed before and are not taken up again.
    """

    todo: tuple[Run, ...]
    done: tuple[Run, ...]
    failed: tuple[Run, ...]


def plan(
    runs: Sequence[Run],
    rows: Mapping[str, run_record.Row],
    *,
    rerun_failed: bool,
    exists: Callable[[str], bool],
) -> Plan:
    """Sorts runs by what the record says of them.

    Args:
      runs: all that are asked for; what a run needs stands before it.
      rows: the record, by key.
      rerun_failed: take up what has failed.
      exists: whether a path below the output folder is there. What is gone is
        made again; samples, where a run needs them.
    """
    status = {key: row.status for key, row in rows.items()}

    def is_done(run: Run) -> bool:
        return status.get(run.key) == "done" and exists(run.artifact)

    def has_failed(run: Run) -> bool:
        return status.get(run.key) == "failed" and not rerun_failed

    needed = {
        key
        for run in runs
        if not is_done(run) and not has_failed(run)
        for key in run.needs
    }
    # Samples that serve nobody now need not be there.
    wanted = [run for run in runs if run.kind != "samples" or run.key in needed]
    return Plan(
        todo=tuple(r for r in wanted if not is_done(r) and not has_failed(r)),
        done=tuple(r for r in wanted if is_done(r)),
        failed=tuple(r for r in wanted if has_failed(r)),
    )


class Driver:
    """Drives runs through a runner, into a record.

    Args:
      output_dir: the output folder.
      record: of it.
      workers: where the runs run.
    """

    def __init__(
        self,
        output_dir: pathlib.Path,
        record: run_record.RunRecord,
        workers: runner.Runner,
    ):
        self._folder = output_dir
        self._record = record
        self._workers = workers
        self._under_way: dict[str, tuple[Run, run_record.Row]] = {}
        self._before: dict[str, tuple | None] = {}
        self._rows = {row.key: row for row in record.rows()}

    def drive(self, todo: Sequence[Run], *, skipped: int = 0) -> list[Run]:
        """Runs everything, in order, as soon as it is ready.

        Args:
          todo: what to run; what a run needs is done, or stands before it.
          skipped: runs that are done already, for the count.

        Returns:
          The runs that failed.

        Raises:
          KeyboardInterrupt: as it came; what was under way can be resumed.
        """
        waiting = list(todo)
        failed: list[Run] = []
        try:
            with progress.task(
                "batch", len(todo) + skipped, unit="steps"
            ) as stage:
                stage.skip(skipped)
                while waiting or self._under_way:
                    waiting, hopeless = self._submit(waiting)
                    outcomes = self._workers.collect(_POLL_S)
                    failed += hopeless
                    failed += filter(None, map(self._end, outcomes))
                    for _ in range(len(outcomes) + len(hopeless)):
                        stage.advance(1)
        finally:
            # Nothing is under way, unless this is on the way out.
            self._workers.stop()
            for key in self._under_way:
                self._record.delete(key)
        return failed

    def _submit(self, waiting: Sequence[Run]) -> tuple[list[Run], list[Run]]:
        """Starts what can start; returns what waits on, and what failed.

        A run without what it needs fails at once.
        """
        still: list[Run] = []
        hopeless: list[Run] = []
        ahead = {run.key for run in waiting} | set(self._under_way)
        for run in waiting:
            open_needs = [key for key in run.needs if key in ahead]
            broken = [
                self._rows[key]
                for key in run.needs
                if key not in ahead and self._rows[key].status == "failed"
            ]
            if broken:
                self._fail(run, broken[0])
                ahead.discard(run.key)
                hopeless.append(run)
            elif open_needs or not self._workers.free():
                still.append(run)
            elif self._start(run) is not None:
                ahead.discard(run.key)
                hopeless.append(run)
        return still, hopeless

    def _start(self, run: Run) -> Run | None:
        """Starts a run; returns it if not even that could be done."""
        row = run_record.Row(
            run.key,
            run.kind,
            run.folder,
            "running",
            run.config,
            {},
            run.artifact,
            platform.node(),
            run_record.now(),
        )
        self._record.put(row)
        self._under_way[run.key] = (run, row)
        try:
            self._submit_one(run)
        except OSError as error:
            if error.errno in _FULL:  # So it would be for every other run.
                raise
            line = f"{error.filename or run.folder}: {error.strerror}"
            return self._end(runner.Outcome(run.key, line, 0.0, 0))
        return None

    def _submit_one(self, run: Run) -> None:
        """Lays out what a run needs, and hands it to the workers."""
        folder = self._folder / run.folder
        folder.mkdir(parents=True, exist_ok=True)
        if run.kind in EVALUATIONS:  # One before says nothing of this one.
            (self._folder / run.artifact).unlink(missing_ok=True)
        if run.flagfile:
            files.write_atomically(folder / "run.flags", run.flagfile)
        self._before[run.key] = _mark(self._result(run))
        self._workers.submit(
            runner.Task(
                run.key,
                run.commands,
                str(folder / "log.txt"),
                _GOOD.get(run.kind, (0,)),
            )
        )

    def _fail(self, run: Run, cause: run_record.Row) -> None:
        moment = run_record.now()
        self._put(
            run_record.Row(
                run.key,
                run.kind,
                run.folder,
                "failed",
                run.config,
                {},
                None,
                platform.node(),
                moment,
                moment,
                f"{cause.folder}: {cause.error}",
            )
        )

    def _end(self, outcome: runner.Outcome) -> Run | None:
        """Records an outcome; returns the run if it failed."""
        run, row = self._under_way[outcome.key]
        metrics, fault = self._metrics(run)
        metrics |= {"peak_bytes": outcome.peak_bytes}
        metrics["seconds"] = round(outcome.seconds, 2)
        # A process can end well and have done nothing.
        error = outcome.error or fault
        self._put(
            dataclasses.replace(
                row,
                status="failed" if error else "done",
                metrics=metrics,
                host=outcome.details.get("host", row.host),
                finished=run_record.now(),
                error=error,
            )
        )
        del self._under_way[outcome.key]
        return run if error else None

    def _result(self, run: Run) -> pathlib.Path:
        """The last file that a run writes."""
        artifact = self._folder / run.artifact
        if run.kind == "quantize":
            return files.run_folder(artifact) / "report.json"
        return artifact

    def _metrics(self, run: Run) -> tuple[dict[str, Any], str | None]:
        """The numbers of a run, and what it lacks of one that is done."""
        result = self._result(run)
        mark = _mark(result)
        if mark is None or not (self._folder / run.artifact).exists():
            return {}, f"it ended without {run.artifact}"
        if run.kind == "samples":  # They may be those of an earlier start.
            return {}, None
        if mark == self._before.get(run.key):
            return {}, f"it ended without a new {result.name}"
        try:
            return self._numbers(run, run_metrics.read(result)), None
        except (
            *(ArithmeticError, AttributeError),
            *(LookupError, TypeError, ValueError),
        ) as error:
            kind = type(error).__name__
            return {}, f"it ended without a whole {result.name} ({kind})"

    def _numbers(self, run: Run, found: Any) -> dict[str, Any]:
        """What the record keeps of what a run's last file says."""
        if run.kind == "quantize":
            return run_metrics.of_report(found)
        floats = run.floats and run_metrics.read(
            self._folder / run.floats / run_metrics.EVALUATION
        )
        return run_metrics.of_evaluation(found, floats or None)

    def _put(self, row: run_record.Row) -> None:
        self._record.put(row)
        self._rows[row.key] = row
        logging.info("%s", describe(row))


def _mark(path: pathlib.Path) -> tuple | None:
    """What changes when a file is written anew; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def describe(row: run_record.Row) -> str:
    """A line for the log.

    Example: `done net/dsg/W4A8/seed0: top-1 91.3 % (float 91.5), 34 s`
    """
    if row.status == "failed":
        return f"failed {row.folder}: {row.error}"
    facts = []
    if "top1_percent" in row.metrics:
        fact = f"top-1 {row.metrics['top1_percent']:.2f} %"
        if "float_top1_percent" in row.metrics:
            fact += f" (float {row.metrics['float_top1_percent']:.2f})"
        facts.append(fact)
    if "agreement" in row.metrics:
        facts.append(f"agreement {row.metrics['agreement']:.3f}")
    if row.metrics.get("doubts"):
        facts.append("doubtful")
    facts.append(f"{row.metrics['seconds']:.0f} s")
    return f"{row.status} {row.folder}: {', '.join(facts)}"
