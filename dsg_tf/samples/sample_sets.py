"""Sets of samples, in memory or in a file; no TensorFlow.

`read` opens samples.npz, or a user's own .npz or .npy.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dsg_tf.core import array_files, errors, files

_EXPECTED = "an .npz with one array per input, or an .npy"
LABELS = "labels"
# At most so many names in an error message.
_SHOWN = 12


def held_out(total: int, most: int) -> int:
    """How many of a user's own samples are held out: at most a fifth.

    Args:
      total: how many are given.
      most: as many as were asked for (`--verify_samples`).

    Examples:
      >>> held_out(40, 16), held_out(500, 16)
      (8, 16)
    """
    return min(most, max(total // 5, 1)) if total > 1 else 0


@dataclasses.dataclass(frozen=True, eq=False)
class SampleSet:
    """Inputs for a model, read lazily from disk.

    Attributes:
      arrays: by input name, (N, ...), in what the model takes.
      metadata: how they were made; empty for a user's own samples.
    """

    arrays: Mapping[str, np.ndarray]
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)

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
    values: object,
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

    Examples:
      >>> len(of_values(np.zeros((4, 3)), inputs={"x": (3,)}))
      4
    """
    metadata: Mapping[str, Any] = {}
    if isinstance(values, SampleSet):
        metadata = values.metadata
        values = values.arrays
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
    """Selects the array of each input and checks it."""
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
            a for k, a in arrays.items() if k != LABELS and a.ndim > 1
        ]
    return {name: candidates[0]} if len(candidates) == 1 else arrays


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
