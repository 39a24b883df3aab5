"""Weights that are already on a grid, and how to find them in a .tflite.

A technique that chooses grids or integers itself (for instance AdaRound) works
on the TensorFlow graph; the converter then fuses, renames and transposes
weights but keeps their values. Therefore weights are matched by value, with one
row per output channel: in this form, all kernel layouts of TensorFlow and
TFLite are the same matrix.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from dsg_tf.quant import qtypes, uniform

# Float32 multiples of a float32 scale are within 2^-17 steps of their integers.
# Values further off than this were not rounded to the grid.
_ON_GRID = 2.0**-10


def rows(values: np.ndarray, axis: int) -> np.ndarray:
    """Reshapes weights to one row per output channel.

    Args:
      values: weights in any layout.
      axis: the output channels' axis.

    Returns:
      (channels, n), the other axes in their order.
    """
    return np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)


@dataclasses.dataclass(frozen=True, eq=False)
class WeightGrid:
    """Weights that are already on a grid.

    Attributes:
      values: float32 (channels, ...), on the grid, output channels first; the
        other axes are height, width, input channel, as far as they exist.
      params: the grid: axis 0, or None for one scale; symmetric, at most 8
        bits.
      name: the layer, for reports.

    Raises:
      ValueError: the values are not on the grid, or TFLite has no such grid.

    Examples:
      >>> kernel = np.float32([[0.5, -0.5], [0.0, 1.5]])  # (inputs, outputs)
      >>> params = qtypes.QuantParams([0.5, 0.5], [0, 0], -7, 7, axis=0)
      >>> grid = WeightGrid(kernel.T, params, name="dense")
      >>> grid.matches(kernel, axis=1)
      True
    """

    values: np.ndarray
    params: qtypes.QuantParams
    name: str = ""

    def __post_init__(self):
        params, shape = self.params, np.shape(self.values)
        fits = params.axis is None or (
            params.axis == 0 and params.scale.size == shape[0]
        )
        if not fits:
            raise ValueError(
                f"grid of {self.name!r}: got {params.scale.size} scales on axis"
                f" {params.axis} for weights {shape}; expected one scale for"
                " each of the first axis, or one without an axis"
            )
        if params.zero_point.any() or params.qmax > 127 or params.qmin < -127:
            raise ValueError(
                f"grid of {self.name!r}: got codes {params.qmin}.."
                f"{params.qmax}, zero points up to"
                f" {np.abs(params.zero_point).max()}; expected zero points 0"
                " and at most -127..127"
            )
        scale = params.scale.astype(np.float64)[:, np.newaxis]
        off = np.abs(self.rows - uniform.fake_quantize(self.rows, params))
        if np.any(off > _ON_GRID * scale):
            raise ValueError(
                f"weights of {self.name!r}: got values up to"
                f" {(off / scale).max():.3g} steps off the grid; expected"
                " values on it"
            )

    @functools.cached_property
    def rows(self) -> np.ndarray:
        """(channels, n), float32."""
        return rows(np.asarray(self.values, np.float32), 0)

    def matches(self, values: np.ndarray, axis: int) -> bool:
        """Whether a file's weights are these, value by value.

        Only values and the number of channels are compared, not the operation:
        the converter turns some grouped convolutions into depthwise ones.

        Args:
          values: weights in TFLite's layout.
          axis: their output channels' axis.
        """
        own = self.rows
        return (
            own.size == values.size
            and own.shape[0] == values.shape[axis]
            and np.array_equal(own, rows(values, axis))
        )

    def on_axis(self, axis: int) -> qtypes.QuantParams:
        """The grid with its channels on `axis`; unchanged if per-tensor."""
        if self.params.axis is None:
            return self.params
        return dataclasses.replace(self.params, axis=axis)
