"""Signal is what moves around the mean; a constant has none of it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dsg_tf.fidelity import output_spread


def _drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(3.0, 1.0, shape)


def test_sums_are_their_formulas_channel_by_channel():
    r = _drawn(5, 6, 3)
    q = r + 0.1 * _drawn(5, 6, 3, seed=1)
    found = output_spread.measure(r, q)
    for c in range(3):
        a, b = r[..., c], q[..., c]
        assert found.signal[c] == pytest.approx(np.sum((a - a.mean()) ** 2))
        assert found.noise[c] == pytest.approx(np.sum((a - b) ** 2))
        moved, followed = a - a.mean(axis=0), b - b.mean(axis=0)
        assert found.moved[c] == pytest.approx(np.sum(moved**2))
        assert found.followed[c] == pytest.approx(np.sum(followed**2))
        assert found.missed[c] == pytest.approx(np.sum((moved - followed) ** 2))
    expected = 10 * np.log10(found.signal.sum() / found.noise.sum())
    assert found.sqnr_db == pytest.approx(expected)
    assert found.count == 30


@pytest.mark.parametrize("value", [0.0, 3.0, 100.0])
def test_a_constant_explains_nothing_whatever_its_value(value):
    r = _drawn(8, 1, 4)
    found = output_spread.measure(r, np.full_like(r, value))
    assert found.explained == 0
    assert found.sqnr_db <= 0
    assert found.movement_db == pytest.approx(0, abs=1e-9)
    assert (found.still, found.copy_still) == (False, True)


def test_a_map_that_is_right_on_average_does_not_follow_the_samples():
    places = 10 * _drawn(1, 50, 2)
    r = places + 0.1 * _drawn(8, 50, 2, seed=1)
    found = output_spread.measure(r, np.repeat(places, 8, axis=0))
    assert found.sqnr_db > 20
    assert found.movement_db == pytest.approx(0, abs=1e-9)
    assert found.copy_still


def test_rounding_of_float32_is_no_movement_and_more_is():
    base = np.float32([[[1000.0, 1.0]]])
    rounded = np.concatenate([base, base * (1 + 1e-7)])
    assert output_spread.measure(rounded, rounded).still
    moved = np.concatenate([base, base * (1 + 1e-4)])
    assert not output_spread.measure(moved, moved).still


def test_a_channel_of_another_unit_moves_and_one_of_rounding_does_not():
    moved = _drawn(8, 1, 3) * [1000.0, 1.0, 1e-3]
    assert list(output_spread.measure(moved, moved).moving) == [
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("signal", "noise", "decibel", "explained"),
    [
        (0.0, 0.0, math.inf, 1.0),
        (0.0, 1.0, -math.inf, 0.0),
        (1.0, 0.0, math.inf, 1.0),
        (10.0, 1.0, 10.0, 0.9),
        (1.0, 10.0, -10.0, 0.0),
    ],
)
def test_ratios_at_their_ends(signal, noise, decibel, explained):
    assert output_spread.decibel(signal, noise) == pytest.approx(decibel)
    assert output_spread.explained(signal, noise) == pytest.approx(explained)


def test_moments_leave_out_what_the_reference_does_not_know():
    moments = output_spread.Moments()
    moments.update(np.array([3.0, np.inf, np.nan]), np.array([3.0, 1.0, 2.0]))
    moments.update(np.array([4.0]), np.array([3.5]))
    assert moments.sqnr_db == pytest.approx(20)
    moments.update(np.array([1.0]), np.array([np.nan]))
    assert moments.sqnr_db == -math.inf
