"""Runs become lines of the paper's tables, beside what the paper has."""

from __future__ import annotations

import csv
import io

import pytest

from tools import paper, paper_table


def _row(method, top1, *, widths=(4, 4), model="net", label=0.0, prior=0.0):
    synthesis = {"label_weight": label, "prior_weight": prior}
    return {
        "kind": "quantize",
        "model": model,
        "method": method,
        "weight_bits": widths[0],
        "activation_bits": widths[1],
        "top1_percent": top1,
        "float_top1_percent": 92.0,
        "config": {"config": {"synthesis": synthesis}},
    }


def _float(model="net", top1=92.0):
    return {
        "kind": "float",
        "model": model,
        "method": None,
        "top1_percent": top1,
        "config": {},
    }


_ROWS = [
    _row("dsg", 88.0, label=1.0),
    _row("dsg", 89.0, label=1.0),
    _row("dsg", 90.0, label=1.0),
    _row("zeroq", 85.0),
    _row("real", 88.5),
    _row("dsg", 91.0, widths=(8, 8), label=1.0),
    _float(),
]


def _lines(rows=_ROWS):
    return paper_table.lines(rows)


def _records(rows=_ROWS, table=1):
    text = paper_table.comma_separated(paper.TABLES[table], _lines(rows))
    return list(csv.DictReader(io.StringIO(text)))


class TestLines:
    def test_float_is_first_and_methods_stand_in_the_papers_order(self):
        found = [(line.widths, line.method) for line in _lines()]
        assert found == [
            ((32, 32), "float"),
            ((4, 4), "real"),
            ((4, 4), "zeroq"),
            ((4, 4), "dsg"),
            ((8, 8), "dsg"),
        ]

    def test_seeds_become_mean_and_population_deviation(self):
        line = next(x for x in _lines() if x.method == "dsg")
        assert line.mean == pytest.approx(89.0)
        assert line.deviation == pytest.approx((2 / 3) ** 0.5)
        assert line.drop == pytest.approx(3.0)

    def test_one_seed_has_no_deviation(self):
        line = next(x for x in _lines() if x.method == "real")
        assert line.deviation is None

    def test_models_stay_apart_and_in_their_order(self):
        rows = [_row("dsg", 1.0, model="b"), _row("dsg", 2.0, model="a")]
        assert [(x.model, x.top1) for x in _lines(rows)] == [
            ("b", (1.0,)),
            ("a", (2.0,)),
        ]

    def test_labels_and_prior_make_lines_of_their_own(self):
        rows = [
            _row("zeroq", 1.0),
            _row("zeroq", 2.0, label=1.0),
            _row("zeroq", 3.0, label=1.0, prior=0.1),
        ]
        assert [(x.label, x.prior) for x in _lines(rows)] == [
            (False, False),
            (True, False),
            (True, True),
        ]

    def test_real_images_and_noise_have_neither(self):
        rows = [_row(m, 1.0, label=1.0, prior=1.0) for m in ("real", "noise")]
        assert not any(x.label or x.prior for x in _lines(rows))

    def test_a_run_without_result_is_counted_and_not_averaged(self):
        rows = [_row("dsg", 80.0), _row("dsg", None)]
        (line,) = _lines(rows)
        assert (line.mean, line.failed) == (80.0, 1)


class TestCells:
    def test_are_the_papers_columns(self):
        row = next(r for r in _records() if r["Method"] == "DSG")
        assert row == {
            "Model": "net",
            "Method": "DSG",
            "No D": "yes",
            "No FT": "yes",
            "Label": "yes",
            "Image prior": "no",
            "W-bit": "4",
            "A-bit": "4",
            "Top-1": "89.00",
            "Standard deviation": "0.82",
            "Drop": "3.00",
            "Paper's top-1": "87.75",
            "Paper's drop": "6.33",
            "Seeds": "3",
        }

    def test_real_data_is_data(self):
        row = next(r for r in _records() if r["Method"] == "Real data")
        assert (row["No D"], row["Label"]) == ("no", "")

    def test_float_stands_beside_the_papers(self):
        row = _records()[0]
        assert (row["Method"], row["Top-1"], row["Drop"]) == (
            "Float",
            "92.00",
            "",
        )
        assert row["Paper's top-1"] == "94.08"

    def test_widths_that_the_paper_has_not_are_empty(self):
        row = _records([_row("dsg", 1.0, widths=(2, 2))])[0]
        assert row["Paper's top-1"] == row["Paper's drop"] == ""

    def test_a_float_that_the_paper_does_not_tell_gives_no_drop(self):
        row = _records([_row("dsg", 1.0, widths=(4, 32))], table=4)[0]
        assert (row["Paper's top-1"], row["Paper's drop"]) == ("58.13", "")


class TestMarkdown:
    def test_has_mean_and_deviation_in_one_cell(self):
        text = paper_table.markdown(paper.TABLES[1], _lines())
        assert "| 89.00 ± 0.82 |" in text
        assert "| 88.50 |" in text

    def test_ends_with_how_dsg_stands_to_the_others(self):
        text = paper_table.markdown(paper.TABLES[1], _lines())
        assert text.endswith(
            "| net | 4 | 4 | +4.00 (+2.36) | +0.50 (+0.37) |\n"
        )

    def test_without_others_there_is_no_such_table(self):
        rows = [_row("dsg", 1.0)]
        text = paper_table.markdown(paper.TABLES[1], _lines(rows))
        assert "DSG - ZeroQ" not in text


@pytest.mark.parametrize("number", paper.TABLES)
def test_every_table_of_the_paper_has_its_three_methods(number):
    table = paper.TABLES[number]
    for by_method in table.top1.values():
        assert set(by_method) == {"real", "zeroq", "dsg"}
        # In all of the paper DSG is above ZeroQ.
        assert by_method["dsg"] > by_method["zeroq"]
