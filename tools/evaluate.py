"""Top-1 of a classifier file on labelled images.

    python -m tools.evaluate --model=resnet8_int8.tflite \
        --data=../shared/data/cifar10_test_1k.npz
    python -m tools.evaluate --model=mobilenet_saved_model \
        --data=../shared/data/imagenet_eval_400 --preprocess=symmetric \
        --reference=mobilenet_v1_025_224.keras

The model is a .tflite (any input and output type), a SavedModel folder, a
.keras or a .h5. The data is an .npz with `images` and `labels`, or a folder
of `<class index>.jpg`. `--reference` adds the share of images on which both
models give the same class.
"""

from __future__ import annotations

import sys

import numpy as np
from absl import app, flags

from dsg_tf import errors
from tools import classifiers, labelled_images

_MODEL = flags.DEFINE_string("model", None, "The classifier to evaluate.")
_REFERENCE = flags.DEFINE_string(
    "reference", None, "A second classifier, to count agreement with."
)
_DATA = flags.DEFINE_string(
    "data", None, "An .npz with images and labels, or a folder of <class>.jpg."
)
_PREPROCESS = flags.DEFINE_enum(
    "preprocess",
    "none",
    labelled_images.PREPROCESSING,
    "none: 0..255; unit: x/255; symmetric: x/127.5 - 1; standardize: "
    "(x/255 - mean) / std by --mean and --std.",
)
_MEAN = flags.DEFINE_list("mean", None, "One number a channel, of x/255.")
_STD = flags.DEFINE_list("std", None, "One number a channel, of x/255.")
_BATCH = flags.DEFINE_integer(
    "batch", 64, "Images at a time; a .tflite runs them one by one.", 1
)


def _numbers(flag: flags.FlagHolder) -> np.ndarray | None:
    if flag.value is None:
        return None
    try:
        return np.array([float(text) for text in flag.value], np.float32)
    except ValueError:
        raise errors.UserError(
            f"--{flag.name}",
            got=",".join(flag.value),
            expected="numbers, comma-separated",
        ) from None


def _report() -> None:
    pixels, labels = labelled_images.load(_DATA.value)
    images = labelled_images.preprocess(
        pixels, _PREPROCESS.value, mean=_numbers(_MEAN), std=_numbers(_STD)
    )
    predict = classifiers.load_predictor(_MODEL.value, batch=_BATCH.value)
    classes = classifiers.classify(predict, images)
    score = classifiers.Score(int((classes == labels).sum()), len(labels))
    print(
        f"top-1 {score.percent:.2f} % +- {score.standard_error_percent:.2f} "
        f"({score.correct} of {score.count})"
    )
    if _REFERENCE.value:
        other = classifiers.load_predictor(_REFERENCE.value, batch=_BATCH.value)
        same = classifiers.Score(
            int((classes == classifiers.classify(other, images)).sum()),
            len(labels),
        )
        print(
            f"agreement {same.percent:.2f} % "
            f"({same.correct} of {same.count}) with {_REFERENCE.value}"
        )


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]!r}")
    try:
        _report()
    except errors.UserError as error:
        print(f"tools.evaluate: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    flags.mark_flags_as_required(["model", "data"])
    app.run(main)
