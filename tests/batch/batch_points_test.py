"""Points of a grid, and how many images calibrate."""

from __future__ import annotations

import numpy as np
import pytest
from absl import flags

from dsg_tf.batch import batch_flags, batch_models, batch_points
from dsg_tf.config import needs, run_config
from dsg_tf.core import errors
from dsg_tf.samples import sample_sets


def _points(*argv: str) -> list[batch_points.Point]:
    values = flags.FlagValues()
    batch_flags.define(values)
    values(["", *argv])
    return batch_points.points(batch_models.Model("net", "net", values))


def test_widths_that_are_no_grid_are_points_of_their_own():
    points = _points("--bits=W4A8,w8a16,W4A4", "--seed=0,1")
    widths = [
        (p.config.export.weight_bits, p.config.export.activation_bits)
        for p in points
    ]
    assert widths == [(4, 8)] * 2 + [(8, 16)] * 2 + [(4, 4)] * 2
    assert points[0].lines[:3] == (
        "--weight_bits=4",
        "--activation_bits=8",
        "--seed=0",
    )


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("--bits=W4A8,w4a8", "--bits: got 'W4A8,W4A8'"),
        ("--bits=W4A9", "--activation_bits: got 9"),
    ],
)
def test_widths_that_cannot_be_are_refused(argv, words):
    with pytest.raises(errors.UserError, match=words):
        _points(argv)


def test_axis_is_left_out_of_values_lines_and_config():
    (point,) = _points("--seed=3", "--weight_bits=4")
    without = point.without("seed")
    assert without.values == {"weight_bits": "4"}
    assert without.lines == tuple(x for x in point.lines if x != "--seed=3")
    assert len(without.lines) == len(point.lines) - 1
    assert without.config.synthesis.seed == 0


def test_number_of_images_is_no_flag_of_the_run_that_gets_them():
    (all_of_them, some) = (
        _points("--method=real", "--calibration_data=x", *more)[0]
        for more in ([], ["--num_samples=12"])
    )
    assert (all_of_them.num_images, some.num_images) == (None, 12)
    assert some.lines == all_of_them.lines == ()
    # As many are held out of images as of anything that is given.
    given = needs.complete(run_config.PipelineConfig(samples="x.npz"))
    (seed,) = _points("--method=real", "--calibration_data=x", "--seed=3")
    for point in (some, all_of_them, seed, seed.without("seed")):
        assert point.config.verify_samples == given.verify_samples
        assert point.config.samples == ""
    with pytest.raises(errors.UserError, match="--num_samples: got 0"):
        _points("--method=real", "--calibration_data=x", "--num_samples=0")


@pytest.mark.parametrize("most", [1, 2, 16])
def test_so_many_calibrate_as_were_asked_for(most):
    for count in range(1, 200):
        total = batch_points.with_held_out(count, most)
        assert total - sample_sets.held_out(total, most) == count
        # As many verify as may.
        more = total + 1
        assert more - sample_sets.held_out(more, most) == count + 1


def test_as_many_are_held_out_as_a_run_holds_out():
    from dsg_tf.samples import sample_sets
    from dsg_tf.synthesis import sampling

    config = run_config.PipelineConfig(samples="x.npz", verify_samples=4)
    for total in (2, 5, 9, 10, 19, 20, 21, 40):
        given = sample_sets.SampleSet(
            {"x": np.zeros((total, 1), np.float32)}, {}
        )
        calibration, _ = sampling.split(given, config)
        assert len(calibration) == total - sample_sets.held_out(total, 4)
