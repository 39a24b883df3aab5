"""A tiny classifier with three BN layers, as a graph and in NumPy.

Conv, BN, ReLU, conv, BN, ReLU, pool, dense, BN, ReLU, dense, softmax. Its BN
moments are those of images in [-1, 1], as if it had been trained on them.
"""

from __future__ import annotations

import functools

import keras
import numpy as np
import tensorflow as tf
import tiny_graphs

from dsg_tf.analysis import bn_statistics, classifier_head, input_domain
from dsg_tf.synthesis import natural_images, synthesizer

EPSILON = 1e-3
CLASSES = 5
_SHAPES = {"k1": (3, 3, 3, 4), "b1": (4,), "k2": (3, 3, 4, 4), "k3": (4, 6)}


def _weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    shapes = {**_SHAPES, "k4": (6, CLASSES)}
    return {
        name: rng.normal(0, 0.4, shape).astype(np.float32)
        for name, shape in shapes.items()
    }


WEIGHTS = _weights()


def domain() -> input_domain.InputDomain:
    """[-1, 1], with a mean that differs between the channels."""
    return input_domain.InputDomain(
        minimum=np.float32(-1),
        maximum=np.float32(1),
        mean=np.float32([-0.1, 0.0, 0.1]),
        deviation=np.float32([0.5, 0.5, 0.4]),
        channel_correlation=0.6,
        source="test",
    )


@functools.cache
def bn_moments() -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """(mean, variance) of each BN layer, over natural noise, float32."""
    rng = np.random.default_rng(11)
    natural = natural_images.NaturalImages.of((8, 8, 3), brightness_share=0.0)
    noise = natural_images.white(rng, (64, 8, 8, 3))
    with tf.init_scope():  # Also where a function is being traced.
        images = natural(natural.coefficients(noise)).numpy()
    images = images.astype(np.float64)
    images = np.clip(images * domain().deviation + domain().mean, -1, 1)
    moments = []
    while len(moments) < 3:
        features, _ = forward(images, moments)
        over = tuple(range(features[-1].ndim - 1))
        moments.append((features[-1].mean(over), features[-1].var(over)))
        moments[-1] = tuple(m.astype(np.float32) for m in moments[-1])
    return tuple(moments)


def forward(images, moments=None):
    """float64 BN inputs, as far as `moments` reach, and the logits."""
    moments = bn_moments() if moments is None else moments
    w = {k: v.astype(np.float64) for k, v in WEIGHTS.items()}

    def normalised(k):
        mean, variance = (m.astype(np.float64) for m in moments[k])
        x = (features[k] - mean) / np.sqrt(variance + EPSILON)
        return np.maximum(x, 0)

    features = [tiny_graphs.conv_same(images, w["k1"]) + w["b1"]]
    if len(moments) > 0:
        features.append(tiny_graphs.conv_same(normalised(0), w["k2"]))
    if len(moments) > 1:
        features.append(normalised(1).mean((1, 2)) @ w["k3"])
    logits = normalised(2) @ w["k4"] if len(moments) > 2 else None
    return features, logits


def _network(x, *, dense_bn=True):
    moments = bn_moments()

    def normalised(y, k):
        return tf.nn.relu(tiny_graphs.batch_norm(y, *moments[k]))

    x = tf.nn.conv2d(x, WEIGHTS["k1"], 1, "SAME")
    x = normalised(tf.nn.bias_add(x, WEIGHTS["b1"]), 0)
    x = normalised(tf.nn.conv2d(x, WEIGHTS["k2"], 1, "SAME"), 1)
    x = tf.reduce_mean(x, [1, 2]) @ WEIGHTS["k3"]
    return normalised(x, 2) if dense_bn else x


def classifier(x):
    return tf.nn.softmax(_network(x) @ WEIGHTS["k4"])


def embedding(x):
    """No classifier head; the third BN layer is missing."""
    return tf.math.l2_normalize(_network(x, dense_bn=False), -1)


def classifier_and_features(x):
    """Two outputs; only the first is a classifier head."""
    features = _network(x)
    return tf.nn.softmax(features @ WEIGHTS["k4"]), tf.square(features)


@functools.cache
def parts(function=classifier, dtype=tf.float32, before=None):
    """Graph, BN layers and head."""
    graph = tiny_graphs.freeze(
        lambda x: function(before(x) if before else x),
        (None, 8, 8, 3),
        dtype=dtype,
    )
    return graph, bn_statistics.find(graph), classifier_head.find(graph)


def synthesizer_of(config, function=classifier, *, index=0):
    """A compiled synthesizer of a classifier, ready for a batch."""
    graph, layers, head = parts(function)
    model = synthesizer.Synthesizer(
        graph, layers, domains={"x": domain()}, head=head, config=config
    )
    model.compile(optimizer=keras.optimizers.Adam(config.learning_rate))
    model.reset(index)
    return model
