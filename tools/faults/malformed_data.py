"""Seeded damage to samples, images and flagfiles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tools.faults import (
    archive_mutators,
    attempts,
    byte_mutators,
    cases,
    commands,
    damage,
    originals,
)


def on_samples(
    command: str, path: str, harm: damage.Damage
) -> attempts.Attempt:
    """Damaged samples for a command; `path` is the original's name."""

    def prepare(bench: cases.Bench) -> Sequence[str]:
        flags, needed = commands.with_samples(command, path)
        originals.copy(bench, path, *needed)
        harm(bench)
        return flags

    return attempts.Attempt(command, prepare, check=commands.check)


def samples() -> Iterator[cases.Case]:
    """Damage to samples."""
    sources = (originals.SAMPLES, originals.OWN_NPZ, originals.OWN_NPY)
    for index, how in attempts.in_turn(27, byte_mutators.NAMES):
        path = sources[index % 3]
        yield attempts.malformed(
            f"samples-{how}-{index}",
            "samples: bytes",
            on_samples("quantize", path, damage.of_bytes(path, how)),
        )
    for index, path in attempts.in_turn(
        36, (originals.OWN_NPY, originals.OWN_NPZ)
    ):
        command = "figures" if index % 4 == 3 else "quantize"
        yield attempts.malformed(
            f"samples-header-{index}",
            "samples: headers",
            on_samples(command, path, damage.of_header(path, "image.npy")),
        )
    for index, how in attempts.in_turn(12, tuple(archive_mutators.STRUCTURE)):
        yield attempts.malformed(
            f"samples-archive-{how}-{index}",
            "samples: archive",
            on_samples(
                "quantize",
                originals.SAMPLES,
                damage.of_archive(originals.SAMPLES, how),
            ),
        )
    for index in range(15):
        yield attempts.malformed(
            f"samples-metadata-{index}",
            "samples: metadata",
            on_samples(
                "quantize",
                originals.SAMPLES,
                damage.of_json_member(originals.SAMPLES, damage.METADATA),
            ),
        )


def on_images(command: str, path: str, harm: damage.Damage) -> attempts.Attempt:
    """Damaged images for a command; `path` is the original's name."""

    def prepare(bench: cases.Bench) -> Sequence[str]:
        flags, needed = commands.with_images(command, path)
        originals.copy(bench, path, *needed)
        harm(bench)
        return flags

    return attempts.Attempt(command, prepare, check=commands.check_or_nothing)


def images() -> Iterator[cases.Case]:
    """Damage to images and labels."""
    three = ("evaluate", "image_samples", "batch")
    for index, how in attempts.in_turn(12, byte_mutators.NAMES):
        yield attempts.malformed(
            f"images-{how}-{index}",
            "images: .npz",
            on_images(
                three[index % 3],
                originals.IMAGES,
                damage.of_bytes(originals.IMAGES, how),
            ),
        )
    for index, command in attempts.in_turn(18, three):
        member = ("images.npy", "labels.npy")[index % 2]
        yield attempts.malformed(
            f"images-header-{index}",
            "images: .npz",
            on_images(
                command,
                originals.IMAGES,
                damage.of_header(originals.IMAGES, member),
            ),
        )
    for index, how in attempts.in_turn(20, byte_mutators.NAMES):
        folder, one = (
            (originals.IMAGE_FOLDER, "3.jpg"),
            (originals.CLASS_FOLDER, "class2/6.png"),
        )[index % 2]
        yield attempts.malformed(
            f"pictures-{how}-{index}",
            "images: JPEG, PNG",
            on_images(
                ("evaluate", "image_samples")[index // 2 % 2],
                folder,
                damage.of_bytes(f"{folder}/{one}", how),
            ),
        )


def flagfiles() -> Iterator[cases.Case]:
    """Damage to flagfiles."""
    for index, how in attempts.in_turn(18, byte_mutators.NAMES):
        command = ("quantize", "batch", "evaluate")[index % 3]

        def prepare(bench: cases.Bench, command=command, how=how):
            model = originals.KERAS
            if command == "batch":
                flags = [f"--models={model}", "--dry_run", "--output_dir=out"]
                needed: tuple[str, ...] = ()
            else:
                flags, needed = commands.with_model(command, model)
            originals.copy(bench, model, *needed)
            (bench.work / "all.flags").write_text("\n".join(flags) + "\n")
            damage.of_bytes("all.flags", how)(bench)
            return ["--flagfile=all.flags"]

        # A name of the output may be what is damaged.
        attempt = attempts.Attempt(
            command, prepare, own=("",), check=lambda work: []
        )
        yield attempts.malformed(
            f"flagfile-{how}-{index}", "flagfiles", attempt
        )
