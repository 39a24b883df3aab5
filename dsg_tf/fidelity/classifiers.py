"""Classifiers from files, as functions from images to scores, and top-1."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from dsg_tf.core import errors
from dsg_tf.graph.load import formats, model_files
from dsg_tf.tflite import rehearsal

_EXPECTED = model_files.EXPECTED.replace("float .tflite", ".tflite")

# Images float32 (N, ...), model input units -> scores float32 (N, classes).
Predictor = Callable[[np.ndarray], np.ndarray]


class Score(NamedTuple):
    """How many of `count` images were given their label."""

    correct: int
    # A field of this name hides tuple.count, which nobody needs here.
    count: int  # type: ignore[assignment]

    @property
    def percent(self) -> float:
        return 100.0 * self.correct / self.count

    @property
    def standard_error_percent(self) -> float:
        """Binomial standard error of `percent`, in points."""
        share = self.correct / self.count
        return 100.0 * float(np.sqrt(share * (1.0 - share) / self.count))


def load_predictor(
    path: str,
    *,
    batch: int = 64,
    signature: str = "",
    tags: Sequence[str] = (),
    input_names: Sequence[str] = (),
    output_names: Sequence[str] = (),
    image_shape: Sequence[int] | None = None,
    allow_unsafe_ops: bool = False,
) -> Predictor:
    """Loads a classifier of any supported kind.

    A Keras model or SavedModel goes through the loader that quantizing uses,
    with all its checks, and runs as the graph that it becomes.

    Args:
      path: a .tflite, .keras or .h5 file, or a SavedModel folder.
      batch: images at a time, where a Keras model or SavedModel leaves its
        batch free; a .tflite runs one by one.
      signature: of a SavedModel; by default serving_default, or the only one.
      tags: of a SavedModel; by default `serve`, or the only set.
      input_names: of a frozen GraphDef; by default its placeholders.
      output_names: the one output that has the scores, where there are more.
      image_shape: of one image, for a model that leaves its size open.
      allow_unsafe_ops: accept graphs that touch files or call Python.

    Returns:
      A function from float32 images (N, ...) in model input units to scores
      float32 (N, classes).

    Raises:
      errors.UserError: there is no model, no such signature, or not one input
        and one output; or it is refused as by `graph.loading.load`.
    """
    source = pathlib.Path(path)
    model_files.check(source, expected=_EXPECTED)
    if not source.is_dir():
        _refuse_choices(
            path, "a SavedModel", signature=signature, tags=",".join(tags)
        )
        if source.suffix == ".tflite":
            _refuse_choices(
                path,
                "a model that is no .tflite",
                input_names=",".join(input_names),
                output_names=",".join(output_names),
            )
            return _tflite_predictor(path)
    # What is no model is told before TensorFlow is imported.
    formats.find(source)
    from dsg_tf.graph.load import loading

    graph = loading.load(
        path,
        signature=signature or None,
        tags=list(tags) or None,
        input_names=list(input_names) or None,
        output_names=list(output_names) or None,
        default_shape=image_shape,
        allow_unsafe_ops=allow_unsafe_ops,
    )
    return _graph_predictor(path, graph, batch)


def _refuse_choices(path: str, expected: str, **flags: str) -> None:
    for name, value in flags.items():
        if value:
            raise errors.UserError(
                f"--{name}",
                got=f"{value!r} for {path}",
                expected=f"{expected}; other files have no {name}",
                remedy=f"leave --{name} out",
            )


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


def _graph_predictor(path: str, graph, batch: int) -> Predictor:
    from dsg_tf.graph import evaluation, frozen

    _require_one(path, "input", len(graph.inputs))
    _require_one(path, "output", len(graph.outputs))
    (port,) = graph.inputs
    function = frozen.to_function(graph)

    def predict(images: np.ndarray) -> np.ndarray:
        _require_shape(path, port.shape, images)
        samples = {port.name: images.astype(port.dtype.as_numpy_dtype)}
        scores = []
        for feeds, keep in evaluation.fed(graph.inputs, samples, batch):
            with frozen.in_fixed_order():
                (values,) = function(*feeds)
            scores.append(values.numpy()[keep])
        return np.concatenate(scores)

    return predict


def _tflite_predictor(path: str) -> Predictor:
    from dsg_tf.tflite import interpreter

    rehearsal.require_runs(path)
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
