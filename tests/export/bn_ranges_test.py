"""Ranges from BN moments, and which tensor of a file they are of."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_models

from dsg_tf.export import bn_ranges, calibration, tflite_writer
from dsg_tf.graph.load import loading
from dsg_tf.quant import qtypes
from dsg_tf.transforms import fold_batch_norm


@pytest.fixture(scope="module")
def folded():
    graph = loading.load(tiny_models.classifier())
    return fold_batch_norm.fold_batch_norm(graph)[0]


def test_a_range_holds_n_deviations_of_every_channel(folded):
    (tensor, *_) = folded.moments
    moments = folded.moments[tensor]
    found = bn_ranges.of_graph(folded, deviations=4.0)[tensor]
    ends = moments.mean + np.outer([-4, 4], moments.deviation)
    assert found.min == pytest.approx(min(ends.min(), 0), rel=1e-12)
    assert found.max == pytest.approx(max(ends.max(), 0), rel=1e-12)


def test_ranges_behind_a_relu_begin_at_zero(folded):
    behind = [folded.consumers(tensor)[0].output for tensor in folded.moments]
    found = bn_ranges.of_graph(folded)
    assert [found[t].min for t in behind] == [0.0] * len(behind)
    for before, after in zip(folded.moments, behind, strict=True):
        assert found[after].max == found[before].max


def test_ranges_find_their_tensors_in_the_file(folded):
    float_tflite = tflite_writer.to_float_tflite(folded)
    sample = {
        "image": np.random.default_rng(0)
        .normal(size=(1, 8, 8, 3))
        .astype(np.float32)
    }
    found = bn_ranges.of_tflite(folded, float_tflite, sample, deviations=6.0)
    observed = calibration.calibrate(float_tflite, sample)
    # Two BN layers, each merged with its convolution and ReLU, and the mean
    # over positions of the second.
    assert len(found) == 3
    for name, bounds in found.items():
        assert bounds.min == 0.0
        assert observed[name].max <= bounds.max


def test_a_tensor_of_other_values_is_not_taken_for_the_same(
    folded, monkeypatch
):
    float_tflite = tflite_writer.to_float_tflite(folded)
    sample = {"image": np.ones((1, 8, 8, 3), np.float32)}
    values = bn_ranges._values

    def shifted(*arguments):
        return {t: v + 1.0 for t, v in values(*arguments).items()}

    monkeypatch.setattr(bn_ranges, "_values", shifted)
    assert bn_ranges.of_tflite(folded, float_tflite, sample) == {}


def test_a_model_without_moments_has_no_such_ranges():
    graph = loading.load(tiny_models.classifier(batch_norm=False))
    sample = {"image": np.ones((1, 8, 8, 3), np.float32)}
    model = tflite_writer.to_float_tflite(graph)
    assert bn_ranges.of_tflite(graph, model, sample) == {}


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [((0, 1), (0, 2), False), ((0, 1), (0, 2.1), True), ((0, 0), (0, 1), True)],
)
def test_disagreement_is_a_factor_between_widths(a, b, expected):
    pair = qtypes.TensorRange(*a), qtypes.TensorRange(*b)
    assert bn_ranges.widths_disagree(*pair) is expected
    assert bn_ranges.widths_disagree(*pair[::-1]) is expected
