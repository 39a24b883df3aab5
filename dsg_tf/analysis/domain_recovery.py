"""Recovers what the model's inputs looked like when it was trained.

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
    input_domain,
    preprocessing,
)
from dsg_tf.graph import ir

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


# Whole numbers beyond this are not exact in float32.
_WHOLE_LIMIT = 2**24


def recover(
    graph: ir.Graph,
    name: str,
    *,
    layers: Sequence[bn_statistics.BatchNorm],
    user_range: tuple[float, float] | None = None,
) -> input_domain.InputDomain:
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
        return input_domain.natural_range(
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


def _indices(
    table: int, user_range: tuple[float, float] | None
) -> input_domain.InputDomain:
    """Whole numbers from 0 to the last row of a table, equally likely."""
    low, high = 0.0, table - 1.0
    if user_range is not None:
        low, high = max(low, user_range[0]), min(high, user_range[1])
    return input_domain.InputDomain(
        minimum=np.float32(low),
        maximum=np.float32(high),
        mean=np.array([(low + high) / 2], np.float32),
        deviation=np.array([max(high - low, 1.0) / 12**0.5], np.float32),
        integer=True,
        source=f"indices of a table of {table} rows",
        table=table,
    )


def _whole(
    evidence: input_domain.InputDomain, dtype
) -> input_domain.InputDomain:
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
    evidence: input_domain.InputDomain,
    bounds: tuple[float, float],
    *,
    channels: int,
) -> input_domain.InputDomain:
    """The user's range, with the moments found where they fit into it."""
    given = input_domain.natural_range(
        *bounds, channels=channels, source="--input_range"
    )
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
    evidence: input_domain.InputDomain,
    given: input_domain.InputDomain,
    bounds: tuple[float, float],
) -> None:
    """Tells the log where the model saw inputs of quite another scale."""
    if evidence.source == input_domain.InputDomain.source or (
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


def _from_graph(
    graph: ir.Graph, port: ir.Port, layers
) -> input_domain.InputDomain:
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
                image=input_domain.is_image(port),
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
    return input_domain.standard_normal(preprocessing.num_channels(port))


def _from_fit(
    fit: domain_fit.Fit, affine: preprocessing.Affine, port: ir.Port
) -> input_domain.InputDomain:
    """The domain of a fit; of its deviation alone where the means are off."""
    usable = fit.quality >= MIN_FIT_QUALITY
    mean = affine.to_input(fit.mean)
    deviation = np.full_like(mean, fit.deviation)
    if fit.deviations is not None and not input_domain.is_image(port):
        # Of an image, channels are alike, and neighbours are not independent.
        by_feature = affine.to_input(fit.deviations)
        if by_feature.max() > _UNLIKE * by_feature.min():
            deviation = by_feature
    domain = _from_moments(
        mean if usable else np.zeros_like(mean),
        deviation,
        image=usable and input_domain.is_image(port),
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
) -> input_domain.InputDomain:
    """Maps what a layer sees back through the preprocessing before it."""
    image = input_domain.is_image(port)
    if image:
        known = _known_rescaling(affine)
        if known is not None:
            return input_domain.natural_range(
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
        off = np.abs(np.mean(mean) / widths - input_domain.NATURAL_MEAN)
        width = widths[np.argmin(off)]
        deviation = np.full_like(mean, input_domain.NATURAL_DEVIATION * width)
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
) -> input_domain.InputDomain:
    """A domain with these moments; an image's bounds follow from them."""
    mean = np.asarray(mean, np.float32)
    deviation = np.asarray(deviation, np.float32)
    # A channel that never varied still needs a unit to be measured in.
    least = max(1e-3 * float(deviation.max()), float(np.finfo(np.float32).tiny))
    deviation = np.maximum(deviation, np.float32(least))
    if not image:
        return input_domain.InputDomain(
            minimum=np.float32(-np.inf),
            maximum=np.float32(np.inf),
            mean=mean,
            deviation=deviation,
            source=source,
            moments_seen=seen,
        )
    common = _common_range(mean, deviation)
    low, high = common or input_domain.natural_bounds(mean, deviation)
    return input_domain.InputDomain(
        minimum=np.asarray(low, np.float32),
        maximum=np.asarray(high, np.float32),
        mean=mean,
        deviation=deviation,
        source=source,
        moments_seen=seen,
        bounds_follow=common is None,
    )


def _common_range(mean, deviation) -> tuple[float, float] | None:
    """The common range whose natural moments these are, if one is close."""
    best = None
    for low, high in _COMMON_RANGES:
        width = high - low
        spread = input_domain.NATURAL_DEVIATION * width
        off_mean = (
            np.abs(mean.mean() - low - input_domain.NATURAL_MEAN * width)
            / spread
        )
        off_log = np.abs(np.log(np.median(deviation) / spread))
        if off_mean > _MEAN_TOLERANCE or off_log > _LOG_DEVIATION_TOLERANCE:
            continue
        score = off_mean / _MEAN_TOLERANCE + off_log / _LOG_DEVIATION_TOLERANCE
        if best is None or score < best[0]:
            best = score, low, high
    return best and best[1:]
