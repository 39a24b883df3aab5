"""Keras callbacks: those of the synthesis, and two for the user's training.

`QuantizeDataFree` quantizes the model as it is at the end of an epoch, so that
a training can be stopped, or its best weights kept, by what the integer file
does. `BatchNormMoments` records the statistics that samples are drawn from.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, MutableMapping
from typing import Any, NamedTuple

import keras
import numpy as np
from absl import logging

from dsg_tf import pipeline
from dsg_tf.config import run_config, synthesis_config
from dsg_tf.core import checks, errors
from dsg_tf.synthesis.callbacks import (
    BatchNormTargets,
    ChangeViews,
    CosineAnneal,
    DistanceLog,
    PlateauAnneal,
    ShowProgress,
    StopWhenSettled,
)

__all__ = [
    "BatchNormMoments",
    "BatchNormTargets",
    "ChangeViews",
    "CosineAnneal",
    "DistanceLog",
    "MomentsOfLayer",
    "PlateauAnneal",
    "QuantizeDataFree",
    "ShowProgress",
    "StopWhenSettled",
]

AGREEMENT, ACCURACY = "int8_agreement", "val_int8_accuracy"
SQNR = "int8_sqnr_db"
# Of a call within a training: no further rounds where samples do not settle.
_STEPS = 25


class QuantizeDataFree(keras.callbacks.Callback):
    """Quantizes the model in training, without data, at the end of epochs.

    Reads the BatchNormalization moments as they are, synthesises samples,
    writes the .tflite, compares it with the float model, and puts into `logs`

    * `int8_agreement`: agreement with the float model, 0..1,
    * `int8_sqnr_db`: the least SQNR of an output around its mean, dB,
    * `val_int8_accuracy`: top-1 of the file, 0..1, with `validation_data`,

    so that callbacks that come after it in the list, and History, have them.
    Epochs without a measurement have no entry, as those without validation.
    The training goes on as it would have: weights, optimizer, random state and
    compiled functions stay. A model that cannot be quantized at an epoch is a
    warning, not an end of the training.

    Args:
      path: the .tflite to write; may have `{epoch}` and names of `logs`, as the
        path of ModelCheckpoint. All else goes to `<path>.run/`.
      every_n_epochs: measure after each so many epochs.
      validation_data: (inputs, labels) of a classifier with one input: inputs
        (N, ...) as the model takes them; labels (N,), or one-hot (N, classes).
      config: what to do; by default int8 per channel of 8 samples and 25 steps,
        whether these are enough or not, so that the time of a call is bounded.

    Attributes:
      results: the result by epoch, counted from 1.
      seconds: that each call took, by epoch.

    Raises:
      errors.UserError: an argument is not valid; when the training begins, the
        model has no BatchNormalization.

    Examples:
      ```python
      model.fit(
          images,
          labels,
          epochs=10,
          callbacks=[
              dsg_tf.callbacks.QuantizeDataFree("net.tflite"),
              keras.callbacks.EarlyStopping("int8_agreement", mode="max"),
          ],
      )
      ```
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        every_n_epochs: int = 1,
        validation_data: tuple[Any, Any] | None = None,
        config: run_config.PipelineConfig | None = None,
    ):
        super().__init__()
        checks.require_int("every_n_epochs", every_n_epochs, 1)
        self._path = os.fspath(path)
        self._every = every_n_epochs
        self._validation = None
        if validation_data is not None:
            self._validation = _pair(validation_data)
        self._config = config or run_config.PipelineConfig(
            synthesis=synthesis_config.SynthesisConfig(steps=_STEPS),
            resume=False,
        )
        self.results: dict[int, pipeline.Result] = {}
        self.seconds: dict[int, float] = {}

    def on_train_begin(self, logs: Mapping[str, Any] | None = None):
        del logs
        if self._config.needs_moments and not _batch_norms(self.model):
            raise errors.UserError(
                "QuantizeDataFree",
                got=f"the model {self.model.name!r} without BatchNormalization",
                expected="a model with BatchNormalization layers, which samples"
                " are synthesised from",
                remedy="pass config=PipelineConfig(samples=...)",
            )

    def on_epoch_end(
        self, epoch: int, logs: MutableMapping[str, Any] | None = None
    ):
        number = epoch + 1
        if number % self._every:
            return
        logs = {} if logs is None else logs
        start = time.monotonic()
        try:
            result = self._quantize(number, logs)
            told = {
                AGREEMENT: result.report.agreement,
                SQNR: min(
                    row.sqnr_mean_db for row in result.report.outputs.values()
                ),
            }
            if self._validation is not None:
                told[ACCURACY] = result.evaluate(*self._validation)
        except errors.UserError as error:
            logging.warning("epoch %d is not quantized: %s", number, error)
            return
        logs.update({name: float(value) for name, value in told.items()})
        self.results[number] = result
        self.seconds[number] = time.monotonic() - start

    def _quantize(
        self, number: int, logs: Mapping[str, Any]
    ) -> pipeline.Result:
        try:
            path = self._path.format(epoch=number, **logs)
        except (KeyError, IndexError, ValueError) as error:
            raise errors.UserError(
                "QuantizeDataFree path",
                got=f"{self._path!r} ({error})",
                expected="{epoch} and names of logs in braces: "
                + ", ".join(sorted(logs)),
            ) from error
        # Its lines would break the bar of `fit`.
        verbosity = logging.get_verbosity()
        logging.set_verbosity(min(verbosity, logging.WARNING))
        try:
            return pipeline.quantize_model(
                self.model, output=path, config=self._config
            )
        finally:
            logging.set_verbosity(verbosity)


class MomentsOfLayer(NamedTuple):
    """Statistics of a BatchNormalization layer at the end of an epoch.

    Attributes:
      mean: moving mean, float32 (C,).
      variance: moving variance, float32 (C,).
      drift: how far both have moved since the measurement before: the root mean
        square over channels of the change of the mean, in deviations, and of
        the deviation, as a natural logarithm; NaN the first time.
    """

    mean: np.ndarray
    variance: np.ndarray
    drift: float


class BatchNormMoments(keras.callbacks.Callback):
    """Records the BatchNormalization moments of a model in training.

    Samples are drawn from these moments: as long as they drift, samples of one
    epoch do not describe the network of the next. Puts the greatest drift of
    all layers into `logs` as `bn_drift`, from the second measurement on.

    Attributes:
      history: one entry for each epoch: moments by the layer's path.

    Examples:
      ```python
      moments = dsg_tf.callbacks.BatchNormMoments()
      model.fit(images, labels, epochs=10, callbacks=[moments])
      moments.history[-1]["batch_normalization"].drift
      ```
    """

    def __init__(self):
        super().__init__()
        self.history: list[dict[str, MomentsOfLayer]] = []

    def on_epoch_end(
        self, epoch: int, logs: MutableMapping[str, Any] | None = None
    ):
        del epoch
        before = self.history[-1] if self.history else {}
        found = {}
        for layer in _batch_norms(self.model):
            mean, variance = (
                np.array(keras.ops.convert_to_numpy(v), np.float32)
                for v in (layer.moving_mean, layer.moving_variance)
            )
            name = getattr(layer, "path", layer.name)
            found[name] = MomentsOfLayer(
                mean,
                variance,
                _drift(before.get(name), mean, variance, layer.epsilon),
            )
        self.history.append(found)
        drifts = [row.drift for row in found.values()]
        if logs is not None and drifts and before:
            logs["bn_drift"] = float(np.max(drifts))


def _drift(
    before: MomentsOfLayer | None,
    mean: np.ndarray,
    variance: np.ndarray,
    epsilon: float,
) -> float:
    if before is None:
        return float("nan")
    old, new = (
        np.sqrt(v.astype(np.float64) + epsilon)
        for v in (before.variance, variance)
    )
    moved = (mean.astype(np.float64) - before.mean) / old
    return float(np.sqrt(np.mean(moved**2 + np.log(new / old) ** 2)))


def _batch_norms(model: keras.Model) -> list:
    """The layers with moving statistics, of nested models too."""
    layers = model._flatten_layers(include_self=False, recursive=True)
    return [
        layer
        for layer in layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]


def _pair(data: tuple[Any, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Inputs, and labels as classes.

    Raises:
      errors.UserError: it is no pair of arrays of one length.
    """
    try:
        inputs, labels = (np.asarray(part) for part in data)
        fits = len(inputs) == len(labels) > 0
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise errors.UserError(
            "validation_data",
            got=f"{type(data).__name__}",
            expected="(inputs, labels), two arrays of one length",
        )
    if labels.ndim == 2 and labels.shape[1] > 1:
        labels = labels.argmax(1)
    return inputs, labels.reshape(len(labels))
