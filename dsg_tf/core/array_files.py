"""Reads arrays from untrusted .npy and .npz files.

Headers are checked against the size of the file, and the members of an archive
against their checksums. Arrays are read only on request.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import zipfile
from collections.abc import Iterator, Mapping
from typing import IO

import numpy as np

from dsg_tf.core import memory

_MAGIC = b"\x93NUMPY"
_CHUNK_BYTES = 1 << 20
_MOST_AXES = 32
_MOST_METADATA_BYTES = 16 << 20
# Of the memory that is free: what one array may take.
_SHARE_OF_MEMORY = 0.75
_KINDS = "fiu"


class UnreadableError(Exception):
    """A file that is no array file, or a damaged or a hostile one."""


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    """Whatever a parser of foreign bytes raises is one kind of error."""
    try:
        yield
    except UnreadableError:
        raise
    except MemoryError as error:
        raise UnreadableError("more than memory holds") from error
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        raise UnreadableError(text or type(error).__name__) from error


@dataclasses.dataclass(frozen=True)
class Entry:
    """An array of a file, unread.

    Attributes:
      path: the file.
      shape, dtype: as its header says.
      fortran: whether the first axis lies closest.
      offset: of its first value, where it lies plain in the file; else None.
      member: its name in an archive; None in an .npy.
    """

    path: pathlib.Path
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    offset: int | None
    member: str | None = None

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def load(self, *, checked: bool = False) -> np.ndarray:
        """The array: memory-mapped where the file allows it.

        Args:
          checked: whether the archive's checksum is known to hold.

        Raises:
          UnreadableError: it holds no plain numbers, the checksum does not
            hold, or memory is too small for it.
        """
        if self.dtype.hasobject:
            raise UnreadableError("it holds Python objects")
        if self.dtype.kind not in _KINDS:
            raise UnreadableError(f"it holds {self.dtype} values, no numbers")
        with _readable():
            stored = self.member is not None and self.offset is not None
            if stored and not checked:
                _check_sum(self.path, self.member)
            if 0 in self.shape:
                return np.empty(self.shape, self.dtype)
            if self.offset is not None and self.dtype.isnative:
                return self._mapped()
            return self._in_memory()

    def _mapped(self) -> np.ndarray:
        return np.memmap(
            self.path,
            self.dtype,
            "r",
            offset=self.offset,
            shape=self.shape,
            order="F" if self.fortran else "C",
        )

    def _in_memory(self) -> np.ndarray:
        """Read as a whole, in the byte order of this machine."""
        size = math.prod(self.shape) * self.dtype.itemsize
        _check_memory(size)
        if self.offset is not None:
            return self._mapped().astype(self.dtype.newbyteorder("="))
        values = np.empty(math.prod(self.shape), self.dtype)
        into = memoryview(values.view(np.uint8))
        with (
            zipfile.ZipFile(self.path) as archive,
            archive.open(self.member) as stream,
        ):
            _header(stream)
            done = 0
            while done < size:
                part = stream.read(min(_CHUNK_BYTES, size - done))
                if not part:
                    raise UnreadableError("it ends too early")
                into[done : done + len(part)] = part
                done += len(part)
            stream.read(1)  # At its end the checksum is looked at.
        values = values.astype(self.dtype.newbyteorder("="), copy=False)
        return values.reshape(self.shape, order="F" if self.fortran else "C")


def read(path: pathlib.Path) -> tuple[dict[str, Entry], dict]:
    """The arrays of a file by name, unread, and its metadata.

    Args:
      path: an .npz; or an .npy, whose only array has an empty name.

    Returns:
      The arrays, and what an .npz has as `metadata.json`, or an empty dict.

    Raises:
      UnreadableError: it is neither, it is damaged, or headers and sizes do
        not fit.

    Examples:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = pathlib.Path(folder) / "a.npz"
      ...     np.savez(path, x=np.zeros((2, 3), np.float32))
      ...     arrays, metadata = read(path)
      ...     arrays["x"].shape, arrays["x"].load().dtype.name, metadata
      ((2, 3), 'float32', {})
    """
    with _readable():
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) == _MAGIC:
                file.seek(0)
                return {"": _of_npy(path, file)}, {}
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            names = [info.filename for info in infos]
            if len(set(names)) < len(names):
                raise UnreadableError("two of its members have one name")
            arrays = {
                info.filename.removesuffix(".npy"): _member(path, archive, info)
                for info in infos
                if info.filename.endswith(".npy")
            }
            return arrays, _metadata(archive)


def _of_npy(path: pathlib.Path, file: IO[bytes]) -> Entry:
    shape, fortran, dtype = _header(file)
    offset = file.tell()
    room = os.fstat(file.fileno()).st_size - offset
    if not dtype.hasobject and _bytes(shape, dtype) > room:
        raise UnreadableError(
            f"its header says {_bytes(shape, dtype):,} bytes of values, it has"
            f" {room:,}"
        )
    return Entry(path, shape, dtype, fortran, offset)


def _member(
    path: pathlib.Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo
) -> Entry:
    stored = info.compress_type == zipfile.ZIP_STORED
    if stored and info.compress_size != info.file_size:
        raise UnreadableError(f"{info.filename!r} has two sizes")
    with archive.open(info) as stream:
        shape, fortran, dtype = _header(stream)
        header_bytes = stream.tell()
    size = _bytes(shape, dtype)
    if not dtype.hasobject and header_bytes + size != info.file_size:
        raise UnreadableError(
            f"the header of {info.filename!r} says {size:,} bytes of values,"
            f" it has {info.file_size - header_bytes:,}"
        )
    offset = None
    if stored:
        offset = _data_offset(path, info) + header_bytes
        if offset - header_bytes + info.file_size > path.stat().st_size:
            raise UnreadableError(f"{info.filename!r} ends too early")
    return Entry(path, shape, dtype, fortran, offset, info.filename)


def _data_offset(path: pathlib.Path, info: zipfile.ZipInfo) -> int:
    """Where the bytes of a stored member begin."""
    with path.open("rb") as file:
        file.seek(info.header_offset + 26)
        name_size, extra_size = np.frombuffer(file.read(4), "<u2")
    return info.header_offset + 30 + int(name_size) + int(extra_size)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and dtype, as far as an array can have them."""
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise UnreadableError(f"an array of NumPy's format {version}")
    read_header = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, fortran, dtype = read_header(stream)
    if len(shape) > _MOST_AXES or any(size < 0 for size in shape):
        raise UnreadableError(f"an array of shape {shape}"[:200])
    return tuple(int(size) for size in shape), bool(fortran), dtype


def _bytes(shape: tuple[int, ...], dtype: np.dtype) -> int:
    return math.prod(shape) * dtype.itemsize


def _check_sum(path: pathlib.Path, member: str) -> None:
    """Reads a member once; zipfile compares the checksum at its end."""
    with zipfile.ZipFile(path) as archive, archive.open(member) as stream:
        while stream.read(_CHUNK_BYTES):
            pass


def _check_memory(size: int) -> None:
    free = memory.available()
    if free is not None and size > _SHARE_OF_MEMORY * free:
        raise UnreadableError(
            f"an array of {size:,} bytes, with {free:,} bytes of memory free;"
            " stored plain, an array need not fit into memory"
        )


def _metadata(archive: zipfile.ZipFile) -> dict:
    name = "metadata.json"
    if name not in archive.namelist():
        return {}
    size = archive.getinfo(name).file_size
    if size > _MOST_METADATA_BYTES:
        raise UnreadableError(f"a {name} of {size:,} bytes")
    metadata = json.loads(archive.read(name), parse_constant=_no_constant)
    if not isinstance(metadata, Mapping):
        raise UnreadableError(f"a {name} that is no object")
    return dict(metadata)


def _no_constant(text: str):
    raise UnreadableError(f"{text} in metadata.json")
