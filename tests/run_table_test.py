"""Tables say what the record says."""

from __future__ import annotations

import csv
import io
import json

import pytest

from dsg_tf import errors, run_record, run_table


def _row(kind: str, folder: str, **fields) -> run_record.Row:
    status = fields.pop("status", "done")
    return run_record.Row(
        key=folder,
        kind=kind,
        folder=folder,
        status=status,
        config=fields.pop("config", {}),
        metrics=fields.pop("metrics", {}),
        artifact=None,
        host="here",
        started="2026-01-01T00:00:00+00:00",
        **fields,
    )


def _quantized(seed: int, **fields) -> run_record.Row:
    config = {
        "model": "net",
        "method": "dsg",
        "label": "W4A8",
        "weight_bits": 4,
        "seed": seed,
    }
    return _row("quantize", f"net/seed{seed}", config=config, **fields)


_ROWS = [
    _quantized(
        0,
        metrics={
            "top1_percent": 90.0,
            "size_bytes": 48_600,
            "stage_seconds": {"load": 1.5},
        },
    ),
    _quantized(1, metrics={"top1_percent": 92.0, "size_bytes": 48_600}),
    _quantized(2, status="failed", error="a | b"),
    _row("samples", "samples/1.npz.run"),
]


def test_csv_has_a_line_a_run_and_a_column_a_number():
    rows = list(csv.DictReader(io.StringIO(run_table.render(_ROWS, "x.csv"))))
    assert [row["folder"] for row in rows] == [r.folder for r in _ROWS[:3]]
    assert rows[0]["weight_bits"] == "4"
    assert rows[0]["top1_percent"] == "90.0"
    assert rows[0]["load_seconds"] == "1.5"
    assert rows[1]["load_seconds"] == ""
    assert rows[2]["error"] == "a | b"


def test_markdown_gives_mean_and_deviation_over_seeds():
    lines = run_table.render(_ROWS, "x.md").splitlines()
    assert len(lines) == 3
    cells = [cell.strip() for cell in lines[2].split(" | ")]
    # Population deviation of 90 and 92 is 1.
    assert "90.00" not in lines[2]
    assert cells[:4] == ["| net", "dsg", "W4A8", "91.00 ± 1.00"]
    assert "49 ± 0" in cells
    assert "2 of 3" in cells
    assert "a \\| b |" in lines[2]


def test_json_lines_hold_every_row_whole():
    lines = run_table.render(_ROWS, "x.jsonl").splitlines()
    assert [json.loads(line)["kind"] for line in lines] == [
        "quantize",
        "quantize",
        "quantize",
        "samples",
    ]
    assert json.loads(lines[0])["metrics"]["stage_seconds"] == {"load": 1.5}


@pytest.mark.parametrize("path", ["runs.xls", "runs", "absent/runs.csv"])
def test_path_that_cannot_be_is_refused(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.UserError, match="--export"):
        run_table.check(path)
