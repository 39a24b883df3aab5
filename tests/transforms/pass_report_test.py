"""A report of a pass tells of every place, with a reason where it skipped."""

from __future__ import annotations

import pytest

from dsg_tf.transforms import pass_report


def _report(*rows):
    return pass_report.PassReport("fold", rows)


_DONE = pass_report.Row("a", True)
_TOLD = pass_report.Row("b", True, "bound kept", {"error_db": 3.0})
_NO_BIAS = [pass_report.Row(n, False, "no bias") for n in "cd"]
_READ = pass_report.Row("e", False, "read twice")


def test_nothing_is_skipped_without_a_reason():
    with pytest.raises(ValueError, match="row of 'conv': skipped without"):
        pass_report.Row("conv", False)


def test_rows_are_applied_or_skipped_in_order():
    report = _report(_READ, _DONE, *_NO_BIAS, _TOLD)
    assert report.applied == (_DONE, _TOLD)
    assert report.skipped == (_READ, *_NO_BIAS)


def test_the_summary_counts_the_reasons_of_what_was_skipped():
    report = _report(_READ, _DONE, *_NO_BIAS, _TOLD)
    assert report.summary() == "fold: 2 of 5 applied (2 no bias, 1 read twice)"


def test_the_summary_of_no_skips_has_no_reasons():
    assert _report(_DONE, _TOLD).summary() == "fold: 2 of 2 applied"
    assert _report().summary() == "fold: 0 of 0 applied"


def test_counts_come_most_frequent_first_and_then_as_they_came():
    assert list(pass_report.count("bacacb").items()) == [
        ("b", 2),
        ("a", 2),
        ("c", 2),
    ]
    assert list(pass_report.count("abb").items()) == [("b", 2), ("a", 1)]


def test_rows_do_not_change():
    with pytest.raises(AttributeError):
        _DONE.applied = False
