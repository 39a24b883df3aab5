"""Samples as an artefact: made, kept, read back, checked; no TensorFlow.

While samples are made they live in a folder, one memory-mapped .npy file per
input, with a journal of the batches that are finished: memory does not grow
with their number, and a killed run goes on where it was. When all are there
they are packed into one `samples.npz` that carries where they come from. The
same reader takes a user's own .npz or .npy.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from dsg_tf import errors

_METADATA = "metadata.json"
_LABELS = "labels"
# Samples whose values span less than this many deviations of the domain were
# scaled for another model: [0, 1] pixels span 1/64 of a 0..255 model's.
_VANISHING = 0.1
# Samples that are checked at a time.
_CHUNK = 64


def held_out(total: int, most: int) -> int:
    """How many of a user's own samples verify: at most a fifth.

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
    """Samples under way: a folder that remembers which batches are done.

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
        self._path.mkdir(parents=True, exist_ok=True)
        self._key = key
        names = list(shapes)
        self._files = {n: self._path / f"{i}.npy" for i, n in enumerate(names)}
        self._journal = self._path / "journal.json"
        self._temporary = self._path / "journal.tmp"
        whole = {
            name: ((count, *shapes[name]), np.dtype(dtypes[name]))
            for name in names
        }
        self._done, self._notes = self._read_journal(whole)
        if not self._done:
            for left_behind in self._path.glob("[0-9]*.npy"):
                left_behind.unlink()
        mode = "r+" if self._done else "w+"
        self._maps = {
            name: np.lib.format.open_memmap(
                file,
                mode=mode,
                shape=whole[name][0],
                dtype=whole[name][1],
            )
            for name, file in self._files.items()
        }
        self._labels = np.full(count, -1, np.int32)
        for start, labels in self._done.items():
            self._labels[start : start + len(labels)] = labels

    @property
    def finished(self) -> frozenset[int]:
        """Index of the first sample of each finished batch."""
        return frozenset(self._done)

    @property
    def notes(self) -> Mapping[str, object]:
        """What was noted, by name; packed with the metadata."""
        return dict(self._notes)

    def note(self, name: str, value: object) -> None:
        """Keeps a finding that holds for all batches; JSON values alone."""
        self._notes[name] = value
        self._write_journal()

    def write(
        self,
        start: int,
        values: Mapping[str, np.ndarray],
        labels: np.ndarray,
    ) -> None:
        """Stores a finished batch, then notes it in the journal.

        What is written lies in the page cache, which a killed process leaves
        behind; waiting for the disk would only guard against a power cut.
        """
        for name, array in self._maps.items():
            room = len(array) - start
            array[start : start + len(values[name])] = values[name][:room]
        self._labels[start : start + len(labels)] = labels[
            : len(self._labels) - start
        ]
        kept = self._labels[start : start + len(labels)]
        self._done[start] = [int(label) for label in kept]
        self._write_journal()

    def pack(self, path: str | os.PathLike, metadata: Mapping) -> SampleSet:
        """Packs all samples into one .npz and opens it.

        The file is written under a temporary name and renamed. It is not
        compressed, so that it can be memory-mapped.
        """
        path = pathlib.Path(path)
        temporary = path.with_name(path.name + ".tmp")
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
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
        os.replace(temporary, path)
        return read(path, inputs=dict.fromkeys(self._files))

    def remove(self) -> None:
        """Deletes the folder's own files."""
        self._maps = {}
        for file in (*self._files.values(), self._journal, self._temporary):
            file.unlink(missing_ok=True)
        self._path.rmdir()

    def _write_journal(self) -> None:
        journal = {
            "key": self._key,
            "done": list(self._done.items()),
            "notes": self._notes,
        }
        self._temporary.write_text(json.dumps(journal))
        os.replace(self._temporary, self._journal)

    def _read_journal(self, whole: Mapping[str, tuple]) -> tuple[dict, dict]:
        """Labels of the finished batches by start, and the notes.

        None of either if in any doubt.
        """
        try:
            journal = json.loads(self._journal.read_text())
            if journal["key"] != self._key:
                return {}, {}
            done = {int(start): list(kept) for start, kept in journal["done"]}
            for name, file in self._files.items():
                there = np.load(file, mmap_mode="r")
                if (there.shape, there.dtype) != whole[name]:
                    return {}, {}
            return done, dict(journal["notes"])
        except (OSError, EOFError, ValueError, TypeError, KeyError):
            return {}, {}


def read(
    path: str | os.PathLike,
    *,
    inputs: Mapping[str, tuple[int | None, ...] | None],
) -> SampleSet:
    """Opens samples.npz, or a user's own .npz or .npy.

    Args:
      path: the file. A .npy, or an .npz with a single array beside labels,
        serves a model with one input under any name.
      inputs: the shape of one sample by input name, None where any will do.

    Returns:
      The samples, memory-mapped where the file allows it.

    Raises:
      errors.UserError: the file is not there, is not of these formats, lacks
        an input, or holds another shape.
    """
    path = pathlib.Path(path)
    arrays, metadata = _open(path)
    if len(inputs) == 1 and not set(inputs) & set(arrays):
        arrays = _under_its_name(arrays, next(iter(inputs)))
    chosen = {}
    for name, shape in inputs.items():
        if name not in arrays:
            raise errors.UserError(
                str(path),
                got="arrays " + ", ".join(sorted(arrays))
                if any(arrays)
                else "an array without a name"
                if arrays
                else "no arrays",
                expected="an array for each input: " + ", ".join(inputs),
            )
        chosen[name] = _check_shape(path, name, arrays[name], shape)
    counts = {name: len(a) for name, a in chosen.items()}
    if len(set(counts.values())) > 1:
        raise errors.UserError(
            str(path),
            got=f"different numbers of samples: {counts}",
            expected="the same number for each input",
        )
    return SampleSet(chosen, metadata)


def check_values(
    subject: str,
    name: str,
    array: np.ndarray,
    *,
    minimum: float,
    maximum: float,
    deviation: float,
    integer: bool,
) -> None:
    """Refuses samples that cannot be inputs of the model.

    Args:
      subject: the file, for the error.
      name: the input.
      array: (N, ...).
      minimum, maximum: the domain's bounds; infinite where unknown.
      deviation: the domain's.
      integer: whether only whole numbers are valid.

    Raises:
      errors.UserError: values are not finite, lie far outside of the bounds
        (0..255 pixels for a [-1, 1] model), fill a vanishing part of them
        ([0, 1] pixels for a 0..255 model), or are not whole.
    """
    low, high, whole = math.inf, -math.inf, True
    for start in range(0, len(array), _CHUNK):
        part = np.asarray(array[start : start + _CHUNK], np.float64)
        if not np.isfinite(part).all():
            raise errors.UserError(
                subject,
                got=f"values of {name!r} that are not finite",
                expected="finite numbers",
            )
        low, high = min(low, part.min()), max(high, part.max())
        whole = whole and bool((part == np.rint(part)).all())
    slack = 0.0 if integer else 0.5 * (maximum - minimum)
    outside = low < minimum - slack or high > maximum + slack
    # Whole numbers may well be few: token ids of an int32 input.
    vanishing = not integer and high - low < _VANISHING * deviation
    remedy = (
        "preprocess them as the model expects, or give the range with"
        " --input_range"
    )
    if np.isfinite(slack) and (outside or vanishing):
        raise errors.UserError(
            subject,
            got=f"values of {name!r} in [{low:.4g}, {high:.4g}]",
            expected=f"values in [{minimum:.4g}, {maximum:.4g}]",
            remedy=remedy,
        )
    if integer and not whole:
        raise errors.UserError(
            subject,
            got=f"fractional values of {name!r}",
            expected="whole numbers",
            remedy=remedy,
        )


def _under_its_name(arrays: dict, name: str) -> dict:
    """The one array that can be the inputs, under the input's name."""
    candidates = list(arrays.values())
    if len(arrays) > 1:
        candidates = [
            a for k, a in arrays.items() if k != _LABELS and a.ndim > 1
        ]
    return {name: candidates[0]} if len(candidates) == 1 else arrays


def _entry(archive: zipfile.ZipFile, name: str):
    """A member to write to; its time is fixed: same samples, same bytes."""
    return archive.open(zipfile.ZipInfo(name), "w", force_zip64=True)


def _check_shape(path, name, array, shape):
    fits = shape is None or (
        array.ndim == len(shape) + 1
        and all(
            want is None or want == have
            for want, have in zip(shape, array.shape[1:], strict=True)
        )
    )
    if not fits:
        raise errors.UserError(
            str(path),
            got=f"shape {tuple(array.shape)} for {name!r}",
            expected=f"(N, {', '.join(str(d) for d in shape)})",
        )
    if array.ndim == 0 or len(array) == 0:
        raise errors.UserError(
            str(path), got="no samples", expected="at least one"
        )
    if array.dtype.kind not in "fiu":
        raise errors.UserError(
            str(path),
            got=f"{array.dtype} values for {name!r}",
            expected="numbers",
        )
    return array


# What NumPy and zipfile raise for files that are no, or damaged, archives.
_UNREADABLE = (
    ValueError,
    OSError,
    EOFError,
    RuntimeError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)


def _open(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict]:
    expected = "an .npz with one array per input, or an .npy"
    if not path.is_file():
        raise errors.UserError(
            str(path),
            got="a folder" if path.is_dir() else "no such file",
            expected=expected,
        )
    try:
        if not zipfile.is_zipfile(path):
            return {"": np.load(path, mmap_mode="r")}, {}
        with zipfile.ZipFile(path) as archive:
            arrays = {
                info.filename.removesuffix(".npy"): _member(path, archive, info)
                for info in archive.infolist()
                if info.filename.endswith(".npy")
            }
            metadata = {}
            if _METADATA in archive.namelist():
                metadata = json.loads(archive.read(_METADATA))
            return arrays, metadata
    except _UNREADABLE as error:
        raise errors.UserError(
            str(path), got=f"an unreadable file ({error})", expected=expected
        ) from error


def _member(path, archive, info) -> np.ndarray:
    """An array of an .npz: memory-mapped if stored, loaded if compressed."""
    with archive.open(info) as stream:
        if info.compress_type != zipfile.ZIP_STORED:
            return np.lib.format.read_array(stream, allow_pickle=False)
        version = np.lib.format.read_magic(stream)
        read_header = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = read_header(stream)
        header_size = stream.tell()
        if dtype.hasobject:
            raise ValueError("it holds Python objects")
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)
        name_size, extra_size = np.frombuffer(file.read(4), "<u2")
    offset = info.header_offset + 30 + int(name_size) + int(extra_size)
    if 0 in shape:
        return np.empty(shape, dtype)
    return np.memmap(
        path,
        dtype,
        "r",
        offset=offset + header_size,
        shape=shape,
        order="F" if fortran else "C",
    )
