"""Attempts by files that are no models: pickles, names, links, flagfiles."""

from __future__ import annotations

import io
import os
import pathlib
import shutil
import zipfile
from collections.abc import Callable, Sequence

import numpy as np

from tools.faults import (
    archive_mutators,
    cases,
    commands,
    originals,
    plots,
    verdict,
)


class Payload:
    """Unpickling it makes an empty file."""

    def __init__(self, path: str):
        self._path = path

    def __reduce__(self):
        return open, (self._path, "w")


def pickled(sentinel: str) -> np.ndarray:
    """An array whose .npy runs code where it is unpickled."""
    return np.array([Payload(sentinel)] * 12, dtype=object)


def _unpickle(name: str, member: str = "") -> Callable[[pathlib.Path], None]:
    def unguarded(work: pathlib.Path) -> None:
        found = np.load(work / name, allow_pickle=True)
        if member:
            np.asarray(found[member])

    return unguarded


def _samples(name: str, command: str):
    def prepare(bench: cases.Bench, sentinel: str) -> Sequence[str]:
        flags, needed = commands.with_samples(command, name)
        originals.copy(bench, *needed)
        _save(bench.work / name, "image", sentinel)
        return flags

    return prepare


def _images(command: str, member: str):
    def prepare(bench: cases.Bench, sentinel: str) -> Sequence[str]:
        flags, needed = commands.with_images(command, originals.IMAGES)
        originals.copy(bench, originals.IMAGES, *needed)
        path = bench.work / originals.IMAGES
        arrays = dict(np.load(path))
        arrays[member] = pickled(sentinel)
        np.savez(path, **arrays)
        return flags

    return prepare


def _save(path: pathlib.Path, name: str, sentinel: str) -> None:
    if path.suffix == ".npy":
        np.save(path, pickled(sentinel), allow_pickle=True)
    else:
        np.savez(path, **{name: pickled(sentinel)})


def _state(run: str, pattern: str):
    """State of a killed run with a pickle in place of an array."""

    def prepare(bench: cases.Bench, sentinel: str) -> Sequence[str]:
        originals.copy(bench, originals.SAVED_MODEL)
        shutil.copytree(
            bench.originals / originals.KILLED / run,
            bench.work,
            dirs_exist_ok=True,
        )
        for path in bench.work.glob(f"out.tflite.run/{pattern}"):
            if path.suffix == ".npz":
                _poison(path, sentinel)
            else:
                _save(path, "image", sentinel)
        return [
            f"--saved_model={originals.SAVED_MODEL}",
            *originals.state_of(run),
            "--output=out.tflite",
        ]

    return prepare


def _poison(path: pathlib.Path, sentinel: str) -> None:
    """Pickles in place of all arrays of an archive, all else as it was."""
    members = archive_mutators.members_of(path)
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, pickled(sentinel), allow_pickle=True)
    for name in members:
        if name.endswith(".npy"):
            members[name] = buffer.getvalue()
    path.write_bytes(archive_mutators.archive(members))


def _shell(command: str, flag: str):
    """A path that is a command to a shell."""

    def prepare(bench: cases.Bench, sentinel: str) -> Sequence[str]:
        originals.copy(bench, originals.KERAS)
        name = f"$(touch {verdict.SENTINEL});`touch {verdict.SENTINEL}`.keras"
        os.rename(bench.work / originals.KERAS, bench.work / name)
        if command == "batch":
            more = [*commands.BATCH, "--output_dir=out"]
        else:
            more = [*originals.FAST, "--output=out.tflite"]
        return [f"--{flag}={name}", *more]

    return prepare


def _above(bench: cases.Bench, sentinel: str) -> Sequence[str]:
    """A model's name that leads out of the output folder."""
    originals.copy(bench, originals.KERAS)
    return [
        f"--models=../../{verdict.SENTINEL}={originals.KERAS}",
        *commands.BATCH,
        "--output_dir=out",
    ]


def _entry_above(bench: cases.Bench, sentinel: str) -> Sequence[str]:
    """Samples whose members are to be unpacked elsewhere."""
    flags, needed = commands.with_samples("quantize", originals.OWN_NPZ)
    originals.copy(bench, originals.OWN_NPZ, *needed)
    path = bench.work / originals.OWN_NPZ
    with zipfile.ZipFile(path, "a") as archive:
        for name in (f"../{verdict.SENTINEL}.npy", sentinel):
            archive.writestr(zipfile.ZipInfo(name), b"x")
    return flags


def _flagfile(text: str, command: str = "quantize"):
    def prepare(bench: cases.Bench, sentinel: str) -> Sequence[str]:
        originals.copy(bench, originals.KERAS, originals.IMAGES)
        (bench.work / "all.flags").write_text(text.format(sentinel=sentinel))
        return ["--flagfile=all.flags"]

    return prepare


_PICKLES = (
    *(("samples_npz", originals.OWN_NPZ, "quantize"),),
    *(("samples_npy", originals.OWN_NPY, "quantize"),),
    *(("samples_npz_figures", originals.OWN_NPZ, "figures"),),
    *(("samples_npy_figures", originals.OWN_NPY, "figures"),),
)

PLOTS = (
    *(
        plots.Plot(
            name,
            "pickles",
            _samples(path, command),
            _unpickle(path, "image" if path == originals.OWN_NPZ else ""),
            command,
        )
        for name, path, command in _PICKLES
    ),
    *(
        plots.Plot(
            f"{member}_npz_{command}",
            "pickles",
            _images(command, member),
            _unpickle(originals.IMAGES, member),
            command,
        )
        for command in ("evaluate", "image_samples", "batch")
        for member in ("images", "labels")
    ),
    plots.Plot(
        "state_parts",
        "pickles",
        _state(originals.SYNTHESIS_RUN, "samples.parts/*.npy"),
        _unpickle("out.tflite.run/samples.parts/0.npy"),
        "quantize",
    ),
    plots.Plot(
        "state_pack",
        "pickles",
        _state(originals.FINISHED_RUN, "samples.npz"),
        _unpickle("out.tflite.run/samples.npz", "image"),
        "quantize",
    ),
    plots.Plot(
        "state_rounding",
        "pickles",
        _state(originals.LEARNED_RUN, "rounding.parts/*.npz"),
        None,
        "quantize",
    ),
    plots.Plot(
        "shell_quantize",
        "names",
        _shell("quantize", "saved_model"),
        None,
        "quantize",
    ),
    plots.Plot(
        "shell_batch", "names", _shell("batch", "models"), None, "batch"
    ),
    plots.Plot("name_above", "names", _above, None, "batch"),
    plots.Plot("entry_above", "names", _entry_above, None, "quantize"),
    plots.Plot(
        "flagfile_logs",
        "flagfiles",
        _flagfile(
            "--saved_model=net.keras\n--log_dir={sentinel}\n"
            "--output=out.tflite\n--method=noise\n"
        ),
        None,
        "quantize",
    ),
    plots.Plot(
        "flagfile_profile",
        "flagfiles",
        _flagfile(
            "--saved_model=net.keras\n--run_with_profiling\n"
            "--profile_file={sentinel}\n--output=out.tflite\n--method=noise\n"
        ),
        None,
        "quantize",
    ),
    plots.Plot(
        "flagfile_debugger",
        "flagfiles",
        _flagfile(
            "--saved_model=nowhere\n--pdb\n--pdb_post_mortem\n"
            "--run_with_pdb\n--output=out.tflite\n"
        ),
        None,
        "quantize",
    ),
)
