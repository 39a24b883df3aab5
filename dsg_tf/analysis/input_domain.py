"""The domain of an input: where its values live, and how they scatter.

Images live somewhere: in 0..255, in [-1, 1], around zero with deviation one.
`domain_recovery` finds out where, from what the model knows.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from dsg_tf.graph import ir

# Pixels of natural images in units of their range: the mean and deviation of
# ImageNet's training set (Krizhevsky et al. 2012 and every framework's
# preprocessing since), averaged over the channels.
NATURAL_MEAN = 0.45
NATURAL_DEVIATION = 0.25

# An image of less than this share of the variance that BN saw is next to none.
_LEAST_VARIANCE = 0.1


_ASSUMED = "assumed: nothing in the model tells"


@dataclasses.dataclass(frozen=True, eq=False)
class InputDomain:
    """Where the values of one input live, in the model's input units.

    Attributes:
      minimum, maximum: bounds, float32 scalars or (C,); infinite where the
        input has none that are known.
      mean, deviation: moments of the values, float32 (C,), or (1,) where the
        input has no channel axis.
      neighbour_correlation: correlation of neighbouring positions, 0..1.
      channel_correlation: correlation between channels, 0..1.
      integer: whether only whole numbers are valid.
      source: the evidence, for the report.
      quality: share of the evidence that the fit explains, 0..1; 1 where
        nothing was fitted.
      moments_seen: whether mean and deviation are what BN saw in training,
        augmentation included; else they are those of whole images.
      bounds_follow: whether the bounds are only what natural images with these
        moments have.
      table: how many rows the table has that the values index; 0 where they
        are no indices. Indices are drawn at random, not optimised.
    """

    minimum: np.ndarray | np.floating
    maximum: np.ndarray | np.floating
    mean: np.ndarray
    deviation: np.ndarray
    neighbour_correlation: float = 0.9
    channel_correlation: float = 0.9
    integer: bool = False
    source: str = _ASSUMED
    quality: float = 1.0
    moments_seen: bool = False
    bounds_follow: bool = False
    table: int = 0

    @property
    def bounded(self) -> bool:
        return bool(
            np.isfinite(self.minimum).all() and np.isfinite(self.maximum).all()
        )

    def finish(self, values: np.ndarray) -> np.ndarray:
        """Values as the model takes them: whole and in range for integers.

        The bounds of a float input are an estimate; whether to keep to them is
        the synthesis config's choice, made before.
        """
        if not self.integer:
            return values
        return np.rint(np.clip(values, self.minimum, self.maximum))

    def without_borders(self, share: float) -> InputDomain | None:
        """The domain of whole images, where BN saw them with black borders.

        Random crops of images padded with black, a common augmentation, are
        darker and of more contrast than the images. With a share p of black b,
        mean and variance are m = (1 - p) m' + p b and
        v = (1 - p) v' + p (1 - p) (m' - b)^2, to be solved for m' and v'.
        Where b itself follows from the moments, m' - b is 1.8 deviations
        (0.45 / 0.25), and so is b.

        Args:
          share: p, the area of the borders, 0..1, in the mean over crops.

        Returns:
          The domain; self where its moments are not what BN saw, and None where
          no image has such crops: without bounds, or with too little variance.

        Examples:
          >>> d = natural_range(0, 255, channels=1, source="a fit")
          >>> d = dataclasses.replace(d, moments_seen=True)
          >>> d.without_borders(0.1).describe()
          '[0, 255], mean 128, deviation 53.8 (a fit, without black borders)'
        """
        if not self.bounded:
            return None
        if not self.moments_seen:
            return self
        source = f"{self.source}, without black borders"
        if self.bounds_follow:
            distance = NATURAL_MEAN / NATURAL_DEVIATION
            gain = (1 - share) * (1 + share * distance**2)
            deviation = self.deviation / np.float32(gain**0.5)
            mean = self.mean + np.float32(share * distance) * deviation
            whole = natural_bounds(mean, deviation)
            return dataclasses.replace(
                self,
                minimum=whole[0],
                maximum=whole[1],
                mean=mean,
                deviation=deviation,
                source=source,
            )
        black = self.minimum
        mean = (self.mean - share * black) / (1 - share)
        variance = self.deviation**2 / (1 - share) - share * (mean - black) ** 2
        if np.any(variance < _LEAST_VARIANCE * self.deviation**2):
            return None
        return dataclasses.replace(
            self,
            mean=np.asarray(mean, np.float32),
            deviation=np.asarray(np.sqrt(variance), np.float32),
            source=source,
        )

    @property
    def assumed(self) -> bool:
        """Whether nothing in the model, and no flag, tells of the values."""
        return self.source == _ASSUMED

    def describe(self) -> str:
        """One line for the screen.

        Examples:
          >>> natural_range(0.0, 1.0, channels=1, source="a flag").describe()
          '[0, 1], mean 0.45, deviation 0.25 (a flag)'
        """
        mean = "/".join(f"{v:.3g}" for v in self.mean[:4])
        deviation = "/".join(f"{v:.3g}" for v in np.unique(self.deviation)[:4])
        low, high = np.min(self.minimum), np.max(self.maximum)
        bounds = f"[{low:.3g}, {high:.3g}]" if self.bounded else "unbounded"
        return f"{bounds}, mean {mean}, deviation {deviation} ({self.source})"


def standard_normal(channels: int) -> InputDomain:
    """Mean 0, deviation 1, no bounds: what is assumed without evidence."""
    return InputDomain(
        minimum=np.float32(-np.inf),
        maximum=np.float32(np.inf),
        mean=np.zeros(channels, np.float32),
        deviation=np.ones(channels, np.float32),
    )


def natural_range(
    minimum: float, maximum: float, *, channels: int, source: str, **fields
) -> InputDomain:
    """A range of pixels, with the moments of natural images in it."""
    width = maximum - minimum
    return InputDomain(
        minimum=np.float32(minimum),
        maximum=np.float32(maximum),
        mean=np.full(channels, minimum + NATURAL_MEAN * width, np.float32),
        deviation=np.full(channels, NATURAL_DEVIATION * width, np.float32),
        source=source,
        **fields,
    )


def is_image(port: ir.Port) -> bool:
    """Whether an input looks like an image: (N, H, W, 1 or 3 or 4)."""
    shape = port.shape
    return (
        shape is not None
        and len(shape) == 4
        and shape[-1] in (1, 3, 4)
        and None not in shape[1:]
        and min(shape[1:3]) >= 8
        and max(shape[1:3]) <= 4 * min(shape[1:3])
    )


def natural_bounds(
    mean: np.ndarray, deviation: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The range of which natural images have these moments."""
    width = deviation / np.float32(NATURAL_DEVIATION)
    low = mean - np.float32(NATURAL_MEAN) * width
    return low, low + width
