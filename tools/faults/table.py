"""Outcomes as progress, as a Markdown table, and as an exit code."""

from __future__ import annotations

import collections
from collections.abc import Sequence

import rich.console
import rich.markup
import rich.progress

from tools.faults import cases

_HEAD = ("kind", "tried", "passed", "failed", "skipped", "slowest s")


def markdown(outcomes: Sequence[cases.Outcome]) -> str:
    """A row a kind, and one for all.

    Example:
      >>> done = cases.Outcome("a/1", "a", ())
      >>> print(markdown([done]).splitlines()[2])
      | a | 1 | 1 | 0 | 0 | 0.0 |
    """
    by_kind: dict[str, list[cases.Outcome]] = collections.defaultdict(list)
    for outcome in outcomes:
        by_kind[outcome.kind].append(outcome)
    rows = [_row(kind, found) for kind, found in by_kind.items()]
    if len(rows) != 1:
        rows.append(_row("all", outcomes))
    lines = [_HEAD, ("---",) * len(_HEAD), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _row(kind: str, outcomes: Sequence[cases.Outcome]) -> tuple[str, ...]:
    skipped = sum(bool(o.skipped) for o in outcomes)
    passed = sum(o.passed for o in outcomes)
    slowest = max((o.seconds for o in outcomes), default=0.0)
    counts = (
        len(outcomes) - skipped,
        passed,
        len(outcomes) - skipped - passed,
        skipped,
    )
    return (kind, *map(str, counts), f"{slowest:.1f}")


def by_finding(outcomes: Sequence[cases.Outcome]) -> str:
    """How many cases have a finding of each sort, and examples: Markdown."""
    names: dict[str, list[str]] = collections.defaultdict(list)
    for outcome in outcomes:
        for sort in dict.fromkeys(
            f.partition(":")[0] for f in outcome.findings
        ):
            names[sort].append(outcome.name)
    lines = [("what is wrong", "cases", "e.g."), ("---",) * 3]
    lines += [
        (sort, str(len(found)), ", ".join(found[:3]))
        for sort, found in sorted(names.items(), key=lambda i: -len(i[1]))
    ]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


class Progress:
    """A bar, and a line for each case that fails or is skipped.

    Args:
      total: how many cases there are.
      repeat: the command that repeats one, before its name.
    """

    def __init__(self, total: int, repeat: str):
        self._repeat = repeat
        console = rich.console.Console(stderr=True, soft_wrap=True)
        # A thread that redraws would be there when this process forks.
        self._bar = rich.progress.Progress(
            console=console,
            auto_refresh=False,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("cases", total=total)

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *error) -> None:
        self._bar.stop()

    def tell(self, outcome: cases.Outcome) -> None:
        """Counts a case; says what is wrong with it."""
        text = rich.markup.escape
        if outcome.skipped:
            self._bar.print(
                f"skipped {text(outcome.name)}: {text(outcome.skipped)}"
            )
        elif outcome.findings:
            self._bar.print(
                f"[red]failed[/] {text(outcome.name)}: "
                f"{text('; '.join(outcome.findings))}"
            )
            self._bar.print(f"  {text(self._repeat + outcome.name)}")
        self._bar.advance(self._task)
        self._bar.refresh()
