"""What a case is, where it works, and what comes of it."""

from __future__ import annotations

import dataclasses
import pathlib
import zlib
from collections.abc import Callable, Sequence

import numpy as np


class SkippedError(Exception):
    """A case that this machine cannot try; says why."""


@dataclasses.dataclass(frozen=True)
class Bench:
    """What a case works with.

    Attributes:
      folder: the case's own, empty; nothing is written elsewhere.
      originals: whole models, samples and images; only to be copied.
      rng: of the case alone, from the seed and its name.
    """

    folder: pathlib.Path
    originals: pathlib.Path
    rng: np.random.Generator

    @property
    def work(self) -> pathlib.Path:
        """The folder that commands run in."""
        return self.folder / "work"


@dataclasses.dataclass(frozen=True)
class Case:
    """One thing to try.

    Attributes:
      name: unique; `--case` takes it.
      kind: its row of the table.
      run: tries it and returns what is wrong, a line each; nothing where all
        is right. Raises `SkippedError` where it cannot be tried.
    """

    name: str
    kind: str
    run: Callable[[Bench], Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a case.

    Attributes:
      name, kind: the case's.
      findings: what is wrong, a line each.
      skipped: why it was not tried; empty where it was.
      seconds: wall.
    """

    name: str
    kind: str
    findings: tuple[str, ...]
    skipped: str = ""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether it was tried and nothing is wrong."""
        return not self.findings and not self.skipped


def rng_of(seed: int, name: str) -> np.random.Generator:
    """The generator of a case: another case more or less changes nothing.

    Example:
      >>> int(rng_of(0, "a").integers(100)) == int(rng_of(0, "a").integers(100))
      True
    """
    return np.random.default_rng([seed, zlib.crc32(name.encode())])
