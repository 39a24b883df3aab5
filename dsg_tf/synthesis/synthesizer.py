"""The keras.Model whose variables are the samples.

The network under quantization is a frozen function inside; there is nothing in
it to train. `fit` runs steps on one batch of samples, and Keras callbacks, ours
and the user's, do what happens around the steps. Batches are independent:
`reset` prepares the next one, and the step is traced once for all of them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from dsg_tf.analysis import bn_statistics, classifier_head, input_domain
from dsg_tf.config import synthesis_config
from dsg_tf.graph import frozen, ir
from dsg_tf.synthesis import (
    losses,
    measured,
    natural_images,
    sample_space,
    settling,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Targets:
    """What the BN layers ask of the samples; set by a callback.

    Attributes:
      mean, sigma: float32 (C,), of the layers' inputs, the channels of all
        layers side by side.
      mean_margin, sigma_margin: float32 (N,), the slack of each layer in units
        of the scale.
    """

    mean: keras.Variable
    sigma: keras.Variable
    mean_margin: keras.Variable
    sigma_margin: keras.Variable


class Synthesizer(keras.Model):
    """Samples as trainable variables of a loss on a frozen graph.

    What the variables are, `sample_space.InputSpace` says: samples in
    deviations from the domain's mean, or what images are made of.

    Args:
      graph: the frozen graph, float inputs.
      layers: its BN layers.
      domains: the domain of each input, by name.
      head: its classifier head, or None.
      config: which ingredients the loss has.

    Attributes:
      samples: the variable of each input, by name, float32 (B, ...).
      targets: what the BN layers ask for.
      views: int64 (B, 3) for each input, by name: how the network sees each
        sample in this step; see `InputSpace.seen`.
      labels: int64 (B,), the class asked of each sample.
      enhancement: float32 (B, N), weight of each layer for each sample.
      distances: float32 (N,), the last step's distance per layer.
      moments: m and s of the last step, float32 (B, C), the channels of all
        layers side by side.
      batch_index: the batch at work.
    """

    def __init__(
        self,
        graph: ir.Graph,
        layers: Sequence[bn_statistics.BatchNorm],
        *,
        domains: Mapping[str, input_domain.InputDomain],
        head: classifier_head.ClassifierHead | None,
        config: synthesis_config.SynthesisConfig,
    ):
        super().__init__(name="synthesizer")
        self._measured = measured.MeasuredGraph(
            frozen.with_batch_size(graph, config.batch_size), layers
        )
        self._graph = self._measured.graph
        self._batch_norms = tuple(layers)
        self._head = head
        self._config = config
        self._spaces = {
            port.name: sample_space.InputSpace.of(
                port, domains[port.name], config
            )
            for port in self._graph.inputs
        }
        # What lies behind the last BN: the head's scores, for the labels, and
        # every other float output, for the spread.
        scores = [head.logits] if head else []
        outputs = [
            port.tensor
            for port in graph.outputs
            if port.dtype.is_floating
            and not (head and port.name == head.output)
        ]
        self._tensors = scores + outputs
        batch, count = config.batch_size, len(self._batch_norms)
        self.samples = {
            name: self.add_weight(
                shape=space.variable_shape, name=f"samples_{n}"
            )
            for n, (name, space) in enumerate(self._spaces.items())
        }
        # Not int32: on a GPU, TensorFlow keeps variables of int32 on the CPU,
        # where a compiled step cannot read them.
        self.views = {
            name: self._state((batch, 3), f"views_{n}", dtype="int64")
            for n, name in enumerate(self._spaces)
        }
        channels = sum(self._measured.channels)
        self.targets = Targets(
            mean=self._state((channels,), "mean"),
            sigma=self._state((channels,), "sigma", initializer="ones"),
            mean_margin=self._state((count,), "mean_margin"),
            sigma_margin=self._state((count,), "sigma_margin"),
        )
        # How much each channel counts in its layer's distance, (C, N).
        counts = np.array(self._measured.channels)
        of_layer = np.repeat(np.eye(count, dtype=np.float32), counts, axis=0)
        self._shares = tf.constant(
            of_layer / counts if config.normalize_loss else of_layer, tf.float32
        )
        self._epsilons = tf.constant(
            np.repeat([float(x.epsilon) for x in layers], counts), tf.float32
        )
        self.labels = self._state((batch,), "labels", dtype="int64")
        self.enhancement = self._state((batch, count), "enhancement")
        self.distances = self._state((count,), "distances")
        self.moments = tuple(
            self._state((batch, channels), name) for name in ("m", "s")
        )
        self.label_share = self._state((), "label_share")
        self.batch_index = 0
        # For tf.gradients, which wants a graph, also where Keras runs eagerly.
        self._descent = tf.function(self._loss_and_gradients, autograph=False)
        self._forward = tf.function(self._moments_of, autograph=False)
        self.built = True

    @property
    def batch_norms(self) -> tuple[bn_statistics.BatchNorm, ...]:
        """The BN layers, in the order of `targets` and `distances`."""
        return self._batch_norms

    @property
    def measured_graph(self) -> ir.Graph:
        """The graph that the step runs: BN folded where that is possible."""
        return self._graph

    @property
    def config(self) -> synthesis_config.SynthesisConfig:
        return self._config

    def reset(self, batch_index: int) -> None:
        """Prepares the batch with this index; a function of seed and index."""
        config = self._config
        self.batch_index = batch_index
        rng = np.random.default_rng([config.seed, batch_index])
        for name, variable in self.samples.items():
            variable.assign(self._spaces[name].initial(rng))
            self.views[name].assign(np.zeros((config.batch_size, 3), np.int64))
        classes = self._head.num_classes if self._head else 1
        self.labels.assign(_balanced_labels(rng, classes, config.batch_size))
        weights = tf.ones((config.batch_size, len(self._batch_norms)))
        if config.layerwise_enhancement:
            weights = losses.enhancement_weights(
                config.batch_size,
                len(self._batch_norms),
                first=batch_index * config.batch_size,
            )
        self.enhancement.assign(weights)
        self.restart()

    def restart(self) -> None:
        """Prepares another round of steps on the samples as they are."""
        if self.optimizer is None:
            return
        if not self.optimizer.built:
            # A step that makes variables would be traced twice.
            self.optimizer.build(self.trainable_variables)
        for variable in self.optimizer.variables:
            variable.assign(tf.zeros_like(variable))
        # A schedule or a user's callback may have left another rate.
        self.optimizer.learning_rate.assign(self._config.learning_rate)

    def settling(self) -> settling.Settling:
        """How far the batch had come in the last step."""
        mean, deviation = (np.asarray(v) for v in self.moments)
        off = settling.bits_off(
            mean,
            deviation,
            target_mean=np.asarray(self.targets.mean),
            target_deviation=np.asarray(self.targets.sigma),
            channels=self._measured.channels,
        )
        return settling.Settling(off, float(self.label_share.numpy()))

    def change_views(self, rng: np.random.Generator) -> None:
        """Draws how the network sees the samples in the next step."""
        for name, variable in self.views.items():
            variable.assign(self._spaces[name].views(rng))

    def values(self) -> dict[str, np.ndarray]:
        """The samples in the model's input units, by input name."""
        return {
            name: space.to_model(np.asarray(space.deviations(variable.value)))
            for (name, variable), space in zip(
                self.samples.items(), self._spaces.values(), strict=True
            )
        }

    def features(
        self, inputs: Mapping[str, np.ndarray]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """m and s of every layer for inputs in the model's units, (B, C)."""
        with frozen.in_fixed_order():
            found = self._forward(
                [
                    tf.convert_to_tensor(inputs[p.name])
                    for p in self._graph.inputs
                ]
            )
        mean, deviation = (
            np.split(m.numpy(), np.cumsum(self._measured.channels)[:-1], 1)
            for m in found
        )
        return list(zip(mean, deviation, strict=True))

    def _moments_of(self, inputs):
        mean, deviation, _ = self._measured.values(inputs, ())
        return mean, deviation

    def probe(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One batch of noise of the domain, for the slack margins.

        White as in the paper, or what samples start as; seen as samples are.
        """
        probes = {}
        for name, space in self._spaces.items():
            if self._config.slack_source == "gaussian":
                noise = tf.constant(natural_images.white(rng, space.shape))
            else:
                noise = space.deviations(tf.constant(space.initial(rng)))
            seen = space.seen(noise, tf.constant(space.views(rng)))
            probes[name] = space.to_model(np.asarray(seen))
        return probes

    def scale(self) -> tf.Tensor | float:
        """The unit of distances: sigma of every channel (C,), or 1."""
        if not self._config.normalize_loss:
            return 1.0
        return self.targets.sigma.value

    @tf.autograph.experimental.do_not_convert
    def train_step(self, data: object):
        """One step on all samples of the batch; no weight has a gradient.

        Samples are brought back into the bounds of their domains.
        """
        del data
        loss, terms, gradients = self._descent()
        self.optimizer.apply(gradients, self.trainable_variables)
        for name, variable in self.samples.items():
            variable.assign(self._spaces[name].projected(variable.value))
        return {"loss": loss, **terms}

    def _loss_and_gradients(self):
        """The loss, its terms, and its gradient by each sample variable."""
        terms = self._terms()
        loss = sum(terms.values())
        gradients = tf.gradients(
            loss,
            [v.value for v in self.trainable_variables],
            # In pairs, so that their order is no matter of chance; a tape would
            # add them up by AddN. See frozen.in_fixed_order.
            aggregation_method=tf.AggregationMethod.EXPERIMENTAL_TREE,
            # Of indices, which stay what they were drawn as.
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        return loss, terms, gradients

    def _terms(self) -> dict[str, tf.Tensor]:
        """Every term of the loss that is turned on, by name; in a trace."""
        config = self._config
        values = {
            n: self._spaces[n].deviations(v.value)
            for n, v in self.samples.items()
        }
        inputs = {
            n: self._spaces[n].to_model_tensor(
                self._spaces[n].seen(v, self.views[n].value)
            )
            for n, v in values.items()
        }
        mean, deviation, outputs = self._measured.values(
            list(inputs.values()), self._tensors
        )
        terms = {"bns": self._bns(mean, deviation)}
        if config.input_weight:
            own = [_own_moments(v) for v in values.values()]
            terms["input"] = config.input_weight * sum(own)
        scores = None
        if self._head is not None:
            scores, *outputs = outputs
        if scores is not None and config.label_weight:
            scores = tf.reshape(scores, (config.batch_size, scores.shape[-1]))
            loss = losses.label_loss(
                scores,
                self.labels.value,
                temperature=config.label_temperature,
                multi_label=self._head.multi_label,
            )
            terms["label"] = config.label_weight * loss
            classes = scores.shape[-1]
            guessing = (
                classes * math.log(2)
                if self._head.multi_label
                else math.log(max(classes, 2))
            )
            self.label_share.assign(loss / guessing)
        outputs = [t for t in outputs if t.shape.rank]
        if outputs and config.spread_weight:
            spread = [losses.spread_loss(t) for t in outputs]
            terms["spread"] = config.spread_weight * sum(spread)
        if config.prior_weight:
            images = [v for n, v in values.items() if self._spaces[n].is_image]
            if images:
                total = [losses.total_variation(i) for i in images]
                terms["prior"] = config.prior_weight * sum(total)
        return terms

    def _bns(self, mean: tf.Tensor, deviation: tf.Tensor) -> tf.Tensor:
        """The BNS loss: SDA and LSE per sample, plus the batch's moments.

        Args:
          mean, deviation: m and s of all layers side by side, (B, C).
        """
        config = self._config
        per_batch = self._of_batch(mean, deviation)
        self.distances.assign(per_batch)
        for variable, value in zip(
            self.moments, (mean, deviation), strict=True
        ):
            variable.assign(value)
        total = config.batch_weight * tf.reduce_sum(per_batch)
        # Without positions only the batch has moments.
        single = np.array(self._measured.has_positions)
        if not config.batch_weight:
            total += config.sample_weight * tf.reduce_sum(
                per_batch * np.float32(~single)
            )
        if config.sample_weight and single.any():
            per_sample = self._of_samples(mean, deviation)
            weight = self.enhancement.value * np.float32(single)
            total += config.sample_weight * tf.reduce_sum(
                tf.reduce_mean(weight * per_sample, 0)
            )
        return total

    def _of_batch(self, mean, deviation) -> tf.Tensor:
        """Each layer's distance of the batch's moments, (N,)."""
        batch_mean, batch_deviation = losses.batch_moments(
            mean, deviation, epsilon=self._epsilons
        )
        return self._distance(batch_mean, batch_deviation)

    def _of_samples(self, mean, deviation) -> tf.Tensor:
        """Each layer's distance for each sample, beyond the margins, (B, N)."""
        return self._distance(
            mean,
            deviation,
            self._along_channels(self.targets.mean_margin.value),
            self._along_channels(self.targets.sigma_margin.value),
        )

    def _distance(self, mean, deviation, mean_margin=0.0, sigma_margin=0.0):
        """Squared distances beyond margins, by layer: (..., C) to (..., N)."""
        scale = self.scale()
        squares = losses.slack_squares(
            mean, self.targets.mean.value, margin=mean_margin, scale=scale
        ) + losses.slack_squares(
            deviation,
            self.targets.sigma.value,
            margin=sigma_margin,
            scale=scale,
        )
        return tf.linalg.matvec(self._shares, squares, transpose_a=True)

    def _along_channels(self, values: tf.Tensor) -> tf.Tensor:
        """Of each layer, (N,), to each channel, (C,)."""
        return tf.repeat(values, self._measured.channels)

    def _state(self, shape, name, *, dtype="float32", initializer="zeros"):
        return self.add_weight(
            shape=shape,
            name=name,
            dtype=dtype,
            initializer=initializer,
            trainable=False,
        )


def _own_moments(values: tf.Tensor) -> tf.Tensor:
    """Distance of an input from mean 0 and deviation 1 (ZeroQ's layer 0)."""
    axis = values.shape.rank - 1
    mean, deviation = losses.sample_moments(values, axis)
    if not losses.has_positions(values, axis):
        mean, deviation = losses.batch_moments(mean, deviation)
    squares = losses.slack_squares(
        mean, tf.zeros_like(mean)
    ) + losses.slack_squares(deviation, tf.ones_like(deviation))
    return tf.reduce_mean(tf.reduce_sum(squares, axis=-1))


def _balanced_labels(
    rng: np.random.Generator, classes: int, count: int
) -> np.ndarray:
    """Classes for the samples of a batch, int64 (count,).

    Drawn without replacement within a batch, so that a batch covers as many
    classes as it can.
    """
    rounds = -(-count // classes)
    drawn = np.concatenate([rng.permutation(classes) for _ in range(rounds)])
    return drawn[:count].astype(np.int64)
