"""Reads images from an .npz; checks the headers before it reads the arrays.

The header of an array in NumPy's format may declare any shape and type, and a
compressed member any size.
"""

from __future__ import annotations

import contextlib
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from dsg_tf.core import errors, memory

# Exceptions that damaged archives, members and headers raise.
_DAMAGE = (
    *(EOFError, KeyError, NotImplementedError, OSError, RuntimeError),
    *(SyntaxError, TypeError, ValueError, RecursionError),
    *(struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)
_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_CHUNK = 1 << 24


def read(path: str, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Arrays of an .npz by name; `images` among them are checked.

    Args:
      path: of the .npz.
      names: of the arrays, without `.npy`.

    Returns:
      Each array as it is stored.

    Raises:
      errors.UserError: it is no .npz, an array is missing, damaged, empty,
        larger than memory or not of numbers, or a pixel is not finite.
    """
    with _opened(path, names) as archive:
        arrays = {name: _array(path, archive, name) for name in names}
    images = arrays.get("images")
    if images is not None and images.dtype.kind == "f":
        for start in range(0, len(images), 256):
            if not np.isfinite(images[start : start + 256]).all():
                raise errors.UserError(
                    path,
                    got=f"pixels that are not finite, at image {start} or"
                    " behind",
                    expected="numbers",
                )
    return arrays


def count(path: str) -> int:
    """The number of images in an .npz; reads only their header.

    Raises:
      errors.UserError: as `read`, as far as the header shows it.
    """
    with _opened(path, ("images",)) as archive:
        return _header(path, archive, "images")[0][0]


@contextlib.contextmanager
def _opened(path: str, names: Sequence[str]) -> Iterator[zipfile.ZipFile]:
    """The archive, if it has arrays of these names; damage has one line."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = sorted(
                name.removesuffix(".npy") for name in archive.namelist()
            )
            if not set(names) <= set(found):
                raise errors.UserError(
                    path,
                    got=f"arrays {found[:10]}",
                    expected="arrays " + " and ".join(names),
                )
            yield archive
    except errors.UserError:
        raise
    except _DAMAGE as error:
        raise errors.UserError(
            path,
            got=f"an unreadable file ({type(error).__name__})",
            expected="an .npz file or a folder",
        ) from None


def _header(
    path: str, archive: zipfile.ZipFile, name: str
) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, whether in Fortran's order, type, and bytes of the header."""
    with archive.open(f"{name}.npy") as member:
        version = np.lib.format.read_magic(member)
        if version not in _READERS:
            raise ValueError(f"NumPy's format {version}")
        shape, fortran, dtype = _READERS[version](member)
        head = member.tell()
    if not shape or min(shape) < 1 or dtype.kind not in "uif":
        raise errors.UserError(
            path,
            got=f"{name} {dtype} of shape {shape}",
            expected="an array of numbers, with at least one image",
        )
    size = math.prod(shape) * dtype.itemsize
    if archive.getinfo(f"{name}.npy").file_size != head + size:
        raise errors.UserError(
            path,
            got=f"{name} {dtype} of shape {shape}, of another size than its"
            " header says",
            expected="a whole file",
        )
    memory.require(size, str(path), what=str(name))
    return shape, fortran, dtype, head


def _array(path: str, archive: zipfile.ZipFile, name: str) -> np.ndarray:
    shape, fortran, dtype, head = _header(path, archive, name)
    content = np.empty(math.prod(shape) * dtype.itemsize, np.uint8)
    with archive.open(f"{name}.npy") as member:
        member.read(head)
        at = 0
        # Read to the end, because zipfile checks the CRC there.
        while chunk := member.read(_CHUNK):
            content[at : at + len(chunk)] = np.frombuffer(chunk, np.uint8)
            at += len(chunk)
    if at != len(content):
        raise EOFError
    array = content.view(dtype).reshape(shape[::-1] if fortran else shape)
    return array.transpose() if fortran else array
