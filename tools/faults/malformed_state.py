"""Seeded damage to what earlier runs have left: records and state."""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Iterator, Sequence

from tools.faults import (
    attempts,
    byte_mutators,
    cases,
    commands,
    damage,
    originals,
)


def records() -> Iterator[cases.Case]:
    """Damage to runs.sqlite."""
    path = f"{originals.RECORD}/runs.sqlite"
    for index, how in attempts.in_turn(18, byte_mutators.NAMES):
        yield attempts.malformed(
            f"record-{how}-{index}",
            "runs.sqlite",
            on_record(damage.of_bytes(path, how), dry_run=index % 3 == 2),
        )
    for index, column in attempts.in_turn(
        12, ("config", "metrics", "artifact", "folder", "status", "kind")
    ):
        yield attempts.malformed(
            f"record-{column}-{index}",
            "runs.sqlite",
            on_record(damage.of_record(path, column), dry_run=index % 3 == 2),
        )


def on_record(harm: damage.Damage, *, dry_run: bool) -> attempts.Attempt:
    """A damaged record for an export, or for a plan."""

    def prepare(bench: cases.Bench) -> Sequence[str]:
        originals.copy(bench, originals.RECORD, originals.KERAS)
        harm(bench)
        flags = [f"--output_dir={originals.RECORD}"]
        if dry_run:
            return [*flags, f"--models={originals.KERAS}", "--dry_run"]
        return [*flags, "--export=out.csv"]

    return attempts.Attempt("batch", prepare, own=("out", "record/.lock"))


def states() -> Iterator[cases.Case]:
    """State that a killed run has left: a fault of the disk, not of a user."""
    synthesis, learned = originals.SYNTHESIS_RUN, originals.LEARNED_RUN
    parts = "out.tflite.run/samples.parts"
    finished = originals.FINISHED_RUN
    for index, how in attempts.in_turn(12, byte_mutators.NAMES):
        harm = damage.of_bytes(f"{parts}/journal.json", how)
        yield _state(f"journal-{how}-{index}", synthesis, harm)
    for index in range(9):
        yield _state(
            f"journal-json-{index}", synthesis, damage.of_journal(parts)
        )
    for index, how in attempts.in_turn(9, byte_mutators.NAMES, 1):
        harm = damage.of_bytes(f"{parts}/0.npy", how)
        yield _state(f"parts-{how}-{index}", synthesis, harm)
    for index, how in attempts.in_turn(12, byte_mutators.NAMES):
        harm = damage.of_bytes("out.tflite.run/samples.npz", how)
        yield _state(f"pack-{how}-{index}", finished, harm, same=True)
    for index, how in attempts.in_turn(9, byte_mutators.NAMES, 4):
        yield _state(
            f"rounding-{how}-{index}", learned, damage.of_layer(how), same=True
        )


def _state(
    name: str, run: str, harm: damage.Damage, *, same: bool = False
) -> cases.Case:
    """A run that finds damaged state, and has to come to an end.

    Args:
      name: of the case.
      run: the run that was killed.
      damage: what has become of its state.
      same: whether the damage can be told, so that the result must be that of
        a run that was never interrupted.
    """

    def prepare(bench: cases.Bench) -> Sequence[str]:
        originals.copy(bench, originals.SAVED_MODEL)
        shutil.copytree(
            bench.originals / originals.KILLED / run,
            bench.work,
            dirs_exist_ok=True,
        )
        harm(bench)
        whole = bench.originals / originals.WHOLE / run / commands.TFLITE
        os.symlink(whole, bench.folder / "whole")
        return [
            f"--saved_model={originals.SAVED_MODEL}",
            *originals.state_of(run),
            f"--output={commands.TFLITE}",
        ]

    attempt = attempts.Attempt(
        "quantize",
        prepare,
        allowed=(0, 2),
        check=_check_same if same else commands.check,
    )
    return attempts.malformed(f"state-{name}", "resume state", attempt)


def _check_same(work: pathlib.Path) -> Sequence[str]:
    if (work / commands.TFLITE).read_bytes() != (
        work.parent / "whole"
    ).read_bytes():
        return ["output: not that of a run without damaged state"]
    return commands.check(work)
