"""Seeded damage to models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tools.faults import (
    archive_mutators,
    attempts,
    byte_mutators,
    cases,
    commands,
    damage,
    hdf5_mutators,
    originals,
)

_VARIABLES = "saved_model/variables/variables."


def on_model(command: str, path: str, harm: damage.Damage) -> attempts.Attempt:
    """A damaged model for a command; `path` is the original's name."""

    def prepare(bench: cases.Bench) -> Sequence[str]:
        flags, needed = commands.with_model(command, path)
        originals.copy(bench, path, *needed)
        harm(bench)
        return flags

    return attempts.Attempt(command, prepare, check=commands.check)


def saved_models() -> Iterator[cases.Case]:
    """Damage to SavedModels."""
    pb = f"{originals.SAVED_MODEL}/saved_model.pb"
    for index, how in attempts.in_turn(36, byte_mutators.NAMES):
        command = "evaluate" if index % 4 == 3 else "quantize"
        yield attempts.malformed(
            f"saved_model-{how}-{index}",
            "SavedModel: bytes",
            on_model(command, originals.SAVED_MODEL, damage.of_bytes(pb, how)),
        )
    for index, model in attempts.in_turn(
        48, (originals.SAVED_MODEL, originals.GRAPH, originals.SAVED_MODEL)
    ):
        command = "evaluate" if index % 5 == 4 else "quantize"
        yield attempts.malformed(
            f"saved_model-message-{index}",
            "SavedModel: messages",
            on_model(
                command, model, damage.of_message(f"{model}/saved_model.pb")
            ),
        )
    for index, how in attempts.in_turn(20, byte_mutators.NAMES):
        part = "index" if index % 2 else "data-00000-of-00001"
        yield attempts.malformed(
            f"variables-{how}-{index}",
            "SavedModel: variables",
            on_model(
                "quantize",
                originals.SAVED_MODEL,
                damage.of_bytes(f"{_VARIABLES}{part}", how),
            ),
        )


def keras_archives() -> Iterator[cases.Case]:
    """Damage to .keras files."""
    path = originals.KERAS
    for index, how in attempts.in_turn(20, byte_mutators.NAMES):
        yield attempts.malformed(
            f"keras-{how}-{index}",
            ".keras: bytes",
            on_model(
                "evaluate" if index % 4 == 3 else "quantize",
                path,
                damage.of_bytes(path, how),
            ),
        )
    for index, how in attempts.in_turn(20, tuple(archive_mutators.STRUCTURE)):
        yield attempts.malformed(
            f"keras-archive-{how}-{index}",
            ".keras: archive",
            on_model("quantize", path, damage.of_archive(path, how)),
        )
    for index, command in attempts.in_turn(
        45, ("quantize", "quantize", "evaluate")
    ):
        yield attempts.malformed(
            f"keras-config-{index}",
            ".keras: config.json",
            on_model(command, path, damage.of_json_member(path, damage.CONFIG)),
        )
    for index, how in attempts.in_turn(15, tuple(hdf5_mutators.MUTATORS)):
        yield attempts.malformed(
            f"keras-weights-{how}-{index}",
            ".keras: weights",
            on_model("quantize", path, damage.of_weights(how)),
        )


def graph_defs() -> Iterator[cases.Case]:
    """Damage to frozen GraphDefs."""
    path = originals.GRAPH_DEF
    for index, how in attempts.in_turn(30, byte_mutators.NAMES):
        yield attempts.malformed(
            f"graph_def-{how}-{index}",
            "GraphDef: bytes",
            on_model(
                "evaluate" if index % 4 == 3 else "quantize",
                path,
                damage.of_bytes(path, how),
            ),
        )


def hdf5_files() -> Iterator[cases.Case]:
    """Damage to .h5 files."""
    names = (originals.HDF5, originals.HDF5_2)
    for index, how in attempts.in_turn(20, byte_mutators.NAMES):
        path = names[index % 2]
        yield attempts.malformed(
            f"h5-{how}-{index}",
            ".h5: bytes",
            on_model("quantize", path, damage.of_bytes(path, how)),
        )
    for index, path in attempts.in_turn(45, names):
        command = "evaluate" if index % 3 == 2 else "quantize"
        yield attempts.malformed(
            f"h5-config-{index}",
            ".h5: model_config",
            on_model(command, path, damage.of_model_config(path)),
        )
    for index, how in attempts.in_turn(20, tuple(hdf5_mutators.MUTATORS)):
        path = names[index % 2]
        yield attempts.malformed(
            f"h5-{how}-{index}",
            ".h5: structure",
            on_model("quantize", path, damage.of_hdf5(path, how)),
        )


def tflite_files() -> Iterator[cases.Case]:
    """Damage to .tflite files."""
    names = (originals.TFLITE, originals.FLOAT_TFLITE)
    for index, how in attempts.in_turn(18, byte_mutators.NAMES):
        path = names[index % 2]
        yield attempts.malformed(
            f"tflite-{how}-{index}",
            ".tflite: bytes",
            on_model("evaluate", path, damage.of_bytes(path, how)),
        )
    for index, path in attempts.in_turn(24, names):
        yield attempts.malformed(
            f"tflite-fields-{index}",
            ".tflite: fields",
            on_model("evaluate", path, damage.of_tflite(path)),
        )
    float_file = originals.FLOAT_TFLITE
    for index, how in attempts.in_turn(12, byte_mutators.NAMES):
        yield attempts.malformed(
            f"tflite-model-{how}-{index}",
            ".tflite: bytes",
            on_model("quantize", float_file, damage.of_bytes(float_file, how)),
        )
    for index, path in attempts.in_turn(18, (float_file,)):
        yield attempts.malformed(
            f"tflite-model-fields-{index}",
            ".tflite: fields",
            on_model("quantize", path, damage.of_tflite(path)),
        )
