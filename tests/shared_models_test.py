"""The whole run on the real models of ../shared, compared on real images.

Shorter than by default, so that CI can afford it; the numbers of the README
come from benchmarks/accuracy.py. The bounds lie between what these short runs
reach and what calibration by N(0, 1) noise reaches on the same images, in
percent: ResNet-8 98 and 10, ResNet-20 98 and 96, MobileNetV1 80 and 30.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import cases
from dsg_tf import pipeline
from dsg_tf.analysis import source_model
from dsg_tf.config import run_config, synthesis_config
from dsg_tf.fidelity import fidelity
from dsg_tf.samples import sample_sets

_IMAGES = 100


def _run(shared, tmp_path, name: str, **synthesis) -> pipeline.Result:
    settings = run_config.PipelineConfig(
        synthesis=synthesis_config.SynthesisConfig(**synthesis),
        verify_samples=4,
    )
    return pipeline.quantize_model(
        shared / cases.CASES[name].model,
        output=tmp_path / f"{name}.tflite",
        config=settings,
    )


@pytest.mark.parametrize(
    ("name", "synthesis", "least_percent"),
    [
        ("resnet8", {"steps": 60, "num_samples": 28}, 94),
        ("resnet20", {"steps": 60, "num_samples": 28}, 95),
        (
            "mobilenet",
            {"steps": 50, "num_samples": 12, "slack_probes": 64},
            65,
        ),
    ],
)
def test_int8_agrees_with_float_on_real_images(
    shared, tmp_path, name, synthesis, least_percent
):
    case = cases.CASES[name]
    images, _ = cases.load_images(case, shared, tuning=True)
    result = _run(shared, tmp_path, name, **synthesis)

    graph = source_model.load(
        shared / case.model, run_config.PipelineConfig()
    ).graph
    real = sample_sets.SampleSet({graph.inputs[0].name: images[:_IMAGES]})
    compared = fidelity.compare_outputs(graph, result.output.read_bytes(), real)

    (only,) = compared.values()
    assert 100 * only.top1_agreement >= least_percent


def test_same_seed_same_bytes_in_two_processes(shared, tmp_path):
    """A step of 16 images needs more than Grappler takes a CPU to have."""
    root = pathlib.Path(__file__).absolute().parent.parent
    path = os.pathsep.join([str(root), *filter(None, sys.path)])
    outputs = [tmp_path / name / "out.tflite" for name in "ab"]
    processes = []
    for output in outputs:
        output.parent.mkdir()
        command = [
            *(sys.executable, "-m", "dsg_tf.quantize"),
            f"--saved_model={shared / cases.CASES['mobilenet'].model}",
            f"--output={output}",
            *("--num_samples=14", "--verify_samples=2", "--batch_size=16"),
            *("--steps=4", "--synthesis=slack_probes=16"),
        ]
        processes.append(
            subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path})
        )
    # So few steps may well give doubtful samples.
    assert {p.wait() for p in processes} <= {0, 2}
    for name in ("out.tflite", "out.tflite.run/samples.npz"):
        first, second = ((o.parent / name).read_bytes() for o in outputs)
        assert first == second, name


def test_keyword_model_runs_unattended(shared, tmp_path):
    result = _run(shared, tmp_path, "kws", steps=60, num_samples=28)

    assert result.report.agreement >= 0.75
    assert result.report.batch_norm_layers == 9
    sqnr_db = [row["sqnr_db"] for row in result.report.layers]
    # The input is not quantized before its QUANTIZE: infinite is right there.
    assert np.isfinite([v for v in sqnr_db if v != np.inf]).all()
    assert max(v for v in sqnr_db if v != np.inf) > 20
