"""Runs of a batch as processes of this machine.

Every command is a separate process, so a crash or lack of memory does not
affect other runs. The processes end with the driver (`lifeline`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import platform
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import BinaryIO

from absl import logging

from dsg_tf.batch import runner
from dsg_tf.core import endings, lifeline, memory

# What one run takes at most on models of phones; README has measurements.
_RUN_BYTES = 2_000_000_000
_PAUSE_S = 0.05
# For a worker to write what it needs to resume, once it is interrupted.
_GRACE_S = 10.0
_TAIL_BYTES = 65_536
_LINE_CHARACTERS = 400
_THREADS = (
    "OMP_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)


@dataclasses.dataclass
class _Worker:
    task: runner.Task
    log: BinaryIO
    process: subprocess.Popen
    next_command: int = 1
    peak_bytes: int = 0
    start: float = dataclasses.field(default_factory=time.monotonic)


class LocalRunner:
    """A `runner.Runner` of at most `jobs` processes.

    Args:
      jobs: processes at a time; the cores are divided among them.
      keep_open: descriptors that live as long as any process does.
    """

    def __init__(self, jobs: int, *, keep_open: Sequence[int] = ()):
        self._jobs = jobs
        self._keep_open = tuple(keep_open)
        self._workers: list[_Worker] = []
        self._environment = environment(jobs, cores(), os.environ)
        note = memory_note(jobs, memory.total_bytes())
        if note:
            logging.warning("%s", note)

    def free(self) -> int:
        return self._jobs - len(self._workers)

    def submit(self, task: runner.Task) -> None:
        log = pathlib.Path(task.log).open("wb")  # noqa: SIM115
        process = self._start(task.commands[0], log)
        self._workers.append(_Worker(task, log, process))

    def collect(self, timeout_s: float) -> list[runner.Outcome]:
        deadline = time.monotonic() + timeout_s
        while True:
            ended = [
                outcome
                for worker in list(self._workers)
                if (outcome := self._advance(worker)) is not None
            ]
            if ended or not self._workers or time.monotonic() >= deadline:
                return ended
            time.sleep(_PAUSE_S)

    def stop(self) -> None:
        for worker in self._workers:
            # Not SIGINT: what a shell runs in the background ignores that.
            _send(worker.process, signal.SIGTERM)
        deadline = time.monotonic() + _GRACE_S
        for worker in self._workers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(max(deadline - time.monotonic(), 0.01))
            _send(worker.process, signal.SIGKILL)
            worker.process.wait()
            worker.process.stdin.close()
            worker.log.close()
        self._workers = []

    def _start(self, command: Sequence[str], log: BinaryIO) -> subprocess.Popen:
        # With the threads, on whose number the last bits may depend.
        threads = [
            f"{name}={self._environment[name]}"
            for name in _THREADS
            if name in self._environment
        ]
        words = [*threads, "python", "-m", *command]
        log.write(f"$ {shlex.join(words)}\n".encode())
        log.flush()
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            stdin=subprocess.PIPE,  # Never written to; see `lifeline`.
            stdout=log,
            stderr=subprocess.STDOUT,
            env=self._environment,
            pass_fds=self._keep_open,
            # Ctrl-C on the terminal is the driver's to pass on.
            start_new_session=True,
        )

    def _advance(self, worker: _Worker) -> runner.Outcome | None:
        """Goes on with the next command, or ends the task."""
        process, task = worker.process, worker.task
        code, peak_bytes = _poll(process)
        if code is None:
            return None
        worker.peak_bytes = max(worker.peak_bytes, peak_bytes)
        process.stdin.close()
        good = code in task.good
        if good and worker.next_command < len(task.commands):
            worker.process = self._start(
                task.commands[worker.next_command], worker.log
            )
            worker.next_command += 1
            return None
        worker.log.close()
        self._workers.remove(worker)
        return runner.Outcome(
            task.key,
            None if good else error_line(code, task.log),
            time.monotonic() - worker.start,
            worker.peak_bytes,
            {"host": platform.node()},
        )


def _poll(process: subprocess.Popen) -> tuple[int | None, int]:
    """Exit code, None while it runs; and peak bytes of resident memory."""
    pid, status, usage = os.wait4(process.pid, os.WNOHANG)
    if pid == 0:
        return None, 0
    # Popen must not wait for it again.
    process.returncode = os.waitstatus_to_exitcode(status)
    unit = 1 if sys.platform == "darwin" else 1024
    return process.returncode, usage.ru_maxrss * unit


def _send(process: subprocess.Popen, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def environment(
    jobs: int, cores: int, inherited: Mapping[str, str]
) -> dict[str, str]:
    """The environment of a worker among `jobs`.

    The cores are divided among the jobs, unless the user has said in the
    environment how many threads there shall be. One job alone has no limits:
    its numbers are to the bit those of the same command by hand.

    Examples:
      >>> environment(2, 8, {})["OMP_NUM_THREADS"]
      '4'
      >>> environment(2, 8, {"OMP_NUM_THREADS": "1"})["OMP_NUM_THREADS"]
      '1'
    """
    values = dict(inherited)
    values[lifeline.ENVIRONMENT] = "1"
    # Of a worker's defect its log has all, beside the line for the record.
    values[endings.ENVIRONMENT] = "1"
    # Workers find the package where the driver found it.
    values["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    if jobs > 1:
        threads = str(max(cores // jobs, 1))
        for name in _THREADS:
            values.setdefault(name, threads)
        # Otherwise the first worker takes all of a GPU's memory.
        values.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    return values


def memory_note(jobs: int, total: int) -> str:
    """A warning where as many jobs may not fit into memory, or nothing.

    Args:
      jobs: processes at a time.
      total: of the machine, bytes; 0 where unknown.
    """
    if not total or jobs * _RUN_BYTES <= total:
        return ""
    return (
        f"--jobs={jobs} may take {jobs * _RUN_BYTES / 1e9:.0f} GB, and the"
        f" machine has {total / 1e9:.0f}: runs that are killed for memory"
        " count as failed; fewer --jobs and --rerun_failed take them up"
    )


def error_line(code: int, log: str | os.PathLike) -> str:
    """What went wrong, from an exit code and the end of a log."""
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:  # One of those for real time, which have no name.
            name = f"signal {-code}"
        hint = ", out of memory?" if name == "SIGKILL" else ""
        return f"killed by {name}{hint}"
    with pathlib.Path(log).open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(file.tell() - _TAIL_BYTES, 0))
        text = file.read().decode("utf-8", "replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return _telling(lines)[:_LINE_CHARACTERS] or f"exit code {code}"


def _telling(lines: Iterable[str]) -> str:
    """The last line that a command line says `error: ` in, or just the last.

    A traceback ends with its error.
    """
    lines = list(lines)
    for line in reversed(lines):
        if line.startswith("error: "):
            return line.removeprefix("error: ")
    return lines[-1] if lines else ""
