"""Unfinished samples in a folder, which a killed run resumes from.

There is one memory-mapped .npy file per input, and a journal of the finished
batches: memory does not grow with the number of samples. Finished samples are
packed into one `samples.npz` with metadata about their origin.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from dsg_tf.core import array_files, disk_space, staging
from dsg_tf.samples import sample_journal, sample_sets

_METADATA = "metadata.json"
_JOURNAL, _JOURNAL_TEMPORARY = "journal.json", "journal.tmp"


class SampleFolder:
    """Unfinished samples: a folder with a journal of the finished batches.

    Args:
      path: the folder; made if it is not there.
      shapes: the shape of one sample, by input name.
      dtypes: NumPy dtype by input name.
      count: how many samples there will be.
      key: text that identifies model and config; a folder with another key
        is begun anew.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        shapes: Mapping[str, Sequence[int]],
        dtypes: Mapping[str, np.dtype],
        count: int,
        key: str,
    ):
        self._path = pathlib.Path(path)
        self._key = key
        names = list(shapes)
        self._files = {n: self._path / f"{i}.npy" for i, n in enumerate(names)}
        self._journal = self._path / _JOURNAL
        self._temporary = self._path / _JOURNAL_TEMPORARY
        whole = {
            name: ((count, *shapes[name]), np.dtype(dtypes[name]))
            for name in names
        }
        with disk_space.reported(self._path, every=True):
            self._path.mkdir(parents=True, exist_ok=True)
            self._done, self._notes = self._resume(whole, count)
            try:
                self._maps = self._open(whole)
            except BaseException:
                if not self._done:
                    remove_folder(self._path)
                raise
        self._labels = np.full(count, -1, np.int32)
        for start, labels in self._done.items():
            self._labels[start : start + len(labels)] = labels

    @property
    def finished(self) -> frozenset[int]:
        """Index of the first sample of each finished batch."""
        return frozenset(self._done)

    @property
    def notes(self) -> Mapping[str, Any]:
        """The notes by name; they are packed with the metadata."""
        return dict(self._notes)

    def note(self, name: str, value: object) -> None:
        """Stores a value that holds for all batches, of types that JSON has."""
        self._notes[name] = value
        self._write_journal()

    def write(
        self,
        start: int,
        values: Mapping[str, np.ndarray],
        labels: np.ndarray,
    ) -> None:
        """Stores a finished batch, then notes it in the journal.

        There is no fsync: the page cache survives a killed process, and only a
        power failure would lose the data.
        """
        for name, array in self._maps.items():
            room = len(array) - start
            array[start : start + len(values[name])] = values[name][:room]
        self._labels[start : start + len(labels)] = labels[
            : len(self._labels) - start
        ]
        kept = self._labels[start : start + len(labels)]
        self._done[start] = [int(label) for label in kept]
        self._sums[start] = self._sums_of(start, len(kept))
        self._write_journal()

    def pack(
        self,
        path: str | os.PathLike,
        metadata: Mapping,
        *,
        tell: bool = False,
    ) -> sample_sets.SampleSet:
        """Packs all samples into one .npz and opens it.

        The file is written under a temporary name and renamed. It is not
        compressed, so that it can be memory-mapped.

        Args:
          path: the file.
          metadata: what it tells of itself.
          tell: whether the log says what was replaced.

        Raises:
          errors.UserError: there is no room for it.
        """
        path = pathlib.Path(path)
        size = sum(file.stat().st_size for file in self._files.values())
        with (
            staging.file(path, tell=tell) as temporary,
            disk_space.reported(path, bytes_needed=size, every=True),
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
        ):
            for name, file in self._files.items():
                with (
                    _entry(archive, f"{name}.npy") as entry,
                    file.open("rb") as source,
                ):
                    shutil.copyfileobj(source, entry, 1 << 20)
            if sample_sets.LABELS not in self._files:
                with _entry(archive, f"{sample_sets.LABELS}.npy") as entry:
                    np.lib.format.write_array(entry, self._labels)
            with _entry(archive, _METADATA) as entry:
                whole = {**metadata, **self._notes}
                entry.write(json.dumps(whole, sort_keys=True).encode())
        # The checksums were computed from the bytes that were written.
        return sample_sets.read(
            path, inputs=dict.fromkeys(self._files), checked=True
        )

    def remove(self) -> None:
        """Deletes the folder's own files."""
        self._maps = {}
        remove_folder(self._path)

    def _open(self, whole: Mapping[str, tuple]) -> dict[str, np.memmap]:
        """Opens the files; creates them if no batch is finished."""
        if not self._done:
            for left_behind in self._path.glob("[0-9]*.npy"):
                left_behind.unlink()
        maps = {}
        for name, file in self._files.items():
            shape, dtype = whole[name]
            maps[name] = np.lib.format.open_memmap(
                file,
                mode="r+" if self._done else "w+",
                shape=shape,
                dtype=dtype,
            )
            # Without allocated blocks a full disk would cause a SIGBUS.
            disk_space.reserve(file, file.stat().st_size)
        return maps

    def _sums_of(self, start: int, size: int) -> list[int]:
        """A checksum of each input's samples in a batch."""
        return [
            sample_journal.checksum(array[start : start + size])
            for array in self._maps.values()
        ]

    def _write_journal(self) -> None:
        done = tuple(
            (start, labels, self._sums[start])
            for start, labels in self._done.items()
        )
        content = sample_journal.Journal(self._key, done, self._notes).encode()
        with disk_space.reported(
            self._journal, bytes_needed=len(content), every=True
        ):
            try:
                self._temporary.write_bytes(content)
                os.replace(self._temporary, self._journal)
            except OSError:
                self._temporary.unlink(missing_ok=True)
                raise

    def _resume(
        self, whole: Mapping[str, tuple], count: int
    ) -> tuple[dict[int, list[int]], dict]:
        """Labels of the finished batches by start, and the notes.

        Both are empty if the journal is damaged; a batch is left out if its
        samples do not match their checksums.
        """
        self._sums: dict[int, list[int]] = {}
        if not os.path.lexists(self._journal):
            return {}, {}
        try:
            journal = sample_journal.read(self._journal)
            if journal.key != self._key:
                logging.info(
                    "%s: of another model or config; begun anew", self._path
                )
                return {}, {}
            maps = self._checked_maps(whole, journal, count)
        except (OSError, ValueError, array_files.UnreadableError) as error:
            logging.warning(
                "%s: damaged (%s); begun anew", self._path, str(error)[:200]
            )
            return {}, {}
        done = {}
        for start, labels, sums in journal.done:
            stop = start + len(labels)
            if [
                sample_journal.checksum(array[start:stop]) for array in maps
            ] == sums:
                done[start], self._sums[start] = labels, sums
            else:
                logging.warning(
                    "%s: samples %d to %d are damaged; made again",
                    self._path,
                    start,
                    stop - 1,
                )
        return done, journal.notes

    def _checked_maps(
        self,
        whole: Mapping[str, tuple],
        journal: sample_journal.Journal,
        count: int,
    ) -> list[np.ndarray]:
        """The existing arrays, checked for shape, dtype and order."""
        if not journal.done:
            return []
        journal.check_bounds(count)
        maps = []
        for name, file in self._files.items():
            if file.is_symlink():
                raise ValueError(f"{file.name} is a link")
            arrays, _ = array_files.read(file)
            entry = arrays.get("")
            if entry is None or (entry.shape, entry.dtype) != whole[name]:
                raise ValueError(f"{file.name} has another shape")
            if entry.fortran:
                raise ValueError(f"{file.name} has another order")
            maps.append(entry.load())
        return maps


def is_worth(path: pathlib.Path, *, notes_count: bool) -> bool:
    """Whether a later run could resume from a folder of unfinished samples.

    Args:
      path: the folder.
      notes_count: whether notes alone are worth it.
    """
    try:
        journal = sample_journal.read(path / _JOURNAL)
    except (OSError, ValueError):
        return False
    return bool(journal.done or (notes_count and journal.notes))


def remove_folder(path: pathlib.Path) -> None:
    """Deletes the files of unfinished samples; keeps files of others."""
    if path.is_symlink() or not path.is_dir():
        return
    for file in (
        *path.glob("[0-9]*.npy"),
        path / _JOURNAL,
        path / _JOURNAL_TEMPORARY,
    ):
        file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        path.rmdir()


def _entry(archive: zipfile.ZipFile, name: str):
    """A zip member with a fixed time: same samples, same bytes."""
    return archive.open(zipfile.ZipInfo(name), "w", force_zip64=True)
