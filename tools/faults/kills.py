"""kill -9 at moments of a batch and of a long run, which then go on.

Afterwards everything must be as if nobody had killed anything.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pathlib
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from tools.faults import cases, originals, processes, verdict

COUNT = 20
_LIMIT_S = 300.0
# How long workers may take to notice that their driver is gone.
_NOTICE_S = 10.0
_PAUSE_S = 0.1
_OUT = "out"
_LONG = (
    *("--num_samples=8", "--batch_size=4", "--steps=40"),
    *("--verify_samples=4", "--recipe=best"),
)
_BATCH = (
    f"--models=net={originals.SAVED_MODEL}",
    f"--eval_data={originals.IMAGES}",
    *("--method=dsg", "--num_samples=4", "--batch_size=4", "--steps=5"),
    *("--verify_samples=2", "--weight_bits=4", f"--output_dir={_OUT}"),
)
_FIRST, _BOTH = "--seed=0", "--seed=0,1"
# What tells the time or the place: no two runs have these alike.
_VOLATILE = ("log.txt", "runs.sqlite", ".lock", "run.flags")
_TIMES = ("seconds",)


def all_cases(count: int = COUNT) -> list[cases.Case]:
    """Kills of a batch and of a long run, so many of each."""
    return [
        cases.Case(f"kills/{kind}-{number}", f"kill -9: {title}", run)
        for kind, title, run in (
            ("batch", "batch with finished runs", _kill_batch),
            ("quantize", "long quantize", _kill_quantize),
        )
        for number in range(count)
    ]


def shared(bench: cases.Bench, name: str, make: Callable) -> pathlib.Path:
    """A folder that the first case makes for all; they may be several."""
    folder = bench.folder.parent / f"shared-{name}"
    try:
        (folder.with_name(folder.name + "-lock")).mkdir()
    except FileExistsError:
        deadline = time.monotonic() + _LIMIT_S
        while not folder.exists():
            if time.monotonic() > deadline:
                raise RuntimeError(f"nobody has made {folder}") from None
            time.sleep(_PAUSE_S)
        return folder
    under_way = folder.with_name(folder.name + "-under-way")
    under_way.mkdir()
    make(bench, under_way)
    under_way.rename(folder)
    return folder


def _kill_quantize(bench: cases.Bench) -> Sequence[str]:
    whole = shared(bench, "quantize", _whole_quantize)
    seconds = json.loads((whole / "times.json").read_text())
    originals.copy(bench, originals.SAVED_MODEL)
    moment = float(bench.rng.uniform(0.1, 0.98)) * seconds
    child = _quantize(bench)
    if not _ended(moment, lambda: child.poll() is not None):
        child.send(signal.SIGKILL)
        child.wait(_LIMIT_S)
    findings = [f"{f} (killed at {moment:.1f} s)" for f in _orphans(bench)]
    ended = _quantize(bench).wait(_LIMIT_S)
    findings += verdict.of_process(ended, allowed=(0, 2))
    return [*findings, *differences(whole / "work", bench.work)]


def _whole_quantize(bench: cases.Bench, folder: pathlib.Path) -> None:
    shutil.copytree(
        bench.originals / originals.SAVED_MODEL,
        folder / "work" / originals.SAVED_MODEL,
    )
    ended = processes.command(
        "quantize", _quantize_flags(), folder=folder
    ).wait(_LIMIT_S)
    if ended.code not in (0, 2):
        raise RuntimeError(f"exit code {ended.code}: {ended.stderr[-500:]}")
    (folder / "times.json").write_text(json.dumps(ended.seconds))


def _quantize_flags() -> list[str]:
    return [
        f"--saved_model={originals.SAVED_MODEL}",
        *_LONG,
        "--output=out.tflite",
    ]


def _quantize(bench: cases.Bench) -> processes.Child:
    return processes.command("quantize", _quantize_flags(), folder=bench.folder)


def _kill_batch(bench: cases.Bench) -> Sequence[str]:
    whole = shared(bench, "batch", _whole_batch)
    seconds = json.loads((whole / "times.json").read_text())
    # The keys of runs are of contents, their flagfiles of absolute paths.
    place = bench.work
    place.mkdir(exist_ok=True)
    originals.copy(bench, originals.SAVED_MODEL, originals.IMAGES)
    shutil.copytree(whole / "first", place / _OUT, symlinks=True)
    before = rows(place / _OUT)
    moment = float(bench.rng.uniform(0.05, 0.98)) * seconds
    driver = _start_batch(place, _BOTH)
    if not _ended(moment, lambda: driver.poll() is not None):
        driver.kill()
    driver.wait()
    findings = [f"{f} (killed at {moment:.1f} s)" for f in _orphans(bench)]
    findings += _of_database(place / _OUT)
    finished = {
        **before,
        **{k: r for k, r in rows(place / _OUT).items() if r[1] == "done"},
    }
    code, error = _finish_batch(place, _BOTH)
    if code not in (0, 2):
        findings.append(f"exit code: {code} ({error[-200:]})")
    after = rows(place / _OUT)
    repeated = [key for key, row in finished.items() if after.get(key) != row]
    if repeated:
        findings.append(f"repeated: {len(repeated)} finished runs")
    findings += _of_database(place / _OUT)
    return [*findings, *differences(whole / "both", place / _OUT)]


def _whole_batch(bench: cases.Bench, folder: pathlib.Path) -> None:
    """The batch of one seed, then of two, uninterrupted."""
    work = folder / "work"
    work.mkdir()
    for name in (originals.SAVED_MODEL, originals.IMAGES):
        source = bench.originals / name
        copy = shutil.copytree if source.is_dir() else shutil.copyfile
        copy(source, work / name)
    for name, seeds in (("first", _FIRST), ("both", _BOTH)):
        start = time.monotonic()
        code, error = _finish_batch(work, seeds)
        if code not in (0, 2):
            raise RuntimeError(f"exit code {code}: {error[-500:]}")
        shutil.copytree(work / _OUT, folder / name, symlinks=True)
        seconds = time.monotonic() - start
    (folder / "times.json").write_text(json.dumps(seconds))


def _start_batch(place: pathlib.Path, seeds: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "dsg_tf.batch", *_BATCH, seeds],
        cwd=place,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=(place.parent / "stderr").open("wb"),
        start_new_session=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        },
    )


def _finish_batch(place: pathlib.Path, seeds: str) -> tuple[int, str]:
    process = _start_batch(place, seeds)
    try:
        code = process.wait(_LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.wait(), "hang"
    return code, (place.parent / "stderr").read_text(errors="replace")


def _ended(seconds: float, ended: Callable[[], bool]) -> bool:
    """Waits so long; returns, at once, whether it has ended before."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if ended():
            return True
        time.sleep(min(_PAUSE_S, max(deadline - time.monotonic(), 0.0)))
    return False


def _orphans(bench: cases.Bench) -> list[str]:
    """Workers that are still there after they could have noticed."""
    deadline = time.monotonic() + _NOTICE_S
    text = f"{bench.folder}/"
    while (left := processes.naming(text)) and time.monotonic() < deadline:
        time.sleep(_PAUSE_S)
    return [f"orphan: {len(left)} processes"] if left else []


def rows(folder: pathlib.Path) -> dict[str, tuple]:
    """(kind, status, started, finished, artifact) of a record, by key."""
    with contextlib.closing(sqlite3.connect(folder / "runs.sqlite")) as found:
        return {
            key: tuple(values)
            for key, *values in found.execute(
                "SELECT key, kind, status, started, finished, artifact"
                " FROM runs"
            )
        }


def _of_database(folder: pathlib.Path) -> list[str]:
    try:
        with contextlib.closing(
            sqlite3.connect(folder / "runs.sqlite")
        ) as found:
            (answer,) = found.execute("PRAGMA integrity_check").fetchone()
    except sqlite3.DatabaseError as error:
        answer = str(error)
    return [] if answer == "ok" else [f"database: {answer}"]


def differences(whole: pathlib.Path, found: pathlib.Path) -> Iterator[str]:
    """What two outputs do not have alike, but for times and places.

    Args:
      whole: of a run that was not interrupted.
      found: of one that was.
    """
    want, have = _files(whole), _files(found)
    if missing := sorted(want - have):
        yield f"missing: {', '.join(missing[:3])}"
    if left := sorted(have - want):
        yield f"left: {', '.join(left[:3])}"
    other = [
        name
        for name in sorted(want & have)
        if _comparable(whole / name) != _comparable(found / name)
    ]
    if other:
        yield f"bytes: other than uninterrupted: {', '.join(other[:3])}"


def _files(folder: pathlib.Path) -> set[str]:
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if not path.is_dir()
    }


@functools.singledispatch
def _timeless(value):
    return value


@_timeless.register
def _(value: dict):
    return {k: _timeless(v) for k, v in value.items() if k not in _TIMES}


def _comparable(path: pathlib.Path):
    """The content of a file, without what tells the time or the place."""
    if path.name in _VOLATILE:
        return ""
    if path.name == "evaluation.json":  # It names the model by its path.
        found = json.loads(path.read_text())
        return {k: v for k, v in found.items() if k not in ("model", "data")}
    if path.name == "report.json":
        found = _timeless(json.loads(path.read_text()))
        return {k: v for k, v in found.items() if k not in ("model", "output")}
    return path.read_bytes()
