"""The command line, as far as it runs nothing: errors, plans, tables."""

from __future__ import annotations

import os
import pathlib
import re
import signal
import sqlite3
import time

import command_lines
import pytest

from dsg_tf.batch import __main__ as batch
from dsg_tf.batch import run_record, schedule


def _main(*argv: str) -> int:
    """Exit code of the command line, run in this process."""
    try:
        return command_lines.run(batch, *argv)
    finally:
        batch._fingerprint.cache_clear()


@pytest.fixture
def here(tmp_path, monkeypatch) -> pathlib.Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.keras").write_text("a model, to those who do not look")
    return tmp_path


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ((), "--output_dir: got nothing"),
        (("--output_dir=out",), "--models: got nothing"),
        (("--output_dir=out", "--export=x.md"), "--models first"),
        (("--output_dir=out", "--export=x.xls"), "--export: got 'x.xls'"),
        (("--output_dir=out", "--models=absent"), "--models: got 'absent'"),
        (
            ("--output_dir=out", "--models=net.keras", "--weight_bits=4,9"),
            "--weight_bits: got 9",
        ),
        (
            ("--output_dir=out", "--models=net.keras", "--weight_bits=4,x"),
            "--weight_bits: got 'x'",
        ),
        (
            ("--output_dir=out", "--models=net.keras", "--method=gan"),
            "--method: got 'gan'; expected .*dsg.*, real$",
        ),
        (
            ("--output_dir=out", "--models=net.keras", "--min_agreement=90"),
            "--min_agreement: got 90",
        ),
        (
            ("--output_dir=net.keras", "--models=net.keras"),
            "--output_dir: got .*net.keras",
        ),
        (
            ("--output_dir=out", "--models=net.keras", "--saved_model=net"),
            "--saved_model: got 'net'",
        ),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_file(here, capfd, argv, words):
    assert _main(*argv) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1, err
    assert err.startswith("error: ")
    assert [p.name for p in here.iterdir()] == ["net.keras"]
    assert re.search(words, err), err


@pytest.mark.parametrize("folder", ["net.keras", "net.keras/out/zoo"])
def test_dry_run_refuses_a_folder_as_the_run_would(here, capfd, folder):
    argv = (f"--output_dir={folder}", "--models=net.keras")
    lines = []
    for more in ([], ["--dry_run"]):
        assert _main(*argv, *more) == 1
        lines.append(capfd.readouterr())
    assert lines[0] == lines[1]
    assert "--output_dir: got" in lines[1].err
    assert "net.keras (Not a directory)" in lines[1].err


def test_dry_run_says_what_would_run_and_writes_nothing(here, capfd):
    argv = ("--output_dir=out", "--models=net.keras", "--weight_bits=4,8")
    assert _main(*argv, "--dry_run") == 0
    lines = capfd.readouterr().out.splitlines()
    # Weights of 4 bits need more samples than those of 8.
    assert lines[1::2] == [
        "to do  net/dsg/W4A8/seed0",
        "to do  net/dsg/W8A8/seed0",
    ]
    assert all(line.startswith("to do  samples/") for line in lines[::2])
    assert len(set(lines)) == len(lines) == 4
    assert not (here / "out").exists()


@pytest.fixture
def record(here) -> run_record.RunRecord:
    (here / "out").mkdir()
    record = run_record.RunRecord(here / "out")
    record.put(
        run_record.Row(
            "k",
            "float",
            "net/float",
            "done",
            {"model": "net", "label": "float"},
            {"top1_percent": 91.5},
            None,
            "here",
            run_record.now(),
        )
    )
    return record


def _done(driver, todo, *, skipped):
    """As `Driver.drive`, without running anything."""
    del skipped
    for run in todo:
        driver._record.put(
            run_record.Row(
                run.key,
                run.kind,
                run.folder,
                "done",
                {},
                {"agreement": 0.8} if run.kind == "quantize" else {},
                None,
                "here",
                run_record.now(),
            )
        )
    return []


@pytest.mark.parametrize(("least", "code"), [("0.8", 0), ("0.81", 2)])
def test_agreement_is_judged_of_what_is_done(
    here, monkeypatch, caplog, least, code
):
    monkeypatch.setattr(schedule.Driver, "drive", _done)
    argv = ("--output_dir=out", "--models=net.keras")
    assert _main(*argv, f"--min_agreement={least}") == code
    told = [m for m in caplog.messages if "--min_agreement" in m]
    assert told == code // 2 * [
        "net/dsg/W8A8/seed0: agreement 0.800 is below --min_agreement 0.81"
    ]


def _judged(folder: str, **metrics) -> run_record.Row:
    now = run_record.now()
    return run_record.Row(
        folder, "quantize", folder, "done", {}, metrics, None, "here", now
    )


_DOUBTFUL = _judged(
    "dead",
    agreement=1.0,
    sqnr_mean_db=3.0,
    doubts=2,
    doubt_texts=["constant", "3.0 dB"],
    low_sqnr=["3.0 dB"],
)


def test_doubtful_runs_are_below_whatever_they_agree():
    rows = [_judged("old", agreement=0.5), _DOUBTFUL]
    assert batch._below(rows, 0.0, None) == [
        "dead: doubtful: constant",
        "dead: doubtful: 3.0 dB",
    ]


@pytest.mark.parametrize(
    ("least", "last"),
    [(2.0, []), (4.0, ["dead: SQNR 3.0 dB is below --min_sqnr_db 4"])],
)
def test_threshold_of_a_batch_takes_the_place_of_the_runs_own(least, last):
    assert batch._below([_DOUBTFUL], 0.0, least) == [
        "dead: doubtful: constant",
        *last,
    ]


def _planned_run(key: str, kind: str, *needs: str) -> schedule.Run:
    return schedule.Run(key, kind, f"net/{key}", {}, key, [], needs=needs)


_FLOAT = _planned_run("f", "float")
_SAMPLES = _planned_run("s", "samples")
_MODELS = [_planned_run(key, "quantize", "s") for key in "abc"]
_EVALUATIONS = [_planned_run(f"e{key}", "evaluate", key, "f") for key in "abc"]


def test_models_and_their_evaluations_are_counted_and_samples_are_not(caplog):
    caplog.set_level("INFO", logger="absl")
    batch._tell(
        schedule.Plan(
            todo=(_SAMPLES, _MODELS[0], _FLOAT, *_EVALUATIONS[:2]),
            done=(_MODELS[1],),
            failed=(),
        )
    )
    batch._tell(schedule.Plan(todo=(_SAMPLES, *_MODELS), done=(), failed=()))
    batch._tell(
        schedule.Plan(todo=(), done=(_FLOAT,), failed=(_SAMPLES, *_MODELS))
    )
    assert caplog.messages == [
        "to quantize: 1 to do, 1 done before; to evaluate: 3 to do, 0 done"
        " before",
        "to quantize: 3 to do, 0 done before",
        "to quantize: 0 to do, 0 done before, 3 failed before; to evaluate: 0"
        " to do, 1 done before, 0 failed before (--rerun_failed takes up what"
        " failed)",
    ]


def test_evaluations_that_had_no_model_do_not_count_as_failed(caplog):
    now = (_SAMPLES, _MODELS[0], _EVALUATIONS[0], _EVALUATIONS[1])
    batch._tell_failed(now, (_MODELS[2], _EVALUATIONS[2]))
    batch._tell_failed(_EVALUATIONS[:1], ())
    assert caplog.messages == [
        "failed: to quantize: 1 now, 1 before; to evaluate: 1 now, 0 before;"
        " the log.txt of each says why",
        "failed: to evaluate: 1 now, 0 before; the log.txt of each says why",
    ]


@pytest.mark.parametrize("kind", ["quantize", "evaluate"])
def test_whatever_fails_gives_the_exit_code(here, monkeypatch, kind):
    def drive(driver, todo, *, skipped):
        del driver, todo, skipped
        return [_planned_run("x", kind)]

    monkeypatch.setattr(schedule.Driver, "drive", drive)
    assert _main("--output_dir=out", "--models=net.keras") == 2


@pytest.mark.parametrize("name", ["runs.csv", "runs.md", "runs.jsonl"])
def test_export_writes_the_record_alone(here, record, name):
    assert _main("--output_dir=out", f"--export={name}") == 0
    assert "91.5" in (here / name).read_text()
    assert not list(here.glob("**/*.tmp"))
    assert sorted(p.name for p in (here / "out").iterdir()) == ["runs.sqlite"]


def test_record_of_another_version_is_one_line(here, record, capfd):
    record.close()
    database = sqlite3.connect(here / "out/runs.sqlite")
    database.execute("PRAGMA user_version = 9")
    database.close()
    for argv in (("--export=x.md",), ("--models=net.keras",)):
        assert _main("--output_dir=out", *argv) == 1
        err = capfd.readouterr().err
        assert len(err.splitlines()) == 1, err
        expected = f"expected version {run_record.SCHEMA_VERSION}"
        assert f"a record of version 9; {expected}" in err


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "terminated"),
        (signal.SIGHUP, 143, "terminated"),
    ],
)
def test_signals_end_a_batch_and_leave_no_handler(
    here, monkeypatch, capfd, number, code, word
):
    def stopped(values, folder):
        del values, folder
        os.kill(os.getpid(), number)
        time.sleep(10)

    monkeypatch.setattr(batch, "_run", stopped)
    before = signal.getsignal(number)
    assert _main("--output_dir=out", "--models=net.keras") == code
    assert capfd.readouterr().err.startswith(word)
    assert signal.getsignal(number) is before
