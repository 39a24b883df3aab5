"""What lies where a record, or the state of a killed run, should lie."""

from __future__ import annotations

import os
import pathlib
import sqlite3
from collections.abc import Callable, Iterator

from tools.faults import (
    cases,
    given,
    json_mutators,
    originals,
)

_RECORD = f"{originals.RECORD}/runs.sqlite"


def records() -> Iterator[cases.Case]:
    """Files in the place of runs.sqlite."""
    uses = {
        "export": ("--export=out.md",),
        "plan": (f"--models={originals.KERAS}", "--dry_run"),
    }
    for name, setup in _RECORDS.items():
        for use, more in uses.items():
            yield given.case(
                f"record-{name}-{use}",
                "runs.sqlite",
                "batch",
                [f"--output_dir={originals.RECORD}", *more],
                copies=(originals.RECORD, originals.KERAS),
                setup=setup,
                own=("out", f"{originals.RECORD}/.lock", f"{_RECORD}-"),
            )


def _sql(text: str) -> given.Setup:
    def setup(bench: cases.Bench) -> None:
        database = sqlite3.connect(bench.work / _RECORD)
        database.executescript(text)
        database.close()

    return setup


def _content(change: Callable[[bytes], bytes]) -> given.Setup:
    def setup(bench: cases.Bench) -> None:
        file = bench.work / _RECORD
        file.write_bytes(change(file.read_bytes()))

    return setup


def _journal(bench: cases.Bench) -> None:
    """What SQLite would roll back, if it were a journal."""
    name = bench.work / f"{_RECORD}-journal"
    name.write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + b"\xff" * 600)


def _folder(bench: cases.Bench) -> None:
    (bench.work / _RECORD).unlink()
    (bench.work / _RECORD).mkdir()


_RECORDS = {
    "half": _content(lambda c: c[: len(c) // 2]),
    "page": _content(lambda c: c[:4096]),
    "header": _content(lambda c: c[:100]),
    "three": _content(lambda c: c[:3]),
    "empty": _content(lambda c: b""),
    "text": _content(lambda c: b"no database\n" * 50),
    "folder": _folder,
    "journal": _journal,
    "version": _sql("PRAGMA user_version = 99"),
    "no_table": _sql("DROP TABLE runs"),
    "other_table": _sql("DROP TABLE runs; CREATE TABLE runs (a, b);"),
    "view": _sql("ALTER TABLE runs RENAME TO r; CREATE VIEW runs AS SELECT 1;"),
    "locked": _sql("PRAGMA journal_mode = WAL"),
    "nulls": _sql(
        "PRAGMA writable_schema = 1; UPDATE sqlite_master SET sql = 'x';"
    ),
}


def states() -> Iterator[cases.Case]:
    """What may lie in the place of state that a killed run has left."""
    run = "out.tflite.run"
    journal, parts = f"{run}/samples.parts/journal.json", f"{run}/samples.parts"
    key = f"{run}/rounding.parts/key.txt"
    for name, path, make in (
        ("journal_folder", journal, lambda path: path.mkdir()),
        ("journal_text", journal, lambda path: path.write_bytes(b"\xff\xfe")),
        (
            "journal_deep",
            journal,
            lambda path: path.write_bytes(json_mutators.odd_texts()["deep"]),
        ),
        ("parts_file", parts, lambda path: path.write_text("x")),
        ("parts_pipe", f"{parts}/0.npy", os.mkfifo),
        ("pack_folder", f"{run}/samples.npz", lambda path: path.mkdir()),
        ("pack_pipe", f"{run}/samples.npz", os.mkfifo),
        ("pack_text", f"{run}/samples.npz", lambda path: path.write_text("x")),
        ("distances_folder", f"{run}/distances.csv", lambda path: path.mkdir()),
        ("report_folder", f"{run}/report.json", lambda path: path.mkdir()),
        (
            "rounding_file",
            f"{run}/rounding.parts",
            lambda path: path.write_text("x"),
        ),
        ("rounding_key", key, lambda path: path.write_bytes(b"\xff\xfe")),
        ("rounding_key_folder", key, lambda path: path.mkdir()),
    ):
        is_rounding = name.startswith("rounding")
        state = originals.LEARNED if is_rounding else originals.SYNTHESIS
        yield given.case(
            f"state-{name}",
            "resume state",
            "quantize",
            [f"--saved_model={originals.KERAS}", *state, "--output=out.tflite"],
            copies=(originals.KERAS,),
            setup=_in_place(path, make),
            allowed=(0, 1, 2),
        )


def _in_place(path: str, make: Callable[[pathlib.Path], object]) -> given.Setup:
    def setup(bench: cases.Bench) -> None:
        (bench.work / path).parent.mkdir(parents=True)
        make(bench.work / path)

    return setup
