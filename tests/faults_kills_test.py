"""What the kills of the faults tool compare, on folders planted so."""

from __future__ import annotations

import json
import shutil
import sqlite3

import pytest

from tools.faults import cases, kills


@pytest.fixture
def whole(tmp_path):
    folder = tmp_path / "whole"
    run = folder / "out.tflite.run"
    run.mkdir(parents=True)
    (folder / "out.tflite").write_bytes(b"TFL3")
    (run / "samples.npz").write_bytes(b"samples")
    (run / "report.json").write_text(
        json.dumps({"agreement": 1.0, "seconds": {"load": 1}, "output": "a"})
    )
    (folder / "log.txt").write_text("at one time\n")
    return folder


def _report(folder, **fields):
    path = folder / "out.tflite.run" / "report.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    ("plant", "sorts"),
    [
        (lambda p: None, []),
        (lambda p: (p / "log.txt").write_text("at another\n"), []),
        (lambda p: _report(p, seconds={"load": 9}, output="b"), []),
        (lambda p: _report(p, agreement=0.9), ["bytes"]),
        (lambda p: (p / "out.tflite").write_bytes(b"TFL4"), ["bytes"]),
        (lambda p: (p / "out.tflite").unlink(), ["missing"]),
        (lambda p: (p / "out.tflite.tmp").write_text("x"), ["left"]),
    ],
)
def test_all_but_times_and_places_has_to_be_alike(
    whole, tmp_path, plant, sorts
):
    found = tmp_path / "found"
    shutil.copytree(whole, found)
    plant(found)
    differences = list(kills.differences(whole, found))
    assert [text.partition(":")[0] for text in differences] == sorts


def _record(folder):
    database = sqlite3.connect(folder / "runs.sqlite")
    database.execute(
        "CREATE TABLE runs (key, kind, status, started, finished, artifact)"
    )
    with database:
        database.executemany(
            "INSERT INTO runs VALUES (?, 'quantize', 'done', 'a', 'b', ?)",
            [(f"key{i}", "x" * 500) for i in range(200)],
        )
    database.close()


def test_a_damaged_database_is_told(tmp_path):
    _record(tmp_path)
    assert kills._of_database(tmp_path) == []
    path = tmp_path / "runs.sqlite"
    content = bytearray(path.read_bytes())
    content[8192:8292] = b"\xff" * 100
    path.write_bytes(content)
    assert [t.partition(":")[0] for t in kills._of_database(tmp_path)] == [
        "database"
    ]


def test_a_run_that_was_made_again_has_another_row(tmp_path):
    _record(tmp_path)
    before = kills.rows(tmp_path)
    assert len(before) == 200
    database = sqlite3.connect(tmp_path / "runs.sqlite")
    with database:
        database.execute("UPDATE runs SET started = 'c' WHERE key = 'key7'")
    database.close()
    after = kills.rows(tmp_path)
    assert [k for k in before if before[k] != after[k]] == ["key7"]


def test_what_cases_share_is_made_once(tmp_path):
    made = []

    def make(bench, folder):
        made.append(bench.folder)
        (folder / "file").write_text("x")

    for name in ("a", "b"):
        bench = cases.Bench(tmp_path / name, tmp_path, cases.rng_of(0, name))
        folder = kills.shared(bench, "thing", make)
        assert (folder / "file").read_text() == "x"
    assert made == [tmp_path / "a"]
