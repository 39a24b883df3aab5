"""The report of a pass: what was applied and skipped, node by node.

A pass is a function `Graph -> (Graph, PassReport)`. Its report has a row for
every place where the technique could have been applied, with the reason where
it was not; the rows end in `report.json`, for the user to read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping


@dataclasses.dataclass(frozen=True)
class Row:
    """One place where a pass was applied or skipped.

    Attributes:
      node: the layer (or pair of layers, "a -> b") in the source model's
        names.
      applied: whether the technique was applied there.
      reason: why not; or, where it was, what is worth knowing.
      measured: numbers by name, with units in the names, e.g. `error_db`.
    """

    node: str
    applied: bool
    reason: str = ""
    measured: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        if not self.applied and not self.reason:
            raise ValueError(f"row of {self.node!r}: skipped without a reason")


@dataclasses.dataclass(frozen=True)
class PassReport:
    """All rows of one pass.

    Attributes:
      name: the pass, e.g. `cross_layer_equalization`.
      rows: in topological order of the graph.
      measured: numbers about the graph as a whole, by name.
    """

    name: str
    rows: tuple[Row, ...] = ()
    measured: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def applied(self) -> tuple[Row, ...]:
        """Rows where the technique was applied."""
        return tuple(row for row in self.rows if row.applied)

    @property
    def skipped(self) -> tuple[Row, ...]:
        """Rows where it was not."""
        return tuple(row for row in self.rows if not row.applied)

    def summary(self) -> str:
        """One line for people.

        Examples:
          >>> rows = (Row("a", True), Row("b", False, "no bias"))
          >>> PassReport("bias_correction", rows).summary()
          'bias_correction: 1 of 2 applied (1 no bias)'
        """
        line = f"{self.name}: {len(self.applied)} of {len(self.rows)} applied"
        reasons = count(row.reason for row in self.skipped)
        if reasons:
            told = ", ".join(f"{n} {text}" for text, n in reasons.items())
            line += f" ({told})"
        return line


def count(texts: Iterable[str]) -> dict[str, int]:
    """How often each text occurs, the most frequent first."""
    found: dict[str, int] = {}
    for text in texts:
        found[text] = found.get(text, 0) + 1
    return dict(sorted(found.items(), key=lambda item: -item[1]))
