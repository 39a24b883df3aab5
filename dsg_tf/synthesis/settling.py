"""Whether samples have had steps enough.

What calibration takes from samples are ranges of activations. BN tells how
wide they should be: of a layer's input the widest channel reaches about three
deviations from its mean. The same measure of a batch's own moments says by how
many bits the ranges that it would give are off. Behind the last BN the classes
that were asked for say it: samples without a class have logits near zero.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

# Of a normal variable 0.3 % lies beyond.
_DEVIATIONS = 3.0
# The share of layers that may be farther off than what is told.
_QUANTILE = 0.9
# Of the cross-entropy that guessing has. docs/performance.md has the study.
_MOST_LABEL_SHARE = 0.5


@dataclasses.dataclass(frozen=True)
class Settling:
    """How far a batch has come.

    Attributes:
      bits_off: see `bits_off`.
      label_share: cross-entropy to the classes that were asked for, as a share
        of what guessing has; 0 where none are.
    """

    bits_off: float
    label_share: float

    def reached(self, tolerance: float) -> bool:
        """Whether ranges are within so many bits, and classes are reached."""
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
    """How far a batch's ranges are from BN's, |log2| of their ratio, in bits.

    Args:
      mean, deviation: m and s of each sample, (B, C), the channels of all
        layers side by side.
      target_mean, target_deviation: BN's, (C,).
      channels: how many each layer has.

    Returns:
      What nine layers in ten stay below; infinite where a moment is no number.

    Example:
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
    # A layer that BN remembers as constant zero has no range to miss.
    off = off[wanted > 0]
    if not np.isfinite(off).all():
        return float("inf")
    return float(np.quantile(off, _QUANTILE)) if len(off) else 0.0


def _reaches(mean, deviation, channels: Sequence[int]) -> np.ndarray:
    """How far the widest channel of each layer reaches from zero, (N,)."""
    reach = np.abs(mean) + _DEVIATIONS * np.asarray(deviation)
    starts = np.cumsum([0, *channels[:-1]])
    return np.maximum.reduceat(reach.astype(np.float64), starts)


def rounds(first: int, most: int) -> Iterator[int]:
    """Steps of one round after the other: each doubles what is done.

    Example:
      >>> list(rounds(25, 300))
      [25, 25, 50, 100, 100]
    """
    done = 0
    while done < most:
        count = min(max(first, done), most - done)
        yield count
        done += count
