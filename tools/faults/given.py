"""Cases of flags that are known, on files that are made."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tools.faults import (
    attempts,
    cases,
    commands,
    originals,
)

Setup = Callable[[cases.Bench], None]


def case(
    name: str,
    kind: str,
    command: str,
    flags: Sequence[str],
    *,
    copies: Sequence[str] = (),
    setup: Setup | None = None,
    **fields,
) -> cases.Case:
    """A case of flags that are known, and files that are made.

    Args:
      name, kind: see `cases.Case`.
      command: see `attempts.Attempt`.
      flags: its flags.
      copies: originals to copy.
      setup: makes what else there is to be.
      **fields: others of `attempts.Attempt`.
    """

    def prepare(bench: cases.Bench) -> Sequence[str]:
        originals.copy(bench, *copies)
        if setup is not None:
            setup(bench)
        return flags

    fields.setdefault("check", commands.check_or_nothing)
    attempt = attempts.Attempt(command, prepare, **fields)
    return cases.Case(f"malformed/{name}", kind, attempt)


def quantize(model: str) -> list[str]:
    """Flags of a quick run of a model."""
    return commands.with_model("quantize", model)[0]
