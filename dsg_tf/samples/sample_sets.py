"""Sets of samples: written, resumed, packed and read; no TensorFlow.

During synthesis the samples are in a folder, one memory-mapped .npy file per
input, with a journal of the finished batches: memory does not grow with the
number of samples, and a killed run can be resumed. Finished samples are packed
into one `samples.npz` with metadata about their origin. The same reader opens a
user's own .npz or .npy.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from absl import logging

from dsg_tf.core import array_files, disk_space, errors, files, staging
from dsg_tf.samples import sample_journal

_EXPECTED = "an .npz with one array per input, or an .npy"
_METADATA = "metadata.json"
_LABELS = "labels"
_JOURNAL, _JOURNAL_TEMPORARY = "journal.json", "journal.tmp"
# At most so many names in an error message.
_SHOWN = 12


def held_out(total: int, most: int) -> int:
    """How many of a user's own samples are held out: at most a fifth.

    Args:
      total: how many are given.
      most: as many as were asked for (`--verify_samples`).

    Example:
      >>> held_out(40, 16), held_out(500, 16)
      (8, 16)
    """
    return min(most, max(total // 5, 1)) if total > 1 else 0


@dataclasses.dataclass(frozen=True, eq=False)
class SampleSet:
    """Inputs for a model, read lazily from disk.

    Attributes:
      arrays: by input name, (N, ...), in what the model takes.
      metadata: how they were made; empty for a user's own.
    """

    arrays: Mapping[str, np.ndarray]
    metadata: Mapping[str, object] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return min((len(a) for a in self.arrays.values()), default=0)

    def one_by_one(self) -> Iterator[dict[str, np.ndarray]]:
        """Samples as (1, ...) by input name, copied from disk one by one."""
        for index in range(len(self)):
            yield {
                name: np.array(array[index : index + 1])
                for name, array in self.arrays.items()
            }

    def split(self, held_out: int) -> tuple[SampleSet, SampleSet]:
        """(all but the last `held_out` samples, the last `held_out`)."""
        cut = len(self) - held_out
        first = {k: a[:cut] for k, a in self.arrays.items()}
        last = {k: a[cut:] for k, a in self.arrays.items()}
        return (
            SampleSet(first, self.metadata),
            SampleSet(last, self.metadata),
        )


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
    def notes(self) -> Mapping[str, object]:
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
    ) -> SampleSet:
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
            if _LABELS not in self._files:
                with _entry(archive, f"{_LABELS}.npy") as entry:
                    np.lib.format.write_array(entry, self._labels)
            with _entry(archive, _METADATA) as entry:
                whole = {**metadata, **self._notes}
                entry.write(json.dumps(whole, sort_keys=True).encode())
        # The checksums were computed from the bytes that were written.
        return read(path, inputs=dict.fromkeys(self._files), checked=True)

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


def read(
    path: str | os.PathLike,
    *,
    inputs: Mapping[str, tuple[int | None, ...] | None],
    checked: bool = False,
) -> SampleSet:
    """Opens samples.npz, or a user's own .npz or .npy.

    An archive's checksums are compared once, here, of the arrays that are used.

    Args:
      path: the file. A .npy, or an .npz with a single array beside labels,
        serves a model with one input under any name.
      inputs: the shape of one sample by input name, None where any will do.
      checked: whether the checksums are known to hold.

    Returns:
      The samples, memory-mapped where the file allows it.

    Raises:
      errors.UserError: the file is not there, is not of these formats, lacks
        an input, or holds another shape.
    """
    path = pathlib.Path(path)
    entries, metadata = _open(path)
    chosen = _choose(str(path), entries, inputs)
    try:
        loaded = {n: e.load(checked=checked) for n, e in chosen.items()}
    except array_files.UnreadableError as error:
        raise _unreadable(path, error) from error
    return SampleSet(loaded, metadata)


def of_values(
    values,
    *,
    inputs: Mapping[str, tuple[int | None, ...] | None],
    subject: str = "samples",
) -> SampleSet:
    """Samples that are in memory.

    Args:
      values: a `SampleSet`; arrays (N, ...) by input name; or, for a model with
        one input, its array.
      inputs: as for `read`.
      subject: what errors call them.

    Raises:
      errors.UserError: as `read`.

    Example:
      >>> len(of_values(np.zeros((4, 3)), inputs={"x": (3,)}))
      4
    """
    metadata: Mapping[str, object] = {}
    if isinstance(values, SampleSet):
        values, metadata = values.arrays, values.metadata
    if not isinstance(values, Mapping):
        values = {"": values}
    try:
        arrays = {str(name): np.asarray(v) for name, v in values.items()}
    except ValueError as error:  # Lists of unlike lengths.
        raise errors.UserError(
            subject, got=f"no array ({error})", expected="arrays (N, ...)"
        ) from error
    return SampleSet(_choose(subject, arrays, inputs), metadata)


def _choose(subject: str, arrays: dict, inputs: Mapping) -> dict:
    """The array of each input, checked, of arrays or entries of a file."""
    if len(inputs) == 1 and not set(inputs) & set(arrays):
        arrays = _under_its_name(arrays, next(iter(inputs)))
    chosen = {}
    for name, shape in inputs.items():
        if name not in arrays:
            raise errors.UserError(
                subject,
                got=f"arrays {_few(sorted(arrays))}"
                if any(arrays)
                else "an array without a name"
                if arrays
                else "no arrays",
                expected="an array for each input: " + _few(list(inputs)),
            )
        chosen[name] = _check_shape(subject, name, arrays[name], shape)
    counts = {name: len(a) for name, a in chosen.items()}
    if len(set(counts.values())) > 1:
        raise errors.UserError(
            subject,
            got=f"different numbers of samples: {counts}",
            expected="the same number for each input",
        )
    return chosen


def _under_its_name(arrays: dict, name: str) -> dict:
    """The only array that can be the input, renamed to the input's name."""
    candidates = list(arrays.values())
    if len(arrays) > 1:
        candidates = [
            a for k, a in arrays.items() if k != _LABELS and a.ndim > 1
        ]
    return {name: candidates[0]} if len(candidates) == 1 else arrays


def _entry(archive: zipfile.ZipFile, name: str):
    """A zip member with a fixed time: same samples, same bytes."""
    return archive.open(zipfile.ZipInfo(name), "w", force_zip64=True)


def _few(names: Sequence[str]) -> str:
    """Names for an error message, shortened to a line."""
    shown = [n if len(n) <= 60 else f"{n[:60]}..." for n in names[:_SHOWN]]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _check_shape(subject, name, array, shape):
    if array.dtype.hasobject:
        raise errors.UserError(
            subject,
            got="an unreadable file (it holds Python objects)",
            expected=_EXPECTED,
        )
    fits = shape is None or (
        array.ndim == len(shape) + 1
        and all(
            want is None or want == have
            for want, have in zip(shape, array.shape[1:], strict=True)
        )
    )
    if not fits:
        raise errors.UserError(
            subject,
            got=f"shape {tuple(array.shape)} for {name!r}",
            expected=f"(N, {', '.join(str(d) for d in shape)})",
        )
    if array.ndim == 0 or len(array) == 0:
        raise errors.UserError(
            subject, got="no samples", expected="at least one"
        )
    if array.dtype.kind not in "fiu":
        raise errors.UserError(
            subject,
            got=f"{array.dtype} values for {name!r}",
            expected="numbers",
        )
    return array


def _open(
    path: pathlib.Path,
) -> tuple[dict[str, array_files.Entry], dict]:
    files.refuse_special(path, expected=_EXPECTED)
    try:
        if not path.is_file():
            raise errors.UserError(
                str(path),
                got="a folder" if path.is_dir() else "no such file",
                expected=_EXPECTED,
            )
        return array_files.read(path)
    except (OSError, array_files.UnreadableError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: pathlib.Path, error: Exception) -> errors.UserError:
    return errors.UserError(
        str(path),
        got=f"an unreadable file ({str(error)[:300]})",
        expected=_EXPECTED,
        remedy="make or copy it again",
    )
