"""Uniform quantization against plain Python integers and fractions."""

from __future__ import annotations

import fractions

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from dsg_tf.quant import qtypes, uniform

_FINITE = strategies.floats(
    -1e6, 1e6, allow_nan=False, allow_infinity=False, width=32
)
_SPECS = strategies.builds(
    qtypes.QuantSpec, strategies.integers(2, 16), strategies.booleans()
)


def _oracle(value: float, params: qtypes.QuantParams) -> int:
    """clip(round_half_even(value / scale) + zero point), in exact fractions.

    The library divides in float64 first. A quotient that is not a tie differs
    from one by more than 2^-52 relative, unless scale and value conspire; the
    callers keep quotients below 2^20, so that ties alone could matter, and
    for ties the float64 quotient is exact.
    """
    quotient = fractions.Fraction(float(value)) / fractions.Fraction(
        float(params.scale[0])
    )
    code = round(quotient) + int(params.zero_point[0])
    return min(max(code, params.qmin), params.qmax)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_every_code_survives_the_way_there_and_back(bits, symmetric):
    params = uniform.affine_params(
        qtypes.TensorRange(-0.7, 1.9), bits, symmetric
    )
    codes = np.arange(params.qmin, params.qmax + 1)
    again = uniform.quantize(uniform.dequantize(codes, params), params)
    np.testing.assert_array_equal(again, codes)
    assert codes.size == 2**bits - symmetric


@pytest.mark.parametrize("zero_point", [-8, -3, 0, 7])
def test_all_4_bit_codes_agree_with_plain_integers(zero_point):
    # Sixteenths of a step, past both ends: ties, zero and clipping are in it.
    params = qtypes.QuantParams([0.25], [zero_point], -8, 7)
    values = np.arange(-24 * 16, 24 * 16 + 1) / 16 * 0.25
    expected = [_oracle(value, params) for value in values]
    np.testing.assert_array_equal(uniform.quantize(values, params), expected)
    real = [0.25 * (code - zero_point) for code in expected]
    np.testing.assert_array_equal(uniform.fake_quantize(values, params), real)


@hypothesis.given(
    strategies.lists(_FINITE, min_size=1, max_size=8), _FINITE, _FINITE, _SPECS
)
def test_codes_agree_with_exact_fractions(values, one, other, spec):
    low, high = sorted((one, other))
    params = uniform.affine_params(
        qtypes.TensorRange(low, high).with_zero(), spec.bits, spec.symmetric
    )
    values = np.clip(values, *(100 * np.array([-1, 1]) * (abs(low) + high)))
    codes = uniform.quantize(values, params)
    for value, code in zip(values, codes, strict=True):
        exact = fractions.Fraction(float(value)) / fractions.Fraction(
            float(params.scale[0])
        )
        # float64 rounds the quotient: only within 2^-30 of a tie may it err.
        if abs(abs(exact - round(exact)) - fractions.Fraction(1, 2)) > 2**-30:
            assert code == _oracle(value, params)
    assert codes.min() >= params.qmin
    assert codes.max() <= params.qmax


@hypothesis.given(_FINITE, _FINITE, _SPECS)
def test_the_grid_reaches_both_ends_and_has_zero(one, other, spec):
    low, high = sorted((one, other))
    bounds = qtypes.TensorRange(low, high).with_zero()
    params = uniform.affine_params(bounds, spec.bits, spec.symmetric)
    scale = float(params.scale[0])
    # Rounding the zero point moves both ends by half a step at most; rounding
    # the scale to float32 moves them by 2^-24 relative.
    slack = scale / 2 + 2.0**-22 * max(-bounds.min, bounds.max)
    ends = uniform.dequantize(np.array([params.qmin, params.qmax]), params)
    assert ends[0] <= bounds.min + slack
    assert ends[1] >= bounds.max - slack
    assert uniform.fake_quantize(np.zeros(1), params)[0] == 0


@hypothesis.given(_FINITE, _FINITE, _SPECS)
def test_values_in_range_move_by_half_a_step_at_most(one, other, spec):
    low, high = sorted((one, other))
    bounds = qtypes.TensorRange(low, high).with_zero()
    params = uniform.affine_params(bounds, spec.bits, spec.symmetric)
    values = np.linspace(bounds.min, bounds.max, 101)
    error = np.abs(uniform.fake_quantize(values, params) - values)
    assert np.isfinite(error).all()
    # Half a step of rounding, and half of the zero point's at the ends.
    scale = float(params.scale[0])
    assert (
        error.max() <= scale * (1 + 2.0**-20) + 2.0**-22 * np.abs(values).max()
    )
    inner = np.abs(values) < min(-bounds.min, bounds.max) - scale
    if inner.any():
        assert error[inner].max() <= scale / 2 * (1 + 2.0**-20)


def test_each_channel_has_its_own_scale():
    params = uniform.symmetric_params([1.27, 12.7], 8, axis=1)
    values = np.array([[0.5, 0.5], [-2.0, -2.0]])
    np.testing.assert_array_equal(
        uniform.quantize(values, params), [[50, 5], [-127, -20]]
    )


def test_uint8_codes_below_the_zero_point_do_not_wrap():
    params = qtypes.QuantParams([0.5], [128], 0, 255)
    codes = np.array([0, 128, 255], np.uint8)
    np.testing.assert_array_equal(
        uniform.dequantize(codes, params), [-64.0, 0.0, 63.5]
    )


def test_infinity_clips_and_nan_is_refused():
    params = uniform.symmetric_params(1.0, 8)
    codes = uniform.quantize(np.array([np.inf, -np.inf]), params)
    np.testing.assert_array_equal(codes, [127, -127])
    with pytest.raises(ValueError, match="NaN"):
        uniform.quantize(np.array([0.0, np.nan]), params)


def test_a_tensor_that_is_always_zero_gets_a_grid():
    params = uniform.affine_params(qtypes.TensorRange(0, 0), 8, symmetric=False)
    assert params.scale[0] == np.float32(uniform.MIN_SCALE)


@pytest.mark.parametrize("bounds", [(0.1, 1.0), (-1.0, -0.1)])
def test_a_range_without_zero_is_refused(bounds):
    with pytest.raises(ValueError, match="holds zero"):
        uniform.affine_params(qtypes.TensorRange(*bounds), 8, symmetric=False)


def test_a_scale_beyond_float32_is_refused():
    with pytest.raises(ValueError, match="scale"):
        uniform.symmetric_params(1e300, 8)


def test_an_axis_that_the_tensor_lacks_is_refused():
    params = uniform.symmetric_params([1.0, 1.0], 8, axis=2)
    with pytest.raises(ValueError, match="axis"):
        uniform.quantize(np.zeros((2, 2)), params)
