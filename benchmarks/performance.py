"""Seconds, memory and accuracy of the whole command, beside what users have.

    make bench
    python -m benchmarks.performance [--models=resnet8,mobilenet] [--seeds=0] \
        [--before=../earlier_checkout] [--json=performance.json]

For each model and seed, in turns, so that what else the machine does hits all
alike: `dsg_tf.quantize` with default settings; TFLiteConverter with 100 real
images; and, where a checkout of an earlier version is named, its command. Each
file is evaluated on labelled images that no part has seen. Prints a Markdown
table: mean and standard deviation over seeds.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import sys
import tempfile

import numpy as np
from absl import app, flags, logging

from benchmarks import cases, command
from dsg_tf.fidelity import classifiers

_SHARED = flags.DEFINE_string("shared", "../shared", "Models and images.")
_MODELS = flags.DEFINE_list(
    "models",
    ["resnet8", "resnet20", "mobilenet", "mobilenet_v2", "effnet_lite0"],
    "Which to run.",
)
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of the runs.")
_BEFORE = flags.DEFINE_string(
    "before", "", "Checkout of an earlier version, to run in turns."
)
_JSON = flags.DEFINE_string("json", "", "A file for all that was measured.")
_FLAGS = flags.DEFINE_multi_string(
    "flag", [], "A further flag for dsg_tf.quantize, ours and before."
)


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of one command.

    Attributes:
      model: a key of `cases.CASES`.
      what: `ours`, `converter` or `before`.
      seed: of the run.
      seconds: wall, of the whole command.
      peak_bytes: resident memory.
      top1: percent, on evaluation images.
      agreement: with the float model's class, percent.
    """

    model: str
    what: str
    seed: str
    seconds: float
    peak_bytes: int
    top1: float
    agreement: float


def _run(what: str, model: str, seed: str, output: str) -> command.Cost:
    """Runs one command; the file that it writes is `output`."""
    shared = pathlib.Path(_SHARED.value).absolute()
    python = sys.executable
    if what == "converter":
        return command.run(
            [
                *(python, "-m", "benchmarks.converter"),
                f"--case={model}",
                f"--shared={shared}",
                f"--output={output}",
            ]
        )
    words = [
        *(python, "-m", "dsg_tf.quantize"),
        f"--saved_model={shared / cases.CASES[model].model}",
        f"--output={output}",
        f"--seed={seed}",
        *_FLAGS.value,
    ]
    if what == "before":
        folder = os.path.abspath(_BEFORE.value)
        words = ["env", f"--chdir={folder}", *words]
    return command.run(words)


def measure(model: str) -> list[Run]:
    """All commands on one model, in turns over the seeds."""
    shared = pathlib.Path(_SHARED.value)
    case = cases.CASES[model]
    images, labels = cases.load_images(case, shared)
    predict = classifiers.load_predictor(str(shared / case.model))
    reference = classifiers.classify(predict, images)
    logging.info("%s: float %.2f", model, 100 * np.mean(reference == labels))
    kinds = ["ours", "converter"] + (["before"] if _BEFORE.value else [])
    runs = []
    for seed in _SEEDS.value:
        for what in kinds:
            with tempfile.TemporaryDirectory() as folder:
                output = os.path.join(folder, "model.tflite")
                cost = _run(what, model, seed, output)
                classes = classifiers.classify(
                    classifiers.load_predictor(output), images
                )
            runs.append(
                Run(
                    model,
                    what,
                    seed,
                    cost.seconds,
                    cost.peak_bytes,
                    100 * float(np.mean(classes == labels)),
                    100 * float(np.mean(classes == reference)),
                )
            )
            logging.info("%s", runs[-1])
    return runs


def row(runs: list[Run]) -> str:
    """A line of the Markdown table: one model, one command."""

    def spread(name: str, digits: int) -> str:
        values = [getattr(run, name) for run in runs]
        return f"{np.mean(values):.{digits}f} ± {np.std(values):.{digits}f}"

    peak = max(run.peak_bytes for run in runs) / 1e9
    cells = [
        cases.CASES[runs[0].model].title,
        runs[0].what,
        spread("seconds", 1),
        f"{peak:.1f}",
        spread("top1", 2),
        spread("agreement", 1),
    ]
    return "| " + " | ".join(cells) + " |"


def main(argv: list[str]) -> None:
    del argv
    print(
        "| model | command | seconds | peak GB | int8 top-1 | agreement % |\n"
        "| --- | --- | --- | --- | --- | --- |",
        flush=True,
    )
    found = []
    for model in _MODELS.value:
        runs = measure(model)
        found += runs
        for what in dict.fromkeys(run.what for run in runs):
            print(row([r for r in runs if r.what == what]), flush=True)
    if _JSON.value:
        text = json.dumps([dataclasses.asdict(r) for r in found], indent=2)
        pathlib.Path(_JSON.value).write_text(text + "\n")


if __name__ == "__main__":
    app.run(main)
