"""Malformed, hostile and unlucky inputs, tried on every command.

    python -m tools.faults
    python -m tools.faults --suite=malformed --limit=20
    python -m tools.faults --case=NAME

Exit codes: 0 all passed, 1 something failed. docs/explanation/reliability.md
says what is promised, and what came of it.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence

from absl import flags

from dsg_tf.batch import local_runner
from dsg_tf.command_line import cli
from dsg_tf.core import errors
from tools.faults import (
    cases,
    disks,
    handmade,
    hostile,
    kills,
    malformed,
    originals,
    processes,
    signals,
    table,
    trial,
)

_USAGE = """
Tries malformed, hostile and unlucky inputs on every command of dsg_tf.

  python -m tools.faults [--suite=malformed,hostile] [--seed=0] [--limit=20]
"""

# By name; each gets the number of kills.
SUITES: dict[str, Callable[[int], list[cases.Case]]] = {
    "malformed": lambda _: malformed.all_cases() + handmade.all_cases(),
    "hostile": lambda _: hostile.all_cases(),
    "kills": kills.all_cases,
    "disks": lambda _: disks.all_cases() + signals.all_cases(),
}

GROUPS = {
    "What": ("suite", "case", "limit", "kills", "seed"),
    "How": ("jobs", "scratch", "keep"),
}

_FLAGS = flags.FlagValues()


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_list(
        "suite",
        list(SUITES),
        "Which suites.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "case",
        [],
        "Only cases whose names begin so; of one alone, its folder is kept.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "limit",
        None,
        "At most this many cases, spread evenly over those chosen.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "kills",
        kills.COUNT,
        "How often a batch, and how often a run, is killed.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "seed",
        0,
        "Seed of all that is random.",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "jobs",
        0,
        "Cases at a time; 0: one a core.",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_string(
        "scratch",
        "",
        "Folder for everything that is written; default: a temporary one.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "keep", False, "Keep the folders of all cases.", flag_values=values
    )


_define(_FLAGS)


def choose(
    suites: Sequence[str],
    *,
    prefixes: Sequence[str] = (),
    limit: int | None = None,
    killed: int = kills.COUNT,
) -> list[cases.Case]:
    """The cases that are asked for.

    Args:
      suites: names of `SUITES`.
      prefixes: of the names of the cases; none takes all.
      limit: at most so many, spread evenly.
      killed: how often a batch, and how often a run, is killed.

    Raises:
      errors.UserError: there is no such suite, or no such case.
    """
    unknown = [name for name in suites if name not in SUITES]
    if unknown or not suites:
        raise errors.UserError(
            "--suite",
            got=", ".join(unknown) or "nothing",
            expected=", ".join(SUITES),
        )
    found = [case for name in suites for case in SUITES[name](killed)]
    if prefixes:
        chosen = tuple(prefixes)
        found = [case for case in found if case.name.startswith(chosen)]
    if not found:
        raise errors.UserError(
            "--case",
            got=", ".join(prefixes),
            expected="the name of a case, or its beginning",
        )
    if limit is None or limit >= len(found):
        return found
    return [found[i * len(found) // limit] for i in range(limit)]


def main() -> int:
    """Runs the cases that the flags ask for."""
    chosen = choose(
        _FLAGS.suite,
        prefixes=_FLAGS.case,
        limit=_FLAGS.limit,
        killed=_FLAGS.kills,
    )
    parent = _FLAGS.scratch or None
    if parent:
        os.makedirs(parent, exist_ok=True)
    scratch = pathlib.Path(
        tempfile.mkdtemp(prefix="faults-", dir=parent)
    ).absolute()
    keep = _FLAGS.keep or len(chosen) == 1
    print(f"seed {_FLAGS.seed}, {len(chosen)} cases in {scratch}")
    try:
        outcomes = _run(chosen, scratch, keep=keep)
    finally:
        if not keep:
            shutil.rmtree(scratch, ignore_errors=True)
    print(f"\n{table.markdown(outcomes)}")
    if not all(o.passed or o.skipped for o in outcomes):
        print(table.by_finding(outcomes))
        return 1
    return 0


def _run(
    chosen: Sequence[cases.Case], scratch: pathlib.Path, *, keep: bool
) -> list[cases.Outcome]:
    start = time.monotonic()
    processes.warm()
    made = scratch / "originals"
    originals.make(made)
    print(f"originals made in {time.monotonic() - start:.0f} s", flush=True)
    tried = trial.Trial(scratch, made / "work", seed=_FLAGS.seed, keep=keep)
    outcomes = []
    repeat = f"python -m tools.faults --seed={_FLAGS.seed} --case="
    with table.Progress(len(chosen), repeat) as shown:
        for outcome in tried.run(chosen, _FLAGS.jobs or local_runner.cores()):
            outcomes.append(outcome)
            shown.tell(outcome)
    return outcomes


if __name__ == "__main__":
    cli.run(main, usage=_USAGE, groups=GROUPS, values=_FLAGS)
