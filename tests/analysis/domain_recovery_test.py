"""The domain of an input is recovered from the best evidence there is."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tiny_graphs

from dsg_tf.analysis import bn_statistics, domain_recovery

_IMAGE = (None, 8, 8, 3)
_KERNEL = np.random.default_rng(0).normal(0, 0.5, (3, 3, 3, 8))


def _conv_bn(x, mean, deviation, kernel=_KERNEL):
    """A first layer that has seen inputs of these moments in training."""
    mu, variance = tiny_graphs.moments(kernel, mean, deviation)
    y = tf.nn.conv2d(x, kernel.astype("f"), 1, "SAME")
    return tiny_graphs.batch_norm(y, mu, variance)


def _conv(x):
    return tf.nn.conv2d(x, _KERNEL.astype("f"), 1, "SAME")


def _recover(function, *shapes, name="x", dtype=tf.float32, **options):
    graph = tiny_graphs.freeze(function, *(shapes or (_IMAGE,)), dtype=dtype)
    layers = bn_statistics.find(graph)
    return domain_recovery.recover(graph, name, layers=layers, **options)


def _trained(before, mean, deviation, **options):
    """The domain of x, where `before(x)` had these moments."""
    return _recover(lambda x: _conv_bn(before(x), mean, deviation), **options)


def _untrained(before, **options):
    """The domain of x, where the first layer has no BN that tells more."""
    return _recover(lambda x: _conv(before(x)), **options)


class TestFirstLayer:
    # Natural moments of each range: mean 0.45, deviation 0.25 of the width.
    @pytest.mark.parametrize(
        ("low", "high"), [(0, 255), (0, 1), (-1, 1), (-0.5, 0.5), (-128, 127)]
    )
    def test_common_ranges_are_told_apart(self, low, high):
        width = high - low
        wanted = low + width * np.array([0.48, 0.45, 0.40])
        domain = _trained(lambda x: x, wanted, 0.26 * width)
        assert (domain.minimum, domain.maximum) == (low, high)
        np.testing.assert_allclose(domain.mean, wanted, atol=1e-4 * width)
        np.testing.assert_allclose(domain.deviation, 0.26 * width, rtol=1e-3)
        assert domain.quality == pytest.approx(1.0, abs=1e-3)
        assert "R2 of the mean 1.00" in domain.source

    def test_another_range_follows_from_its_moments(self):
        domain = _trained(lambda x: x, [10.0, 11.0, 12.0], 2.0)
        # mean - 0.45 * (deviation / 0.25), mean + 0.55 * (...)
        np.testing.assert_allclose(domain.minimum, [6.4, 7.4, 8.4], rtol=1e-3)
        np.testing.assert_allclose(
            domain.maximum, [14.4, 15.4, 16.4], rtol=1e-3
        )

    def test_standardised_images_have_mean_0_and_deviation_1(self):
        domain = _trained(lambda x: x, 0.0, 1.0)
        np.testing.assert_allclose(domain.mean, 0.0, atol=1e-6)
        np.testing.assert_allclose(domain.deviation, 1.0, rtol=1e-3)

    def test_bad_fit_of_the_mean_is_not_used(self):
        mu = np.random.default_rng(7).normal(0, 5, 8)
        _, variance = tiny_graphs.moments(_KERNEL, 0.0, 2.0)
        domain = _recover(
            lambda x: tiny_graphs.batch_norm(
                tf.nn.conv2d(x, _KERNEL.astype("f"), 1, "SAME"), mu, variance
            )
        )
        assert domain.quality < domain_recovery.MIN_FIT_QUALITY
        assert domain.mean.tolist() == [0, 0, 0]
        assert not domain.bounded
        np.testing.assert_allclose(domain.deviation, 2.0, rtol=1e-3)

    def test_what_is_no_image_has_no_bounds(self):
        kernel = np.random.default_rng(0).normal(0, 0.5, (3, 1, 6, 16))
        domain = _recover(
            lambda x: _conv_bn(x, 100.0, 64.0, kernel), (None, 8, 4, 6)
        )
        assert not domain.bounded
        np.testing.assert_allclose(domain.mean, [100.0] * 6, rtol=1e-4)

    def test_conv1d(self):
        kernel = np.random.default_rng(0).normal(0, 0.5, (3, 2, 8))
        mu, variance = tiny_graphs.moments(kernel, [3.0, 4.0], 0.5)
        domain = _recover(
            lambda x: tiny_graphs.batch_norm(
                tf.nn.conv1d(x, kernel.astype("f"), 1, "SAME"), mu, variance
            ),
            (None, 16, 2),
        )
        np.testing.assert_allclose(domain.mean, [3.0, 4.0], rtol=1e-4)
        np.testing.assert_allclose(domain.deviation, 0.5, rtol=1e-3)

    def test_flat_features_have_a_mean_each(self):
        kernel = np.random.default_rng(0).normal(0, 0.5, (5, 12))
        wanted = np.array([1.0, -2.0, 30.0, 4.0, 0.5])
        mu, variance = tiny_graphs.moments(kernel, wanted, 2.0, correlation=0.0)
        domain = _recover(
            lambda x: tiny_graphs.batch_norm(
                x @ kernel.astype("f"), mu, variance
            ),
            (None, 5),
        )
        np.testing.assert_allclose(domain.mean, wanted, rtol=1e-3)
        np.testing.assert_allclose(domain.deviation, 2.0, rtol=1e-3)

    def test_flattened_image_has_moments_per_channel(self):
        kernel = np.random.default_rng(0).normal(0, 0.5, (8, 8, 1, 16))
        mu, variance = tiny_graphs.moments(kernel, 0.4, 0.25)
        domain = _recover(
            lambda x: tiny_graphs.batch_norm(
                tf.reshape(x, (-1, 64)) @ kernel.reshape(64, 16).astype("f"),
                mu,
                variance,
            ),
            (None, 8, 8, 1),
        )
        assert (domain.minimum, domain.maximum) == (0, 1)
        np.testing.assert_allclose(domain.mean, [0.4], rtol=1e-4)
        np.testing.assert_allclose(domain.deviation, [0.25], rtol=1e-4)
        assert domain.neighbour_correlation == 0.9

    def test_moments_broadcast_against_an_input_with_channels_first(self):
        domain = _recover(
            lambda x: _conv_bn(
                tf.transpose(x, (0, 2, 3, 1)), [0.5, 0.4, 0.3], 0.25
            ),
            (None, 3, 8, 8),
        )
        np.testing.assert_allclose(domain.mean, [0.4], rtol=1e-4)
        assert domain.deviation.shape == (1,)

    def test_swapped_channels_are_sorted_back(self):
        domain = _trained(lambda x: x[..., ::-1], [110, 100, 90.0], 60.0)
        np.testing.assert_allclose(domain.mean, [90, 100, 110], rtol=1e-4)

    def test_padding_before_the_conv_changes_nothing(self):
        domain = _trained(
            lambda x: tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]),
            [0.5, 0.4, 0.3],
            0.25,
        )
        np.testing.assert_allclose(domain.mean, [0.5, 0.4, 0.3], rtol=1e-4)
        assert (domain.minimum, domain.maximum) == (0, 1)


class TestPreprocessing:
    @pytest.mark.parametrize(
        ("before", "high"),
        [
            (lambda x: x / 255.0, 255),
            (lambda x: x / 127.5 - 1.0, 255),
            (lambda x: x - 128.0, 255),
            (lambda x: x * 2.0 - 1.0, 1),
            (lambda x: x * 255.0, 1),
        ],
        ids=["255", "127.5-1", "-128", "2x-1", "x255"],
    )
    def test_rescaling_tells_the_range_of_pixels(self, before, high):
        domain = _untrained(before)
        assert (domain.minimum, domain.maximum) == (0, high)
        np.testing.assert_allclose(domain.mean, 0.45 * high, rtol=1e-5)
        assert domain.source == "rescaling in the model"

    @pytest.mark.parametrize("units", [1.0, 255.0])
    def test_normalization_is_inverted(self, units):
        """Normalization, behind Rescaling (EfficientNet) or alone."""
        mean = np.float32([0.485, 0.456, 0.406])
        deviation = np.float32([0.229, 0.224, 0.225])
        domain = _untrained(
            lambda x: (x * np.float32(1 / units) - mean) / deviation
        )
        assert (domain.minimum, domain.maximum) == (0, units)
        np.testing.assert_allclose(domain.mean, mean * units, rtol=1e-3)
        np.testing.assert_allclose(
            domain.deviation, deviation * units, rtol=1e-3
        )

    def test_fit_behind_a_normalization_is_mapped_back(self):
        domain = _trained(
            lambda x: (x - 100.0) * np.float32(0.1), [2.0, 3.0, 4.0], 0.5
        )
        np.testing.assert_allclose(domain.mean, [120, 130, 140], rtol=1e-3)
        np.testing.assert_allclose(domain.deviation, 5.0, rtol=1e-3)

    def test_mean_subtraction_of_swapped_channels(self):
        """Caffe's preprocessing: BGR less ImageNet's mean."""
        bgr = np.float32([103.939, 116.779, 123.68])
        domain = _untrained(lambda x: x[..., ::-1] - bgr)
        assert (domain.minimum, domain.maximum) == (0, 255)
        np.testing.assert_allclose(domain.mean, bgr[::-1], rtol=1e-5)
        np.testing.assert_allclose(domain.deviation, 63.75)

    def test_grayscale_made_colour_is_grayscale(self):
        domain = _recover(
            lambda x: _conv_bn(tf.concat([x, x, x], -1) / 255.0, 0.45, 0.25),
            (None, 8, 8, 1),
        )
        assert domain.mean.shape == (1,)
        assert (domain.minimum, domain.maximum) == (0, 255)

    def test_moving_values_is_no_rescaling(self):
        # Concat, slice and the like keep [-1, 1] what it is.
        domain = _trained(lambda x: x[:, ::-1], [-0.1, -0.1, -0.2], 0.5)
        assert (domain.minimum, domain.maximum) == (-1, 1)


class TestBatchNormOnTheInput:
    def test_has_the_moments_of_the_input(self):
        domain = _recover(
            lambda x: tiny_graphs.batch_norm(
                x, [120.0, 110.0, 100.0], [3600.0, 3600.0, 4900.0]
            )
        )
        np.testing.assert_allclose(domain.mean, [120, 110, 100])
        np.testing.assert_allclose(domain.deviation, [60, 60, 70], rtol=1e-6)
        assert (domain.minimum, domain.maximum) == (0, 255)
        assert domain.source == "BatchNormalization on the input"

    def test_with_a_feature_that_never_varied_has_a_unit_for_it(self):
        domain = _recover(
            lambda x: tiny_graphs.batch_norm(x, [1.0, 2.0], [4.0, 0.0]),
            (None, 2),
        )
        assert domain.deviation[0] == 2.0
        assert 0 < domain.deviation[1] < 0.01


class TestIntegers:
    @pytest.mark.parametrize(
        ("dtype", "low", "high"), [(tf.uint8, 0, 255), (tf.int8, -128, 127)]
    )
    def test_bytes_have_the_range_of_their_type(self, dtype, low, high):
        domain = _recover(
            lambda x: _conv_bn(tf.cast(x, tf.float32), 0.3, 0.1), dtype=dtype
        )
        assert (domain.minimum, domain.maximum) == (low, high)
        assert domain.integer
        assert domain.mean.shape == (3,)

    def test_wide_integers_have_the_range_that_the_graph_tells(self):
        domain = _recover(
            lambda x: _conv(tf.cast(x, tf.float32) / 255.0),
            dtype=tf.int32,
        )
        assert (domain.minimum, domain.maximum) == (0, 255)
        assert domain.integer

    def test_wide_integers_without_evidence_stay_exact_in_float32(self):
        domain = _recover(
            lambda x: tf.cast(x, tf.float32) * 2.0, (None, 4), dtype=tf.int64
        )
        assert (domain.minimum, domain.maximum) == (-(2**24), 2**24)


class TestUserRange:
    def test_goes_before_the_type(self):
        domain = _recover(
            lambda x: tf.cast(x, tf.float32),
            dtype=tf.uint8,
            user_range=(10, 20),
        )
        assert (domain.minimum, domain.maximum) == (10, 20)
        assert domain.integer

    def test_keeps_the_moments_that_fit_into_it(self):
        domain = _trained(
            lambda x: x, [0.5, 0.4, 0.3], 0.2, user_range=(0.0, 2.0)
        )
        assert (domain.minimum, domain.maximum) == (0, 2)
        np.testing.assert_allclose(domain.mean, [0.5, 0.4, 0.3], rtol=1e-3)
        assert domain.channel_correlation == 0.8
        assert domain.source == "--input_range"

    @pytest.mark.parametrize(
        "bounds", [(0.0, 255.0), (-0.2, 0.4)], ids=["too wide", "mean outside"]
    )
    def test_replaces_the_moments_that_do_not(self, bounds):
        domain = _trained(lambda x: x, [0.5, 0.4, 0.3], 0.2, user_range=bounds)
        width = bounds[1] - bounds[0]
        np.testing.assert_allclose(
            domain.mean, bounds[0] + 0.45 * width, rtol=1e-6
        )
        np.testing.assert_allclose(domain.deviation, 0.25 * width, rtol=1e-6)


def test_each_of_several_inputs_has_its_own_domain():
    def function(x, y):
        return _conv_bn(x, 100.0, 60.0) + _conv_bn(y, 0.4, 0.25)

    x, y = (_recover(function, _IMAGE, _IMAGE, name=n) for n in "xy")
    assert (x.minimum, x.maximum) == (0, 255)
    assert (y.minimum, y.maximum) == (0, 1)


def test_without_evidence_the_standard_normal_is_assumed():
    domain = _recover(lambda x: tf.square(x))
    assert domain.mean.tolist() == [0, 0, 0]
    assert domain.deviation.tolist() == [1, 1, 1]
    assert not domain.bounded
    assert "assumed" in domain.source


@pytest.mark.parametrize(
    ("bounds", "warned"),
    [((0.0, 255.0), True), ((0.0, 0.01), True), ((0.0, 1.0), False)],
)
def test_a_range_that_contradicts_the_model_is_warned_of(
    bounds, warned, caplog
):
    with caplog.at_level("WARNING", logger="absl"):
        _trained(lambda x: x, [0.5, 0.4, 0.3], 0.25, user_range=bounds)
    assert ("--input_range" in caplog.text) == warned
