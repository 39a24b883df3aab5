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

from dsg_tf.batch import grid, run_record
from dsg_tf.core import errors, files

# Of a run's config, then of its metrics, in the table's order.
_CONFIG = ("model", *grid.NAMES)
METRICS = (
    "top1_percent",
    "top1_standard_error_percent",
    "float_top1_percent",
    "same_class_percent",
    "agreement",
    "sqnr_db",
    "sqnr_mean_db",
    "doubts",
    "size_bytes",
    "peak_bytes",
    "seconds",
)
# Of these, what comes from the evaluation of a quantized model.
_OF_EVALUATION = (
    "top1_percent",
    "top1_standard_error_percent",
    "float_top1_percent",
    "same_class_percent",
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


def check(path: str, inputs: Mapping[str, object] | None = None) -> None:
    """Refuses a path whose format is unknown, or that cannot be written.

    Args:
      path: where the table shall go.
      inputs: what the batch reads; see `overlaps.refuse`.

    Raises:
      errors.UserError: the suffix is none of .csv, .md, .jsonl, there is no
        such folder, or it would go over an input.
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
    files.destination(path, inputs or {}, subject="--export")


def render(rows: Sequence[run_record.Row], path: str) -> str:
    """Text of the format that the path's suffix names.

    JSON lines hold every row whole. CSV and Markdown hold the quantized models
    and the float ones, not the samples that these share: CSV a line a model
    and data set (see `flat`) and a column a number, seconds by stage among
    them; Markdown a line a setting, with mean and population standard deviation
    over seeds.
    """
    return _FORMATS[pathlib.Path(path).suffix](rows)


def flat(rows: Sequence[run_record.Row]) -> list[dict[str, Any]]:
    """The models of a record, each with what its evaluation has found.

    Args:
      rows: all of the record.

    Returns:
      A dict for each float model and each quantized one; of a quantized model
      that was evaluated on several data sets, one for each. It holds `kind`
      (`float` or `quantize`), `folder`, `status`, `label`, what was asked for
      (`model`, `method`, `weight_bits`, `seed`, ...), `data`, the name of the
      data set, the numbers of `METRICS`, seconds by stage, `artifact`, `host`,
      `started`, `finished`, `error`, and `config`, the row's own. What is not
      known is None. `status` and `error` are the evaluation's where the model
      itself is done; `model_status` is the model's in any case.
    """
    evaluations: dict[str, list[run_record.Row]] = {}
    for row in rows:
        if row.kind == "evaluate":
            model = row.config.get("quantized")
            evaluations.setdefault(model, []).append(row)
    names = _data_names(rows)
    lines = []
    for row in rows:
        if row.kind == "float":
            lines.append(_line(row) | {"data": names[row.key]})
        elif row.kind == "quantize":
            lines += [
                _joined(row, evaluation) | {"data": names[evaluation.key]}
                for evaluation in evaluations.get(row.key, ())
            ] or [_line(row)]
    return lines


def _data_names(rows: Sequence[run_record.Row]) -> dict[str, str | None]:
    """What the data set of each evaluation is called, by the row's key.

    Of several that have one name each gets a part of its hash behind it.
    """
    hashes: dict[str | None, set] = {}
    data = {
        row.key: (row.config.get("data"), row.config.get("data_key"))
        for row in rows
        if row.kind in ("float", "evaluate")
    }
    for name, data_key in data.values():
        hashes.setdefault(name, set()).add(data_key)
    return {
        key: f"{name} {data_key}" if len(hashes[name]) > 1 else name
        for key, (name, data_key) in data.items()
    }


def _line(row: run_record.Row) -> dict[str, Any]:
    """A row as one level of names."""
    line: dict[str, Any] = {
        "kind": row.kind,
        "folder": row.folder,
        "status": row.status,
        "model_status": row.status,
        "data": None,
    }
    line |= {name: row.config.get(name) for name in _CONFIG}
    line["label"] = row.config.get("label")
    line |= {name: row.metrics.get(name) for name in METRICS}
    stages: Mapping = row.metrics.get("stage_seconds", {})
    line |= {f"{stage}_seconds": s for stage, s in stages.items()}
    line |= {name: getattr(row, name) for name in _ROW}
    return line | {"config": row.config}


def _joined(row: run_record.Row, evaluation: run_record.Row) -> dict[str, Any]:
    """The line of a quantized model, with an evaluation of it."""
    line = _line(row)
    if row.status != "done":  # Then the evaluation is of a model before it.
        return line
    line |= {name: evaluation.metrics.get(name) for name in _OF_EVALUATION}
    line["evaluation_seconds"] = evaluation.metrics.get("seconds")
    return line | {"status": evaluation.status, "error": evaluation.error}


def _csv(rows: Sequence[run_record.Row]) -> str:
    lines = flat(rows)
    stages = sorted(
        {name for line in lines for name in line if name.endswith("_seconds")}
    )
    columns = [
        "kind",
        "folder",
        "status",
        *_CONFIG,
        "data",
        *METRICS,
        *stages,
        *_ROW,
    ]
    text = io.StringIO()
    writer = csv.DictWriter(
        text, columns, extrasaction="ignore", lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _markdown(rows: Sequence[run_record.Row]) -> str:
    """A line for each setting: mean and deviation over its seeds."""
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for line in flat(rows):
        group = tuple(
            str(line[name] or "")
            for name in ("model", "method", "label", "data")
        )
        groups.setdefault(group, []).append(line)
    heads = ["model", "method", "run", "data", *_MARKDOWN.values()]
    heads += ["runs", "doubtful", "error"]
    lines = [
        "| " + " | ".join(heads) + " |",
        "|" + " --- |" * len(heads),
    ]
    for group, members in groups.items():
        # What a model is known by stays, whatever came of its evaluation.
        made = [row for row in members if row["model_status"] == "done"]
        cells = [*group, *(_spread(name, made) for name in _MARKDOWN)]
        done = sum(row["status"] == "done" for row in members)
        cells.append(f"{done} of {len(members)}")
        cells.append(str(sum(bool(row["doubts"]) for row in made) or ""))
        cells.append(next((r["error"] for r in members if r["error"]), ""))
        cells = [cell.replace("|", "\\|") for cell in cells]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _spread(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """`mean ± deviation` over rows, the mean alone of one."""
    values = [row[name] for row in rows]
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
