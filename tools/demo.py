"""The demo: one model, int8 in three ways that see no data, top-1 of each.

    make demo

Quantizes examples/digits_saved_model and evaluates the results with the real
interpreter on digits that neither training nor quantization has seen. Plain
N(0, 1) noise is the baseline of the papers (ZeroQ, DSG): it knows nothing of
this model's inputs, which run from 0 to 16.
"""

from __future__ import annotations

import os
import pathlib
import time

from absl import flags
from rich import console as rich_console
from rich import table as rich_table

import dsg_tf
from dsg_tf.command_line import cli
from dsg_tf.config import run_config, synthesis_config
from dsg_tf.core import quiet
from dsg_tf.fidelity import classifiers
from tools import digits

_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", "demo_out", "Folder for the .tflite files and reports."
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of both quantizations.", 0)

_MODEL = (
    pathlib.Path(__file__).absolute().parent.parent
    / "examples"
    / "digits_saved_model"
)


def _configs(seed: int) -> dict[str, synthesis_config.SynthesisConfig]:
    """The ways of calibrating that the demo compares, by file name."""
    return {
        "digits_noise_int8": synthesis_config.SynthesisConfig.of(
            "noise", use_domain=False, keep_domain=False, seed=seed
        ),
        "digits_dsg_int8": synthesis_config.SynthesisConfig.of(
            "dsg", seed=seed
        ),
    }


_TITLES = {
    "digits_noise_int8": "int8, N(0, 1) noise",
    "digits_dsg_int8": "int8, dsg_tf",
}


def run(output_dir: pathlib.Path, seed: int) -> rich_table.Table:
    """Quantizes, evaluates, and returns the table to show."""
    _, held_out = digits.load_split()
    table = rich_table.Table(
        title=f"Top-1 on {len(held_out.labels)} held-out digits"
    )
    table.add_column("model")
    for heading in ("top-1 %", "calibration s"):
        table.add_column(heading, justify="right")
    table.add_column("file", overflow="fold")

    def add_row(title: str, path: pathlib.Path, seconds: str) -> None:
        predict = classifiers.load_predictor(str(path))
        score = classifiers.top1(predict, held_out.images, held_out.labels)
        table.add_row(
            title, f"{score.percent:.2f}", seconds, os.path.relpath(path)
        )

    add_row("float", _MODEL, "")
    for name, synthesis in _configs(seed).items():
        output = output_dir / f"{name}.tflite"
        start = time.perf_counter()
        dsg_tf.quantize_model(
            str(_MODEL),
            output=str(output),
            config=run_config.PipelineConfig(synthesis=synthesis),
        )
        seconds = time.perf_counter() - start
        add_row(_TITLES[name], output, f"{seconds:.0f}")
    return table


def main() -> int:
    """Runs the demo and prints its table; returns the exit code."""
    with quiet.importing():
        import tensorflow  # noqa: F401
    output_dir = pathlib.Path(_OUTPUT_DIR.value)
    output_dir.mkdir(parents=True, exist_ok=True)
    rich_console.Console().print(run(output_dir, _SEED.value))
    print(f"Reports and samples: {output_dir}/*.run/")
    return 0


if __name__ == "__main__":
    cli.run(
        main,
        usage="Quantizes the example model in three ways and compares top-1.",
        groups={"Flags": ("output_dir", "seed")},
    )
