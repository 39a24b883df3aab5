"""A user's error is one line of four parts, and survives pickling."""

from __future__ import annotations

import pickle

import pytest

from dsg_tf.core import errors


def test_line_names_subject_got_expected_and_remedy():
    error = errors.UserError("--x", got="1", expected="2", remedy="do it")
    assert str(error) == "--x: got 1; expected 2; do it"
    assert (error.subject, error.got) == ("--x", "1")
    assert (error.expected, error.remedy) == ("2", "do it")


def test_remedy_may_be_left_out():
    assert str(errors.UserError("a", got="b", expected="c")) == (
        "a: got b; expected c"
    )


@pytest.mark.parametrize("part", ["subject", "got", "expected", "remedy"])
def test_line_breaks_in_any_part_do_not_break_the_line(part):
    parts = {"subject": "s", "got": "g", "expected": "e", "remedy": "r"}
    parts[part] = "two\n  lines\r\n"
    line = str(errors.UserError(parts.pop("subject"), **parts))
    assert len(line.splitlines()) == 1
    assert "two lines" in line


def test_error_survives_pickling():
    error = errors.UserError("--x", got="1", expected="2", remedy="do it")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is errors.UserError
    assert str(copy) == str(error)
    assert copy.remedy == error.remedy


def test_error_is_a_value_error():
    with pytest.raises(ValueError, match="got b"):
        raise errors.UserError("a", got="b", expected="c")
