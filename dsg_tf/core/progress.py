"""Progress of long work: a bar on a terminal, lines in a log.

The log lines contain everything that the bar shows.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

from absl import logging

from dsg_tf.core import stages

# Seconds between two lines of a log.
LOG_INTERVAL_S = 5.0
# Units of work that make a pace.
_TIMED = 2


class Task:
    """One stage with a known amount of work.

    Args:
      name: what is done, e.g. `synthesis`.
      total: how much of it there is, in `unit`.
      unit: of the work, e.g. `steps`.
      clock: seconds, monotonic; tests pass their own.
    """

    def __init__(
        self, name: str, total: int, *, unit: str = "", clock=time.monotonic
    ):
        self._name, self._total, self._unit = name, total, unit
        self._clock = clock
        self._last = clock()
        # When the first fresh work was done: before it lie compiling and the
        # like, which say nothing of the pace.
        self._first: float | None = None
        self._counted = 0
        self._done = 0
        self._logged = False

    @property
    def done(self) -> int:
        return self._done

    def skip(self, amount: int) -> None:
        """Counts work that an earlier run has done; it does not bear on ETA."""
        self._done += amount
        if self._first is not None:
            self._counted += amount

    def advance(self, amount: int = 1, detail: str = "") -> None:
        """Counts work as done and shows it when it is time to.

        Raises:
          stages.Stopped: a signal has come, and somebody has swallowed that.
        """
        now = self._time(amount)
        if now - self._last >= LOG_INTERVAL_S:
            self._last = now
            self._logged = True
            self.show(self.line(detail))

    def extend(self, amount: int) -> None:
        """There is more to do than was thought."""
        self._total += amount

    def reach(self, done: int, total: int | None = None) -> None:
        """Counts work up to `done`; fits callbacks of (done, total)."""
        del total
        self.advance(done - self._done)

    def finish(self) -> None:
        """Says that the stage is over, if it ever said that it runs."""
        if self._logged:
            self.show(self.line())

    def show(self, line: str) -> None:
        _heart.said()
        logging.info("%s", line)

    def state(self) -> str:
        """What to say where no unit of work gets done for a while."""
        if self._first is None:
            return f"{self._name}: compiling"
        return self.line()

    def _time(self, amount: int) -> float:
        """Counts work as done; returns the time."""
        stages.check()
        now = self._clock()
        self._done += amount
        if self._first is None:
            self._first, self._counted = now, self._done
        return now

    def eta_s(self) -> float | None:
        """Seconds left at the pace so far; None before two timed units."""
        timed = self._done - self._counted
        if self._first is None or timed < _TIMED:
            return None
        return (self._clock() - self._first) / timed * self._left

    def line(self, detail: str = "") -> str:
        """For instance `synthesis 40/750 steps (5 %), 58 s left, loss 0.9`."""
        share = 100 * self._done // max(self._total, 1)
        text = f"{self._name} {self._done}/{self._total} {self._unit}".rstrip()
        text += f" ({share} %)"
        eta = self.eta_s()
        if eta is not None and self._left:
            text += f", {eta:.0f} s left"
        return f"{text}, {detail}" if detail else text

    @property
    def _left(self) -> int:
        return max(self._total - self._done, 0)


class _BarTask(Task):
    """A task that also moves a bar of rich."""

    def __init__(self, name, total, *, unit, bar):
        super().__init__(name, total, unit=unit)
        self._bar = bar
        self._id = bar.add_task(name, total=total, detail="")

    def skip(self, amount: int) -> None:
        super().skip(amount)
        self._bar.update(self._id, advance=amount)

    def advance(self, amount: int = 1, detail: str = "") -> None:
        self._time(amount)
        self._bar.update(self._id, advance=amount, detail=detail)

    def extend(self, amount: int) -> None:
        super().extend(amount)
        self._bar.update(self._id, total=self._total)

    def finish(self) -> None:
        self._bar.update(self._id, completed=self._total)


class _Heart:
    """Says what is under way where nothing has been said for a while.

    Args:
      interval_s: how long a while is.
    """

    def __init__(self, interval_s: float = LOG_INTERVAL_S):
        self._interval_s = interval_s
        # What is under way, outermost first, each with its start.
        self._under_way: list[tuple[Callable[[], str], float]] = []
        self._last = 0.0
        self._wake = threading.Event()

    def said(self) -> None:
        """Something has just been shown."""
        self._last = time.monotonic()

    @contextlib.contextmanager
    def beating(self, text: Callable[[], str]) -> Iterator[None]:
        """Beats while the block runs."""
        outermost = not self._under_way
        self._under_way.append((text, time.monotonic()))
        self.said()
        if outermost:
            self._wake.clear()
            thread = threading.Thread(
                target=self._run, name="progress", daemon=True
            )
            thread.start()
        try:
            yield
        finally:
            self._under_way.pop()
            self.said()
            if outermost:
                self._wake.set()
                thread.join()

    def _run(self) -> None:
        while not self._wake.wait(self._interval_s / 5):
            now = time.monotonic()
            if now - self._last < self._interval_s or not self._under_way:
                continue
            text, start = self._under_way[-1]
            self.said()
            logging.info("%s ... %.0f s", text(), now - start)


_heart = _Heart()


def alive(text: str) -> contextlib.AbstractContextManager[None]:
    """Shows every few seconds that a block is under way, and for how long.

    Args:
      text: what it does.
    """
    return _heart.beating(lambda: text)


@contextlib.contextmanager
def task(name: str, total: int, *, unit: str = "") -> Iterator[Task]:
    """A stage of work, shown on a terminal as a bar and elsewhere as lines.

    Examples:
      >>> with task("calibration", 2, unit="samples") as stage:
      ...     for _ in range(2):
      ...         stage.advance()
      >>> stage.done
      2
    """
    if not sys.stderr.isatty():
        stage = Task(name, total, unit=unit)
        with _heart.beating(stage.state):
            yield stage
        stage.finish()
        return
    from rich import console, progress

    columns = (
        progress.TextColumn("{task.description:12}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[detail]}"),
    )
    with (
        progress.Progress(
            *columns, console=console.Console(stderr=True)
        ) as bar,
        _logs_above_the_bar(),
    ):
        stage = _BarTask(name, total, unit=unit, bar=bar)
        with _heart.beating(stage.state):
            yield stage
        stage.finish()


@contextlib.contextmanager
def _logs_above_the_bar() -> Iterator[None]:
    """Sends absl's lines through the stream that rich has put in place."""
    handler = logging.get_absl_handler().python_handler
    stream = handler.stream
    handler.stream = sys.stderr
    try:
        yield
    finally:
        handler.stream = stream
