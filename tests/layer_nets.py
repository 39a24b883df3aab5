"""Single layers of every layout, what they mean, and how to run them."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from dsg_tf.analysis import linear_layers
from dsg_tf.graph import frozen
from tests import tiny_graphs

_EPS = np.finfo(np.float32).eps


def random(*shape, seed=0):
    """Standard normal numbers, float32."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _conv(x, kernel, groups=1):
    """A convolution, VALID, stride 1, weight by weight."""
    height, width, per_group, outputs = kernel.shape
    rows, columns = x.shape[1] - height + 1, x.shape[2] - width + 1
    y = np.zeros((len(x), rows, columns, outputs))
    for i, j, c, o in np.ndindex(*kernel.shape):
        group = o // (outputs // groups)
        part = x[:, i : i + rows, j : j + columns, group * per_group + c]
        y[..., o] += part * kernel[i, j, c, o]
    return y


def _depthwise(x, kernel):
    """A depthwise convolution, VALID, stride 1, weight by weight."""
    height, width, _, multiplier = kernel.shape
    rows, columns = x.shape[1] - height + 1, x.shape[2] - width + 1
    y = np.zeros((len(x), rows, columns, x.shape[3] * multiplier))
    for i, j, c, m in np.ndindex(*kernel.shape):
        part = x[:, i : i + rows, j : j + columns, c]
        y[..., c * multiplier + m] += part * kernel[i, j, c, m]
    return y


def _transposed(x, kernel):
    """A transposed convolution, VALID, stride 1, weight by weight."""
    height, width, outputs, _ = kernel.shape
    rows, columns = x.shape[1:3]
    y = np.zeros((len(x), rows + height - 1, columns + width - 1, outputs))
    for i, j, o, c in np.ndindex(*kernel.shape):
        y[:, i : i + rows, j : j + columns, o] += x[..., c] * kernel[i, j, o, c]
    return y


def _transposed_op(x, kernel):
    size = (2, x.shape[1] + 2, x.shape[2] + 2, kernel.shape[2])
    return tf.nn.conv2d_transpose(x, kernel, size, 1, "VALID")


# By layout: what TensorFlow does, what it means, shapes of input and kernel.
LAYOUTS = {
    "conv": (
        lambda x, w: tf.nn.conv2d(x, w, 1, "VALID"),
        _conv,
        (2, 5, 5, 4),
        (3, 2, 4, 6),
    ),
    "grouped": (
        lambda x, w: tf.nn.conv2d(x, w, 1, "VALID"),
        lambda x, w: _conv(x, w, groups=2),
        (2, 5, 5, 4),
        (3, 3, 2, 6),
    ),
    "depthwise": (
        lambda x, w: tf.nn.depthwise_conv2d(x, w, (1, 1, 1, 1), "VALID"),
        _depthwise,
        (2, 5, 5, 3),
        (3, 2, 3, 2),
    ),
    "matmul": (
        tf.matmul,
        lambda x, w: x @ w,
        (2, 5),
        (5, 3),
    ),
    "matmul transposed": (
        lambda x, w: tf.matmul(x, w, transpose_b=True),
        lambda x, w: x @ w.T,
        (2, 5),
        (3, 5),
    ),
    "transposed": (
        _transposed_op,
        _transposed,
        (2, 5, 5, 4),
        (3, 3, 6, 4),
    ),
}


def single(name: str):
    """The only layer of a graph, the graph, its meaning, and an input."""
    op, meaning, shape, kernel_shape = LAYOUTS[name]
    kernel = random(*kernel_shape)
    graph = tiny_graphs.freeze(lambda x: op(x, kernel), shape)
    (layer,) = linear_layers.find(graph)
    return layer, graph, meaning, random(*shape, seed=1).astype(np.float64)


def only(function, *shape):
    """The only layer of a function of x, and the graph; an open batch."""
    graph = tiny_graphs.freeze(function, (None, *shape))
    (layer,) = linear_layers.find(graph)
    return layer, graph


def run(graph, *inputs):
    """A graph's outputs, finite."""
    outputs = [
        y.numpy() for y in frozen.to_function(graph)(*map(tf.constant, inputs))
    ]
    assert all(np.isfinite(y).all() for y in outputs)
    return outputs


def assert_rounded(actual, expected, size, terms):
    """Equal but for a rounding of each of `terms` products and sums."""
    assert np.isfinite(actual).all()
    assert (np.abs(actual - expected) <= 2 * terms * _EPS * size).all()


def plain(x, channels=6, **kwargs):
    """A convolution of four channels, without a bias."""
    kernel = random(3, 3, 4, channels)
    return tf.nn.conv2d(x, kernel, 1, "SAME", **kwargs)


BIAS = random(6, seed=9)
