"""Reads the numbers for a table of runs from the files of the runs."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

EVALUATION = "evaluation.json"


def of_report(report: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a report.json that a table shows.

    Returns:
      `agreement` with the float model on held-out samples, 0..1; `sqnr_db`,
      the worst output's, None where it is not finite; `sqnr_mean_db`, around
      its own mean; `doubts`, how many, `doubt_texts`, and `low_sqnr`, those of
      them about `sqnr_mean_db`; `size_bytes`; `stage_seconds`; `seconds` of
      all.
    """
    outputs = report["outputs"].values()
    ratios = [o["sqnr_db"] for o in outputs if o["sqnr_db"] is not None]
    if not all(o.get("finite", True) for o in outputs):
        ratios = []  # Minus infinity, which JSON does not have.
    stages = dict(report["seconds"])
    verdict = report.get("verdict", {})
    return {
        "doubts": len(verdict.get("doubts", ())),
        "doubt_texts": list(verdict.get("doubts", ())),
        "low_sqnr": list(verdict.get("low_sqnr", ())),
        "sqnr_mean_db": verdict.get("sqnr_db"),
        "agreement": report["agreement"],
        "sqnr_db": min(ratios) if ratios else None,
        "size_bytes": report["size_bytes"]["integer"],
        "seconds": stages.pop("total", None),
        "stage_seconds": stages,
    }


def of_evaluation(
    evaluation: Mapping[str, Any], floats: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The numbers of an evaluation, and against the float model's.

    Args:
      evaluation: what `dsg_tf.evaluate` has written.
      floats: the same of the float model on the same images; None for the
        float model itself.

    Returns:
      `top1_percent`, `top1_standard_error_percent`; and `float_top1_percent`,
      `same_class_percent`: the share of images that both put in one class.
    """
    found = {
        "top1_percent": evaluation["top1_percent"],
        "top1_standard_error_percent": evaluation["standard_error_percent"],
    }
    if floats is not None:
        pairs = list(zip(evaluation["classes"], floats["classes"], strict=True))
        found["float_top1_percent"] = floats["top1_percent"]
        found["same_class_percent"] = (
            100.0 * sum(a == b for a, b in pairs) / len(pairs)
        )
    return found


def read(path: pathlib.Path) -> dict[str, Any] | None:
    """A JSON file; None where it is not there, or not whole."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, RecursionError, ValueError):
        return None
