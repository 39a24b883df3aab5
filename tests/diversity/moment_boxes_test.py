"""The boxes hold the series that were given; artists are read."""

from __future__ import annotations

import drawn_moments
import numpy as np
import pytest

from dsg_tf.diversity import diversity, moment_boxes

_SETS = {
    "dsg": drawn_moments.side(30, seed=2, dead=(1,)),
    "real": drawn_moments.side(20, seed=3, dead=(1,)),
}


def _boxes(axis):
    """(label, lower, upper) of each box by its position."""
    found = {}
    for patch in axis.patches:
        if patch.get_label() in _SETS:
            xy = patch.get_path().vertices
            found[round(float(np.mean(xy[:4, 0])), 6)] = (
                patch.get_label(),
                xy[:4, 1].min(),
                xy[:4, 1].max(),
            )
    return dict(sorted(found.items()))


def test_boxes_hold_the_middle_half_of_the_living_channels():
    above, below = moment_boxes.draw(_SETS).figure.axes
    sigma = np.sqrt(4.001)
    alive = [0, 2, 3]
    for axis, value in (
        (above, lambda x: (x.mean[:, alive] - 0.5) / sigma),
        (below, lambda x: x.deviation[:, alive] / sigma),
    ):
        boxes = list(_boxes(axis).values())
        assert [label for label, *_ in boxes] == ["dsg", "real"] * 3
        for (label, lower, upper), index in zip(
            boxes, [0, 0, 1, 1, 2, 2], strict=True
        ):
            expected = np.percentile(value(_SETS[label][index]), (25, 75))
            np.testing.assert_allclose([lower, upper], expected)


def test_whiskers_and_medians_are_percentiles():
    side = drawn_moments.side(50, layers=1)
    above, _ = moment_boxes.draw({"a": side}).figure.axes
    ends = {
        round(float(y), 9)
        for line in above.lines
        for y in np.ravel(line.get_ydata())
    }
    values = (side[0].mean - 0.5) / np.sqrt(4.001)
    for point in (5, 25, 50, 75, 95):
        assert round(float(np.percentile(values, point)), 9) in ends


def test_lines_mark_the_batch_norm_values():
    above, below = moment_boxes.draw(_SETS).figure.axes
    for axis, target in ((above, 0), (below, 1)):
        (line,) = [x for x in axis.lines if x.get_label() == "BatchNorm"]
        assert set(line.get_ydata()) == {target}
        assert line.get_linestyle() == "--"


def test_axes_have_names_and_units():
    above, below = moment_boxes.draw(_SETS).figure.axes
    assert above.get_ylabel() == "(m - mu) / sigma"
    assert below.get_ylabel() == "s / sigma"
    assert "sigma" in above.get_title()
    assert [t.get_text() for t in below.get_xticklabels()] == [
        "0 bn_0",
        "1 bn_1",
        "2 bn_2",
    ]


@pytest.mark.parametrize("layers", [28, 29, 53, 120])
def test_many_layers_go_into_rows_and_each_is_named_once(layers):
    sets = {
        name: drawn_moments.side(4, layers=layers, channels=2, seed=seed)
        for seed, name in enumerate(("zeroq", "dsg", "real"))
    }
    axes = moment_boxes.draw(sets).figure.axes
    rows = -(-layers // 28)
    assert len(axes) == 2 * rows
    names = [t.get_text() for a in axes for t in a.get_xticklabels()]
    names = [name for name in names if name]
    assert names == [f"{i} bn_{i}" for i in range(layers)]
    for axis in axes:
        drawn = [p for p in axis.patches if p.get_label() in sets]
        assert len(drawn) <= 84
    assert len({a.get_ylim() for a in axes[::2]}) == 1


def test_a_layer_without_deviation_has_no_box_below():
    above, below = moment_boxes.draw(
        {"dsg": drawn_moments.side(5, pooled=(1,))}
    ).figure.axes
    assert list(_boxes(above)) == [0, 1, 2]
    assert list(_boxes(below)) == [0, 2]


def test_samples_far_out_get_a_logarithmic_axis_that_says_so():
    sets = {
        "dsg": drawn_moments.side(5, size=50),
        "real": drawn_moments.side(5),
    }
    above, below = moment_boxes.draw(sets).figure.axes
    for axis in (above, below):
        assert axis.get_yscale() == "symlog"
        assert "log beyond 2" in axis.get_ylabel()
    assert below.get_ylim()[0] == 0
    near, _ = moment_boxes.draw(_SETS).figure.axes
    assert near.get_yscale() == "linear"


def test_caption_has_the_numbers_and_compares_with_the_real_set():
    caption = moment_boxes.draw(_SETS, real="real").caption
    expected = diversity.measure(_SETS["dsg"], _SETS["real"]).median
    (line,) = [x for x in caption.splitlines() if x.startswith("dsg (30)")]
    assert diversity.in_words(expected) in line
    assert "of real ones" in line
    assert f"mean {expected['mean_offset']:.2f} sigma" in line
    (line,) = [x for x in caption.splitlines() if x.startswith("real (20)")]
    assert "of real ones" not in line
    assert "of real ones" not in moment_boxes.draw(_SETS).caption


def test_dead_channels_alone_can_be_drawn():
    sets = {"dsg": drawn_moments.side(3, layers=2, channels=2, dead=(0, 1))}
    assert moment_boxes.draw(sets).png()
