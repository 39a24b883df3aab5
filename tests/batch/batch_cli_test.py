"""Batches as processes: grids, second starts, failures, being killed.

The example model, few samples, and settings that need no learning: most of the
time is TensorFlow's start.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import pathlib
import signal
import sqlite3
import subprocess
import sys
import time

import numpy as np
import pytest

from dsg_tf.batch import run_record
from tools import digits

_ROOT = pathlib.Path(__file__).absolute().parent.parent.parent
_MODEL = _ROOT / "examples/digits_saved_model"
_FEW = "--num_samples=2\n--batch_size=2\n--steps=2\n--verify_samples=2\n"
# Of a batch on a busy machine; an idle one takes a tenth.
_TIMEOUT_S = 600


def _start(*argv: str, cwd: pathlib.Path) -> subprocess.Popen:
    module = argv[0] if argv[0].startswith("dsg_tf.") else "dsg_tf.batch"
    return subprocess.Popen(
        [sys.executable, "-m", module, *argv[module == argv[0] :]],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(_ROOT), *sys.path]),
        },
    )


def _finish(process: subprocess.Popen) -> tuple[int, str]:
    try:
        _, err = process.communicate(timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()  # Its workers die with it.
        raise
    assert "Traceback" not in err, err
    return process.returncode, err


def _run(*argv: str, cwd: pathlib.Path) -> tuple[int, str]:
    return _finish(_start(*argv, cwd=cwd))


def _rows(folder: pathlib.Path) -> dict[str, run_record.Row]:
    record = run_record.RunRecord(folder, create=False)
    return {row.folder: row for row in record.rows()}


def _assert_none_failed(code: int, err: str) -> None:
    """Runs of so few samples and steps may be doubtful, but they are done."""
    assert code in (0, 2), err
    assert "failed: " not in err


# ---- one grid, looked at from many sides


@pytest.fixture(scope="module")
def zoo(tmp_path_factory) -> pathlib.Path:
    """A folder with a zoo of three, of which one is broken, and its flags."""
    folder = tmp_path_factory.mktemp("zoo")
    _, held_out = digits.load_split()
    images, labels = held_out.images[:50], held_out.labels[:50]
    np.savez(folder / "val.npz", images=images, labels=labels)
    np.savez(folder / "calibration.npz", images=held_out.images[50:60])
    (folder / "broken.keras").write_text("no model")
    (folder / "broken.flags").write_text(
        "--saved_model=broken.keras\n--eval_data=\n"
    )
    (folder / "real.flags").write_text(
        f"--saved_model={_MODEL}\n--method=real\n--activation_bits=8\n"
        "--calibration_data=calibration.npz\n--eval_data=\n"
    )
    (folder / "zoo.flags").write_text(
        f"--models=digits={_MODEL},broken.flags,real.flags\n{_FEW}"
        "--recipe=fast\n--activation_bits=8,16\n--eval_data=val.npz\n"
        "--jobs=2\n"
    )
    return folder


_BATCH = ("--flagfile=zoo.flags", "--output_dir=out")


@pytest.fixture(scope="module")
def first(zoo) -> tuple[int, str]:
    """Exit code and log of the first start."""
    return _run(*_BATCH, "--export=runs.csv", cwd=zoo)


def test_failing_model_does_not_stop_the_others(zoo, first):
    code, err = first
    assert code == 2
    rows = _rows(zoo / "out")
    status = {
        folder: row.status
        for folder, row in rows.items()
        if row.kind in ("float", "quantize")
    }
    name = "num_samples2-steps2-fast"
    assert status == {
        "digits/float": "done",
        f"digits/dsg/W8A8-{name}/seed0": "done",
        f"digits/dsg/W8A16-{name}/seed0": "done",
        "real/real/W8A8-num_samples2-fast/seed0": "done",
        f"broken/dsg/W8A8-{name}/seed0": "failed",
        f"broken/dsg/W8A16-{name}/seed0": "failed",
    }
    assert "broken.keras" in rows[f"broken/dsg/W8A8-{name}/seed0"].error
    assert "failed: to quantize: 2 now, 0 before; the log.txt" in err
    for row in rows.values():
        assert "\n" not in (row.error or "")
        assert row.finished is not None


def test_widths_share_samples_and_each_has_its_numbers(zoo, first):
    rows = _rows(zoo / "out")
    made = [
        row
        for row in rows.values()
        if row.kind == "samples" and row.status == "done"
    ]
    assert len(made) == 2  # Of digits, for both widths; and the real ones.
    quantized = [
        row
        for row in rows.values()
        if row.kind == "quantize" and row.config["model"] == "digits"
    ]
    shared = {str(zoo / "out" / row.artifact) for row in made}
    for row in quantized:
        folder = zoo / "out" / row.folder
        report = json.loads(
            (folder / "model.tflite.run/report.json").read_text()
        )
        # As if it had made them itself.
        assert report["config"]["samples"] in shared
        assert report["samples"] == {"calibration": 2, "verified": 2}
        assert report["rounds"]
        assert report["cover_behind_last_batch_norm"].startswith("labels of")
        assert not (folder / "model.tflite.run/samples.npz").exists()
        evaluated = rows[f"{row.folder}/evaluation"].metrics
        assert evaluated["float_top1_percent"] >= 90
        assert evaluated["top1_percent"] >= 50
        assert 0 <= evaluated["same_class_percent"] <= 100
        artifact = zoo / "out" / row.artifact
        assert row.metrics["size_bytes"] == artifact.stat().st_size
        assert row.metrics["stage_seconds"]["export"] > 0
        assert row.metrics["sqnr_db"] > 0
    (one,) = {
        flag
        for row in quantized
        for flag in (zoo / "out" / row.folder / "run.flags")
        .read_text()
        .splitlines()
        if flag.startswith("--samples=")
    }
    assert one.removeprefix("--samples=") in shared


def test_real_images_calibrate(zoo, first):
    rows = _rows(zoo / "out")
    row = rows["real/real/W8A8-num_samples2-fast/seed0"]
    report = json.loads(
        (zoo / "out" / (row.artifact + ".run") / "report.json").read_text()
    )
    # Of ten images: as many calibrate as were asked for.
    assert report["samples"] == {"calibration": 2, "verified": 1}
    # Its flagfile has no eval_data.
    assert f"{row.folder}/evaluation" not in rows


def test_export_has_a_line_a_run(zoo, first):
    with (zoo / "runs.csv").open() as file:
        lines = {line["folder"]: line for line in csv.DictReader(file)}
    assert len(lines) == 6
    assert lines["digits/float"]["top1_percent"]
    assert lines["broken/dsg/W8A16-num_samples2-steps2-fast/seed0"]["error"]


def test_flagfile_of_a_run_replays_to_the_same_bytes(zoo, first, tmp_path):
    folder = zoo / "out/digits/dsg/W8A8-num_samples2-steps2-fast/seed0"
    # One thread a worker, of two cores or fewer; see its log.
    threads = (folder / "log.txt").read_text().split(" python ")[0]
    process = subprocess.run(
        [
            "env",
            *threads.removeprefix("$ ").split(),
            sys.executable,
            "-m",
            "dsg_tf.quantize",
            f"--flagfile={folder / 'run.flags'}",
            f"--output={tmp_path / 'replayed.tflite'}",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
    )
    # Two samples and two steps: the result may well be doubtful.
    assert process.returncode in (0, 2), process.stderr
    replayed = (tmp_path / "replayed.tflite").read_bytes()
    assert replayed == (folder / "model.tflite").read_bytes()


def test_second_start_runs_nothing_and_says_what_failed(zoo, first):
    before = _rows(zoo / "out")
    code, err = _run(*_BATCH, cwd=zoo)
    assert code == 2
    assert "to quantize: 0 to do, 3 done before, 2 failed before; " in err
    assert "to evaluate: 0 to do, 3 done before, 0 failed before" in err
    assert "--rerun_failed" in err
    assert _rows(zoo / "out") == before


def test_failed_runs_are_taken_up_when_asked_to(zoo, first):
    before = _rows(zoo / "out")
    code, err = _run(*_BATCH, "--rerun_failed", cwd=zoo)
    assert code == 2
    assert "to quantize: 2 to do, 3 done before; " in err
    after = _rows(zoo / "out")
    for folder, row in after.items():
        again = row.config.get("model") == "broken"
        assert (row.started > before[folder].started) == again, folder
    # Without the broken one, all is well.
    code, err = _run(*_BATCH, f"--models=digits={_MODEL}", cwd=zoo)
    _assert_none_failed(code, err)
    assert "to quantize: 0 to do, 2 done before; " in err


def test_more_data_is_evaluated_and_nothing_quantized_anew(zoo, first):
    before = _rows(zoo / "out")
    _, held_out = digits.load_split()
    images, labels = held_out.images[:20], held_out.labels[:20]
    np.savez(zoo / "more.npz", images=images, labels=labels)
    code, err = _run(
        *_BATCH,
        f"--models=digits={_MODEL}",
        "--activation_bits=8",
        "--eval_data=more.npz",
        "--export=more.csv",
        cwd=zoo,
    )
    _assert_none_failed(code, err)
    assert "to quantize: 0 to do, 1 done before; to evaluate: 2 to do" in err
    after = _rows(zoo / "out")
    assert before.items() <= after.items()
    assert {row.kind for row in after.values() if row.folder not in before} == {
        "float",
        "evaluate",
    }
    folder = "digits/dsg/W8A8-num_samples2-steps2-fast/seed0"
    with (zoo / "more.csv").open() as file:
        lines = [x for x in csv.DictReader(file) if x["folder"] == folder]
    assert [line["data"] for line in lines] == ["val.npz", "more.npz"]
    assert all(line["top1_percent"] for line in lines)


# ---- being stopped


def _batches(journal: pathlib.Path) -> int:
    try:
        return len(json.loads(journal.read_text())["done"])
    except (OSError, ValueError):
        return 0


def _wait_for_batches(process, folder: pathlib.Path, *, after: int) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while True:
        (journal, *_) = [
            *folder.glob("samples/*/samples.parts/journal.json")
        ] or [folder / "none"]
        if _batches(journal) > after:
            return
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _workers(folder: pathlib.Path) -> list[int]:
    """Processes whose command line names a folder, by pid."""
    found = []
    for entry in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if f"--flagfile={folder}/".encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
    return found


def test_stopped_batches_leave_no_worker_and_the_next_goes_on(tmp_path):
    out = tmp_path / "out"
    argv = (
        f"--models=digits={_MODEL}",
        f"--output_dir={out}",
        "--num_samples=94",
        "--batch_size=2",
        "--steps=30",
        "--verify_samples=2",
        "--recipe=fast",
    )

    # SIGTERM, as a cluster sends it.
    process = _start(*argv, cwd=tmp_path)
    _wait_for_batches(process, out, after=0)
    process.send_signal(signal.SIGTERM)
    code, err = _finish(process)
    assert code == 143
    assert err.splitlines()[-1] == (
        "terminated in stage 'runs'; the same command goes on from there"
    )
    assert _workers(out) == []
    assert _rows(out) == {}
    (journal,) = out.glob("samples/*/samples.parts/journal.json")
    done = _batches(journal)

    # Ctrl-C; and while it runs, a second driver is refused.
    process = _start(*argv, cwd=tmp_path)
    _wait_for_batches(process, out, after=done)
    assert [row.status for row in _rows(out).values()] == ["running"]
    code, err = _run(*argv, cwd=tmp_path)
    assert code == 1
    assert f"another batch is at work in (process {process.pid})" in err
    assert len(err.splitlines()) == 1
    process.send_signal(signal.SIGINT)
    code, err = _finish(process)
    assert code == 130
    assert err.splitlines()[-1].startswith("interrupted")
    assert _workers(out) == []
    assert _rows(out) == {}
    (journal,) = out.glob("samples/*/samples.parts/journal.json")
    done = _batches(journal)
    assert 0 < done < 48

    # kill -9: the worker dies with its driver, the row stays.
    process = _start(*argv, cwd=tmp_path)
    _wait_for_batches(process, out, after=done)
    assert len(_workers(out)) == 1
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [row.status for row in _rows(out).values()] == ["running"]
    deadline = time.monotonic() + 20
    while _workers(out):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    again = _batches(journal)
    assert done < again < 48

    # The next start takes the row up, and goes on where the samples were.
    code, err = _run(*argv, cwd=tmp_path)
    _assert_none_failed(code, err)
    rows = _rows(out)
    assert [row.status for row in rows.values()] == ["done", "done"]
    (samples,) = [row for row in rows.values() if row.kind == "samples"]
    log = (out / samples.folder / "log.txt").read_text()
    assert f"resuming: {again} of 48 batches" in log
    assert not list(out.glob("**/*.tmp"))
    database = sqlite3.connect(out / run_record.NAME)
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
