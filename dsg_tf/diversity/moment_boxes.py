"""Box plots of samples' moments over all layers.

Pictures as Figure 2 of DSG, for any model and any sets of samples: how
(m - mu) / sigma and s / sigma lie beside the BN value, 0 and 1.

References:
  Zhang, Qin et al., "Diversifying Sample Generation for Accurate Data-Free
  Quantization" (DSG), CVPR 2021, Figure 2.
"""

from __future__ import annotations

import math

import numpy as np

from dsg_tf.diversity import diversity, drawing

# Boxes side by side: more would be thinner than their outlines.
_BOXES_A_ROW = 84
_LAYERS_A_ROW = 28
# Beyond this many sigma a linear axis would flatten all boxes but the widest.
_LINEAR_UP_TO = 8.0
_LOGARITHMIC_FROM = 2.0


def draw(sets: drawing.Sets, *, real: str = "") -> drawing.Drawing:
    """Box plots over all BN layers of (m - mu) / sigma and s / sigma.

    A box holds the middle half of all samples and channels, the line in it is
    the median, whiskers reach from 5 to 95 %. Dead channels do not count. Many
    layers go into several rows.

    Args:
      sets: moments by the name of the set, all of the same layers.
      real: the name of the set that the caption compares the others with;
        empty for none.

    Raises:
      errors.UserError: no sets or too many, sets of different
        layers, no BN layer.
    """
    known = drawing.check(sets)
    per_row = min(_LAYERS_A_ROW, max(_BOXES_A_ROW // len(sets), 8))
    count = math.ceil(len(known) / per_row)
    per_row = math.ceil(len(known) / count)
    parts = [
        range(at, min(at + per_row, len(known)))
        for at in range(0, len(known), per_row)
    ]
    names = drawing.short_names([x.layer.name for x in known])
    means = {name: _offsets(side) for name, side in sets.items()}
    deviations = {name: _ratios(side) for name, side in sets.items()}
    width = max(7.0, 2.0 + 0.36 * per_row)
    with drawing.figure_of(width, 0.6 + 4.8 * count) as figure:
        rows = figure.subplots(2 * count, 1, squeeze=False)[:, 0]
        above, below = rows[::2], rows[1::2]
        for axis, part in zip(above, parts, strict=True):
            _box_row(axis, means, part, 0.0)
            axis.set_ylabel("(m - mu) / sigma")
            axis.set_xticks(range(len(part)), [])
        for axis, part in zip(below, parts, strict=True):
            _box_row(axis, deviations, part, 1.0)
            axis.set_ylabel("s / sigma")
            axis.set_xticks(
                range(len(part)),
                [f"{i} {names[i]}" for i in part],
                rotation=55,
                horizontalalignment="right",
                rotation_mode="anchor",
            )
        for axis in rows:
            axis.set_xlim(-0.5, per_row - 0.5)
            axis.tick_params(axis="x", length=2)
        _same_scale(above, 0.0)
        _same_scale(below, 1.0)
        ending = "of samples at the input of every BatchNorm layer, in sigma"
        above[0].set_title(f"Means {ending}")
        below[0].set_title(f"Deviations {ending}")
        below[-1].set_xlabel("BatchNorm layer, from the input to the output")
        figure.align_ylabels()
        drawing.legend(figure, sets, lines_not_boxes=False)
    return drawing.Drawing(figure, _caption(sets, real))


def _offsets(side) -> list[np.ndarray]:
    """(m - mu) / sigma of all samples and living channels, by layer."""
    return [
        ((x.mean - x.layer.mean)[:, x.alive] / x.sigma[x.alive]).ravel()
        for x in side
    ]


def _ratios(side) -> list[np.ndarray]:
    """s / sigma likewise; empty where there is no deviation."""
    return [
        np.empty(0)
        if x.deviation is None
        else (x.deviation[:, x.alive] / x.sigma[x.alive]).ravel()
        for x in side
    ]


def _box_row(axis, values, part: range, target: float) -> None:
    """The boxes of some layers, those of the sets side by side."""
    width = 0.8 / len(values)
    for place in range(1, len(part), 2):
        axis.axvspan(place - 0.5, place + 0.5, color="0.95", zorder=0)
    axis.axhline(target, label="BatchNorm", zorder=1, **drawing.BN_STYLE)
    for number, (name, by_layer) in enumerate(values.items()):
        shift = (number - (len(values) - 1) / 2) * width
        filled = [i for i in part if len(by_layer[i])]
        if not filled:
            continue
        drawn = axis.bxp(
            [_five_numbers(by_layer[i]) for i in filled],
            positions=[i - part.start + shift for i in filled],
            widths=0.82 * width,
            showfliers=False,
            showcaps=False,
            patch_artist=True,
            manage_ticks=False,
            boxprops={"facecolor": drawing.COLOURS[number], "linewidth": 0.5},
            medianprops={"color": "white", "linewidth": 1.1},
            whiskerprops={"color": drawing.COLOURS[number], "linewidth": 0.9},
        )
        for box in drawn["boxes"]:
            box.set_edgecolor(drawing.COLOURS[number])
            box.set_label(name)
    drawing.plain(axis)


def _five_numbers(values: np.ndarray) -> dict[str, float]:
    points = np.percentile(values, (5, 25, 50, 75, 95))
    names = ("whislo", "q1", "med", "q3", "whishi")
    return dict(zip(names, points.tolist(), strict=True))


def _same_scale(axes, target: float) -> None:
    """One range for all rows; beyond a few sigma the axis is logarithmic."""
    ends = [axis.dataLim.intervaly for axis in axes]
    low, high = min(e[0] for e in ends), max(e[1] for e in ends)
    wide = max(abs(low - target), abs(high - target)) > _LINEAR_UP_TO
    for axis in axes:
        if wide:
            axis.set_yscale("symlog", linthresh=_LOGARITHMIC_FROM)
            axis.yaxis.set_major_formatter("{x:g}")
            label = axis.get_ylabel()
            axis.set_ylabel(f"{label}\n(log beyond {_LOGARITHMIC_FROM:g})")
        room = 0.05 * (high - low) or 0.5
        # s is never below zero: no room for it on a logarithmic axis.
        bottom = low - room if low < 0 or not wide else 0.0
        axis.set_ylim(bottom, high + room)


def _caption(sets: drawing.Sets, real: str) -> str:
    lines = [
        "Box plots over all BatchNorm layers, from the input to the output:"
        " (m - mu) / sigma above, s / sigma below, with the mean m and the"
        " deviation s of each sample and channel over its positions. Boxes"
        " hold the middle half of all samples and living channels, whiskers"
        " reach from 5 to 95 %. Dashed: the BatchNorm value, 0 and 1. BN's"
        " sigma holds what differs between images as well, so that s of real"
        " images tends to lie below 1. Medians over the layers:"
    ]
    for name, side in sets.items():
        others = sets[real] if real and name != real else ()
        found = diversity.measure(side, others)
        offsets = [
            f"{what} {found.median[f'{what}_offset']:.2f} sigma"
            for what in ("mean", "deviation")
            if found.median[f"{what}_offset"] is not None
        ]
        lines.append(
            f"{name} ({found.samples}): {diversity.in_words(found.median)};"
            f" beside the BatchNorm value: {', '.join(offsets)}."
        )
    return "\n".join(lines) + "\n"
