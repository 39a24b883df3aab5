"""The summary of a run on the terminal, made from its report."""

from __future__ import annotations

from collections.abc import Sequence

from dsg_tf.diversity import diversity
from dsg_tf.fidelity import output_kinds, verify
from dsg_tf.report import advice, run_report

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


def show(report: run_report.RunReport) -> None:
    """Prints the summary on the terminal."""
    from rich import console as rich_console

    console = rich_console.Console(highlight=False)
    for line in opening(report):
        console.print(line, markup=False, soft_wrap=True)
    console.print(_outputs_table(report))
    if report.layers:
        console.print(_layers_table(report))
    for line in summary(report):
        console.print(line, markup=False, soft_wrap=True)


def opening(report: run_report.RunReport) -> list[str]:
    """Lines to print above the table: doubts first, then notes."""
    verdict = report.verdict
    doubts, notes = verdict.doubts, verdict.notes
    lines = [f"doubtful: {text}" for text in doubts[:_SHOWN_DOUBTS]]
    if len(doubts) > _SHOWN_DOUBTS:
        lines.append(
            f"doubtful: {len(doubts) - _SHOWN_DOUBTS} more (report.json)"
        )
    return lines + [f"note: {text}" for text in notes[:_SHOWN_DOUBTS]]


def summary(report: run_report.RunReport) -> list[str]:
    """Lines below the table: files, size, time, and advice."""
    sizes = report.size_bytes
    size = f"{sizes.integer / 1e3:.0f} kB"
    if sizes.float is not None:
        size += f" (float {sizes.float / 1e3:.0f} kB)"
    lines = [
        f"{report.output}: {size}, {report.total_seconds:.0f} s",
        f"report: {report.output}.run/report.html",
    ]
    lines += _settled(report)
    if report.diversity:
        lines.append(diversity.in_one_line(report.diversity))
    if report.simulated:
        lines.append(report.simulated)
    lines += [entry.summary() for entry in report.passes if entry.skipped]
    if report.untreated_layers:
        names = [row.layer for row in report.untreated_layers]
        lines.append(f"{', '.join(names)}: {run_report.INSTEAD}")
    apart = [t for t, row in report.ranges.items() if row.disagree]
    if apart:
        lines.append(
            f"ranges from samples and from BatchNorm differ by more than a"
            f" factor of 2 in {len(apart)} of {len(report.ranges)} tensors"
            " (report.json names them)"
        )
    if report.float_operations:
        lines += _float_lines(report.float_operations)
    verdict = report.verdict
    reasons = list(verdict.missed)
    if verdict.doubts:
        reasons.append("the result is doubtful, as said on top")
    if reasons:
        worst = report.layers[0]["layer"] if report.layers else "?"
        lines.append(f"{'; '.join(reasons)}; look at layer {worst} first")
    found = advice.of(report.to_dict())
    if found.command:
        lines.append(f"next to try: {found.command}")
    return lines


def _float_lines(operations: Sequence[run_report.FloatOperation]) -> list[str]:
    """Which operations stay float, and why the ends of the model do."""
    names = sorted({row.operation for row in operations})
    reasons = sorted({row.reason for row in operations} - {""})
    lines = [f"still float ({len(operations)}): {', '.join(names)}"]
    if reasons:
        lines.append("float because of " + "; ".join(reasons[:3]))
    return lines


def _settled(report: run_report.RunReport) -> list[str]:
    """A line that says why the synthesis stopped; none without a tolerance."""
    rounds = (report.rounds or {}).values()
    asked = [row for row in rounds if row["settled"] is not None]
    if not asked:
        return []
    steps = ", ".join(str(row["steps"]) for row in asked)
    off = max(run_report.number(row["bits_off"]) for row in asked)
    left = max(run_report.number(row["label_share"]) for row in asked)
    state = f"ranges within {off:.2g} bits of BatchNorm's"
    if left:
        state += f", {100 * left:.0f} % of the labels' cross-entropy left"
    word = "settled" if all(row["settled"] for row in asked) else "not settled"
    return [f"samples: {word} after {steps} steps ({state})"]


def _outputs_table(report: run_report.RunReport):
    from rich import table as rich_table

    table = rich_table.Table(
        title=f"Against the float model, {report.samples.verified}"
        " samples not used for calibration"
    )
    table.add_column("output")
    table.add_column("judged by")
    for heading in ("agreement", "SQNR dB", "worst channel", "max error"):
        table.add_column(heading, justify="right")
    for name, row in report.outputs.items():
        table.add_row(
            name,
            _JUDGED_BY[output_kinds.Kind(row.kind)],
            f"{100 * row.agreement:.1f} %",
            f"{row.sqnr_mean_db:.1f}",
            _worst_channel(row),
            f"{row.max_abs_error:.3g}",
        )
    return table


def _worst_channel(row: verify.Fidelity) -> str:
    if row.worst_channel is None:
        return "-"
    return f"{row.worst_channel}: {row.worst_channel_db:.1f} dB"


def _layers_table(report: run_report.RunReport):
    from rich import table as rich_table

    table = rich_table.Table(title="Worst layers")
    table.add_column("layer", overflow="fold")
    table.add_column("operation")
    for heading in ("SQNR dB", "cosine"):
        table.add_column(heading, justify="right")
    for row in report.layers[:_SHOWN_LAYERS]:
        table.add_row(
            row["layer"],
            row["op"],
            f"{row['sqnr_db']:.1f}",
            f"{row['cosine']:.4f}",
        )
    return table
