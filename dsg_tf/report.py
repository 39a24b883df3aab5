"""The report of a run: JSON for programs, a table for the terminal.

`report.json` contains everything; the table shows the agreement with the float
model and the layers with the largest errors.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import dsg_tf
from dsg_tf.calibration import bn_ranges
from dsg_tf.config import run_config
from dsg_tf.diversity import diversity
from dsg_tf.export import simulation
from dsg_tf.fidelity import output_kinds
from dsg_tf.fidelity import verdict as verdict_lib

# Treatment of a layer that no pass supports.
_INSTEAD = "weights rounded to nearest by the exporter, on their own scales"
# Layers on the screen, worst first; report.json has all of them.
_SHOWN_LAYERS = 5
# Doubts, and notes, on the screen.
_SHOWN_DOUBTS = 5
# What an output's agreement is of, by its kind.
_JUDGED_BY = {
    output_kinds.Kind.PROBABILITIES: "top-1",
    output_kinds.Kind.LOGITS: "top-1",
    output_kinds.Kind.SIGMOIDS: "decisions",
    output_kinds.Kind.VALUES: "variance",
    output_kinds.Kind.WHOLE: "equality",
    output_kinds.Kind.CONSTANT: "energy",
}


def build(
    *,
    source,
    config: run_config.PipelineConfig,
    model,
    output: os.PathLike,
    calibrated_with: int,
    verified_on: int,
    edges: Mapping[str, Any] | None,
    rounds: Mapping[str, Mapping] | None,
    diverse,
    prepared,
    written,
    outputs: Mapping[str, Any],
    layers: Sequence[Mapping],
    seconds: Mapping[str, float],
) -> dict:
    """Gathers a run's facts into one JSON-ready dict.

    Args:
      source: the loaded model (`source_model.SourceModel`).
      config: what was asked for.
      model: the model's path, or a live model.
      output: the .tflite's path.
      calibrated_with: number of samples.
      verified_on: number of other samples.
      edges: what the edge trial of their synthesis found; None without one.
      rounds: steps of each batch, and how far it had settled; None where
        nothing was synthesised.
      diverse: of those that calibrate (`diversity.Diversity`).
      prepared: what the passes made (`passes.PreparedGraph`).
      written: what was written (`export_result.ExportResult`).
      outputs: `verify.Fidelity` by output name.
      layers: rows of `fidelity`, worst first.
      seconds: wall seconds by stage.
    """
    is_path = isinstance(model, str | os.PathLike)
    verdict = verdict_lib.judge(
        outputs,
        layers,
        min_agreement=config.min_agreement,
        min_sqnr_db=config.min_sqnr_db,
        # Whoever says where inputs lie knows better than BN's statistics.
        bits_off=0.0 if config.input_range else _unsettled(rounds),
        cosine=diverse.median["cosine"] if rounds else None,
    )
    return {
        "dsg_tf": dsg_tf.__version__,
        "model": os.fspath(model) if is_path else type(model).__name__,
        "model_fingerprint": source.fingerprint,
        "output": os.fspath(output),
        "config": dataclasses.asdict(config),
        "inputs": {
            name: domain.describe() for name, domain in source.domains.items()
        },
        "batch_norm_layers": len(source.layers),
        "cover_behind_last_batch_norm": _cover(source, config),
        "samples": {"calibration": calibrated_with, "verified": verified_on},
        "edges": edges,
        "rounds": rounds,
        "diversity": diverse.to_dict() if diverse.layers else None,
        "simulated": simulation.REASON if config.export.simulated else None,
        "passes": [_pass(report) for report in prepared.reports],
        "untreated_layers": [
            {"layer": layer, "operation": op, "instead": _INSTEAD}
            for layer, op in prepared.untreated
        ]
        + [
            {"layer": layer, "operation": "", "instead": _INSTEAD}
            for layer in written.unmatched
        ],
        "ranges": _ranges(written.ranges),
        "size_bytes": {
            "float": None
            if written.reference is None
            else len(written.reference),
            "integer": written.size_bytes,
        },
        "read_back": written.readback,
        "float_operations": [
            {
                "operation": op,
                "tensor": tensor,
                "reason": written.float_reasons.get(tensor, ""),
            }
            for op, tensor in written.float_ops
        ],
        "agreement": verdict.agreement,
        "passed": verdict.passed,
        "verdict": dataclasses.asdict(verdict),
        "outputs": {k: dataclasses.asdict(c) for k, c in outputs.items()},
        "layers": list(layers),
        "seconds": {**seconds, "total": round(sum(seconds.values()), 2)},
        "machine": {
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
        },
    }


def _unsettled(rounds: Mapping[str, Mapping] | None) -> float:
    """How far ranges are off, in bits, where batches were to settle."""
    return max(
        (
            _number(row["bits_off"])
            for row in (rounds or {}).values()
            if row["settled"] is False
        ),
        default=0.0,
    )


def _settled(report: Mapping) -> list[str]:
    """A line that says why the synthesis stopped; none without a tolerance."""
    rounds = (report.get("rounds") or {}).values()
    asked = [row for row in rounds if row["settled"] is not None]
    if not asked:
        return []
    steps = ", ".join(str(row["steps"]) for row in asked)
    off = max(_number(row["bits_off"]) for row in asked)
    left = max(_number(row["label_share"]) for row in asked)
    state = f"ranges within {off:.2g} bits of BatchNorm's"
    if left:
        state += f", {100 * left:.0f} % of the labels' cross-entropy left"
    word = "settled" if all(row["settled"] for row in asked) else "not settled"
    return [f"samples: {word} after {steps} steps ({state})"]


def _number(value: float | None) -> float:
    return math.inf if value is None else value


def _pass(report) -> dict:
    """A pass's report, for JSON."""
    return {
        "pass": report.name,
        "summary": report.summary(),
        "measured": dict(report.measured),
        "rows": [
            {
                "layer": row.node,
                "applied": row.applied,
                "reason": row.reason,
                **row.measured,
            }
            for row in report.rows
        ],
    }


def _ranges(ranges: Mapping) -> dict:
    """Ranges from samples and from BN, with a flag if they differ a lot."""
    table = {}
    for tensor, (observed, known) in ranges.items():
        row: dict[str, Any] = {"samples": [observed.min, observed.max]}
        if known is not None:
            row["batch_norm"] = [known.min, known.max]
            row["disagree"] = bn_ranges.widths_disagree(observed, known)
        table[tensor] = row
    return table


def to_json(report: Mapping) -> str:
    """Strict JSON: what is not finite becomes null."""
    return json.dumps(_finite(report), indent=2) + "\n"


def show(report: Mapping) -> None:
    """Prints the summary on the terminal."""
    from rich import console as rich_console

    console = rich_console.Console(highlight=False)
    for line in opening(report):
        console.print(line, markup=False, soft_wrap=True)
    console.print(_outputs_table(report))
    if report["layers"]:
        console.print(_layers_table(report))
    for line in summary(report):
        console.print(line, markup=False, soft_wrap=True)


def opening(report: Mapping) -> list[str]:
    """Lines to print above the table: doubts first, then notes."""
    verdict = report["verdict"]
    doubts, notes = verdict["doubts"], verdict["notes"]
    lines = [f"doubtful: {text}" for text in doubts[:_SHOWN_DOUBTS]]
    if len(doubts) > _SHOWN_DOUBTS:
        lines.append(
            f"doubtful: {len(doubts) - _SHOWN_DOUBTS} more (report.json)"
        )
    return lines + [f"note: {text}" for text in notes[:_SHOWN_DOUBTS]]


def summary(report: Mapping) -> list[str]:
    """Lines below the table: files, size, time, and advice."""
    sizes, seconds = report["size_bytes"], report["seconds"]
    size = f"{sizes['integer'] / 1e3:.0f} kB"
    if sizes["float"] is not None:
        size += f" (float {sizes['float'] / 1e3:.0f} kB)"
    lines = [
        f"{report['output']}: {size}, {seconds['total']:.0f} s",
        f"samples, report.json and logs: {report['output']}.run/",
    ]
    lines += _settled(report)
    if report["diversity"]:
        lines.append(diversity.in_one_line(report["diversity"]))
    if report["simulated"]:
        lines.append(report["simulated"])
    lines += [
        entry["summary"]
        for entry in report["passes"]
        if not all(row["applied"] for row in entry["rows"])
    ]
    if report["untreated_layers"]:
        names = [row["layer"] for row in report["untreated_layers"]]
        lines.append(f"{', '.join(names)}: {_INSTEAD}")
    apart = [t for t, row in report["ranges"].items() if row.get("disagree")]
    if apart:
        lines.append(
            f"ranges from samples and from BatchNorm differ by more than a"
            f" factor of 2 in {len(apart)} of {len(report['ranges'])} tensors"
            " (report.json names them)"
        )
    if report["float_operations"]:
        lines += _float_lines(report["float_operations"])
    verdict = report["verdict"]
    reasons = list(verdict["missed"])
    if verdict["doubts"]:
        reasons.append("the result is doubtful, as said on top")
    if reasons:
        worst = report["layers"][0]["layer"] if report["layers"] else "?"
        advice = f"look at layer {worst} first"
        if report["config"]["export"]["activation_bits"] == 8:
            advice += ", or try --activation_bits=16"
        lines.append(f"{'; '.join(reasons)}; {advice}")
    return lines


def _float_lines(operations: Sequence[Mapping]) -> list[str]:
    """Which operations stay float, and why the ends of the model do."""
    names = sorted({row["operation"] for row in operations})
    reasons = sorted({row["reason"] for row in operations} - {""})
    lines = [f"still float ({len(operations)}): {', '.join(names)}"]
    if reasons:
        lines.append("float because of " + "; ".join(reasons[:3]))
    return lines


def _cover(source, config: run_config.PipelineConfig) -> str:
    """How the synthesis covered tensors behind the last BN."""
    synthesis = config.synthesis
    if config.samples:
        return "the user's samples"
    if synthesis.steps == 0:
        return "none: noise"
    cover = []
    if source.head is not None and synthesis.label_weight:
        cover.append(f"labels of {source.head.num_classes} classes")
    others = len(source.graph.outputs) - (source.head is not None)
    if others and synthesis.spread_weight:
        cover.append("output spread")
    return ", ".join(cover) or "none"


def _outputs_table(report: Mapping):
    from rich import table as rich_table

    table = rich_table.Table(
        title=f"Against the float model, {report['samples']['verified']}"
        " samples not used for calibration"
    )
    table.add_column("output")
    table.add_column("judged by")
    for heading in ("agreement", "SQNR dB", "worst channel", "max error"):
        table.add_column(heading, justify="right")
    for name, row in report["outputs"].items():
        table.add_row(
            name,
            _JUDGED_BY[output_kinds.Kind(row["kind"])],
            f"{100 * row['agreement']:.1f} %",
            f"{row['sqnr_mean_db']:.1f}",
            _worst_channel(row),
            f"{row['max_abs_error']:.3g}",
        )
    return table


def _worst_channel(row: Mapping) -> str:
    if row["worst_channel"] is None:
        return "-"
    return f"{row['worst_channel']}: {row['worst_channel_db']:.1f} dB"


def _layers_table(report: Mapping):
    from rich import table as rich_table

    table = rich_table.Table(title="Worst layers")
    table.add_column("layer", overflow="fold")
    table.add_column("operation")
    for heading in ("SQNR dB", "cosine"):
        table.add_column(heading, justify="right")
    for row in report["layers"][:_SHOWN_LAYERS]:
        table.add_row(
            row["layer"],
            row["op"],
            f"{row['sqnr_db']:.1f}",
            f"{row['cosine']:.4f}",
        )
    return table


def _finite(value):
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
