"""Scores are found again by the process that comes after."""

from __future__ import annotations

import pytest

from benchmarks import score_record
from dsg_tf.core import errors


def test_the_next_process_finds_what_was_put(tmp_path):
    record = score_record.ScoreRecord(tmp_path / "scores.jsonl")
    one, other = record.key({"seed": 0}), record.key({"seed": 1})
    record.put(one, {"W8A8": (99.0, 26.0)})
    again = score_record.ScoreRecord(tmp_path / "scores.jsonl")
    assert again.get(one) == {"W8A8": [99.0, 26.0]}
    assert again.get(other) is None


def test_a_line_that_was_cut_off_spoils_no_other(tmp_path):
    record = score_record.ScoreRecord(tmp_path / "scores.jsonl")
    record.put("before", 1)
    with record.path.open("a") as file:
        file.write('{"key": "cut", "sco')
    record.put("after", 2)
    assert (record.get("before"), record.get("cut")) == (1, None)
    assert record.get("after") == 2


def test_a_process_beside_it_is_seen(tmp_path):
    one = score_record.ScoreRecord(tmp_path / "scores.jsonl")
    other = score_record.ScoreRecord(tmp_path / "scores.jsonl")
    other.put("key", 3)
    assert one.get("key") == 3


def test_other_code_makes_other_scores(tmp_path, monkeypatch):
    record = score_record.ScoreRecord(tmp_path / "scores.jsonl")
    before = record.key({"seed": 0})
    monkeypatch.setattr(score_record, "_code", lambda: "other")
    assert record.key({"seed": 0}) != before


def test_a_record_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(errors.UserError, match="--record"):
        score_record.ScoreRecord(tmp_path / "missing" / "scores.jsonl")
