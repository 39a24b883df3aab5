"""The vocabulary of quantization: specs, parameters and ranges.

One meaning of `scale` everywhere: `real = scale * (q - zero_point)`.
"""

from __future__ import annotations

import dataclasses
import enum

import numpy as np


class Granularity(enum.Enum):
    """How many scales one weight tensor has."""

    CHANNEL = "channel"  # one for each output channel
    TENSOR = "tensor"  # one


@dataclasses.dataclass(frozen=True)
class QuantSpec:
    """Bits and symmetry of an integer grid.

    A symmetric grid has zero point 0 and drops the lowest code, as the TFLite
    quantization specification asks of weights and of 16-bit activations:
    -127..127. An asymmetric one uses every code: -128..127.

    Attributes:
      bits: width of the codes, 2 to 16.
      symmetric: whether zero is the middle of the grid.

    Examples:
      >>> QuantSpec(8, symmetric=True).qmin, QuantSpec(4, symmetric=False).qmin
      (-127, -8)
    """

    bits: int
    symmetric: bool

    def __post_init__(self):
        whole = isinstance(self.bits, int) and not isinstance(self.bits, bool)
        if not whole or not 2 <= self.bits <= 16:
            raise ValueError(
                f"bits: got {self.bits!r}; expected an integer from 2 to 16"
            )

    @property
    def qmin(self) -> int:
        """The lowest code."""
        return -(2 ** (self.bits - 1)) + (1 if self.symmetric else 0)

    @property
    def qmax(self) -> int:
        """The highest code."""
        return 2 ** (self.bits - 1) - 1


@dataclasses.dataclass(frozen=True)
class TensorRange:
    """The real interval that a tensor's codes should cover.

    Attributes:
      min: its lower end, finite.
      max: its upper end, finite, not below `min`.

    Examples:
      >>> TensorRange(0.5, 2.0).with_zero()
      TensorRange(min=0.0, max=2.0)
    """

    min: float
    max: float

    def __post_init__(self):
        low, high = float(self.min), float(self.max)
        if not (np.isfinite(low) and np.isfinite(high) and low <= high):
            raise ValueError(
                f"range: got [{self.min}, {self.max}]; expected two finite"
                " numbers, the smaller first"
            )
        object.__setattr__(self, "min", low)
        object.__setattr__(self, "max", high)

    @property
    def width(self) -> float:
        """max - min."""
        return self.max - self.min

    def with_zero(self) -> TensorRange:
        """The range widened to hold zero, which every grid must represent."""
        return TensorRange(min(self.min, 0.0), max(self.max, 0.0))


@dataclasses.dataclass(frozen=True, eq=False)
class QuantParams:
    """Scale and zero point of a tensor, one pair or one for each channel.

    Attributes:
      scale: float32 (n,), finite and above zero; real = scale * (q - zero).
      zero_point: int64 (n,), each within [qmin, qmax].
      qmin: the lowest code.
      qmax: the highest code.
      axis: the channels' axis; None where n = 1 pair serves the whole tensor.
    """

    scale: np.ndarray
    zero_point: np.ndarray
    qmin: int
    qmax: int
    axis: int | None = None

    def __post_init__(self):
        scale = np.array(self.scale, np.float32, ndmin=1)
        zero_point = np.array(self.zero_point, np.int64, ndmin=1)
        if scale.ndim != 1 or scale.shape != zero_point.shape:
            raise ValueError(
                f"scale and zero_point: got shapes {scale.shape} and"
                f" {zero_point.shape}; expected the same (n,)"
            )
        if self.axis is None and scale.size != 1:
            raise ValueError(
                f"scale: got {scale.size} without an axis; expected one"
            )
        if not np.all(np.isfinite(scale) & (scale > 0)):
            raise ValueError(
                f"scale: got {scale.min()}..{scale.max()}; expected finite"
                " numbers above 0"
            )
        if not self.qmin < self.qmax:
            raise ValueError(
                f"codes: got {self.qmin}..{self.qmax}; expected qmin < qmax"
            )
        if np.any((zero_point < self.qmin) | (zero_point > self.qmax)):
            raise ValueError(
                f"zero_point: got {zero_point.min()}..{zero_point.max()};"
                f" expected {self.qmin}..{self.qmax}"
            )
        for name, array in (("scale", scale), ("zero_point", zero_point)):
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    def same_as(self, other: QuantParams) -> bool:
        """Whether both describe one grid, bit by bit."""
        return (
            np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero_point, other.zero_point)
            and (self.qmin, self.qmax, self.axis)
            == (other.qmin, other.qmax, other.axis)
        )

    @property
    def range(self) -> TensorRange:
        """What the codes reach, for a tensor with one scale."""
        if self.axis is not None:
            raise ValueError("range: got scales by channel; expected one")
        scale, zero = float(self.scale[0]), int(self.zero_point[0])
        return TensorRange(
            scale * (self.qmin - zero), scale * (self.qmax - zero)
        )
