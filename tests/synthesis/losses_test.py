"""Every loss equals its formula, evaluated by NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from dsg_tf.synthesis import losses

# Sums of at most a few hundred float32 terms, each rounded to 6e-8.
_RTOL = 2e-5


def _normal(*shape, seed=0, scale=1.0, offset=0.0):
    rng = np.random.default_rng([seed, *shape])
    return rng.normal(offset, scale, shape)


def _f32(x):
    return tf.constant(x, tf.float32)


class TestMoments:
    @pytest.mark.parametrize(
        ("shape", "axis"),
        [((4, 5, 6, 3), 3), ((4, 3, 5, 6), 1), ((4, 7, 3), 2), ((4, 3, 2), 1)],
    )
    def test_of_samples_run_over_positions(self, shape, axis):
        x = _normal(*shape, offset=2.0)
        mean, deviation = losses.sample_moments(_f32(x), axis, epsilon=0.1)
        over = tuple(a for a in range(1, x.ndim) if a != axis)
        np.testing.assert_allclose(mean, x.mean(over), rtol=_RTOL)
        np.testing.assert_allclose(
            deviation, np.sqrt(x.var(over) + 0.1), rtol=_RTOL
        )

    def test_of_samples_without_positions_are_the_features(self):
        x = _normal(4, 3)
        mean, deviation = losses.sample_moments(_f32(x), 1, epsilon=0.04)
        np.testing.assert_allclose(mean, x, rtol=_RTOL)
        np.testing.assert_allclose(deviation, np.full((4, 3), 0.2), rtol=_RTOL)

    @pytest.mark.parametrize(
        ("shape", "axis"), [((4, 5, 6, 3), 3), ((4, 3, 5, 6), 1), ((9, 3), 1)]
    )
    def test_of_the_batch_are_those_of_the_mixture(self, shape, axis):
        # Samples of different means: what lies between them counts as well.
        x = _normal(*shape) + _normal(shape[0], *[1] * (len(shape) - 1), seed=1)
        moments = losses.sample_moments(_f32(x), axis, epsilon=0.1)
        mean, deviation = losses.batch_moments(*moments, epsilon=0.1)
        over = tuple(a for a in range(x.ndim) if a != axis)
        np.testing.assert_allclose(mean, x.mean(over), rtol=_RTOL, atol=1e-6)
        np.testing.assert_allclose(
            deviation, np.sqrt(x.var(over) + 0.1), rtol=_RTOL
        )

    def test_have_a_finite_gradient_where_nothing_varies(self):
        x = tf.Variable(tf.zeros((2, 4, 4, 3)))
        with tf.GradientTape() as tape:
            mean, deviation = losses.sample_moments(x, 3)
            _, whole = losses.batch_moments(mean, deviation)
            loss = tf.reduce_sum(deviation) + tf.reduce_sum(whole)
        assert np.isfinite(loss.numpy())
        assert np.isfinite(tape.gradient(loss, x).numpy()).all()

    @pytest.mark.parametrize(
        ("shape", "axis"),
        [((2, 5, 6, 3), 3), ((2, 3, 5, 6), 1), ((2, 7, 3), 2)],
    )
    def test_have_the_gradient_of_their_formula(self, shape, axis):
        x = _normal(*shape, offset=3.0)
        # A channel without variance: s is a constant there, m is not.
        dead = (0, *[slice(None)] * (axis - 1), 1)
        x[dead] = 1.0
        x = tf.constant(x)
        over = [a for a in range(1, x.shape.rank) if a != axis]
        upstream = [_normal(2, 3, seed=n) for n in range(2)]

        def of_ops(h):
            mean, variance = tf.nn.moments(h, over)
            return mean, tf.sqrt(tf.maximum(variance, 1e-12))

        gradients = []
        for moments in (of_ops, lambda h: losses.sample_moments(h, axis)):
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = sum(
                    tf.reduce_sum(m * u)
                    for m, u in zip(moments(x), upstream, strict=True)
                )
            gradients.append(tape.gradient(loss, x).numpy())
        np.testing.assert_allclose(*gradients, rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize(
        ("shape", "axis", "wanted"),
        [
            ((2, 3), 1, False),
            ((2, 1, 1, 3), 3, False),
            ((2, 3, 1, 1), 1, False),
            ((2, 1, 4, 3), 3, True),
            ((2, 5, 3), 2, True),
        ],
    )
    def test_positions_are_more_than_one(self, shape, axis, wanted):
        assert losses.has_positions(tf.zeros(shape), axis) is wanted


class TestSlackSquares:
    @pytest.mark.parametrize("margin", [0.0, 0.3, 10.0])
    @pytest.mark.parametrize("shape", [(4, 6), (6,)])
    def test_is_the_squared_excess_over_the_margin(self, shape, margin):
        actual, target = _normal(*shape), _normal(6, seed=1)
        scale = np.abs(_normal(6, seed=2)) + 0.5
        found = losses.slack_squares(
            _f32(actual), _f32(target), margin=margin, scale=_f32(scale)
        )
        excess = np.maximum(np.abs(actual - target) / scale - margin, 0)
        # A difference of like numbers, squared.
        np.testing.assert_allclose(found, excess**2, rtol=1e-4, atol=1e-6)

    def test_without_margin_and_scale_is_the_squared_norm(self):
        actual, target = _normal(4, 6), _normal(6, seed=1)
        found = losses.slack_squares(_f32(actual), _f32(target))
        found = np.sum(found, axis=-1)
        wanted = np.linalg.norm(actual - target, axis=-1) ** 2
        np.testing.assert_allclose(found, wanted, rtol=_RTOL)


class TestEnhancement:
    @pytest.mark.parametrize("first", [0, 3, 16])
    def test_rows_are_those_of_identity_plus_ones(self, first):
        """I + 1 1^T over N layers, sample i at row i mod N."""
        count, layers = 7, 3
        matrix = np.eye(layers) + np.ones((layers, layers))
        wanted = matrix[[(first + i) % layers for i in range(count)]]
        found = losses.enhancement_weights(count, layers, first=first)
        np.testing.assert_array_equal(found, wanted)


def _log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


class TestLabelLoss:
    @pytest.mark.parametrize("temperature", [1.0, 4.0])
    def test_of_softmax_is_cross_entropy(self, temperature):
        logits, labels = _normal(5, 7, scale=3.0), np.array([0, 6, 3, 3, 1])
        found = losses.label_loss(
            _f32(logits), tf.constant(labels), temperature=temperature
        )
        wanted = -_log_softmax(logits / temperature)[range(5), labels].mean()
        np.testing.assert_allclose(found, wanted, rtol=_RTOL)

    def test_of_sigmoids_asks_for_one_and_against_the_others(self):
        logits, labels = _normal(5, 7, scale=3.0), np.array([0, 6, 3, 3, 1])
        found = losses.label_loss(
            _f32(logits), tf.constant(labels), multi_label=True, temperature=2.0
        )
        p = 1 / (1 + np.exp(-logits / 2))
        wanted = np.eye(7)[labels]
        entropy = -wanted * np.log(p) - (1 - wanted) * np.log(1 - p)
        np.testing.assert_allclose(found, entropy.sum(-1).mean(), rtol=_RTOL)

    def test_of_a_single_sigmoid_is_binary(self):
        logits, labels = _normal(4, 1, scale=3.0), np.array([0, 1, 1, 0])
        found = losses.label_loss(
            _f32(logits), tf.constant(labels), multi_label=True
        )
        p = 1 / (1 + np.exp(-logits[:, 0]))
        wanted = -np.log(np.where(labels == 1, p, 1 - p)).mean()
        np.testing.assert_allclose(found, wanted, rtol=_RTOL)


def test_spread_is_minus_the_log_deviation_of_each_channel():
    x = _normal(4, 3, 3, 5, scale=2.0)
    found = losses.spread_loss(_f32(x))
    wanted = -np.log(np.sqrt(x.var((0, 1, 2)) + 1e-8)).mean()
    np.testing.assert_allclose(found, wanted, rtol=_RTOL)


def test_total_variation_is_the_mean_squared_step_down_and_right():
    x = _normal(3, 6, 5, 2)
    wanted = (np.diff(x, axis=1) ** 2).mean() + (np.diff(x, axis=2) ** 2).mean()
    np.testing.assert_allclose(
        losses.total_variation(_f32(x)), wanted, rtol=_RTOL
    )
