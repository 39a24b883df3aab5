"""Moments that were pushed through known weights are found again."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tiny_graphs

from dsg_tf.analysis import bn_statistics, domain_fit


def _kernel(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 0.5, shape)


class TestMean:
    def test_is_recovered_per_channel(self):
        kernel = _kernel(3, 3, 3, 8)
        wanted = np.array([120.0, 110.0, 90.0])
        mu, _ = tiny_graphs.moments(kernel, wanted, 60.0)
        mean, quality = domain_fit.fit_mean(kernel, mu)
        # Float64 arithmetic, returned as float32.
        np.testing.assert_allclose(mean, wanted, rtol=1e-5)
        assert quality == pytest.approx(1.0, abs=1e-9)

    def test_of_samples_is_recovered_within_their_standard_error(self):
        count, wanted = 20_000, np.array([0.5, 0.4, 0.3])
        kernel = _kernel(3, 3, 3, 8)
        sigma = tiny_graphs.covariance(
            (3, 3), [0.25] * 3, rho=0.9, correlation=0.8
        )
        rng = np.random.default_rng(1)
        patches = rng.standard_normal((count, 27)) @ np.linalg.cholesky(
            sigma
        ).T + np.tile(wanted, 9)
        outputs = patches @ kernel.reshape(27, 8)
        mean, quality = domain_fit.fit_mean(kernel, outputs.mean(0))
        pseudo = np.linalg.pinv(kernel.sum((0, 1)).T)
        error = np.sqrt(np.diag(pseudo @ np.cov(outputs.T) @ pseudo.T) / count)
        assert (np.abs(mean - wanted) < 5 * error).all()
        assert quality > 0.99
        deviation, *_ = domain_fit.fit_deviation(kernel, outputs.var(0))
        # A variance of n samples has the relative error sqrt(2 / n), 1 %;
        # the grid's neighbours of the true correlations allow for 4 % more.
        assert deviation == pytest.approx(0.25, rel=0.05)

    def test_that_explains_nothing_has_no_quality(self):
        # The BN means are unrelated to the kernel.
        kernel = _kernel(3, 3, 3, 32)
        _, quality = domain_fit.fit_mean(kernel, _kernel(32, seed=5))
        assert quality < 0.3

    def test_has_no_quality_by_chance_on_average(self):
        # Three unknowns explain three of five unrelated equations exactly.
        # The adjusted R^2 is unbiased; its deviation is about 1 here, so that
        # of the mean of 400 is 0.05: four of them.
        kernel = _kernel(3, 3, 3, 5)
        qualities = [
            domain_fit.fit_mean(kernel, _kernel(5, seed=seed))[1]
            for seed in range(400)
        ]
        assert np.mean(qualities) == pytest.approx(0.0, abs=0.2)

    def test_is_common_to_all_where_channels_outnumber_equations(self):
        kernel = _kernel(20, 8)
        mean, quality = domain_fit.fit_mean(kernel, kernel.sum(0) * 3.0)
        np.testing.assert_allclose(mean, np.full(20, 3.0), rtol=1e-6)
        assert quality == pytest.approx(1.0)
        # An exact fit of 20 unknowns to 8 equations would claim quality 1.
        _, quality = domain_fit.fit_mean(kernel, _kernel(8, seed=3))
        assert quality < 0.5


class TestDeviation:
    @pytest.mark.parametrize(
        ("rho", "correlation"), [(0.0, 0.0), (0.9, 0.8), (0.98, 1.0), (0.5, 0)]
    )
    def test_and_correlations_on_the_grid_are_recovered(self, rho, correlation):
        kernel = _kernel(3, 3, 3, 12)
        _, variance = tiny_graphs.moments(
            kernel, 0.0, 63.0, rho=rho, correlation=correlation
        )
        found = domain_fit.fit_deviation(kernel, variance)
        assert found == pytest.approx((63.0, rho, correlation), rel=1e-6)

    def test_of_flat_features_is_recovered(self):
        kernel = _kernel(4, 10)
        _, variance = tiny_graphs.moments(kernel, 0.0, 2.0, correlation=0.0)
        deviation, rho, correlation = domain_fit.fit_deviation(kernel, variance)
        assert (rho, correlation) == (0.0, 0.0)
        assert deviation == pytest.approx(2.0, rel=1e-6)

    def test_survives_a_sixth_of_wrong_channels(self):
        kernel = _kernel(3, 3, 3, 24)
        _, variance = tiny_graphs.moments(kernel, 0.0, 1.0)
        variance[:4] *= 9.0
        deviation, *_ = domain_fit.fit_deviation(kernel, variance)
        # The median log ratio stays with the majority.
        assert deviation == pytest.approx(1.0, rel=0.1)


class TestLayer:
    """`fit` on graphs: kernels, biases and dead channels are read right."""

    def _fit(self, function, *shape, input_shape=None):
        graph = tiny_graphs.freeze(function, (None, *shape))
        node = next(n for n in graph if n.op in domain_fit.LAYER_OPS)
        layers = bn_statistics.find(graph)
        assert len(layers) == 1
        return domain_fit.fit(
            graph, node, layers=layers, input_shape=input_shape
        )

    def test_conv_with_bias(self):
        kernel, bias = _kernel(3, 3, 3, 8), _kernel(8, seed=2)
        mu, variance = tiny_graphs.moments(kernel, [0.5, 0.4, 0.3], 0.25)
        fit = self._fit(
            lambda x: tiny_graphs.batch_norm(
                tf.nn.bias_add(
                    tf.nn.conv2d(x, kernel.astype("f"), 1, "SAME"),
                    bias.astype("f"),
                ),
                mu + bias,
                variance,
            ),
            *(8, 8, 3),
        )
        # Float32 weights: relative 6e-8, times the condition of A, below 100.
        np.testing.assert_allclose(fit.mean, [0.5, 0.4, 0.3], rtol=1e-4)
        assert fit.deviation == pytest.approx(0.25, rel=1e-4)
        assert (fit.neighbour_correlation, fit.channel_correlation) == (
            0.9,
            0.8,
        )

    def test_dead_channels_do_not_count(self):
        kernel = _kernel(3, 3, 3, 12).astype("f")
        mu, variance = tiny_graphs.moments(kernel, 2.0, 1.0)
        kernel[..., :3] *= 1e-7
        variance[:5] = 1e-20
        mu[:5] = 100.0
        fit = self._fit(
            lambda x: tiny_graphs.batch_norm(
                tf.nn.conv2d(x, kernel, 1, "SAME"), mu, variance
            ),
            *(8, 8, 3),
        )
        np.testing.assert_allclose(fit.mean, [2.0] * 3, rtol=1e-4)
        assert fit.deviation == pytest.approx(1.0, rel=1e-4)

    def test_depthwise(self):
        kernel = _kernel(3, 3, 3, 4)
        full = np.zeros((3, 3, 3, 12))
        for c in range(3):
            full[:, :, c, 4 * c : 4 * c + 4] = kernel[:, :, c]
        mu, variance = tiny_graphs.moments(full, [1.0, 2.0, 3.0], 0.5)
        fit = self._fit(
            lambda x: tiny_graphs.batch_norm(
                tf.nn.depthwise_conv2d(
                    x, kernel.astype("f"), [1, 1, 1, 1], "SAME"
                ),
                mu,
                variance,
            ),
            *(8, 8, 3),
        )
        np.testing.assert_allclose(fit.mean, [1.0, 2.0, 3.0], rtol=1e-4)
        assert fit.deviation == pytest.approx(0.5, rel=1e-4)

    def test_grouped_conv(self):
        kernel = _kernel(3, 3, 2, 12)
        full = np.zeros((3, 3, 4, 12))
        full[:, :, :2, :6] = kernel[..., :6]
        full[:, :, 2:, 6:] = kernel[..., 6:]
        wanted = [1.0, 2.0, 3.0, 4.0]
        mu, variance = tiny_graphs.moments(full, wanted, 0.5)
        fit = self._fit(
            lambda x: tiny_graphs.batch_norm(
                tf.nn.conv2d(x, kernel.astype("f"), 1, "SAME"), mu, variance
            ),
            *(8, 8, 4),
        )
        np.testing.assert_allclose(fit.mean, wanted, rtol=1e-4)

    def test_dense_on_a_flattened_image_has_positions(self):
        kernel = _kernel(4, 4, 3, 16)
        mu, variance = tiny_graphs.moments(kernel, [0.5, 0.4, 0.3], 0.25)
        fit = self._fit(
            lambda x: tiny_graphs.batch_norm(
                tf.reshape(x, (-1, 48)) @ kernel.reshape(48, 16).astype("f"),
                mu,
                variance,
            ),
            *(4, 4, 3),
            input_shape=(None, 4, 4, 3),
        )
        np.testing.assert_allclose(fit.mean, [0.5, 0.4, 0.3], rtol=1e-4)
        assert fit.neighbour_correlation == 0.9
        assert fit.deviation == pytest.approx(0.25, rel=1e-4)

    def test_residual_between_layer_and_bn_is_no_bias(self):
        kernel = _kernel(3, 3, 4, 4).astype("f")
        fit = self._fit(
            lambda x: tiny_graphs.batch_norm(
                tf.nn.conv2d(x, kernel, 1, "SAME") + x, np.ones(4), np.ones(4)
            ),
            *(8, 8, 4),
        )
        assert fit is None
