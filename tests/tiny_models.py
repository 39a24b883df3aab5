"""Keras models of a few hundred weights, one for each way models differ.

All take 8x8 images or vectors; their BN moments are drawn, not trained.
"""

from __future__ import annotations

import keras
import numpy as np


def _with_moments(model: keras.Model, seed: int = 0) -> keras.Model:
    """Gives every BN layer moments and parameters of a trained one."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if not isinstance(layer, keras.layers.BatchNormalization):
            continue
        size = layer.moving_mean.shape
        layer.gamma.assign(rng.uniform(0.8, 1.5, size))
        layer.beta.assign(rng.normal(0.2, 0.3, size))
        layer.moving_mean.assign(rng.normal(0, 0.3, size))
        layer.moving_variance.assign(rng.uniform(0.3, 1.5, size))
    return model


def _block(x, filters: int, *, batch_norm: bool = True):
    conv = keras.layers.Conv1D if len(x.shape) == 3 else keras.layers.Conv2D
    x = conv(filters, 3, padding="same", use_bias=not batch_norm)(x)
    if batch_norm:
        x = keras.layers.BatchNormalization()(x)
    return keras.layers.ReLU()(x)


def _pooled(x):
    if len(x.shape) == 3:
        return keras.layers.GlobalAveragePooling1D()(x)
    return keras.layers.GlobalAveragePooling2D()(x)


def classifier(
    *, shape=(8, 8, 3), batch_size: int | None = None, batch_norm: bool = True
) -> keras.Model:
    """Convolutions with BN and four classes; (L, C) shapes make it Conv1D."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input(shape, batch_size=batch_size, name="image")
    x = _block(inputs, 6, batch_norm=batch_norm)
    x = _block(x, 8, batch_norm=batch_norm)
    outputs = keras.layers.Dense(4, name="scores")(_pooled(x))
    return _with_moments(keras.Model(inputs, outputs))


def uint8_classifier() -> keras.Model:
    """Takes uint8 images and rescales them inside."""
    keras.utils.set_random_seed(2)
    inputs = keras.Input((8, 8, 3), dtype="uint8", name="image")
    x = keras.ops.cast(inputs, "float32")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0)(x)
    outputs = keras.layers.Dense(4)(_pooled(_block(x, 6)))
    return _with_moments(keras.Model(inputs, outputs))


def vector_classifier() -> keras.Model:
    """Dense layers with BN: no spatial axes."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((12,), name="features")
    x = keras.layers.Dense(10, use_bias=False)(inputs)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    outputs = keras.layers.Dense(3, activation="softmax")(x)
    return _with_moments(keras.Model(inputs, outputs))


def two_inputs() -> keras.Model:
    """An image and a vector; by name the vector comes last, in order first."""
    keras.utils.set_random_seed(4)
    state = keras.Input((5,), name="state")
    image = keras.Input((8, 8, 3), name="image")
    x = _pooled(_block(image, 6))
    y = keras.layers.Dense(6, use_bias=False)(state)
    y = keras.layers.ReLU()(keras.layers.BatchNormalization()(y))
    joined = keras.layers.Concatenate()([x, y])
    outputs = keras.layers.Dense(4)(joined)
    return _with_moments(keras.Model([state, image], outputs))


def regressor() -> keras.Model:
    """An image in, an image out: no classifier head."""
    keras.utils.set_random_seed(5)
    inputs = keras.Input((8, 8, 3), name="image")
    outputs = keras.layers.Conv2D(1, 3, padding="same")(_block(inputs, 6))
    return _with_moments(keras.Model(inputs, outputs))
