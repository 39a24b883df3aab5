"""Hostile and damaged array files: refused in words, never believed."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import pathlib
import struct
import zipfile

import numpy as np
import pytest

from dsg_tf.core import array_files, errors
from dsg_tf.samples import sample_sets

_VALUES = np.arange(2 * 3, dtype=np.float32).reshape(2, 3)


def _npy(header: str, content: bytes = b"", version: int = 1) -> bytes:
    """An .npy file whose header says what it likes."""
    text = header.encode("latin1") + b"\n"
    size = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + size + text + content


def _header(shape: str = "(2, 3)", descr: str = "'<f4'") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}"


_HEADERS = {
    "negative": _header("(-2, 3)"),
    "two negative": _header("(-2, -3)"),
    "huge": _header("(1000000000000, 3)"),
    "beyond 64 bits": _header(f"({2**64 + 2}, 3)"),
    "overflowing": _header(f"({2**33}, {2**33}, 3)"),
    "thousand axes": _header("(" + "1," * 1000 + ")"),
    "no tuple": _header("6"),
    "text as size": _header("('2', 3)"),
    "float as size": _header("(2.0, 3)"),
    "no shape": "{'descr': '<f4', 'fortran_order': False}",
    "no dict": "[1, 2]",
    "code": "__import__('os').system('touch sentinel')",
    "deep": "(" * 3000,
    "deep and closed": "[" * 3000 + "]" * 3000,
    "unknown type": _header(descr="'<q9'"),
    "type of no kind": _header(descr="3"),
    "list of junk": _header(descr="[(1, 2)]"),
    "nested": _header(descr="[('a', [('b', '<f4')]), ('c', '<f4', (2,))]"),
    "subarray": _header(descr="('<f4', (2,))"),
    "objects": _header(descr="'|O'"),
    "text": _header(descr="'<U4'"),
    "void": _header(descr="'|V0'"),
    "times": _header(descr="'<M8[s]'"),
    "complex": _header(descr="'<c8'"),
    "empty": "",
    "too much": _header(descr="'<f8'"),
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def _refused(path: pathlib.Path, words: str | None = None) -> str:
    with pytest.raises(errors.UserError, match=words) as caught:
        sample_sets.read(path, inputs={"x": (3,)})
    line = str(caught.value)
    assert line.startswith(f"{path}: got ")
    assert len(line.splitlines()) == 1
    assert len(line) < 1000
    return line


@pytest.mark.parametrize("version", [1, 2, 3, 9])
@pytest.mark.parametrize("kind", _HEADERS)
@pytest.mark.parametrize("where", ["npy", "stored", "deflated"])
def test_header_that_does_not_fit_is_one_line(tmp_path, kind, where, version):
    content = _npy(_HEADERS[kind], _VALUES.tobytes(), version)
    path = tmp_path / "a.npz"
    if where == "npy":
        path.write_bytes(content)
    else:
        how = {"stored": 0, "deflated": zipfile.ZIP_DEFLATED}[where]
        with zipfile.ZipFile(path, "w", how) as archive:
            archive.writestr("x.npy", content)
    _refused(path)
    assert not (tmp_path / "sentinel").exists()


@pytest.mark.parametrize("version", [1, 2, 3])
def test_header_that_fits_is_read(tmp_path, version):
    path = tmp_path / "a.npy"
    path.write_bytes(_npy(_header(), _VALUES.tobytes(), version))
    found = sample_sets.read(path, inputs={"x": (3,)})
    np.testing.assert_array_equal(found.arrays["x"], _VALUES)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", ">i2", "u1", ">u8"])
@pytest.mark.parametrize("save", ["npy", "npz", "compressed"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_any_byte_order_and_order_of_axes_is_read(tmp_path, dtype, save, order):
    path = tmp_path / "a.npz"
    values = np.asarray(_VALUES, dtype, order=order)
    with path.open("wb") as file:
        if save == "npy":
            np.save(file, values)
        elif save == "npz":
            np.savez(file, x=values)
        else:
            np.savez_compressed(file, x=values)
    found = sample_sets.read(path, inputs={"x": (3,)}).arrays["x"]
    np.testing.assert_array_equal(found, _VALUES)
    assert found.dtype == np.dtype(dtype).newbyteorder("=")
    assert found.dtype.isnative


@pytest.mark.parametrize("save", ["npy", "npz", "compressed"])
@pytest.mark.parametrize("values", [np.zeros((0, 3)), np.zeros((2, 0))])
def test_arrays_without_values_are_refused(tmp_path, save, values):
    path = tmp_path / "a.npz"
    with path.open("wb") as file:
        {"npy": np.save, "npz": np.savez, "compressed": np.savez_compressed}[
            save
        ](file, values)
    _refused(path, "no samples|shape")


def _archive(path: pathlib.Path, **arrays) -> bytes:
    np.savez(path, **arrays)
    return path.read_bytes()


def test_every_flipped_bit_of_the_values_is_found(tmp_path):
    path = tmp_path / "a.npz"
    content = _archive(path, x=_VALUES)
    start = content.index(_VALUES.tobytes())
    for at in range(start, start + _VALUES.nbytes):
        changed = bytearray(content)
        changed[at] ^= 1 << (at % 8)
        path.write_bytes(changed)
        _refused(path, "CRC|unreadable")


def test_every_flipped_byte_is_refused_or_changes_nothing(tmp_path):
    path = tmp_path / "a.npz"
    content = _archive(path, x=_VALUES, labels=np.arange(2))
    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= 0xFF
        path.write_bytes(changed)
        with contextlib.suppress(errors.UserError):
            found = sample_sets.read(path, inputs={"x": (3,)})
            np.testing.assert_array_equal(found.arrays["x"], _VALUES)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_every_truncation_is_refused(tmp_path, save):
    path = tmp_path / "a.npz"
    save(path, x=_VALUES)
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        _refused(path)


def test_every_truncation_of_an_npy_is_refused(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, _VALUES)
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        _refused(path)


def test_objects_that_are_not_used_do_not_count(tmp_path):
    np.savez(tmp_path / "a.npz", x=_VALUES, names=np.array([None, {}]))
    found = sample_sets.read(tmp_path / "a.npz", inputs={"x": (3,)})
    np.testing.assert_array_equal(found.arrays["x"], _VALUES)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        head = _npy(_header("(2000, 100, 1000)", "'|u1'"))
        archive.writestr("x.npy", head + bytes(200_000_000))
    assert path.stat().st_size < 1_000_000
    monkeypatch.setattr(array_files.memory, "available", lambda: 100_000_000)
    with pytest.raises(errors.UserError, match="200,000,000 bytes, with"):
        sample_sets.read(path, inputs={"x": (100, 1000)})


def test_a_bomb_that_lies_of_its_size_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", _npy(_header()) + bytes(50_000_000))
    _refused(path, "says 24 bytes of values, it has 50,000,000")


@pytest.mark.parametrize(
    "metadata",
    [
        "[1]",
        "null",
        "3",
        '"text"',
        "",
        "{",
        '{"a": NaN}',
        '{"a": -Infinity}',
        '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"a": ' + "9" * 10_000 + "}",
        b"\xff\xfe{\x00}\x00\x00\xd8",
        '{"a": "' + "b" * (17 << 20) + '"}',
    ],
    ids=range(12),
)
def test_metadata_that_is_no_small_object_is_refused(tmp_path, metadata):
    path = tmp_path / "a.npz"
    np.savez(path, x=_VALUES)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("metadata.json", metadata)
    _refused(path)


def test_members_with_any_name_write_nothing(tmp_path):
    path = tmp_path / "inner" / "a.npz"
    path.parent.mkdir()
    stream = io.BytesIO()
    np.save(stream, _VALUES)
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("../../up.npy", "/root.npy", "a\nb.npy", "x.npy"):
            archive.writestr(name, stream.getvalue())
    found = sample_sets.read(path, inputs={"x": (3,)})
    np.testing.assert_array_equal(found.arrays["x"], _VALUES)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.npz", "inner"]


def test_two_members_of_one_name_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    stream = io.BytesIO()
    np.save(stream, _VALUES)
    with zipfile.ZipFile(path, "w") as archive:
        for _ in range(2):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("warnings.warn", lambda *_, **__: None)
                archive.writestr("x.npy", stream.getvalue())
    _refused(path, "one name")


def test_many_and_long_names_are_a_short_line(tmp_path):
    arrays = {f"{i}" * 200: _VALUES for i in range(90)}
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(errors.UserError) as caught:
        sample_sets.read(tmp_path / "a.npz", inputs={"x": (3,), "y": (3,)})
    assert "and 78 more" in str(caught.value)
    assert len(str(caught.value)) < 2000


def test_pipes_and_devices_are_refused_unopened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    _refused(tmp_path / "pipe", "a pipe")
    _refused(pathlib.Path("/dev/zero"), "a device")


@pytest.mark.parametrize("name", ["a\0b", "n" * 300, "n/" * 3000])
def test_paths_that_cannot_be_are_one_line(name):
    with pytest.raises(errors.UserError) as caught:
        sample_sets.read(name, inputs={"x": (3,)})
    assert len(str(caught.value).splitlines()) == 1


def test_an_npy_that_ends_like_an_archive_is_an_npy(tmp_path):
    np.save(tmp_path / "a.npy", _VALUES)
    with zipfile.ZipFile(tmp_path / "a.npy", "a") as archive:
        archive.writestr("other.npy", b"")
    found = sample_sets.read(tmp_path / "a.npy", inputs={"x": (3,)})
    np.testing.assert_array_equal(found.arrays["x"], _VALUES)


def test_random_bytes_are_one_line(tmp_path):
    rng = np.random.default_rng(0)
    heads = (
        b"",
        b"PK\x03\x04",
        b"PK\x05\x06",
        b"\x93NUMPY\x01\x00",
        b"\x80\x04",
    )
    for head, size in itertools.product(heads, (0, 1, 20, 300, 5000)):
        path = tmp_path / "a.npz"
        path.write_bytes(head + rng.bytes(size))
        _refused(path)
