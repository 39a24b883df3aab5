"""A grid holds every combination once, in an order to rely on."""

from __future__ import annotations

import pytest

from dsg_tf.batch import grid
from dsg_tf.core import errors


def test_every_combination_is_there_once_and_the_last_axis_is_fastest():
    axes = {"a": ["1", "2"], "b": ["x", "y", "z"]}
    points = [tuple(point.values()) for point in grid.span(axes)]
    assert points == [(a, b) for a in "12" for b in "xyz"]


def test_axes_without_values_are_left_out():
    assert grid.span({"a": [], "b": ["1"]}) == [{"b": "1"}]
    assert grid.span({}) == [{}]


@pytest.mark.parametrize("values", [["4", "4"], ["4", ""], [""]])
def test_value_that_is_empty_or_there_twice_is_refused(values):
    with pytest.raises(errors.UserError, match="--weight_bits"):
        grid.span({"weight_bits": values})


def test_label_names_what_was_chosen_but_method_and_seed():
    point = {
        "method": "dsg",
        "recipe": "best",
        "weight_bits": "4",
        "num_samples": "8",
        "seed": "3",
    }
    label = grid.label(point, weight_bits=4, activation_bits=16)
    assert label == "W4A16-best-num_samples8"
