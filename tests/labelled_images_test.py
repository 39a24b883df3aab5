"""Images come from files as they are, and in the units asked for."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from dsg_tf import errors, labelled_images

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
