"""Seeded damage to every format that a command reads.

Each case takes an original, damages it by one mutator, and hands it to one
command. What the hand knows better is in `handmade`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from tools.faults import (
    attempts,
    cases,
    commands,
    damage,
    malformed_data,
    malformed_models,
    malformed_state,
    originals,
)


def all_cases() -> list[cases.Case]:
    """Every seeded case of a malformed input."""
    makers = (
        _controls,
        malformed_models.saved_models,
        malformed_models.keras_archives,
        malformed_models.graph_defs,
        malformed_models.hdf5_files,
        malformed_models.tflite_files,
        malformed_data.samples,
        malformed_data.images,
        malformed_data.flagfiles,
        malformed_state.records,
        malformed_state.states,
    )
    return [case for maker in makers for case in maker()]


def _controls() -> Iterator[cases.Case]:
    """Originals without damage: whatever refuses these passes no other case."""
    models = (
        *(originals.SAVED_MODEL, originals.GRAPH, originals.KERAS),
        *(originals.KERAS_2, originals.HDF5, originals.HDF5_2),
        originals.GRAPH_DEF,
    )
    made = {
        f"{command}-{path}": malformed_models.on_model(
            command, path, damage.none
        )
        for path in models
        for command in commands.MODEL_COMMANDS
    }
    for path in (originals.TFLITE, originals.FLOAT_TFLITE):
        made[f"evaluate-{path}"] = malformed_models.on_model(
            "evaluate", path, damage.none
        )
    for path in (originals.SAMPLES, originals.OWN_NPZ, originals.OWN_NPY):
        made[f"samples-{path}"] = malformed_data.on_samples(
            "quantize", path, damage.none
        )
    for path in (originals.IMAGES, originals.IMAGE_FOLDER):
        for command in ("evaluate", "image_samples", "batch"):
            made[f"{command}-{path}"] = malformed_data.on_images(
                command, path, damage.none
            )
    for dry_run in (False, True):
        made[f"record-{dry_run}"] = malformed_state.on_record(
            damage.none, dry_run=dry_run
        )
    for name, attempt in made.items():
        attempt = dataclasses.replace(attempt, allowed=(0, 2))
        yield attempts.malformed(
            f"whole-{name}", "whole inputs, accepted", attempt
        )
