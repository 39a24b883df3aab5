"""Seeded damage to every format that a command reads.

Each case takes an original, damages it by one mutator, and hands it to one
command. What the hand knows better is in `handmade`.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pathlib
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tools.faults import (
    archive_mutators,
    attempts,
    byte_mutators,
    cases,
    commands,
    hdf5_mutators,
    json_mutators,
    originals,
    proto_mutators,
    tflite_mutators,
)

Damage = Callable[[cases.Bench], None]
_BYTES = tuple(byte_mutators.MUTATORS)
_CONFIG, _WEIGHTS, _META = "config.json", "model.weights.h5", "metadata.json"
_VARIABLES = "saved_model/variables/variables."


def all_cases() -> list[cases.Case]:
    """Every seeded case of a malformed input."""
    makers = (
        *(_controls, _saved_models, _keras_archives, _hdf5_files),
        *(_samples, _images),
        *(_tflite_files, _flagfiles, _records, _states),
    )
    return [case for maker in makers for case in maker()]


def _case(name: str, kind: str, attempt: attempts.Attempt) -> cases.Case:
    return cases.Case(f"malformed/{name}", kind, attempt)


def _named(
    number: int, names: Sequence[str], start: int = 0
) -> Iterator[tuple[int, str]]:
    """(number, name) as often as asked, names in turn."""
    for index in range(number):
        yield index, names[(index + start) % len(names)]


def _on_model(command: str, path: str, damage: Damage) -> attempts.Attempt:
    """A damaged model for a command; `path` is the original's name."""

    def prepare(bench: cases.Bench) -> Sequence[str]:
        flags, needed = commands.with_model(command, path)
        originals.copy(bench, path, *needed)
        damage(bench)
        return flags

    return attempts.Attempt(command, prepare, check=commands.check)


def _controls() -> Iterator[cases.Case]:
    """Originals without damage: whatever refuses these passes no other case."""
    models = (
        *(originals.SAVED_MODEL, originals.GRAPH, originals.KERAS),
        *(originals.HDF5, originals.HDF5_2),
    )
    made = {
        f"{command}-{path}": _on_model(command, path, _none)
        for path in models
        for command in commands.MODEL_COMMANDS
    }
    for path in (originals.TFLITE, originals.FLOAT_TFLITE):
        made[f"evaluate-{path}"] = _on_model("evaluate", path, _none)
    for path in (originals.SAMPLES, originals.OWN_NPZ, originals.OWN_NPY):
        made[f"samples-{path}"] = _on_samples("quantize", path, _none)
    for path in (originals.IMAGES, originals.IMAGE_FOLDER):
        for command in ("evaluate", "image_samples", "batch"):
            made[f"{command}-{path}"] = _on_images(command, path, _none)
    for dry_run in (False, True):
        made[f"record-{dry_run}"] = _on_record(_none, dry_run=dry_run)
    for name, attempt in made.items():
        attempt = dataclasses.replace(attempt, allowed=(0, 2))
        yield _case(f"whole-{name}", "whole inputs, accepted", attempt)


def _none(bench: cases.Bench) -> None:
    """Does no damage."""
    del bench


def damaged_bytes(name: str, how: str) -> Damage:
    """Damages a file of the case by a mutator of bytes."""

    def damage(bench: cases.Bench) -> None:
        path = bench.work / name
        content = path.read_bytes()
        mutator = byte_mutators.MUTATORS[how]
        while (changed := mutator(content, bench.rng)) == content:
            pass
        path.write_bytes(changed)

    return damage


def _saved_models() -> Iterator[cases.Case]:
    pb = f"{originals.SAVED_MODEL}/saved_model.pb"
    for index, how in _named(36, _BYTES):
        command = "evaluate" if index % 4 == 3 else "quantize"
        yield _case(
            f"saved_model-{how}-{index}",
            "SavedModel: bytes",
            _on_model(command, originals.SAVED_MODEL, damaged_bytes(pb, how)),
        )
    for index, model in _named(
        48, (originals.SAVED_MODEL, originals.GRAPH, originals.SAVED_MODEL)
    ):
        command = "evaluate" if index % 5 == 4 else "quantize"
        yield _case(
            f"saved_model-message-{index}",
            "SavedModel: messages",
            _on_model(command, model, _message(f"{model}/saved_model.pb")),
        )
    for index, how in _named(20, _BYTES):
        part = "index" if index % 2 else "data-00000-of-00001"
        yield _case(
            f"variables-{how}-{index}",
            "SavedModel: variables",
            _on_model(
                "quantize",
                originals.SAVED_MODEL,
                damaged_bytes(f"{_VARIABLES}{part}", how),
            ),
        )


def _message(name: str) -> Damage:
    def damage(bench: cases.Bench) -> None:
        from tensorflow.core.protobuf import saved_model_pb2

        path = bench.work / name
        model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
        proto_mutators.mutate(model, bench.rng)
        path.write_bytes(model.SerializeToString())

    return damage


def _keras_archives() -> Iterator[cases.Case]:
    path = originals.KERAS
    for index, how in _named(20, _BYTES):
        yield _case(
            f"keras-{how}-{index}",
            ".keras: bytes",
            _on_model(
                "evaluate" if index % 4 == 3 else "quantize",
                path,
                damaged_bytes(path, how),
            ),
        )
    for index, how in _named(20, tuple(archive_mutators.STRUCTURE)):
        yield _case(
            f"keras-archive-{how}-{index}",
            ".keras: archive",
            _on_model("quantize", path, _structure(path, how)),
        )
    for index, command in _named(45, ("quantize", "quantize", "evaluate")):
        yield _case(
            f"keras-config-{index}",
            ".keras: config.json",
            _on_model(command, path, _config_member(path, _CONFIG)),
        )
    for index, how in _named(15, tuple(hdf5_mutators.MUTATORS)):
        yield _case(
            f"keras-weights-{how}-{index}",
            ".keras: weights",
            _on_model("quantize", path, _weights_member(how)),
        )


def _structure(name: str, how: str) -> Damage:
    def damage(bench: cases.Bench) -> None:
        path = bench.work / name
        members = archive_mutators.members_of(path)
        mutator = archive_mutators.STRUCTURE[how]
        path.write_bytes(mutator(members, bench.rng))

    return damage


def _config_member(name: str, member: str) -> Damage:
    def damage(bench: cases.Bench) -> None:
        path = bench.work / name
        members = archive_mutators.members_of(path)
        document = json.loads(members[member])
        members[member] = json_mutators.mutate(document, bench.rng).encode()
        path.write_bytes(archive_mutators.archive(members))

    return damage


def _weights_member(how: str) -> Damage:
    def damage(bench: cases.Bench) -> None:
        path = bench.work / originals.KERAS
        members = archive_mutators.members_of(path)
        weights = bench.folder / "tmp" / _WEIGHTS
        weights.write_bytes(members[_WEIGHTS])
        hdf5_mutators.mutate(weights, how, bench.rng)
        members[_WEIGHTS] = weights.read_bytes()
        weights.unlink()
        path.write_bytes(archive_mutators.archive(members))

    return damage


def _hdf5_files() -> Iterator[cases.Case]:
    names = (originals.HDF5, originals.HDF5_2)
    for index, how in _named(20, _BYTES):
        path = names[index % 2]
        yield _case(
            f"h5-{how}-{index}",
            ".h5: bytes",
            _on_model("quantize", path, damaged_bytes(path, how)),
        )
    for index, path in _named(45, names):
        command = "evaluate" if index % 3 == 2 else "quantize"
        yield _case(
            f"h5-config-{index}",
            ".h5: model_config",
            _on_model(command, path, _model_config(path)),
        )
    for index, how in _named(20, tuple(hdf5_mutators.MUTATORS)):
        path = names[index % 2]
        yield _case(
            f"h5-{how}-{index}",
            ".h5: structure",
            _on_model("quantize", path, _hdf5(path, how)),
        )


def _model_config(name: str) -> Damage:
    def damage(bench: cases.Bench) -> None:
        import h5py

        with h5py.File(bench.work / name, "r+") as file:
            document = json.loads(file.attrs["model_config"])
            text = json_mutators.mutate(document, bench.rng)
            file.attrs["model_config"] = text[:60_000]

    return damage


def _hdf5(name: str, how: str) -> Damage:
    return lambda bench: hdf5_mutators.mutate(bench.work / name, how, bench.rng)


def _on_samples(command: str, path: str, damage: Damage) -> attempts.Attempt:
    def prepare(bench: cases.Bench) -> Sequence[str]:
        flags, needed = commands.with_samples(command, path)
        originals.copy(bench, path, *needed)
        damage(bench)
        return flags

    return attempts.Attempt(command, prepare, check=commands.check)


def _samples() -> Iterator[cases.Case]:
    sources = (originals.SAMPLES, originals.OWN_NPZ, originals.OWN_NPY)
    for index, how in _named(27, _BYTES):
        path = sources[index % 3]
        yield _case(
            f"samples-{how}-{index}",
            "samples: bytes",
            _on_samples("quantize", path, damaged_bytes(path, how)),
        )
    for index, path in _named(36, (originals.OWN_NPY, originals.OWN_NPZ)):
        command = "figures" if index % 4 == 3 else "quantize"
        yield _case(
            f"samples-header-{index}",
            "samples: headers",
            _on_samples(command, path, _header(path, "image.npy")),
        )
    for index, how in _named(12, tuple(archive_mutators.STRUCTURE)):
        yield _case(
            f"samples-archive-{how}-{index}",
            "samples: archive",
            _on_samples(
                "quantize",
                originals.SAMPLES,
                _structure(originals.SAMPLES, how),
            ),
        )
    for index in range(15):
        yield _case(
            f"samples-metadata-{index}",
            "samples: metadata",
            _on_samples(
                "quantize",
                originals.SAMPLES,
                _config_member(originals.SAMPLES, _META),
            ),
        )


def _header(name: str, member: str) -> Damage:
    """A header that is wrong: of the file, or of a member of the archive."""

    def damage(bench: cases.Bench) -> None:
        path = bench.work / name
        if path.suffix == ".npy":
            array = np.load(path)
            content = archive_mutators.with_header(array, bench.rng)
            path.write_bytes(content)
            return
        members = archive_mutators.members_of(path)
        array = np.load(io.BytesIO(members[member]))
        members[member] = archive_mutators.with_header(array, bench.rng)
        path.write_bytes(archive_mutators.archive(members))

    return damage


def _on_images(command: str, path: str, damage: Damage) -> attempts.Attempt:
    def prepare(bench: cases.Bench) -> Sequence[str]:
        flags, needed = commands.with_images(command, path)
        originals.copy(bench, path, *needed)
        damage(bench)
        return flags

    return attempts.Attempt(command, prepare, check=commands.check_or_nothing)


def _images() -> Iterator[cases.Case]:
    three = ("evaluate", "image_samples", "batch")
    for index, how in _named(12, _BYTES):
        yield _case(
            f"images-{how}-{index}",
            "images: .npz",
            _on_images(
                three[index % 3],
                originals.IMAGES,
                damaged_bytes(originals.IMAGES, how),
            ),
        )
    for index, command in _named(18, three):
        member = ("images.npy", "labels.npy")[index % 2]
        yield _case(
            f"images-header-{index}",
            "images: .npz",
            _on_images(
                command, originals.IMAGES, _header(originals.IMAGES, member)
            ),
        )
    for index, how in _named(20, _BYTES):
        folder, one = (
            (originals.IMAGE_FOLDER, "3.jpg"),
            (originals.CLASS_FOLDER, "class2/6.png"),
        )[index % 2]
        yield _case(
            f"pictures-{how}-{index}",
            "images: JPEG, PNG",
            _on_images(
                ("evaluate", "image_samples")[index // 2 % 2],
                folder,
                damaged_bytes(f"{folder}/{one}", how),
            ),
        )


def _tflite_files() -> Iterator[cases.Case]:
    names = (originals.TFLITE, originals.FLOAT_TFLITE)
    for index, how in _named(18, _BYTES):
        path = names[index % 2]
        yield _case(
            f"tflite-{how}-{index}",
            ".tflite: bytes",
            _on_model("evaluate", path, damaged_bytes(path, how)),
        )
    for index, path in _named(24, names):
        yield _case(
            f"tflite-fields-{index}",
            ".tflite: fields",
            _on_model("evaluate", path, _fields(path)),
        )


def _fields(name: str) -> Damage:
    def damage(bench: cases.Bench) -> None:
        path = bench.work / name
        content = path.read_bytes()
        path.write_bytes(tflite_mutators.mutate(content, bench.rng))

    return damage


def _flagfiles() -> Iterator[cases.Case]:
    for index, how in _named(18, _BYTES):
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
            damaged_bytes("all.flags", how)(bench)
            return ["--flagfile=all.flags"]

        # A name of the output may be what is damaged.
        attempt = attempts.Attempt(
            command, prepare, own=("",), check=lambda work: []
        )
        yield _case(f"flagfile-{how}-{index}", "flagfiles", attempt)


def _records() -> Iterator[cases.Case]:
    path = f"{originals.RECORD}/runs.sqlite"
    for index, how in _named(18, _BYTES):
        yield _case(
            f"record-{how}-{index}",
            "runs.sqlite",
            _on_record(damaged_bytes(path, how), dry_run=index % 3 == 2),
        )
    for index, column in _named(
        12, ("config", "metrics", "artifact", "folder", "status", "kind")
    ):
        yield _case(
            f"record-{column}-{index}",
            "runs.sqlite",
            _on_record(_column(path, column), dry_run=index % 3 == 2),
        )


def _on_record(damage: Damage, *, dry_run: bool) -> attempts.Attempt:
    def prepare(bench: cases.Bench) -> Sequence[str]:
        originals.copy(bench, originals.RECORD, originals.KERAS)
        damage(bench)
        flags = [f"--output_dir={originals.RECORD}"]
        if dry_run:
            return [*flags, f"--models={originals.KERAS}", "--dry_run"]
        return [*flags, "--export=out.csv"]

    return attempts.Attempt("batch", prepare, own=("out", "record/.lock"))


def _column(name: str, column: str) -> Damage:
    """A value that the database takes, once it does not look."""

    def damage(bench: cases.Bench) -> None:
        database = sqlite3.connect(bench.work / name)
        text = database.execute(f"SELECT {column} FROM runs").fetchone()[0]
        if column in ("config", "metrics"):
            found = json_mutators.mutate(json.loads(text), bench.rng)
        else:
            odd = ("", "../..", "x" * 5000, "/", "\n", "\x00", "done ")
            found = odd[int(bench.rng.integers(len(odd)))]
        database.execute("PRAGMA ignore_check_constraints = 1")
        with database:
            database.execute(
                f"UPDATE OR IGNORE runs SET {column} = ?"
                " WHERE key IN ('key1', 'key3')",
                (found,),
            )
        database.close()

    return damage


def _states() -> Iterator[cases.Case]:
    """State that a killed run has left: a fault of the disk, not of a user."""
    synthesis, learned = originals.SYNTHESIS_RUN, originals.LEARNED_RUN
    parts = "out.tflite.run/samples.parts"
    finished = originals.FINISHED_RUN
    for index, how in _named(12, _BYTES):
        damage = damaged_bytes(f"{parts}/journal.json", how)
        yield _state(f"journal-{how}-{index}", synthesis, damage)
    for index in range(9):
        yield _state(f"journal-json-{index}", synthesis, _journal(parts))
    for index, how in _named(9, _BYTES, 1):
        damage = damaged_bytes(f"{parts}/0.npy", how)
        yield _state(f"parts-{how}-{index}", synthesis, damage)
    for index, how in _named(12, _BYTES):
        damage = damaged_bytes("out.tflite.run/samples.npz", how)
        yield _state(f"pack-{how}-{index}", finished, damage, same=True)
    for index, how in _named(9, _BYTES, 4):
        yield _state(f"rounding-{how}-{index}", learned, _layer(how), same=True)


def _journal(parts: str) -> Damage:
    def damage(bench: cases.Bench) -> None:
        path = bench.work / parts / "journal.json"
        document = json.loads(path.read_text())
        path.write_text(json_mutators.mutate(document, bench.rng))

    return damage


def _layer(how: str) -> Damage:
    """Damages a layer that a killed run had finished."""

    def damage(bench: cases.Bench) -> None:
        folder = bench.work / "out.tflite.run" / "rounding.parts"
        path = sorted(folder.glob("*.npz"))[0]
        damaged_bytes(str(path.relative_to(bench.work)), how)(bench)

    return damage


def _state(
    name: str, run: str, damage: Damage, *, same: bool = False
) -> cases.Case:
    """A run that finds damaged state, and has to come to an end.

    Args:
      name: of the case.
      run: the run that was killed.
      damage: what has become of its state.
      same: whether the damage can be told, so that the result must be that of
        a run that was never interrupted.
    """

    def prepare(bench: cases.Bench) -> Sequence[str]:
        originals.copy(bench, originals.SAVED_MODEL)
        shutil.copytree(
            bench.originals / originals.KILLED / run,
            bench.work,
            dirs_exist_ok=True,
        )
        damage(bench)
        whole = bench.originals / originals.WHOLE / run / commands.TFLITE
        os.symlink(whole, bench.folder / "whole")
        return [
            f"--saved_model={originals.SAVED_MODEL}",
            *originals.state_of(run),
            f"--output={commands.TFLITE}",
        ]

    attempt = attempts.Attempt(
        "quantize",
        prepare,
        allowed=(0, 2),
        check=_check_same if same else commands.check,
    )
    return _case(f"state-{name}", "resume state", attempt)


def _check_same(work: pathlib.Path) -> Sequence[str]:
    if (work / commands.TFLITE).read_bytes() != (
        work.parent / "whole"
    ).read_bytes():
        return ["output: not that of a run without damaged state"]
    return commands.check(work)
