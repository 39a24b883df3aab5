"""The data of the demo: scikit-learn's digits, split once and for all.

1,797 real images of handwritten digits (UCI "Optical Recognition of
Handwritten Digits"), 8x8, grey levels 0..16 as they come: not rescaled, so
that a quantizer without data has to find the input range by itself.
1,200 images train the demo model; the other 597 are held out, and every
top-1 that the demo prints is on those.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

HELD_OUT_COUNT = 597
SPLIT_SEED = 0


class Digits(NamedTuple):
    """Images float32 (N, 8, 8, 1) in 0..16, labels int64 (N,) in 0..9."""

    images: np.ndarray
    labels: np.ndarray


def load_split() -> tuple[Digits, Digits]:
    """Returns the training and the held-out digits.

    The split is stratified by class and depends on `SPLIT_SEED` alone.

    Example:
      >>> train, held_out = load_split()
      >>> train.images.shape, held_out.images.shape
      ((1200, 8, 8, 1), (597, 8, 8, 1))
    """
    from sklearn import datasets, model_selection

    digits = datasets.load_digits()
    images = digits.images[..., np.newaxis].astype(np.float32)
    train_images, held_out_images, train_labels, held_out_labels = (
        model_selection.train_test_split(
            images,
            digits.target.astype(np.int64),
            test_size=HELD_OUT_COUNT,
            stratify=digits.target,
            random_state=SPLIT_SEED,
        )
    )
    return (
        Digits(train_images, train_labels),
        Digits(held_out_images, held_out_labels),
    )
