"""The interface between a batch and its workers.

`local_runner` implements it with processes of this machine. A cluster could
implement it too, if its workers can access the output folder.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol


@dataclasses.dataclass(frozen=True)
class Task:
    """Work for one worker: commands, one after the other, while each succeeds.

    Attributes:
      key: names it in its outcome.
      commands: argument lists of `python -m`, e.g. ("dsg_tf.quantize",
        "--flagfile=run.flags").
      log: path of the file that takes what they print.
      good: exit codes of success.
    """

    key: str
    commands: Sequence[Sequence[str]]
    log: str
    good: tuple[int, ...] = (0,)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a task.

    Attributes:
      key: the task's.
      error: one line; None where every command succeeded.
      seconds: wall, of all commands.
      peak_bytes: the greatest resident memory of a command.
      details: what else the runner knows, for the record: `host`.
    """

    key: str
    error: str | None
    seconds: float
    peak_bytes: int
    details: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Runner(Protocol):
    """Runs tasks, several at a time."""

    def free(self) -> int:
        """How many tasks would start at once if submitted now."""

    def submit(self, task: Task) -> None:
        """Starts a task."""

    def collect(self, timeout_s: float) -> list[Outcome]:
        """What has ended; waits at most this long for the first."""

    def stop(self) -> None:
        """Ends what is under way, so that it can be resumed."""
