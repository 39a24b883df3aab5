"""Top-1, time and memory of the whole command on real models, over seeds.

    python -m benchmarks.accuracy [--models=resnet8,mobilenet] [--seeds=0,1,2]

Runs `python -m dsg_tf.quantize` with default settings, each in a process of
its own, on the models of ../shared, evaluates every .tflite with the real
interpreter on labelled images that no part of the run has seen, and prints a
Markdown table: mean and standard deviation over seeds, wall seconds and peak
memory of the command. The README's table is this program's output.
"""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile

import numpy as np
from absl import app, flags, logging

from benchmarks import cases, command
from dsg_tf.fidelity import classifiers

_SHARED = flags.DEFINE_string("shared", "../shared", "Models and images.")
_MODELS = flags.DEFINE_list(
    "models", ["resnet8", "resnet20", "mobilenet", "kws"], "Which to run."
)
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of the runs.")
_FLAGS = flags.DEFINE_multi_string(
    "flag", [], "A further flag for dsg_tf.quantize, e.g. --method=zeroq."
)


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of the command.

    Attributes:
      cost: seconds and memory.
      top1: percent, NaN without labelled images.
      agreement: share of images with the float model's class, percent.
    """

    cost: command.Cost
    top1: float
    agreement: float


def measure(case: cases.Case, shared: pathlib.Path) -> tuple[float, list[Run]]:
    """The float model's top-1 in percent, and a run for each seed."""
    model = shared / case.model
    images = labels = reference = None
    float_top1 = float("nan")
    if case.data:
        images, labels = cases.load_images(case, shared)
        reference = classifiers.classify(
            classifiers.load_predictor(str(model)), images
        )
        float_top1 = 100 * float(np.mean(reference == labels))
    runs = []
    for seed in _SEEDS.value:
        with tempfile.TemporaryDirectory() as folder:
            output = pathlib.Path(folder) / "model.tflite"
            cost = command.quantize(
                model, output, f"--seed={seed}", *_FLAGS.value
            )
            top1 = agreement = float("nan")
            if images is not None:
                classes = classifiers.classify(
                    classifiers.load_predictor(str(output)), images
                )
                top1 = 100 * float(np.mean(classes == labels))
                agreement = 100 * float(np.mean(classes == reference))
        runs.append(Run(cost, top1, agreement))
        logging.info("%s, seed %s: %s", case.title, seed, runs[-1])
    return float_top1, runs


def row(title: str, float_top1: float, runs: list[Run]) -> str:
    """A line of the Markdown table."""

    def spread(values: list[float], digits: int = 2) -> str:
        if np.isnan(values).all():
            return "-"
        return f"{np.mean(values):.{digits}f} ± {np.std(values):.{digits}f}"

    cells = [
        title,
        "-" if np.isnan(float_top1) else f"{float_top1:.2f}",
        spread([r.top1 for r in runs]),
        spread([r.agreement for r in runs]),
        spread([r.cost.seconds for r in runs], 0),
        f"{max(r.cost.peak_bytes for r in runs) / 1e9:.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


def main(argv: list[str]) -> None:
    del argv
    shared = pathlib.Path(_SHARED.value)
    print(
        "| model | float top-1 | int8 top-1 | agreement % | seconds"
        " | peak GB |\n| --- | --- | --- | --- | --- | --- |",
        flush=True,
    )
    for name in _MODELS.value:
        case = cases.CASES[name]
        print(row(case.title, *measure(case, shared)), flush=True)


if __name__ == "__main__":
    app.run(main)
