"""Histograms of samples' moments in single channels.

Pictures as Figure 1 of DSG, for any model and any sets of samples: how m and s
of a channel scatter over the samples, and where the BN value lies among them.

References:
  Zhang, Qin et al., "Diversifying Sample Generation for Accurate Data-Free
  Quantization" (DSG), CVPR 2021, Figure 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from dsg_tf.core import errors
from dsg_tf.diversity import diversity, drawing, sample_moments

_MOST_BINS = 24


def draw(
    sets: drawing.Sets,
    *,
    layers: Sequence[int] | None = None,
    channels: Sequence[int] | None = None,
) -> drawing.Drawing:
    """Histograms over the samples of m and of s in single channels.

    Args:
      sets: moments by the name of the set, all of the same layers.
      layers: which layers, by index; by default first, middle and last of
        those in which samples have a deviation.
      channels: which channels of each; by default a typical one, see
        `typical_channel`, of the last set.

    Returns:
      One row a channel: m on the left, s on the right, the BN value dashed.

    Raises:
      errors.UserError: no sets or too many, sets of different
        layers, no BN layer, an index that is not there.
    """
    known = drawing.check(sets)
    chosen = _default_layers(known) if layers is None else list(layers)
    panels = [
        (index, channel)
        for index in chosen
        for channel in _channels(sets, index, channels)
    ]
    with drawing.figure_of(9.0, 0.9 + 2.0 * len(panels)) as figure:
        rows = figure.subplots(len(panels), 2, squeeze=False)
        for axes, panel in zip(rows, panels, strict=True):
            for axis, what in zip(axes, ("mean", "deviation"), strict=True):
                _panel(axis, sets, panel, what)
        drawing.legend(figure, sets, lines_not_boxes=True)
    caption = _caption(sets, panels)
    if channels is None:
        caption += (
            "The channels are typical ones: in half of the layer's channels m"
            f" scatters less over the samples of {list(sets)[-1]}.\n"
        )
    return drawing.Drawing(figure, caption)


def typical_channel(
    moments: sample_moments.SampleMoments,
) -> int:
    """The living channel whose m scatters, in sigma, as is usual in its layer.

    That is the one with the middle dispersion; of one sample, or of dead
    channels alone, the first.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        scatter = diversity.dispersion(moments.mean, moments.sigma)
    (alive,) = np.nonzero(moments.alive & np.isfinite(scatter))
    if len(alive) == 0:
        return 0
    order = alive[np.argsort(scatter[alive], kind="stable")]
    return int(order[(len(order) - 1) // 2])


def _default_layers(known: Sequence[sample_moments.SampleMoments]) -> list[int]:
    spatial = [i for i, x in enumerate(known) if x.deviation is not None]
    spatial = spatial or list(range(len(known)))
    middle = spatial[(len(spatial) - 1) // 2]
    return list(dict.fromkeys((spatial[0], middle, spatial[-1])))


def _channels(
    sets: drawing.Sets, index: int, channels: Sequence[int] | None
) -> list[int]:
    last = list(sets.values())[-1]
    if not 0 <= index < len(last):
        raise errors.UserError(
            "layers",
            got=f"index {index}",
            expected=f"0 to {len(last) - 1}",
        )
    if channels is None:
        return [typical_channel(last[index])]
    layer = last[index].layer
    for channel in channels:
        if not 0 <= channel < layer.num_channels:
            raise errors.UserError(
                "channels",
                got=str(channel),
                expected=f"0 to {layer.num_channels - 1} of {layer.name}",
            )
    return list(channels)


def _columns(
    sets: drawing.Sets, panel: tuple[int, int], what: str
) -> tuple[dict[str, np.ndarray], float]:
    """m or s (N,) of a channel by set, and the BN value.

    Empty where a sample has one position, and no deviation.
    """
    index, channel = panel
    columns = {}
    for name, side in sets.items():
        values = getattr(side[index], what)
        if values is not None:
            columns[name] = values[:, channel]
    known = next(iter(sets.values()))[index]
    target = known.layer.mean if what == "mean" else known.sigma
    return columns, float(target[channel])


def _panel(axis, sets: drawing.Sets, panel: tuple[int, int], what: str) -> None:
    index, channel = panel
    name = next(iter(sets.values()))[index].layer.name
    axis.set_title(f"{drawing.short_names([name])[0]}, channel {channel}")
    columns, target = _columns(sets, panel, what)
    if not columns:
        _say_nothing(axis)
        return
    symbol = {"mean": "m", "deviation": "s"}[what]
    axis.set_xlabel(f"{what} {symbol} of a sample, units of the layer's input")
    axis.set_ylabel("samples, %")
    _bars(axis, columns, target)


def _bars(axis, columns: Mapping[str, np.ndarray], target: float) -> None:
    """Shares of the samples in bins that all sets have in common."""
    everything = np.concatenate([*columns.values(), [target]])
    fewest = min(len(values) for values in columns.values())
    # As many samples a bin, on average, as is needed to see a shape.
    bins = min(max(round(1.5 * math.sqrt(fewest)), 8), _MOST_BINS)
    edges = np.histogram_bin_edges(everything, bins)
    for number, (name, values) in enumerate(columns.items()):
        style = {
            "bins": edges,
            "weights": np.full(len(values), 100.0 / len(values)),
            "color": drawing.COLOURS[number],
        }
        axis.hist(values, histtype="stepfilled", alpha=0.18, **style)
        axis.hist(
            values,
            histtype="step",
            linewidth=1.4,
            linestyle=drawing.DASHES[number % len(drawing.DASHES)],
            label=name,
            **style,
        )
    axis.axvline(target, label="BatchNorm", **drawing.BN_STYLE)
    drawing.plain(axis)


def _say_nothing(axis) -> None:
    """For layers in which a sample has one position, and no deviation."""
    axis.text(
        0.5,
        0.5,
        "one position a sample: no deviation",
        transform=axis.transAxes,
        horizontalalignment="center",
        verticalalignment="center",
        color="0.4",
    )
    axis.set(xticks=[], yticks=[])
    drawing.plain(axis)


def _caption(sets: drawing.Sets, panels: Sequence[tuple[int, int]]) -> str:
    counts = ", ".join(f"{n} {len(s[0].mean)}" for n, s in sets.items())
    lines = [
        "Histograms over the samples of the mean m (left) and the deviation s"
        " (right) of one channel over its positions, at the input of a"
        " BatchNorm layer and in units of that input. Dashed: what BatchNorm"
        " remembers, mu and sigma, of all training data together. Samples:"
        f" {counts}. Average +- deviation over the samples:"
    ]
    for index, channel in panels:
        layer = next(iter(sets.values()))[index].layer
        for what, symbol in (("mean", "m"), ("deviation", "s")):
            columns, target = _columns(sets, (index, channel), what)
            told = [
                f"{name} {np.mean(x):.4g} +- {np.std(x):.4g}"
                for name, x in columns.items()
            ]
            if told:
                lines.append(
                    f"{layer.name}, channel {channel}, {symbol}: BatchNorm"
                    f" {target:.4g}; {'; '.join(told)}."
                )
    return "\n".join(lines) + "\n"
