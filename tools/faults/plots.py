"""What an attempt to run code, or to write a file, is."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

from tools.faults import cases


@dataclasses.dataclass(frozen=True)
class Plot:
    """An attempt.

    Attributes:
      name: unique among all of them.
      kind: its row of the table.
      prepare: makes it, given the path of the sentinel; returns the path of a
        model, or the whole flags of `command`.
      unguarded: loads it, in the folder of the case, with nothing in its way;
        None where no library's loader would run it.
      command: of `dsg_tf`, for what is no model.
      own: see `verdict.of_files`.
    """

    name: str
    kind: str
    prepare: Callable[[cases.Bench, str], str | Sequence[str]]
    unguarded: Callable[[pathlib.Path], None] | None = None
    command: str = ""
    own: tuple[str, ...] = ()
