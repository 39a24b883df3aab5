"""How diverse samples are, in numbers: at the input of every BN layer.

Notation as in DSG: BN layer l has moving mean mu and deviation
sigma = sqrt(variance + epsilon); its input for sample i has mean m and
deviation s over its positions, for each of its C channels.

ZeroQ pulls every sample to mu and sigma, and so all samples become alike: m
and s of real images scatter (DSG, Figure 1), and lie beside the BN value in
many layers (Figure 2). What the figures show is measured here. Numbers of a
layer are medians over its channels, so that a few odd channels do not decide;
dead channels, which BN remembers as constant, do not count at all.

References:
  Zhang, Qin et al., "Diversifying Sample Generation for Accurate Data-Free
  Quantization" (DSG), CVPR 2021, section 3.1, Figures 1 and 2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from dsg_tf.analysis import bn_statistics
from dsg_tf.diversity import sample_moments
from dsg_tf.graph import ir

# The share of a real channel's range that has to be covered.
_COVERED = 0.99


@dataclasses.dataclass(frozen=True)
class LayerDiversity:
    """The diversity of samples at one BN layer; None where it is undefined.

    Attributes:
      layer: the BN layer's name.
      channels: how many it has.
      dead_channels: how many of them do not count.
      mean_dispersion: deviation of m over the samples, in sigma.
      deviation_dispersion: deviation of s over the samples, in sigma.
      mean_offset: |average of m - mu|, in sigma.
      deviation_offset: |average of s - sigma|, in sigma. BN's variance holds
        what differs between images too, so that s of real images is below.
      cosine: average cosine of two samples' features, -1..1; see
        `pairwise_cosine`.
      mean_dispersion_to_real: dispersion of m over that of the real samples.
      deviation_dispersion_to_real: likewise of s.
      mean_coverage: share of channels, 0..1, in which the range of m over the
        samples covers 99 % of the range over as many real samples.
      deviation_coverage: likewise of s.
    """

    layer: str
    channels: int
    dead_channels: int
    mean_dispersion: float | None
    deviation_dispersion: float | None
    mean_offset: float | None
    deviation_offset: float | None
    cosine: float | None
    mean_dispersion_to_real: float | None = None
    deviation_dispersion_to_real: float | None = None
    mean_coverage: float | None = None
    deviation_coverage: float | None = None


MEASURES = tuple(
    field.name
    for field in dataclasses.fields(LayerDiversity)
    if field.name not in ("layer", "channels", "dead_channels")
)


@dataclasses.dataclass(frozen=True)
class Diversity:
    """The diversity of a set of samples.

    Attributes:
      samples: how many there are.
      real_samples: how many real ones they are compared with; 0 for none.
      layers: the BN layers, in the order of the graph.
    """

    samples: int
    real_samples: int
    layers: tuple[LayerDiversity, ...]

    @property
    def median(self) -> dict[str, float | None]:
        """Median over the layers that have it, by measure."""
        return {
            name: _median(getattr(layer, name) for layer in self.layers)
            for name in MEASURES
        }

    def to_dict(self) -> dict:
        """Ready for JSON: `samples`, `real_samples`, `median`, `layers`.

        Examples:
          >>> Diversity(2, 0, ()).to_dict()["median"]["cosine"] is None
          True
        """
        return {
            "samples": self.samples,
            "real_samples": self.real_samples,
            "median": self.median,
            "layers": [dataclasses.asdict(layer) for layer in self.layers],
        }


def in_one_line(found: Diversity) -> str:
    """A diversity for people.

    Examples:
      >>> row = LayerDiversity("bn", 4, 0, 0.5, None, 0.1, None, 0.25)
      >>> print(in_one_line(Diversity(8, 0, (row,))))
      diversity of 8 samples: means scatter by 0.50 sigma; cosine of two \
samples 0.25 (medians of 1 BatchNorm layers)
    """
    return (
        f"diversity of {found.samples} samples: {in_words(found.median)}"
        f" (medians of {len(found.layers)} BatchNorm layers)"
    )


def in_words(median: Mapping[str, float | None]) -> str:
    """The measures that are defined, for people.

    Examples:
      >>> in_words({"mean_dispersion": 0.5, "mean_coverage": 0.25})
      'means scatter by 0.50 sigma; 25 % of channels cover the real means'
    """

    parts = []
    for name in ("mean", "deviation"):
        scatter = median.get(f"{name}_dispersion")
        if scatter is not None:
            ratio = median.get(f"{name}_dispersion_to_real")
            beside = (
                "" if ratio is None else f" ({100 * ratio:.0f} % of real ones)"
            )
            parts.append(f"{name}s scatter by {scatter:.2f} sigma{beside}")
    cosine = median.get("cosine")
    if cosine is not None:
        parts.append(f"cosine of two samples {cosine:.2f}")
    for name in ("mean", "deviation"):
        share = median.get(f"{name}_coverage")
        if share is not None:
            parts.append(
                f"{100 * share:.0f} % of channels cover the real {name}s"
            )
    return "; ".join(parts) or "not defined for one sample"


def of_graph(
    graph: ir.Graph,
    samples: Mapping[str, np.ndarray],
    *,
    real: Mapping[str, np.ndarray] | None = None,
    layers: Sequence[bn_statistics.BatchNorm] | None = None,
) -> Diversity:
    """The diversity of samples at the BN layers of any frozen graph.

    Args:
      graph: the graph, BN intact.
      samples: (N, ...) by input name, model input units.
      real: likewise real samples, of any number, to compare with.
      layers: the BN layers; by default all of the graph.

    Returns:
      The diversity; without BN it has no layers.

    Raises:
      ValueError, errors.UserError: as `sample_moments.of_graph`.
    """
    layers = bn_statistics.find(graph) if layers is None else layers
    return measure(
        sample_moments.of_graph(graph, samples, layers=layers),
        ()
        if real is None
        else sample_moments.of_graph(graph, real, layers=layers),
    )


def measure(
    own: Sequence[sample_moments.SampleMoments],
    real: Sequence[sample_moments.SampleMoments] = (),
) -> Diversity:
    """The diversity of samples, beside that of real ones where there are some.

    Args:
      own: the samples' moments.
      real: those of real samples, at the same layers; of any number. Ranges
        grow with the number, so that they are compared over as many samples of
        each, the first ones.

    Raises:
      ValueError: other layers in `real` than in `own`.

    Examples:
      >>> layer = bn_statistics.BatchNorm(
      ...     name="bn", input="x:0", output="y:0", channel_axis=1,
      ...     mean=np.zeros(1, np.float32), variance=np.ones(1, np.float32),
      ...     epsilon=0.0, gamma=np.ones(1, np.float32),
      ...     beta=np.zeros(1, np.float32), producer="MatMul",
      ... )
      >>> own, real = (
      ...     sample_moments.SampleMoments(layer, np.array(m), None)
      ...     for m in ([[0.0], [1.0], [2.0]], [[-2.0], [0.0], [2.0]])
      ... )
      >>> found = measure([own], [real]).median
      >>> found["mean_dispersion"], found["mean_dispersion_to_real"]
      (1.0, 0.5)
      >>> found["mean_coverage"], found["deviation_dispersion"]
      (0.0, None)
    """
    names = [[x.layer.name for x in side] for side in (own, real)]
    if real and names[0] != names[1]:
        raise ValueError(f"layers of real: got {names[1]}; expected {names[0]}")
    others = real or [None] * len(own)
    return Diversity(
        samples=len(own[0].mean) if own else 0,
        real_samples=len(real[0].mean) if real else 0,
        layers=tuple(
            _measure_layer(x, y) for x, y in zip(own, others, strict=True)
        ),
    )


def dispersion(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Deviation over the samples, sqrt(sum_i (x_i - x)^2 / (N - 1)) / scale.

    Args:
      values: m or s, float (N, C).
      scale: its unit, float (C,).

    Returns:
      float64 (C,); NaN for one sample, which scatters by nothing that is known.

    Examples:
      >>> dispersion(np.array([[0.0], [2.0], [4.0]]), np.array([2.0])).tolist()
      [1.0]
    """
    if len(values) < 2:
        return np.full(np.shape(values)[1], np.nan)
    return np.std(values, axis=0, ddof=1, dtype=np.float64) / scale


def offset(
    values: np.ndarray, target: np.ndarray, scale: np.ndarray
) -> np.ndarray:
    """|average over samples - target| / scale, float64 (C,).

    Args:
      values: m or s, float (N, C).
      target: mu or sigma, float (C,).
      scale: the unit, float (C,).

    Examples:
      >>> offset(np.array([[1.0], [3.0]]), np.array([6.0]), np.array([2.0]))
      array([2.])
    """
    return np.abs(np.mean(values, axis=0, dtype=np.float64) - target) / scale


def pairwise_cosine(features: np.ndarray) -> float | None:
    """Average cosine similarity of two different samples' features.

    The mean over i != j of <f_i, f_j> / (|f_i| |f_j|): 1 where all samples
    point one way, near 0 where they are as unlike as independent ones. From a
    layer, f = (m - mu) / sigma is taken: features pooled over positions, as is
    usual, and normalised by BN. BN's mean is the mean of the training data; the
    set's own mean would not do as the centre, for around it the average is
    about -1 / (N - 1) however alike samples are.

    Args:
      features: float (N, C).

    Returns:
      -1..1; None with fewer than two features that are not zero.

    Examples:
      >>> pairwise_cosine(np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]))
      0.3333333333333333
    """
    features = np.asarray(features, np.float64)
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    units = (features / np.where(norms > 0, norms, 1.0))[norms[:, 0] > 0]
    count = len(units)
    if count < 2:
        return None
    # |sum u|^2 is the sum of all cosines, those of a sample with itself too.
    total = float(np.sum(np.square(np.sum(units, axis=0))))
    return (total - count) / (count * (count - 1))


def covered(values: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Length of the overlap of both ranges over that of the real one.

    Args:
      values: m or s, float (N, C).
      real: those of real samples, float (M, C).

    Returns:
      float64 (C,), 0..1; NaN where the real range is a point.

    Examples:
      >>> covered(np.array([[1.0], [9.0]]), np.array([[0.0], [4.0]])).tolist()
      [0.75]
    """
    low, high = np.min(real, axis=0), np.max(real, axis=0)
    overlap = np.minimum(np.max(values, axis=0), high) - np.maximum(
        np.min(values, axis=0), low
    )
    return _divide(np.maximum(overlap, 0.0), high - low)


def _measure_layer(
    own: sample_moments.SampleMoments,
    real: sample_moments.SampleMoments | None,
) -> LayerDiversity:
    layer, alive = own.layer, own.alive
    mu = layer.mean.astype(np.float64)[alive]
    sigma = own.sigma[alive]
    mean = own.mean[:, alive]
    found: dict[str, float | None] = {
        "mean_dispersion": _median(dispersion(mean, sigma)),
        "deviation_dispersion": None,
        "mean_offset": _median(offset(mean, mu, sigma)),
        "deviation_offset": None,
        "cosine": pairwise_cosine((mean - mu) / sigma),
    }
    if own.deviation is not None:
        s = own.deviation[:, alive]
        found["deviation_dispersion"] = _median(dispersion(s, sigma))
        found["deviation_offset"] = _median(offset(s, sigma, sigma))
    for name in ("mean", "deviation"):
        values, others = getattr(own, name), getattr(real, name, None)
        if values is not None and others is not None:
            found |= _against_real(name, values[:, alive], others[:, alive])
    return LayerDiversity(
        layer=layer.name,
        channels=layer.num_channels,
        dead_channels=int(np.sum(~alive)),
        **found,
    )


def _against_real(
    name: str, values: np.ndarray, real: np.ndarray
) -> dict[str, float | None]:
    """Two measures of `LayerDiversity`, float (N, C) and (M, C)."""
    count = min(len(values), len(real))
    ones = np.ones(values.shape[1])
    shares = covered(values[:count], real[:count])
    known = shares[np.isfinite(shares)]
    ratio = _divide(dispersion(values, ones), dispersion(real, ones))
    return {
        f"{name}_dispersion_to_real": _median(ratio),
        f"{name}_coverage": float(np.mean(known >= _COVERED))
        if len(known)
        else None,
    }


def _divide(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """left / right; NaN, as unknown, where right is zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(right > 0, left / right, np.nan)


def _median(values: Iterable[float | None]) -> float | None:
    """Median of what is known: neither None nor NaN; None where nothing is."""
    known = [v for v in values if v is not None and np.isfinite(v)]
    return float(np.median(known)) if known else None
