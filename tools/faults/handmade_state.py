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


def records() -> Iterator[cases.Case]:
    """Files in the place of runs.sqlite."""
    path = f"{originals.RECORD}/runs.sqlite"

    def sql(text: str) -> given.Setup:
        def setup(bench: cases.Bench) -> None:
            database = sqlite3.connect(bench.work / path)
            database.executescript(text)
            database.close()

        return setup

    def content(change: Callable[[bytes], bytes]) -> given.Setup:
        def setup(bench: cases.Bench) -> None:
            file = bench.work / path
            file.write_bytes(change(file.read_bytes()))

        return setup

    def journal(bench: cases.Bench) -> None:
        name = bench.work / f"{path}-journal"
        name.write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + b"\xff" * 600)

    def folder(bench: cases.Bench) -> None:
        (bench.work / path).unlink()
        (bench.work / path).mkdir()

    for name, setup in {
        "half": content(lambda c: c[: len(c) // 2]),
        "page": content(lambda c: c[:4096]),
        "header": content(lambda c: c[:100]),
        "three": content(lambda c: c[:3]),
        "empty": content(lambda c: b""),
        "text": content(lambda c: b"no database\n" * 50),
        "folder": folder,
        "journal": journal,
        "version": sql("PRAGMA user_version = 99"),
        "no_table": sql("DROP TABLE runs"),
        "other_table": sql("DROP TABLE runs; CREATE TABLE runs (a, b);"),
        "view": sql(
            "ALTER TABLE runs RENAME TO r; CREATE VIEW runs AS SELECT 1;"
        ),
        "locked": sql("PRAGMA journal_mode = WAL"),
        "nulls": sql(
            "PRAGMA writable_schema = 1; UPDATE sqlite_master SET sql = 'x';"
        ),
    }.items():
        for more in (
            ("--export=out.md",),
            (f"--models={originals.KERAS}", "--dry_run"),
        ):
            yield given.case(
                f"record-{name}-{'export' if len(more) == 1 else 'plan'}",
                "runs.sqlite",
                "batch",
                [f"--output_dir={originals.RECORD}", *more],
                copies=(originals.RECORD, originals.KERAS),
                setup=setup,
                own=("out", f"{originals.RECORD}/.lock", f"{path}-"),
            )


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
