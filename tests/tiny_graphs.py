"""Tiny frozen graphs, and the float64 arithmetic to check them against."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from dsg_tf.graph import frozen, ir


def freeze(
    function: Callable,
    *shapes: Sequence[int | None],
    dtype: tf.DType = tf.float32,
    names: Sequence[str] | None = None,
) -> ir.Graph:
    """A function of inputs of these shapes (batch first) as a graph."""
    names = names or ["x", "y", "z"][: len(shapes)]
    specs = [
        tf.TensorSpec(s, dtype, name=n)
        for s, n in zip(shapes, names, strict=True)
    ]
    concrete = tf.function(function).get_concrete_function(*specs)
    return frozen.freeze(concrete, input_names=names)


def batch_norm(
    x: tf.Tensor,
    mean: np.ndarray,
    variance: np.ndarray,
    *,
    epsilon: float = 1e-3,
) -> tf.Tensor:
    """BN in inference mode, gamma 1 and beta 0, decomposed."""
    return tf.nn.batch_normalization(
        x,
        np.asarray(mean, np.float32),
        # Not an array: epsilon would be added to it before there is a graph.
        tf.constant(variance, tf.float32),
        np.zeros(len(mean), np.float32),
        np.ones(len(mean), np.float32),
        epsilon,
    )


def conv_same(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """A convolution of odd size, stride 1, padding SAME, in float64."""
    size = kernel.shape[0]
    pad = size // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(
        padded, (size, size), axis=(1, 2)
    )
    return np.einsum("nhwcij,ijco->nhwo", windows, kernel)


def covariance(spatial, deviation, *, rho, correlation):
    """Covariance of a patch, (P C, P C): what fit_deviation assumes.

    Written out entry by entry: the library never forms this matrix.
    """
    places = [
        (position, channel)
        for position in np.ndindex(*spatial)
        for channel in range(len(deviation))
    ]
    result = np.empty((len(places), len(places)))
    for i, (p, c) in enumerate(places):
        for j, (q, d) in enumerate(places):
            distance = sum(abs(a - b) for a, b in zip(p, q, strict=True))
            near = 1.0 if distance == 0 else rho**distance
            result[i, j] = deviation[c] * deviation[d] * near
            result[i, j] *= 1.0 if c == d else correlation
    return result


def moments(kernel, mean, deviation, *, rho=0.9, correlation=0.8):
    """BN moments (mu, var) of a layer whose input has these moments."""
    *spatial, channels, outputs = kernel.shape
    deviation = np.broadcast_to(np.asarray(deviation, float), channels)
    flat = kernel.reshape(-1, outputs).astype(np.float64)
    sigma = covariance(spatial, deviation, rho=rho, correlation=correlation)
    tiled = np.tile(np.broadcast_to(mean, channels), len(flat) // channels)
    return flat.T @ tiled, np.einsum("io,ij,jo->o", flat, sigma, flat)
