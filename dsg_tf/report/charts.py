"""Charts of the report page, as SVG that follows the page's colours."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dsg_tf.config import run_config

# Stands in the SVG for the page's text colour, which dark pages change.
_INK = "#010203"
_MAIN, _SECOND = "#0072B2", "#D55E00"
_SETTINGS: Any = {
    "font.size": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "dsg_tf",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    **dict.fromkeys(
        (
            *("text.color", "axes.edgecolor", "axes.labelcolor"),
            *("xtick.color", "ytick.color"),
        ),
        _INK,
    ),
}


@contextlib.contextmanager
def _axes(height: float, width: float = 8.0) -> Iterator[tuple[Any, list[str]]]:
    """Axes to draw on; the list holds the SVG afterwards."""
    import matplotlib
    from matplotlib import figure

    texts: list[str] = []
    with matplotlib.rc_context(_SETTINGS):
        drawn = figure.Figure(figsize=(width, height), layout="constrained")
        yield drawn.subplots(), texts
        buffer = io.StringIO()
        drawn.savefig(
            buffer, format="svg", transparent=True, metadata={"Date": None}
        )
    text = buffer.getvalue()
    # The prologue has no place inside of a page.
    texts.append(text[text.index("<svg") :].replace(_INK, "currentColor"))


def layer_sqnr(rows: Sequence[Mapping[str, Any]]) -> str:
    """SQNR of every layer in the order of the network, dB.

    Args:
      rows: of a report's `layers`; those without a finite SQNR are left out.
    """
    shown = sorted(
        (r for r in rows if r["sqnr_db"] is not None),
        key=lambda row: row.get("position", 0),
    )
    with _axes(2.6) as (axes, texts):
        numbers = np.arange(len(shown))
        axes.bar(numbers, [r["sqnr_db"] for r in shown], color=_MAIN)
        axes.axhline(
            run_config.LEAST_SQNR_DB, color=_SECOND, linestyle="--", linewidth=1
        )
        axes.set_xlabel("layer, in the order of the network")
        axes.set_ylabel("SQNR, dB")
    return texts[0]


def histogram(found: Mapping[str, Any], unit: str) -> str:
    """Values of a tensor, with what its grid covers.

    Args:
      found: a `layer_histograms.Histogram` as JSON has it.
      unit: of the values.
    """
    edges, counts = np.array(found["edges"]), np.array(found["counts"])
    with _axes(2.0, 4.0) as (axes, texts):
        axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=_MAIN)
        axes.set_yscale("symlog", linthresh=1)
        if found["low"] is not None:
            for end in (found["low"], found["high"]):
                axes.axvline(end, color=_SECOND, linestyle="--", linewidth=1)
        axes.set_xlabel(unit)
        axes.set_ylabel("values")
    return texts[0]


def seconds(stages: Mapping[str, float]) -> str:
    """Wall seconds by stage."""
    names = [name for name in stages if name != "total"]
    with _axes(0.4 + 0.28 * len(names)) as (axes, texts):
        axes.barh(names, [stages[n] for n in names], color=_MAIN)
        axes.invert_yaxis()
        axes.set_xlabel("seconds")
    return texts[0]


def dispersion(rows: Sequence[Mapping[str, Any]]) -> str:
    """How samples scatter at the BN layers, in the order of the network.

    Args:
      rows: of a report's `diversity`.
    """
    with _axes(2.4) as (axes, texts):
        for name, colour, label in (
            ("mean_dispersion", _MAIN, "means of single samples"),
            ("deviation_dispersion", _SECOND, "their deviations"),
        ):
            values = [np.nan if r[name] is None else r[name] for r in rows]
            axes.plot(values, color=colour, label=label, linewidth=1.4)
        axes.set_xlabel("BatchNorm layer, in the order of the network")
        axes.set_ylabel("scatter, sigma")
        axes.legend(frameon=False)
    return texts[0]


def losses(batches: Mapping[str, Sequence[float]]) -> str:
    """Synthesis loss by epoch, a line a batch."""
    with _axes(2.2) as (axes, texts):
        for number, values in enumerate(batches.values()):
            axes.plot(
                values, color=_MAIN if number == 0 else _SECOND, linewidth=1
            )
        axes.set_xlabel("epoch of at most ten steps")
        axes.set_ylabel("loss")
    return texts[0]


def samples_png(images: np.ndarray, *, most: int = 8) -> bytes:
    """Samples side by side, as PNG.

    Args:
      images: (N, H, W, C) with 1 or 3 channels, any units: the picture goes
        from the least value to the greatest.
      most: how many are shown.
    """
    from matplotlib import image as matplotlib_image

    shown = np.asarray(images[:most], np.float32)
    low, high = float(shown.min()), float(shown.max())
    shown = (shown - low) / ((high - low) or 1.0)
    if shown.shape[-1] == 1:
        shown = np.repeat(shown, 3, axis=-1)
    # Small inputs are enlarged by whole numbers, with sharp pixels.
    times = max(1, 96 // max(shown.shape[1:3]))
    shown = shown.repeat(times, axis=1).repeat(times, axis=2)
    shown = np.pad(shown, [(0, 0), (2, 2), (2, 2), (0, 0)], constant_values=1)
    buffer = io.BytesIO()
    matplotlib_image.imsave(
        buffer, np.concatenate(list(shown), axis=1), format="png"
    )
    return buffer.getvalue()
