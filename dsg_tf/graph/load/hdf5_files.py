"""Checks HDF5 files of weights before a loader reads them.

HDF5 can refer to other files: by links, external storage and virtual datasets.
It can also declare more data than the file contains. Files written by Keras do
neither.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import IO

import h5py
import numpy as np

from dsg_tf.core import errors, memory

# Besides its datasets, a file contains only HDF5 metadata and text.
_MAX_BESIDE = 256 << 20
# Real weights never compress by more than this factor.
_MAX_EXPANSION = 1000
_SMALL = 64 << 20
_MAX_OBJECTS = 1 << 20


def check(file: h5py.File, subject: str, *, size: int) -> int:
    """Refuses contents that Keras never writes, without reading weights.

    Args:
      file: open for reading.
      subject: what errors call it.
      size: bytes of the file.

    Returns:
      How many numbers its datasets hold.

    Raises:
      errors.UserError: a link, external or virtual storage, or a dataset whose
        declared size exceeds what the file or memory can hold.
    """
    stored = numbers = total = 0
    for dataset in _datasets(file, subject):
        held = dataset.id.get_storage_size()
        shape = dataset.shape or ()
        count = math.prod(shape)
        promised = count * dataset.dtype.itemsize
        if promised > _SMALL and promised > _MAX_EXPANSION * max(held, 1):
            raise refusal(
                subject,
                f"{dataset.name!r:.80}, which promises {promised:,} bytes and"
                f" holds {held:,}",
            )
        stored += held
        numbers += count
        total += promised
    if size - stored > _MAX_BESIDE:
        raise refusal(
            subject, f"{size - stored:,} bytes beside the weights that it holds"
        )
    memory.require(total, subject, what="its weights")
    return numbers


def attribute(file: h5py.File, name: str, *, limit: int) -> bytes | None:
    """The text of an attribute of a file; None where there is none.

    Args:
      file: open for reading, checked before.
      name: of the attribute.
      limit: bytes; a longer one is not read.

    Raises:
      OverflowError: it is longer, by how it is declared.
      ValueError: it is no text.
    """
    if name not in file.attrs:
        return None
    declared = file.attrs.get_id(name)
    size = math.prod(declared.shape or ()) * declared.dtype.itemsize
    if size > limit:
        raise OverflowError(size)
    value = file.attrs[name]
    if isinstance(value, np.ndarray | np.bytes_):
        value = bytes(value)
    if isinstance(value, str):
        value = value.encode()
    if not isinstance(value, bytes):
        raise ValueError(f"{name} is no text")
    return value


def open_member(source: IO[bytes] | str | os.PathLike) -> h5py.File:
    """Opens a file, or what an archive holds, for reading.

    Raises:
      OSError: it is no HDF5.
    """
    return h5py.File(source, "r")


def refusal(subject: str, got: str) -> errors.UserError:
    """The error for a file that Keras did not write."""
    return errors.UserError(
        subject,
        got=got,
        expected="a file that holds its weights itself, as Keras writes it",
        remedy="save it again: model.save('model.keras')",
    )


def _datasets(file: h5py.File, subject: str) -> Iterator[h5py.Dataset]:
    """Every dataset once; checks that its data is stored in this file."""
    seen: set[int] = set()
    stack: list[h5py.Group] = [file]
    while stack:
        group = stack.pop()
        for name in group:
            where = f"{group.name.rstrip('/')}/{name}"
            found = _member(group, name, where, subject)
            address = h5py.h5o.get_info(found.id).addr
            if address in seen:
                continue
            seen.add(address)
            if len(seen) > _MAX_OBJECTS:
                raise refusal(subject, f"more than {_MAX_OBJECTS:,} objects")
            if isinstance(found, h5py.Group):
                stack.append(found)
            elif isinstance(found, h5py.Dataset):
                _check_storage(found, where, subject)
                yield found


def _member(group: h5py.Group, name: str, where: str, subject: str):
    try:
        link = group.get(name, getlink=True)
    except TypeError as error:  # A kind of link that only a plugin reads.
        raise refusal(subject, f"an unknown link at {where!r:.80}") from error
    if not isinstance(link, h5py.HardLink):
        kind = "a link to" if isinstance(link, h5py.SoftLink) else "a file at"
        target = getattr(link, "filename", None) or link.path
        raise refusal(
            subject, f"{kind} {target!r:.80} in place of {where!r:.80}"
        )
    return group[name]


def _check_storage(dataset: h5py.Dataset, where: str, subject: str) -> None:
    if dataset.external:
        outside = dataset.external[0][0]
        raise refusal(
            subject, f"{where!r:.80}, whose numbers lie in {outside!r:.80}"
        )
    if dataset.is_virtual:
        raise refusal(
            subject, f"{where!r:.80}, whose numbers lie in other files"
        )
