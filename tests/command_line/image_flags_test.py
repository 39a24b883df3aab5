"""Flags become the preprocessing that they name, or an error at once."""

from __future__ import annotations

import numpy as np
import pytest
from absl import flags

from dsg_tf.command_line import image_flags
from dsg_tf.core import errors
from dsg_tf.samples import labelled_images

_PIXELS = np.arange(2 * 3 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3, 3)


def _values(*argv: str) -> flags.FlagValues:
    values = flags.FlagValues()
    image_flags.define(values)
    values(["", *argv])
    return values


def test_flags_reach_the_preprocessing():
    values = _values(
        "--preprocess=standardize", "--mean=0.1,0.2,0.3", "--std=2"
    )
    image_flags.check(values)
    expected = labelled_images.preprocess(
        _PIXELS,
        "standardize",
        mean=np.array([0.1, 0.2, 0.3], np.float32),
        std=np.array([2.0], np.float32),
    )
    np.testing.assert_array_equal(
        image_flags.preprocess(values, _PIXELS), expected
    )


def test_by_default_pixels_stay_as_they_are():
    np.testing.assert_array_equal(
        image_flags.preprocess(_values(), _PIXELS), _PIXELS
    )


_STANDARDIZE = "--preprocess=standardize"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--preprocess=half"], "--preprocess: got 'half'; .*none, standard"),
        (["--preprocess=standardize"], "no --mean or no --std"),
        (["--mean=0.5"], "--preprocess=none: got --mean"),
        (
            ["--preprocess=standardize", "--mean=a", "--std=1"],
            "--mean: got 'a'",
        ),
        (
            ["--preprocess=standardize", "--mean=1,2,3", "--std=1,2"],
            "--std: got 2 numbers",
        ),
        *(
            ([_STANDARDIZE, "--mean=1", f"--std={std}"], "--std: got .*finite")
            for std in ("0", "-1", "nan", "inf", "1e-30", "1e30", "1,0,1")
        ),
        *(
            (
                [_STANDARDIZE, f"--mean={mean}", "--std=1"],
                "--mean: got .*finite",
            )
            for mean in ("nan", "-inf", "1e300", "0,nan,0")
        ),
    ],
)
def test_flags_that_cannot_be_are_refused_without_images(argv, words):
    with pytest.raises(errors.UserError, match=words):
        image_flags.check(_values(*argv))
