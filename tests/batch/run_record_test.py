"""The record: whole rows or none, and only of the version it knows."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import signal
import sqlite3
import subprocess
import sys

import numpy as np
import pytest
import small_disks

from dsg_tf.batch import run_record
from dsg_tf.core import errors

# The config of a row of any kind.
_OF_DATA = {"data": "images.npz", "data_key": "0123", "quantized": "k"}
_ROOT = pathlib.Path(__file__).absolute().parent.parent.parent


def _row(key: str = "k", **changes) -> run_record.Row:
    row = run_record.Row(
        key=key,
        kind="quantize",
        folder=f"net/{key}",
        status="running",
        config={"weight_bits": 4, "data": {"mean": [0.5]}},
        metrics={},
        artifact=f"net/{key}/model.tflite",
        host="here",
        started=run_record.now(),
    )
    return dataclasses.replace(row, **changes)


def test_row_comes_back_as_it_was_and_is_replaced_by_its_key(tmp_path):
    record = run_record.RunRecord(tmp_path)
    row = _row()
    record.put(row)
    assert record.rows() == [row]
    done = dataclasses.replace(
        row,
        status="done",
        metrics={"top1_percent": 91.25, "stage_seconds": {"load": 1.5}},
        finished=run_record.now(),
    )
    record.put(done)
    record.put(_row("other"))
    record.close()
    again = run_record.RunRecord(tmp_path, create=False)
    assert again.rows() == [
        done,
        _row("other", started=again.rows()[1].started),
    ]


def test_folder_belongs_to_the_run_that_came_last(tmp_path):
    record = run_record.RunRecord(tmp_path)
    record.put(_row("old", folder="net/seed0", status="failed"))
    record.put(_row("new", folder="net/seed0"))
    assert [row.key for row in record.rows()] == ["new"]


def test_deleted_row_is_gone(tmp_path):
    record = run_record.RunRecord(tmp_path)
    record.put(_row(status="running"))
    record.delete("k")
    assert record.rows() == []


@pytest.mark.parametrize("status", ["done", "failed"])
def test_what_has_come_to_an_end_is_not_forgotten(tmp_path, status):
    record = run_record.RunRecord(tmp_path)
    record.put(_row(status=status))
    record.delete("k")
    assert [row.status for row in record.rows()] == [status]


@pytest.mark.parametrize("kind", ["samples", "float", "quantize", "evaluate"])
def test_every_kind_has_its_place(tmp_path, kind):
    record = run_record.RunRecord(tmp_path)
    record.put(_row(kind=kind, config=_OF_DATA))
    assert [row.kind for row in record.rows()] == [kind]


@pytest.mark.parametrize(
    "changes",
    [{"status": "finished"}, {"kind": "int8"}, {"host": None}, {"error": b"x"}],
)
def test_table_is_strict(tmp_path, changes):
    record = run_record.RunRecord(tmp_path)
    record.put(_row())
    with pytest.raises(sqlite3.IntegrityError):
        record.put(_row(**changes))
    # Nothing of it is left, and the record goes on.
    record.put(_row("other"))
    assert [row.status for row in record.rows()] == ["running"] * 2


def test_file_of_another_version_is_refused(tmp_path):
    run_record.RunRecord(tmp_path).close()
    database = sqlite3.connect(tmp_path / run_record.NAME)
    database.execute("PRAGMA user_version = 7")
    database.close()
    with pytest.raises(errors.UserError, match=r"version 7; expected.*2"):
        run_record.RunRecord(tmp_path)


def test_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / run_record.NAME
    path.write_text("no database " * 100)
    with pytest.raises(errors.UserError, match="unreadable"):
        run_record.RunRecord(tmp_path)
    path.unlink()
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE theirs (x)")
    database.close()
    with pytest.raises(errors.UserError, match="version 0"):
        run_record.RunRecord(tmp_path)


def _refused(folder: pathlib.Path, words: str, *, write: bool = False) -> None:
    """Opening, or reading and writing, is one line; the file stays as it is."""
    path = folder / run_record.NAME
    before = path.read_bytes() if path.is_file() else None

    def use(create: bool) -> None:
        record = run_record.RunRecord(folder, create=create)
        record.rows()
        if write:
            record.put(_row("another"))

    for create in (True, False):
        with pytest.raises(errors.UserError, match=words) as raised:
            use(create)
        assert len(str(raised.value).splitlines()) == 1
    if before is not None:
        assert path.read_bytes() == before


def _filled(folder: pathlib.Path) -> pathlib.Path:
    record = run_record.RunRecord(folder)
    for index in range(50):
        record.put(_row(f"k{index:02}", metrics={"x": "y" * 500}))
    record.close()
    return folder / run_record.NAME


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_truncated_file_is_refused_and_kept(tmp_path, share):
    path = _filled(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    _refused(tmp_path, "runs.sqlite: got .*; expected")


@pytest.mark.parametrize("seed", range(4))
def test_random_bytes_are_refused_and_kept(tmp_path, seed):
    path = _filled(tmp_path)
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    # The first seed leaves nothing, the others the head of the file.
    start = 0 if seed == 0 else 100
    content[start:] = rng.bytes(len(content) - start)
    path.write_bytes(bytes(content))
    _refused(tmp_path, "runs.sqlite: got .*; expected")


def test_damage_of_any_page_is_found_when_the_record_is_opened(tmp_path):
    path = _filled(tmp_path)
    content = path.read_bytes()
    size = int.from_bytes(content[16:18], "big")
    noise = np.random.default_rng(0).bytes(size)
    for start in range(size, len(content), size):
        path.write_bytes(content[:start] + noise + content[start + size :])
        with pytest.raises(errors.UserError, match=r"runs\.sqlite: got"):
            run_record.RunRecord(tmp_path)


def test_what_is_no_file_is_refused(tmp_path):
    path = tmp_path / run_record.NAME
    path.mkdir()
    _refused(tmp_path, "runs.sqlite: got")
    assert path.is_dir()
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(errors.UserError, match="a pipe"):
        run_record.RunRecord(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE runs DROP COLUMN host",
        "ALTER TABLE runs RENAME TO walks",
        """UPDATE runs SET config = '[]'""",
        """UPDATE runs SET metrics = '3'""",
    ],
)
def test_other_tables_and_rows_are_refused(tmp_path, change):
    database = sqlite3.connect(_filled(tmp_path))
    database.execute(change)
    database.commit()
    database.close()
    _refused(tmp_path, "runs.sqlite: got .*; expected")


@pytest.mark.parametrize("kind", ["EXCLUSIVE", "IMMEDIATE"])
def test_lock_of_another_program_is_one_line(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(run_record, "_PATIENCE_S", 0.1)
    other = sqlite3.connect(_filled(tmp_path), isolation_level=None)
    other.execute(f"BEGIN {kind}")
    # A program that only reserves to write lets others read.
    _refused(tmp_path, "another program has locked", write=True)
    other.execute("ROLLBACK")
    run_record.RunRecord(tmp_path).put(_row("another"))


def test_read_only_record_is_read_and_says_that_it_takes_nothing(
    tmp_path, monkeypatch
):
    path = _filled(tmp_path)
    real = sqlite3.connect
    # Root may write whatever is read-only, so the database says it.
    monkeypatch.setattr(
        sqlite3,
        "connect",
        lambda path, **options: real(
            f"file:{path}?mode=ro", uri=True, **options
        ),
    )
    record = run_record.RunRecord(tmp_path)
    assert len(record.rows()) == 50
    for act in (
        lambda: record.put(_row("another")),
        lambda: record.delete("k00"),
    ):
        with pytest.raises(
            errors.UserError, match=r"runs.sqlite: got a read-only disk"
        ):
            act()
    assert path.exists()


def test_journal_that_lies_about_harms_nothing(tmp_path):
    path = _filled(tmp_path)
    journal = path.with_name(path.name + "-journal")
    journal.write_bytes(np.random.default_rng(0).bytes(4096))
    record = run_record.RunRecord(tmp_path)
    assert len(record.rows()) == 50
    record.close()
    journal.unlink(missing_ok=True)
    journal.mkdir()
    with pytest.raises(errors.UserError, match=r"runs\.sqlite: got"):
        run_record.RunRecord(tmp_path).put(_row("another"))


def test_record_that_is_not_there_is_not_made_for_reading(tmp_path):
    with pytest.raises(errors.UserError, match="--models first"):
        run_record.RunRecord(tmp_path, create=False)
    assert list(tmp_path.iterdir()) == []


_WRITER = """
import dataclasses, sys
import run_record_test
from dsg_tf.batch import run_record
record = run_record.RunRecord(sys.argv[1])
row = run_record_test._row(metrics={"x": "y" * 20_000})
for n in range(10_000):
    record.put(dataclasses.replace(row, key=f"k{n:05}", folder=f"f{n:05}"))
    record.put(dataclasses.replace(
        row, key=f"k{n:05}", folder=f"f{n:05}", status="done"))
    print(n, flush=True)
"""


def test_killed_writer_leaves_every_row_that_it_had_put(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(
                [str(_ROOT), str(_ROOT / "tests"), *sys.path]
            ),
        },
    )
    for _ in range(20):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    rest, _ = process.communicate()
    said = 19 + len(rest.split())
    rows = run_record.RunRecord(tmp_path, create=False).rows()
    # The last row may have been put without having been told of.
    assert said <= len(rows) - 1 <= said + 1
    assert {row.status for row in rows[: said + 1]} == {"done"}
    database = sqlite3.connect(tmp_path / run_record.NAME)
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_full_disk_is_one_line_and_the_record_is_whole(tmp_path):
    with small_disks.mounted(tmp_path / "disk", "256k") as disk:
        record = run_record.RunRecord(disk)
        record.put(_row("a", status="done"))
        small_disks.fill(disk)
        whole = _row("b", metrics={"text": "x" * 100_000})
        with pytest.raises(errors.UserError, match=r"bytes needed, .* free"):
            record.put(whole)
        with pytest.raises(errors.UserError, match=r"bytes needed, .* free"):
            record.put(_row("a", metrics={"text": "x" * 100_000}))
        assert [(r.key, r.status) for r in record.rows()] == [("a", "done")]
        (disk / "ballast").unlink()
        record.put(whole)
        assert [r.key for r in record.rows()] == ["a", "b"]
        record.close()


def test_a_record_on_a_full_disk_is_not_made(tmp_path):
    with small_disks.mounted(tmp_path / "disk", "64k") as disk:
        small_disks.fill(disk)
        with pytest.raises(errors.UserError, match=r"bytes needed, .* free"):
            run_record.RunRecord(disk)


def test_a_record_on_a_read_only_disk_is_one_line(tmp_path):
    with small_disks.mounted(tmp_path / "disk", "256k") as disk:
        record = run_record.RunRecord(disk)
        record.put(_row("a", status="done"))
        record.close()
        small_disks.read_only(disk)
        record = run_record.RunRecord(disk, create=False)
        assert [r.key for r in record.rows()] == ["a"]
        with pytest.raises(errors.UserError, match="read-only"):
            record.put(_row("b"))
        record.close()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"kind": "evaluate", "config": {**_OF_DATA, "quantized": [1]}},
            "quantized that is no text",
        ),
        (
            {"kind": "float", "config": {"data": "a", "data_key": {}}},
            "data_key that is no text",
        ),
        ({"config": {"label": 8}}, "label that is no text"),
        ({"metrics": {"agreement": "high"}}, "agreement that is no number"),
        ({"metrics": {"seconds": [1]}}, "seconds that is no number"),
        ({"metrics": {"stage_seconds": [1]}}, "stage_seconds that is no JSON"),
        ({"metrics": {"stage_seconds": {"load": {}}}}, "load that is no"),
        ({"metrics": {"low_sqnr": "low"}}, "low_sqnr that is no list"),
        ({"metrics": {"doubt_texts": [1]}}, "doubt_texts that is no list"),
    ],
)
def test_row_that_holds_what_no_run_has_written_is_one_line(
    tmp_path, changes, told
):
    record = run_record.RunRecord(tmp_path)
    record.put(_row(**changes))
    with pytest.raises(errors.UserError) as caught:
        record.rows()
    assert told in str(caught.value)
    assert "net/k" in str(caught.value)
