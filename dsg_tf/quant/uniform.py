"""Uniform affine quantization, in NumPy: real = scale * (q - zero_point).

Rounding is half to even (`np.rint`), on float64 quotients: what LiteRT
Quantizer does to weights and biases. The interpreter's QUANTIZE rounds half
away from zero and its kernels round products in fixed point, so that codes
of *activations* may differ by one from those computed here, at ties only.

References:
  Jacob et al., "Quantization and Training of Neural Networks for Efficient
  Integer-Arithmetic-Only Inference", CVPR 2018, section 2.1.
"""

from __future__ import annotations

import numpy as np

from dsg_tf.quant import qtypes

# Narrower scales are raised to this: a tensor that was zero in every sample
# still gets a grid, and the product of two such scales is a normal float32.
# 2^-33 = 1.2e-10 also stays above the widths that LiteRT Quantizer raises by
# itself (1e-9 / 127 for weights), so that what is asked for is what it writes.
MIN_SCALE = 2.0**-33


def affine_params(
    value_range: qtypes.TensorRange, bits: int, symmetric: bool
) -> qtypes.QuantParams:
    """Scale and zero point whose codes cover a range.

    Asymmetric: scale = (max - min) / (qmax - qmin), zero_point =
    rint(qmin - min / scale). Symmetric: scale = max(|min|, |max|) / qmax.

    Args:
      value_range: the range; it must hold zero (`TensorRange.with_zero`).
      bits: width of the codes.
      symmetric: whether the zero point is 0.

    Returns:
      One scale and zero point.

    Raises:
      ValueError: the range does not hold zero, or is too wide for float32.

    Examples:
      >>> p = affine_params(qtypes.TensorRange(0.0, 6.0), 8, symmetric=False)
      >>> float(p.scale[0]), int(p.zero_point[0])
      (0.0235294122248888, -128)

    References:
      Jacob et al., CVPR 2018, section 3.
    """
    low, high = value_range.min, value_range.max
    if not low <= 0 <= high:
        raise ValueError(
            f"range: got [{low}, {high}]; expected one that holds zero"
        )
    spec = qtypes.QuantSpec(bits, symmetric)
    if symmetric:
        # Divided first: 2 * max would overflow where max alone does not.
        scale = _float32_scale(max(-low, high) / spec.qmax)
        return qtypes.QuantParams(
            scale, np.zeros(1, np.int64), spec.qmin, spec.qmax
        )
    steps = spec.qmax - spec.qmin
    scale = _float32_scale(high / steps - low / steps)
    zero_point = np.rint(spec.qmin - low / scale.astype(np.float64))
    zero_point = np.clip(zero_point, spec.qmin, spec.qmax)
    return qtypes.QuantParams(scale, zero_point, spec.qmin, spec.qmax)


def symmetric_params(
    bound: np.ndarray, bits: int, axis: int | None = None
) -> qtypes.QuantParams:
    """Symmetric scales of given bounds: scale = bound / qmax, zero point 0.

    Args:
      bound: the largest absolute value to represent, (n,) or scalar.
      bits: width of the codes.
      axis: the channels' axis, for n scales; None for one.

    Returns:
      n scales with zero point 0.

    Examples:
      >>> symmetric_params([127.0, 12.7], 8, axis=0).scale.tolist()
      [1.0, 0.10000000149011612]
    """
    spec = qtypes.QuantSpec(bits, symmetric=True)
    scale = _float32_scale(np.atleast_1d(np.float64(bound)) / spec.qmax)
    zero = np.zeros(scale.shape, np.int64)
    return qtypes.QuantParams(scale, zero, spec.qmin, spec.qmax, axis)


def quantize(values: np.ndarray, params: qtypes.QuantParams) -> np.ndarray:
    """Codes of real values: clip(rint(values / scale) + zero_point).

    Args:
      values: float, any shape (with `params.axis` among its axes).
      params: the grid.

    Returns:
      int32, same shape, within [qmin, qmax].

    Raises:
      ValueError: the values hold NaN.

    Examples:
      >>> grid = symmetric_params(7.0, 4)
      >>> quantize(np.array([-9.0, 0.5, 1.5, 7.0]), grid).tolist()
      [-7, 0, 2, 7]
    """
    values = np.asarray(values)
    if np.isnan(values).any():
        raise ValueError("values to quantize: got NaN; expected numbers")
    scale, zero_point = _broadcast(params, values.ndim)
    codes = np.rint(values / scale) + zero_point
    return np.clip(codes, params.qmin, params.qmax).astype(np.int32)


def dequantize(codes: np.ndarray, params: qtypes.QuantParams) -> np.ndarray:
    """Real values of codes: scale * (codes - zero_point).

    Args:
      codes: integers, any shape (with `params.axis` among its axes).
      params: the grid.

    Returns:
      float64, same shape.
    """
    codes = np.asarray(codes)
    scale, zero_point = _broadcast(params, codes.ndim)
    # int64 first: uint8 codes would wrap below zero.
    return scale * (codes.astype(np.int64) - zero_point)


def fake_quantize(values: np.ndarray, params: qtypes.QuantParams) -> np.ndarray:
    """Values on the grid nearest to real values, float64, same shape."""
    return dequantize(quantize(values, params), params)


def _float32_scale(scale) -> np.ndarray:
    """Scales of at least MIN_SCALE, as the float32 that files hold."""
    # A scale beyond float32 becomes inf, which QuantParams refuses.
    with np.errstate(over="ignore"):
        return np.maximum(np.atleast_1d(scale), MIN_SCALE).astype(np.float32)


def _broadcast(
    params: qtypes.QuantParams, rank: int
) -> tuple[np.ndarray, np.ndarray]:
    """Scale (float64) and zero point (int64), shaped against a tensor."""
    if params.axis is None:
        shape: tuple[int, ...] = ()
    else:
        if not 0 <= params.axis < rank:
            raise ValueError(
                f"axis: got {params.axis}; expected one of a rank-{rank} tensor"
            )
        shape = tuple(-1 if i == params.axis else 1 for i in range(rank))
    return (
        params.scale.astype(np.float64).reshape(shape),
        params.zero_point.reshape(shape),
    )
