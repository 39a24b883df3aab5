"""The demo's data: a fixed split whose held-out part is really held out."""

from __future__ import annotations

import numpy as np

from tools import digits


def test_split_is_the_same_each_time():
    for first, second in zip(
        digits.load_split(), digits.load_split(), strict=True
    ):
        np.testing.assert_array_equal(first.images, second.images)
        np.testing.assert_array_equal(first.labels, second.labels)


def test_parts_together_are_the_whole_data_set():
    from sklearn import datasets

    whole = datasets.load_digits().images.reshape(-1, 64)
    parts = np.concatenate(
        [part.images.reshape(-1, 64) for part in digits.load_split()]
    )
    # Sorted by all columns, so that equal means the same images as often.
    np.testing.assert_array_equal(
        parts[np.lexsort(parts.T)], whole[np.lexsort(whole.T)]
    )


def test_images_keep_their_grey_levels():
    for part in digits.load_split():
        assert part.images.dtype == np.float32
        assert (part.images.min(), part.images.max()) == (0.0, 16.0)


def test_each_class_is_held_out_in_proportion():
    train, held_out = digits.load_split()
    counts = np.bincount(held_out.labels, minlength=10)
    share = digits.HELD_OUT_COUNT / (len(train.labels) + len(held_out.labels))
    whole = counts + np.bincount(train.labels, minlength=10)
    # Stratified: each class is rounded to a whole image, up or down.
    assert np.all(np.abs(counts - share * whole) <= 1.0)
