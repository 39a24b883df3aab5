"""Top-1 of a simulation, and how often it agrees with the integer file.

    python -m benchmarks.simulation [--models=resnet8,resnet20]

Each model is quantized to W8A8 with default settings, on 64 of the images that
are set aside for tuning, and once more as a simulation of the same weights
and ranges. The file runs with XNNPACK and with LiteRT's own builtin kernels,
on labelled images that no part of a run has seen. Prints a Markdown table;
docs/explanation/quantization.md holds its output.
"""

from __future__ import annotations

import pathlib
import tempfile

import numpy as np
from absl import app, flags

from benchmarks import cases

_SHARED = flags.DEFINE_string("shared", "../shared", "Models and images.")
_MODELS = flags.DEFINE_list(
    "models", ["resnet8", "resnet20", "mobilenet", "vgg16"], "Cases to run."
)
_CALIBRATING = 64


def outputs(
    model, calibrating: np.ndarray, images: np.ndarray, file: pathlib.Path
) -> dict[str, np.ndarray]:
    """Outputs of a model of one input and one output, W8A8 and float.

    Args:
      model: anything that `loading.load` takes.
      calibrating: float32 (N, ...), model input units.
      images: likewise, to run on.
      file: where the .tflite is written.

    Returns:
      (N, ...) for each of `xnnpack` and `builtin`, the file with and without
      delegates; `simulation`; and `float`.
    """
    # Imported late, so that --help stays fast.
    from dsg_tf.config import export_config
    from dsg_tf.core import staging
    from dsg_tf.export import simulation, writers
    from dsg_tf.graph import evaluation
    from dsg_tf.graph.load import loading
    from dsg_tf.samples import sample_sets
    from dsg_tf.tflite import interpreter
    from dsg_tf.transforms import passes

    graph = loading.load(model)
    (port,) = graph.inputs
    settings = export_config.ExportConfig()
    sample_set = sample_sets.SampleSet({port.name: calibrating})
    prepared = passes.run(graph, sample_set.arrays, settings)
    with staging.Staging() as staged:
        written = writers.of(settings).write(prepared, sample_set, file, staged)
        staged.place(last=file)
    bits = settings.activation_bits
    ranges = simulation.ranges_of(
        prepared.graph,
        sample_set.arrays,
        bits=bits,
        range_method=settings.range_method,
    )
    simulated, _ = simulation.simulate(prepared.graph, ranges, bits=bits)
    found = {}
    for name, other in (("simulation", simulated), ("float", graph)):
        (tensor,) = [p.tensor for p in other.outputs]
        values = evaluation.batches(other, [tensor], {port.name: images})
        found[name] = np.concatenate([batch for (batch,) in values])
    for name, delegates in (("xnnpack", True), ("builtin", False)):
        runner = interpreter.Interpreter(written.model, delegates=delegates)
        (found[name],) = runner.run({port.name: images}).values()
    return found


def _row(name: str, shared: pathlib.Path, folder: pathlib.Path) -> str:
    """A model's line of the table."""
    case = cases.CASES[name]
    calibrating, _ = cases.load_images(case, shared, tuning=True)
    images, labels = cases.load_images(case, shared)
    found = outputs(
        str(shared / case.model),
        calibrating[:_CALIBRATING],
        images,
        folder / "model.tflite",
    )
    classes = {key: values.argmax(-1) for key, values in found.items()}
    top1 = {
        key: f"{100 * np.mean(value == labels):.2f}"
        for key, value in classes.items()
    }
    same = {
        key: f"{100 * np.mean(classes[key] == classes['xnnpack']):.2f} %"
        for key in ("simulation", "builtin")
    }
    return (
        f"| {case.title} ({len(labels):,}) |"
        f" {top1['xnnpack']} / {top1['builtin']} | {top1['simulation']} |"
        f" {same['simulation']} | {same['builtin']} |"
    )


def main(argv: list[str]) -> None:
    del argv
    print(
        f"| W8A8 ({_CALIBRATING} tuning images) | top-1 XNNPACK / builtin |"
        " simulation | agreement sim / XNNPACK | builtin / XNNPACK |"
    )
    print("| --- " * 5 + "|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in _MODELS.value:
            print(
                _row(name, pathlib.Path(_SHARED.value), pathlib.Path(folder)),
                flush=True,
            )


if __name__ == "__main__":
    app.run(main)
