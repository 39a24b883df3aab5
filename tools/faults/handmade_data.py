"""Configs, arrays and metadata that are whole files, and wrong."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator

import numpy as np

from tools.faults import (
    archive_mutators,
    cases,
    commands,
    given,
    json_mutators,
    originals,
)

# Bytes of a config.json that is refused, not read.
_VAST = 300 << 20


def configs() -> Iterator[cases.Case]:
    """Texts in the place of a model's config."""
    for name, text in json_mutators.odd_texts().items():
        for path in (originals.KERAS, originals.HDF5):
            for command in ("quantize", "evaluate"):
                flags, needed = commands.with_model(command, path)
                yield given.case(
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
        yield given.case(
            f"vast-{name}",
            "sizes",
            "quantize",
            flags,
            copies=(originals.KERAS, *needed),
            setup=_vast(member),
        )


def _config(path: str, text: bytes) -> given.Setup:
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


def _vast(member: str) -> given.Setup:
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


def arrays() -> Iterator[cases.Case]:
    """Samples and images of shapes and values that are none."""
    for kind, found, commands_of in (
        ("samples", _odd_samples(), ("quantize", "figures")),
        ("images", _odd_images(), ("evaluate", "image_samples", "batch")),
    ):
        ask = {
            "samples": commands.with_samples,
            "images": commands.with_images,
        }[kind]
        for name, arrays in found.items():
            for command in commands_of:
                flags, needed = ask(command, "given.npz")
                yield given.case(
                    f"array-{kind}-{name}-{command}",
                    "arrays",
                    command,
                    flags,
                    copies=needed,
                    setup=_saved(**arrays),
                )


def _odd_samples() -> dict[str, dict[str, np.ndarray]]:
    shape = (12, *originals.SHAPE)
    ones = np.ones(shape, np.float32)
    found = {
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
    return {name: {"image": array} for name, array in found.items()}


def _odd_images() -> dict[str, dict[str, np.ndarray]]:
    shape = (12, *originals.SHAPE)
    ones = np.ones(shape, np.float32)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    labels = np.arange(12) % originals.CLASSES
    return {
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
    }


def _saved(**arrays) -> given.Setup:
    return lambda bench: np.savez(bench.work / "given.npz", **arrays)


def metadata() -> Iterator[cases.Case]:
    """metadata.json of samples, where it is no dictionary."""
    flags, needed = commands.with_samples("quantize", originals.SAMPLES)
    for name, text in json_mutators.odd_texts().items():

        def setup(bench: cases.Bench, text=text) -> None:
            path = bench.work / originals.SAMPLES
            members = archive_mutators.members_of(path)
            members["metadata.json"] = text
            path.write_bytes(archive_mutators.archive(members))

        yield given.case(
            f"metadata-{name}",
            "metadata of samples",
            "quantize",
            flags,
            copies=(originals.SAMPLES, *needed),
            setup=setup,
        )
