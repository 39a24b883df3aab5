"""Imports point down the levels, and `--help` never loads TensorFlow.

The levels, lowest first; a module may import modules of its own level and of
those below, never in a circle:

  0  errors, checks, synthesis_config, export_config, config, qtypes, quiet,
     progress, samples, sample_journal, sample_values, array_files, files,
     staging, overlaps, disk_space, run_folders, layer_store, labelled_images,
     image_archives, memory, needs, child_process; of commands stages, signals,
     streams, endings, flagfiles; of batches grid, fingerprints, run_record,
     run_table, run_metrics, runner, local_runner, schedule: no TensorFlow
  1  arithmetic and graphs: uniform, observers, output_spread and output_pair,
     graph/*; tflite.flatbuffer, which reads and writes the file format and
     knows nothing else
  2  what a graph tells: bn_*, input_domain, classifier_head,
     quantization_points with fused_*, output_kinds with output_fidelity and
     verdict, ...; and tflite.interpreter, which runs files and so serves
     calibration above it, with its rehearsal
  3  synthesis/*, calibration, source_model: from here on Keras; transforms/*,
     of which none imports another (the report's type aside); sample_moments,
     diversity
  4  the rest of tflite/*, verify, report, fidelity, sampling,
     bn_ranges, passes, simulation, writers; drawing, moment_histograms,
     moment_boxes
  5  pipeline
  6  command lines
"""

from __future__ import annotations

import ast
import dataclasses
import graphlib
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

_ROOT = pathlib.Path(__file__).absolute().parent.parent
_LEVELS = (
    "dsg_tf errors checks synthesis_config export_config config qtypes quiet"
    " stages signals streams endings flagfiles memory image_archives"
    " progress samples files layer_store labelled_images lifeline folder_lock"
    " fingerprints grid run_record run_table run_metrics runner local_runner"
    " schedule needs array_files disk_space overlaps run_folders sample_journal"
    " sample_values child_process"
    " staging",
    "uniform observers weight_scales output_spread output_pair graph.*"
    " tflite.flatbuffer",
    "bn_statistics bn_patterns other_norms input_domain domain_fit"
    " preprocessing classifier_head tflite.interpreter rehearsal"
    " quantization_points fused_chains fused_patterns linear_layers"
    " layer_edits channel_paths channel_statistics layer_rows learned_rounding"
    " output_kinds output_fidelity verdict",
    "synthesis.* calibration source_model transforms.* classifiers"
    " sample_moments diversity",
    "tflite.* verify report fidelity sampling bn_ranges passes simulation"
    " writers drawing moment_histograms moment_boxes",
    "pipeline",
    "cli flag_values quantize quantize_flags synthetic_samples image_flags"
    " image_samples evaluate batch batch_flags batch_models batch_points"
    " batch_runs batch_plan figures",
)
_LEVEL = {
    name: level for level, names in enumerate(_LEVELS) for name in names.split()
}
_COMMANDS = set(_LEVELS[-1].split())
_KERAS_FROM = 3
_REPORT = "transforms.pass_report"
# Reads .keras and .h5 files, and imports Keras only when it meets one.
_KERAS_ON_DEMAND = ("graph.",)


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


def _level(module: str) -> int | None:
    package = module.rpartition(".")[0] or module
    return _LEVEL.get(module, _LEVEL.get(f"{package}.*"))


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
        if own and _level(own) > _level(item.module):
            found.append(f"{item.module}:{item.line} imports {own}")
    return found


def _wrong_tops(sources: dict[str, str]) -> list[str]:
    """TensorFlow, Keras and flags where they do not belong."""
    found = []
    for item in _all_imports(sources):
        top = item.target.partition(".")[0]
        level = _level(item.module)
        light = level == 0 or item.module in _COMMANDS
        heavy = top in ("tensorflow", "keras", "tf_keras", "ai_edge_litert")
        on_demand = item.lazy and item.module.startswith(_KERAS_ON_DEMAND)
        if (
            (light and heavy)
            or (
                top in ("keras", "tf_keras")
                and level < _KERAS_FROM
                and not on_demand
            )
            or (item.target == "absl.flags" and item.module not in _COMMANDS)
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
            and own not in (item.module, _REPORT)
        ):
            found.append(f"{item.module}:{item.line} imports {own}")
    return found


def test_every_module_has_a_level():
    unknown = [name for name in _sources() if _level(name) is None]
    assert unknown == [], "say in _LEVELS where they belong"


def test_imports_point_down():
    assert _upward(_sources()) == []


def test_no_transform_imports_another():
    assert _between_transforms(_sources()) == []


def test_imports_make_no_circle():
    assert _circle(_sources()) == []


def test_tensorflow_keras_and_flags_stay_where_they_belong():
    assert _wrong_tops(_sources()) == []


@pytest.mark.parametrize(
    ("module", "line", "check"),
    [
        ("errors", "from dsg_tf import config", _circle),
        ("checks", "from dsg_tf import config", _circle),
        ("config", "from dsg_tf import uniform", _upward),
        ("config", "from dsg_tf.graph import ir", _upward),
        ("uniform", "import dsg_tf.bn_statistics", _upward),
        ("graph.ir", "from dsg_tf.bn_statistics import find", _upward),
        ("input_domain", "from dsg_tf.synthesis import losses", _upward),
        ("calibration", "from dsg_tf.tflite import export", _upward),
        ("verify", "from dsg_tf import pipeline", _upward),
        ("pipeline", "def f():\n  from dsg_tf import quantize", _upward),
        ("samples", "def f():\n  import tensorflow as tf", _wrong_tops),
        ("quantize", "import tensorflow as tf", _wrong_tops),
        ("graph.ir", "import keras", _wrong_tops),
        ("bn_statistics", "def f():\n  import keras", _wrong_tops),
        ("pipeline", "from absl import flags", _wrong_tops),
        (
            "transforms.insert_fake_quant",
            "from dsg_tf.transforms import fold_batch_norm",
            _between_transforms,
        ),
        (
            "transforms.insert_fake_quant",
            "from dsg_tf.tflite import policy",
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
