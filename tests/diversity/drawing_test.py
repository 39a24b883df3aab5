"""What the pictures share: PNG, legends, names, and what is refused."""

from __future__ import annotations

import struct

import drawn_moments
import pytest

from dsg_tf.core import errors
from dsg_tf.diversity import drawing, moment_boxes


def test_png_is_one_of_150_dots_an_inch():
    drawn = moment_boxes.draw({"a": drawn_moments.side(3)})
    content = drawn.png()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", content[16:24])
    inches = drawn.figure.get_size_inches()
    # To the dot: 150 * 5.4 is 809.9999 in floats.
    assert (width, height) == tuple(round(150 * size) for size in inches)


def test_legend_names_sets_their_sizes_and_batch_norm():
    sets = {"dsg": drawn_moments.side(3), "real": drawn_moments.side(5)}
    for lines_not_boxes in (True, False):
        with drawing.figure_of(4, 3) as figure:
            drawing.legend(figure, sets, lines_not_boxes=lines_not_boxes)
        (legend,) = figure.legends
        texts = [text.get_text() for text in legend.get_texts()]
        assert texts == ["dsg (3)", "real (5)", "BatchNorm"]


def test_fonts_are_the_module_s_while_it_draws_alone():
    import matplotlib

    before = matplotlib.rcParams["font.size"]
    with drawing.figure_of(4, 3):
        assert matplotlib.rcParams["font.size"] == 9
    assert matplotlib.rcParams["font.size"] == before


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        ({}, "0 sets"),
        ({str(k): drawn_moments.side(2) for k in range(7)}, "7 sets"),
        ({"a": []}, "no BatchNormalization"),
        (
            {"a": drawn_moments.side(2), "b": drawn_moments.side(2, layers=2)},
            "samples b.*other layers",
        ),
    ],
)
def test_sets_that_cannot_be_drawn_are_refused(sets, words):
    with pytest.raises(errors.UserError, match=words):
        drawing.check(sets)


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["a/b/x", "a/b/y"], ["x", "y"]),
        (["a/b", "c/b"], ["a/b", "c/b"]),
        (["a/bn"], ["a/bn"]),
        (["a/x", "x"], ["a/x", "x"]),
        (["n" * 22], ["n" * 22]),
    ],
)
def test_names_lose_what_they_share(names, short):
    assert drawing.short_names(names) == short


def test_long_names_keep_both_ends():
    (short,) = drawing.short_names(["begin" + "x" * 40 + "end"])
    assert len(short) == 22
    assert short.startswith("begin")
    assert short.endswith("end")
