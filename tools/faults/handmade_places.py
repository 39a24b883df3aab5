"""Paths that lead to pipes, to nothing, to somebody else's file, or too far."""

from __future__ import annotations

import os
import pathlib
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence

from tools.faults import (
    cases,
    commands,
    given,
    originals,
)


def special_files() -> Iterator[cases.Case]:
    """Pipes, sockets, devices, and links that lead nowhere or in circles."""
    uses = {
        "model": ("quantize", given.quantize("given")),
        "evaluated": commands.with_model("evaluate", "given"),
        "samples": ("quantize", commands.with_samples("quantize", "given")[0]),
        "figures": ("figures", commands.with_samples("figures", "given")[0]),
        "images": ("evaluate", commands.with_images("evaluate", "given")[0]),
        "drawn": (
            "image_samples",
            commands.with_images("image_samples", "given")[0],
        ),
        "batch": ("batch", commands.with_images("batch", "given")[0]),
        "models": (
            "batch",
            ["--models=given", "--dry_run", "--output_dir=out"],
        ),
        "flagfile": ("quantize", ["--flagfile=given"]),
        "batch_flagfile": ("batch", ["--flagfile=given"]),
    }
    uses["evaluated"] = ("evaluate", uses["evaluated"][0])
    copies = (originals.KERAS, originals.IMAGES, originals.TFLITE)
    for use, (command, flags) in uses.items():
        for special, make in _SPECIALS.items():
            yield given.case(
                f"special-{use}-{special}",
                "pipes, sockets, devices, links",
                command,
                flags,
                copies=copies,
                setup=lambda bench, make=make: make(bench.work / "given"),
                # An empty folder has a fingerprint, which is all a plan reads;
                # the run of what is no model fails, and the others go on.
                allowed=(0, 1)
                if use == "batch"
                or (use == "models" and special in ("empty", "folder"))
                else (1,),
            )


def _bind(path: pathlib.Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path.name)  # Relative: the whole path may be too long.


_SPECIALS: dict[str, Callable[[pathlib.Path], None]] = {
    "pipe": os.mkfifo,
    "socket": _bind,
    "zero": lambda path: os.symlink("/dev/zero", path),
    "null": lambda path: os.symlink("/dev/null", path),
    "circle": lambda path: os.symlink("given", path),
    "dangling": lambda path: os.symlink("nowhere", path),
    "empty": lambda path: path.write_bytes(b""),
    "folder": lambda path: path.mkdir(),
}


_NAMES = {
    "long": "x" * 256,
    "long_path": "/".join(["y" * 200] * 30),
    "newline": "a\nerror: b",
    "escape": "\x1b[31mred",
    "undecodable": os.fsdecode(b"\xff\xfe"),
    "address": "gs://bucket/model",
    "home": "~nobody/x",
    "empty": "",
}


def names() -> Iterator[cases.Case]:
    """Paths that are too long, or of characters that break a line."""
    for name, path in _NAMES.items():
        for use, (command, flags) in _uses_of(path).items():
            yield given.case(
                f"name-{name}-{use}",
                "names",
                command,
                flags,
                copies=(originals.KERAS, originals.TFLITE),
                own=("out", path or ".tflite", ".tflite"),
                check=lambda work: [],
            )


def _uses_of(path: str) -> dict[str, tuple[str, list[str]]]:
    """A path as everything that a flag may name: (command, flags) by use."""
    model = f"--saved_model={originals.KERAS}"
    output = f"--output={path}.tflite"
    batch = [f"--models={originals.KERAS}", "--dry_run"]
    samples = commands.with_samples("quantize", path or " ")[0]
    return {
        "model": ("quantize", given.quantize(path)),
        "output": ("quantize", [model, *originals.FAST, output]),
        "samples": ("quantize", samples),
        "images": ("evaluate", commands.with_images("evaluate", path)[0]),
        "folder": ("batch", [*batch, f"--output_dir={path}"]),
    }


def places() -> Iterator[cases.Case]:
    """Outputs that are, or hold, what is read; and files of others."""
    models = (originals.SAVED_MODEL, originals.KERAS, originals.HDF5)
    for model in models:
        for name, output, more in (
            ("same", model, ()),
            ("dotted", f"./x/../{model}", ()),
            ("simulated", model, ("--activation_bits=6",)),
            ("inside", f"{model}/out.tflite", ()),
            ("link", "link", ()),
            ("hard_link", "hard", ()),
        ):
            yield _refused_place(f"{name}-{model}", model, output, more)
    yield given.case(
        "place-above",
        "outputs that are inputs",
        "quantize",
        [
            *given.quantize("out/net.keras")[:-1],
            "--output=out",
            "--activation_bits=6",
        ],
        setup=_model_inside,
        own=(),
        allowed=(1,),
    )
    for name, output in (("samples", "own.npz"), ("link", "link")):
        flags = commands.with_samples("quantize", originals.OWN_NPZ)[0]
        yield given.case(
            f"place-samples-{name}",
            "outputs that are inputs",
            "quantize",
            [*flags[:-1], f"--output={output}"],
            copies=(originals.KERAS, originals.OWN_NPZ),
            setup=_links_to(originals.OWN_NPZ),
            own=(),
            allowed=(1,),
        )
    yield from _other_places()


def _refused_place(
    name: str, model: str, output: str, more: Sequence[str]
) -> cases.Case:
    # To replace another name of a file leaves the file as it is.
    is_other = name.startswith("hard")
    return given.case(
        f"place-{name}",
        "outputs that are inputs",
        "quantize",
        [
            f"--saved_model={model}",
            *originals.FAST,
            *more,
            f"--output={output}",
        ],
        copies=(originals.SAVED_MODEL, originals.KERAS, originals.HDF5),
        setup=_links_to(model),
        own=("hard",) if is_other else (),
        allowed=(0, 1, 2) if is_other else (1,),
    )


def _links_to(name: str) -> given.Setup:
    """`link` and `hard`: other names of what is read."""

    def setup(bench: cases.Bench) -> None:
        (bench.work / "x").mkdir()
        os.symlink(name, bench.work / "link")
        if (bench.work / name).is_file():
            os.link(bench.work / name, bench.work / "hard")

    return setup


def _model_inside(bench: cases.Bench) -> None:
    (bench.work / "out").mkdir()
    shutil.copyfile(
        bench.originals / originals.KERAS, bench.work / "out" / originals.KERAS
    )


def _other_places() -> Iterator[cases.Case]:
    both = (originals.IMAGES, originals.TFLITE)
    flags = [f"--model={originals.TFLITE}", f"--data={originals.IMAGES}"]
    for name, output in (("data", originals.IMAGES), ("model", "net.tflite")):
        yield given.case(
            f"place-evaluate-{name}",
            "outputs that are inputs",
            "evaluate",
            [*flags, f"--output={output}"],
            copies=both,
            own=(),
            allowed=(1,),
        )
    for output in (originals.IMAGES, f"{originals.IMAGE_FOLDER}/3.jpg"):
        data = output.partition("/")[0]
        yield given.case(
            f"place-image_samples-{pathlib.Path(output).name}",
            "outputs that are inputs",
            "image_samples",
            [f"--data={data}", f"--output={output}"],
            copies=(originals.IMAGES, originals.IMAGE_FOLDER),
            own=(),
            allowed=(1,),
        )
    yield from _places_of_samples()


def _places_of_samples() -> Iterator[cases.Case]:
    yield given.case(
        "place-synthetic_samples",
        "outputs that are inputs",
        "synthetic_samples",
        [
            f"--saved_model={originals.KERAS}",
            *originals.QUICK,
            f"--output={originals.KERAS}",
        ],
        copies=(originals.KERAS,),
        own=(),
        allowed=(1,),
    )
    yield given.case(
        "place-temporary",
        "files of others",
        "quantize",
        given.quantize(originals.KERAS),
        copies=(originals.KERAS,),
        setup=_others,
        own=("out.tflite.run/", "out.tflite"),
        check=_others_whole,
    )


_OTHERS = ("out.tflite.tmp", "out.tflite.run/samples.npz.tmp")


def _others(bench: cases.Bench) -> None:
    for name in _OTHERS:
        path = bench.work / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("somebody's\n")


def _others_whole(work: pathlib.Path) -> Sequence[str]:
    gone = [
        name
        for name in _OTHERS
        if not (work / name).exists()
        or (work / name).read_text() != "somebody's\n"
    ]
    return [f"input changed: {', '.join(gone)}"] if gone else []
