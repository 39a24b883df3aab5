"""Ranges of a batch against those of BatchNorm, in bits."""

from __future__ import annotations

import numpy as np
import pytest

from dsg_tf.synthesis import settling


def _off(mean, deviation, *, target_mean, target_deviation, channels):
    return settling.bits_off(
        np.array(mean),
        np.array(deviation),
        target_mean=np.array(target_mean),
        target_deviation=np.array(target_deviation),
        channels=channels,
    )


def test_samples_that_differ_widen_the_range_of_the_batch():
    # Means 3 and -3, deviations 4: total deviation 5, reach 15; BN's is 7.5.
    assert _off(
        [[3.0], [-3.0]],
        [[4.0], [4.0]],
        target_mean=[0.0],
        target_deviation=[2.5],
        channels=[1],
    ) == pytest.approx(1.0)


def test_the_widest_channel_of_a_layer_counts():
    assert _off(
        [[0.0, 9.0]],
        [[1.0, 1.0]],
        target_mean=[0.0, 0.0],
        target_deviation=[1.0, 2.0],
        channels=[2],
    ) == pytest.approx(1.0)


def test_one_layer_in_ten_may_be_farther_off():
    mean = np.zeros((1, 21))
    deviation = np.ones((1, 21))
    deviation[0, :2] = 1000.0
    off = _off(
        mean,
        deviation,
        target_mean=np.zeros(21),
        target_deviation=np.ones(21),
        channels=[1] * 21,
    )
    assert off == pytest.approx(0.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_is_infinitely_far_off(bad):
    off = _off(
        [[bad]],
        [[1.0]],
        target_mean=[0.0],
        target_deviation=[1.0],
        channels=[1],
    )
    assert off == np.inf


def test_a_layer_that_is_constant_zero_has_no_range():
    off = _off(
        [[5.0]],
        [[1.0]],
        target_mean=[0.0],
        target_deviation=[0.0],
        channels=[1],
    )
    assert off == 0.0


@pytest.mark.parametrize(
    ("first", "most", "wanted"),
    [
        (25, 25, [25]),
        (25, 300, [25, 25, 50, 100, 100]),
        (300, 300, [300]),
        (10, 5, [5]),
    ],
)
def test_rounds_double_up_to_the_most(first, most, wanted):
    assert list(settling.rounds(first, most)) == wanted
