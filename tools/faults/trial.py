"""Runs cases, several at a time, each in a folder that goes afterwards."""

from __future__ import annotations

import contextlib
import multiprocessing
import pathlib
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent import futures

from tools.faults import cases, processes, verdict


class Trial:
    """Runs cases in a scratch folder.

    Args:
      scratch: a folder that is there and empty.
      originals: what `originals.make` has made.
      seed: of everything random.
      keep: leave the folders of cases there.
    """

    def __init__(
        self,
        scratch: pathlib.Path,
        originals: pathlib.Path,
        *,
        seed: int,
        keep: bool = False,
    ):
        self._scratch, self._originals = scratch, originals
        self._seed, self._keep = seed, keep

    def run(self, chosen: Sequence[cases.Case], jobs: int):
        """Runs cases in order, yields outcomes as they come.

        What commands did to the originals, if anything, comes last.
        """
        before = verdict.snapshot(self._originals)
        yield from self._outcomes(chosen, jobs)
        if verdict.snapshot(self._originals) != before:
            finding = "input changed: an original"
            yield cases.Outcome("originals", "originals", (finding,))

    def _outcomes(
        self, chosen: Sequence[cases.Case], jobs: int
    ) -> Iterator[cases.Outcome]:
        if jobs == 1 or len(chosen) == 1:
            yield from map(self.run_one, chosen)
            return
        # Closures do not pickle, but forked workers have them already.
        global _UNDER_WAY
        _UNDER_WAY = self, chosen
        # It raises where a worker dies, and ends workers without a signal; a
        # multiprocessing.Pool waits for ever for what a dead worker had.
        with futures.ProcessPoolExecutor(
            jobs, mp_context=multiprocessing.get_context("fork")
        ) as pool:
            submitted = [
                pool.submit(_run_at, index) for index in range(len(chosen))
            ]
            for done in futures.as_completed(submitted):
                yield done.result()

    def run_one(self, case: cases.Case) -> cases.Outcome:
        """Runs one case."""
        folder = self._scratch / case.name.replace("/", "-")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        start, findings, skipped = time.monotonic(), (), ""
        bench = cases.Bench(
            folder, self._originals, cases.rng_of(self._seed, case.name)
        )
        try:
            findings = tuple(case.run(bench))
        except cases.SkippedError as reason:
            skipped = str(reason)
        except Exception as error:  # One case more, not the end of all.
            findings = (f"harness: {type(error).__name__}: {error}",)
        finally:
            for pid in processes.naming(f"{folder}/"):
                with contextlib.suppress(ProcessLookupError):
                    processes.end(pid)
        if not self._keep:
            shutil.rmtree(folder, ignore_errors=True)
        seconds = time.monotonic() - start
        return cases.Outcome(case.name, case.kind, findings, skipped, seconds)


_UNDER_WAY: tuple[Trial, Sequence[cases.Case]]


def _run_at(index: int) -> cases.Outcome:
    trial, chosen = _UNDER_WAY
    return trial.run_one(chosen[index])
