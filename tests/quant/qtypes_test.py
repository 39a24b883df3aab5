"""Grids and ranges refuse what no .tflite could hold."""

from __future__ import annotations

import numpy as np
import pytest

from dsg_tf.quant import qtypes


@pytest.mark.parametrize(
    ("bits", "symmetric", "ends"),
    [
        (2, True, (-1, 1)),
        (2, False, (-2, 1)),
        (8, True, (-127, 127)),
        (8, False, (-128, 127)),
        (16, True, (-32767, 32767)),
    ],
)
def test_a_symmetric_grid_drops_the_lowest_code(bits, symmetric, ends):
    spec = qtypes.QuantSpec(bits, symmetric)
    assert (spec.qmin, spec.qmax) == ends


@pytest.mark.parametrize("bits", [1, 17, 8.0, True, "8"])
def test_impossible_bits_are_refused(bits):
    with pytest.raises(ValueError, match="bits"):
        qtypes.QuantSpec(bits, symmetric=True)


@pytest.mark.parametrize(
    ("low", "high"),
    [(1.0, 0.0), (np.nan, 1.0), (0.0, np.inf), (-np.inf, 0.0)],
)
def test_a_range_is_two_finite_ordered_numbers(low, high):
    with pytest.raises(ValueError, match="range"):
        qtypes.TensorRange(low, high)


def test_with_zero_widens_towards_zero_only():
    with_zero = [
        qtypes.TensorRange(low, high).with_zero()
        for low, high in [(1, 2), (-2, -1), (-1, 2)]
    ]
    assert [(r.min, r.max) for r in with_zero] == [(0, 2), (-2, 0), (-1, 2)]


@pytest.mark.parametrize(
    "fields",
    [
        {"scale": [0.0]},
        {"scale": [-1.0]},
        {"scale": [np.nan]},
        {"scale": [np.inf]},
        {"zero_point": [128]},
        {"zero_point": [-129]},
        {"scale": [1.0, 1.0]},  # Two scales, one zero point.
        {"scale": [1.0, 1.0], "zero_point": [0, 0]},  # And no axis.
        {"qmin": 127},
    ],
)
def test_impossible_parameters_are_refused(fields):
    valid = {"scale": [0.5], "zero_point": [3], "qmin": -128, "qmax": 127}
    qtypes.QuantParams(**valid)
    with pytest.raises(ValueError, match="expected"):
        qtypes.QuantParams(**(valid | fields))


def test_parameters_cannot_be_changed_through_their_arrays():
    scale = np.ones(2, np.float32)
    params = qtypes.QuantParams(scale, [0, 0], -127, 127, axis=0)
    scale[0] = 5
    assert params.scale[0] == 1
    with pytest.raises(ValueError, match="read-only"):
        params.scale[0] = 2


def test_same_as_sees_every_field():
    def params(**changes):
        fields = {
            "scale": [0.5, 0.25],
            "zero_point": [0, 1],
            "qmin": -128,
            "qmax": 127,
            "axis": 0,
        }
        return qtypes.QuantParams(**(fields | changes))

    assert params().same_as(params())
    for changes in (
        {"scale": [0.5, np.nextafter(np.float32(0.25), np.float32(1))]},
        {"zero_point": [0, 2]},
        {"qmin": -127},
        {"qmax": 126},
        {"axis": 1},
    ):
        assert not params().same_as(params(**changes)), changes


def test_range_is_what_the_end_codes_mean():
    params = qtypes.QuantParams([0.5], [-28], -128, 127)
    assert params.range == qtypes.TensorRange(-50.0, 77.5)
