"""Damage to .npy headers, and to the structure of zip archives."""

from __future__ import annotations

import io
import pathlib
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence

import numpy as np

Members = Mapping[str, bytes]

_SHAPES = (
    *("()", "(0,)", "(0, 8, 8, 3)", "(12, 0, 8, 3)", "(-1, 8, 8, 3)"),
    *("(12, -8, 8, 3)", "(12, 8, 8, 3, 1)", "(12, 192)", "(2**40, 8, 8, 3)"),
    *("(4611686018427387904, 4, 4, 4)", "(10**30,)", "(99, 8, 8, 3)"),
    *("12", "[12, 8, 8, 3]", "(12.0, 8, 8, 3)", "(True, 8, 8, 3)", "None"),
    *("('12', 8, 8, 3)", "(18446744073709551615, 8, 8, 3)"),
    "(" + "1, " * 70 + ")",
)
_DTYPES = (
    *("'|O'", "'<f8'", "'<f2'", "'>f4'", "'<c8'", "'|b1'", "'<U10'", "'|S3'"),
    *("'|V4'", "'<M8[ns]'", "'<f9'", "'<f99999999999'", "''", "None", "17"),
    *("[('a', '<f4')]", "[('a', '<f4', (10**9,))]", "'<V2147483647'"),
)
_HEADERS = (
    *("", "{}", "None", "17", "[]", "'text'", "{'descr': '<f4'}", "\xff\xfe"),
    *("__import__('os')", "{" * 5000, "(" * 100_000, "{'a': " * 3000),
    "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'more': 1}",
    "{'descr': '<f4', 'fortran_order': 2, 'shape': (1,)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}" + " " * 70_000,
)


def npy(
    header: str, data: bytes, *, version: tuple[int, int] = (1, 0)
) -> bytes:
    """A .npy file of a header as it is given.

    Example:
      >>> npy("{}", b"")[:6] == np.lib.format.MAGIC_PREFIX
      True
    """
    text = header.encode("latin1") + b"\n"
    if version == (1, 0) and len(text) > 0xFFFF:
        version = (2, 0)
    size = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return np.lib.format.MAGIC_PREFIX + bytes(version) + size + text + data


def with_header(array: np.ndarray, rng: np.random.Generator) -> bytes:
    """An array's .npy with one thing of its header wrong."""
    data, how = array.tobytes(), int(rng.integers(6))
    parts = {
        "descr": repr(np.lib.format.dtype_to_descr(array.dtype)),
        "fortran_order": "False",
        "shape": repr(array.shape),
    }
    if how in (0, 1):
        parts["shape"] = _pick(_SHAPES, rng)
    elif how == 2:
        parts["descr"] = _pick(_DTYPES, rng)
    elif how == 3:
        return npy(_pick(_HEADERS, rng), data)
    fields = ", ".join(f"'{name}': {text}" for name, text in parts.items())
    header = f"{{{fields}}}"
    header = header.replace("2**40", str(2**40)).replace("10**", "1" + "0" * 8)
    if how == 4:
        version = _pick(((0, 0), (1, 1), (9, 9), (255, 255), (3, 0)), rng)
        return npy(header, data, version=version)
    whole = npy(header, data)
    if how == 5:  # A length of the header that is not its own.
        size = int(_pick((0, 1, 9, 0x7FFF, 0xFFFF), rng))
        return whole[:8] + struct.pack("<H", size) + whole[10:]
    return whole


def members_of(path: pathlib.Path) -> dict[str, bytes]:
    """The members of an archive, by name."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive(members: Members | Sequence[tuple[str, bytes]]) -> bytes:
    """An archive of stored members; a sequence may name one twice."""
    pairs = members.items() if isinstance(members, Mapping) else members
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, "w") as made,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", UserWarning)  # Of a name twice.
        for name, content in pairs:
            made.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def _without_one(members: Members, rng: np.random.Generator) -> bytes:
    gone = _pick(list(members), rng)
    return archive({n: c for n, c in members.items() if n != gone})


def _one_empty(members: Members, rng: np.random.Generator) -> bytes:
    return archive({**members, _pick(list(members), rng): b""})


def _one_twice(members: Members, rng: np.random.Generator) -> bytes:
    name = _pick(list(members), rng)
    return archive([*members.items(), (name, members[name][::-1])])


def _renamed(members: Members, rng: np.random.Generator) -> bytes:
    old = _pick(list(members), rng)
    new = _pick(
        ("../x", "/x", "x\x00y", "", "x" * 300, "a/b/c", "\u4e2d", old + "/"),
        rng,
    )
    return archive([(new if n == old else n, c) for n, c in members.items()])


def _compressed(members: Members, rng: np.random.Generator) -> bytes:
    """By a method that not every reader has; and one that there is not."""
    method = int(_pick((8, 12, 14), rng))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        for name, content in members.items():
            made.writestr(zipfile.ZipInfo(name), content, method)
    content = buffer.getvalue()
    if rng.integers(2):
        return _field(content, b"PK\x01\x02", 10, 2, 97)
    return content


def _wrong_crc(members: Members, rng: np.random.Generator) -> bytes:
    """Data that is not what its checksum says."""
    content = archive(members)
    name = _pick(list(members), rng)
    data = members[name]
    at = content.find(data) + int(rng.integers(max(len(data), 1)))
    return content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :]


def _encrypted(members: Members, rng: np.random.Generator) -> bytes:
    content = _field(archive(members), b"PK\x01\x02", 8, 2, 1)
    return _field(content, b"PK\x03\x04", 6, 2, 1)


def _wrong_size(members: Members, rng: np.random.Generator) -> bytes:
    """Sizes, offsets and counts of the index that are not so."""
    mark, at, width = _pick(
        (
            (b"PK\x01\x02", 20, 4),
            (b"PK\x01\x02", 24, 4),
            (b"PK\x01\x02", 28, 2),
            (b"PK\x01\x02", 30, 2),
            (b"PK\x01\x02", 42, 4),
            (b"PK\x03\x04", 26, 2),
            (b"PK\x03\x04", 28, 2),
            (b"PK\x05\x06", 8, 2),
            (b"PK\x05\x06", 10, 2),
            (b"PK\x05\x06", 12, 4),
            (b"PK\x05\x06", 16, 4),
        ),
        rng,
    )
    most = (1 << (8 * width)) - 1
    value = int(_pick((0, 1, 255, most // 2, most - 1, most), rng))
    return _field(archive(members), mark, at, width, value)


def _surrounded(members: Members, rng: np.random.Generator) -> bytes:
    content, extra = archive(members), rng.bytes(int(rng.integers(1, 200)))
    return extra + content if rng.integers(2) else content + extra


def _empty(members: Members, rng: np.random.Generator) -> bytes:
    return archive({})


STRUCTURE: Mapping[str, Callable[[Members, np.random.Generator], bytes]] = {
    "without_one": _without_one,
    "one_empty": _one_empty,
    "one_twice": _one_twice,
    "renamed": _renamed,
    "compressed": _compressed,
    "crc": _wrong_crc,
    "encrypted": _encrypted,
    "sizes": _wrong_size,
    "surrounded": _surrounded,
    "empty": _empty,
}


def _field(content: bytes, mark: bytes, at: int, width: int, value: int):
    """The content with a number of its last header of a kind replaced."""
    start = content.rfind(mark) + at
    number = value.to_bytes(width, "little")
    return content[:start] + number + content[start + width :]


def _pick(values, rng: np.random.Generator):
    return values[int(rng.integers(len(values)))]
