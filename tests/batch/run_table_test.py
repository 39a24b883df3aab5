"""Tables say what the record says."""

from __future__ import annotations

import csv
import io
import json

import pytest

from dsg_tf.batch import run_record, run_table
from dsg_tf.core import errors


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
    assert lines[0].startswith("| model | method | run | data | top-1 % |")
    cells = [cell.strip() for cell in lines[2].split(" | ")]
    # Population deviation of 90 and 92 is 1.
    assert "90.00" not in lines[2]
    assert cells[:5] == ["| net", "dsg", "W4A8", "", "91.00 ± 1.00"]
    assert "49 ± 0" in cells
    assert "2 of 3" in cells
    assert "a \\| b |" in lines[2]


def test_markdown_counts_doubtful_runs_and_csv_their_doubts():
    rows = [
        _quantized(0, metrics={"doubts": 2}),
        _quantized(1, metrics={"doubts": 0}),
        _quantized(2, metrics={}),  # Of an earlier version.
    ]
    markdown = run_table.render(rows, "x.md").splitlines()
    assert markdown[0].endswith("| runs | doubtful | error |")
    assert markdown[2].endswith("| 3 of 3 | 1 |  |")
    table = csv.DictReader(io.StringIO(run_table.render(rows, "x.csv")))
    assert [row["doubts"] for row in table] == ["2", "0", ""]


def _float(data: str, data_key: str, percent: float) -> run_record.Row:
    return _row(
        "float",
        f"net/float-{data_key}",
        config={"model": "net", "label": "float"}
        | {"data": data, "data_key": data_key},
        metrics={"top1_percent": percent},
    )


def _evaluation(of: run_record.Row, data: str, data_key: str = "k", **fields):
    config = {"quantized": of.key, "data": data, "data_key": data_key}
    folder = f"{of.folder}/evaluation-{data_key}"
    return _row("evaluate", folder, config=config, **fields)


def test_evaluation_is_joined_to_its_model():
    model = _quantized(0, metrics={"agreement": 0.9, "seconds": 30})
    found = {"top1_percent": 90.0, "float_top1_percent": 91.0}
    evaluation = _evaluation(
        model, "val.npz", metrics={**found, "seconds": 5, "peak_bytes": 9}
    )
    (line,) = run_table.flat([model, evaluation, _ROWS[3]])
    expected = {
        **{"kind": "quantize", "model": "net", "method": "dsg"},
        **{"label": "W4A8", "weight_bits": 4, "activation_bits": None},
        **{"granularity": None, "seed": 0, "num_samples": None, "steps": None},
        **{"status": "done", "error": None, "data": "val.npz"},
        **{"agreement": 0.9, "seconds": 30, "evaluation_seconds": 5},
        **{"peak_bytes": None, "config": model.config, **found},
    }
    assert {name: line[name] for name in expected} == expected
    text = run_table.render([model, evaluation], "x.csv")
    (written,) = csv.DictReader(io.StringIO(text))
    assert written["data"] == "val.npz"
    assert written["top1_percent"] == "90.0"
    assert "config" not in written
    assert "model_status" not in written


def test_two_data_sets_are_two_lines_and_none_is_one():
    models = [_quantized(0), _quantized(1)]
    rows = [
        *models,
        _float("a.npz", "1", 60.0),
        _float("b.npz", "2", 70.0),
        _evaluation(models[0], "a.npz", "1", metrics={"top1_percent": 50.0}),
        _evaluation(models[0], "b.npz", "2", metrics={"top1_percent": 65.0}),
    ]
    shown = ("kind", "seed", "data", "top1_percent")
    assert [[line[n] for n in shown] for line in run_table.flat(rows)] == [
        ["quantize", 0, "a.npz", 50.0],
        ["quantize", 0, "b.npz", 65.0],
        ["quantize", 1, None, None],
        ["float", None, "a.npz", 60.0],
        ["float", None, "b.npz", 70.0],
    ]
    # Means over seeds are of one data set.
    markdown = run_table.render(rows, "x.md").splitlines()[2:]
    assert [line.split(" | ")[3] for line in markdown] == [
        *("a.npz", "b.npz", ""),
        *("a.npz", "b.npz"),
    ]


def test_data_sets_of_one_name_are_told_apart():
    model = _quantized(0)
    rows = [
        model,
        _evaluation(model, "val.npz", "1a"),
        _evaluation(model, "val.npz", "2b"),
        _evaluation(model, "other.npz", "3c"),
    ]
    assert [line["data"] for line in run_table.flat(rows)] == [
        "val.npz 1a",
        "val.npz 2b",
        "other.npz",
    ]


def test_failing_evaluation_is_the_lines_error_and_the_model_stays():
    model = _quantized(0, metrics={"agreement": 0.9})
    evaluation = _evaluation(model, "v", status="failed", error="no labels")
    rows = [model, evaluation]
    (line,) = run_table.flat(rows)
    assert (line["status"], line["error"]) == ("failed", "no labels")
    markdown = run_table.render(rows, "x.md").splitlines()[2]
    assert "| 0.900 |" in markdown
    assert "| 0 of 1 |  | no labels |" in markdown


def test_failed_model_has_its_own_error_and_no_numbers_of_one_before():
    model = _quantized(0, status="failed", error="it broke")
    before = _evaluation(model, "v", metrics={"top1_percent": 90.0})
    after = _evaluation(model, "v", status="failed", error="net: it broke")
    for evaluation in (before, after):
        (line,) = run_table.flat([model, evaluation])
        assert (line["status"], line["error"]) == ("failed", "it broke")
        assert line["top1_percent"] is None


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


def test_evaluation_of_no_known_model_has_no_line():
    row = run_record.Row(
        "k", "evaluate", "net/k", "done", {}, {}, None, "here", "now"
    )
    assert run_table.flat([row]) == []
