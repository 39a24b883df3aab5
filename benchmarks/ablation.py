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

Scores are kept in `--record` as they come, so that a second start goes on where
the first was stopped. Processes that share it share the work: give each some of
the seeds, then all seeds to one that prints the table.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import app, flags, logging

from benchmarks import cases, ingredients, score_record
from dsg_tf.batch import batch_flags
from dsg_tf.command_line import cli
from dsg_tf.config import export_config, needs, run_config, synthesis_config
from dsg_tf.core import errors, files, fingerprints, progress

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
_RECORD = flags.DEFINE_string(
    "record", "ablation.jsonl", "Where scores are kept and found again."
)


def compare(scores: np.ndarray, floats: np.ndarray) -> tuple[float, float]:
    """Agreement of the best class, percent, and SQNR, dB."""
    same = scores.argmax(-1) == floats.argmax(-1)
    noise = np.mean((scores - floats).astype(np.float64) ** 2)
    signal = np.mean(floats.astype(np.float64) ** 2)
    return 100 * float(same.mean()), 10 * float(np.log10(signal / noise))


def spread(values: Sequence[float]) -> str:
    """Mean and deviation; of one value no deviation, which would be a lie."""
    mean = f"{np.mean(values):.1f}"
    return f"{mean} ± {np.std(values):.1f}" if len(values) > 1 else mean


def score(
    model: str,
    synthesis: synthesis_config.SynthesisConfig,
    export_changes: Mapping[str, Any],
    judge: Callable[[str], tuple[float, float]],
) -> dict[str, tuple[float, float]]:
    """By widths, what `judge` finds of a model quantized with one sample set.

    Args:
      model: path of the float model.
      synthesis: how the samples are made.
      export_changes: fields of `ExportConfig`, beside those of the recipe.
      judge: gets the path of a quantized model.
    """
    import dsg_tf

    # Every width on the same samples, of the full amount.
    synthesis = dataclasses.replace(synthesis, tolerance=0.0)
    settings = needs.complete(run_config.PipelineConfig(synthesis=synthesis))
    found = {}
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
            export = export_config.ExportConfig(
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
            found[bits] = judge(str(output))
    return found


def table(
    name: str,
    rows: Mapping[str, synthesis_config.SynthesisConfig],
    record: score_record.ScoreRecord,
) -> Iterator[str]:
    """Lines of Markdown: a model's scores, mean and spread over the seeds."""
    from dsg_tf.fidelity import classifiers

    case, shared = cases.CASES[name], pathlib.Path(_SHARED.value)
    model = str(shared / case.model)
    images, _ = cases.load_images(case, shared, tuning=True)
    images = images[: _IMAGES.value]
    tuning_data = fingerprints.of_path(shared / case.tuning_data)
    floats = classifiers.load_predictor(model)(images)

    def judge(path: str) -> tuple[float, float]:
        return compare(classifiers.load_predictor(path)(images), floats)

    basis = {
        "model": fingerprints.of_path(model),
        "images": [tuning_data, case.preprocess, len(images)],
        "bits": _BITS.value,
    }
    yield f"\n{case.title}, {len(images)} real images\n"
    heads = [f"{b} agreement % | {b} SQNR dB" for b in _BITS.value]
    yield f"| variant | {' | '.join(heads)} |"
    yield "| --- " * (1 + 2 * len(heads)) + "|"
    stage = progress.Task(name, len(rows) * len(_SEEDS.value), unit="runs")
    for title, synthesis in rows.items():
        changes = ingredients.EXPORTS.get(title, {})
        scores = []
        for seed in _SEEDS.value:
            seeded = dataclasses.replace(synthesis, seed=int(seed))
            key = record.key(
                basis | {"synthesis": dataclasses.asdict(seeded)} | changes
            )
            found = record.get(key)
            if found is None:
                found = score(model, seeded, changes, judge)
                record.put(key, found)
                stage.advance()
            else:
                stage.skip(1)
            print(stage.line(f"{title}, seed {seed}"), file=sys.stderr)
            scores.append(found)
        cells = [
            spread(values)
            for bits in _BITS.value
            for values in zip(*(found[bits] for found in scores), strict=True)
        ]
        yield f"| {title} | {' | '.join(cells)} |"


def _wanted(title: str) -> bool:
    try:
        return bool(re.search(_VARIANTS.value, title))
    except re.error as error:
        raise errors.UserError(
            "--variants",
            got=f"{_VARIANTS.value!r} ({error})",
            expected="a regular expression",
        ) from error


def main() -> int:
    logging.set_verbosity(logging.WARNING)
    known = [name for name, case in cases.CASES.items() if case.tuning_data]
    for name in _MODELS.value:
        if name not in known:
            raise errors.UserError(
                "--models",
                got=repr(name),
                expected=f"models with images to choose on: {', '.join(known)}",
            )
    for bits in _BITS.value:
        batch_flags.widths_apart({"bits": bits})
    for seed in _SEEDS.value:
        if not seed.isdecimal():
            raise errors.UserError(
                "--seeds", got=repr(seed), expected="whole numbers, e.g. 0,1"
            )
    rows = ingredients.variants(
        _STUDY.value, num_samples=_SAMPLES.value, steps=_STEPS.value
    )
    rows = {t: row for t, row in rows.items() if _wanted(t)}
    record = score_record.ScoreRecord(_RECORD.value)
    for name in _MODELS.value:
        for line in table(name, rows, record):
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    app.run(lambda _: cli.guarded(main))
