"""How many samples and steps a width needs: accuracy against image-steps.

    python -m benchmarks.needs [--models=mobilenet,resnet20] [--seeds=0,1,2] \\
        [--amounts=8x3,8x12,8x25,16x50] [--flag=--weight_bits=4]

Quantizes each model with so many samples and steps, and compares the file
with the float model on images that are set aside for choosing defaults (never
those that tables are made of): agreement of the best class, top-1 where the
labels are the model's, SQNR of the output around its mean; and how far the
samples had settled: by how many bits their ranges were off those of BatchNorm,
and the share of the labels' cross-entropy that was left. Prints a Markdown
table of means and standard deviations over seeds;
docs/explanation/performance.md holds its output.
"""

from __future__ import annotations

import json
import pathlib
import tempfile
import time
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np
from absl import app, flags, logging

from benchmarks import cases
from dsg_tf.command_line import quantize_flags
from dsg_tf.fidelity import classifiers

_SHARED = flags.DEFINE_string("shared", "../shared", "Models and images.")
_MODELS = flags.DEFINE_list(
    "models",
    [
        *("resnet8", "resnet20", "vgg16", "mobilenet", "xception", "crepe"),
        *("mobilenet_v2", "effnet_lite0"),
    ],
    "Which to run.",
)
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds.")
_AMOUNTS = flags.DEFINE_list(
    "amounts",
    ["8x3", "8x6", "8x12", "8x25", "8x50", "16x50", "32x150"],
    "Samples x steps.",
)
_FLAGS = flags.DEFINE_multi_string(
    "flag", [], "A further flag for dsg_tf.quantize, e.g. --weight_bits=4."
)
_FIGURE = flags.DEFINE_string(
    "figure", "", "A picture to draw of agreement against image-steps."
)
_IMAGES = flags.DEFINE_integer("images", 512, "At most so many images.", 1)


class Judge:
    """Compares files with one float model on one set of inputs.

    Args:
      name: a key of `cases.CASES`.
      shared: models and images.
    """

    def __init__(self, name: str, shared: pathlib.Path):
        case = cases.CASES[name]
        images, labels = cases.load_images(case, shared, tuning=True)
        self._images = images[: _IMAGES.value]
        self._labels = None
        if name not in cases.UNLABELLED:
            self._labels = labels[: _IMAGES.value]
        self.reference = self._scores(str(shared / case.model))

    def _scores(self, path: str) -> np.ndarray:
        scores = classifiers.load_predictor(path)(self._images)
        return scores.reshape(len(self._images), -1)

    def of(self, path: str) -> tuple[float, float, float]:
        """Agreement and top-1 in percent (NaN without labels), SQNR in dB."""
        scores = self._scores(path)
        classes = scores.argmax(1)
        agreement = 100 * np.mean(classes == self.reference.argmax(1))
        top1 = float("nan")
        if self._labels is not None:
            top1 = 100 * np.mean(classes == self._labels)
        centred = self.reference - self.reference.mean(0)
        noise = np.sum((scores - self.reference) ** 2)
        sqnr = 10 * np.log10(np.sum(centred**2) / max(noise, 1e-30))
        return float(agreement), float(top1), float(sqnr)


def _settling(samples: pathlib.Path) -> tuple[float, float]:
    """Bits off and share of the labels, means over batches; NaN for none."""
    with zipfile.ZipFile(samples) as archive:
        rounds = json.loads(archive.read("metadata.json"))["rounds"]
    return tuple(
        # What is no number is null, and NaN of this type.
        float(np.mean([r[name] for r in rounds.values()], dtype=float))
        for name in ("bits_off", "label_share")
    )


def measure(
    model: str, judge: Judge, samples: int, steps: int
) -> list[tuple[float, ...]]:
    """Of each seed: agreement, top-1, SQNR, settling, seconds."""
    import dsg_tf

    found = []
    for seed in _SEEDS.value:
        config = quantize_flags.parse(
            [
                f"--num_samples={samples}",
                f"--batch_size={min(samples, 16)}",
                f"--steps={steps}",
                "--synthesis=fill=wrap",
                f"--seed={seed}",
                *_FLAGS.value,
            ]
        )
        with tempfile.TemporaryDirectory() as folder:
            output = pathlib.Path(folder) / "model.tflite"
            start = time.monotonic()
            result = dsg_tf.quantize_model(model, output=output, config=config)
            seconds = time.monotonic() - start
            settling = _settling(result.run_folder / "samples.npz")
            found.append((*judge.of(str(output)), *settling, seconds))
        logging.info("%s %dx%d seed %s: %s", model, samples, steps, seed, found)
    return found


def draw(
    curves: Mapping[str, Sequence[tuple[int, float, float, float]]], path: str
) -> None:
    """Draws agreement, and how far ranges are off, against image-steps.

    Args:
      curves: by model: image-steps; agreement in percent, its deviation over
        seeds; bits that ranges are off.
      path: of the picture.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6))
    for name, points in curves.items():
        steps, agreement, spread, off = np.array(points).T
        title = cases.CASES[name].title.partition(" (")[0]
        left.errorbar(
            steps, agreement, spread, marker="o", ms=3, capsize=2, label=title
        )
        right.plot(steps, off, marker="o", ms=3)
    for axes, label in (
        (left, "agreement with float, %"),
        (right, "ranges off BatchNorm's, bits"),
    ):
        axes.set_xscale("log")
        axes.set_xlabel("image-steps (samples x steps)")
        axes.set_ylabel(label)
        axes.axvline(200, color="grey", lw=0.8, ls=":")
        axes.grid(alpha=0.3)
    left.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main(argv: list[str]) -> None:
    del argv
    shared = pathlib.Path(_SHARED.value)
    print(
        "| model | samples x steps | image-steps | agreement % | top-1 % | SQNR"
        " dB | ranges off by bits | labels | seconds |\n" + "| --- " * 9 + "|",
        flush=True,
    )
    curves: dict[str, list[tuple[int, float, float, float]]] = {}
    for name in _MODELS.value:
        judge = Judge(name, shared)
        for amount in _AMOUNTS.value:
            samples, steps = (int(text) for text in amount.split("x"))
            runs = measure(
                str(shared / cases.CASES[name].model), judge, samples, steps
            )
            means, spreads = np.mean(runs, 0), np.std(runs, 0)
            curves.setdefault(name, []).append(
                (samples * steps, means[0], spreads[0], means[3])
            )
            cells = [name, f"{samples} x {steps}", f"{samples * steps:,}"]
            for mean, spread, digits in zip(
                means, spreads, (1, 1, 1, 2, 2, 0), strict=True
            ):
                cells.append(
                    "-"
                    if np.isnan(mean)
                    else f"{mean:.{digits}f} ± {spread:.{digits}f}"
                )
            print("| " + " | ".join(cells) + " |", flush=True)
    if _FIGURE.value:
        draw(curves, _FIGURE.value)


if __name__ == "__main__":
    app.run(main)
