"""One process holds a folder; the lock dies with it and its workers."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from dsg_tf import errors, folder_lock

_ROOT = pathlib.Path(__file__).absolute().parent.parent
# Holds the folder and starts a worker that has the descriptor too.
_HOLDER = """
import pathlib, subprocess, sys, time
from dsg_tf import folder_lock
with folder_lock.hold(pathlib.Path(sys.argv[1])) as lock:
    worker = subprocess.Popen(["sleep", sys.argv[2]], pass_fds=[lock])
    print(worker.pid, flush=True)
    time.sleep(60)
"""


def _holder(folder, worker_seconds: float) -> tuple[subprocess.Popen, int]:
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(folder), str(worker_seconds)],
        stdout=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(_ROOT), *sys.path]),
        },
    )
    return process, int(process.stdout.readline())


def test_folder_is_free_again_afterwards(tmp_path):
    for _ in range(2):
        with folder_lock.hold(tmp_path):
            assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"
    assert (tmp_path / ".lock").read_text() == ""


def test_second_holder_is_refused_at_once(tmp_path):
    second = folder_lock.hold(tmp_path, patience_s=60)
    with folder_lock.hold(tmp_path):
        before = time.monotonic()
        with pytest.raises(errors.UserError, match=f"process {os.getpid()}"):
            second.__enter__()
        assert time.monotonic() - before < 5


def test_lock_of_a_killed_process_ends_with_its_last_worker(tmp_path):
    process, _ = _holder(tmp_path, worker_seconds=1.0)
    start = time.monotonic()
    process.send_signal(signal.SIGKILL)
    process.wait()
    with folder_lock.hold(tmp_path, patience_s=60):
        # The worker was started just before `start`: half is margin.
        assert time.monotonic() - start > 0.5


def test_worker_that_never_ends_is_reported(tmp_path):
    process, worker = _holder(tmp_path, worker_seconds=60)
    process.send_signal(signal.SIGKILL)
    process.wait()
    second = folder_lock.hold(tmp_path, patience_s=0.3)
    try:
        with pytest.raises(errors.UserError, match="another batch"):
            second.__enter__()
    finally:
        os.kill(worker, signal.SIGKILL)
