"""Scales of weights, one a row or one for all, from the weights alone.

Rows are output channels. `minmax` lets the largest absolute value have the
highest code. `mse` clips: it searches the bound whose grid has the least
squared error, which pays below 8 bits, where a lone large weight would cost
all others their resolution.

References:
  Nagel et al., "A White Paper on Neural Network Quantization", 2021, section
  3.1 (quantization range setting).
"""

from __future__ import annotations

import numpy as np

from dsg_tf.quant import qtypes, uniform

METHODS = ("minmax", "mse")

# Share of the largest value at which weights are clipped, searched by `mse`.
_CLIPS = np.linspace(1.0, 0.3, 71)


def choose(
    rows: np.ndarray,
    bits: int,
    *,
    granularity: qtypes.Granularity = qtypes.Granularity.CHANNEL,
    method: str = "minmax",
) -> qtypes.QuantParams:
    """The symmetric grid of weights.

    Args:
      rows: float (O, K), a row for each output channel.
      bits: width of the codes, 2 to 8.
      granularity: a scale for each row, or one for all.
      method: `minmax` or `mse`.

    Returns:
      Scales (O,) along axis 0, or one without an axis; zero points 0.

    Raises:
      ValueError: no such method.

    Examples:
      >>> rows = np.array([[0.5, -7.0], [0.1, 1.4]])
      >>> [round(float(s), 3) for s in choose(rows, 4).scale]
      [1.0, 0.2]
    """
    if method not in METHODS:
        raise ValueError(
            f"method: got {method!r}; expected one of {', '.join(METHODS)}"
        )
    per_row = granularity is qtypes.Granularity.CHANNEL
    parts = rows if per_row else rows.reshape(1, -1)
    bound = np.abs(parts).max(axis=1, initial=0.0).astype(np.float64)
    if method == "mse":
        bound = _clipped(parts, bound, bits)
    return uniform.symmetric_params(bound, bits, 0 if per_row else None)


def _clipped(rows: np.ndarray, bound: np.ndarray, bits: int) -> np.ndarray:
    """Per row, the bound whose grid has the least squared error, (n,)."""
    best, least = bound, np.full(bound.shape, np.inf)
    for clip in _CLIPS:
        params = uniform.symmetric_params(bound * clip, bits, axis=0)
        error = (uniform.fake_quantize(rows, params) - rows) ** 2
        total = error.sum(axis=1)
        best = np.where(total < least, bound * clip, best)
        least = np.minimum(total, least)
    return best
