"""Damage to the inputs of a case: what a mutator does to which file."""

from __future__ import annotations

import io
import json
import sqlite3
from collections.abc import Callable

import numpy as np

from tools.faults import (
    archive_mutators,
    byte_mutators,
    cases,
    hdf5_mutators,
    json_mutators,
    originals,
    proto_mutators,
    tflite_mutators,
)

Damage = Callable[[cases.Bench], None]


CONFIG, WEIGHTS, METADATA = "config.json", "model.weights.h5", "metadata.json"


def none(bench: cases.Bench) -> None:
    """Does no damage."""
    del bench


def of_bytes(name: str, how: str) -> Damage:
    """Damages a file of the case by a mutator of bytes."""

    def damage(bench: cases.Bench) -> None:
        path = bench.work / name
        content = path.read_bytes()
        mutator = byte_mutators.MUTATORS[how]
        while (changed := mutator(content, bench.rng)) == content:
            pass
        path.write_bytes(changed)

    return damage


def of_message(name: str) -> Damage:
    """Damages a saved_model.pb by a mutator of messages."""

    def damage(bench: cases.Bench) -> None:
        from tensorflow.core.protobuf import saved_model_pb2

        path = bench.work / name
        model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
        proto_mutators.mutate(model, bench.rng)
        path.write_bytes(model.SerializeToString())

    return damage


def of_archive(name: str, how: str) -> Damage:
    """Damages the structure of an archive."""

    def damage(bench: cases.Bench) -> None:
        path = bench.work / name
        members = archive_mutators.members_of(path)
        mutator = archive_mutators.STRUCTURE[how]
        path.write_bytes(mutator(members, bench.rng))

    return damage


def of_json_member(name: str, member: str) -> Damage:
    """Damages the JSON of a member of an archive."""

    def damage(bench: cases.Bench) -> None:
        path = bench.work / name
        members = archive_mutators.members_of(path)
        document = json.loads(members[member])
        members[member] = json_mutators.mutate(document, bench.rng).encode()
        path.write_bytes(archive_mutators.archive(members))

    return damage


def of_weights(how: str) -> Damage:
    """Damages the weights inside a .keras."""

    def damage(bench: cases.Bench) -> None:
        path = bench.work / originals.KERAS
        members = archive_mutators.members_of(path)
        weights = bench.folder / "tmp" / WEIGHTS
        weights.write_bytes(members[WEIGHTS])
        hdf5_mutators.mutate(weights, how, bench.rng)
        members[WEIGHTS] = weights.read_bytes()
        weights.unlink()
        path.write_bytes(archive_mutators.archive(members))

    return damage


def of_model_config(name: str) -> Damage:
    """Damages the JSON of the config in an .h5."""

    def damage(bench: cases.Bench) -> None:
        import h5py

        with h5py.File(bench.work / name, "r+") as file:
            document = json.loads(file.attrs["model_config"])
            text = json_mutators.mutate(document, bench.rng)
            file.attrs["model_config"] = text[:60_000]

    return damage


def of_hdf5(name: str, how: str) -> Damage:
    """Damages an .h5 by a mutator of HDF5."""
    return lambda bench: hdf5_mutators.mutate(bench.work / name, how, bench.rng)


def of_header(name: str, member: str) -> Damage:
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


def of_tflite(name: str) -> Damage:
    """Damages the fields of a .tflite."""

    def damage(bench: cases.Bench) -> None:
        path = bench.work / name
        content = path.read_bytes()
        path.write_bytes(tflite_mutators.mutate(content, bench.rng))

    return damage


def of_record(name: str, column: str) -> Damage:
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


def of_journal(parts: str) -> Damage:
    """Damages the JSON of the journal of samples under way."""

    def damage(bench: cases.Bench) -> None:
        path = bench.work / parts / "journal.json"
        document = json.loads(path.read_text())
        path.write_text(json_mutators.mutate(document, bench.rng))

    return damage


def of_layer(how: str) -> Damage:
    """Damages a layer that a killed run had finished."""

    def damage(bench: cases.Bench) -> None:
        folder = bench.work / "out.tflite.run" / "rounding.parts"
        path = sorted(folder.glob("*.npz"))[0]
        of_bytes(str(path.relative_to(bench.work)), how)(bench)

    return damage
