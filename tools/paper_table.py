"""Runs of a batch in the form of the paper's tables.

A line is a model, a method and widths: mean and population standard deviation
of top-1 over seeds, how far that lies below float, and the same of the paper.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from tools import paper

_FLOAT = 32
# In the tables' order.
_METHODS = {
    "real": "Real data",
    "noise": "Noise",
    "zeroq": "ZeroQ",
    "dsg": "DSG",
}
_YES, _NO = "✓", "✗"


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a table.

    Attributes:
      model: its name in the batch.
      method: `float`, `real`, `noise`, `zeroq` or `dsg`.
      label: whether samples were drawn to classes.
      prior: whether they were made with the image prior.
      widths: bits of weights and activations.
      top1: percent, one a seed.
      float_top1: of the model, percent.
      failed: runs of the line that have no result.
    """

    model: str
    method: str
    label: bool
    prior: bool
    widths: paper.Widths
    top1: tuple[float, ...]
    float_top1: float | None
    failed: int = 0

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.top1) if self.top1 else None

    @property
    def deviation(self) -> float | None:
        """Over seeds; None of fewer than two."""
        return statistics.pstdev(self.top1) if len(self.top1) > 1 else None

    @property
    def drop(self) -> float | None:
        """Points below float."""
        if self.mean is None or self.float_top1 is None:
            return None
        return self.float_top1 - self.mean


def lines(rows: Sequence[Mapping[str, Any]]) -> list[Line]:
    """The lines of a table, float first in each model.

    Args:
      rows: from `run_table.flat`; samples are not among them.
    """
    groups: dict[tuple, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(_group(row), []).append(row)
    made = []
    for (model, method, label, prior, widths), members in groups.items():
        top1 = [row.get("top1_percent") for row in members]
        floats = [row.get("float_top1_percent") for row in members]
        if method == "float":
            floats = top1
        made.append(
            Line(
                model,
                method,
                label,
                prior,
                widths,
                tuple(value for value in top1 if value is not None),
                next((value for value in floats if value is not None), None),
                failed=top1.count(None),
            )
        )
    models = list(dict.fromkeys(line.model for line in made))
    order = ["float", *_METHODS]
    return sorted(
        made,
        key=lambda line: (
            models.index(line.model),
            line.method != "float",
            line.widths,
            order.index(line.method),
            line.label,
            line.prior,
        ),
    )


def _group(row: Mapping[str, Any]) -> tuple:
    if row["kind"] == "float":
        return row["model"], "float", False, False, (_FLOAT, _FLOAT)
    synthesis = row["config"]["config"]["synthesis"]
    method = row["method"]
    made = method in ("zeroq", "dsg")
    return (
        row["model"],
        method,
        made and synthesis["label_weight"] > 0,
        made and synthesis["prior_weight"] > 0,
        (int(row["weight_bits"]), int(row["activation_bits"])),
    )


_COLUMNS = (
    "Model",
    "Method",
    "No D",
    "No FT",
    "Label",
    "Image prior",
    "W-bit",
    "A-bit",
    "Top-1",
    "Drop",
    "Paper's top-1",
    "Paper's drop",
    "Seeds",
)


def markdown(table: paper.Table, found: Sequence[Line]) -> str:
    """The table, and below it how DSG stands to ZeroQ and to real data."""
    text = _markdown_table(_COLUMNS, [_cells(table, line) for line in found])
    gaps = _gaps(table, found)
    if gaps:
        text += "\nPoints of top-1, means over seeds (the paper's):\n\n"
        heads = ("Model", "W-bit", "A-bit", "DSG - ZeroQ", "DSG - real data")
        text += _markdown_table(heads, gaps)
    return text


def comma_separated(table: paper.Table, found: Sequence[Line]) -> str:
    """The same lines as CSV, mean and deviation in columns of their own."""
    at = _COLUMNS.index("Top-1")
    columns = [*_COLUMNS[: at + 1], "Standard deviation", *_COLUMNS[at + 1 :]]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for line in found:
        cells = _cells(table, line)
        cells[at : at + 1] = [_number(line.mean), _number(line.deviation)]
        yes_or_no = {_YES: "yes", _NO: "no"}
        writer.writerow([yes_or_no.get(cell, cell) for cell in cells])
    return text.getvalue()


def _cells(table: paper.Table, line: Line) -> list[str]:
    is_float = line.method == "float"
    top1 = _number(line.mean)
    if line.deviation is not None:
        top1 += f" ± {line.deviation:.2f}"
    seeds = str(len(line.top1))
    if line.failed:
        seeds += f" ({line.failed} failed)"
    theirs = (
        table.float_top1
        if is_float
        else table.top1.get(line.widths, {}).get(line.method)
    )
    return [
        line.model,
        "Float" if is_float else _METHODS[line.method],
        "" if is_float else _mark(line.method != "real"),
        "" if is_float else _YES,
        _mark(line.label) if line.method in ("zeroq", "dsg") else "",
        _mark(line.prior) if line.method in ("zeroq", "dsg") else "",
        str(line.widths[0]),
        str(line.widths[1]),
        top1,
        "" if is_float else _number(line.drop),
        _number(theirs),
        "" if is_float else _number(table.drop(line.widths, line.method)),
        seeds,
    ]


def _gaps(table: paper.Table, found: Sequence[Line]) -> list[list[str]]:
    """Of each model and widths: DSG against ZeroQ and against real data."""
    means: dict[tuple, dict[str, float]] = {}
    for line in found:
        if line.mean is not None and line.method in _METHODS:
            at = means.setdefault((line.model, line.widths), {})
            # With and without labels, the last line stands for the method.
            at[line.method] = line.mean
    gaps = []
    for (model, widths), ours in means.items():
        theirs = table.top1.get(widths, {})
        cells = [
            _difference(ours, theirs, other) for other in ("zeroq", "real")
        ]
        if any(cells):
            gaps.append([model, str(widths[0]), str(widths[1]), *cells])
    return gaps


def _difference(ours, theirs, other: str) -> str:
    if "dsg" not in ours or other not in ours:
        return ""
    text = f"{ours['dsg'] - ours[other]:+.2f}"
    if other in theirs:
        text += f" ({theirs['dsg'] - theirs[other]:+.2f})"
    return text


def _mark(yes: bool) -> str:
    return _YES if yes else _NO


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
