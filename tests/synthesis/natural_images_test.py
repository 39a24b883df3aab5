"""White noise becomes images with the statistics that are promised."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from dsg_tf.synthesis import natural_images

_SIZES = pytest.mark.parametrize(
    "size", [(16, 16), (15, 9), (8, 33)], ids=["even", "odd", "wide"]
)


def _images(*size, count=4, channels=3, seed=0, scatter=False, **options):
    shape = (count, *size, channels)
    rng = np.random.default_rng(seed)
    natural = natural_images.NaturalImages.of(shape, **options)
    coefficients = natural.coefficients(natural_images.white(rng, shape))
    if scatter:
        coefficients = natural.scattered(rng, coefficients)
    return natural(coefficients).numpy().astype(np.float64)


@_SIZES
def test_images_have_deviation_1_and_the_shape_asked_for(size):
    images = _images(*size, count=2048)
    assert images.shape == (2048, *size, 3)
    # A quarter of the variance is in one mode of 2,048 images, and the rest in
    # few: a relative error of sqrt(2 / 2048) = 0.03 at most, halved by the
    # root; five of them. The same of the mean.
    np.testing.assert_allclose(images.std((0, 1, 2)), 1.0, rtol=0.08)
    np.testing.assert_allclose(images.mean((0, 1, 2)), 0.0, atol=0.08)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.6])
def test_brightness_has_its_share_of_the_variance(share):
    images = _images(12, 12, count=4096, brightness_share=share)
    found = images.mean((1, 2)).var(0)
    # Standard error of a variance of 4,096 values: 2 %; five of them.
    np.testing.assert_allclose(found, share, rtol=0.11, atol=1e-9)


def test_contrast_varies_and_brightness_is_balanced_over_a_batch():
    plain, varied = (
        _images(64, 64, count=1024, scatter=scatter)
        for scatter in (False, True)
    )
    brightness = varied.mean((1, 2))
    np.testing.assert_allclose(brightness.mean(0), 0.0, atol=1e-5)
    np.testing.assert_allclose(
        brightness.std(0), natural_images.BRIGHTNESS_SHARE**0.5, rtol=0.1
    )
    contrast = varied.std((1, 2))[:, 0] / plain.std((1, 2))[:, 0]
    assert np.mean(contrast**2) == pytest.approx(1.0, abs=1e-3)
    # 1,024 log-normal values: 3 %.
    assert contrast.std() / contrast.mean() == pytest.approx(
        natural_images.CONTRAST_VARIATION, rel=0.1
    )


def test_exponents_vary_and_are_balanced_over_a_batch():
    images = _images(64, 64, count=256, scatter=True, exponent_deviation=0.25)
    frequency = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.fftfreq(64)[None])
    inside = (frequency > 2 / 64) & (frequency < 0.5)
    power = np.abs(np.fft.fft2(images, axes=(1, 2))) ** 2
    power = np.log(power.mean(3)[:, inside])
    slopes = np.polyfit(np.log(frequency[inside]), power.T, 1)[0]
    expected = natural_images.NaturalImages.of(
        (64, 64, 3), exponent_deviation=0.25
    ).exponent
    # A periodogram's slope has an error of 0.02.
    assert np.mean(slopes) / -2 == pytest.approx(expected, abs=0.02)
    # Of 256 values: 4.4 %; three of them.
    assert np.std(slopes) / 2 == pytest.approx(0.25, rel=0.14)


def test_white_is_float32_white_noise():
    noise = natural_images.white(np.random.default_rng(0), (64, 16, 16, 3))
    assert noise.dtype == np.float32
    # 49,152 values: the standard errors of mean, deviation and neighbour
    # correlation are at most 1 / sqrt(49,152) = 0.0045; five of them.
    assert abs(noise.mean()) < 0.023
    assert abs(noise.std() - 1) < 0.023
    assert abs(np.mean(noise[:, 1:] * noise[:, :-1])) < 0.023


@pytest.mark.parametrize("scatter", [False, True], ids=["alike", "scattered"])
@pytest.mark.parametrize("share", [0.0, 0.25])
@pytest.mark.parametrize("correlation", [0.5, 0.85, 0.95])
def test_neighbours_correlate_as_asked(correlation, share, scatter):
    images = _images(
        32,
        24,
        count=1024,
        neighbour_correlation=correlation,
        brightness_share=share,
        scatter=scatter,
        exponent_deviation=scatter * natural_images.EXPONENT_DEVIATION,
    )
    pairs = [
        images[:, 1:] * images[:, :-1],
        images[:, :, 1:] * images[:, :, :-1],
    ]
    # The fields go around their edges, so that the pairs there are as many as
    # anywhere: 1,024 images of at least four modes, 1.5 %; four of them.
    found = np.mean([pair.mean() for pair in pairs]) / (images**2).mean()
    assert found == pytest.approx(correlation, abs=0.02)


def test_amplitude_falls_as_a_power_of_the_frequency():
    images = _images(64, 64, count=32)
    spectrum = np.abs(np.fft.fft2(images, axes=(1, 2))) ** 2
    frequency = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.fftfreq(64)[None])
    power = np.log(spectrum.mean((0, 3)))
    for low, high in ((2, 8), (8, 32)):
        inside = (frequency > low / 64) & (frequency < high / 64)
        slope = np.polyfit(np.log(frequency[inside]), power[inside], 1)[0]
        # The same steepness at all scales; 96 periodograms.
        assert slope / 2 == pytest.approx(-1.22, abs=0.06)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9, 1.0])
def test_channels_correlate_as_asked(correlation):
    images = _images(
        32, 32, count=1024, channel_correlation=correlation
    ).reshape(-1, 3)
    found = np.corrcoef(images.T)[[0, 0, 1], [1, 2, 2]]
    # A quarter of the variance is brightness, one mode of an image, and the
    # rest has about 17: an error of 0.01 over 1,024 images; five of them.
    np.testing.assert_allclose(found, correlation, atol=0.05)


@_SIZES
def test_coefficients_of_white_noise_are_white(size):
    noise = natural_images.white(np.random.default_rng(0), (512, *size, 2))
    natural = natural_images.NaturalImages.of(noise.shape)
    found = natural.coefficients(noise)
    assert found.shape == (512, 2, size[0], size[1] // 2 + 1, 2)
    power = (found.astype(np.float64) ** 2).sum(-1).mean((0, 1))
    # 1,024 values each, real ones (variance 2) at worst: 4.4 %; five of them.
    np.testing.assert_allclose(power, 1.0, rtol=0.22)


@_SIZES
def test_without_gain_or_mixing_the_map_is_the_inverse_transform(size):
    noise = natural_images.white(np.random.default_rng(0), (2, *size, 3))
    # All frequencies alike: white, with the mean's own share.
    natural = natural_images.NaturalImages(
        size, 0.0, 0.0, 1 / math.prod(size), np.eye(3, dtype=np.float32)
    )
    images = natural(natural.coefficients(noise)).numpy()
    np.testing.assert_allclose(images, noise, atol=1e-5)


def test_has_a_gradient():
    natural = natural_images.NaturalImages.of((2, 6, 6, 1))
    noise = natural_images.white(np.random.default_rng(0), (2, 6, 6, 1))
    start = tf.constant(natural.coefficients(noise))
    with tf.GradientTape() as tape:
        tape.watch(start)
        loss = tf.reduce_sum(natural(start)[:, 2, 3])
    gradient = tape.gradient(loss, start).numpy()
    # The map is linear: a small step changes the loss by exactly as much.
    step = np.random.default_rng(1).normal(size=start.shape).astype("f")
    moved = tf.reduce_sum(natural(start + step)[:, 2, 3])
    assert float(moved - loss) == pytest.approx(
        float((gradient * step).sum()), abs=1e-3
    )


@pytest.mark.parametrize("scatter", [False, True])
def test_is_a_function_of_the_seed(scatter):
    def draw(seed):
        return _images(8, 8, seed=seed, scatter=scatter).tobytes()

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


def test_images_of_one_pixel_and_of_one_brightness_are_possible():
    assert _images(1, 1, count=8, channels=1).std() > 0
    for size in ((1, 1), (8, 8)):
        alone = _images(*size, count=1, scatter=True)
        assert np.isfinite(alone).all()
    rng = np.random.default_rng(0)
    natural = natural_images.NaturalImages.of((8, 8, 3), brightness_share=0.0)
    noise = natural.coefficients(natural_images.white(rng, (4, 8, 8, 3)))
    varied = natural.scattered(rng, noise)
    assert np.isfinite(varied).all()
    means = natural(varied).numpy().mean((1, 2))
    np.testing.assert_allclose(means, 0.0, atol=1e-6)
