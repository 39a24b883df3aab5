"""White noise in, images with the statistics of natural ones out.

Three things are alike in photographs of all kinds: amplitudes fall with
frequency, about as 1/f; colour channels share most of what they show; and
images differ in brightness and contrast. A linear map gives white noise the
first two, and where samples start gives them the third. Samples that are
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
import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

# Of all images' variance, the share of their own means; about that of the
# images set aside for calibration. docs/method.md says what prints the numbers.
BRIGHTNESS_SHARE = 0.25
# Deviation of an image's deviation, relative to its mean; the same.
CONTRAST_VARIATION = 0.3
# Exponents of amplitudes are between 0, white, and this; photographs have 0.8
# to 1.5.
_STEEPEST = 2.0
_BISECTIONS = 30


@dataclasses.dataclass(frozen=True, eq=False)
class NaturalImages:
    """The map for images of one size.

    White noise is given by its Fourier coefficients, real and imaginary parts
    last, of mean square 1: float32 (B, C, H, W // 2 + 1, 2).

    Attributes:
      size: (H, W).
      gain: float32 (H, W // 2 + 1), by frequency.
      mixing: float32 (C, C), symmetric: its square is the correlation of the
        channels.
    """

    size: tuple[int, int]
    gain: np.ndarray
    mixing: np.ndarray

    @classmethod
    def of(
        cls,
        shape: Sequence[int],
        *,
        channel_correlation: float = 0.9,
        neighbour_correlation: float = 0.9,
        brightness_share: float = BRIGHTNESS_SHARE,
    ) -> NaturalImages:
        """The map to images of deviation 1 over all of them.

        Args:
          shape: (..., H, W, C).
          channel_correlation: of any two channels, 0..1.
          neighbour_correlation: of pixels side by side, 0..1: what the
            steepness e of the amplitudes, 1/f^e, is chosen by.
          brightness_share: of the variance, what differs between the means of
            images; 0 gives all of them mean 0.
        """
        height, width, channels = shape[-3:]
        power = _power((height, width), neighbour_correlation, brightness_share)
        gain = np.sqrt(power * height * width)
        wanted = np.full((channels, channels), channel_correlation)
        np.fill_diagonal(wanted, 1.0)
        values, vectors = np.linalg.eigh(wanted)
        roots = np.sqrt(np.maximum(values, 0.0))
        return cls(
            (height, width),
            gain[:, : width // 2 + 1].astype(np.float32),
            ((vectors * roots) @ vectors.T).astype(np.float32),
        )

    def __call__(self, coefficients: tf.Tensor) -> tf.Tensor:
        """The images of white noise, float32 (B, H, W, C), with a gradient.

        Example:
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


def _power(
    size: tuple[int, int], neighbour_correlation: float, brightness_share: float
) -> np.ndarray:
    """Shares of an image's variance by frequency, float64 (H, W); sum 1.

    They fall as f^(-2e); the correlation of neighbours, which is that of the
    shares' transform, rises with e.
    """
    down, right = (np.fft.fftfreq(n) for n in size)
    frequency = np.hypot(down[:, None], right[None])
    # The lowest ones are alike: images are parts of larger scenes.
    frequency = np.maximum(frequency, 1 / max(size))
    cosines = np.cos(2 * np.pi * down)[:, None] + np.cos(2 * np.pi * right)

    def shares(exponent: float) -> np.ndarray:
        power = frequency ** (-2 * exponent)
        power[0, 0] = 0.0
        power *= (1 - brightness_share) / max(power.sum(), 1e-30)
        power[0, 0] = brightness_share
        return power

    low, high = 0.0, _STEEPEST
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        correlation = float((shares(middle) * cosines).sum()) / 2
        if correlation < neighbour_correlation:
            low = middle
        else:
            high = middle
    return shares((low + high) / 2)


def white(
    rng: np.random.Generator, shape: Sequence[int], *, scatter: bool = False
) -> np.ndarray:
    """White noise, float32 of mean 0 and deviation 1.

    Args:
      rng: the source of randomness.
      shape: (B, ...).
      scatter: give samples a contrast each, and have what makes their means
        balanced over the batch: a batch is to have the moments of all images.
    """
    noise = rng.standard_normal(shape, np.float32)
    if not scatter:
        return noise
    axes = tuple(range(1, noise.ndim - 1))
    mean = noise.mean(axes, keepdims=True)
    varying = noise - mean
    # Log-normal.
    spread = math.sqrt(math.log1p(CONTRAST_VARIATION**2))
    drawn = rng.standard_normal((len(noise), *([1] * (noise.ndim - 1))))
    contrast = np.exp(spread * drawn)
    contrast /= np.sqrt(np.mean(contrast**2))
    if len(noise) > 1:
        expected = math.sqrt(1 / math.prod(noise.shape[1:-1]))
        mean -= mean.mean(0)
        mean *= expected / np.maximum(mean.std(0), 1e-12)
    return (mean + varying * contrast).astype(np.float32)
