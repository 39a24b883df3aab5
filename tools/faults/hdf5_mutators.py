"""Damage to HDF5 files: whole files that hold what no Keras model does."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping

import h5py
import numpy as np

Mutator = Callable[[h5py.File, np.random.Generator], None]


def mutate(path: pathlib.Path, how: str, rng: np.random.Generator) -> None:
    """Changes a file in place by a mutator of `MUTATORS`."""
    with h5py.File(path, "r+") as file:
        MUTATORS[how](file, rng)


def _datasets(file: h5py.File) -> list[str]:
    found: list[str] = []

    def visit(name: str, item) -> None:
        if isinstance(item, h5py.Dataset):
            found.append(name)

    file.visititems(visit)
    return sorted(found)


def _one(file: h5py.File, rng: np.random.Generator) -> str:
    return _pick(_datasets(file), rng)


def _replace(file: h5py.File, name: str, value) -> None:
    del file[name]
    file[name] = value


def _gone(file: h5py.File, rng: np.random.Generator) -> None:
    del file[_one(file, rng)]


def _group_gone(file: h5py.File, rng: np.random.Generator) -> None:
    del file[_pick(sorted(file), rng)]


def _shape(file: h5py.File, rng: np.random.Generator) -> None:
    name = _one(file, rng)
    shape = _pick(((), (0,), (1,), (3, 3, 3, 7), (1,) * 32), rng)
    _replace(file, name, np.zeros(shape, np.float32))


def _dtype(file: h5py.File, rng: np.random.Generator) -> None:
    name = _one(file, rng)
    shape = file[name].shape
    dtype = _pick(("S5", "i8", "c16", "?", "f2", "u1"), rng)
    _replace(file, name, np.zeros(shape, dtype))


def _values(file: h5py.File, rng: np.random.Generator) -> None:
    name = _one(file, rng)
    value = _pick((np.nan, np.inf, -np.inf, 3e38), rng)
    _replace(file, name, np.full(file[name].shape, value, np.float32))


def _group(file: h5py.File, rng: np.random.Generator) -> None:
    name = _one(file, rng)
    del file[name]
    file.create_group(name)


def _soft_link(file: h5py.File, rng: np.random.Generator) -> None:
    name = _one(file, rng)
    del file[name]
    file[name] = h5py.SoftLink(_pick(("/nowhere", "/", "/" + name), rng))


def _huge(file: h5py.File, rng: np.random.Generator) -> None:
    """A dataset that claims a terabyte and holds nothing."""
    name = _one(file, rng)
    del file[name]
    file.create_dataset(name, (2**38,), np.float32, chunks=(2**20,))


def _attribute_gone(file: h5py.File, rng: np.random.Generator) -> None:
    holders = [h for h in _holders(file) if len(h.attrs)]
    if holders:
        holder = _pick(holders, rng)
        del holder.attrs[_pick(sorted(holder.attrs), rng)]


def _attribute(file: h5py.File, rng: np.random.Generator) -> None:
    """An attribute of another type, or of none of its values."""
    holders = [h for h in _holders(file) if len(h.attrs)]
    holder = _pick(holders or [file], rng)
    names = sorted(holder.attrs) or ["model_config"]
    values = (
        *(0, -1.5, "", "x", b"\xff\xfe", np.zeros(3), np.zeros((0,), "S1")),
        *(h5py.Empty("f4"), [b"../x", b"\xff"]),
    )
    holder.attrs[_pick(names, rng)] = _pick(values, rng)


def _holders(file: h5py.File) -> list:
    found: list = [file]
    file.visititems(lambda name, item: found.append(item))
    return found


MUTATORS: Mapping[str, Mutator] = {
    "gone": _gone,
    "group_gone": _group_gone,
    "shape": _shape,
    "dtype": _dtype,
    "values": _values,
    "group": _group,
    "soft_link": _soft_link,
    "huge": _huge,
    "attribute_gone": _attribute_gone,
    "attribute": _attribute,
}


def _pick(values, rng: np.random.Generator):
    return values[int(rng.integers(len(values)))]
