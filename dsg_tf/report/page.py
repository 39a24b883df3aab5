"""The report page: one HTML file, made from the files of a run."""

from __future__ import annotations

import base64
import csv
import io
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dsg_tf.core import errors
from dsg_tf.report import advice, charts
from dsg_tf.samples import run_folders, sample_sets

# Layers with a row of their own in the page; report.json has all of them.
_MOST_ROWS = 500
_MOST_IMAGE_SIDE = 512


# Without these there is nothing to show.
NEEDED = (
    *("agreement", "batch_norm_layers", "config", "dsg_tf", "inputs"),
    *("cover_behind_last_batch_norm", "float_operations", "layers", "machine"),
    *("model", "model_fingerprint", "output", "outputs", "passed", "passes"),
    *("ranges", "samples", "seconds", "simulated", "size_bytes"),
    *("untreated_layers", "verdict"),
)


def of_folder(report: Mapping[str, Any], folder: pathlib.Path) -> str:
    """The page of a run, with what else its folder holds.

    Args:
      report: the parsed report.json.
      folder: of the run; samples and distances are shown where they are.
    """
    path = report["config"]["samples"] or folder / run_folders.SAMPLES
    try:
        arrays = sample_sets.read(
            path, inputs=dict.fromkeys(report["inputs"])
        ).arrays
    except errors.UserError:  # Deleted since, or in memory only.
        arrays = {}
    count = report["samples"]["calibration"]
    calibrating = {name: array[:count] for name, array in arrays.items()}
    return render(report, samples=calibrating, distances=distances_of(folder))


def distances_of(folder: pathlib.Path) -> str:
    """Text of a run's distances.csv; empty where there is none."""
    try:
        return (folder / run_folders.DISTANCES).read_text(encoding="utf-8")
    except OSError:
        return ""


def render(
    report: Mapping[str, Any],
    *,
    samples: Mapping[str, np.ndarray] | None = None,
    distances: str = "",
) -> str:
    """The page of a run, which needs no network and no other file.

    Args:
      report: the parsed report.json, of this version or one before.
      samples: (N, ...) by input name; None where they are gone.
      distances: text of distances.csv; empty where there is none.

    Returns:
      HTML.
    """
    import jinja2

    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    template = pathlib.Path(__file__).with_name("page.html.j2")
    environment.filters["db"] = _db
    report = _completed(report)
    return environment.from_string(template.read_text(encoding="utf-8")).render(
        report=report,
        advice=advice.of(report),
        command=advice.command_line(report),
        rows=_rows(report),
        left_out=max(0, len(report["layers"]) - _MOST_ROWS),
        images=_images(samples or {}),
        layers_chart=charts.layer_sqnr(report["layers"])
        if report["layers"]
        else "",
        histograms=_histograms(report.get("histograms", ())),
        dispersion_chart=charts.dispersion(report["diversity"]["layers"])
        if report.get("diversity")
        else "",
        loss_chart=_loss_chart(distances),
        seconds_chart=charts.seconds(report["seconds"]),
    )


def _completed(report: Mapping[str, Any]) -> dict[str, Any]:
    """A report with what versions before this one did not write."""
    machine = {"versions": {}, **report["machine"]}
    added: dict[str, Any] = {
        "flags": [],
        "latency_ms": {},
        "histograms": [],
        "live_model": False,
    }
    return {**added, **report, "machine": machine}


def _db(value: float | None) -> str:
    # JSON has neither infinity, an exact output's, nor NaN.
    return "none" if value is None else f"{value:.1f} dB"


def _rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Layers, worst first, with what each adds to the loss before it."""
    rows = []
    for row in report["layers"][:_MOST_ROWS]:
        own, before = row["sqnr_db"], row["input_sqnr_db"]
        # Noise adds up: what is in the output and was not in the inputs.
        added = None
        if own is not None:
            inherited = 0.0 if before is None else 10 ** (-before / 10)
            noise = 10 ** (-own / 10) - inherited
            added = -10 * math.log10(noise) if noise > 0 else None
        rows.append(
            {
                **row,
                "added_db": added,
                "position": row.get("position", 0),
                "bar": 0 if own is None else min(100, max(0, own / 0.6)),
            }
        )
    return rows


def _images(samples: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Samples of inputs that look like images, as data URLs."""
    found = {}
    for name, array in samples.items():
        if array.ndim != 4 or array.shape[-1] not in (1, 3):
            continue
        if max(array.shape[1:3]) <= _MOST_IMAGE_SIDE:
            data = base64.b64encode(charts.samples_png(array)).decode()
            found[name] = f"data:image/png;base64,{data}"
    return found


def _histograms(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "layer": row["layer"],
            "parts": [
                (title, charts.histogram(row[key], unit), row[key])
                for key, title, unit in (
                    ("activations", "Activations, float", "value"),
                    ("weights", "Weights, quantized", "weight"),
                )
                if row[key] is not None
            ],
        }
        for row in found
    ]


def _loss_chart(distances: str) -> str:
    batches: dict[str, list[float]] = {}
    for line in csv.DictReader(io.StringIO(distances)):
        batches.setdefault(line["batch"], []).append(float(line["loss"]))
    return charts.losses(batches) if batches else ""
