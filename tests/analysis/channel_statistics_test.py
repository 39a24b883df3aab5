"""Moments behind activations are those of samples of a clipped normal."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from dsg_tf.analysis import channel_statistics
from dsg_tf.graph import ir
from tests import tiny_graphs

_COUNT = 400_000
_MEAN = np.array([-3.0, -0.4, 0.0, 0.7, 5.0, 2.0])
_DEVIATION = np.array([1.0, 0.5, 2.0, 1.0, 3.0, 0.01])


def _normal(mean=_MEAN, deviation=_DEVIATION):
    return channel_statistics.ClippedNormal.of(ir.Moments(mean, deviation))


def _draw(seed=0, mean=_MEAN, deviation=_DEVIATION):
    rng = np.random.default_rng(seed)
    return mean + deviation * rng.normal(size=(_COUNT, len(mean)))


def _check_moments(found, samples):
    """Within five standard errors of what so many samples tell.

    Of the mean: deviation / sqrt(n). Of the variance: sqrt((m4 - var^2) / n).
    """
    mean, variance = samples.mean(axis=0), samples.var(axis=0)
    fourth = ((samples - mean) ** 4).mean(axis=0)
    error = np.sqrt(variance / _COUNT)
    expectation = found.expectation()
    assert np.isfinite(expectation).all()
    assert (np.abs(expectation - mean) <= 5 * error + 1e-12).all()
    error = np.sqrt(np.maximum(fourth - variance**2, 0) / _COUNT)
    assert (found.variance() >= 0).all()
    assert (np.abs(found.variance() - variance) <= 5 * error + 1e-12).all()


class TestClippedNormal:
    @pytest.mark.parametrize(
        ("low", "high"),
        [
            (-np.inf, np.inf),
            (0.0, np.inf),
            (0.0, 6.0),
            (-np.inf, 1.0),
            (np.linspace(-1, 0, 6), np.linspace(0.1, 3, 6)),
        ],
        ids=["none", "Relu", "Relu6", "Minimum", "by channel"],
    )
    def test_moments_are_those_of_samples(self, low, high):
        found = _normal().clipped(low, high)
        _check_moments(found, np.clip(_draw(), low, high))

    def test_moments_of_no_clip_are_its_own(self):
        found = _normal()
        np.testing.assert_allclose(found.expectation(), _MEAN, rtol=1e-15)
        # E[x^2] - E[x]^2: what is left of float64 behind the cancellation.
        np.testing.assert_allclose(
            found.variance(), _DEVIATION**2, rtol=0, atol=1e-13
        )

    def test_half_a_normal_has_the_mean_of_the_textbook(self):
        relu = _normal(np.zeros(1), np.ones(1)).clipped(0.0, np.inf)
        (mean,), (variance,) = relu.expectation(), relu.variance()
        assert mean == pytest.approx(1 / math.sqrt(2 * math.pi), rel=1e-14)
        assert variance == pytest.approx(0.5 - 0.5 / math.pi, rel=1e-14)

    @pytest.mark.parametrize(
        ("mean", "expected"),
        [(-40.0, 0.0), (3.0, 3.0), (40.0, 6.0)],
        ids=["below", "inside", "above"],
    )
    @pytest.mark.parametrize("deviation", [0.0, 1e-3])
    def test_far_from_a_bound_and_without_a_deviation_all_is_finite(
        self, mean, deviation, expected
    ):
        found = _normal(np.array([mean]), np.array([deviation]))
        found = found.clipped(0.0, 6.0)
        assert found.expectation()[0] == pytest.approx(expected, abs=1e-12)
        assert found.variance()[0] == pytest.approx(deviation**2 * (mean == 3))

    def test_a_constant_on_its_bound_is_that_constant(self):
        found = _normal(np.array([0.0, 6.0]), np.zeros(2)).clipped(0.0, 6.0)
        # No deviation is taken as one of 1e-30.
        np.testing.assert_allclose(
            found.expectation(), [0.0, 6.0], rtol=0, atol=1e-30
        )
        # E[x^2] - E[x]^2: a few roundings of 36.
        np.testing.assert_allclose(found.variance(), 0.0, atol=1e-13)

    @pytest.mark.parametrize(
        "clips",
        [
            [(0, np.inf), (-np.inf, 6)],
            [(0, np.inf), (-np.inf, -1)],
            [(-np.inf, -1), (0, np.inf)],
            [(-1, 2), (-3, 1), (0.5, 9)],
        ],
    )
    def test_clips_one_behind_the_other_are_those_of_samples(self, clips):
        found, samples = _normal(), _draw()
        for low, high in clips:
            found = found.clipped(low, high)
            samples = np.clip(samples, low, high)
        _check_moments(found, samples)
        assert (found.low <= found.high).all()

    def test_the_interval_is_so_many_deviations_within_the_clip(self):
        low, high = _normal().clipped(0.0, 6.0).interval(3.0)
        for c, (m, d) in enumerate(zip(_MEAN, _DEVIATION, strict=True)):
            assert low[c] == min(max(m - 3 * d, 0.0), 6.0)
            assert high[c] == min(max(m + 3 * d, 0.0), 6.0)


def _found(function, *, shape=(8, 8, 6), count=1):
    """What is found of the outputs, x (and y) having known moments."""
    names = ["x", "y"][:count]
    graph = tiny_graphs.freeze(function, *[(None, *shape)] * count)
    moments = {f"{n}:0": ir.Moments(_MEAN, _DEVIATION) for n in names}
    graph = graph.replace_nodes({}, moments=moments)
    found = channel_statistics.find(graph)
    return [found.get(port.tensor) for port in graph.outputs]


def _same(a, b):
    for name in ("mean", "deviation", "low", "high", "least", "most"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


_BOUND = np.linspace(0.5, 3, 6).astype(np.float32)


class TestFind:
    @pytest.mark.parametrize(
        ("activate", "low", "high"),
        [
            (tf.nn.relu, 0, np.inf),
            (tf.nn.relu6, 0, 6),
            (lambda x: tf.minimum(tf.nn.relu(x), _BOUND), 0, _BOUND),
            (lambda x: tf.minimum(x, 2.0), -np.inf, 2),
            (lambda x: tf.nn.relu6(tf.nn.relu(x)), 0, 6),
        ],
        ids=["Relu", "Relu6", "by channel", "one", "twice"],
    )
    def test_activations_clip(self, activate, low, high):
        (found,) = _found(activate)
        _same(found, _normal().clipped(low, np.float64(high)))

    @pytest.mark.parametrize(
        "keep",
        [
            lambda x: tf.nn.avg_pool2d(x, 2, 2, "VALID"),
            lambda x: tf.reduce_mean(x, (1, 2)),
            lambda x: tf.reduce_mean(x, (1, 2), keepdims=True),
            lambda x: tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]),
            lambda x: tf.reshape(x, (-1, 64, 6)),
            lambda x: tf.squeeze(tf.expand_dims(x, 1), 1),
            lambda x: tf.image.resize(x, (4, 4)),
            lambda x: tf.image.resize(x, (4, 4), method="nearest"),
        ],
        ids=[
            "AvgPool",
            "Mean",
            "Mean kept",
            "Pad",
            "Reshape",
            "Squeeze",
            "bilinear",
            "nearest",
        ],
    )
    def test_channels_that_are_handed_on_keep_their_moments(self, keep):
        (found,) = _found(lambda x: keep(tf.nn.relu(x)))
        _same(found, _normal().clipped(0, np.inf))

    @pytest.mark.parametrize(
        "change",
        [
            tf.sigmoid,
            lambda x: x * 2.0,
            lambda x: x + 1.0,
            lambda x: tf.reshape(x, (-1, 384)),
            lambda x: tf.concat([x, x], -1),
            lambda x: tf.minimum(x, np.ones((8, 8, 6), "f")),
            lambda x: tf.reduce_mean(x, -1, keepdims=True),
        ],
        ids=[
            "Sigmoid",
            "scale",
            "shift",
            "flat",
            "concat",
            "by position",
            "mean of channels",
        ],
    )
    def test_of_anything_else_nothing_is_said(self, change):
        assert _found(change) == [None]

    def test_a_mean_over_channels_is_no_mean_over_positions(self):
        """Six rows, six columns, and six channels."""
        assert _found(lambda x: tf.reduce_mean(x, -1), shape=(6, 6, 6)) == [
            None
        ]
        (found,) = _found(lambda x: tf.reduce_mean(x, 1), shape=(6, 6, 6))
        _same(found, _normal())

    def test_a_sum_has_the_moments_of_a_sum_of_samples(self):
        """One side has no lower end, nor has the sum."""
        (found,) = _found(lambda x, y: tf.nn.relu6(x) + y, count=2)
        samples = np.clip(_draw(0), 0, 6) + _draw(1)
        # Not normal, but its first two moments are right.
        _check_moments(found, samples)
        assert np.isneginf(found.low).all()
        assert np.isposinf(found.high).all()

    def test_a_sum_is_within_the_sum_of_the_intervals(self):
        (found,) = _found(lambda x, y: tf.nn.relu6(x) + tf.nn.relu(y), count=2)
        low, high = found.interval(3.0)
        # Three deviations below the mean would be below zero.
        assert (found.mean < 3 * found.deviation)[:4].all()
        np.testing.assert_array_equal(low[:4], np.zeros(4))
        np.testing.assert_array_equal(high, found.mean + 3 * found.deviation)

    @pytest.mark.parametrize(
        "behind", [tf.identity, tf.nn.relu], ids=["alone", "Relu"]
    )
    def test_a_sum_of_clipped_ones_has_the_moments_of_samples(self, behind):
        """A normal variable clipped where they end would have another mean."""
        (found,) = _found(
            lambda x, y: behind(tf.nn.relu(x) + tf.nn.relu(y)), count=2
        )
        samples = np.maximum(_draw(0), 0) + np.maximum(_draw(1), 0)
        _check_moments(found, samples)

    def test_a_clip_inside_of_a_sum_clips(self):
        (found,) = _found(
            lambda x, y: tf.nn.relu6(tf.nn.relu(x) + tf.nn.relu(y)), count=2
        )
        assert np.isneginf(found.low).all()
        np.testing.assert_array_equal(found.high, np.full(6, 6.0))
        np.testing.assert_array_equal(found.most, np.full(6, 6.0))

    def test_a_sum_with_one_unknown_is_unknown(self):
        assert _found(lambda x: x + tf.sigmoid(x)) == [None]

    def test_moments_that_are_given_hold(self):
        graph = tiny_graphs.freeze(tf.nn.relu, (None, 6))
        own = ir.Moments(np.ones(6), np.zeros(6))
        graph = graph.replace_nodes(
            {},
            moments={
                "x:0": ir.Moments(_MEAN, _DEVIATION),
                graph.outputs[0].tensor: own,
            },
        )
        found = channel_statistics.find(graph)
        _same(
            found[graph.outputs[0].tensor],
            channel_statistics.ClippedNormal.of(own),
        )

    def test_without_moments_nothing_is_known(self):
        graph = tiny_graphs.freeze(tf.nn.relu, (None, 6))
        assert channel_statistics.find(graph) == {}
