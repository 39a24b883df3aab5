"""Attempts to run code, or to write a file, by what a command is given.

Each leaves a file whose name says so where it succeeds. Whether it would
succeed is tried first, with the libraries' own loaders and no guard between: a
case that is said to fire there and does not is a fault of the case.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import shutil
from collections.abc import Callable, Collection, Sequence

from tools.faults import (
    attempts,
    cases,
    commands,
    hostile_calls,
    hostile_files,
    hostile_keras,
    hostile_loads,
    originals,
    plots,
    processes,
    verdict,
)

# Roads by which a model is loaded; a batch is slow, and tries some.
_ROADS = ("quantize", "evaluate")
_BATCHED = ("write_in_signature", "init_op", "h5_tfop_lambda", "lambda_keras")
_BATCH_LIMIT_S = 240.0


def all_cases() -> list[cases.Case]:
    """Every attempt to run code or to write a file."""
    made = []
    for plot in (
        *hostile_calls.PLOTS,
        *hostile_loads.PLOTS,
        *hostile_keras.PLOTS,
    ):
        for command in _ROADS:
            made.append(_case(f"{plot.name}-{command}", plot, command))
        if plot.name in _BATCHED:
            made.append(_case(f"{plot.name}-batch", plot, "batch"))
    for plot in hostile_files.PLOTS:
        made.append(_case(plot.name, plot, plot.command))
    return made


def _case(name: str, plot: plots.Plot, command: str) -> cases.Case:
    return cases.Case(
        f"hostile/{name}", f"hostile: {plot.kind}", _Attack(plot, command)
    )


@dataclasses.dataclass(frozen=True)
class _Attack:
    """Prepares a plot, sees that it fires unguarded, and runs the command."""

    plot: plots.Plot
    command: str

    def __call__(self, bench: cases.Bench) -> Sequence[str]:
        limit = attempts.LIMIT_S
        allowed: Collection[int] = (0, 1, 2)
        own: tuple[str, ...] = ("out", *self.plot.own)
        if self.command == "batch":
            limit = _BATCH_LIMIT_S
        attempt = attempts.Attempt(
            self.command,
            lambda bench: _flags(self.plot, self.command, bench),
            own=own,
            allowed=allowed,
            limit_s=limit,
            check=commands.check_or_nothing,
        )
        findings = []
        if self.plot.unguarded is not None:
            argv = attempt.prepared(bench)
            if not _fires(self.plot.unguarded, bench):
                findings.append("harness: it does not fire unguarded")
            return findings + attempt.run(bench, argv)
        return attempt(bench)


def _flags(plot: plots.Plot, command: str, bench: cases.Bench) -> Sequence[str]:
    sentinel = str(bench.folder / f"{verdict.SENTINEL}")
    given = plot.prepare(bench, sentinel)
    if not isinstance(given, str):
        return given
    if command == "batch":
        flags, _ = commands.with_images("batch", originals.IMAGES)
        originals.copy(bench, originals.IMAGES)
        return [
            f"--models=net={given}",
            *(f for f in flags if f.startswith("--eval_data")),
            *commands.BATCH,
            "--output_dir=out",
        ]
    flags, needed = commands.with_model(command, given)
    originals.copy(bench, *needed)
    return flags


def _fires(
    unguarded: Callable[[pathlib.Path], None], bench: cases.Bench
) -> bool:
    """Whether the plot succeeds with nothing in its way; cleans up after it."""
    # Some of them end the process that loads them, or are refused at last.
    with contextlib.suppress(RuntimeError):
        processes.call(lambda: unguarded(bench.work), bench.folder)
    found = [
        path
        for path in bench.folder.rglob("*")
        if verdict.SENTINEL in path.name
    ]
    for path in found:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return bool(found)
