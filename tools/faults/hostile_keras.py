"""Keras files that run code, or write a file, where they are read."""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import marshal
import os
import pathlib
import shutil
import sys
from collections.abc import Callable
from typing import Any

from tools.faults import archive_mutators, cases, originals, plots, verdict

_KERAS, _HDF5 = "evil.keras", "evil.h5"
# A module that lies beside the model, where `python -m` finds it.
_MODULE = "payload"
_FUNCTION = {"class_name": "function", "registered_name": "function"}
# A change of a config: gets it and the sentinel's path.
Change = Callable[[dict[str, Any], str], None]


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
    (bench.work / f"{_MODULE}.py").write_text(
        f"open({sentinel!r}, 'w').close()\n"
        "class Evil:\n"
        "    def __init__(self, *args, **kwargs): pass\n"
        "    @classmethod\n"
        "    def from_config(cls, config): return cls()\n"
        "    def __call__(self, x, *args, **kwargs): return x\n"
        "def run(x, *args, **kwargs): return x\n"
    )


def _archive(change: Change, *, folder: bool = False):
    """A .keras with another config.json, or its unpacked folder."""

    def prepare(bench: cases.Bench, sentinel: str) -> str:
        source = bench.originals / originals.KERAS
        members = archive_mutators.members_of(source)
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


def _file(change: Change, original: str = originals.HDF5_2):
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


def _layer(config: dict[str, Any], class_name: str) -> dict[str, Any]:
    """The first layer of a class."""
    layers = config["config"]["layers"]
    return next(x for x in layers if x["class_name"] == class_name)


def _instead_of_relu(config, class_name: str, module: str, **fields) -> None:
    """Another layer in the place of an activation, of its name."""
    layer = _layer(config, "ReLU")
    name = layer["config"]["name"]
    layer.update(
        class_name=class_name,
        module=module,
        registered_name=None if module.startswith("keras") else class_name,
        config={"name": name, "trainable": True, **fields},
    )


def bytecode(sentinel: str) -> str:
    """A marshalled function that makes a file and returns its argument."""
    source = f"lambda x: (open({sentinel!r}, 'w').close(), x)[1]"
    code = eval(source).__code__
    return base64.b64encode(marshal.dumps(code)).decode()


def _lambda(config, sentinel: str) -> None:
    function = {
        "class_name": "__lambda__",
        "config": {
            "code": bytecode(sentinel),
            "defaults": None,
            "closure": None,
        },
    }
    _instead_of_relu(
        config, "Lambda", "keras.layers", function=function, arguments={}
    )


def _lambda_2(config, sentinel: str) -> None:
    _instead_of_relu(
        config,
        "Lambda",
        "keras.layers",
        function=[bytecode(sentinel), None, None],
        function_type="lambda",
        module="__main__",
        output_shape=None,
        output_shape_type="raw",
        output_shape_module=None,
        arguments={},
    )


def _lambda_of(module: str, name: str, **arguments) -> Change:
    """A Lambda of Keras 2 that is the function of a module."""

    def change(config, sentinel: str) -> None:
        _instead_of_relu(config, "Lambda", "keras.layers")
        layer = _layer(config, "Lambda")
        layer["config"] |= {
            "function": name,
            "function_type": "function",
            "module": module,
            "arguments": _filled(arguments, sentinel),
            "output_shape": None,
            "output_shape_type": "raw",
            "output_shape_module": None,
        }

    return change


def _nested_lambda(config, sentinel: str) -> None:
    """A Lambda inside a layer that wraps another."""
    _lambda(config, sentinel)
    inner = copy.deepcopy(_layer(config, "Lambda"))
    inner["config"]["name"] = "inner"
    _layer(config, "Lambda").update(
        class_name="TimeDistributed",
        config={
            "name": _layer(config, "Lambda")["config"]["name"],
            "layer": inner,
        },
    )


def _filled(value: Any, sentinel: str) -> Any:
    if isinstance(value, dict):
        return {k: _filled(v, sentinel) for k, v in value.items()}
    if isinstance(value, str):
        return value.replace("SENTINEL", sentinel)
    return value


def _function(module: str, name: str, **arguments) -> Change:
    """A Lambda of Keras 3 that is a function which a module has."""

    def change(config, sentinel: str) -> None:
        function = {
            **_FUNCTION,
            "module": module,
            "config": name,
            "registered_name": name,
        }
        _instead_of_relu(
            config,
            "Lambda",
            "keras.layers",
            function=function,
            arguments=_filled(arguments, sentinel),
        )

    return change


def _activation(module: str, name: str) -> Change:
    def change(config, sentinel: str) -> None:
        _layer(config, "Dense")["config"]["activation"] = {
            **_FUNCTION,
            "module": module,
            "config": name,
            "registered_name": name,
        }

    return change


def _object(layer: str, field: str) -> Change:
    """An object of a class of another module, in a layer's config."""

    def change(config, sentinel: str) -> None:
        _layer(config, layer)["config"][field] = {
            "module": _MODULE,
            "class_name": "Evil",
            "config": {},
            "registered_name": f"{_MODULE}>Evil",
        }

    return change


def _bytecode_in(layer: str, field: str) -> Change:
    def change(config, sentinel: str) -> None:
        _layer(config, layer)["config"][field] = {
            "class_name": "__lambda__",
            "config": {
                "code": bytecode(sentinel),
                "defaults": None,
                "closure": None,
            },
        }

    return change


def _class(config, sentinel: str) -> None:
    """A layer's class of another module."""
    _instead_of_relu(config, "Evil", _MODULE)


def _whole_class(config, sentinel: str) -> None:
    """A model's class of another module."""
    config.update(class_name="Evil", module=_MODULE, registered_name="Evil")


def _enabled_first(config, sentinel: str) -> None:
    """Safe mode is turned off by one layer, for another."""
    _function("keras.config", "enable_unsafe_deserialization")(config, sentinel)
    _lambda(config, sentinel)


def _operation(name: str) -> Change:
    """A TensorFlow function as a layer, called with constants."""

    def change(config, sentinel: str) -> None:
        layers = config["config"]["layers"]
        layers.append(
            {
                "class_name": "TFOpLambda",
                "name": "evil",
                "config": {
                    "name": "evil",
                    "trainable": True,
                    "dtype": "float32",
                    "function": name,
                },
                "inbound_nodes": [
                    ["_CONSTANT_VALUE", -1, sentinel, {"contents": "x"}]
                ],
            }
        )
        if name.startswith("raw_ops"):
            layers[-1]["inbound_nodes"] = [
                [
                    "_CONSTANT_VALUE",
                    -1,
                    None,
                    {"filename": sentinel, "contents": "x"},
                ]
            ]

    return change


def _saved_model_layer(bench: cases.Bench, sentinel: str) -> str:
    """A layer that loads a SavedModel, which writes as it is loaded."""
    from tools.faults import hostile_graphs

    inner = hostile_graphs.init_op(bench, sentinel)

    def change(config, sentinel: str) -> None:
        _instead_of_relu(
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
        _instead_of_relu(
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

PLOTS = (
    plots.Plot("lambda_keras", "Keras", _archive(_lambda), _unguarded),
    plots.Plot("lambda_folder", "Keras", _archive(_lambda, folder=True)),
    plots.Plot("lambda_nested", "Keras", _archive(_nested_lambda), _unguarded),
    plots.Plot(
        "lambda_h5", "Keras", _file(_lambda, originals.HDF5), _unguarded
    ),
    plots.Plot("enabled_first", "Keras", _archive(_enabled_first)),
    plots.Plot(
        "get_file",
        "Keras",
        _archive(_function("keras.utils", "get_file", **_GET_FILE)),
    ),
    plots.Plot(
        "save_img",
        "Keras",
        _archive(_function("keras.utils", "save_img", path="SENTINEL.png")),
    ),
    plots.Plot(
        "module_function",
        "Keras",
        _archive(_function(_MODULE, "run")),
        _unguarded,
    ),
    plots.Plot("os_function", "Keras", _archive(_function("os", "system"))),
    plots.Plot(
        "module_activation",
        "Keras",
        _archive(_activation(_MODULE, "run")),
        _unguarded,
    ),
    plots.Plot(
        "module_initializer",
        "Keras",
        _archive(_object("Dense", "kernel_initializer")),
        _unguarded,
    ),
    plots.Plot(
        "module_regularizer",
        "Keras",
        _archive(_object("Conv2D", "kernel_regularizer")),
        _unguarded,
    ),
    plots.Plot(
        "module_constraint",
        "Keras",
        _archive(_object("BatchNormalization", "beta_constraint")),
        _unguarded,
    ),
    plots.Plot(
        "module_dtype", "Keras", _archive(_object("ReLU", "dtype")), _unguarded
    ),
    plots.Plot("module_class", "Keras", _archive(_class), _unguarded),
    plots.Plot("module_model", "Keras", _archive(_whole_class), _unguarded),
    plots.Plot(
        "bytecode_activation",
        "Keras",
        _archive(_bytecode_in("Dense", "activation")),
        _unguarded,
    ),
    plots.Plot(
        "bytecode_initializer",
        "Keras",
        _archive(_bytecode_in("Dense", "bias_initializer")),
    ),
    plots.Plot("saved_model_layer", "Keras", _saved_model_layer, _unguarded),
    plots.Plot("keras_vocabulary", "Keras", _vocabulary),
    plots.Plot("zip_traversal", "Keras", _traversal),
    plots.Plot("keras_external_link", "Keras", _external("link", "keras")),
    plots.Plot("h5_external_link", "Keras", _external("link", "h5")),
    plots.Plot("h5_external_data", "Keras", _external("data", "h5")),
    plots.Plot("keras_external_data", "Keras", _external("data", "keras")),
    plots.Plot("h5_lambda", "Keras 2", _file(_lambda_2), _unguarded),
    plots.Plot(
        "h5_lambda_module", "Keras 2", _file(_lambda_of(_MODULE, "run"))
    ),
    plots.Plot("h5_lambda_os", "Keras 2", _file(_lambda_of("os", "system"))),
    plots.Plot(
        "h5_lambda_mkdir",
        "Keras 2",
        _file(_lambda_of("os", "mkdir", path="SENTINEL")),
    ),
    plots.Plot(
        "h5_tfop_lambda",
        "Keras 2",
        _file(_operation("io.write_file")),
        _unguarded,
    ),
    plots.Plot(
        "h5_tfop_raw", "Keras 2", _file(_operation("raw_ops.WriteFile"))
    ),
    plots.Plot(
        "h5_tfop_in_3",
        "Keras 2",
        _file(_operation("io.write_file"), originals.HDF5),
        _unguarded,
    ),
    plots.Plot("h5_module_class", "Keras 2", _file(_class), _unguarded),
    plots.Plot(
        "h5_module_activation", "Keras 2", _file(_activation(_MODULE, "run"))
    ),
    plots.Plot(
        "h5_module_initializer",
        "Keras 2",
        _file(_object("Dense", "kernel_initializer")),
        _unguarded,
    ),
    plots.Plot(
        "keras_tfop_lambda", "Keras 2", _archive(_operation("io.write_file"))
    ),
    plots.Plot("h5_function", "Keras 2", _file(_function(_MODULE, "run"))),
)
