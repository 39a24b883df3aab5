"""Moments are those of each sample, in every form that graphs have."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tiny_classifier
import tiny_graphs
import tiny_models

from dsg_tf.analysis import bn_statistics
from dsg_tf.diversity import sample_moments
from dsg_tf.graph import frozen
from dsg_tf.graph.load import loading

# float32 features of at most 200 terms a value, then a mean over 64 positions.
_RTOL = 300 * np.finfo(np.float32).eps


def _images(count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 8, 8, 3)).astype(np.float32)


@pytest.mark.parametrize("count", [1, 3, 16, 19])
def test_they_equal_numpy_s(count):
    graph, layers, _ = tiny_classifier.parts()
    images = _images(count)
    found = sample_moments.of_graph(graph, {"x": images})
    features, _ = tiny_classifier.forward(images.astype(np.float64))
    assert [m.layer.name for m in found] == [x.name for x in layers]
    for m, x in zip(found, features, strict=True):
        over = tuple(range(1, x.ndim - 1))
        assert m.mean.shape == (count, x.shape[-1])
        assert m.mean.dtype == np.float64
        size = np.abs(x).max()
        np.testing.assert_allclose(m.mean, x.mean(over), atol=_RTOL * size)
        if not over:
            assert m.deviation is None
            continue
        expected = np.sqrt(x.var(over) + tiny_classifier.EPSILON)
        np.testing.assert_allclose(m.deviation, expected, atol=_RTOL * size)


def test_batches_do_not_matter():
    graph, layers, _ = tiny_classifier.parts()
    samples = {"x": _images(5)}
    for left, right in zip(
        sample_moments.of_graph(graph, samples, layers=layers, batch_size=2),
        sample_moments.of_graph(graph, samples, layers=layers, batch_size=5),
        strict=True,
    ):
        np.testing.assert_allclose(left.mean, right.mean, atol=1e-5)


def test_a_fixed_batch_that_is_not_filled_adds_no_samples():
    model = tiny_models.classifier()
    samples = {"image": _images(5)}
    expected = sample_moments.of_graph(loading.load(model), samples)
    fixed = tiny_models.classifier(batch_size=4)
    found = sample_moments.of_graph(loading.load(fixed), samples)
    for left, right in zip(found, expected, strict=True):
        assert len(left.mean) == 5
        np.testing.assert_allclose(left.mean, right.mean, atol=1e-5)
        np.testing.assert_allclose(left.deviation, right.deviation, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int64])
def test_whole_numbers_of_any_dtype_serve_an_integer_input(dtype):
    graph = loading.load(tiny_models.uint8_classifier())
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3))
    (layer,) = bn_statistics.find(graph)
    (found,) = sample_moments.of_graph(graph, {"image": pixels.astype(dtype)})
    (features,) = frozen.to_function(graph, [layer.input])(
        tf.constant(pixels, tf.uint8)
    )
    np.testing.assert_allclose(
        found.mean, features.numpy().mean((1, 2)), atol=1e-5
    )
    assert found.mean.std() > 0.01


# The CPU has no kernel for a fused one with channels first.
@pytest.mark.parametrize(
    ("fused", "axis"), [(True, -1), (False, -1), (False, 1)]
)
def test_fused_decomposed_and_channels_first_are_alike(fused, axis):
    mean, variance = np.float32([1, 2, 3]), np.float32([4, 5, 6])
    rng = np.random.default_rng(0)
    x = rng.normal(2, 3, (4, 5, 5, 3)).astype(np.float32)

    def function(y):
        if fused:
            ones = tf.ones(3)
            return tf.compat.v1.nn.fused_batch_norm(
                y, ones, ones, mean, variance, 1e-3, is_training=False
            )[0]
        if axis == 1:
            shape = (3, 1, 1)
            return tf.nn.batch_normalization(
                y,
                mean.reshape(shape),
                tf.constant(variance.reshape(shape)),
                np.zeros(shape, np.float32),
                np.ones(shape, np.float32),
                1e-3,
            )
        return tiny_graphs.batch_norm(y, mean, variance)

    fed = np.moveaxis(x, -1, 1) if axis == 1 else x
    graph = tiny_graphs.freeze(function, (None, *fed.shape[1:]))
    (found,) = sample_moments.of_graph(graph, {"x": fed})
    np.testing.assert_allclose(found.mean, x.mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(
        found.deviation,
        np.sqrt(x.astype(np.float64).var((1, 2)) + 1e-3),
        rtol=1e-5,
    )
    np.testing.assert_allclose(found.sigma, np.sqrt(variance + 1e-3), rtol=1e-6)


@pytest.mark.parametrize("spatial", [True, False])
def test_several_rows_of_a_sample_are_its_positions(spatial):
    shape = (6, 4, 4, 2) if spatial else (6, 2)

    def frames(x):
        rows = tf.reshape(x, (-1, *shape[1:]))
        return tiny_graphs.batch_norm(rows, [0.5, 1.0], [1.0, 2.0])

    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, *shape)).astype(np.float32)
    x += rng.normal(0, 5, (3, 6, *[1] * (len(shape) - 2), 2)).astype(np.float32)
    graph = tiny_graphs.freeze(frames, (None, *shape))
    (found,) = sample_moments.of_graph(graph, {"x": x}, batch_size=2)
    wide = x.astype(np.float64).reshape(3, -1, 2)
    np.testing.assert_allclose(found.mean, wide.mean(1), atol=1e-5)
    np.testing.assert_allclose(
        found.deviation, np.sqrt(wide.var(1) + 1e-3), rtol=1e-5
    )


def test_a_layer_without_rows_by_sample_is_left_out():
    def function(x):
        pooled = tf.reduce_mean(x, 0, keepdims=True)
        return tiny_graphs.batch_norm(pooled, [0.0], [1.0])

    graph = tiny_graphs.freeze(function, (None, 1))
    samples = {"x": np.ones((3, 1), np.float32)}
    assert len(bn_statistics.find(graph)) == 1
    assert sample_moments.of_graph(graph, samples) == ()


def test_several_inputs():
    graph = loading.load(tiny_models.two_inputs())
    state = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    found = sample_moments.of_graph(
        graph, {"state": state, "image": _images(3)}
    )
    assert sorted(m.deviation is None for m in found) == [False, True]


def test_no_batch_norm_no_moments():
    graph = loading.load(tiny_models.classifier(batch_norm=False))
    assert sample_moments.of_graph(graph, {"image": _images(2)}) == ()


@pytest.mark.parametrize("counts", [(2, 3), (0, 0)])
def test_unequal_or_no_samples_are_refused(counts):
    graph = loading.load(tiny_models.two_inputs())
    samples = {
        "state": np.zeros((counts[0], 5), np.float32),
        "image": np.zeros((counts[1], 8, 8, 3), np.float32),
    }
    with pytest.raises(ValueError, match="samples by input"):
        sample_moments.of_graph(graph, samples)


@pytest.mark.parametrize(
    ("variance", "epsilon", "alive"),
    [
        ([1.0, 1e-24, 0.0], 1e-3, [True, False, False]),
        # Weak, but three times what is lost beside the largest or epsilon.
        ([1.0, 3e-8], 1e-3, [True, True]),
        ([1.0, 0.3e-8], 1e-9, [True, False]),
        ([1e-10, 5e-10], 1e-3, [False, False]),
        ([0.0, 0.0], 0.0, [False, False]),
        ([1e-7, 2e-7], 1e-3, [True, True]),
    ],
)
def test_channels_that_bn_remembers_as_constant_are_dead(
    variance, epsilon, alive
):
    found = sample_moments.alive_channels(np.float32(variance), epsilon)
    assert found.tolist() == alive
