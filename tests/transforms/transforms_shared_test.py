"""Folding and equalizing keep what real models compute, on real inputs."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import cases
from dsg_tf.graph import evaluation
from dsg_tf.graph.load import loading
from dsg_tf.transforms import cross_layer_equalization, fold_batch_norm

_SAMPLES = 16


def _inputs(shared, graph, name):
    """Images, (16, ...); for keywords, numbers of the size of MFCCs."""
    case = cases.CASES[name]
    if case.data:
        images, _ = cases.load_images(case, shared, tuning=True)
        values = images[:_SAMPLES]
    else:
        shape = (_SAMPLES, *graph.inputs[0].shape[1:])
        values = np.random.default_rng(0).normal(0, 10, shape)
    return {graph.inputs[0].name: values.astype(np.float32)}


@pytest.mark.parametrize(
    ("name", "folded", "pairs"),
    [
        ("kws", 9, 9),
        ("mobilenet", 27, 27),
        ("resnet20", 19, 9),
        ("resnet8", 7, 3),
        ("vgg16", 13, 14),
    ],
)
def test_equalized_models_compute_what_they_did(shared, name, folded, pairs):
    graph = loading.load(shared / cases.CASES[name].model)
    x = _inputs(shared, graph, name)
    without, report = fold_batch_norm.fold_batch_norm(graph)
    assert len(report.applied) == folded
    result, report = cross_layer_equalization.equalize(without)
    assert len(report.applied) == pairs
    for row in report.applied:
        assert np.isfinite(list(row.measured.values())).all()
    # Float32 sums of up to a few thousand products, layer upon layer: their
    # roundings average out. Measured: 2e-7 to 5e-6 (MobileNetV1).
    assert evaluation.relative_change(graph, result, x) <= 1e-5
