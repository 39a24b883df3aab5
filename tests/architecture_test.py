"""Imports point down a list of packages, and `--help` loads no TensorFlow."""

from __future__ import annotations

import ast
import dataclasses
import graphlib
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

_ROOT = pathlib.Path(__file__).absolute().parent.parent
# Lowest first. A module imports from its own package and from those on lines
# before its own, and never in a circle.
_PACKAGES = (
    "core",
    "config quant samples",
    "graph tflite command_line",
    "graph.load batch image_samples",
    "analysis",
    "transforms fidelity",
    "synthesis evaluate",
    "diversity export",
    "report",
    "figures pipeline",
    "inspect quantize synthetic_samples",
)
_RANK = {p: rank for rank, line in enumerate(_PACKAGES) for p in line.split()}
_NO_TENSORFLOW = ("core", "config", "samples", "command_line", "batch")
_COMMANDS = (
    *("quantize", "synthetic_samples", "image_samples", "evaluate"),
    *("figures", "inspect"),
)
_KERAS = ("synthesis", "graph.load", "pipeline")
# Whatever a command line is made of.
_FLAGS = ("command_line", "batch", *_COMMANDS)
_REPORT = "transforms.pass_report"
# Holds how a layer is rounded; adaround is what does it to a graph.
_ARITHMETIC = "transforms.learned_rounding"


@dataclasses.dataclass(frozen=True)
class _Import:
    """`target` is a module or a name in one; `lazy` ones are in a function."""

    module: str
    target: str
    line: int
    lazy: bool


def _sources() -> dict[str, str]:
    """Source by module name, relative to the package; its own is `dsg_tf`."""
    package = _ROOT / "dsg_tf"
    sources = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        name = ".".join(parts) or "dsg_tf"
        sources[name] = path.read_text(encoding="utf-8")
    return sources


def _imports(module: str, source: str) -> Iterator[_Import]:
    tree = ast.parse(source)
    in_functions = {
        id(inner)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(outer)
    }
    for node in ast.walk(tree):
        targets = []
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            targets = [f"{node.module}.{alias.name}" for alias in node.names]
        for target in targets:
            yield _Import(module, target, node.lineno, id(node) in in_functions)


def _package(module: str) -> str:
    """The package of a module; of one at the top, its own name."""
    return module if module in _RANK else module.rpartition(".")[0]


def _own(target: str, modules: dict[str, str]) -> str | None:
    """The module of ours that an import means, None for anything else."""
    top, _, rest = target.partition(".")
    if top != "dsg_tf":
        return None
    while rest and rest not in modules:
        rest = rest.rpartition(".")[0]
    return rest or "dsg_tf"


def _all_imports(sources) -> list[_Import]:
    return [i for name, text in sources.items() for i in _imports(name, text)]


def _upward(sources: dict[str, str]) -> list[str]:
    found = []
    for item in _all_imports(sources):
        own = _own(item.target, sources)
        if own in (None, "dsg_tf") or item.module == "dsg_tf":
            continue
        here, there = _package(item.module), _package(own)
        if here != there and _RANK[there] >= _RANK[here]:
            found.append(f"{item.module}:{item.line} imports {own}")
    return found


def _wrong_tops(sources: dict[str, str]) -> list[str]:
    """TensorFlow, Keras and flags where they do not belong."""
    found = []
    for item in _all_imports(sources):
        top, package = item.target.partition(".")[0], _package(item.module)
        light = package in (*_NO_TENSORFLOW, *_COMMANDS, "dsg_tf")
        heavy = top in ("tensorflow", "keras", "tf_keras", "ai_edge_litert")
        # Reads Keras' files, and imports Keras only when it meets one.
        on_demand = item.lazy or package in ("synthesis", "pipeline")
        keras = top in ("keras", "tf_keras")
        if (
            (light and heavy)
            or (keras and not (package in _KERAS and on_demand))
            or (
                item.target == "absl.flags"
                and package not in _FLAGS
                and not item.module.endswith(".__main__")
            )
        ):
            found.append(f"{item.module}:{item.line} imports {item.target}")
    return found


def _circle(sources: dict[str, str]) -> list[str]:
    graph: dict[str, set[str]] = {name: set() for name in sources}
    for item in _all_imports(sources):
        own = _own(item.target, sources)
        if own not in (None, "dsg_tf", item.module):
            graph[item.module].add(own)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def _between_transforms(sources: dict[str, str]) -> list[str]:
    """Transforms that import another: each is usable alone."""
    found = []
    for item in _all_imports(sources):
        own = _own(item.target, sources) or ""
        if (
            item.module.startswith("transforms.")
            and own.startswith("transforms.")
            and own not in (item.module, _REPORT, _ARITHMETIC)
            and item.module != "transforms.passes"  # Their order.
        ):
            found.append(f"{item.module}:{item.line} imports {own}")
    return found


def test_every_module_has_a_place():
    modules = _sources().keys() - {"dsg_tf"}
    unknown = [n for n in modules if (_package(n) or n) not in _RANK]
    assert unknown == [], "say in _PACKAGES where they belong"


def test_the_top_is_what_a_reader_can_hold():
    names = os.listdir(_ROOT / "dsg_tf")
    assert len([n for n in names if not n.startswith("__pycache")]) <= 24


def test_imports_point_down():
    assert _upward(_sources()) == []


def test_no_transform_imports_another():
    assert _between_transforms(_sources()) == []


def test_imports_make_no_circle():
    assert _circle(_sources()) == []


def _public_functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    """Functions and methods whose names, and whose class's, are public."""
    for node in ast.iter_child_nodes(tree):
        if getattr(node, "name", "").startswith("_"):
            continue
        if isinstance(node, ast.ClassDef):
            yield from _public_functions(node)
        elif isinstance(node, ast.FunctionDef):
            yield node


def _without_types(source: str) -> list[str]:
    found = []
    for function in _public_functions(ast.parse(source)):
        given = function.args
        found += [
            f"{function.name}({argument.arg})"
            for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs)
            if argument.annotation is None
            and argument.arg not in ("self", "cls")
        ]
    return found


def test_every_public_parameter_has_a_type():
    found = {m: _without_types(s) for m, s in _sources().items()}
    assert {m: names for m, names in found.items() if names} == {}
    assert _without_types("def f(a, *, b: int): pass") == ["f(a)"]
    assert _without_types("class C:\n def g(self, a): pass") == ["g(a)"]


def test_tensorflow_keras_and_flags_stay_where_they_belong():
    assert _wrong_tops(_sources()) == []


@pytest.mark.parametrize(
    ("module", "line", "check"),
    [
        ("core.errors", "from dsg_tf.core import checks", _circle),
        ("core.checks", "from dsg_tf.config import run_config", _upward),
        ("config.run_config", "from dsg_tf.quant import uniform", _upward),
        ("config.needs", "from dsg_tf.graph import ir", _upward),
        ("quant.uniform", "import dsg_tf.analysis.bn_statistics", _upward),
        ("graph.ir", "from dsg_tf.analysis.bn_statistics import find", _upward),
        (
            "analysis.input_domain",
            "from dsg_tf.synthesis import losses",
            _upward,
        ),
        (
            "export.calibration",
            "from dsg_tf.report import page",
            _upward,
        ),
        ("fidelity.verify", "from dsg_tf import pipeline", _upward),
        ("pipeline", "def f():\n  from dsg_tf import quantize", _upward),
        ("samples.sample_sets", "def f():\n  import keras", _wrong_tops),
        ("quantize", "import tensorflow as tf", _wrong_tops),
        ("graph.ir", "import keras", _wrong_tops),
        ("analysis.bn_statistics", "def f():\n  import keras", _wrong_tops),
        ("pipeline", "from absl import flags", _wrong_tops),
        (
            "transforms.insert_fake_quant",
            "from dsg_tf.transforms import fold_batch_norm",
            _between_transforms,
        ),
        (
            "transforms.insert_fake_quant",
            "from dsg_tf.fidelity import verify",
            _upward,
        ),
    ],
)
def test_planted_import_is_found(module, line, check):
    sources = _sources()
    assert module in sources
    sources[module] += f"\n{line}\n"
    assert module in " ".join(check(sources))


def _modules_loaded_by(*argv: str) -> set[str]:
    """Top-level packages in sys.modules after Python has run with `argv`."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *argv],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return {
        line.rpartition("|")[2].strip().partition(".")[0]
        for line in done.stderr.splitlines()
        if line.startswith("import time:")
    }


@pytest.mark.parametrize(
    "argv",
    [
        ("-c", "import dsg_tf; dsg_tf.PipelineConfig(); dir(dsg_tf)"),
        ("-m", "dsg_tf.quantize", "--help"),
        ("-m", "dsg_tf.synthetic_samples", "--help"),
        ("-m", "dsg_tf.evaluate", "--help"),
        ("-m", "dsg_tf.batch", "--help"),
        ("-m", "dsg_tf.figures", "--help"),
    ],
    ids=["import", "quantize", "samples", "evaluate", "batch", "figures"],
)
def test_light_commands_do_not_load_tensorflow(argv):
    loaded = _modules_loaded_by(*argv)
    assert "dsg_tf" in loaded
    assert loaded.isdisjoint({"tensorflow", "keras", "ai_edge_litert"})


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        ("quantize", "saved_model"),
        ("synthetic_samples", "saved_model"),
        ("evaluate", "model"),
    ],
)
def test_what_is_no_model_is_told_without_tensorflow(tmp_path, command, flag):
    (tmp_path / "net.onnx").touch()
    argv = [f"--{flag}={tmp_path}/net.onnx", f"--output={tmp_path}/out"]
    if command == "evaluate":
        data = tmp_path / "data.npz"
        np.savez(data, images=np.zeros((2, 4, 4, 3), np.uint8), labels=[0, 1])
        argv.append(f"--data={data}")
    # An import of TensorFlow fails. Its time would not be seen on stderr,
    # which commands capture meanwhile.
    code = (
        "import runpy, sys; sys.modules['tensorflow'] = None;"
        f" runpy.run_module('dsg_tf.{command}', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *argv],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 1
    assert "net.onnx: got an ONNX model" in done.stderr
