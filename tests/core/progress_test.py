"""The ETA is that of the work done here; a log gets a line now and then."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from unittest import mock

import pytest
from absl import logging

from dsg_tf.core import progress


class _Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class _Shown(progress.Task):
    """A task that collects what it would log."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.lines: list[str] = []

    def show(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def clock():
    return _Clock()


def test_eta_is_time_per_work_times_what_is_left(clock):
    task = progress.Task("synthesis", 40, unit="steps", clock=clock)
    assert task.eta_s() is None
    task.advance(1)
    clock.now_s += 18  # 2 s a step, 30 steps to go.
    task.advance(9)
    assert task.eta_s() == pytest.approx(60)
    assert task.line("loss 0.9") == (
        "synthesis 10/40 steps (25 %), 60 s left, loss 0.9"
    )


def test_time_goes_on_between_two_units_of_work(clock):
    task = progress.Task("synthesis", 12, clock=clock)
    task.advance(2)
    clock.now_s += 4
    task.advance(2)  # 2 s each, 8 to go.
    assert task.eta_s() == pytest.approx(16)
    clock.now_s += 2  # The unit at work is a slow one.
    assert task.eta_s() == pytest.approx(24)


def test_there_is_no_eta_before_two_timed_units(clock):
    task = progress.Task("synthesis", 10, clock=clock)
    for _ in range(2):
        clock.now_s += 3
        task.advance()
        assert task.eta_s() is None
        assert "left" not in task.line()
    clock.now_s += 3
    task.advance()
    assert task.eta_s() == pytest.approx(7 * 3)


def test_what_comes_before_the_first_unit_is_no_pace(clock):
    """Compiling takes minutes, and is done once."""
    task = progress.Task("synthesis", 100, clock=clock)
    clock.now_s += 600
    for _ in range(5):
        task.advance()
        clock.now_s += 1
    # Four steps in five seconds by now.
    assert task.eta_s() == pytest.approx(95 * 5 / 4)


def test_skipped_work_counts_as_done_but_not_as_pace(clock):
    task = progress.Task("synthesis", 40, clock=clock)
    task.skip(20)
    assert task.done == 20
    assert task.eta_s() is None
    task.advance(1)
    assert task.eta_s() is None
    clock.now_s += 18  # 2 s a step, 10 to go; the 20 skipped took none.
    task.advance(9)
    assert task.eta_s() == pytest.approx(20)


def test_work_that_is_skipped_later_is_no_pace_either(clock):
    task = progress.Task("rounding", 40, clock=clock)
    task.advance(1)
    task.skip(20)
    assert task.eta_s() is None
    clock.now_s += 18
    task.advance(9)
    assert task.done == 30
    assert task.eta_s() == pytest.approx(20)


def test_more_work_than_was_thought_takes_more_time(clock):
    task = progress.Task("synthesis", 10, unit="steps", clock=clock)
    for _ in range(5):
        task.advance()
        clock.now_s += 2
    before = task.eta_s()
    assert before == pytest.approx(5 * 10 / 4)
    task.extend(20)
    assert task.eta_s() == pytest.approx(5 * before)
    assert task.done == 5
    assert task.line().startswith("synthesis 5/30 steps (16 %), 62 s left")


def test_work_that_was_done_goes_on_when_there_is_more(clock):
    task = progress.Task("synthesis", 2, clock=clock)
    task.advance()
    task.advance()
    task.extend(2)
    assert task.line() == "synthesis 2/4 (50 %)"
    task.advance(2)
    assert task.line() == "synthesis 4/4 (100 %)"


def test_no_eta_when_all_is_done(clock):
    task = progress.Task("synthesis", 4, clock=clock)
    clock.now_s += 1
    task.advance(4)
    assert task.line() == "synthesis 4/4 (100 %)"


def test_more_work_than_expected_leaves_nothing(clock):
    task = progress.Task("synthesis", 4, clock=clock)
    task.advance(3)
    clock.now_s += 1
    task.advance(3)
    assert task.eta_s() == 0


def test_no_work_at_all_is_no_division_by_zero(clock):
    assert progress.Task("synthesis", 0, clock=clock).line() == (
        "synthesis 0/0 (0 %)"
    )


def test_log_gets_one_line_per_interval(clock):
    task = _Shown("calibration", 100, unit="samples", clock=clock)
    for _ in range(100):
        clock.now_s += progress.LOG_INTERVAL_S / 10
        task.advance()
    # Exactly ten intervals pass; floats of this size are exact in halves.
    assert len(task.lines) == 10
    assert task.lines[0].startswith("calibration 10/100 samples (10 %), 45 s")


def test_short_work_is_silent(clock):
    task = _Shown("calibration", 3, clock=clock)
    for _ in range(3):
        clock.now_s += progress.LOG_INTERVAL_S / 10
        task.advance()
    task.finish()
    assert task.lines == []


def test_long_work_says_when_it_is_over(clock):
    task = _Shown("calibration", 2, clock=clock)
    clock.now_s += progress.LOG_INTERVAL_S
    task.advance()
    task.advance()
    task.finish()
    assert task.lines[-1] == "calibration 2/2 (100 %)"


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@contextlib.contextmanager
def _on_a_terminal():
    # Not a fixture: pytest puts its own stderr in place between setup and test.
    handler = logging.get_absl_handler().python_handler
    stream = _Terminal()
    with (
        mock.patch.object(sys, "stderr", stream),
        mock.patch.object(handler, "stream", stream),
        mock.patch.dict(os.environ, {"TERM": "xterm"}),
    ):
        yield stream


def test_terminal_shows_a_bar():
    with (
        _on_a_terminal() as terminal,
        progress.task("synthesis", 4, unit="steps") as stage,
    ):
        stage.skip(1)
        stage.advance(2, "loss 0.25")
        assert stage.done == 3
    shown = terminal.getvalue()
    assert "synthesis" in shown
    assert "loss 0.25" in shown
    assert "4/4" in shown


def test_a_bar_grows_with_its_work():
    with (
        _on_a_terminal() as terminal,
        progress.task("synthesis", 4, unit="steps") as stage,
    ):
        stage.advance(4)
        stage.extend(3)
        stage.advance(3, "loss 0.5")
        assert stage.done == 7
    shown = terminal.getvalue()
    assert "7/7" in shown
    assert "7/4" not in shown


def test_log_keeps_its_stream_after_the_bar():
    handler = logging.get_absl_handler().python_handler
    with _on_a_terminal() as terminal:
        with progress.task("synthesis", 4):
            assert handler.stream is not terminal
        assert handler.stream is terminal
        with contextlib.suppress(OSError), progress.task("synthesis", 4):
            raise OSError
        assert handler.stream is terminal


def test_file_gets_no_bar(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    with progress.task("synthesis", 2) as stage:
        stage.advance(2)
    assert stage.done == 2
    assert stream.getvalue() == ""
