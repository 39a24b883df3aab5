"""Tasks as processes: order, failures, limits, and an end."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import time

import pytest

from dsg_tf.batch import local_runner, runner
from dsg_tf.core import endings, lifeline

# Modules of Python's library, which start in no time.
_GOOD = ("timeit", "-n1", "-r1", "print('good', flush=True)")
_BAD = ("timeit", "-n1", "-r1", "raise ValueError('bad news')")
_LONG = (
    "timeit",
    "-n1",
    "-r1",
    "-s",
    "import time",
    "print('long', flush=True); time.sleep(60)",
)


def _task(folder, key: str, *commands) -> runner.Task:
    return runner.Task(key, commands, str(folder / f"{key}.txt"))


def _collect(workers: local_runner.LocalRunner) -> list[runner.Outcome]:
    return workers.collect(60)


def test_commands_run_in_order_into_one_log(tmp_path):
    workers = local_runner.LocalRunner(1)
    workers.submit(_task(tmp_path, "two", _GOOD, _GOOD))
    (outcome,) = _collect(workers)
    assert (outcome.key, outcome.error) == ("two", None)
    # A Python process takes some megabytes; kilobytes would be another unit.
    assert 2**22 < outcome.peak_bytes < 2**33
    log = (tmp_path / "two.txt").read_text()
    assert log.count("python -m timeit") == log.count("\ngood\n") == 2


def test_failure_ends_a_task_and_says_its_last_line(tmp_path):
    workers = local_runner.LocalRunner(2)
    workers.submit(_task(tmp_path, "bad", _BAD, _GOOD))
    workers.submit(_task(tmp_path, "good", _GOOD))
    outcomes = _collect(workers)
    while len(outcomes) < 2:
        outcomes += _collect(workers)
    errors = {outcome.key: outcome.error for outcome in outcomes}
    assert errors == {"bad": "ValueError: bad news", "good": None}
    assert "\ngood\n" not in (tmp_path / "bad.txt").read_text()


def test_exit_codes_that_are_good_are_no_failure(tmp_path):
    two = ("json.tool", "--no-such-flag")  # Exit code 2.
    tasks = [
        _task(tmp_path, "bad", two),
        dataclasses.replace(_task(tmp_path, "good", two), good=(0, 2)),
    ]
    errors = {}
    for task in tasks:
        workers = local_runner.LocalRunner(1)
        workers.submit(task)
        errors |= {o.key: o.error for o in _collect(workers)}
    assert errors["good"] is None
    assert errors["bad"]


def test_no_more_tasks_than_jobs_are_free(tmp_path):
    workers = local_runner.LocalRunner(2)
    workers.submit(_task(tmp_path, "one", _LONG))
    assert workers.free() == 1
    assert workers.collect(0.1) == []
    workers.stop()
    assert workers.free() == 2


def test_stop_ends_what_runs_and_it_is_gone(tmp_path, monkeypatch):
    started = []
    real = subprocess.Popen

    def start(*args, **kwargs):
        started.append(real(*args, **kwargs))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    workers = local_runner.LocalRunner(1)
    workers.submit(_task(tmp_path, "long", _LONG))
    deadline = time.monotonic() + 20
    while "\nlong" not in (tmp_path / "long.txt").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    before = time.monotonic()
    workers.stop()
    assert time.monotonic() - before < 5  # SIGTERM did, within its grace.
    assert started[0].returncode == -signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(started[0].pid, 0)


def test_killed_worker_is_told_by_its_signal(tmp_path):
    log = tmp_path / "log.txt"
    log.write_text("")
    line = local_runner.error_line(-signal.SIGKILL, log)
    assert line == "killed by SIGKILL, out of memory?"
    # Those for real time have no name.
    line = local_runner.error_line(-signal.SIGRTMIN - 3, log)
    assert line == f"killed by signal {signal.SIGRTMIN + 3}"


def test_worker_with_a_defect_keeps_the_traceback_in_its_log():
    values = local_runner.environment(1, 8, {})
    assert values[endings.ENVIRONMENT] == "1"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("I1124 hello\nerror: --seed: got -1\nI1124 bye\n", "--seed: got -1"),
        ("table\nagreement 0.5 is below\n\n", "agreement 0.5 is below"),
        ("", "exit code 2"),
    ],
)
def test_error_is_the_line_that_tells(tmp_path, text, line):
    log = tmp_path / "log.txt"
    log.write_text(text)
    assert local_runner.error_line(2, log) == line


def test_one_job_keeps_the_threads_that_it_would_have_alone():
    values = local_runner.environment(1, 8, {"PATH": "/bin"})
    assert "OMP_NUM_THREADS" not in values
    assert values["PATH"] == "/bin"
    assert values[lifeline.ENVIRONMENT]


def test_jobs_share_the_cores():
    for jobs, cores, threads in ((2, 8, "4"), (3, 8, "2"), (8, 2, "1")):
        values = local_runner.environment(jobs, cores, {})
        for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
            assert values[name] == threads


def test_jobs_that_may_not_fit_into_memory_are_warned_of():
    assert "--jobs=8" in local_runner.memory_note(8, 8 << 30)
    assert local_runner.memory_note(2, 8 << 30) == ""
    assert local_runner.memory_note(100, 0) == ""
