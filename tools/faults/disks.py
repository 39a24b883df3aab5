"""Disks that are full, or that cannot be written to, at a place of a run."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import pathlib
import subprocess
from collections.abc import Iterator, Sequence

from tools.faults import cases, commands, originals, processes, trips, verdict

_LIMIT_S = 120.0
_DISK_BYTES = 24 << 20
_FILLER = "filler"
_NET = originals.SAVED_MODEL


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a disk is full.

    Attributes:
      path: as `trips.at` has it; the disk is full before it is touched.
      command, flags: what runs into it.
      event, unless: as `trips.at` has it.
      times: at which touch.
      spare: bytes that stay free, for a file's first pages.
      copies: originals that the command needs.
      earlier: an output of before, which must survive whole.
    """

    path: str
    command: str
    flags: Sequence[str]
    event: str = "open"
    unless: str = ""
    times: int = 1
    spare: int = 0
    copies: Sequence[str] = (_NET,)
    earlier: str = ""


def _flags(*more: str, output: str = "disk/out.tflite") -> list[str]:
    return [f"--saved_model={_NET}", *more, f"--output={output}"]


_RUN = "*out.tflite.run"
_PLACES = {
    "samples.parts": _Place(
        f"{_RUN}/samples.parts/0.npy", "quantize", _flags(*originals.SYNTHESIS)
    ),
    "samples_mapped": _Place(
        f"{_RUN}/samples.parts/0.npy",
        "quantize",
        _flags(*originals.QUICK[:1], "--num_samples=256", "--recipe=fast"),
        spare=16384,
    ),
    "samples.npz": _Place(
        f"{_RUN}/*samples.npz*", "quantize", _flags(*originals.FAST)
    ),
    "distances.csv": _Place(
        f"{_RUN}/*distances.csv*", "quantize", _flags(*originals.SYNTHESIS)
    ),
    "rounding.parts": _Place(
        f"{_RUN}/rounding.parts/*conv*",
        "quantize",
        _flags(*originals.LEARNED),
        times=2,
    ),
    "report.json": _Place(
        f"{_RUN}/*report.json*",
        "quantize",
        _flags(*originals.FAST),
        earlier="disk/out.tflite",
    ),
    "tflite": _Place(
        "*disk/*out.tflite*",
        "quantize",
        _flags(*originals.FAST),
        unless="*.run/*",
        earlier="disk/out.tflite",
    ),
    "simulated": _Place(
        "*disk/*saved_model.pb",
        "quantize",
        _flags(
            *originals.FAST, "--activation_bits=6", output="disk/out_simulated"
        ),
    ),
    "runs.sqlite": _Place(
        "*/runs.sqlite",
        "batch",
        [f"--models={_NET}", *commands.BATCH, "--output_dir=disk/out"],
        event="sqlite3.connect",
    ),
    "export": _Place(
        "*out.csv*",
        "batch",
        ["--output_dir=record", "--export=disk/out.csv"],
        copies=(originals.RECORD,),
        earlier="disk/out.csv",
    ),
    "evaluation": _Place(
        "*out.json*",
        "evaluate",
        [
            f"--model={originals.TFLITE}",
            f"--data={originals.IMAGES}",
            "--output=disk/out.json",
        ],
        copies=(originals.TFLITE, originals.IMAGES),
        earlier="disk/out.json",
    ),
    "image_samples": _Place(
        "*out.npz*",
        "image_samples",
        [f"--data={originals.IMAGES}", "--output=disk/out.npz"],
        copies=(originals.IMAGES,),
        earlier="disk/out.npz",
    ),
    "synthetic_samples": _Place(
        "*disk/*out.npz*",
        "synthetic_samples",
        [f"--saved_model={_NET}", *originals.QUICK, "--output=disk/out.npz"],
        unless="*.run/*",
        earlier="disk/out.npz",
    ),
    "figures": _Place(
        "*disk/out/*.png*",
        "figures",
        [
            f"--saved_model={_NET}",
            f"--samples=own={originals.OWN_NPZ}",
            "--output_dir=disk/out",
        ],
        copies=(_NET, originals.OWN_NPZ),
    ),
}


def all_cases() -> list[cases.Case]:
    """Full disks, and folders that cannot be written to."""
    full = [
        cases.Case(f"disks/full-{name}", "disk full", _Full(place))
        for name, place in _PLACES.items()
    ]
    outputs = {p.flags[-1]: p for p in _PLACES.values()}
    readonly = [
        cases.Case(
            f"disks/read_only-{place.command}-{number}",
            "read-only disk",
            _ReadOnly(place),
        )
        for number, place in enumerate(outputs.values())
    ]
    return full + readonly


@contextlib.contextmanager
def disk(folder: pathlib.Path, size: int = _DISK_BYTES) -> Iterator[None]:
    """A disk of its own for a folder, in memory.

    Raises:
      cases.SkippedError: this process may not mount one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise cases.SkippedError(f"no disk of its own: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def fill(folder: pathlib.Path, spare: int = 0) -> None:
    """Writes a file until its disk is full but for `spare` bytes."""
    path = folder / _FILLER
    with path.open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
        file.truncate(max(file.tell() - spare, 0))


@dataclasses.dataclass(frozen=True)
class _Full:
    """Runs into a full disk; then again, once there is room."""

    place: _Place

    def __call__(self, bench: cases.Bench) -> Sequence[str]:
        place, home = self.place, bench.work / "disk"
        originals.copy(bench, *place.copies)
        with disk(home):
            if place.earlier:
                (bench.work / place.earlier).write_text("of before\n")
            before = verdict.snapshot(bench.work)
            ended = processes.command(
                place.command,
                place.flags,
                folder=bench.folder,
                before=lambda: trips.at(
                    place.path,
                    lambda: fill(home, place.spare),
                    times=place.times,
                    event=place.event,
                    unless=place.unless,
                ),
            ).wait(_LIMIT_S)
            if not (home / _FILLER).exists():
                return ["harness: the disk was never full"]
            (home / _FILLER).unlink()
            findings = verdict.of_process(ended, allowed=(1,))
            findings += _of_line(ended)
            findings += _of_files(before, verdict.snapshot(bench.work))
            again = processes.command(
                place.command, place.flags, folder=bench.folder
            ).wait(_LIMIT_S)
            findings += [
                f"again: {finding}"
                for finding in verdict.of_process(again, allowed=(0, 2))
            ]
        return findings


def _of_line(ended: processes.Ended) -> list[str]:
    """The line says how much there is, and how much it takes."""
    lines = [x for x in ended.stderr.splitlines() if x.startswith("error: ")]
    if len(lines) != 1:
        return []
    told = any(
        text in lines[0]
        for text in (os.strerror(errno.ENOSPC), "full", "bytes", "space")
    )
    numbers = sum(c.isdigit() for c in lines[0])
    if not told or not numbers:
        return [f"line: no bytes needed and free ({lines[0][:200]})"]
    return []


def _of_files(before: verdict.Snapshot, after: verdict.Snapshot) -> list[str]:
    """What was there is whole; no half of anything is left."""
    findings = []
    changed = [p for p, content in before.items() if after.get(p) != content]
    if changed:
        findings.append(f"input changed: {', '.join(sorted(changed)[:3])}")
    # What a run resumes from may stay; a temporary file may not.
    left = sorted(p for p in set(after) - set(before) if "tmp" in p)
    outputs = sorted(
        p
        for p in set(after) - set(before)
        if p.endswith((".tflite", ".csv", ".json", ".npz", "_simulated"))
        and ".run/" not in p
        and "/out/" not in p
    )
    if left or outputs:
        findings.append(f"left: {', '.join([*left, *outputs][:3])}")
    return findings


@dataclasses.dataclass(frozen=True)
class _ReadOnly:
    """Writes to a disk that is mounted read-only."""

    place: _Place

    def __call__(self, bench: cases.Bench) -> Sequence[str]:
        place, home = self.place, bench.work / "disk"
        originals.copy(bench, *place.copies)
        with disk(home):
            if place.earlier:
                (bench.work / place.earlier).write_text("of before\n")
            done = subprocess.run(
                ["mount", "-o", "remount,ro", str(home)],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise cases.SkippedError(done.stderr.strip())
            before = verdict.snapshot(bench.work)
            ended = processes.command(
                place.command, place.flags, folder=bench.folder
            ).wait(_LIMIT_S)
            findings = verdict.of_process(ended, allowed=(1,))
            return findings + verdict.of_files(
                before, verdict.snapshot(bench.work), code=ended.code
            )
