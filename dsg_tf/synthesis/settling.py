"""Decides whether a batch of samples has been optimised long enough.

Calibration uses the samples to find ranges of activations. BN statistics give
the expected range of a layer's input: its widest channel extends about three
standard deviations from its mean. The same estimate from the batch's own
moments shows by how many bits the resulting range would be wrong. Layers behind
the last BN are covered by the classification loss: as long as the samples do
not belong to the classes they were drawn for, the logits are too small.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

# 0.3 % of a normal distribution lies outside.
_DEVIATIONS = 3.0
# `bits_off` is this quantile over the layers.
_QUANTILE = 0.9
# Relative to the cross-entropy of guessing; see the study in
# docs/explanation/performance.md.
_MOST_LABEL_SHARE = 0.5


@dataclasses.dataclass(frozen=True)
class Settling:
    """Progress of a batch towards its targets.

    Attributes:
      bits_off: see `bits_off`.
      label_share: cross-entropy to the classes that were asked for, as a share
        of what guessing has; 0 where none are.
    """

    bits_off: float
    label_share: float

    def reached(self, tolerance: float) -> bool:
        """Whether ranges are within `tolerance` bits and classes reached."""
        return (
            self.bits_off <= tolerance and self.label_share <= _MOST_LABEL_SHARE
        )


def bits_off(
    mean: np.ndarray,
    deviation: np.ndarray,
    *,
    target_mean: np.ndarray,
    target_deviation: np.ndarray,
    channels: Sequence[int],
) -> float:
    """Distance of a batch's ranges from BN's, |log2| of their ratio, in bits.

    Args:
      mean, deviation: m and s of each sample, (B, C), the channels of all
        layers side by side.
      target_mean, target_deviation: BN's, (C,).
      channels: how many each layer has.

    Returns:
      The 0.9 quantile over layers; infinite if a moment is not finite.

    Examples:
      >>> bits_off(
      ...     np.array([[0.0], [0.0]]),
      ...     np.array([[2.0], [2.0]]),
      ...     target_mean=np.zeros(1),
      ...     target_deviation=np.ones(1),
      ...     channels=[1],
      ... )
      1.0
    """
    mean = np.asarray(mean, np.float64)
    wanted = _reaches(target_mean, target_deviation, channels)
    with np.errstate(divide="ignore", invalid="ignore"):
        total = np.sqrt(np.mean(np.square(deviation), 0) + np.var(mean, 0))
        own = _reaches(np.mean(mean, 0), total, channels)
        off = np.abs(np.log2(own / wanted))
    # Layers whose BN statistics describe a constant zero have no range.
    off = off[wanted > 0]
    if not np.isfinite(off).all():
        return float("inf")
    return float(np.quantile(off, _QUANTILE)) if len(off) else 0.0


def _reaches(mean, deviation, channels: Sequence[int]) -> np.ndarray:
    """Largest distance from zero over the channels of each layer, (N,)."""
    reach = np.abs(mean) + _DEVIATIONS * np.asarray(deviation)
    starts = np.cumsum([0, *channels[:-1]])
    return np.maximum.reduceat(reach.astype(np.float64), starts)


def rounds(first: int, most: int) -> Iterator[int]:
    """Yields the steps of each round; each round doubles the total.

    Examples:
      >>> list(rounds(25, 300))
      [25, 25, 50, 100, 100]
    """
    done = 0
    while done < most:
        count = min(max(first, done), most - done)
        yield count
        done += count
