"""Classifiers from files, as functions from images to scores, and top-1."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from dsg_tf import errors

# Images float32 (N, ...), model input units -> scores float32 (N, classes).
Predictor = Callable[[np.ndarray], np.ndarray]


class Score(NamedTuple):
    """How many of `count` images were given their label."""

    correct: int
    count: int

    @property
    def percent(self) -> float:
        return 100.0 * self.correct / self.count

    @property
    def standard_error_percent(self) -> float:
        """Binomial standard error of `percent`, in points."""
        share = self.correct / self.count
        return 100.0 * float(np.sqrt(share * (1.0 - share) / self.count))


def load_predictor(
    path: str, *, batch: int = 64, signature: str = ""
) -> Predictor:
    """Loads a classifier of any supported kind.

    Args:
      path: a .tflite, .keras or .h5 file, or a SavedModel folder.
      batch: images at a time, where a Keras model or SavedModel leaves its
        batch free; a .tflite runs one by one.
      signature: of a SavedModel; by default serving_default, or the only one.

    Returns:
      A function from float32 images (N, ...) in model input units to scores
      float32 (N, classes).

    Raises:
      errors.UserError: there is no model, no such signature, or not one input
        and one output.
    """
    source = pathlib.Path(path)
    if not source.exists():
        raise errors.UserError(path, got="nothing there", expected="a model")
    if source.is_dir():
        return _saved_model_predictor(path, batch, signature)
    if signature:
        raise errors.UserError(
            "--signature",
            got=f"{signature!r} for {path}",
            expected="a SavedModel; other files have no signatures",
            remedy="leave --signature out",
        )
    if source.suffix == ".tflite":
        return _tflite_predictor(path)
    return _keras_predictor(path, batch)


def _require_one(path: str, what: str, count: int) -> None:
    if count != 1:
        raise errors.UserError(
            path, got=f"{count} {what}s", expected=f"a model of one {what}"
        )


def _require_shape(
    path: str, shape: Sequence[int | None], images: np.ndarray
) -> None:
    """Checks all axes but the batch; None in `shape` takes any size."""
    want, have = tuple(shape[1:]), images.shape[1:]
    if len(want) != len(have) or any(
        w is not None and w != h for w, h in zip(want, have, strict=True)
    ):
        raise errors.UserError(
            path,
            got=f"images of shape {have}",
            expected=f"the model's {want}",
        )


def _in_batches(
    path: str, shape: Sequence[int | None], batch: int, predict: Predictor
) -> Predictor:
    """Feeds `predict` whole batches; the last one is filled up with zeros.

    Args:
      path: of the model, for messages.
      shape: of its input, batch first; None where it is free.
      batch: images at a time where `shape` leaves that free.
      predict: the model, at exactly the batch that results.
    """
    size = int(shape[0] or batch)

    def run(images: np.ndarray) -> np.ndarray:
        _require_shape(path, shape, images)
        scores = []
        for start in range(0, len(images), size):
            part = images[start : start + size]
            padded = np.zeros((size, *part.shape[1:]), part.dtype)
            padded[: len(part)] = part
            scores.append(predict(padded)[: len(part)])
        return np.concatenate(scores)

    return run


def _signature_of(path: str, known: Sequence[str], asked: str) -> str:
    """The signature to call: as `dsg_tf.quantize` chooses it."""
    if not asked and len(known) == 1:
        return known[0]
    name = asked or "serving_default"
    if name not in known:
        raise errors.UserError(
            "--signature",
            got=repr(name) if asked else "nothing",
            expected=f"one of {path}: "
            + (", ".join(sorted(known)) or "none at all"),
        )
    return name


def _saved_model_predictor(path: str, batch: int, asked: str) -> Predictor:
    import tensorflow as tf

    loaded = tf.saved_model.load(path)
    chosen = _signature_of(path, list(loaded.signatures), asked)
    signature = loaded.signatures[chosen]
    inputs = signature.structured_input_signature[1]
    _require_one(path, "input", len(inputs))
    _require_one(path, "output", len(signature.structured_outputs))
    ((name, spec),) = inputs.items()

    def predict(images: np.ndarray) -> np.ndarray:
        # Through `loaded`: it owns the variables, a signature does not.
        serve = loaded.signatures[chosen]
        (scores,) = serve(**{name: tf.cast(images, spec.dtype)}).values()
        return scores.numpy()

    return _in_batches(path, spec.shape.as_list(), batch, predict)


def _keras_predictor(path: str, batch: int) -> Predictor:
    import keras

    try:
        model = keras.saving.load_model(path, compile=False)
    except (TypeError, ValueError) as keras3_error:
        # Only what Keras 2 wrote as .h5 can be read by tf_keras instead.
        if not path.endswith(".h5"):
            raise
        try:
            import tf_keras
        except ImportError:
            raise keras3_error from None
        model = tf_keras.models.load_model(path, compile=False)
    _require_one(path, "input", len(model.inputs))
    _require_one(path, "output", len(model.outputs))

    def predict(images: np.ndarray) -> np.ndarray:
        return model.predict_on_batch(images)

    return _in_batches(path, tuple(model.inputs[0].shape), batch, predict)


def _tflite_predictor(path: str) -> Predictor:
    from dsg_tf.tflite import interpreter

    model = interpreter.Interpreter(pathlib.Path(path).read_bytes())
    _require_one(path, "input", len(model.view.input_names()))
    _require_one(path, "output", len(model.view.output_names()))
    ((name, tensor),) = model.view.input_names().items()

    def predict(images: np.ndarray) -> np.ndarray:
        _require_shape(path, tensor.shape, images)
        (scores,) = model.run({name: images}).values()
        return scores

    return predict


def classify(predict: Predictor, images: np.ndarray) -> np.ndarray:
    """Returns the class int64 (N,) with the highest score of each image.

    Raises:
      errors.UserError: a score is not finite, or there is one class only.
    """
    scores = predict(images)
    scores = scores.reshape(len(images), -1)
    if scores.shape[1] < 2:
        raise errors.UserError(
            "--model", got="one score an image", expected="one a class"
        )
    if not np.isfinite(scores).all():
        raise errors.UserError(
            "--model", got="scores that are not finite", expected="numbers"
        )
    return scores.argmax(axis=-1)


def top1(predict: Predictor, images: np.ndarray, labels: np.ndarray) -> Score:
    """Counts the images whose highest score is their label's."""
    classes = classify(predict, images)
    return Score(int((classes == labels).sum()), len(labels))
