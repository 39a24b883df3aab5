"""Top-1 of a classifier file on labelled images.

  python -m dsg_tf.evaluate --model=resnet8_int8.tflite \\
      --data=cifar10_test.npz
  python -m dsg_tf.evaluate --model=mobilenet_saved_model \\
      --data=imagenet_val --preprocess=symmetric --reference=mobilenet.keras

A .tflite (any input and output type) is run by the LiteRT interpreter, without
TensorFlow.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import flags, logging

from dsg_tf.command_line import cli, image_flags
from dsg_tf.core import errors, files, stages
from dsg_tf.fidelity import classifiers
from dsg_tf.samples import labelled_images

_USAGE = """
Top-1 of a classifier on labelled images.

  python -m dsg_tf.evaluate --model=FILE --data=FILE_OR_FOLDER [flags]
"""

GROUPS = {
    "Model": (
        "model",
        "reference",
        "signature",
        "tags",
        "input_names",
        "output_names",
        "allow_unsafe_ops",
        "batch",
    ),
    "Images": ("data", *image_flags.NAMES),
    "Output": ("output",),
}

# Images that are preprocessed at a time: float32 takes four times their bytes.
_CHUNK = 256

_FLAGS = flags.FlagValues()


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "model",
        None,
        "The classifier: .tflite, SavedModel folder, .keras or .h5.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "reference",
        None,
        "A second classifier, to count agreement with.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "signature",
        "",
        "Signature of a SavedModel, be it model or reference; default:"
        " serving_default.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "tags",
        [],
        "Tags of a SavedModel, be it model or reference; default: serve.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "input_names",
        [],
        "Input of a frozen GraphDef; default: its placeholder.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "output_names",
        [],
        "The output with the scores, of a model that has others too.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "allow_unsafe_ops",
        False,
        "Accept a SavedModel that touches files or calls Python.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "batch",
        64,
        "Images at a time; a .tflite runs them one by one.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_string(
        "data",
        None,
        "An .npz with images and labels, a folder of <class index>.jpg, or a"
        " folder of one folder a class.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "output",
        "",
        "A JSON file for the numbers and the class of every image.",
        flag_values=values,
    )
    image_flags.define(values)


_define(_FLAGS)


def classes_of(
    path: str,
    pixels: np.ndarray,
    preprocess: Callable[[np.ndarray], np.ndarray],
    *,
    labels: np.ndarray | None = None,
    batch: int = 64,
    allow_unsafe_ops: bool = False,
    **choices: Any,
) -> np.ndarray:
    """The class int64 (N,) that a classifier gives to each image.

    Args:
      path: the classifier; see `classifiers.load_predictor`.
      pixels: (N, H, W, C).
      preprocess: from pixels to float32 in model input units.
      labels: int64 (N,), each of which must be one of the model's classes.
      batch: images at a time.
      allow_unsafe_ops: accept graphs that touch files or call Python.
      **choices: `signature`, `tags`, `input_names`, `output_names`.

    Raises:
      errors.UserError: model and images, or labels, do not fit.
    """

    def scores_of(images: np.ndarray) -> np.ndarray:
        scores = predict(images)
        count = scores.size // len(images)
        if labels is not None and labels.max() >= count:
            raise errors.UserError(
                "--data",
                got=f"label {labels.max()}",
                expected=f"0 to {count - 1}, the classes of {path}",
            )
        return scores

    with stages.within("load"):
        predict = classifiers.load_predictor(
            path,
            batch=batch,
            image_shape=np.shape(preprocess(pixels[:1]))[1:],
            allow_unsafe_ops=allow_unsafe_ops,
            **choices,
        )
    classes = []
    for at in range(0, len(pixels), _CHUNK):
        with stages.within("evaluate"):
            part = preprocess(pixels[at : at + _CHUNK])
            classes.append(classifiers.classify(scores_of, part))
    return np.concatenate(classes)


def _choices_for(path: str) -> dict:
    """Flags that choose a part of a model, for the one that has such parts."""
    both = [p for p in (_FLAGS.model, _FLAGS.reference) if p]
    folders = [p for p in both if pathlib.Path(p).is_dir()]
    whole = [p for p in both if pathlib.Path(p).suffix != ".tflite"]
    found: dict[str, Any] = {}
    # Where one is meant for neither, loading the first model says so.
    if path in (folders or both):
        found |= {"signature": _FLAGS.signature, "tags": _FLAGS.tags}
    if path in (whole or both):
        found["output_names"] = _FLAGS.output_names
        found["input_names"] = _FLAGS.input_names
    return found


def main() -> int:
    """Evaluates what the flags name, and prints top-1."""
    cli.require(_FLAGS, "model", "data")
    image_flags.check(_FLAGS)
    output = None
    if _FLAGS.output:
        read = ("model", "reference", "data")
        output = files.destination(
            _FLAGS.output, {f"--{name}": _FLAGS[name].value for name in read}
        )
    with stages.within("read images"):
        pixels, labels = labelled_images.load(_FLAGS.data)

    def classes_by(path: str, of: np.ndarray | None = None) -> np.ndarray:
        return classes_of(
            path,
            pixels,
            lambda part: image_flags.preprocess(_FLAGS, part),
            labels=of,
            batch=_FLAGS.batch,
            allow_unsafe_ops=_FLAGS.allow_unsafe_ops,
            **_choices_for(path),
        )

    classes = classes_by(_FLAGS.model, labels)
    score = classifiers.Score(int((classes == labels).sum()), len(labels))
    found = {
        "model": _FLAGS.model,
        "images": score.count,
        "correct": score.correct,
        "top1_percent": score.percent,
        "standard_error_percent": score.standard_error_percent,
    }
    print(
        f"top-1 {score.percent:.2f} % +- {score.standard_error_percent:.2f} "
        f"({score.correct} of {score.count})"
    )
    if _FLAGS.reference:
        same = classifiers.Score(
            int((classes == classes_by(_FLAGS.reference)).sum()), len(labels)
        )
        found["same_class_percent"] = same.percent
        print(
            f"agreement {same.percent:.2f} % "
            f"({same.correct} of {same.count}) with {_FLAGS.reference}"
        )
    if output is not None:
        found["classes"] = classes.tolist()
        logging.set_verbosity(max(logging.get_verbosity(), logging.INFO))
        files.write_atomically(output, json.dumps(found) + "\n", tell=True)
    return 0


if __name__ == "__main__":
    cli.run(main, usage=_USAGE, groups=GROUPS, values=_FLAGS)
