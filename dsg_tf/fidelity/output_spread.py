"""Variation of an output over samples, and of its quantized copy.

Sums over samples and positions, channel by channel: what differs from the
channel's mean is signal, what differs between the two outputs is noise. A
constant has none of the signal, whatever its value.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

# What is smaller, relative to the largest value, is float32's rounding.
_ROUNDING = 1e-6
# Channels whose movement is this small beside the largest's do not move.
_STILL = 1e-4


def decibel(signal: float, noise: float) -> float:
    """10 log10(signal / noise); without noise inf, without signal -inf.

    Examples:
      >>> decibel(100.0, 1.0), decibel(0.0, 0.0), decibel(0.0, 1.0)
      (20.0, inf, -inf)
    """
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def explained(signal: float, noise: float) -> float:
    """The share of the variance that is explained: 1 - noise / signal, from 0.

    Examples:
      >>> explained(4.0, 1.0), explained(1.0, 4.0), explained(0.0, 0.0)
      (0.75, 0.0, 1.0)
    """
    if noise == 0:
        return 1.0
    return max(0.0, 1.0 - noise / signal) if signal > 0 else 0.0


class Moments:
    """Sums from which SQNR and cosine follow; fed part by part."""

    def __init__(self):
        self._reference = self._output = self._product = self._error = 0.0
        self._count = 0
        self._finite = True

    def update(self, reference: np.ndarray, output: np.ndarray) -> None:
        """Takes in a part of both, of one shape.

        Where the reference is not finite there is nothing to come near to.

        Raises:
          ValueError: unlike shapes.
        """
        r = np.asarray(reference, np.float64)
        q = np.asarray(output, np.float64)
        if r.shape != q.shape:
            raise ValueError(
                f"shapes: got {q.shape}; expected the reference's {r.shape}"
            )
        known = np.isfinite(r)
        if not known.all():
            r, q = r[known], q[known]
        if not np.isfinite(q).all():
            self._finite = False
            return
        self._reference += float(np.sum(r * r))
        self._output += float(np.sum(q * q))
        self._product += float(np.sum(r * q))
        self._error += float(np.sum((r - q) ** 2))
        self._count += r.size

    @property
    def sqnr_db(self) -> float:
        """10 log10(signal / noise), dB."""
        if not self._finite:
            return -math.inf
        return decibel(self._reference, self._error)

    @property
    def cosine(self) -> float:
        """Cosine similarity; two zero vectors are alike."""
        if not self._finite:
            return -1.0
        norm = math.sqrt(self._reference) * math.sqrt(self._output)
        if norm == 0:
            return 1.0 if self._reference == self._output else 0.0
        return max(-1.0, min(1.0, self._product / norm))

    @property
    def reference_size(self) -> float:
        """Root mean square of the reference."""
        return math.sqrt(self._reference / max(self._count, 1))


@dataclasses.dataclass(frozen=True, eq=False)
class Spread:
    """Sums by channel, float64 (C,); of `r`, the reference, and of `q`.

    Attributes:
      signal: of (r - mean r)^2, the mean over samples and positions.
      noise: of (r - q)^2.
      moved: of (r - mean r)^2, the mean over the samples at each position.
      followed: the same of q.
      missed: of the difference between these two movements, squared.
      still: whether r is the same on all samples, but for float's rounding.
      copy_still: whether q is.
      count: values a channel.
    """

    signal: np.ndarray
    noise: np.ndarray
    moved: np.ndarray
    followed: np.ndarray
    missed: np.ndarray
    still: bool
    copy_still: bool
    count: int

    @property
    def moving(self) -> np.ndarray:
        """Channels that r moves, (C,) bool."""
        largest = self.moved.max(initial=0.0)
        return self.moved > max(_STILL**2 * largest, 0.0)

    @property
    def sqnr_db(self) -> float:
        """Signal to noise of all channels together, dB."""
        return decibel(float(self.signal.sum()), float(self.noise.sum()))

    @property
    def explained(self) -> float:
        """Share of the variance explained, all channels together, 0..1."""
        return explained(float(self.signal.sum()), float(self.noise.sum()))

    @property
    def movement_db(self) -> float:
        """Movement with the samples over what of it is missed, dB.

        Places aside: a map that is right on average and the same for every
        sample has 0.
        """
        return decibel(float(self.moved.sum()), float(self.missed.sum()))

    def channel_db(self) -> np.ndarray:
        """Signal to noise of each channel, dB, (C,)."""
        return np.array(list(map(decibel, self.signal, self.noise)))


def measure(reference: np.ndarray, output: np.ndarray) -> Spread:
    """Sums of an output and of its copy; finite values only.

    Args:
      reference: (N, positions, C).
      output: (N, positions, C).

    Examples:
      >>> r = np.array([1.0, 2.0, 3.0]).reshape(3, 1, 1)
      >>> constant = measure(r, np.full_like(r, 2.0))
      >>> constant.sqnr_db, constant.explained, constant.copy_still
      (0.0, 0.0, True)
    """
    means = [np.mean(x, axis=0, dtype=np.float64) for x in (reference, output)]
    center = means[0].mean(axis=0)
    first = [np.asarray(x[0], np.float64) for x in (reference, output)]
    sums = np.zeros((5, reference.shape[2]))
    largest, farthest = np.zeros(2), np.zeros(2)
    for pair in zip(reference, output, strict=True):
        r, q = (np.asarray(x, np.float64) for x in pair)
        a, b = r - means[0], q - means[1]
        terms = (r - center, r - q, a, b, a - b)
        sums += [np.sum(term * term, axis=0) for term in terms]
        for k, x in enumerate((r, q)):
            largest[k] = max(largest[k], np.abs(x).max(initial=0.0))
            moved = np.abs(x - first[k]).max(initial=0.0)
            farthest[k] = max(farthest[k], moved)
    still = farthest <= _ROUNDING * largest
    signal, noise, moved, followed, missed = sums
    return Spread(
        signal,
        noise,
        moved,
        followed,
        missed,
        still=bool(still[0]),
        copy_still=bool(still[1]),
        count=len(reference) * reference.shape[1],
    )
