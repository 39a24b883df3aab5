"""Images come from files as they are, and in the units asked for."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from dsg_tf import errors
from tools import labelled_images

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
    np.savez(tmp_path / "x.npz", pictures=_PIXELS)
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
