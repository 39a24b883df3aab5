"""A batch's record as a table: CSV, Markdown, JSON lines."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from dsg_tf import errors, run_record

# Of a run's config, then of its metrics, in the table's order.
_CONFIG = (
    "model",
    "method",
    "weight_bits",
    "activation_bits",
    "granularity",
    "recipe",
    "weight_rounding",
    "range_method",
    "bias_correction",
    "io_type",
    "exporter",
    "num_samples",
    "steps",
    "seed",
)
METRICS = (
    "top1_percent",
    "top1_standard_error_percent",
    "float_top1_percent",
    "same_class_percent",
    "agreement",
    "sqnr_db",
    "size_bytes",
    "peak_bytes",
    "seconds",
)
_ROW = ("artifact", "host", "started", "finished", "error")
# For people: what they decide by.
_MARKDOWN = {
    "top1_percent": "top-1 %",
    "float_top1_percent": "float top-1 %",
    "same_class_percent": "class of float %",
    "agreement": "agreement",
    "sqnr_db": "SQNR dB",
    "size_bytes": "kB",
    "seconds": "seconds",
}
_DIGITS = {"agreement": 3, "seconds": 0, "sqnr_db": 1, "size_bytes": 0}


def check(path: str) -> None:
    """Refuses a path whose format is unknown, or that cannot be written.

    Raises:
      errors.UserError: the suffix is none of .csv, .md, .jsonl, or there is
        no such folder.
    """
    target = pathlib.Path(path)
    if target.suffix not in _FORMATS:
        raise errors.UserError(
            "--export",
            got=repr(path),
            expected="a file that ends with " + ", ".join(sorted(_FORMATS)),
        )
    if target.is_dir() or not target.absolute().parent.is_dir():
        raise errors.UserError(
            "--export",
            got=repr(path),
            expected="a file in a folder that is there",
        )


def render(rows: Sequence[run_record.Row], path: str) -> str:
    """Text of the format that the path's suffix names.

    JSON lines hold every row whole. CSV and Markdown hold the quantized models
    and the float ones, not the samples that these share: CSV a line a run and
    a column a number, seconds by stage among them; Markdown a line a setting,
    with mean and population standard deviation over seeds.
    """
    return _FORMATS[pathlib.Path(path).suffix](rows)


def _models(rows: Sequence[run_record.Row]) -> list[run_record.Row]:
    return [row for row in rows if row.kind != "samples"]


def _flat(row: run_record.Row) -> dict[str, Any]:
    """A row as one level of names."""
    flat: dict[str, Any] = {
        "kind": row.kind,
        "folder": row.folder,
        "status": row.status,
    }
    flat |= {name: row.config.get(name) for name in _CONFIG}
    flat["label"] = row.config.get("label")
    flat |= {name: row.metrics.get(name) for name in METRICS}
    stages: Mapping = row.metrics.get("stage_seconds", {})
    flat |= {f"{stage}_seconds": s for stage, s in stages.items()}
    return flat | {name: getattr(row, name) for name in _ROW}


def _csv(rows: Sequence[run_record.Row]) -> str:
    flat = [_flat(row) for row in _models(rows)]
    stages = sorted(
        {name for row in flat for name in row if name.endswith("_seconds")}
    )
    columns = [
        "kind",
        "folder",
        "status",
        *_CONFIG,
        *METRICS,
        *stages,
        *_ROW,
    ]
    text = io.StringIO()
    writer = csv.DictWriter(
        text, columns, extrasaction="ignore", lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def _markdown(rows: Sequence[run_record.Row]) -> str:
    """A line for each setting: mean and deviation over its seeds."""
    groups: dict[tuple, list[run_record.Row]] = {}
    for row in _models(rows):
        group = tuple(
            str(row.config.get(name, ""))
            for name in ("model", "method", "label")
        )
        groups.setdefault(group, []).append(row)
    heads = ["model", "method", "run", *_MARKDOWN.values(), "runs", "error"]
    lines = [
        "| " + " | ".join(heads) + " |",
        "|" + " --- |" * len(heads),
    ]
    for group, members in groups.items():
        done = [row for row in members if row.status == "done"]
        cells = [*group, *(_spread(name, done) for name in _MARKDOWN)]
        cells.append(f"{len(done)} of {len(members)}")
        cells.append(next((row.error for row in members if row.error), ""))
        cells = [cell.replace("|", "\\|") for cell in cells]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _spread(name: str, rows: Sequence[run_record.Row]) -> str:
    """`mean ± deviation` over rows, the mean alone of one."""
    values = [row.metrics.get(name) for row in rows]
    values = [value for value in values if value is not None]
    if not values:
        return ""
    scale = 1e-3 if name == "size_bytes" else 1.0
    digits = _DIGITS.get(name, 2)
    text = f"{scale * statistics.fmean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ± {scale * statistics.pstdev(values):.{digits}f}"
    return text


def _json_lines(rows: Sequence[run_record.Row]) -> str:
    return "".join(
        json.dumps(dataclasses.asdict(row), sort_keys=True) + "\n"
        for row in rows
    )


_FORMATS = {".csv": _csv, ".md": _markdown, ".jsonl": _json_lines}
