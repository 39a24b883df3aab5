"""An output of the float model beside that of the quantized one, as arrays."""

from __future__ import annotations

import math

import numpy as np

from dsg_tf.fidelity import output_spread

# Of probabilities that are not rounded to a grid.
_FLOAT_STEP = 2.0**-20


def _by_channel(values: np.ndarray, count: int) -> np.ndarray:
    """Values as (N, positions, C): the last axis is the channels'."""
    values = np.asarray(values)
    channels = values.shape[-1] if values.ndim > 1 else 1
    return values.reshape(count, -1, channels)


class Pair:
    """Both outputs, channel by channel.

    Args:
      reference: (N, ...) of the float model.
      output: (N, ...) of the quantized model, dequantized.
      samples: how many; N is a multiple of it.
      step: of the output's integer grid, in its units; 0 where it is float.

    Attributes:
      r, q: (samples, positions, channels), zero where one is not finite.
      usable: (samples, positions), where all is finite.
      finite: whether q is, where r is.
      float_finite: whether r is.
      spread: of r, and of q around it.
    """

    def __init__(
        self,
        reference: np.ndarray,
        output: np.ndarray,
        samples: int,
        step: float,
    ):
        reference, output = (
            _by_channel(x, samples) for x in (reference, output)
        )
        known, fine = np.isfinite(reference), np.isfinite(output)
        self.float_finite = bool(known.all())
        self.finite = bool(fine[known].all())
        self.usable = (known & fine).all(axis=-1)
        if not (self.float_finite and self.finite):
            reference = np.where(known & fine, reference, 0)
            output = np.where(known & fine, output, 0)
        self.r, self.q, self.step = reference, output, step
        self.samples, self.positions, self.channels = reference.shape
        self.spread = output_spread.measure(reference, output)

    @property
    def alone(self) -> bool:
        """Whether there is one position of one sample: no spread at all."""
        return self.samples == self.positions == 1

    @property
    def least_step(self) -> float:
        """What probabilities can differ by."""
        return self.step or _FLOAT_STEP

    def sums_to_one(self) -> bool:
        """Whether the reference's channels are shares of one."""
        if self.channels == 1 or self.r.min(initial=0) < 0:
            return False
        return bool(np.allclose(self.r.sum(axis=-1), 1.0, atol=1e-3))

    def error(self) -> float:
        """The greatest absolute difference."""
        if not self.finite:
            return math.inf
        return max(
            float(np.abs(np.subtract(r, q, dtype=np.float64)).max(initial=0))
            for r, q in zip(self.r, self.q, strict=True)
        )

    def facts(self) -> dict:
        """What is measured of every kind."""
        return {
            "max_abs_error": self.error(),
            "samples": self.samples,
            "still": self.samples > 1 and self.spread.still,
            "constant": self.samples > 1 and self.spread.copy_still,
            "float_range": (float(self.r.min()), float(self.r.max())),
            "range": (float(self.q.min()), float(self.q.max())),
            "step": self.step,
            "finite": self.finite,
            "float_finite": self.float_finite,
        }

    def logarithms(self) -> output_spread.Spread:
        """The spread of log(p), which a softmax of many classes hides.

        Likewise clipped; of a log-softmax, that of the values.
        """
        if self.r.min(initial=0) < 0:
            return self.spread
        r, q = (
            np.log(np.clip(x.astype(np.float64), self.least_step, None))
            for x in (self.r, self.q)
        )
        return output_spread.measure(r, q)

    def logits(self) -> output_spread.Spread:
        """The spread of log(p / (1 - p)), which a sigmoid near 0 and 1 hides.

        Probabilities are clipped where the grid ends: beyond one step of 0
        and 1 a file cannot tell them apart.
        """
        step = self.least_step
        r, q = (
            np.clip(x.astype(np.float64), step, 1 - step)
            for x in (self.r, self.q)
        )
        return output_spread.measure(np.log(r / (1 - r)), np.log(q / (1 - q)))
