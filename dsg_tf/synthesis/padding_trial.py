"""Finds out how training images were padded, from BN statistics.

Training shows a network images at random shifts. Some pipelines pad images with
black and crop (the usual one of CIFAR-10), others resize a part of the image or
repeat its edges. BN's moments are of what training showed, borders included: of
samples that are shifted likewise they can be reached, of others less well. So a
batch is optimised for a few steps under each hypothesis, and the one whose
moments come closer is kept. docs/explanation/method.md has what that found on
real models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
from absl import logging

from dsg_tf.analysis import input_domain
from dsg_tf.config import synthesis_config
from dsg_tf.graph import ir
from dsg_tf.synthesis import sample_space
from dsg_tf.synthesis import synthesizer as synthesizer_lib

# Steps of a trial. On the models of docs/explanation/method.md the two
# hypotheses are 25 % to 50 % apart by then.
STEPS = 50
# The distance of a trial is the mean over its last steps: each is of other
# views.
_LAST = 10
# Borders are the more special claim, and have to be closer by this factor.
_CLEARLY = 0.9


def candidates(
    ports: Sequence[ir.Port],
    domains: Mapping[str, input_domain.InputDomain],
    config: synthesis_config.SynthesisConfig,
) -> tuple[str, ...]:
    """The values of `fill` that a config leaves open for these inputs.

    Args:
      ports: the model's inputs.
      domains: the domain of each, by name.
      config: `auto` leaves the question open, where there is one: images are
        shifted, and could be the inside of images with black borders.
    """
    if config.fill != "auto":
        return (config.fill,)
    shifted = [port for port in ports if any(sample_space.reach(port, config))]
    could = [
        sample_space.whole_images(port, domains[port.name], config) is not None
        for port in shifted
    ]
    return ("wrap", "black") if could and all(could) else ("wrap",)


def decide(
    fills: Sequence[str],
    *,
    build: Callable[[str], synthesizer_lib.Synthesizer],
    optimise: Callable[..., object],
) -> tuple[str, synthesizer_lib.Synthesizer, dict[str, float]]:
    """Tries each fill on the first batch.

    Args:
      fills: what to try, the one to fall back to first.
      build: makes the synthesizer of a fill.
      optimise: called with a synthesizer, callbacks to add and the number of
        steps; optimises the first batch from its start.

    Returns:
      The fill, its synthesizer, and the distance of each fill: the sum over
      layers of the batch's normalised squared distance from BN's moments,
      infinite where a trial diverged.
    """
    distances: dict[str, float] = {}
    best, kept = fills[0], None
    for fill in fills:
        model = build(fill)
        watch = _LastDistances()
        try:
            optimise(model, [watch], STEPS)
            distances[fill] = watch.mean()
        except FloatingPointError:
            distances[fill] = math.inf
        if kept is None or distances[fill] < _CLEARLY * distances[best]:
            best, kept = fill, model
    told = ", ".join(f"{fill} {d:.3g}" for fill, d in distances.items())
    logging.info(
        "edges of shifted images: %s (distance from BatchNorm: %s)", best, told
    )
    return best, kept, distances


class _LastDistances(keras.callbacks.Callback):
    """The distances of the last steps, summed over the layers."""

    def on_train_begin(self, logs=None):
        self._sums: list[float] = []

    def on_train_batch_end(self, batch, logs=None):
        self._sums.append(float(np.sum(self.model.distances.numpy())))

    def mean(self) -> float:
        return float(np.mean(self._sums[-_LAST:]))
