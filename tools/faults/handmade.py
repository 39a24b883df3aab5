"""Malformed inputs that no seed would find: files, names, flags, sizes."""

from __future__ import annotations

import os
import pathlib
import shutil
import socket
import sqlite3
import zipfile
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tools.faults import (
    archive_mutators,
    attempts,
    cases,
    commands,
    handmade_models,
    json_mutators,
    originals,
)

Setup = Callable[[cases.Bench], None]
# Bytes of a config.json that is refused, not read.
_VAST = 300 << 20


def all_cases() -> list[cases.Case]:
    """Every case that is made by hand."""
    makers = (
        *(_special_files, _flags, _flagfiles, _names, _places),
        *(_configs, _arrays, _metadata, _records, _states),
    )
    found = [case for maker in makers for case in maker()]
    return found + handmade_models.all_cases()


def case(
    name: str,
    kind: str,
    command: str,
    flags: Sequence[str],
    *,
    copies: Sequence[str] = (),
    setup: Setup | None = None,
    **fields,
) -> cases.Case:
    """A case of flags that are known, and files that are made.

    Args:
      name, kind: see `cases.Case`.
      command: see `attempts.Attempt`.
      flags: its flags.
      copies: originals to copy.
      setup: makes what else there is to be.
      **fields: others of `attempts.Attempt`.
    """

    def prepare(bench: cases.Bench) -> Sequence[str]:
        originals.copy(bench, *copies)
        if setup is not None:
            setup(bench)
        return flags

    fields.setdefault("check", commands.check_or_nothing)
    attempt = attempts.Attempt(command, prepare, **fields)
    return cases.Case(f"malformed/{name}", kind, attempt)


def _quantize(model: str) -> list[str]:
    return commands.with_model("quantize", model)[0]


def _special_files() -> Iterator[cases.Case]:
    """Pipes, sockets, devices, and links that lead nowhere or in circles."""
    uses = {
        "model": ("quantize", _quantize("given")),
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
            yield case(
                f"special-{use}-{special}",
                "pipes, sockets, devices, links",
                command,
                flags,
                copies=copies,
                setup=lambda bench, make=make: make(bench.work / "given"),
                allowed=(1,),
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


def _flags() -> Iterator[cases.Case]:
    """Values of flags, on a model that is whole."""
    odd = (
        *("--num_samples=-1", "--num_samples=0", "--num_samples=1e3"),
        *(f"--num_samples={10**30}", f"--seed={10**30}", "--seed=-1"),
        *(f"--steps={2**63}", f"--batch_size={2**31}", "--batch_size=0"),
        *(f"--verify_samples={10**20}", "--verify_samples=-1"),
        *("--min_agreement=nan", "--min_agreement=2", "--min_agreement=-inf"),
        *("--input_range=nan,1", "--input_range=1,-1", "--input_range=0,inf"),
        *("--input_range=1e308,-1e308", "--input_range=0,0"),
        *("--input_shape=0,0,0", f"--input_shape={2**62},8,3"),
        *(
            f"--input_shape={10**30}",
            "--input_shape=image=8",
            "--input_shape=,",
        ),
        *("--weight_bits=1", "--weight_bits=99", "--activation_bits=0"),
        *("--synthesis=learning_rate=nan", "--synthesis=learning_rate=inf"),
        *("--synthesis=x", "--synthesis=", "--method=", "--recipe=\udcff"),
        *("--nothing=1", "argument", "--tags=\x1b", "--signature=x\ny"),
        *("--io_type=x", "--exporter=x", "--granularity=\n", "--equalize=2"),
    )
    for index, flag in enumerate(odd):
        yield case(
            f"flag-{index}",
            "values of flags",
            "quantize",
            [*_quantize(originals.KERAS), flag],
            copies=(originals.KERAS,),
            allowed=(1,),
        )
    images = commands.with_images("evaluate", originals.IMAGES)[0]
    for index, flag in enumerate(
        (
            *("--batch=0", f"--batch={2**63}", "--preprocess=x", "--mean=nan"),
            *("--preprocess=standardize", "--signature=x", "--reference=x"),
        )
    ):
        yield case(
            f"flag-evaluate-{index}",
            "values of flags",
            "evaluate",
            [*images, flag],
            copies=(originals.IMAGES, originals.TFLITE),
            allowed=(0, 1) if "batch=9" in flag else (1,),
        )


def _flagfiles() -> Iterator[cases.Case]:
    good = "\n".join(_quantize(originals.KERAS)).encode()
    contents = {
        "latin1": good + b"\n--signature=\xe9\n",
        "utf16": good.decode().encode("utf-16"),
        "bom": b"\xef\xbb\xbf" + good,
        "nul": good + b"\n--signature=\x00\n",
        "itself": good + b"\n--flagfile=all.flags\n",
        "nowhere": good + b"\n--flagfile=nowhere.flags\n",
        "pipe": good + b"\n--flagfile=pipe\n",
        "no_dashes": b"saved_model=net.keras\n",
        "words": b"--saved_model net.keras --output out.tflite\n",
        "long": good + b"\n--signature=" + b"x" * 5_000_000 + b"\n",
        "unknown": good + b"\n--nothing_of_this_name=1\n",
        "empty": b"",
        "binary": bytes(range(256)) * 20,
    }
    for name, content in contents.items():
        for command in ("quantize", "batch"):

            def setup(bench: cases.Bench, content=content) -> None:
                (bench.work / "all.flags").write_bytes(content)
                os.mkfifo(bench.work / "pipe")

            yield case(
                f"flagfile-{name}-{command}",
                "flagfiles",
                command,
                ["--flagfile=all.flags"],
                copies=(originals.KERAS,),
                setup=setup,
            )


def _names() -> Iterator[cases.Case]:
    """Paths that are too long, or of characters that break a line."""
    odd = {
        "long": "x" * 256,
        "long_path": "/".join(["y" * 200] * 30),
        "newline": "a\nerror: b",
        "escape": "\x1b[31mred",
        "undecodable": os.fsdecode(b"\xff\xfe"),
        "address": "gs://bucket/model",
        "home": "~nobody/x",
        "empty": "",
    }
    for name, odd_name in odd.items():
        uses = {
            "model": ("quantize", _quantize(odd_name)),
            "output": (
                "quantize",
                [
                    f"--saved_model={originals.KERAS}",
                    *originals.FAST,
                    f"--output={odd_name}.tflite",
                ],
            ),
            "samples": (
                "quantize",
                commands.with_samples("quantize", odd_name or " ")[0],
            ),
            "images": (
                "evaluate",
                commands.with_images("evaluate", odd_name)[0],
            ),
            "folder": (
                "batch",
                [
                    f"--models={originals.KERAS}",
                    "--dry_run",
                    f"--output_dir={odd_name}",
                ],
            ),
        }
        for use, (command, flags) in uses.items():
            yield case(
                f"name-{name}-{use}",
                "names",
                command,
                flags,
                copies=(originals.KERAS, originals.TFLITE),
                own=("out", odd_name or ".tflite", ".tflite"),
                check=lambda work: [],
            )


def _places() -> Iterator[cases.Case]:
    """Outputs that are, or hold, what is read; and files of others."""
    models = (originals.SAVED_MODEL, originals.KERAS, originals.HDF5)
    for model in models:
        for name, output, more in (
            ("same", model, ()),
            ("dotted", f"./x/../{model}", ()),
            ("simulated", model, ("--activation_bits=6",)),
            ("inside", f"{originals.SAVED_MODEL}/out.tflite", ()),
            ("link", "link", ()),
            ("hard_link", "hard", ()),
        ):
            yield _refused_place(f"{name}-{model}", model, output, more)
    yield case(
        "place-above",
        "outputs that are inputs",
        "quantize",
        [
            *_quantize("out/net.keras")[:-1],
            "--output=out",
            "--activation_bits=6",
        ],
        setup=_model_inside,
        own=(),
        allowed=(1,),
    )
    for name, output in (("samples", "own.npz"), ("link", "link")):
        flags = commands.with_samples("quantize", originals.OWN_NPZ)[0]
        yield case(
            f"place-samples-{name}",
            "outputs that are inputs",
            "quantize",
            [*flags[:-1], f"--output={output}"],
            copies=(originals.KERAS, originals.OWN_NPZ),
            setup=_links,
            own=(),
            allowed=(1,),
        )
    yield from _other_places()


def _refused_place(
    name: str, model: str, output: str, more: Sequence[str]
) -> cases.Case:
    return case(
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
        setup=_links,
        own=(),
        allowed=(1,),
    )


def _links(bench: cases.Bench) -> None:
    """`link` and `hard`: other names of the first original that is there."""
    (bench.work / "x").mkdir()
    for name in (originals.OWN_NPZ, originals.HDF5, originals.KERAS):
        if (bench.work / name).exists():
            os.symlink(name, bench.work / "link")
            os.link(bench.work / name, bench.work / "hard")
            return


def _model_inside(bench: cases.Bench) -> None:
    (bench.work / "out").mkdir()
    shutil.copyfile(
        bench.originals / originals.KERAS, bench.work / "out" / originals.KERAS
    )


def _other_places() -> Iterator[cases.Case]:
    both = (originals.IMAGES, originals.TFLITE)
    flags = [f"--model={originals.TFLITE}", f"--data={originals.IMAGES}"]
    for name, output in (("data", originals.IMAGES), ("model", "net.tflite")):
        yield case(
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
        yield case(
            f"place-image_samples-{pathlib.Path(output).name}",
            "outputs that are inputs",
            "image_samples",
            [f"--data={data}", f"--output={output}"],
            copies=(originals.IMAGES, originals.IMAGE_FOLDER),
            own=(),
            allowed=(1,),
        )
    yield case(
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
    yield case(
        "place-temporary",
        "files of others",
        "quantize",
        _quantize(originals.KERAS),
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


def _configs() -> Iterator[cases.Case]:
    """Texts in the place of a model's config."""
    for name, text in json_mutators.odd_texts().items():
        for path in (originals.KERAS, originals.HDF5):
            for command in ("quantize", "evaluate"):
                flags, needed = commands.with_model(command, path)
                yield case(
                    f"config-{name}-{path}-{command}",
                    "texts of configs",
                    command,
                    flags,
                    copies=(path, *needed),
                    setup=_config(path, text),
                    allowed=(1,),
                )
    flags, needed = commands.with_model("quantize", originals.KERAS)
    for name, member in (
        ("config", "config.json"),
        ("metadata", "metadata.json"),
        ("weights", "model.weights.h5"),
    ):
        yield case(
            f"vast-{name}",
            "sizes",
            "quantize",
            flags,
            copies=(originals.KERAS, *needed),
            setup=_vast(member),
        )


def _config(path: str, text: bytes) -> Setup:
    def setup(bench: cases.Bench) -> None:
        if path == originals.KERAS:
            members = archive_mutators.members_of(bench.work / path)
            members["config.json"] = text
            content = archive_mutators.archive(members)
            (bench.work / path).write_bytes(content)
            return
        import h5py

        with h5py.File(bench.work / path, "r+") as file:
            del file.attrs["model_config"]
            # Longer ones are no attribute, but a file of its own making.
            file.attrs["model_config"] = np.bytes_(text[:60_000] or b" ")

    return setup


def _vast(member: str) -> Setup:
    """A member that unpacks to far more than the archive holds."""

    def setup(bench: cases.Bench) -> None:
        path = bench.work / originals.KERAS
        members = archive_mutators.members_of(path)
        with zipfile.ZipFile(
            path, "w", zipfile.ZIP_DEFLATED, compresslevel=1
        ) as made:
            for name, content in members.items():
                if name != member:
                    made.writestr(name, content)
            with made.open(member, "w", force_zip64=True) as entry:
                for _ in range(_VAST >> 20):
                    entry.write(b" " * (1 << 20))

    return setup


def _arrays() -> Iterator[cases.Case]:
    """Samples and images of shapes and values that are none."""
    shape = (12, *originals.SHAPE)
    ones = np.ones(shape, np.float32)
    samples = {
        "none": np.zeros((0, *originals.SHAPE), np.float32),
        "one": np.random.default_rng(0).normal(size=(1, *originals.SHAPE)),
        "nan": np.full(shape, np.nan, np.float32),
        "inf": np.full(shape, np.inf, np.float32),
        "vast_values": ones * 1e38,
        "scalar": np.float32(3),
        "text": np.full(shape, "x"),
        "times": np.zeros(shape, "M8[s]"),
        "complex": ones.astype(np.complex64),
        "records": np.zeros(shape, [("a", "f4"), ("b", "f4")]),
        "flags": np.ones(shape, bool),
        "constant": ones,
        "flat": ones.reshape(12, -1),
        "swapped": ones.astype(">f4"),
    }
    for name, array in samples.items():
        for command in ("quantize", "figures"):
            flags, needed = commands.with_samples(command, "given.npz")
            yield case(
                f"array-samples-{name}-{command}",
                "arrays",
                command,
                flags,
                copies=needed,
                setup=_saved(image=array),
            )
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    labels = np.arange(12) % originals.CLASSES
    for name, arrays in {
        "none": {"images": images[:0], "labels": labels[:0]},
        "fewer_labels": {"images": images, "labels": labels[:5]},
        "text_labels": {"images": images, "labels": labels.astype(str)},
        "vast_labels": {"images": images, "labels": labels + 2**62},
        "unsigned": {
            "images": images,
            "labels": np.full(12, 2**64 - 1, np.uint64),
        },
        "negative": {"images": images, "labels": labels - 100},
        "text_images": {"images": np.full(shape, "x"), "labels": labels},
        "nan_images": {"images": ones * np.nan, "labels": labels},
        "scalar_images": {"images": np.uint8(3), "labels": labels},
        "flat_images": {"images": images.reshape(12, -1), "labels": labels},
        "no_images": {"labels": labels},
        "complex": {"images": ones.astype(complex), "labels": labels},
        "no_width": {"images": images[:, :, :0], "labels": labels},
    }.items():
        for command in ("evaluate", "image_samples", "batch"):
            flags, needed = commands.with_images(command, "given.npz")
            yield case(
                f"array-images-{name}-{command}",
                "arrays",
                command,
                flags,
                copies=needed,
                setup=_saved(**arrays),
            )


def _saved(**arrays) -> Setup:
    return lambda bench: np.savez(bench.work / "given.npz", **arrays)


def _metadata() -> Iterator[cases.Case]:
    """metadata.json of samples, where it is no dictionary."""
    flags, needed = commands.with_samples("quantize", originals.SAMPLES)
    for name, text in json_mutators.odd_texts().items():

        def setup(bench: cases.Bench, text=text) -> None:
            path = bench.work / originals.SAMPLES
            members = archive_mutators.members_of(path)
            members["metadata.json"] = text
            path.write_bytes(archive_mutators.archive(members))

        yield case(
            f"metadata-{name}",
            "metadata of samples",
            "quantize",
            flags,
            copies=(originals.SAMPLES, *needed),
            setup=setup,
        )


def _records() -> Iterator[cases.Case]:
    """Files in the place of runs.sqlite."""
    path = f"{originals.RECORD}/runs.sqlite"

    def sql(text: str) -> Setup:
        def setup(bench: cases.Bench) -> None:
            database = sqlite3.connect(bench.work / path)
            database.executescript(text)
            database.close()

        return setup

    def content(change: Callable[[bytes], bytes]) -> Setup:
        def setup(bench: cases.Bench) -> None:
            file = bench.work / path
            file.write_bytes(change(file.read_bytes()))

        return setup

    def journal(bench: cases.Bench) -> None:
        name = bench.work / f"{path}-journal"
        name.write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + b"\xff" * 600)

    def folder(bench: cases.Bench) -> None:
        (bench.work / path).unlink()
        (bench.work / path).mkdir()

    for name, setup in {
        "half": content(lambda c: c[: len(c) // 2]),
        "page": content(lambda c: c[:4096]),
        "header": content(lambda c: c[:100]),
        "three": content(lambda c: c[:3]),
        "empty": content(lambda c: b""),
        "text": content(lambda c: b"no database\n" * 50),
        "folder": folder,
        "journal": journal,
        "version": sql("PRAGMA user_version = 99"),
        "no_table": sql("DROP TABLE runs"),
        "other_table": sql("DROP TABLE runs; CREATE TABLE runs (a, b);"),
        "view": sql(
            "ALTER TABLE runs RENAME TO r; CREATE VIEW runs AS SELECT 1;"
        ),
        "locked": sql("PRAGMA journal_mode = WAL"),
        "nulls": sql(
            "PRAGMA writable_schema = 1; UPDATE sqlite_master SET sql = 'x';"
        ),
    }.items():
        for more in (
            ("--export=out.md",),
            (f"--models={originals.KERAS}", "--dry_run"),
        ):
            yield case(
                f"record-{name}-{'export' if len(more) == 1 else 'plan'}",
                "runs.sqlite",
                "batch",
                [f"--output_dir={originals.RECORD}", *more],
                copies=(originals.RECORD, originals.KERAS),
                setup=setup,
                own=("out", f"{originals.RECORD}/.lock", f"{path}-"),
            )


def _states() -> Iterator[cases.Case]:
    """What may lie in the place of state that a killed run has left."""
    run = "out.tflite.run"
    journal, parts = f"{run}/samples.parts/journal.json", f"{run}/samples.parts"
    key = f"{run}/rounding.parts/key.txt"
    for name, path, make in (
        ("journal_folder", journal, lambda path: path.mkdir()),
        ("journal_text", journal, lambda path: path.write_bytes(b"\xff\xfe")),
        (
            "journal_deep",
            journal,
            lambda path: path.write_bytes(json_mutators.odd_texts()["deep"]),
        ),
        ("parts_file", parts, lambda path: path.write_text("x")),
        ("parts_pipe", f"{parts}/0.npy", os.mkfifo),
        ("pack_folder", f"{run}/samples.npz", lambda path: path.mkdir()),
        ("pack_pipe", f"{run}/samples.npz", os.mkfifo),
        ("pack_text", f"{run}/samples.npz", lambda path: path.write_text("x")),
        ("distances_folder", f"{run}/distances.csv", lambda path: path.mkdir()),
        ("report_folder", f"{run}/report.json", lambda path: path.mkdir()),
        (
            "rounding_file",
            f"{run}/rounding.parts",
            lambda path: path.write_text("x"),
        ),
        ("rounding_key", key, lambda path: path.write_bytes(b"\xff\xfe")),
        ("rounding_key_folder", key, lambda path: path.mkdir()),
    ):
        is_rounding = name.startswith("rounding")
        state = originals.LEARNED if is_rounding else originals.SYNTHESIS
        yield case(
            f"state-{name}",
            "resume state",
            "quantize",
            [f"--saved_model={originals.KERAS}", *state, "--output=out.tflite"],
            copies=(originals.KERAS,),
            setup=_in_place(path, make),
            allowed=(0, 1, 2),
        )


def _in_place(path: str, make: Callable[[pathlib.Path], object]) -> Setup:
    def setup(bench: cases.Bench) -> None:
        (bench.work / path).parent.mkdir(parents=True)
        make(bench.work / path)

    return setup
