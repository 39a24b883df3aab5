"""Range estimators: batches of one tensor in, the range to quantize out.

Every observer streams: it keeps two numbers, or one histogram of fixed size,
however many samples it sees. `create` makes them by name.
"""

from __future__ import annotations

import abc
import math

import numpy as np

from dsg_tf.core import errors
from dsg_tf.quant import qtypes, uniform

# Bins of a histogram: 2048 to 4096 are in use, 8 to 16 for each 8-bit code.
NUM_BINS = 4096
# Candidates per end in each round of the search for least squared error.
_GRID = 16
# What is left of the ends in the first round, at the least.
_LEAST_CLIP = 0.05


class Observer(abc.ABC):
    """Estimates the range of one tensor.

    Args:
      tensor: its name, for errors.
    """

    def __init__(self, tensor: str):
        self.tensor = tensor
        self._num_samples = 0

    def update(self, values: np.ndarray) -> None:
        """Takes in a batch.

        Args:
          values: float (N, ...), N >= 1 samples.

        Raises:
          UserError: NaN or infinity in the values.
        """
        values = np.asarray(values)
        if not values.size:
            raise ValueError(f"{self.tensor}: got no values; expected some")
        rows = values.reshape(values.shape[0] if values.ndim else 1, -1)
        low, high = rows.min(axis=1), rows.max(axis=1)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            found = "NaN" if np.isnan(rows).any() else "infinity"
            raise errors.UserError(
                f"tensor {self.tensor!r}",
                got=found,
                expected="finite values in every sample",
                remedy="look at the model's weights and at the samples",
            )
        self._num_samples += rows.shape[0]
        self._update(rows, low.astype(np.float64), high.astype(np.float64))

    def range(self) -> qtypes.TensorRange:
        """The range so far, zero included.

        Raises:
          ValueError: nothing was observed.
        """
        if not self._num_samples:
            raise ValueError(f"{self.tensor}: got no samples; expected some")
        low, high = self._range()
        return qtypes.TensorRange(low, high).with_zero()

    @abc.abstractmethod
    def _update(
        self, rows: np.ndarray, low: np.ndarray, high: np.ndarray
    ) -> None:
        """Takes in (N, M) finite values with their least and greatest."""

    @abc.abstractmethod
    def _range(self) -> tuple[float, float]:
        """Lower and upper end."""


class MinMax(Observer):
    """The least and the greatest value of all."""

    def __init__(self, tensor: str):
        super().__init__(tensor)
        self._low, self._high = math.inf, -math.inf

    def _update(self, rows, low, high):
        self._low = min(self._low, float(low.min()))
        self._high = max(self._high, float(high.max()))

    def _range(self):
        return self._low, self._high


class MeanOfExtremes(Observer):
    """The mean over samples of each sample's least and greatest value.

    What ZeroQ's and DSG's code does, under the name of a moving average.
    """

    def __init__(self, tensor: str):
        super().__init__(tensor)
        self._low, self._high = 0.0, 0.0

    def _update(self, rows, low, high):
        self._low += float(low.sum())
        self._high += float(high.sum())

    def _range(self):
        return self._low / self._num_samples, self._high / self._num_samples


class Histogram(Observer):
    """Keeps a histogram whose bins are dyadic: [i 2^k, (i + 1) 2^k).

    When the values outgrow the bins, pairs of bins are merged and k grows.
    No count is ever split, so the histogram is the same for every order and
    batching of the samples. Exact zeros, many behind a ReLU and without error
    on every grid, are counted apart.
    """

    def __init__(self, tensor: str):
        super().__init__(tensor)
        self._low, self._high = math.inf, -math.inf
        self._zeros = 0
        self._exponent: int | None = None
        self._first = 0  # Index i of the first bin.
        self._counts = np.zeros(0, np.int64)

    def _update(self, rows, low, high):
        self._low = min(self._low, float(low.min()))
        self._high = max(self._high, float(high.max()))
        values = rows.reshape(-1)
        values = values[values != 0].astype(np.float64)
        self._zeros += rows.size - values.size
        if values.size:
            self._fit()
            self._count(values)

    def _fit(self) -> None:
        """Grows k and the bins so that zero and all values have a bin."""
        low, high = min(self._low, 0.0), max(self._high, 0.0)
        if self._exponent is None:
            # Too fine by at least one: the loop finds the finest that fits.
            finest = (high - low) / (2 * NUM_BINS)
            self._exponent = math.frexp(finest)[1] - 1
        while True:
            step = 2.0**self._exponent
            first = math.floor(low / step)
            last = math.floor(high / step)
            if last - first < NUM_BINS:
                break
            self._halve()
        counts = np.zeros(last - first + 1, np.int64)
        offset = self._first - first
        counts[offset : offset + self._counts.size] = self._counts
        self._first, self._counts = first, counts

    def _halve(self) -> None:
        """Merges pairs of bins."""
        self._exponent += 1
        if self._counts.size:
            # Pairs are (2i, 2i + 1): an odd first bin is alone in its pair.
            odd = self._first % 2
            padded = np.pad(self._counts, (odd, (odd + self._counts.size) % 2))
            self._counts = padded.reshape(-1, 2).sum(axis=1)
            self._first = (self._first - odd) // 2

    def _count(self, values: np.ndarray) -> None:
        bins = np.floor(values / 2.0**self._exponent).astype(np.int64)
        self._counts += np.bincount(
            bins - self._first, minlength=self._counts.size
        )

    def _edges(self) -> np.ndarray:
        """Edges of the bins, one more than bins."""
        indices = np.arange(self._counts.size + 1) + self._first
        return indices * 2.0 ** (self._exponent or 0)


class Percentile(Histogram):
    """The values that a share of all lies between.

    lower = quantile(1 - p / 100), upper = quantile(p / 100), to the width of
    one bin, outwards.

    Args:
      tensor: its name, for errors.
      percentile: p, in percent, above 50 and at most 100.
    """

    def __init__(self, tensor: str, percentile: float = 99.99):
        if not 50 < percentile <= 100:
            raise errors.UserError(
                "percentile",
                got=repr(percentile),
                expected="a number above 50 and at most 100",
            )
        super().__init__(tensor)
        self._percentile = percentile

    def _range(self):
        edges = self._edges()
        # Zeros join the bin that zero would fall into; there may be none.
        total = int(self._counts.sum()) + self._zeros
        outside = total * (1 - self._percentile / 100)
        below = np.cumsum(self._counts) + self._zeros * (edges[1:] > 0)
        above = np.cumsum(self._counts[::-1])[::-1] + self._zeros * (
            edges[:-1] <= 0
        )
        low, high = 0.0, 0.0
        inside = np.flatnonzero(below > outside)
        if inside.size:
            low = max(edges[inside[0]], self._low)
        inside = np.flatnonzero(above > outside)
        if inside.size:
            high = min(edges[inside[-1] + 1], self._high)
        return min(low, high), max(low, high)


class LeastSquares(Histogram):
    """The range whose grid has the least mean squared error.

    A grid search over both ends, then a finer one around the best, on the
    histogram's bin centres.

    Args:
      tensor: its name, for errors.
      bits: width of the codes.
      symmetric: whether the zero point is 0.
    """

    def __init__(self, tensor: str, bits: int = 8, symmetric: bool = False):
        super().__init__(tensor)
        self._spec = qtypes.QuantSpec(bits, symmetric)

    def _range(self):
        low, high = min(self._low, 0.0), max(self._high, 0.0)
        if not self._counts.size:
            return low, high
        best = (1.0, 1.0)
        reach = 1.0 - _LEAST_CLIP
        for _ in range(3):
            candidates = [
                (a, b)
                for a in _around(best[0], reach, fixed=low == 0)
                for b in _around(best[1], reach, fixed=high == 0)
            ]
            costs = [self.error(low * a, high * b) for a, b in candidates]
            best = candidates[int(np.argmin(costs))]
            reach *= 2 / _GRID
        return low * best[0], high * best[1]

    def error(self, low: float, high: float) -> float:
        """Sum of squared errors of the grid that covers [low, high]."""
        edges = self._edges()
        centres = (edges[:-1] + edges[1:]) / 2
        params = uniform.affine_params(
            qtypes.TensorRange(low, high),
            self._spec.bits,
            self._spec.symmetric,
        )
        errors_ = uniform.fake_quantize(centres, params) - centres
        return float(np.dot(self._counts, errors_**2))


_OBSERVERS = {
    "ema": MeanOfExtremes,
    "minmax": MinMax,
    "mse": LeastSquares,
    "percentile": Percentile,
}


def create(
    method: str,
    tensor: str,
    *,
    spec: qtypes.QuantSpec | None = None,
    percentile: float = 99.99,
) -> Observer:
    """Makes an observer by name.

    Args:
      method: `minmax`, `percentile`, `mse` or `ema`.
      tensor: name of the tensor, for errors.
      spec: the grid that the range is for; `mse` needs it. By default 8 bits,
        asymmetric.
      percentile: for `percentile`, in percent.

    Returns:
      A fresh observer.

    Raises:
      UserError: no such method.

    Examples:
      >>> observer = create("minmax", "image")
      >>> observer.update(np.array([[0.5, 2.0], [-1.0, 0.0]]))
      >>> observer.range()
      TensorRange(min=-1.0, max=2.0)
    """
    if method not in _OBSERVERS:
        raise errors.UserError(
            "--range_method",
            got=repr(method),
            expected="one of " + ", ".join(sorted(_OBSERVERS)),
        )
    spec = spec or qtypes.QuantSpec(8, symmetric=False)
    if method == "percentile":
        return Percentile(tensor, percentile)
    if method == "mse":
        return LeastSquares(tensor, spec.bits, spec.symmetric)
    return _OBSERVERS[method](tensor)


def _around(centre: float, reach: float, *, fixed: bool) -> np.ndarray:
    """Candidates for the share of an end that is kept, largest first."""
    if fixed:
        return np.ones(1)
    upper = min(1.0, centre + reach)
    return np.linspace(upper, max(_LEAST_CLIP, centre - reach), _GRID)
