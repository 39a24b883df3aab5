"""Whether the values of samples can be inputs of a model."""

from __future__ import annotations

import math

import numpy as np

from dsg_tf.core import errors

# Samples whose values span less than this many deviations of the domain were
# scaled for another model: [0, 1] pixels span 1/64 of a 0..255 model's.
_VANISHING = 0.1
# Samples that are checked at a time.
_CHUNK = 64


def check(
    subject: str,
    name: str,
    array: np.ndarray,
    *,
    minimum: float,
    maximum: float,
    deviation: float,
    integer: bool,
) -> None:
    """Refuses samples that cannot be inputs of the model.

    Args:
      subject: the file, for the error.
      name: the input.
      array: (N, ...).
      minimum, maximum: the domain's bounds; infinite where unknown.
      deviation: the domain's.
      integer: whether only whole numbers are valid.

    Raises:
      errors.UserError: values are not finite, lie far outside of the bounds
        (0..255 pixels for a [-1, 1] model), fill a vanishing part of them
        ([0, 1] pixels for a 0..255 model), or are not whole.
    """
    low, high, whole = math.inf, -math.inf, True
    for start in range(0, len(array), _CHUNK):
        part = np.asarray(array[start : start + _CHUNK], np.float64)
        if not np.isfinite(part).all():
            raise errors.UserError(
                subject,
                got=f"values of {name!r} that are not finite",
                expected="finite numbers",
            )
        low, high = min(low, part.min()), max(high, part.max())
        whole = whole and bool((part == np.rint(part)).all())
    slack = 0.0 if integer else 0.5 * (maximum - minimum)
    outside = low < minimum - slack or high > maximum + slack
    # Whole numbers may well be few: token ids of an int32 input.
    vanishing = not integer and high - low < _VANISHING * deviation
    remedy = (
        "preprocess them as the model expects, or give the range with"
        " --input_range"
    )
    if np.isfinite(slack) and (outside or vanishing):
        raise errors.UserError(
            subject,
            got=f"values of {name!r} in [{low:.4g}, {high:.4g}]",
            expected=f"values in [{minimum:.4g}, {maximum:.4g}]",
            remedy=remedy,
        )
    if integer and not whole:
        raise errors.UserError(
            subject,
            got=f"fractional values of {name!r}",
            expected="whole numbers",
            remedy=remedy,
        )
