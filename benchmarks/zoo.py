"""Other people's models through the front door, beside TFLiteConverter.

    python -m benchmarks.zoo [--models=facemask,crepe] [--json=zoo.json] \\
        [--flag=--granularity=tensor]

Runs `dsg_tf.quantize` on every model of ../shared/models/zoo, each in a process
of its own, with default settings and what its input shape needs; and
TFLiteConverter with real inputs, at most 100. Both files are compared with the
float model on other real inputs: agreement and SQNR around the mean of each
output, top-1 where there are labels. Prints a Markdown table; docs/models.md
holds its output.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping

import numpy as np
from absl import app, flags, logging

from benchmarks import command, keras_files, zoo_models
from dsg_tf.fidelity import output_fidelity, output_kinds
from dsg_tf.graph import evaluation
from dsg_tf.graph.load import loading
from dsg_tf.tflite import interpreter

_SHARED = flags.DEFINE_string("shared", "../shared", "Models and data.")
_MODELS = flags.DEFINE_list("models", list(zoo_models.MODELS), "Which to run.")
_FLAGS = flags.DEFINE_multi_string(
    "flag", [], "A further flag for dsg_tf.quantize."
)
_JSON = flags.DEFINE_string("json", "", "A file for all that was measured.")
_CONVERT = flags.DEFINE_string(
    "convert", "", "Only convert this model by TFLiteConverter to --output."
)
_OUTPUT = flags.DEFINE_string("output", "", "The .tflite of --convert.")
_INPUTS = flags.DEFINE_integer("inputs", 400, "At most so many inputs.", 1)


def _path(model: zoo_models.ZooModel, shared: pathlib.Path) -> pathlib.Path:
    return shared / "models" / "zoo" / model.path


def convert(name: str, shared: pathlib.Path, output: pathlib.Path) -> None:
    """What users would do instead: TFLiteConverter with real inputs."""
    import tensorflow as tf

    model = zoo_models.MODELS[name]
    path = _path(model, shared)
    arrays = model.inputs(shared, True)
    if path.is_dir():
        converter = tf.lite.TFLiteConverter.from_saved_model(str(path))
    else:
        keras_model = keras_files.load(path)
        converter = tf.lite.TFLiteConverter.from_keras_model(keras_model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [
        tf.lite.OpsSet.TFLITE_BUILTINS_INT8,
        tf.lite.OpsSet.TFLITE_BUILTINS,
    ]
    count = min(100, *(len(a) for a in arrays.values()))
    converter.representative_dataset = lambda: (
        [array[i : i + 1] for array in arrays.values()] for i in range(count)
    )
    output.write_bytes(converter.convert())


def _judged(file: bytes, arrays, expected, kinds, labels) -> dict:
    """Agreement, SQNR and top-1 of a file, by output of the float model."""
    runner = interpreter.Interpreter(file)
    names = list(runner.view.input_names())
    if set(names) != set(arrays):  # Of the converter: its own names and order.
        arrays = dict(zip(names, arrays.values(), strict=True))
    found = runner.run(arrays)
    if set(found) != set(expected):
        found = _by_shape(found, expected)
    rows = {}
    for name, reference in expected.items():
        values = np.asarray(found[name], np.float32).reshape(reference.shape)
        row = output_fidelity.compare(reference, values, kind=kinds[name])
        rows[name] = {
            "agreement": 100 * row.agreement,
            "sqnr_db": _sqnr_db(reference, values, reference.mean(0)),
            "sqnr_zero_db": _sqnr_db(reference, values, 0.0),
        }
        if labels is not None:
            best = values.reshape(len(values), -1).argmax(1)
            rows[name]["top1"] = float(100 * np.mean(best == labels))
    return rows


def _sqnr_db(
    reference: np.ndarray, values: np.ndarray, center: np.ndarray | float
) -> float:
    """Signal around a center, over the error, in dB."""
    signal = np.sum(np.square(reference - center, dtype=np.float64))
    error = np.sum(np.square(values - reference, dtype=np.float64))
    return float(10 * np.log10(signal / max(error, 1e-30)))


def _by_shape(
    found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The converter's outputs under the model's names: it renames them.

    Of outputs of one shape those that are nearest belong together.
    """
    left = dict(found)
    matched = {}
    for name, reference in expected.items():
        fitting = [k for k, v in left.items() if v.size == reference.size]
        nearest = min(
            fitting,
            key=lambda k: np.sum(
                np.square(left[k].reshape(reference.shape) - reference)
            ),
        )
        matched[name] = left.pop(nearest)
    return matched


def measure(name: str, shared: pathlib.Path) -> dict:
    """All that is measured of one model."""
    model = zoo_models.MODELS[name]
    path = _path(model, shared)
    found: dict = {"model": name, "what": model.what}
    with tempfile.TemporaryDirectory() as folder:
        ours = pathlib.Path(folder) / "ours.tflite"
        theirs = pathlib.Path(folder) / "converter.tflite"
        commands = {
            ours: [
                *("-m", "dsg_tf.quantize", f"--saved_model={path}"),
                *(f"--output={ours}", *model.flags, *_FLAGS.value),
            ],
            theirs: [
                *("-m", "benchmarks.zoo", f"--convert={name}"),
                *(f"--output={theirs}", f"--shared={shared}"),
            ],
        }
        for output, arguments in commands.items():
            what = output.stem
            try:
                cost = command.run([sys.executable, *arguments], good=(0, 2))
                found[what] = {
                    "seconds": cost.seconds,
                    "peak_bytes": cost.peak_bytes,
                    "size": output.stat().st_size,
                }
            except (subprocess.CalledProcessError, FileNotFoundError):
                found[what] = {"error": _last_line(arguments)}
        report = ours.with_name("ours.tflite.run") / "report.json"
        if report.exists():
            told = json.loads(report.read_text())
            found["ours"]["told"] = 100 * told["agreement"]
            found["ours"]["passed"] = told["passed"]
            found["ours"]["doubts"] = told["verdict"]["doubts"]
        if "error" not in found["ours"]:
            _compare(model, found, {"ours": ours, "converter": theirs}, shared)
    return found


def _last_line(arguments: list[str]) -> str:
    """What a command says last when it fails."""
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True
    )
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return lines[-1][:300] if lines else f"exit code {done.returncode}"


def _compare(model, found, files, shared: pathlib.Path) -> None:
    shape = [f for f in model.flags if f.startswith("--input_shape=")]
    graph = loading.load(
        str(_path(model, shared)),
        input_shapes=[int(n) for n in shape[0].split("=")[1].split(",")]
        if shape
        else None,
    )
    arrays = {
        name or graph.inputs[0].name: array[: _INPUTS.value]
        for name, array in model.inputs(shared, False).items()
    }
    tensors = [port.tensor for port in graph.outputs]
    batches = list(evaluation.batches(graph, tensors, arrays))
    expected = {
        port.name: np.concatenate([batch[i] for batch in batches])
        for i, port in enumerate(graph.outputs)
    }
    kinds = output_kinds.find(graph)
    labels = None
    if model.labelled:
        labels = zoo_models.labels(shared)[: _INPUTS.value]
        (scores,) = expected.values()
        best = scores.reshape(len(scores), -1).argmax(1)
        found["float_top1"] = float(100 * np.mean(best == labels))
    for what, file in files.items():
        if "error" in found[what]:
            continue
        try:
            found[what]["outputs"] = _judged(
                file.read_bytes(), arrays, expected, kinds, labels
            )
        except Exception as error:  # A converter's file may not run.
            found[what]["error"] = f"{type(error).__name__}: {error}"[:200]


def row(found: dict) -> str:
    """A line of the table."""
    ours, theirs = found["ours"], found["converter"]
    cells = [found["what"]]
    if "error" in ours:
        cells += [ours["error"], *["-"] * 7]
    else:
        cells += [
            f"{ours['seconds']:.0f}",
            f"{ours['peak_bytes'] / 1e9:.1f}",
            f"{ours['size'] / 1e3:.0f}",
            _numbers(ours, "agreement"),
            f"{ours['told']:.1f}{'' if ours['passed'] else ', doubtful'}",
            _numbers(ours, "sqnr_db"),
            _numbers(ours, "sqnr_zero_db"),
            _top1(found, "ours"),
        ]
    if "error" in theirs:
        cells += [theirs["error"][:60], "-", "-", "-"]
    else:
        cells += [
            _numbers(theirs, "agreement"),
            _numbers(theirs, "sqnr_db"),
            _numbers(theirs, "sqnr_zero_db"),
            _top1(found, "converter"),
        ]
    return "| " + " | ".join(cells) + " |"


def _numbers(entry: dict, key: str) -> str:
    outputs = entry.get("outputs", {})
    return ", ".join(f"{row[key]:.1f}" for row in outputs.values()) or "-"


def _top1(found: dict, what: str) -> str:
    rows = found[what].get("outputs", {})
    for entry in rows.values():
        if "top1" in entry:
            return f"{entry['top1']:.2f} (float {found['float_top1']:.2f})"
    return "-"


def main(argv: list[str]) -> None:
    del argv
    shared = pathlib.Path(_SHARED.value).absolute()
    if _CONVERT.value:
        convert(_CONVERT.value, shared, pathlib.Path(_OUTPUT.value))
        return
    print(
        "| model | s | GB | kB | agreement % | report says | SQNR dB | around"
        " zero | top-1 | converter, real inputs: agreement % | SQNR dB | around"
        " zero | top-1 |\n" + "| --- " * 13 + "|",
        flush=True,
    )
    everything = []
    for name in _MODELS.value:
        everything.append(measure(name, shared))
        print(row(everything[-1]), flush=True)
        logging.info("%s", everything[-1])
        if _JSON.value:
            text = json.dumps(everything, indent=1)
            pathlib.Path(_JSON.value).write_text(text)


if __name__ == "__main__":
    app.run(main)
