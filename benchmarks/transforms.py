"""Top-1 of the quantization techniques on real models, data-free and with data.

    python -m benchmarks.transforms [--rows="W4A8"] [--seeds=0,1,2]

Each row is a model and flags of `dsg_tf.quantize`. It runs on synthetic
samples, made once a model and seed with default settings, and on the real
images that are set aside for calibration (the same flags, `--samples`). Every
file is evaluated with the real interpreter, simulations in TensorFlow, on
labelled images that no part of a run has seen. Prints a Markdown table: mean
and standard deviation over seeds, and the seconds of everything behind the
samples. The real images are the same for every seed; what is drawn behind them,
AdaRound's rows, is not. docs/explanation/quantization.md holds its output.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
import tempfile

import numpy as np
from absl import app, flags, logging

from benchmarks import cases, command
from dsg_tf.fidelity import classifiers

_SHARED = flags.DEFINE_string("shared", "../shared", "Models and images.")
_ROWS = flags.DEFINE_string(
    "rows", "", "Only rows whose model and title this expression finds."
)
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of the runs.")
_SAMPLES_DIR = flags.DEFINE_string(
    "samples_dir", "", "Keeps the samples for later runs; default: nowhere."
)
_SOURCES = flags.DEFINE_list("sources", ["dsg", "real"], "Samples to run on.")


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
      case: the model, a key of `cases.CASES`.
      title: what is done.
      flags: of `dsg_tf.quantize`.
    """

    case: str
    title: str
    flags: tuple[str, ...]


def _rows() -> list[Row]:
    per_tensor = "--granularity=tensor"
    w4 = "--weight_bits=4"
    rows = [
        (
            "mobilenet",
            "int8 per tensor, nearest",
            (per_tensor, "--recipe=fast"),
        ),
        ("mobilenet", "int8 per tensor, DFQ", (per_tensor,)),
        ("mobilenet", "int8 per tensor, best", (per_tensor, "--recipe=best")),
        ("mobilenet", "int8 per channel, nearest", ("--recipe=fast",)),
        ("mobilenet", "int8 per channel, best", ("--recipe=best",)),
        ("mobilenet", "W4A8, nearest", (w4, "--recipe=fast")),
        ("mobilenet", "W4A8, AdaRound", (w4,)),
        ("resnet20", "W4A8, nearest", (w4, "--recipe=fast")),
        ("resnet20", "W4A8, AdaRound", (w4,)),
        (
            "resnet20",
            "W3A32, nearest",
            ("--weight_bits=3", "--activation_bits=32", "--recipe=fast"),
        ),
        (
            "resnet20",
            "W3A32, AdaRound",
            ("--weight_bits=3", "--activation_bits=32"),
        ),
        (
            "resnet20",
            "W4A4, AdaRound",
            (w4, "--activation_bits=4"),
        ),
        ("resnet8", "W4A8, nearest", (w4, "--recipe=fast")),
        ("resnet8", "W4A8, AdaRound", (w4,)),
    ]
    return [Row(*row) for row in rows]


class Samples:
    """Samples of each model, made once.

    Args:
      shared: models and images.
      folder: where they are kept.
    """

    def __init__(self, shared: pathlib.Path, folder: pathlib.Path):
        self._shared, self._folder = shared, folder

    def path(self, case: str, source: str, seed: str) -> pathlib.Path:
        """The .npz of a model's samples."""
        if source == "real":
            path = self._folder / f"{case}_real.npz"
            if not path.exists():
                self._real(case, path)
            return path
        path = self._folder / f"{case}_{source}_{seed}.npz"
        if not path.exists():
            self._synthetic(case, seed, path)
        return path

    def _synthetic(self, case: str, seed: str, path: pathlib.Path) -> None:
        import dsg_tf

        synthesis = dsg_tf.SynthesisConfig(
            num_samples=80, tolerance=0, seed=int(seed)
        )
        dsg_tf.synthesize(
            str(self._shared / cases.CASES[case].model),
            output=path,
            config=dsg_tf.PipelineConfig(synthesis=synthesis),
        )

    def _real(self, case: str, path: pathlib.Path) -> None:
        images, _ = cases.load_images(
            cases.CASES[case], self._shared, tuning=True
        )
        # As many as there are of the synthetic ones, where there are more.
        np.savez(path, images=images[:128])


def top1(row: Row, shared, folder, samples) -> tuple[list[str], float]:
    """Cells of a row, and the seconds of a run."""
    case = cases.CASES[row.case]
    images, labels = cases.load_images(case, shared)
    cells, seconds = [], []
    for source in _SOURCES.value:
        scores = []
        for seed in _SEEDS.value:
            output = folder / "out"
            if "--activation_bits=4" not in row.flags:
                output = folder / "out.tflite"
            seconds.append(
                command.quantize(
                    shared / case.model,
                    output,
                    f"--samples={samples.path(row.case, source, seed)}",
                    f"--seed={seed}",
                    "--noresume",
                    *row.flags,
                ).seconds
            )
            classes = classifiers.classify(
                classifiers.load_predictor(str(output)), images
            )
            scores.append(100 * float(np.mean(classes == labels)))
            logging.info("%s %s %s: %s", row, source, seed, scores[-1])
        spread = f" ± {np.std(scores):.2f}" if len(scores) > 1 else ""
        cells.append(f"{np.mean(scores):.2f}{spread}")
    return cells, float(np.mean(seconds))


def main(argv: list[str]) -> None:
    del argv
    shared = pathlib.Path(_SHARED.value)
    heads = " | ".join(_SOURCES.value)
    print(f"| model | what | flags | {heads} | seconds |")
    print("| --- " * (len(_SOURCES.value) + 4) + "|", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        kept = pathlib.Path(_SAMPLES_DIR.value or name)
        samples = Samples(shared, kept)
        for row in _rows():
            if not re.search(_ROWS.value, f"{row.case} {row.title}"):
                continue
            cells, seconds = top1(row, shared, folder, samples)
            told = " ".join(f"`{flag}`" for flag in row.flags)
            print(
                f"| {cases.CASES[row.case].title} | {row.title} | {told} |"
                f" {' | '.join(cells)} | {seconds:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    app.run(main)
