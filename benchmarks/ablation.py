"""What each ingredient of the default method is worth, on real models.

    python -m benchmarks.ablation [--models=resnet8,mobilenet] [--seeds=0,1,2]

Leaves one ingredient out at a time (and runs the named methods whole), and
compares the int8 .tflite with the float model on real images: agreement of the
best class, and SQNR of the output. The images are those set aside for choosing
defaults, not those that results are judged on.
"""

from __future__ import annotations

import pathlib
import tempfile

import numpy as np
from absl import app, flags, logging

from benchmarks import cases

_SHARED = flags.DEFINE_string("shared", "../shared", "Models and images.")
_MODELS = flags.DEFINE_list(
    "models", ["resnet8", "resnet20", "mobilenet"], "Which to run."
)
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds of the runs.")
_VARIANTS = flags.DEFINE_list("variants", [], "Which rows; default: all.")
_WEIGHT_BITS = flags.DEFINE_integer("weight_bits", 8, "Of the files.", 2, 8)
_IMAGES = flags.DEFINE_integer("images", 500, "Real images to compare on.")

# Row title -> (method, changed fields of SynthesisConfig, of ExportConfig).
VARIANTS = {
    "default": ("dsg", {}, {}),
    "no bias correction": ("dsg", {}, {"bias_correction": "none"}),
    "no labels": ("dsg", {"label_weight": 0.0}, {}),
    "label temperature 1": ("dsg", {"label_temperature": 1.0}, {}),
    "no batch moments": ("dsg", {"batch_weight": 0.0}, {}),
    "no sample moments": ("dsg", {"sample_weight": 0.0}, {}),
    "no slack (SDA)": ("dsg", {"slack_percentile": 0.0}, {}),
    "slack percentile 0.5": ("dsg", {"slack_percentile": 0.5}, {}),
    "no LSE": ("dsg", {"layerwise_enhancement": False}, {}),
    "no normalisation": ("dsg", {"normalize_loss": False}, {}),
    "white-noise start": ("dsg", {"initializer": "gaussian"}, {}),
    "no bounds": ("dsg", {"keep_domain": False}, {}),
    "no domain": ("dsg", {"use_domain": False, "keep_domain": False}, {}),
    "no jitter": ("dsg", {"jitter": 0.0}, {}),
    "no mirror": ("dsg", {"mirror": False}, {}),
    "150 steps": ("dsg", {"steps": 150}, {}),
    "600 steps": ("dsg", {"steps": 600}, {}),
    "128 samples": ("dsg", {"num_samples": 128}, {}),
    "image prior 0.1": ("dsg", {"prior_weight": 0.1}, {}),
    "zeroq": ("zeroq", {}, {}),
    "noise of the domain": ("noise", {}, {}),
    "standard normal noise": (
        "noise",
        {"use_domain": False, "keep_domain": False},
        {},
    ),
}


def score(
    case: cases.Case, shared: pathlib.Path, title: str, images: np.ndarray
) -> list[tuple[float, float]]:
    """(agreement in percent, SQNR in dB) of a variant, for each seed."""
    from dsg_tf import config, fidelity, pipeline, samples, source_model

    method, synthesis, export = VARIANTS[title]
    scores = []
    for seed in _SEEDS.value:
        settings = config.PipelineConfig(
            synthesis=config.SynthesisConfig.of(
                method, seed=int(seed), **synthesis
            ),
            export=config.ExportConfig.of(
                "balanced", weight_bits=_WEIGHT_BITS.value, **export
            ),
        )
        with tempfile.TemporaryDirectory() as folder:
            output = pathlib.Path(folder) / "model.tflite"
            model = str(shared / case.model)
            pipeline.quantize_model(model, output=output, config=settings)
            graph = source_model.load(model, settings).graph
            held_out = samples.SampleSet({graph.inputs[0].name: images})
            compared = fidelity.compare_outputs(
                graph, output.read_bytes(), held_out
            )
        result = next(iter(compared.values()))
        scores.append((100 * result.top1_agreement, result.sqnr_db))
    return scores


def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.WARNING)
    shared = pathlib.Path(_SHARED.value)
    for name in _MODELS.value:
        case = cases.CASES[name]
        images, _ = cases.load_images(case, shared, tuning=True)
        images = images[: _IMAGES.value]
        print(f"\n{case.title}, {len(images)} real images\n")
        print("| variant | agreement % | SQNR dB |\n| --- | --- | --- |")
        for title in _VARIANTS.value or VARIANTS:
            scores = np.array(score(case, shared, title, images))
            cells = [
                f"{m:.1f} ± {s:.1f}"
                for m, s in zip(scores.mean(0), scores.std(0), strict=True)
            ]
            print(f"| {title} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    app.run(main)
