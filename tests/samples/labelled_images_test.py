"""Images come from files as they are, and in the units asked for."""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import struct
import warnings
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from dsg_tf.core import errors, memory
from dsg_tf.samples import labelled_images

_PIXELS = np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3)


def test_npz_comes_back_unchanged(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, images=_PIXELS, labels=np.array([3, 1], np.uint8))
    images, labels = labelled_images.load(str(path))
    np.testing.assert_array_equal(images, _PIXELS)
    assert labels.tolist() == [3, 1]
    assert labels.dtype == np.int64


def test_folder_takes_labels_from_names_in_order(tmp_path):
    # Written in a shuffled order, so that no folder lists them sorted by luck.
    order = np.random.default_rng(0).permutation(24)
    for label in order:
        level = int(10 * label)
        Image.new("RGB", (8, 8), (level,) * 3).save(
            tmp_path / f"{label:04}.jpg"
        )
    images, labels = labelled_images.load(str(tmp_path))
    assert labels.tolist() == list(range(24))
    assert images.shape == (24, 8, 8, 3)
    # Uniform images survive JPEG: one level of rounding is its bound here.
    levels = 10 * labels.reshape(-1, 1, 1, 1)
    assert np.abs(images.astype(int) - levels).max() <= 1


@pytest.mark.parametrize(
    ("names", "labels"),
    [(("7", "12"), [7, 12]), (("cat", "dog"), [0, 1])],
    ids=["numbers", "names"],
)
def test_folder_of_a_folder_a_class(tmp_path, names, labels):
    for name, count in zip(names, (2, 3), strict=True):
        (tmp_path / name).mkdir()
        for index in range(count):
            Image.new("L", (8, 8)).save(tmp_path / name / f"x{index}.png")
    (tmp_path / names[0] / "notes.txt").write_text("no image")
    images, found = labelled_images.load(str(tmp_path))
    # By name, as texts: "12" before "7".
    expected = {labels[0]: 2, labels[1]: 3}
    assert {label: found.tolist().count(label) for label in found} == expected
    assert images.shape == (5, 8, 8, 3)


def test_images_without_labels_are_found_anywhere(tmp_path):
    (tmp_path / "inner").mkdir()
    for name in ("x.jpg", "inner/y.jpeg"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    assert labelled_images.load_unlabelled(str(tmp_path)).shape == (2, 8, 8, 3)
    np.savez(tmp_path / "x.npz", images=_PIXELS)
    found = labelled_images.load_unlabelled(str(tmp_path / "x.npz"))
    np.testing.assert_array_equal(found, _PIXELS)


def test_folder_of_two_sizes_is_refused(tmp_path):
    for label, size in ((0, 8), (1, 9)):
        Image.new("RGB", (size, size)).save(tmp_path / f"{label}.jpg")
    with pytest.raises(errors.UserError, match="one size"):
        labelled_images.load(str(tmp_path))


def test_what_is_no_data_is_refused(tmp_path):
    with pytest.raises(errors.UserError, match="nothing there"):
        labelled_images.load(str(tmp_path / "missing.npz"))
    with pytest.raises(errors.UserError, match="class index"):
        labelled_images.load(str(tmp_path))
    with pytest.raises(errors.UserError, match="no images"):
        labelled_images.load_unlabelled(str(tmp_path))
    np.savez(tmp_path / "x.npz", pictures=_PIXELS)
    with pytest.raises(errors.UserError, match="pictures"):
        labelled_images.load_unlabelled(str(tmp_path / "x.npz"))
    with pytest.raises(errors.UserError, match="pictures"):
        labelled_images.load(str(tmp_path / "x.npz"))


def test_preprocessing_follows_its_formula():
    x = _PIXELS.astype(np.float64)
    mean, std = np.array([0.1, 0.2, 0.3]), np.array([0.5, 1.0, 2.0])
    expected = {
        "none": x,
        "unit": x / 255.0,
        "symmetric": x / 127.5 - 1.0,
        "standardize": (x / 255.0 - mean) / std,
    }
    assert set(expected) == set(labelled_images.PREPROCESSING)
    for how, values in expected.items():
        given = {"mean": mean, "std": std} if how == "standardize" else {}
        result = labelled_images.preprocess(_PIXELS, how, **given)
        assert result.dtype == np.float32
        # Three float32 roundings of numbers up to 2, relative 2^-24 each;
        # 255 itself (`none`) is exact.
        np.testing.assert_allclose(result, values, rtol=0, atol=3 * 2.0**-23)


@pytest.mark.parametrize(
    ("how", "given"),
    [
        ("standardize", {"mean": np.ones(3)}),
        ("unit", {"mean": np.ones(3)}),
        ("standardize", {"mean": np.ones(2), "std": np.ones(3)}),
    ],
)
def test_mean_and_std_must_fit(how, given):
    with pytest.raises(errors.UserError):
        labelled_images.preprocess(_PIXELS, how, **given)


@pytest.mark.parametrize(
    "labels", [np.zeros(3, np.int64), np.zeros((2, 10)), np.zeros(2)]
)
def test_labels_must_be_one_whole_number_an_image(tmp_path, labels):
    np.savez(tmp_path / "x.npz", images=_PIXELS, labels=labels)
    with pytest.raises(errors.UserError, match="2 whole numbers"):
        labelled_images.load(str(tmp_path / "x.npz"))


def test_damaged_files_are_named(tmp_path):
    (tmp_path / "0.jpg").write_text("no image")
    with pytest.raises(errors.UserError, match=r"0\.jpg: got an unreadable"):
        labelled_images.load(str(tmp_path))
    for name in ("x.npz", "y.npz"):
        (tmp_path / name).write_text("no archive")
    np.save(tmp_path / "y.npz.npy", _PIXELS)
    (tmp_path / "y.npz.npy").replace(tmp_path / "y.npz")
    for name in ("x.npz", "y.npz"):
        with pytest.raises(errors.UserError, match="unreadable"):
            labelled_images.load(str(tmp_path / name))


def test_images_are_counted_without_being_read(tmp_path, monkeypatch):
    np.savez(tmp_path / "plain.npz", images=_PIXELS, other=np.zeros(9))
    np.savez_compressed(tmp_path / "packed.npz", images=_PIXELS)
    (tmp_path / "folder/inner").mkdir(parents=True)
    for name in ("x.jpg", "inner/y.png", "notes.txt"):
        (tmp_path / "folder" / name).write_text("not even an image")
    monkeypatch.setattr(labelled_images, "load_unlabelled", None)
    for name in ("plain.npz", "packed.npz", "folder"):
        path = str(tmp_path / name)
        assert labelled_images.count_unlabelled(path) == 2


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("absent.npz", "nothing there"),
        ("broken.npz", "an unreadable file"),
        ("other.npz", r"arrays \['labels'\]"),
    ],
)
def test_images_that_cannot_be_counted_are_refused(tmp_path, name, words):
    (tmp_path / "broken.npz").write_text("no archive")
    np.savez(tmp_path / "other.npz", labels=np.zeros(2))
    with pytest.raises(errors.UserError, match=words):
        labelled_images.count_unlabelled(str(tmp_path / name))


# ---- damaged, hostile and unlucky


def _refused(path, words: str, *functions) -> None:
    functions = functions or (
        labelled_images.load,
        labelled_images.load_unlabelled,
        labelled_images.count_unlabelled,
    )
    for function in functions:
        with (
            warnings.catch_warnings(record=True) as said,
            pytest.raises(errors.UserError, match=words) as raised,
        ):
            function(str(path))
        assert len(str(raised.value).splitlines()) == 1
        assert said == []


def _npy(shape: str, dtype: str, content: bytes = b"") -> bytes:
    """An array whose header says whatever it is told to."""
    header = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}}}"
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


def _archive(path: pathlib.Path, **members: bytes) -> pathlib.Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def _array(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ("(-1, 8, 8, 3)", "'|u1'"),
        ("(0, 8, 8, 3)", "'|u1'"),
        ("()", "'|u1'"),
        ("(2, 8, 8, 3)", "'<U4'"),
        ("(2, 8, 8, 3)", "'|b1'"),
        ("(2, 8, 8, 3)", "'<c8'"),
        ("(2, 8, 8, 3)", "'|O'"),
        ("(2, 8, 8, 3)", "'<M8[s]'"),
        ("(2,)", "[('a', '<f4')]"),
        ("(2, 8, 8, 3)", "'|u1'"),
        ("(2, 8, 8, 99999999999999999999)", "'|u1'"),
        ("(99999999999999, 8, 8, 3)", "'<f8'"),
        ("'a'", "'|u1'"),
        ("(" + "(" * 90, "'|u1'"),
    ],
)
def test_header_that_lies_is_refused(tmp_path, shape, dtype):
    path = _archive(
        tmp_path / "x.npz",
        images=_npy(shape, dtype),
        labels=_array(np.zeros(2, int)),
    )
    _refused(path, "x.npz: got")


def test_pickles_are_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    images = np.array([Evil(), Evil()], object)
    np.savez(tmp_path / "x.npz", images=images, labels=np.zeros(2, int))
    _refused(tmp_path / "x.npz", "images object of shape")
    assert not (tmp_path / "ran").exists()


def test_few_bytes_that_stand_for_more_than_memory_are_refused(
    tmp_path, monkeypatch
):
    size = 1 << 24
    with zipfile.ZipFile(
        tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED
    ) as archive:
        archive.writestr("images.npy", _npy(f"({size},)", "'|u1'", bytes(size)))
    monkeypatch.setattr(memory, "available", lambda: size - 1)
    _refused(
        tmp_path / "x.npz",
        "of memory that are free",
        labelled_images.load_unlabelled,
        labelled_images.count_unlabelled,
    )
    monkeypatch.setattr(memory, "available", lambda: size)
    assert labelled_images.count_unlabelled(str(tmp_path / "x.npz")) == size


def test_one_bit_of_the_pixels_is_missed(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, images=_PIXELS, labels=np.zeros(2, int))
    content = bytearray(path.read_bytes())
    at = content.index(_PIXELS.tobytes()[:64])
    content[at + 5] ^= 1
    path.write_bytes(bytes(content))
    _refused(
        path,
        "unreadable file .BadZipFile",
        labelled_images.load,
        labelled_images.load_unlabelled,
    )
    path.write_bytes(bytes(content[: len(content) // 2]))
    _refused(path, "unreadable file")


def test_arrays_of_every_order_and_type_come_back(tmp_path):
    for number, array in enumerate(
        (
            np.asfortranarray(_PIXELS),
            _PIXELS.astype(">f4"),
            _PIXELS.astype(np.float16),
            _PIXELS.astype(">u2")[:, ::2],
        )
    ):
        path = tmp_path / f"{number}.npz"
        np.savez_compressed(path, images=array)
        found = labelled_images.load_unlabelled(str(path))
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_not_finite_are_refused(tmp_path, value):
    images = _PIXELS.astype(np.float32)
    images[1, 2, 3, 0] = value
    np.savez(tmp_path / "x.npz", images=images, labels=np.zeros(2, int))
    _refused(
        tmp_path / "x.npz",
        "not finite",
        labelled_images.load,
        labelled_images.load_unlabelled,
    )


@pytest.mark.parametrize(
    "labels",
    [
        np.array([0, -1]),
        np.array([0, 2**40]),
        np.array([0, 2**63 + 5], np.uint64),
    ],
)
def test_labels_must_be_indices(tmp_path, labels):
    np.savez(tmp_path / "x.npz", images=_PIXELS, labels=labels)
    _refused(tmp_path / "x.npz", "indices of classes", labelled_images.load)


def test_special_files_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "0.png")
    _refused(tmp_path / "0.png", "a pipe")
    _refused(
        tmp_path,
        "0.png: got a pipe",
        labelled_images.load,
        labelled_images.load_unlabelled,
    )
    _refused("/dev/zero", "a device")
    (tmp_path / "link").symlink_to(tmp_path / "link")
    _refused(tmp_path / "link", "link: got")
    _refused(tmp_path / ("x" * 300), "File name too long")
    _refused(f"{tmp_path}/a\0b", "null byte")


def _png(width: int, height: int, kind: bytes = b"IDAT") -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        check = zlib.crc32(name + content)
        return (
            struct.pack(">I", len(content))
            + name
            + content
            + struct.pack(">I", check)
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(kind, zlib.compress(b"\0"))
        + chunk(b"IEND", b"")
    )


def _jpeg() -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(noise).save(file, "jpeg")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "unreadable"),
        (_jpeg()[:700], "unreadable"),
        (_jpeg()[:20], "unreadable"),
        (b"\x89PNG\r\n\x1a\n" + b"\xff" * 99, "unreadable"),
        (_png(8, 8), "unreadable"),
        (_png(8, 8, b"IxAT"), "unreadable"),
        (_png(0, 8), "unreadable"),
        (_png(2**31 - 1, 2**31 - 1), "too many pixels"),
        (_png(30_000, 30_000), "too many pixels"),
        (_png(10_000, 10_000), "too many pixels"),
    ],
)
def test_damaged_images_and_bombs_are_named(tmp_path, content, words):
    (tmp_path / "0.png").write_bytes(content)
    _refused(
        tmp_path,
        rf"0\.png: got an .*{words}",
        labelled_images.load,
        labelled_images.load_unlabelled,
    )


def test_mutated_images_never_raise_anything_else(tmp_path):
    rng = np.random.default_rng(1)
    whole = bytearray(_jpeg())
    for _ in range(100):
        content = bytearray(whole)
        for at in rng.integers(0, len(content), 4):
            content[at] = rng.integers(256)
        (tmp_path / "0.jpg").write_bytes(content)
        # Any other exception fails the test.
        with contextlib.suppress(errors.UserError):
            images, _ = labelled_images.load(str(tmp_path))
            assert images.dtype == np.uint8


def test_names_that_are_no_indices_of_classes(tmp_path):
    # A superscript is a digit to some, and no number.
    for name in ("\u00b2.png", "7.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    assert labelled_images.load(str(tmp_path))[1].tolist() == [7]
    Image.new("RGB", (8, 8)).save(tmp_path / ("9" * 40 + ".png"))
    _refused(tmp_path, "a name of 40 digits", labelled_images.load)


def test_images_that_would_not_fit_are_refused_at_the_first(
    tmp_path, monkeypatch
):
    for name in ("0.png", "1.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    monkeypatch.setattr(memory, "available", lambda: 8 * 8 * 3 * 2 - 1)
    _refused(tmp_path, "of memory that are free", labelled_images.load)
