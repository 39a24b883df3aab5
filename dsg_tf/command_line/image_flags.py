"""Flags that say how pixels become a model's input."""

from __future__ import annotations

import numpy as np
from absl import flags

from dsg_tf.core import errors
from dsg_tf.samples import labelled_images

NAMES = ("preprocess", "mean", "std")
# What is divided by less is no longer a picture, and may overflow.
_LEAST_STD = 1e-6
_GREATEST = 1e6


def define(values: flags.FlagValues) -> None:
    """Defines `--preprocess`, `--mean` and `--std`."""
    flags.DEFINE_string(
        "preprocess",
        "none",
        "From pixels to the model's input: none (0..255), unit (x/255),"
        " symmetric (x/127.5 - 1) or standardize ((x/255 - mean) / std).",
        flag_values=values,
    )
    for name in ("mean", "std"):
        flags.DEFINE_list(
            name,
            [],
            "For standardize: one number, or one a channel, of x/255.",
            flag_values=values,
        )


def check(values: flags.FlagValues) -> None:
    """Refuses flags that cannot be, before any image is read.

    Raises:
      errors.UserError: an unknown way, no finite numbers, a std of 0, or mean
        and std that are missing or not wanted.
    """
    preprocess(values, np.zeros((0, 1, 1, max(1, len(values.mean))), np.uint8))


def preprocess(values: flags.FlagValues, images: np.ndarray) -> np.ndarray:
    """Images float32 (N, ...) in model input units, from pixels 0..255.

    Raises:
      errors.UserError: as `check`, or mean and std of another length.
    """
    if values.preprocess not in labelled_images.PREPROCESSING:
        raise errors.UserError(
            "--preprocess",
            got=repr(values.preprocess),
            expected="one of "
            + ", ".join(sorted(labelled_images.PREPROCESSING)),
        )
    return labelled_images.preprocess(
        images,
        values.preprocess,
        mean=_numbers("mean", values.mean),
        std=_numbers("std", values.std),
    )


def _numbers(name: str, texts: list[str]) -> np.ndarray | None:
    """float32 (C,); None where the flag was not given."""
    if not texts:
        return None
    try:
        numbers = np.array([float(text) for text in texts], np.float64)
    except ValueError:
        raise errors.UserError(
            f"--{name}",
            got=repr(",".join(texts)),
            expected="numbers, comma-separated",
        ) from None
    least = _LEAST_STD if name == "std" else -_GREATEST
    # `not` and not `or`: NaN is neither below nor above.
    if not ((least <= numbers) & (numbers <= _GREATEST)).all():
        raise errors.UserError(
            f"--{name}",
            got=",".join(texts),
            expected=f"finite numbers of at least {least:g}, of pixels 0..1",
        )
    return numbers.astype(np.float32)
