"""What a domain makes of values, and which inputs look like images."""

from __future__ import annotations

import numpy as np
import pytest

from dsg_tf.analysis import input_domain


def test_finish_makes_values_whole_and_in_range():
    domain = input_domain.natural_range(
        0, 255, channels=1, source="", integer=True
    )
    values = np.float32([-3.0, 1.4, 1.6, 254.7, 300.0])
    assert domain.finish(values).tolist() == [0, 1, 2, 255, 255]


def test_finish_leaves_floats_alone():
    domain = input_domain.natural_range(0, 1, channels=1, source="")
    values = np.float32([-3.0, 0.4, 2.0])
    np.testing.assert_array_equal(domain.finish(values), values)


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ((None, 8, 8, 3), True),
        ((None, 32, 24, 1), True),
        ((None, 49, 10, 1), False),
        ((None, 8, 8, 16), False),
        ((None, 4, 4, 3), False),
        ((None, None, None, 3), False),
        ((None, 64), False),
        (None, False),
    ],
)
def test_images_are_told_by_their_shape(shape, wanted):
    port = type("Port", (), {"shape": shape})
    assert input_domain.is_image(port) is wanted
