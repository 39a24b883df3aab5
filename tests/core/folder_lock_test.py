"""One process holds a folder; the lock dies with it and its workers."""

from __future__ import annotations

import errno
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import small_disks

from dsg_tf.core import errors, folder_lock

_ROOT = pathlib.Path(__file__).absolute().parent.parent.parent
# Holds the folder and starts a worker that has the descriptor too.
_HOLDER = """
import pathlib, subprocess, sys, time
from dsg_tf.core import folder_lock
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


def test_a_lock_that_stays_not_is_gone_afterwards(tmp_path):
    for _ in range(2):
        with folder_lock.hold(tmp_path, purpose=folder_lock.RUN):
            assert (tmp_path / ".lock").exists()
        assert list(tmp_path.iterdir()) == []


def test_a_lock_that_was_deleted_under_a_waiting_one_is_taken_anew(tmp_path):
    """Otherwise two would hold it: one the old file and one the new."""
    opened = folder_lock._open

    def delete_once(path):
        descriptor = opened(path)
        if not seen:
            seen.append(path)
            path.unlink()
        return descriptor

    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder_lock, "_open", delete_once)
        with folder_lock.hold(tmp_path):
            assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"
            second = folder_lock.hold(tmp_path)
            with pytest.raises(errors.UserError):
                second.__enter__()


@pytest.mark.parametrize("content", ["mine", "12\nmore", "-1", " 7"])
def test_a_file_that_is_no_lock_is_refused_and_stays(tmp_path, content):
    (tmp_path / ".lock").write_text(content)
    with pytest.raises(errors.UserError, match="no lock"):
        folder_lock.hold(tmp_path).__enter__()
    assert (tmp_path / ".lock").read_text() == content


@pytest.mark.parametrize("content", ["", "999999999\n", "0"])
def test_what_a_killed_process_left_is_no_hindrance(tmp_path, content):
    (tmp_path / ".lock").write_text(content)
    with folder_lock.hold(tmp_path):
        pass


def test_a_disk_without_locks_is_warned_of(tmp_path, monkeypatch, caplog):
    def none(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(folder_lock.fcntl, "flock", none)
    with folder_lock.hold(tmp_path):
        pass
    assert "no locks" in caplog.text


def test_a_full_disk_is_one_line(tmp_path):
    with small_disks.mounted(tmp_path / "disk", "16k") as disk:
        small_disks.fill(disk)
        with pytest.raises(errors.UserError, match="0 bytes free"):
            folder_lock.hold(disk).__enter__()


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
