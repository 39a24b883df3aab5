"""Histograms of the worst layers, and times of the files."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_models

import dsg_tf
from dsg_tf.config import run_config, synthesis_config
from dsg_tf.fidelity import latency
from dsg_tf.tflite import flatbuffer


@pytest.fixture(scope="module")
def result():
    config = run_config.PipelineConfig(
        synthesis=synthesis_config.SynthesisConfig.of("noise", num_samples=4),
        verify_samples=4,
    )
    return dsg_tf.quantize_model(tiny_models.classifier(), config=config)


def test_counts_are_of_all_values_and_the_grid_is_the_files(result):
    view = flatbuffer.read(result.tflite)
    found = result.report.histograms
    assert 0 < len(found) <= 3
    worst = [r for r in result.report.layers if r["op"] != "INPUT"]
    assert [h.layer for h in found] == [r["layer"] for r in worst][:3]
    for row, shown in zip(worst, found, strict=False):
        tensor = view.by_name[row["tensor"]]
        # Four samples of batch one.
        assert sum(shown.activations.counts) == 4 * np.prod(tensor.shape)
        assert shown.activations.codes == 256
        assert shown.activations.low <= 0 <= shown.activations.high
        step = float(tensor.params.scale[0])
        assert shown.activations.high - shown.activations.low == pytest.approx(
            255 * step, rel=1e-5
        )
    weighted = [h.weights for h in found if h.weights is not None]
    assert weighted
    assert all(w.codes == 256 for w in weighted)


def test_latency_is_measured_for_each_number_of_threads(result):
    found = latency.measure(result.tflite, {"image": np.zeros((8, 8, 3))})
    assert list(found) == ["1", "2"]
    assert all(0 < ms < 1000 for ms in found.values())
    assert set(result.report.latency_ms) == {"float", "integer"}
