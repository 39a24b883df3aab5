"""Keras files that run code, or write a file, where they are read."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Iterator

from tools.faults import (
    archive_mutators,
    cases,
    hostile_configs,
    originals,
    plots,
    verdict,
)

_KERAS, _HDF5 = "evil.keras", "evil.h5"


def _unguarded(work: pathlib.Path) -> None:
    """Loads a file by Keras 3 and by tf_keras, whatever either says."""
    import keras
    import tf_keras

    path = next(work / n for n in (_KERAS, _HDF5) if (work / n).exists())
    sys.path.insert(0, str(work))
    for library in (keras, tf_keras):
        with contextlib.suppress(Exception):
            library.models.load_model(path, compile=False, safe_mode=False)


def _payload(bench: cases.Bench, sentinel: str) -> None:
    """A module that shows when it is imported, with a class and a function."""
    (bench.work / f"{hostile_configs.MODULE}.py").write_text(
        f"open({sentinel!r}, 'w').close()\n"
        "class Evil:\n"
        "    def __init__(self, *args, **kwargs): pass\n"
        "    @classmethod\n"
        "    def from_config(cls, config): return cls()\n"
        "    def __call__(self, x, *args, **kwargs): return x\n"
        "def run(x, *args, **kwargs): return x\n"
    )


def _archive(
    change: hostile_configs.Change,
    original: str = originals.KERAS,
    *,
    folder: bool = False,
):
    """A .keras with another config.json, or its unpacked folder."""

    def prepare(bench: cases.Bench, sentinel: str) -> str:
        members = archive_mutators.members_of(bench.originals / original)
        config = json.loads(members["config.json"])
        change(config, sentinel)
        members["config.json"] = json.dumps(config).encode()
        _payload(bench, sentinel)
        path = bench.work / _KERAS
        if not folder:
            path.write_bytes(archive_mutators.archive(members))
            return _KERAS
        for name, content in members.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
        return _KERAS

    return prepare


def _file(change: hostile_configs.Change, original: str = originals.HDF5_2):
    """An .h5 with another model_config."""

    def prepare(bench: cases.Bench, sentinel: str) -> str:
        import h5py

        path = bench.work / _HDF5
        shutil.copyfile(bench.originals / original, path)
        with h5py.File(path, "r+") as file:
            config = json.loads(file.attrs["model_config"])
            change(config, sentinel)
            file.attrs["model_config"] = json.dumps(config)
        _payload(bench, sentinel)
        return _HDF5

    return prepare


def _saved_model_layer(bench: cases.Bench, sentinel: str) -> str:
    """A layer that loads a SavedModel, which writes as it is loaded."""
    from tools.faults import hostile_loads

    inner = hostile_loads.init_op(bench, sentinel)

    def change(config, sentinel: str) -> None:
        hostile_configs.instead_of_relu(
            config,
            "TFSMLayer",
            "keras.layers",
            filepath=str(bench.work / inner),
            call_endpoint="serving_default",
        )

    return _archive(change)(bench, sentinel)


def _vocabulary(bench: cases.Bench, sentinel: str) -> str:
    """A layer that reads a file, here a pipe that nobody writes to."""
    os.mkfifo(bench.work / "words")

    def change(config, sentinel: str) -> None:
        hostile_configs.instead_of_relu(
            config,
            "StringLookup",
            "keras.layers",
            vocabulary=str(bench.work / "words"),
        )

    return _archive(change)(bench, sentinel)


def _traversal(bench: cases.Bench, sentinel: str) -> str:
    """Members of the archive that are to be unpacked elsewhere."""
    path = bench.originals / originals.KERAS
    members = archive_mutators.members_of(path)
    for depth in range(1, 5):
        above = "../" * depth
        members[f"{above}{verdict.SENTINEL}{depth}"] = b"x"
        members[f"assets/{above}{verdict.SENTINEL}{depth}"] = b"x"
    members[sentinel] = b"x"
    (bench.work / _KERAS).write_bytes(archive_mutators.archive(members))
    return _KERAS


def _external(kind: str, place: str):
    """Weights that lie in another file: a pipe that nobody writes to."""

    def prepare(bench: cases.Bench, sentinel: str) -> str:
        import h5py
        import numpy as np

        os.mkfifo(bench.work / "elsewhere")
        weights = bench.work / _HDF5
        target = str(bench.work / "elsewhere")
        source = bench.originals / originals.HDF5
        if place == "keras":
            members = archive_mutators.members_of(
                bench.originals / originals.KERAS
            )
            weights.write_bytes(members["model.weights.h5"])
        else:
            shutil.copyfile(source, weights)
        with h5py.File(weights, "r+") as file:
            names: list[str] = []
            file.visititems(
                lambda n, item: (
                    names.append(n) if isinstance(item, h5py.Dataset) else None
                )
            )
            shape = file[names[0]].shape
            del file[names[0]]
            if kind == "link":
                file[names[0]] = h5py.ExternalLink(target, "/x")
            else:
                size = int(np.prod(shape)) * 4
                file.create_dataset(
                    names[0], shape, "f4", external=[(target, 0, size)]
                )
        if place == "h5":
            return _HDF5
        members["model.weights.h5"] = weights.read_bytes()
        weights.unlink()
        (bench.work / _KERAS).write_bytes(archive_mutators.archive(members))
        return _KERAS

    return prepare


_GET_FILE = {
    "origin": f"file://{os.path.abspath(__file__)}",
    "cache_dir": "SENTINEL",
    "cache_subdir": "SENTINEL",
}


_OWN = hostile_configs.MODULE
# Of a .keras of Keras 3; whether one fires was tried with Keras 3.15.
_FIRING = {
    "lambda_keras": hostile_configs.of_bytecode,
    "lambda_nested": hostile_configs.of_nested_bytecode,
}
_INERT = {
    "bytecode_activation": hostile_configs.bytecode_in("Dense", "activation"),
    "enabled_first": hostile_configs.enabled_first,
    "get_file": hostile_configs.of_function(
        "keras.utils", "get_file", **_GET_FILE
    ),
    "save_img": hostile_configs.of_function(
        "keras.utils", "save_img", path="SENTINEL.png"
    ),
    "os_function": hostile_configs.of_function("os", "system"),
    "bytecode_initializer": hostile_configs.bytecode_in(
        "Dense", "bias_initializer"
    ),
    "keras_tfop_lambda": hostile_configs.of_operation("io.write_file"),
}
# Where a config names a module, which lies beside the model.
_MODULES = {
    "function": hostile_configs.of_function(_OWN, "run"),
    "activation": hostile_configs.activation(_OWN, "run"),
    "initializer": hostile_configs.of_object("Dense", "kernel_initializer"),
    "regularizer": hostile_configs.of_object("Conv2D", "kernel_regularizer"),
    "constraint": hostile_configs.of_object(
        "BatchNormalization", "beta_constraint"
    ),
    "dtype": hostile_configs.of_object("ReLU", "dtype"),
    "class": hostile_configs.of_class,
    "model": hostile_configs.of_model_class,
}
_HDF5_FIRING = {
    "h5_lambda": hostile_configs.of_bytecode_2,
    "h5_tfop_lambda": hostile_configs.of_operation("io.write_file"),
}
_HDF5_INERT = {
    "h5_tfop_raw": hostile_configs.of_operation("raw_ops.WriteFile"),
    "h5_lambda_module": hostile_configs.of_function_2(_OWN, "run"),
    "h5_lambda_os": hostile_configs.of_function_2("os", "system"),
    "h5_lambda_mkdir": hostile_configs.of_function_2(
        "os", "mkdir", path="SENTINEL"
    ),
    **{f"h5_module_{name}": change for name, change in _MODULES.items()},
}


def _plots() -> Iterator[plots.Plot]:
    for found, unguarded in ((_FIRING, _unguarded), (_INERT, None)):
        for name, change in found.items():
            yield plots.Plot(name, "Keras", _archive(change), unguarded)
    for name, change in _MODULES.items():
        made = _archive(change)
        yield plots.Plot(f"module_{name}", "Keras", made)
        made = _archive(change, originals.KERAS_2)
        # Whether one fires depends on which Keras reads the archive first.
        yield plots.Plot(f"module_2_{name}", "Keras 2", made, None)
    for found, unguarded in ((_HDF5_FIRING, _unguarded), (_HDF5_INERT, None)):
        for name, change in found.items():
            yield plots.Plot(name, "Keras 2", _file(change), unguarded)
    for name, change, original in (
        ("lambda_h5", hostile_configs.of_bytecode, originals.HDF5),
        (
            "h5_tfop_in_3",
            hostile_configs.of_operation("io.write_file"),
            originals.HDF5,
        ),
    ):
        yield plots.Plot(name, "Keras", _file(change, original))
    made = _archive(hostile_configs.of_bytecode, folder=True)
    yield plots.Plot("lambda_folder", "Keras", made)
    yield plots.Plot(
        "saved_model_layer", "Keras", _saved_model_layer, _unguarded
    )
    yield plots.Plot("keras_vocabulary", "Keras", _vocabulary)
    yield plots.Plot("zip_traversal", "Keras", _traversal)
    for kind in ("link", "data"):
        for place in ("keras", "h5"):
            made = _external(kind, place)
            yield plots.Plot(f"{place}_external_{kind}", "Keras", made)


PLOTS = tuple(_plots())
