"""What the faults tool calls wrong, on processes that are planted so."""

from __future__ import annotations

import os
import pathlib
import signal
import sys
import time

import numpy as np
import pytest

from tools.faults import cases, disks, processes, table, trial, trips, verdict

_ERROR = "error: --output: got a folder; expected a file's path\n"
_TRACEBACK = 'Traceback (most recent call last):\n  File "x"\nValueError: x\n'


def _ended(code, stderr="", **fields):
    return processes.Ended(code, stderr=stderr, **fields)


def _sorts(findings):
    return [finding.partition(":")[0] for finding in findings]


@pytest.mark.parametrize(
    ("ended", "sorts"),
    [
        (_ended(0), []),
        (_ended(2), []),
        (_ended(1, _ERROR), []),
        (_ended(1, "I1126 10:00 x.py:3] a log\n" + _ERROR), []),
        (_ended(1, _TRACEBACK), ["traceback"]),
        (_ended(0, stdout=_TRACEBACK), ["traceback"]),
        (_ended(1, _TRACEBACK + _ERROR), ["traceback"]),
        (_ended(1), ["line"]),
        (_ended(1, _ERROR + _ERROR), ["line"]),
        (_ended(1, _ERROR + "more\n"), ["line"]),
        (_ended(3), ["exit code"]),
        (_ended(70, _ERROR), ["unknown fault"]),
        (_ended(-11), ["crash"]),
        (
            _ended(-11, "Fatal Python error: Segmentation fault\n"),
            ["crash", "traceback"],
        ),
        (_ended(-9, stopped="time"), ["hang"]),
        (_ended(-9, stopped="memory"), ["memory"]),
        (_ended(0, orphans=1), ["orphan"]),
    ],
)
def test_every_way_to_end_badly_is_told(ended, sorts):
    assert _sorts(verdict.of_process(ended)) == sorts


def test_an_exit_code_may_be_wrong_for_the_case():
    assert _sorts(verdict.of_process(_ended(0), allowed=(1,))) == ["exit code"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "net.keras").write_bytes(b"model")
    (tmp_path / "data").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("plant", "code", "sorts"),
    [
        (lambda p: None, 1, []),
        (lambda p: (p / "out.tflite").write_text("x"), 0, []),
        (lambda p: (p / "out.tflite").write_text("x"), 1, ["left"]),
        (lambda p: (p / "out.tflite.run").mkdir(), 1, ["left"]),
        (lambda p: (p / "stray").write_text("x"), 0, ["left"]),
        (
            lambda p: (p / "net.keras").write_bytes(b"other"),
            0,
            ["input changed"],
        ),
        (lambda p: (p / "net.keras").unlink(), 0, ["input changed"]),
        (lambda p: (p / "data").rmdir(), 1, ["input changed"]),
        (lambda p: (p / "out-SENTINEL").write_text("x"), 0, ["sentinel"]),
        (lambda p: os.symlink("net.keras", p / "link"), 0, ["left"]),
    ],
)
def test_what_is_left_or_changed_is_told(folder, plant, code, sorts):
    before = verdict.snapshot(folder)
    plant(folder)
    after = verdict.snapshot(folder)
    found = verdict.of_files(before, after, code=code, own=("out",))
    assert _sorts(found) == sorts


def test_a_file_that_a_link_replaces_has_changed(folder):
    before = verdict.snapshot(folder)
    (folder / "net.keras").rename(folder / "data" / "net")
    os.symlink("data/net", folder / "net.keras")
    found = verdict.of_files(before, verdict.snapshot(folder), code=0)
    assert _sorts(found) == ["input changed", "left"]


def _child(tmp_path, body, limit_s=20.0):
    return processes.Child(body, tmp_path).wait(limit_s)


def test_a_child_tells_its_code_and_what_it_wrote(tmp_path):
    def body():
        print("said")
        print("cried", file=sys.stderr)
        return 7

    ended = _child(tmp_path, body)
    assert (ended.code, ended.stdout, ended.stderr) == (7, "said\n", "cried\n")
    assert not ended.stopped
    assert not ended.orphans


def test_a_child_that_raises_leaves_its_traceback(tmp_path):
    def body():
        raise ValueError("planted")

    ended = _child(tmp_path, body)
    assert _sorts(verdict.of_process(ended)) == ["traceback"]


def test_a_child_that_dies_or_hangs_is_told(tmp_path):
    died = _child(tmp_path, lambda: os.kill(os.getpid(), signal.SIGTERM) or 0)
    assert died.code == -signal.SIGTERM
    hung = _child(tmp_path, lambda: time.sleep(60) or 0, limit_s=0.3)
    assert (hung.stopped, hung.code) == ("time", -signal.SIGKILL)


def test_what_outlives_a_child_is_counted_and_ended(tmp_path):
    def body():
        pid = os.fork()
        if pid == 0:
            time.sleep(60)
            os._exit(0)
        pathlib.Path("pid").write_text(str(pid))
        return 0

    assert _child(tmp_path, body).orphans == 1
    pid = int((tmp_path / "work" / "pid").read_text())
    deadline = time.monotonic() + 10
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _runs(pid)


def _runs(pid):
    try:
        return ") Z " not in pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


@pytest.mark.parametrize("times", [1, 2])
def test_a_trip_acts_before_the_touch_that_it_is_told(tmp_path, times):
    def body():
        trips.at("*.txt", lambda: os._exit(42), times=times, event="open")
        for name in ("a.txt", "b.txt"):
            pathlib.Path(name).write_text("x")
        return 0

    assert _child(tmp_path, body).code == 42
    made = sorted(p.name for p in (tmp_path / "work").iterdir())
    assert made == ["a.txt"][: times - 1]


def test_a_full_disk_is_full(tmp_path):
    try:
        with disks.disk(tmp_path / "disk", 1 << 20):
            disks.fill(tmp_path / "disk", spare=8192)
            (tmp_path / "disk" / "small").write_bytes(bytes(4096))
            with pytest.raises(OSError, match="No space"):
                (tmp_path / "disk" / "large").write_bytes(bytes(65536))
    except cases.SkippedError as reason:
        pytest.skip(str(reason))
    assert not list((tmp_path / "disk").iterdir())


def _trial(tmp_path, *runs):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "originals").mkdir()
    tried = trial.Trial(tmp_path / "scratch", tmp_path / "originals", seed=0)
    chosen = [cases.Case(f"x/{i}", "x", run) for i, run in enumerate(runs)]
    return list(tried.run(chosen, 1))


def test_a_trial_tells_passed_failed_and_skipped(tmp_path):
    def skipped(bench):
        raise cases.SkippedError("no disk")

    def broken(bench):
        raise KeyError("planted")

    found = _trial(
        tmp_path, lambda b: [], lambda b: ["hang: x"], skipped, broken
    )
    assert [o.passed for o in found] == [True, False, False, False]
    assert found[2].skipped == "no disk"
    assert _sorts(found[3].findings) == ["harness"]
    text = table.markdown(found)
    assert "| x | 3 | 1 | 2 | 1 |" in text
    assert "| hang | 1 | x/1 |" in table.by_finding(found)
    assert not list((tmp_path / "scratch").iterdir())


def test_a_trial_tells_when_an_original_is_destroyed(tmp_path):
    def destroy(bench):
        (bench.originals / "left").write_text("x")
        return []

    *_, last = _trial(tmp_path, destroy)
    assert last.findings == ("input changed: an original",)


def test_numbers_of_cases_do_not_depend_on_the_seed():
    assert np.array_equal(
        cases.rng_of(3, "a").integers(9, size=4),
        cases.rng_of(3, "a").integers(9, size=4),
    )
