"""Where samples start has the statistics it promises."""

from __future__ import annotations

import numpy as np
import pytest

from dsg_tf.synthesis import initializers

_SIZES = pytest.mark.parametrize(
    "size", [(16, 16), (15, 9), (8, 33)], ids=["even", "odd", "wide"]
)


def _natural(*size, count=4, channels=3, seed=0, **options):
    rng = np.random.default_rng(seed)
    return initializers.natural(rng, (count, *size, channels), **options)


@_SIZES
def test_every_channel_of_every_image_has_mean_0_and_deviation_1(size):
    images = _natural(*size).astype(np.float64)
    assert images.shape == (4, *size, 3)
    # Float32 rounding of up to 500 values of order 1.
    np.testing.assert_allclose(images.mean((1, 2)), 0.0, atol=1e-6)
    np.testing.assert_allclose(images.std((1, 2)), 1.0, rtol=1e-6)


def test_gaussian_is_float32_white_noise():
    noise = initializers.gaussian(np.random.default_rng(0), (64, 16, 16, 3))
    assert noise.dtype == np.float32
    # 49,152 values: the standard errors of mean, deviation and neighbour
    # correlation are at most 1 / sqrt(49,152) = 0.0045; five of them.
    assert abs(noise.mean()) < 0.023
    assert abs(noise.std() - 1) < 0.023
    assert abs(np.mean(noise[:, 1:] * noise[:, :-1])) < 0.023


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5])
def test_amplitude_falls_as_a_power_of_the_frequency(exponent):
    images = _natural(64, 64, count=32, exponent=exponent)
    spectrum = np.abs(np.fft.fft2(images, axes=(1, 2))) ** 2
    frequency = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.fftfreq(64)[None])
    power = spectrum.mean((0, 3))
    inside = frequency > 2 / 64
    slope = np.polyfit(np.log(frequency[inside]), np.log(power[inside]), 1)[0]
    # Power is amplitude squared. 3,000 bins of 96 periodograms, each with a
    # log deviation of about 0.15 (channels correlate), over a log range of 2.
    assert slope / 2 == pytest.approx(-exponent, abs=0.03)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9, 1.0])
def test_channels_correlate_as_asked(correlation):
    images = _natural(
        32, 32, count=256, channel_correlation=correlation
    ).reshape(256, -1, 3)
    found = np.mean(images[..., 0] * images[..., 1])
    # A 1/f field has about 2 pi ln(16) = 17 effective modes, so an image's
    # correlation has an error of about 0.25 at most: 256 images, 4 errors.
    assert found == pytest.approx(correlation, abs=0.065)


@pytest.mark.parametrize("make", [initializers.natural, initializers.gaussian])
def test_is_a_function_of_the_seed(make):
    def draw(seed):
        return make(np.random.default_rng(seed), (2, 8, 8, 3)).tobytes()

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


def test_images_of_a_batch_differ():
    images = _natural(16, 16, count=2)
    assert abs(np.mean(images[0] * images[1])) < 0.9
