"""Where samples start, in deviations from the domain's mean.

References:
  1/f: Field, "Relations between the statistics of natural images and the
  response properties of cortical cells", JOSA A 1987.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def gaussian(
    rng: np.random.Generator, shape: Sequence[int], **unused
) -> np.ndarray:
    """White noise, float32 of mean 0 and deviation 1.

    Args:
      rng: the source of randomness.
      shape: (B, ...).
    """
    del unused
    return rng.standard_normal(shape, np.float32)


def natural(
    rng: np.random.Generator,
    shape: Sequence[int],
    *,
    channel_correlation: float = 0.9,
    exponent: float = 1.0,
) -> np.ndarray:
    """Noise with the spectrum of natural images, amplitude ~ 1/f^exponent.

    Every image has mean 0 and deviation 1 per channel. Its channels share a
    common field, as luminance is shared by colours.

    Args:
      rng: the source of randomness.
      shape: (B, H, W, C).
      channel_correlation: correlation between channels, 0..1.
      exponent: slope of the amplitude spectrum.

    Returns:
      float32 (B, H, W, C).

    Example:
      >>> images = natural(np.random.default_rng(0), (2, 8, 8, 3))
      >>> images.shape, images.dtype.name
      ((2, 8, 8, 3), 'float32')
    """
    batch, height, width, channels = shape
    shared = _fields(rng, (batch, 1, height, width), exponent)
    own = _fields(rng, (batch, channels, height, width), exponent)
    mixed = (
        np.sqrt(channel_correlation) * shared
        + np.sqrt(1 - channel_correlation) * own
    )
    # Two fields of one image correlate by chance: their sum is not of
    # deviation 1 yet.
    mixed /= mixed.std((-2, -1), keepdims=True)
    return np.ascontiguousarray(mixed.transpose(0, 2, 3, 1), np.float32)


def _fields(
    rng: np.random.Generator, shape: Sequence[int], exponent: float
) -> np.ndarray:
    """Random fields (..., H, W) of deviation 1 with a 1/f spectrum."""
    height, width = shape[-2:]
    frequency = np.hypot(
        np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    )
    amplitude = np.maximum(frequency, 1 / max(height, width)) ** -exponent
    amplitude[0, 0] = 0.0
    spectrum = np.fft.rfft2(rng.standard_normal(shape)) * amplitude
    fields = np.fft.irfft2(spectrum, s=(height, width))
    return fields / fields.std((-2, -1), keepdims=True)
