"""Keras callbacks of the synthesis: targets, schedules, logs, progress."""

from __future__ import annotations

import csv
import math
import os
import pathlib
import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from dsg_tf.core import progress


class BatchNormTargets(keras.callbacks.Callback):
    """Reads the BN moments; sets targets and slack margins at the start.

    The margins are DSG's (section 3.2): noise of the input domain goes through
    the model, and the percentile of |m - mu| and |s - sigma| over samples and
    channels, in the unit of the loss, becomes the layer's margin. The margins
    are computed once for the model and kept for all batches. The paper uses
    white noise, which does not vary as images do; the initial samples do
    (`SynthesisConfig.slack_source`).
    """

    def __init__(self):
        super().__init__()
        self._done = False

    def on_train_begin(self, logs: Mapping[str, Any] | None = None):
        if self._done:
            return
        model, config = self.model, self.model.config
        layers = model.batch_norms
        model.targets.mean.assign(np.concatenate([x.mean for x in layers]))
        model.targets.sigma.assign(np.concatenate([x.sigma for x in layers]))
        if config.slack_percentile:
            self._set_margins(model, config)
        self._done = True

    def _set_margins(self, model, config) -> None:
        rng = np.random.default_rng([config.seed, 2**31])
        count = -(-config.slack_probes // config.batch_size)
        # Of every batch of probes, m and s of every layer.
        batches = [model.features(model.probe(rng)) for _ in range(count)]
        margins_of = (
            _margins_of_share
            if config.slack_source == "share"
            else _margins_of_distance
        )
        margins = []
        for layer, *parts in zip(model.batch_norms, *batches, strict=True):
            means, deviations = zip(*parts, strict=True)
            margins.append(
                margins_of(
                    np.concatenate(means),
                    np.concatenate(deviations),
                    layer,
                    scale=layer.sigma if config.normalize_loss else 1.0,
                    percentile=config.slack_percentile,
                )
            )
        mean_margins, sigma_margins = zip(*margins, strict=True)
        model.targets.mean_margin.assign(mean_margins)
        model.targets.sigma_margin.assign(sigma_margins)


def _margins_of_distance(
    mean: np.ndarray, deviation: np.ndarray, layer, *, scale, percentile: float
) -> tuple[float, float]:
    """DSG's margins: what probes show, (P, C), whatever it comes from."""
    of_mean, of_sigma = (
        float(np.percentile(np.abs(actual - wanted) / scale, 100 * percentile))
        for actual, wanted in ((mean, layer.mean), (deviation, layer.sigma))
    )
    return of_mean, of_sigma


def _margins_of_share(
    mean: np.ndarray, deviation: np.ndarray, layer, *, scale, percentile: float
) -> tuple[float, float]:
    """Margins that would let samples scatter as BN's variance says they do.

    A layer's variance is what differs within samples and between them. With a
    share b between, the m of samples have the deviation sqrt(b) sigma, of
    which the margin is the normal quantile, and their s lie about
    sqrt(1 - b) sigma. BN tells only the sum; b is that of the probes.
    """
    between = mean.var(axis=0)
    within = (deviation**2).mean(axis=0)
    share = float(np.median(between / np.maximum(between + within, 1e-12)))
    sigma = float(np.mean(layer.sigma / scale))
    quantile = statistics.NormalDist().inv_cdf((1 + min(percentile, 0.999)) / 2)
    return quantile * share**0.5 * sigma, (1 - (1 - share) ** 0.5) * sigma


class ChangeViews(keras.callbacks.Callback):
    """Shows the samples to the network shifted and mirrored, at random.

    A sample that fits the statistics at one phase of the network's strides
    alone is no image; one that fits them at every phase, and in the mirror, is
    nearer to one (the jitter and flips of DeepInversion, Yin et al., CVPR 2020,
    appendix).
    """

    def on_train_begin(self, logs: Mapping[str, Any] | None = None):
        seed = [self.model.config.seed, self.model.batch_index, 1]
        self._rng = np.random.default_rng(seed)

    def on_train_batch_begin(
        self, batch: int, logs: Mapping[str, Any] | None = None
    ):
        self.model.change_views(self._rng)


class CosineAnneal(keras.callbacks.Callback):
    """Lowers the learning rate to zero along half a cosine.

    Args:
      learning_rate: the rate of the first step.
      steps: the number of steps that the curve spans.
    """

    def __init__(self, learning_rate: float, steps: int):
        super().__init__()
        self._learning_rate = learning_rate
        self._steps = steps
        self._step = 0

    def on_train_begin(self, logs: Mapping[str, Any] | None = None):
        self._step = 0

    def on_train_batch_begin(
        self, batch: int, logs: Mapping[str, Any] | None = None
    ):
        progress = self._step / self._steps
        rate = 0.5 * self._learning_rate * (1 + math.cos(math.pi * progress))
        self.model.optimizer.learning_rate.assign(rate)
        self._step += 1


class PlateauAnneal(keras.callbacks.Callback):
    """Divides the learning rate by ten where the loss has stopped falling.

    ZeroQ's released code lowers the rate so (patience of a fifth of the steps,
    not below a thousandth of the first rate).

    Args:
      learning_rate: the rate of the first step.
      patience: steps without a new minimum before the rate falls.
    """

    def __init__(self, learning_rate: float, patience: int):
        super().__init__()
        self._learning_rate = learning_rate
        self._patience = max(patience, 1)

    def on_train_begin(self, logs: Mapping[str, Any] | None = None):
        self._rate = self._learning_rate
        self._best, self._since = math.inf, 0
        self.model.optimizer.learning_rate.assign(self._rate)

    def on_train_batch_end(
        self, batch: int, logs: Mapping[str, Any] | None = None
    ):
        loss = float(logs["loss"])
        if loss < self._best * (1 - 1e-4):
            self._best, self._since = loss, 0
            return
        self._since += 1
        if self._since >= self._patience:
            self._since = 0
            self._rate = max(self._rate / 10, self._learning_rate / 1000)
            self.model.optimizer.learning_rate.assign(self._rate)


class StopWhenSettled(keras.callbacks.Callback):
    """Stops a batch whose loss no longer falls.

    Args:
      patience: steps in which the best loss must fall by `min_change`.
      min_change: relative, e.g. 0.01.
    """

    def __init__(self, patience: int, *, min_change: float = 0.01):
        super().__init__()
        self._patience = patience
        self._min_change = min_change
        self._best: float | None = None
        self._since = 0

    def on_train_begin(self, logs: Mapping[str, Any] | None = None):
        self._best, self._since = None, 0

    def on_train_batch_end(
        self, batch: int, logs: Mapping[str, Any] | None = None
    ):
        loss = float(logs["loss"])
        best = self._best
        if best is None or loss < best - self._min_change * abs(best):
            self._best, self._since = loss, 0
            return
        self._since += 1
        if self._since >= self._patience:
            self.model.stop_training = True


class DistanceLog(keras.callbacks.Callback):
    """Writes the distance of every BN layer, once an epoch, as CSV.

    Columns: batch, epoch, loss, then one per layer: the normalised squared
    distance of the batch's moments from the layer's.

    Args:
      path: the file.
      finished: batches that an earlier run has finished; their rows stay, all
        other rows of an earlier run go.
    """

    def __init__(
        self, path: str | os.PathLike, *, finished: Collection[int] = ()
    ):
        super().__init__()
        self._path = pathlib.Path(path)
        self._finished = {str(batch) for batch in finished}
        self._started = False

    def on_train_begin(self, logs: Mapping[str, Any] | None = None):
        if not self._started:
            self._started = True
            names = [layer.name for layer in self.model.batch_norms]
            header = ["batch", "epoch", "loss", *names]
            self._write("w", [header, *self._earlier_rows(header)])

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None):
        distances = self.model.distances.numpy()
        values = [f"{v:.6g}" for v in (logs["loss"], *distances)]
        self._write("a", [[self.model.batch_index, epoch, *values]])

    def _earlier_rows(self, header: Sequence[str]) -> list[list[str]]:
        if not self._path.exists():
            return []
        with self._path.open(newline="") as file:
            rows = list(csv.reader(file))
        if rows[:1] != [header]:
            return []
        return [row for row in rows[1:] if row and row[0] in self._finished]

    def _write(self, mode: str, rows: Sequence[Sequence]) -> None:
        with self._path.open(mode, newline="") as file:
            csv.writer(file).writerows(rows)


class ShowProgress(keras.callbacks.Callback):
    """Counts steps on a progress display.

    Args:
      stage: what counts; see `dsg_tf.core.progress`.
      steps: steps that one batch counts for, also where it ends earlier.
    """

    def __init__(self, stage: progress.Task, steps: int):
        super().__init__()
        self._stage = stage
        self._steps = steps
        self._counted = 0

    def on_train_begin(self, logs: Mapping[str, Any] | None = None):
        self._counted = 0

    def on_train_batch_end(
        self, batch: int, logs: Mapping[str, Any] | None = None
    ):
        self._counted += 1
        self._stage.advance(1, f"loss {float(logs['loss']):.3g}")

    def on_train_end(self, logs: Mapping[str, Any] | None = None):
        self._stage.advance(self._steps - self._counted)
