"""An inspection on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dsg_tf.config import run_config
from dsg_tf.core import endings
from dsg_tf.report import inspection
from dsg_tf.transforms import pass_report

# Operations that stay float, and reasons, on the screen.
_SHOWN = 5
_LARGE = 1e6


def run(
    model: object, config: run_config.PipelineConfig, *, style: str = "table"
) -> int:
    """Inspects a model and prints what was found.

    Args:
      model: as for `inspection.inspect_model`.
      config: what would be done.
      style: `table` or `json`.

    Returns:
      The exit code: 1 where the model cannot be quantized.
    """
    found = inspection.inspect_model(model, config=config)
    if style == "json":
        print(found.to_json(), end="")
    else:
        show(found)
    return endings.MENDABLE if found.refusal else 0


def show(found: inspection.Inspection) -> None:
    """Prints an inspection on the terminal."""
    from rich import console as rich_console

    console = rich_console.Console(highlight=False)
    console.print(_inputs(found))
    console.print(_outputs(found))
    if found.layers:
        console.print(_layers(found))
    for line in lines(found):
        console.print(line, markup=False, soft_wrap=True)


def lines(found: inspection.Inspection) -> list[str]:
    """What stands below the tables."""
    told = [*_batch_norms(found), *_pairs(found), *_operations(found)]
    if found.float_bytes is not None and not found.refusal:
        told.append(
            f"size: about {_kilobytes(found.integer_bytes)} (float"
            f" {_kilobytes(found.float_bytes)})"
        )
    if found.cost is not None:
        told.append(f"expected on this machine: {found.cost.in_one_line()}")
    if found.refusal:
        told.append(f"cannot be quantized: {found.refusal}")
    return told


def _kilobytes(size: int | None) -> str:
    return f"{(size or 0) / 1e3:.0f} kB"


def _batch_norms(found: inspection.Inspection) -> Iterator[str]:
    if not found.batch_norms:
        yield "no BatchNormalization layer"
        return
    kinds = pass_report.count(row.treatment for row in found.batch_norms)
    yield f"{len(found.batch_norms)} BatchNormalization layers: " + "; ".join(
        f"{number} {kind}" for kind, number in kinds.items()
    )


def _pairs(found: inspection.Inspection) -> Iterator[str]:
    line = f"{len(found.pairs)} pairs of layers for equalization"
    reasons = pass_report.count(found.unpaired.values())
    if reasons:
        line += "; layers without: " + ", ".join(
            f"{n} {reason}" for reason, n in list(reasons.items())[:_SHOWN]
        )
    yield line


def _operations(found: inspection.Inspection) -> Iterator[str]:
    if found.untreated:
        named = ", ".join(f"{name} ({op})" for name, op in found.untreated)
        yield f"layers that no pass treats: {named}"
    rows = found.float_operations
    if rows:
        reasons = pass_report.count(row.reason for row in rows)
        yield (
            f"{len(rows)} operations stay float, at the model's ends: "
            + "; ".join(list(reasons)[:_SHOWN])
        )


def _table(title: str, headings: Sequence[str], right: Sequence[str] = ()):
    from rich import table as rich_table

    table = rich_table.Table(title=title)
    for heading in (*headings,):
        table.add_column(
            heading,
            overflow="fold",
            justify="right" if heading in right else "left",
        )
    return table


def _shape(shape: Sequence[int | None]) -> str:
    return " x ".join("?" if size is None else str(size) for size in shape)


def _inputs(found: inspection.Inspection):
    table = _table("Inputs", ("input", "shape", "type", "values (evidence)"))
    for row in found.inputs:
        domain = row.domain if row.known else f"{row.domain}; --input_range"
        table.add_row(row.name, _shape(row.shape), row.dtype, domain)
    return table


def _outputs(found: inspection.Inspection):
    table = _table("Outputs", ("output", "shape", "kind", "covered by"))
    for row in found.outputs:
        table.add_row(row.name, _shape(row.shape), row.kind, row.covered_by)
    return table


def _layers(found: inspection.Inspection):
    total = sum(row.weights for row in found.layers)
    table = _table(
        f"{len(found.layers)} layers with {_number(total)} weights",
        ("layer", "operation", "weights", "output", "BatchNormalization"),
        right=("weights",),
    )
    for row in found.layers:
        table.add_row(
            row.name,
            row.operation,
            _number(row.weights),
            _shape(row.shape[1:]),
            row.batch_norm or "-",
        )
    return table


def _number(value: int) -> str:
    if value >= _LARGE:
        return f"{value / 1e6:.2f} M"
    return f"{value:,}"
