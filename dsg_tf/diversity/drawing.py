"""Common parts of the drawings of moments: sets, colours, fonts, PNG.

Colours are those of Okabe and Ito, which people with any colour vision can tell
apart; lines differ in their dashes, boxes in their order. Matplotlib is
imported when something is drawn, and pyplot, which holds global state, never.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dsg_tf.core import errors
from dsg_tf.diversity import sample_moments

# Moments by the name of the set, all of the same layers.
Sets = Mapping[str, Sequence[sample_moments.SampleMoments]]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("solid", (0, (6, 1.5)), (0, (4, 1, 1, 1)), (0, (1.5, 0.8)))
BN_STYLE = {"color": "black", "linestyle": "--", "linewidth": 1.2}
_FONTS = {
    "font.size": 9,
    "axes.titlesize": 10,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}
_DOTS_PER_INCH = 150
_NAME_LENGTH = 22


@dataclasses.dataclass(frozen=True, eq=False)
class Drawing:
    """A picture and what it shows.

    Attributes:
      figure: the `matplotlib.figure.Figure`.
      caption: what is seen, with the numbers, a text of several lines.
    """

    figure: Any
    caption: str

    def png(self) -> bytes:
        """The picture as PNG, 150 dots an inch."""
        buffer = io.BytesIO()
        self.figure.savefig(
            buffer, format="png", dpi=_DOTS_PER_INCH, facecolor="white"
        )
        return buffer.getvalue()


@contextlib.contextmanager
def figure_of(width: float, height: float) -> Iterator[Any]:
    """A figure, inches, while it is drawn with the fonts of this module."""
    import matplotlib
    from matplotlib import figure

    with matplotlib.rc_context(_FONTS):
        drawn = figure.Figure(figsize=(width, height), layout="constrained")
        drawn.get_layout_engine().set(w_pad=0.08, h_pad=0.06)
        yield drawn


def check(sets: Sets) -> Sequence[sample_moments.SampleMoments]:
    """The layers, as the first set has them.

    Raises:
      errors.UserError: no sets, more than there are colours, sets of different
        layers, no BN layer.
    """
    if not 0 < len(sets) <= len(COLOURS):
        raise errors.UserError(
            "figures",
            got=f"{len(sets)} sets of samples",
            expected=f"1 to {len(COLOURS)}, which colours can tell apart",
        )
    first = next(iter(sets.values()))
    names = [x.layer.name for x in first]
    for name, side in sets.items():
        if [x.layer.name for x in side] != names:
            raise errors.UserError(
                f"samples {name}",
                got="moments of other layers",
                expected=", ".join(names),
            )
    if not first:
        raise errors.UserError(
            "figures",
            got="no BatchNormalization layer",
            expected="at least one, whose moments samples are held against",
            remedy="export the model before BN is folded",
        )
    return first


def legend(figure: Any, sets: Sets, *, lines_not_boxes: bool) -> None:
    """Above the picture: the sets, with their sizes, and the BN value."""
    from matplotlib import lines, patches

    handles: list = [
        lines.Line2D(
            [],
            [],
            color=COLOURS[number],
            linestyle=DASHES[number % len(DASHES)],
            label=f"{name} ({len(side[0].mean)})",
        )
        if lines_not_boxes
        else patches.Patch(
            color=COLOURS[number], label=f"{name} ({len(side[0].mean)})"
        )
        for number, (name, side) in enumerate(sets.items())
    ]
    handles.append(lines.Line2D([], [], label="BatchNorm", **BN_STYLE))
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=len(handles),
        frameon=False,
    )


def plain(axis: Any) -> None:
    """Less ink: two spines, faint lines at the ticks of y."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="0.9", linewidth=0.6)
    axis.set_axisbelow(True)


def short_names(names: Sequence[str]) -> list[str]:
    """Names without the folders they share, and without a long middle.

    Examples:
      >>> short_names(["net/stem/bn", "net/head/a_rather_long_name_of_bn_1"])
      ['stem/bn', 'head/a_rat...e_of_bn_1']
    """
    shared = 0
    if len(names) > 1:
        for parts in zip(*(n.split("/")[:-1] for n in names), strict=False):
            if len(set(parts)) > 1:
                break
            shared += 1
    short = []
    for name in names:
        text = "/".join(name.split("/")[shared:])
        if len(text) > _NAME_LENGTH:
            half = (_NAME_LENGTH - 3) // 2
            text = f"{text[: _NAME_LENGTH - 3 - half]}...{text[-half:]}"
        short.append(text)
    return short
