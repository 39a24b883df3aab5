"""What each ingredient of the default method is worth, on real models.

    python -m benchmarks.ablation --study=ladder --models=resnet20 --bits=W4A4
    python -m benchmarks.ablation --study=without --models=resnet8 --seeds=0,1

`ladder` goes from white noise over ZeroQ to the default method, an ingredient a
rung; `without` takes one ingredient at a time out of the default method, or
changes it; `slack` compares where the margins of SDA come from. Every variant
has the same steps and the same number of samples, if it does not say otherwise.
Quantized models are compared with the float model on real images: agreement of
the best class, and SQNR of the output. These images are set aside for choosing
defaults; results are not judged on them.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
import shutil
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import app, flags, logging

from benchmarks import cases, ingredients
from dsg_tf import batch_flags, export_config, files, synthesis_config
from dsg_tf import config as config_lib

_SHARED = flags.DEFINE_string("shared", "../shared", "Models and images.")
_STUDY = flags.DEFINE_enum(
    "study", "without", ingredients.STUDIES, "Which table."
)
_MODELS = flags.DEFINE_list(
    "models", ["resnet8", "resnet20", "mobilenet"], "Which to run."
)
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds of the runs.")
_VARIANTS = flags.DEFINE_string(
    "variants", "", "Only rows whose title this expression finds."
)
_BITS = flags.DEFINE_list("bits", ["W8A8"], "Widths, e.g. W8A8,W4A8.")
_STEPS = flags.DEFINE_integer("steps", 300, "Of every variant.", 1)
_SAMPLES = flags.DEFINE_integer("num_samples", 64, "Of every variant.", 1)
_IMAGES = flags.DEFINE_integer("images", 500, "Real images to compare on.")


def compare(scores: np.ndarray, floats: np.ndarray) -> tuple[float, float]:
    """Agreement of the best class, percent, and SQNR, dB."""
    same = scores.argmax(-1) == floats.argmax(-1)
    noise = np.mean((scores - floats).astype(np.float64) ** 2)
    signal = np.mean(floats.astype(np.float64) ** 2)
    return 100 * float(same.mean()), 10 * float(np.log10(signal / noise))


def score(
    case: cases.Case,
    shared: pathlib.Path,
    synthesis: synthesis_config.SynthesisConfig,
    export_changes: Mapping[str, Any],
    images: np.ndarray,
    floats: np.ndarray,
) -> dict[str, list[tuple[float, float]]]:
    """By widths, what `compare` finds for each seed."""
    import dsg_tf
    from dsg_tf import classifiers

    model = str(shared / case.model)
    found: dict[str, list[tuple[float, float]]] = {b: [] for b in _BITS.value}
    for seed in _SEEDS.value:
        seeded = dataclasses.replace(synthesis, seed=int(seed))
        settings = config_lib.PipelineConfig(synthesis=seeded)
        with tempfile.TemporaryDirectory() as folder:
            samples = pathlib.Path(folder) / "samples.npz"
            dsg_tf.synthesize(
                model,
                output=samples,
                config=settings,
                further=settings.verify_samples,
            )
            for bits in _BITS.value:
                widths = batch_flags.widths_apart({"bits": bits})
                export = export_config.ExportConfig.of(
                    "balanced",
                    **{name: int(value) for name, value in widths.items()},
                    **export_changes,
                )
                name = "simulated" if export.simulated else "model.tflite"
                output = pathlib.Path(folder) / bits / name
                # Where a run looks for samples of its own.
                place = files.run_folder(output)
                place.mkdir(parents=True)
                shutil.copy(samples, place / "samples.npz")
                dsg_tf.quantize_model(
                    model,
                    output=output,
                    config=dataclasses.replace(settings, export=export),
                )
                predict = classifiers.load_predictor(str(output))
                found[bits].append(compare(predict(images), floats))
    return found


def main(argv: list[str]) -> None:
    del argv
    from dsg_tf import classifiers

    logging.set_verbosity(logging.WARNING)
    shared = pathlib.Path(_SHARED.value)
    rows = ingredients.variants(
        _STUDY.value, num_samples=_SAMPLES.value, steps=_STEPS.value
    )
    for name in _MODELS.value:
        case = cases.CASES[name]
        images, _ = cases.load_images(case, shared, tuning=True)
        images = images[: _IMAGES.value]
        floats = classifiers.load_predictor(str(shared / case.model))(images)
        print(f"\n{case.title}, {len(images)} real images\n")
        heads = [f"{b} agreement % | {b} SQNR dB" for b in _BITS.value]
        print(f"| variant | {' | '.join(heads)} |")
        print("| --- " * (1 + 2 * len(heads)) + "|", flush=True)
        for title, synthesis in rows.items():
            if not re.search(_VARIANTS.value, title):
                continue
            changes = ingredients.EXPORTS.get(title, {})
            found = score(case, shared, synthesis, changes, images, floats)
            cells = [
                f"{np.mean(values):.1f} ± {np.std(values):.1f}"
                for pairs in found.values()
                for values in zip(*pairs, strict=True)
            ]
            print(f"| {title} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    app.run(main)
