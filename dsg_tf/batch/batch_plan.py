"""Derives the runs of a batch from its flags; only reads files."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence

from absl import flags, logging

from dsg_tf.batch import batch_models, batch_points, batch_runs, schedule
from dsg_tf.command_line import image_flags
from dsg_tf.core import fingerprints, overlaps


def _warn(text: str) -> None:
    logging.warning("%s", text)


def runs(
    values: flags.FlagValues,
    output_dir: pathlib.Path,
    *,
    taken: Mapping[str, str],
    fingerprint: Callable[..., str] = fingerprints.of_path,
    tell: Callable[[str], None] = _warn,
) -> list[schedule.Run]:
    """Every run that the flags ask for; what a run needs stands before it.

    Args:
      values: the batch's.
      output_dir: the output folder, absolute.
      taken: keys by folder, of the runs that are done. A run keeps its folder;
        another run of the same name gets a folder beside.
      fingerprint: `fingerprints.of_path`, or what remembers its results.
      tell: gets a line where a point of the grid is not run as it was asked
        for.

    Raises:
      errors.UserError: a flag, or a combination of the grid, is not valid.
    """
    chosen = batch_models.models(values)
    for model in chosen:
        image_flags.check(model.values)
    # All of the grid is checked before the first byte of a model is hashed.
    points = {model.name: batch_points.points(model) for model in chosen}
    planned: dict[str, schedule.Run] = {}
    equal: list[tuple[str, str]] = []
    folders = _Folders(taken)
    for model in chosen:
        maker = batch_runs.Maker(model, output_dir, folders.of, fingerprint)
        for run in maker.runs(points[model.name]):
            first = planned.setdefault(run.key, run)
            if run.kind == "quantize" and first is not run:
                equal.append((run.told, first.told))
        for note in dict.fromkeys(maker.notes):
            tell(note)
    _tell_equal(equal, tell)
    _refuse_overlaps(output_dir, list(planned.values()), values)
    return list(planned.values())


def _refuse_overlaps(
    output_dir: pathlib.Path,
    planned: Sequence[schedule.Run],
    values: flags.FlagValues,
) -> None:
    """Refuses to write over, into or around what the batch reads.

    The output folder may hold models and images, as long as no run's own
    folder does.
    """
    inputs = batch_models.inputs(values)
    subject = "--output_dir"
    overlaps.refuse([output_dir], inputs, subject=subject, holds=False)
    folders = {
        output_dir / place
        for run in planned
        for place in (run.folder, run.artifact)
    }
    overlaps.refuse(sorted(folders), inputs, subject=subject)


def _tell_equal(
    equal: Sequence[tuple[str, str]], tell: Callable[[str], None]
) -> None:
    """Says what is run once, given names of what is equal."""
    for name, first in dict.fromkeys(equal):
        if name != first:
            tell(f"{name} is {first}: the same settings, run once and named so")
    # Names of one text: what differs was left out, as it changes nothing.
    alike = list(dict.fromkeys(name for name, first in equal if name == first))
    if alike:
        more = f" and {len(alike) - 1} more" if alike[1:] else ""
        tell(
            f"{alike[0]}{more}: run once; other values of the seed, or of the"
            " steps, change nothing there"
        )


class _Folders:
    """Gives every key a folder of its own, the same one at every start."""

    def __init__(self, taken: Mapping[str, str]):
        self._keys = dict(taken)
        self._folders = {key: folder for folder, key in taken.items()}

    def of(self, key: str, wanted: str) -> str:
        if key not in self._folders:
            free = self._keys.get(wanted, key) == key
            folder = wanted if free else f"{wanted}-{key[:8]}"
            self._keys[folder], self._folders[key] = key, folder
        return self._folders[key]
