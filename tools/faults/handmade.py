"""Malformed inputs that no seed would find: files, names, flags, sizes."""

from __future__ import annotations

from tools.faults import (
    cases,
    handmade_data,
    handmade_flags,
    handmade_models,
    handmade_places,
    handmade_state,
)


def all_cases() -> list[cases.Case]:
    """Every case that is made by hand."""
    makers = (
        handmade_places.special_files,
        handmade_places.names,
        handmade_places.places,
        handmade_flags.flags,
        handmade_flags.flagfiles,
        handmade_data.configs,
        handmade_data.arrays,
        handmade_data.metadata,
        handmade_state.records,
        handmade_state.states,
        handmade_models.all_cases,
    )
    return [case for maker in makers for case in maker()]
