"""Available memory, checked before large allocations."""

from __future__ import annotations

import os
import pathlib

from dsg_tf.core import errors

_MEMINFO = pathlib.Path("/proc/meminfo")
_GROUP = pathlib.Path("/sys/fs/cgroup")


def available() -> int | None:
    """Bytes that can still be taken; None where the system does not say.

    The smaller of what the machine has left and of what the limit of the
    process's group leaves.
    """
    found = [n for n in (_of_machine(), _of_group()) if n is not None]
    return min(found, default=None)


def total_bytes() -> int:
    """The machine's memory; 0 where it does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 0


def require(needed: int, subject: str, *, what: str) -> None:
    """Refuses what does not fit into memory.

    Args:
      needed: bytes.
      subject: what the error is about.
      what: what takes them.

    Raises:
      errors.UserError: there is less.
    """
    there = available()
    if there is not None and needed > there:
        raise errors.UserError(
            subject,
            got=f"{what}: {needed:,} bytes",
            expected=f"at most the {there:,} bytes of memory that are free",
            remedy="use less of it or a machine with more memory; if it is"
            " not that large, the file is damaged",
        )


def _of_machine() -> int | None:
    try:
        for line in _MEMINFO.read_text().splitlines():
            name, _, rest = line.partition(":")
            if name == "MemAvailable":
                return int(rest.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _of_group() -> int | None:
    """What the limit of a container leaves; pages of files can be dropped."""
    try:
        limit = (_GROUP / "memory.max").read_text().strip()
        if limit == "max":
            return None
        used = int((_GROUP / "memory.current").read_text())
        for line in (_GROUP / "memory.stat").read_text().splitlines():
            if line.startswith("inactive_file "):
                used -= int(line.split()[1])
        return max(int(limit) - used, 0)
    except (OSError, ValueError, IndexError):
        return None
