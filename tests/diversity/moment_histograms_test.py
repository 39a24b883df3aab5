"""The histograms hold the series that were given; artists are read."""

from __future__ import annotations

import drawn_moments
import numpy as np
import pytest

from dsg_tf.core import errors
from dsg_tf.diversity import moment_histograms, sample_moments

_SETS = {
    "zeroq": drawn_moments.side(40, seed=1, size=0.2),
    "dsg": drawn_moments.side(30, seed=2),
    "real": drawn_moments.side(20, seed=3),
}


def _outlines(axis):
    """Vertices of the outline of each set, by its label."""
    return {p.get_label(): p.get_xy() for p in axis.patches if not p.get_fill()}


def test_each_set_s_samples_are_counted_in_common_bins():
    drawn = moment_histograms.draw(_SETS, layers=[1], channels=[2])
    for axis, what in zip(
        drawn.figure.axes, ("mean", "deviation"), strict=True
    ):
        outlines = _outlines(axis)
        assert set(outlines) == set(_SETS)
        edges = [np.unique(xy[:, 0]) for xy in outlines.values()]
        np.testing.assert_allclose(edges[0], edges[1])
        for name, xy in outlines.items():
            values = getattr(_SETS[name][1], what)[:, 2]
            counts, _ = np.histogram(values, np.unique(xy[:, 0]))
            expected = 100 * counts / len(values)
            # The outline visits each bin's height twice, after the corner.
            np.testing.assert_allclose(xy[1:-1:2, 1], expected, atol=1e-9)
            assert sum(expected) == pytest.approx(100)


def test_the_dashed_line_is_the_batch_norm_value():
    drawn = moment_histograms.draw(_SETS, layers=[0], channels=[0])
    found = []
    for axis in drawn.figure.axes:
        (line,) = axis.lines
        assert line.get_linestyle() == "--"
        found.append(line.get_xdata()[0])
    np.testing.assert_allclose(found, [0.5, np.sqrt(4.001)])


def test_sets_have_colours_of_their_own():
    drawn = moment_histograms.draw(_SETS, layers=[0], channels=[0])
    lines = [p for p in drawn.figure.axes[0].patches if not p.get_fill()]
    assert len({p.get_edgecolor() for p in lines}) == len(_SETS)
    assert len({str(p.get_linestyle()) for p in lines}) == len(_SETS)


def test_titles_and_units_are_there():
    drawn = moment_histograms.draw(_SETS, layers=[2], channels=[3])
    for axis, word in zip(
        drawn.figure.axes, ("mean m", "deviation s"), strict=True
    ):
        assert axis.get_title() == "net/bn_2, channel 3"
        assert word in axis.get_xlabel()
        assert "units" in axis.get_xlabel()
        assert axis.get_ylabel() == "samples, %"


def test_first_middle_and_last_layer_by_default():
    sets = {"a": drawn_moments.side(5, layers=6, pooled=(5,))}
    drawn = moment_histograms.draw(sets)
    titles = [axis.get_title() for axis in drawn.figure.axes[::2]]
    assert [t.partition(",")[0] for t in titles] == [
        "net/bn_0",
        "net/bn_2",
        "net/bn_4",
    ]
    assert "typical ones" in drawn.caption
    assert "over the samples of a" in drawn.caption


def test_every_chosen_channel_of_every_chosen_layer_has_a_row():
    drawn = moment_histograms.draw(_SETS, layers=[0, 2], channels=[1, 3])
    assert len(drawn.figure.axes) == 2 * 2 * 2
    assert "typical ones" not in drawn.caption


def test_caption_has_the_numbers():
    caption = moment_histograms.draw(_SETS, layers=[1], channels=[2]).caption
    values = _SETS["dsg"][1].mean[:, 2]
    assert f"dsg {values.mean():.4g} +- {values.std():.4g}" in caption
    assert "BatchNorm 0.5;" in caption
    assert "zeroq 40, dsg 30, real 20" in caption


def test_a_layer_with_one_position_says_so():
    sets = {"a": drawn_moments.side(4, pooled=(0, 1, 2))}
    drawn = moment_histograms.draw(sets, layers=[0], channels=[0])
    left, right = drawn.figure.axes
    assert _outlines(left)
    assert not _outlines(right)
    assert "no deviation" in right.texts[0].get_text()
    assert drawn.png()


def test_one_sample_and_a_constant_channel_can_be_drawn():
    assert moment_histograms.draw({"a": drawn_moments.side(1)}).png()
    side = drawn_moments.side(4, layers=1)
    still = [
        sample_moments.SampleMoments(side[0].layer, 0 * side[0].mean, None)
    ]
    assert moment_histograms.draw({"a": still}).png()


def test_the_typical_channel_is_in_the_middle_and_alive():
    (moments,) = drawn_moments.side(50, layers=1, channels=5, dead=(2,))
    scale = np.array([1.0, 4.0, 3.0, 2.0, 8.0])
    scaled = sample_moments.SampleMoments(
        moments.layer, moments.mean * scale, moments.deviation
    )
    # Of the living 0, 1, 3, 4 in the order 0, 3, 1, 4: the lower middle one.
    assert moment_histograms.typical_channel(scaled) == 3
    (single,) = drawn_moments.side(1, layers=1)
    assert moment_histograms.typical_channel(single) == 0


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"layers": [3]}, "layers: got index 3; expected 0 to 2"),
        ({"layers": [-1]}, "index -1"),
        ({"channels": [4]}, "channels: got 4; expected 0 to 3"),
        ({"channels": [-1]}, "channels: got -1"),
    ],
)
def test_an_index_that_is_not_there_is_refused(chosen, words):
    with pytest.raises(errors.UserError, match=words):
        moment_histograms.draw(_SETS, **chosen)
