"""SIGINT and SIGTERM in every stage, and two processes on one output."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from dsg_tf.core import stages
from tools.faults import (
    cases,
    commands,
    kills,
    originals,
    processes,
    trips,
    verdict,
)

_LIMIT_S = 180.0
_LOOK_S = 0.001
_SHORT_S = 0.3
_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
# As report.json has them.
STAGES = (*("load", "samples", "diversity", "passes", "export", "verify"),)
_FLAGS = (
    f"--saved_model={originals.SAVED_MODEL}",
    *("--num_samples=8", "--batch_size=4", "--steps=20"),
    *("--verify_samples=4", "--recipe=best", "--output=out.tflite"),
)
_GOES_ON = re.compile(r"interrupted|terminated", re.IGNORECASE)


def all_cases() -> list[cases.Case]:
    """A signal of each kind in each stage, and pairs of processes."""
    found = []
    for number in _CODES:
        for stage in STAGES:
            found.append(
                cases.Case(
                    f"signals/{number.name}-{stage}",
                    f"{number.name} in a stage",
                    _InStage(number, stage),
                )
            )
        for command in ("quantize", "evaluate", "batch"):
            for tenths in (5, 15, 30):
                found.append(
                    cases.Case(
                        f"signals/{number.name}-{command}-start-{tenths}",
                        f"{number.name} at start",
                        _AtStart(number, command, tenths / 10),
                    )
                )
    for command in ("quantize", "synthetic_samples", "batch"):
        found.append(
            cases.Case(
                f"signals/two-{command}", "two on one output", _Two(command)
            )
        )
    return found


def _whole(bench: cases.Bench, folder: pathlib.Path) -> None:
    """A run without any signal, with the seconds that each stage takes."""
    shutil.copytree(
        bench.originals / originals.SAVED_MODEL,
        folder / "work" / originals.SAVED_MODEL,
    )
    processes.command("quantize", _FLAGS, folder=folder).wait(_LIMIT_S)
    report = folder / "work" / "out.tflite.run" / "report.json"
    seconds = json.loads(report.read_text())["seconds"]
    (folder / "times.json").write_text(json.dumps(seconds))


def _in_stage(number: signal.Signals, stage: str, delay_s: float) -> None:
    """Sends this process a signal, so many seconds after a stage begins."""

    def watch() -> None:
        while stages.current() != stage:
            time.sleep(_LOOK_S)
        time.sleep(delay_s)
        os.kill(os.getpid(), number)

    threading.Thread(target=watch, daemon=True).start()


@dataclasses.dataclass(frozen=True)
class _InStage:
    """A signal in the middle of a stage; then the same command again."""

    number: signal.Signals
    stage: str

    def __call__(self, bench: cases.Bench) -> Sequence[str]:
        whole = kills.shared(bench, "signals", _whole)
        length = json.loads((whole / "times.json").read_text())[self.stage]
        originals.copy(bench, originals.SAVED_MODEL)
        # Short stages at once: a thread may come late by some hundredths.
        delay = length / 3 if length > _SHORT_S else 0.0
        ended = processes.command(
            "quantize",
            _FLAGS,
            folder=bench.folder,
            before=lambda: _in_stage(self.number, self.stage, delay),
        ).wait(_LIMIT_S)
        findings = _of_signal(ended, self.number)
        if (bench.work / "out.tflite").exists() and ended.code:
            findings.append("left: out.tflite of an interrupted run")
        again = processes.command("quantize", _FLAGS, folder=bench.folder).wait(
            _LIMIT_S
        )
        findings += verdict.of_process(again, allowed=(0, 2))
        return [*findings, *kills.differences(whole / "work", bench.work)]


def _of_signal(ended: processes.Ended, number: signal.Signals) -> list[str]:
    findings = verdict.of_process(ended, allowed=(_CODES[number],))
    if not findings and not _GOES_ON.search(ended.stderr):
        findings.append("line: nothing says that it was interrupted")
    return findings


@dataclasses.dataclass(frozen=True)
class _AtStart:
    """A signal some tenths of a second after a process has begun."""

    number: signal.Signals
    command: str
    seconds: float

    def __call__(self, bench: cases.Bench) -> Sequence[str]:
        copies, flags = _STARTS[self.command]
        output = flags[-1].partition("=")[2]
        originals.copy(bench, *copies)
        error = bench.folder / "stderr"
        with error.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", f"dsg_tf.{self.command}", *flags],
                cwd=bench.work,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
                },
            )
            time.sleep(self.seconds)
            process.send_signal(self.number)
            stopped = ""
            try:
                process.wait(_LIMIT_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                stopped = "time"
        text = error.read_text(errors="replace")
        ended = processes.Ended(process.returncode, stopped, "", text)
        # Before Python itself is up, nobody can say anything.
        if self.seconds < 1 and process.returncode == -self.number:
            return []
        # On a fast machine it is done before the signal comes.
        if process.returncode in (0, 2) and (bench.work / output).exists():
            return verdict.of_process(ended)
        return _of_signal(ended, self.number)


_STARTS = {
    "quantize": ((originals.SAVED_MODEL,), _FLAGS),
    "evaluate": (
        (originals.SAVED_MODEL, originals.IMAGES),
        (
            f"--model={originals.SAVED_MODEL}",
            f"--data={originals.IMAGES}",
            "--output=out.json",
        ),
    ),
    "batch": (
        (originals.SAVED_MODEL,),
        (
            f"--models={originals.SAVED_MODEL}",
            *commands.BATCH,
            "--output_dir=out",
        ),
    ),
}


# What each command touches while it holds its output.
_HELD = {
    "quantize": "*out.tflite.run/*samples*",
    "synthetic_samples": "*out.npz.run/samples*",
    "batch": "*out/runs.sqlite",
}


@dataclasses.dataclass(frozen=True)
class _Two:
    """Two processes on one output: one wins, the other says so."""

    command: str

    def __call__(self, bench: cases.Bench) -> Sequence[str]:
        originals.copy(bench, originals.SAVED_MODEL)
        flags: Sequence[str] = _FLAGS
        if self.command == "synthetic_samples":
            flags = [f for f in _FLAGS[:-1] if not f.startswith("--recipe")]
            flags += ["--output=out.npz"]
        if self.command == "batch":
            flags = _STARTS["batch"][1]
        second_folder = bench.folder / "second"
        second_folder.mkdir()
        os.symlink(bench.work, second_folder / "work")

        def stop() -> None:
            os.kill(os.getpid(), signal.SIGSTOP)

        first = processes.command(
            self.command,
            flags,
            folder=bench.folder,
            before=lambda: trips.at(_HELD[self.command], stop),
        )
        deadline = time.monotonic() + _LIMIT_S / 2
        while not processes.is_stopped(first.pid):
            if first.poll() is not None or time.monotonic() > deadline:
                return ["first: ended before it was stopped"]
            time.sleep(0.05)
        second = processes.command(self.command, flags, folder=second_folder)
        ended = second.wait(_LIMIT_S / 2)
        first.send(signal.SIGCONT)
        findings = [
            f"second: {f}" for f in verdict.of_process(ended, allowed=(1,))
        ]
        findings += [
            f"first: {f}"
            for f in verdict.of_process(first.wait(_LIMIT_S), allowed=(0, 2))
        ]
        return findings
