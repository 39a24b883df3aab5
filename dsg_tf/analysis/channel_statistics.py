"""Statistics of tensors behind a BatchNorm, per channel, without samples.

A tensor whose BN was folded is taken as normal in each channel, with BN's own
mean beta and deviation |gamma|. This module follows it through activations,
poolings and sums: each tensor is a normal variable clipped to an interval, of
which the mean (for bias correction) and the interval that holds it (for
ranges) are known in closed form.

References:
  Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
  Correction", ICCV 2019, section 4.2.1 and appendix C (clipped normal).
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from dsg_tf.graph import ir, ops

_erf = np.vectorize(math.erf, otypes=[np.float64])

_KEEP_MOMENTS = ops.having(ops.Trait.KEEPS_MOMENTS)


@dataclasses.dataclass(frozen=True, eq=False)
class ClippedNormal:
    """A normal variable clipped to an interval, for each channel.

    Attributes:
      mean, deviation: of the normal variable, float64 (C,).
      low, high: the interval, float64 (C,), infinite where it has no end.
      least, most: what the variable is known to lie between, float64 (C,).
        Narrower than the interval where the normal variable stands for one of
        another shape, a sum for instance, that needs no clip to lie there.
    """

    mean: np.ndarray
    deviation: np.ndarray
    low: np.ndarray
    high: np.ndarray
    least: np.ndarray
    most: np.ndarray

    @classmethod
    def of(cls, moments: ir.Moments) -> ClippedNormal:
        """Not clipped at all."""
        infinite = np.full(len(moments.mean), np.inf)
        ends = (-infinite, infinite)
        return cls(moments.mean, moments.deviation, *ends, *ends)

    def clipped(
        self, low: np.ndarray | float, high: np.ndarray | float
    ) -> ClippedNormal:
        """Clipped to [low, high] as well, behind its own clip.

        An end that the variable never goes beyond clips nothing.
        """
        at_least = (self.least < low) | (self.least > high)
        at_most = (self.most > high) | (self.most < low)
        return dataclasses.replace(
            self,
            low=np.where(at_least, np.clip(self.low, low, high), self.low),
            high=np.where(at_most, np.clip(self.high, low, high), self.high),
            least=np.clip(self.least, low, high),
            most=np.clip(self.most, low, high),
        )

    def expectation(self) -> np.ndarray:
        """Mean of the clipped variable, float64 (C,).

        With a = (low - mean) / deviation, b likewise, phi and Phi the standard
        normal density and distribution: low Phi(a) + high (1 - Phi(b))
        + mean (Phi(b) - Phi(a)) + deviation (phi(a) - phi(b)).

        Examples:
          >>> moments = ir.Moments(np.zeros(1), np.ones(1))
          >>> relu = ClippedNormal.of(moments).clipped(0.0, np.inf)
          >>> relu.expectation().round(4).tolist()
          [0.3989]
        """
        return self._raw_moment(1)

    def variance(self) -> np.ndarray:
        """Variance of the clipped variable, float64 (C,)."""
        first = self._raw_moment(1)
        return np.maximum(self._raw_moment(2) - first**2, 0.0)

    def interval(self, deviations: float) -> tuple[np.ndarray, np.ndarray]:
        """mean -+ n deviations, as far as it goes: float64 (C,) each."""
        reach = deviations * self.deviation
        low, high = (
            np.clip(end, self.least, self.most)
            for end in (self.mean - reach, self.mean + reach)
        )
        return low, high

    def _raw_moment(self, order: int) -> np.ndarray:
        """E[x^order], order 1 or 2."""
        sigma = np.maximum(self.deviation, 1e-30)
        a, b = (self.low - self.mean) / sigma, (self.high - self.mean) / sigma
        below, above = _distribution(a), 1 - _distribution(b)
        inside = 1 - below - above
        density_a, density_b = _density(a), _density(b)
        ends = _times(below, self.low**order) + _times(above, self.high**order)
        if order == 1:
            middle = self.mean * inside + sigma * (density_a - density_b)
        else:
            middle = (
                (self.mean**2 + sigma**2) * inside
                + 2 * self.mean * sigma * (density_a - density_b)
                + sigma**2 * (_times(density_a, a) - _times(density_b, b))
            )
        return ends + middle


def find(graph: ir.Graph) -> dict[str, ClippedNormal]:
    """All tensors that BN says something of, by tensor.

    Sums of two are taken as sums of independent variables. Zero padding and
    borders are not counted.

    Args:
      graph: a frozen graph with `moments`, BN folded, channels last.
    """
    found = {t: ClippedNormal.of(m) for t, m in graph.moments.items()}
    for node in graph:
        if node.output not in found:
            made = _behind(graph, node, found)
            if made is not None:
                found[node.output] = made
    return found


def _behind(
    graph: ir.Graph, node: ir.Node, found: dict[str, ClippedNormal]
) -> ClippedNormal | None:
    """Statistics of a node's output, from those of its inputs."""
    known = [found[t] for t in node.inputs if t in found]
    if not known:
        return None
    first, channels = known[0], len(known[0].mean)
    shape = graph.shape(node.output)
    if not shape or node.inputs[0] not in found:
        return None
    if node.op == "Relu":
        return first.clipped(0.0, np.inf)
    if node.op == "Relu6":
        return first.clipped(0.0, 6.0)
    if node.op == "Minimum" and len(known) == 1:
        bound = graph.literal(node.inputs[1])
        if bound is None or bound.size not in (1, channels):
            return None
        return first.clipped(-np.inf, bound.astype(np.float64).reshape(-1))
    if node.op == "Mean" and _is_of_channels(graph, node):
        return None
    if node.op in _KEEP_MOMENTS and shape[-1] == channels:
        return first
    if node.op == "Reshape" and shape[-1] == channels:
        return first
    if node.op in ops.ADDITIONS and len(known) == 2:
        return _sum(*known)
    return None


def _is_of_channels(graph: ir.Graph, node: ir.Node) -> bool:
    """Whether a Mean is taken over the last axis too, or nobody knows."""
    axes, shape = graph.literal(node.inputs[1]), graph.shape(node.inputs[0])
    if axes is None or not shape:
        return True
    return bool(np.any(axes % len(shape) == len(shape) - 1))


def _sum(a: ClippedNormal, b: ClippedNormal) -> ClippedNormal | None:
    if len(a.mean) != len(b.mean):
        return None
    moments = ir.Moments(
        a.expectation() + b.expectation(),
        np.sqrt(a.variance() + b.variance()),
    )
    # What is above zero on both sides is above zero together; a clip would say
    # so too, but move the mean.
    return dataclasses.replace(
        ClippedNormal.of(moments),
        least=a.least + b.least,
        most=a.most + b.most,
    )


def _times(weight: np.ndarray, value: np.ndarray) -> np.ndarray:
    """A product in which nothing times infinity is nothing."""
    return np.where(weight > 0, weight * np.where(weight > 0, value, 0.0), 0.0)


def _distribution(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + _erf(x / math.sqrt(2)))


def _density(x: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)
