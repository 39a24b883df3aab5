"""The memory of this machine, which what is read has to fit into."""

from __future__ import annotations

import os

from dsg_tf import errors


def total_bytes() -> int:
    """The machine's memory; 0 where it does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 0


def require(subject: str, what: str, size: int) -> None:
    """Refuses what this machine could not hold.

    Args:
      subject: what an error is about.
      what: takes the memory.
      size: bytes that it takes.

    Raises:
      errors.UserError: the machine has less.

    Example:
      >>> require("images.npz", "the images", 10**18)
      Traceback (most recent call last):
      ...
      dsg_tf.errors.UserError: images.npz: got the images, of 1000000000 GB; \
expected what fits into this machine's memory
    """
    most = total_bytes()
    if most and size > most:
        raise errors.UserError(
            subject,
            got=f"{what}, of {size / 1e9:.0f} GB",
            expected="what fits into this machine's memory",
        )
