"""Something that happens when a process touches a certain path.

Python tells an audit hook before it opens, renames or makes a path, and before
it opens a database. So a disk is full, or a process is killed, at exactly the
place that a case is about, whatever else takes how long.
"""

from __future__ import annotations

import fnmatch
import os
import sys
from collections.abc import Callable

_EVENTS = frozenset({"open", "os.rename", "os.mkdir", "sqlite3.connect"})


def at(
    pattern: str,
    action: Callable[[], None],
    *,
    times: int = 1,
    event: str = "",
    unless: str = "",
) -> None:
    """Does something once, before this process touches a path.

    The hook stays for the life of the process: use it in a child.

    Args:
      pattern: of the path, as `fnmatch` has it.
      action: what to do.
      times: at which of the touches, the first being 1.
      event: the kind of touch, `open`, `os.rename`, `os.mkdir` or
        `sqlite3.connect`; any by default. Of a rename both paths count.
      unless: touches of paths like this do not count.
    """
    left = [times]

    events = {event} if event else _EVENTS

    def hook(name: str, arguments: tuple) -> None:
        if name not in events or left[0] <= 0:
            return
        paths = arguments[:2] if name == "os.rename" else arguments[:1]
        for path in paths:
            if not isinstance(path, str | bytes | os.PathLike):
                continue
            text = os.fsdecode(path)
            if fnmatch.fnmatch(text, pattern) and not fnmatch.fnmatch(
                text, unless
            ):
                left[0] -= 1
                if left[0] == 0:
                    action()
                return

    sys.addaudithook(hook)
