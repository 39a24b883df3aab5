"""Scales of weights: the largest value, or the least squared error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsg_tf.quant import qtypes, weight_scales

_TENSOR = qtypes.Granularity.TENSOR


def _rows(outputs=5, count=200, seed=0):
    rng = np.random.default_rng(seed)
    # Heavy tails: where clipping pays.
    return rng.standard_t(2.5, size=(outputs, count)).astype(np.float32)


def _rounded(rows, scale, bits):
    """Symmetric rounding to nearest, number by number."""
    top = 2 ** (bits - 1) - 1
    scale = np.asarray(scale, np.float64)[:, None]
    return np.clip(np.rint(rows.astype(np.float64) / scale), -top, top) * scale


def _error(rows, scale, bits):
    return ((_rounded(rows, scale, bits) - rows) ** 2).sum(axis=1)


class TestMinmax:
    @pytest.mark.parametrize("bits", range(2, 9))
    def test_the_largest_weight_has_the_highest_code(self, bits):
        rows = _rows()
        params = weight_scales.choose(rows, bits)
        top = 2 ** (bits - 1) - 1
        expected = np.abs(rows).max(axis=1).astype(np.float64) / top
        np.testing.assert_array_equal(params.scale, np.float32(expected))
        assert (params.qmin, params.qmax, params.axis) == (-top, top, 0)
        assert not params.zero_point.any()

    def test_one_scale_serves_all_rows(self):
        params = weight_scales.choose(_rows(), 4, granularity=_TENSOR)
        expected = np.abs(_rows()).max().astype(np.float64) / 7
        np.testing.assert_array_equal(params.scale, np.float32([expected]))
        assert params.axis is None

    def test_rows_of_zeros_have_a_scale(self):
        for method in weight_scales.METHODS:
            params = weight_scales.choose(np.zeros((2, 3)), 4, method=method)
            assert np.isfinite(params.scale).all()
            assert (params.scale > 0).all()


class TestMse:
    @pytest.mark.parametrize("bits", [2, 3, 4, 8])
    @pytest.mark.parametrize("granularity", list(qtypes.Granularity))
    def test_no_bound_that_is_searched_has_a_smaller_error(
        self, bits, granularity
    ):
        """Every share of the largest value from 100 % to 30 %, by 1 %."""
        rows = _rows()
        params = weight_scales.choose(
            rows, bits, granularity=granularity, method="mse"
        )
        parts = rows if params.axis == 0 else rows.reshape(1, -1)
        assert len(params.scale) == len(parts)
        largest = np.abs(parts).max(axis=1).astype(np.float64)
        found = _error(parts, params.scale, bits)
        assert np.isfinite(found).all()
        for share in np.arange(30, 101) / 100:
            scale = np.float32(largest * share / (2 ** (bits - 1) - 1))
            # Bounds that are half a rounding apart have errors as near.
            assert (found <= _error(parts, scale, bits) * (1 + 1e-5)).all()

    def test_a_lone_large_weight_is_clipped(self):
        rows = np.append(np.linspace(-1, 1, 400), 3.0)[np.newaxis]
        plain = weight_scales.choose(rows, 3)
        clipped = weight_scales.choose(rows, 3, method="mse")
        assert clipped.scale[0] < plain.scale[0]
        assert _error(rows, clipped.scale, 3) < _error(rows, plain.scale, 3)

    def test_weights_on_the_grid_stay_there(self):
        rows = np.float64([[-7, 3, 1, 0], [0.5, 3.5, 0, -1]])
        params = weight_scales.choose(rows, 4, method="mse")
        np.testing.assert_array_equal(params.scale, [1.0, 0.5])

    @given(st.integers(0, 2**32 - 1), st.integers(2, 8))
    @settings(max_examples=25, deadline=None)
    def test_it_is_never_worse_than_the_largest_value(self, seed, bits):
        rows = _rows(2, 20, seed)
        scales = [
            weight_scales.choose(rows, bits, method=method).scale
            for method in ("mse", "minmax")
        ]
        least, plain = (_error(rows, s, bits) for s in scales)
        assert (least <= plain).all()


def test_an_unknown_method_is_named():
    with pytest.raises(ValueError, match="'best'; expected one of minmax, mse"):
        weight_scales.choose(_rows(), 4, method="best")
