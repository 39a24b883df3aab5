"""What the model's inputs looked like when it was trained.

Images live somewhere: in 0..255, in [-1, 1], around zero with deviation one.
A network fed from the wrong place never reaches its BatchNorm moments, so the
domain is recovered before anything is synthesised. Evidence, best first:

  1. what the user says;
  2. an integer input: its type, or the table that it indexes;
  3. preprocessing inside the graph (Rescaling, Normalization): the inverse of
     what it does;
  4. BatchNormalization directly on the input: its moments;
  5. the first convolution or dense layer and the BN behind it, which saw the
     inputs through known weights (`domain_fit`);
  6. none: mean 0, deviation 1, no bounds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging

from dsg_tf.analysis import (
    bn_statistics,
    domain_fit,
    index_inputs,
    preprocessing,
)
from dsg_tf.graph import ir

# Pixels of natural images in units of their range: the mean and deviation of
# ImageNet's training set (Krizhevsky et al. 2012 and every framework's
# preprocessing since), averaged over the channels.
NATURAL_MEAN = 0.45
NATURAL_DEVIATION = 0.25

# Ranges that training pipelines use. A fitted range that is close to one of
# them is taken to be that one.
_COMMON_RANGES = (
    (0.0, 255.0),
    (0.0, 1.0),
    (-1.0, 1.0),
    (-0.5, 0.5),
    (-128.0, 127.0),
)
# How far a fitted mean may lie from a common range's natural mean, in natural
# deviations, and the log ratio of the deviations. The nearest two common
# ranges differ by log 2 in deviation; half of that separates them.
_MEAN_TOLERANCE = 0.6
_LOG_DEVIATION_TOLERANCE = 0.35

# A mean fit that explains less than this share of the BN means is not used.
MIN_FIT_QUALITY = 0.5

# Deviations by feature are used where the largest is so many times the least.
_UNLIKE = 4.0

# So many times another deviation is no matter of other images.
_CONTRADICTION = 10.0

# An image of less than this share of the variance that BN saw is next to none.
_LEAST_VARIANCE = 0.1

# Whole numbers beyond this are not exact in float32.
_WHOLE_LIMIT = 2**24


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
    source: str = "assumed: nothing in the model tells"
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
            whole = _natural_bounds(mean, deviation)
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


def recover(
    graph: ir.Graph,
    name: str,
    *,
    layers: Sequence[bn_statistics.BatchNorm],
    user_range: tuple[float, float] | None = None,
) -> InputDomain:
    """The domain of one input, from the best evidence there is.

    Args:
      graph: the frozen graph, with BN intact.
      name: the input's name in `graph.inputs`.
      layers: the graph's BN layers.
      user_range: the bounds, where the user gave them.

    Returns:
      The domain; its `source` says what it rests on.
    """
    port = next(p for p in graph.inputs if p.name == name)
    table = index_inputs.table_size(graph, port)
    if table:
        return _indices(table, user_range)
    if port.dtype.is_integer and (user_range or port.dtype.size == 1):
        low, high = user_range or (port.dtype.min, port.dtype.max)
        return natural_range(
            low,
            high,
            channels=preprocessing.num_channels(port),
            source="--input_range"
            if user_range
            else f"{port.dtype.name} input",
            integer=True,
        )
    evidence = _from_graph(graph, port, layers)
    if port.dtype.is_integer:
        return _whole(evidence, port.dtype)
    if user_range is not None:
        return _within(
            evidence, user_range, channels=preprocessing.num_channels(port)
        )
    return evidence


def _indices(table: int, user_range: tuple[float, float] | None) -> InputDomain:
    """Whole numbers from 0 to the last row of a table, equally likely."""
    low, high = 0.0, table - 1.0
    if user_range is not None:
        low, high = max(low, user_range[0]), min(high, user_range[1])
    return InputDomain(
        minimum=np.float32(low),
        maximum=np.float32(high),
        mean=np.array([(low + high) / 2], np.float32),
        deviation=np.array([max(high - low, 1.0) / 12**0.5], np.float32),
        integer=True,
        source=f"indices of a table of {table} rows",
        table=table,
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


def _whole(evidence: InputDomain, dtype) -> InputDomain:
    """A domain of whole numbers: pixels in int32, for instance."""
    low = max(dtype.min, -_WHOLE_LIMIT)
    high = min(dtype.max, _WHOLE_LIMIT)
    return dataclasses.replace(
        evidence,
        minimum=np.rint(np.maximum(evidence.minimum, np.float32(low))),
        maximum=np.rint(np.minimum(evidence.maximum, np.float32(high))),
        integer=True,
    )


def _within(
    evidence: InputDomain, bounds: tuple[float, float], *, channels: int
) -> InputDomain:
    """The user's range, with the moments found where they fit into it."""
    given = natural_range(*bounds, channels=channels, source="--input_range")
    width = bounds[1] - bounds[0]
    inside = np.allclose(np.clip(evidence.mean, *bounds), evidence.mean)
    if inside and 0.05 * width < np.median(evidence.deviation) < 0.5 * width:
        return dataclasses.replace(
            evidence,
            minimum=given.minimum,
            maximum=given.maximum,
            source=given.source,
            bounds_follow=False,
        )
    _warn_of_contradiction(evidence, given, bounds)
    return given


def _warn_of_contradiction(
    evidence: InputDomain, given: InputDomain, bounds: tuple[float, float]
) -> None:
    """Tells the log where the model saw inputs of quite another scale."""
    if evidence.source == InputDomain.source or (
        evidence.quality < MIN_FIT_QUALITY
    ):
        return
    seen = float(np.median(evidence.deviation))
    ratio = seen / float(np.median(given.deviation))
    if not 1 / _CONTRADICTION < ratio < _CONTRADICTION:
        logging.warning(
            "--input_range=%g,%g: the model saw inputs of deviation %.3g (%s),"
            " which a range of %.3g times this width has",
            *bounds,
            seen,
            evidence.source,
            ratio,
        )


def _from_graph(graph: ir.Graph, port: ir.Port, layers) -> InputDomain:
    """The domain by what the graph does with an input first."""
    for layer in layers:
        if preprocessing.is_input(graph, port, layer.input):
            mean, deviation = layer.mean, np.sqrt(layer.variance)
            if len(mean) != preprocessing.num_channels(port):
                deviation = np.sqrt(layer.variance.mean() + mean.var())[None]
                mean = mean.mean(keepdims=True)
            return _from_moments(
                mean,
                deviation,
                image=is_image(port),
                source="BatchNormalization on the input",
                seen=True,
            )
    for node, affine in preprocessing.first_layers(graph, port):
        shape = graph.shape(affine.tensor)
        fit = domain_fit.fit(graph, node, layers=layers, input_shape=shape)
        if not affine.identity:
            return _through(fit, affine, port)
        if fit is not None:
            return _from_fit(fit, affine, port)
    return standard_normal(preprocessing.num_channels(port))


def _from_fit(
    fit: domain_fit.Fit, affine: preprocessing.Affine, port: ir.Port
) -> InputDomain:
    """The domain of a fit; of its deviation alone where the means are off."""
    usable = fit.quality >= MIN_FIT_QUALITY
    mean = affine.to_input(fit.mean)
    deviation = np.full_like(mean, fit.deviation)
    if fit.deviations is not None and not is_image(port):
        # Of an image, channels are alike, and neighbours are not independent.
        by_feature = affine.to_input(fit.deviations)
        if by_feature.max() > _UNLIKE * by_feature.min():
            deviation = by_feature
    domain = _from_moments(
        mean if usable else np.zeros_like(mean),
        deviation,
        image=usable and is_image(port),
        source=f"fitted to {fit.name}, R2 of the mean {fit.quality:.2f}",
        seen=usable,
    )
    return dataclasses.replace(domain, **_correlations(fit))


def _correlations(fit: domain_fit.Fit) -> dict[str, Any]:
    return {
        "neighbour_correlation": fit.neighbour_correlation,
        "channel_correlation": fit.channel_correlation,
        "quality": max(fit.quality, 0.0),
    }


def _through(
    fit: domain_fit.Fit | None, affine: preprocessing.Affine, port: ir.Port
) -> InputDomain:
    """Maps what a layer sees back through the preprocessing before it."""
    image = is_image(port)
    if image:
        known = _known_rescaling(affine)
        if known is not None:
            return natural_range(
                *known,
                channels=affine.num_channels,
                source="rescaling in the model",
            )
    scale, offset = affine.scale, affine.offset
    source = "normalization in the model"
    if fit is not None and fit.quality >= MIN_FIT_QUALITY:
        fitted = fit.mean if len(fit.mean) == len(scale) else fit.mean.mean()
        domain = _from_moments(
            affine.to_input((fitted - offset) / scale),
            affine.to_input(fit.deviation / np.abs(scale)),
            image=image,
            source=source,
            seen=True,
        )
        return dataclasses.replace(domain, **_correlations(fit))
    mean = affine.to_input(-offset / scale)
    deviation = affine.to_input(1 / np.abs(scale))
    if image and np.allclose(scale, 1.0):
        # A mean is subtracted; the deviation stays, and is that of the range
        # of pixels which has such a mean.
        widths = np.array([high for low, high in _COMMON_RANGES if low == 0])
        off = np.abs(np.mean(mean) / widths - NATURAL_MEAN)
        width = widths[np.argmin(off)]
        deviation = np.full_like(mean, NATURAL_DEVIATION * width)
    # What a model subtracts and divides by are moments of whole images.
    return _from_moments(
        mean, deviation, image=image, source=source, seen=False
    )


def _known_rescaling(
    affine: preprocessing.Affine,
) -> tuple[float, float] | None:
    """The pixels' range, if it becomes another range that is common."""
    for low, high in ((0.0, 255.0), (0.0, 1.0)):
        ends = np.array([low, high]) * affine.scale[:, None]
        ends = ends + affine.offset[:, None]
        for common in _COMMON_RANGES:
            if np.allclose(ends, common, atol=0.02 * np.ptp(common)):
                return low, high
    return None


def _from_moments(
    mean, deviation, *, image: bool, source: str, seen: bool
) -> InputDomain:
    """A domain with these moments; an image's bounds follow from them."""
    mean = np.asarray(mean, np.float32)
    deviation = np.asarray(deviation, np.float32)
    # A channel that never varied still needs a unit to be measured in.
    least = max(1e-3 * float(deviation.max()), float(np.finfo(np.float32).tiny))
    deviation = np.maximum(deviation, np.float32(least))
    if not image:
        return InputDomain(
            minimum=np.float32(-np.inf),
            maximum=np.float32(np.inf),
            mean=mean,
            deviation=deviation,
            source=source,
            moments_seen=seen,
        )
    common = _common_range(mean, deviation)
    low, high = common or _natural_bounds(mean, deviation)
    return InputDomain(
        minimum=np.asarray(low, np.float32),
        maximum=np.asarray(high, np.float32),
        mean=mean,
        deviation=deviation,
        source=source,
        moments_seen=seen,
        bounds_follow=common is None,
    )


def _natural_bounds(mean, deviation):
    """The range of which natural images have these moments."""
    width = deviation / np.float32(NATURAL_DEVIATION)
    low = mean - np.float32(NATURAL_MEAN) * width
    return low, low + width


def _common_range(mean, deviation) -> tuple[float, float] | None:
    """The common range whose natural moments these are, if one is close."""
    best = None
    for low, high in _COMMON_RANGES:
        width = high - low
        spread = NATURAL_DEVIATION * width
        off_mean = np.abs(mean.mean() - low - NATURAL_MEAN * width) / spread
        off_log = np.abs(np.log(np.median(deviation) / spread))
        if off_mean > _MEAN_TOLERANCE or off_log > _LOG_DEVIATION_TOLERANCE:
            continue
        score = off_mean / _MEAN_TOLERANCE + off_log / _LOG_DEVIATION_TOLERANCE
        if best is None or score < best[0]:
            best = score, low, high
    return best and best[1:]
