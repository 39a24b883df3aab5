"""A case that gives one command its inputs and judges how it ends."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable, Collection, Iterator, Sequence

from tools.faults import cases, processes, verdict

# Makes the inputs of a case in its folder; returns the command's flags.
Prepare = Callable[[cases.Bench], Sequence[str]]

LIMIT_S = 60.0
_ARGV = "argv.json"


@dataclasses.dataclass(frozen=True)
class Attempt:
    """What is tried, and what is right.

    Attributes:
      command: `quantize` of `dsg_tf.quantize`.
      prepare: makes the inputs, in a child that may use TensorFlow.
      own: see `verdict.of_files`.
      allowed: exit codes that are right.
      limit_s: seconds.
      check: what is wrong with outputs, of a command that has ended with 0
        or 2; gets the folder that it ran in, in a child.
    """

    command: str
    prepare: Prepare
    own: Collection[str] = ("out",)
    allowed: Collection[int] = (0, 1, 2)
    limit_s: float = LIMIT_S
    check: Callable[[pathlib.Path], Sequence[str]] | None = None

    def __call__(self, bench: cases.Bench) -> list[str]:
        return self.run(bench, self.prepared(bench))

    def run(self, bench: cases.Bench, argv: Sequence[str]) -> list[str]:
        """Runs the command on what is prepared; returns what is wrong."""
        before = verdict.snapshot(bench.work)
        ended = processes.command(self.command, argv, folder=bench.folder).wait(
            self.limit_s
        )
        after = verdict.snapshot(bench.work)
        findings = verdict.of_process(ended, allowed=self.allowed)
        findings += verdict.of_files(
            before, after, code=ended.code, own=self.own
        )
        findings += _elsewhere(bench.folder, killed=ended.code < 0)
        if ended.code in (0, 2) and self.check and not findings:
            findings += in_child(self.check, bench)
        return findings

    def prepared(self, bench: cases.Bench) -> list[str]:
        """Makes the inputs; returns the command's flags."""
        path = bench.folder / _ARGV

        def body() -> None:
            path.write_text(json.dumps(list(self.prepare(bench))))

        processes.call(body, bench.folder)
        return json.loads(path.read_text())


def malformed(name: str, kind: str, attempt: Attempt) -> cases.Case:
    """A case of a malformed input."""
    return cases.Case(f"malformed/{name}", kind, attempt)


def in_turn(
    number: int, names: Sequence[str], start: int = 0
) -> Iterator[tuple[int, str]]:
    """(index, name) as often as asked, names in turn.

    Example:
      >>> list(in_turn(3, ("a", "b")))
      [(0, 'a'), (1, 'b'), (2, 'a')]
    """
    for index in range(number):
        yield index, names[(index + start) % len(names)]


def in_child(
    check: Callable[[pathlib.Path], Sequence[str]], bench: cases.Bench
) -> list[str]:
    """What a check finds, which may use TensorFlow."""
    path = bench.folder / "found.json"

    def body() -> None:
        path.write_text(json.dumps(list(check(bench.work))))

    try:
        processes.call(body, bench.folder)
    except RuntimeError as error:
        return [f"output: its check failed ({str(error)[-200:]})"]
    return json.loads(path.read_text())


def _elsewhere(folder: pathlib.Path, *, killed: bool) -> list[str]:
    """Files in TMPDIR, and sentinels anywhere in the case's folder.

    HOME is for the caches of libraries.
    """
    findings = []
    everything = verdict.snapshot(folder)
    outside = [path for path in everything if path.startswith("tmp/")]
    # A process that is killed cannot clean up; that is counted already.
    if outside and not killed:
        findings.append(f"left: {', '.join(outside[:3])}")
    found = [
        p
        for p in everything
        if verdict.SENTINEL in pathlib.Path(p).name
        and not p.startswith("work/")
    ]
    if found:
        findings.append(f"sentinel: {', '.join(found[:3])}")
    return findings
