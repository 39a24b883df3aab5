"""A linear map from white noise to images with natural statistics.

Three things are alike in photographs of all kinds: amplitudes fall with
frequency, about as 1/f; colour channels share most of what they show; and
images differ in brightness, contrast and sharpness. A linear map gives white
noise the first two, and `NaturalImages.scattered` the third. Samples that are
optimised before the map, as coefficients of the noise, also *move* as images
do: a step of an optimiser that treats all coefficients alike changes each
frequency in proportion to what images have of it, and not each pixel by itself.

References:
  1/f: Field, "Relations between the statistics of natural images and the
  response properties of cortical cells", JOSA A 1987.
  Optimising before the map: Olah et al., "Feature Visualization", Distill
  2017, section "Preconditioning and Parameterization".
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

# Of all images' variance, the share of their own means; about that of the
# images set aside for calibration. docs/explanation/method.md says what
# prints the numbers.
BRIGHTNESS_SHARE = 0.25
# Deviation of an image's deviation, relative to its mean; the same.
CONTRAST_VARIATION = 0.3
# Contrasts are log-normal: the deviation of their logarithm.
_LOG_CONTRAST = math.sqrt(math.log1p(CONTRAST_VARIATION**2))
# Deviation of an image's exponent of amplitudes; the same.
EXPONENT_DEVIATION = 0.25
# Exponents of amplitudes are between 0, white, and this; photographs have 0.8
# to 1.5.
_STEEPEST = 2.0
_BISECTIONS = 30
# Points of the quadrature over the exponents of images.
_QUADRATURE = 7


@dataclasses.dataclass(frozen=True, eq=False)
class NaturalImages:
    """The map for images of one size.

    White noise is given by its Fourier coefficients, real and imaginary parts
    last, of mean square 1: float32 (B, C, H, W // 2 + 1, 2).

    Attributes:
      size: (H, W).
      exponent: e of the amplitudes, 1/f^e; of images that differ, the mean.
      exponent_deviation: of e over images that are `scattered`.
      brightness_share: of the variance, what differs between the means of
        images, 0..1.
      mixing: float32 (C, C), symmetric: its square is the correlation of the
        channels.
    """

    size: tuple[int, int]
    exponent: float
    exponent_deviation: float
    brightness_share: float
    mixing: np.ndarray

    @classmethod
    def of(
        cls,
        shape: Sequence[int],
        *,
        channel_correlation: float = 0.9,
        neighbour_correlation: float = 0.9,
        brightness_share: float = BRIGHTNESS_SHARE,
        exponent_deviation: float = 0.0,
    ) -> NaturalImages:
        """The map to images of deviation 1 over all of them.

        Args:
          shape: (..., H, W, C).
          channel_correlation: of any two channels, 0..1.
          neighbour_correlation: of pixels side by side, 0..1: what the
            steepness e of the amplitudes, 1/f^e, is chosen by.
          brightness_share: of the variance, what differs between the means of
            images; 0 gives all of them mean 0.
          exponent_deviation: of e, where images are to be `scattered`;
            neighbours correlate as asked over all of them.
        """
        height, width, channels = shape[-3:]
        exponent = _exponent(
            (height, width),
            neighbour_correlation,
            brightness_share,
            exponent_deviation,
        )
        wanted = np.full((channels, channels), channel_correlation)
        np.fill_diagonal(wanted, 1.0)
        values, vectors = np.linalg.eigh(wanted)
        roots = np.sqrt(np.maximum(values, 0.0))
        return cls(
            (height, width),
            exponent,
            exponent_deviation,
            brightness_share,
            ((vectors * roots) @ vectors.T).astype(np.float32),
        )

    @functools.cached_property
    def gain(self) -> np.ndarray:
        """Amplitudes by frequency, float32 (H, W // 2 + 1)."""
        return self._gains(np.asarray(self.exponent))

    def __call__(self, coefficients: tf.Tensor) -> tf.Tensor:
        """The images of white noise, float32 (B, H, W, C), with a gradient.

        Examples:
          >>> to_images = NaturalImages.of((8, 8, 3))
          >>> noise = white(np.random.default_rng(0), (2, 8, 8, 3))
          >>> images = to_images(to_images.coefficients(noise))
          >>> images.shape.as_list(), images.dtype.name
          ([2, 8, 8, 3], 'float32')
        """
        scale = self.gain * math.sqrt(math.prod(self.size))
        spectrum = tf.complex(
            coefficients[..., 0] * scale, coefficients[..., 1] * scale
        )
        fields = tf.signal.irfft2d(spectrum, self.size)
        return tf.einsum("bdhw,dc->bhwc", fields, self.mixing)

    def coefficients(self, noise: np.ndarray) -> np.ndarray:
        """Fourier coefficients of white noise (B, H, W, C)."""
        spectrum = np.fft.rfft2(noise, axes=(1, 2), norm="ortho")
        spectrum = spectrum.transpose(0, 3, 1, 2)
        pairs = np.stack([spectrum.real, spectrum.imag], axis=-1)
        return pairs.astype(np.float32)

    def scattered(
        self, rng: np.random.Generator, coefficients: np.ndarray
    ) -> np.ndarray:
        """Coefficients of images that differ as photographs do.

        Each image gets a contrast and an exponent of its own. A batch is to
        have the moments of all images, so that what it has of brightness,
        contrast and exponents is balanced.

        Args:
          rng: the source of randomness.
          coefficients: of white noise, float32 (B, C, H, W // 2 + 1, 2).
        """
        count = len(coefficients)
        contrast = np.exp(_LOG_CONTRAST * rng.standard_normal(count))
        exponents = self.exponent_deviation * rng.standard_normal(count)
        brightness = coefficients[:, :, 0, 0, 0].astype(np.float64)
        contrast /= np.sqrt(np.mean(contrast**2))
        if count > 1:
            exponents -= exponents.mean()
            brightness -= brightness.mean(0)
            brightness /= np.maximum(brightness.std(0), 1e-12)
        gains = self._gains(self.exponent + exponents)
        # An amplitude of 0, which brightness may have, stays one.
        gains = gains / np.where(self.gain > 0, self.gain, 1.0)
        varied = (
            coefficients
            * (contrast[:, None, None] * gains)[:, None, :, :, None]
        )
        varied[:, :, 0, 0, 0] = brightness
        return varied.astype(np.float32)

    def _gains(self, exponents: np.ndarray) -> np.ndarray:
        """Amplitudes of images, float32 (..., H, W // 2 + 1)."""
        shares = _shares(self.size, exponents, self.brightness_share)
        gains = np.sqrt(shares * math.prod(self.size))
        return gains[..., : self.size[1] // 2 + 1].astype(np.float32)


def _shares(
    size: tuple[int, int], exponents: np.ndarray, brightness_share: float
) -> np.ndarray:
    """Shares of images' variance by frequency, float64 (..., H, W); sum 1."""
    down, right = (np.fft.fftfreq(n) for n in size)
    frequency = np.hypot(down[:, None], right[None])
    # The lowest ones are alike: images are parts of larger scenes.
    frequency = np.maximum(frequency, 1 / max(size))
    power = frequency ** (-2 * exponents[..., None, None])
    power[..., 0, 0] = 0.0
    total = power.sum((-2, -1), keepdims=True)
    power *= (1 - brightness_share) / np.maximum(total, 1e-30)
    power[..., 0, 0] = brightness_share
    return power


def _exponent(
    size: tuple[int, int],
    neighbour_correlation: float,
    brightness_share: float,
    deviation: float,
) -> float:
    """The mean exponent by which neighbours correlate as they should.

    Their correlation, which is that of the transform of the variance's shares,
    rises with the exponent.
    """
    down, right = (np.cos(2 * np.pi * np.fft.fftfreq(n)) for n in size)
    cosines = (down[:, None] + right) / 2
    points, weights = np.polynomial.hermite_e.hermegauss(_QUADRATURE)
    weights = weights / weights.sum()
    low, high = 0.0, _STEEPEST
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        shares = _shares(size, middle + deviation * points, brightness_share)
        correlation = weights @ (shares * cosines).sum((-2, -1))
        if correlation < neighbour_correlation:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def white(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    """White noise, float32 (B, ...) of mean 0 and deviation 1."""
    return rng.standard_normal(shape, np.float32)
