"""Rounding of one layer's weights, learned from what the layer sees.

The arithmetic of AdaRound: a kernel as a matrix, its inputs as rows, and for
each weight the decision to round down or up, by minimising

    |f(W x) - f(W~ x^)|^2 + lambda sum(1 - |2 h(V) - 1|^beta),
    W~ = scale * clip(floor(W / scale) + h(V), qmin, qmax),

over V, with the rectified sigmoid h(V) = clip(1.2 sigmoid(V) - 0.1, 0, 1) and
f a clip to [low, high]. Beta falls from 20 to 2, so that h(V) is drawn to 0 or
1; in the end the decision is h(V) >= 1/2, exactly on the grid.

Both terms are relative: the error to that of rounding to nearest, the other
to the number of weights, so that one lambda fits layers of all sizes.

References:
  Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization",
  ICML 2020, sections 3.3 to 3.5.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import tensorflow as tf

from dsg_tf import layer_rows, qtypes
from dsg_tf.graph import frozen

# The stretch of the rectified sigmoid (section 3.4): zeta and gamma.
_ZETA, _GAMMA = 1.1, -0.1
# Steps between two looks at how many roundings are still open.
_CHUNK = 50
# Rounding has settled when fewer than this share of h(V) lie between _OPEN and
# 1 - _OPEN.
_SETTLED = 0.001
_OPEN = 0.02


@dataclasses.dataclass(frozen=True)
class Config:
    """How rounding is learned.

    Attributes:
      steps: of the optimiser, at most. The paper has 10,000 of 32 images.
      batch_rows: rows of one step.
      learning_rate: Adam's, on V.
      regularization: lambda, relative to the error of rounding to nearest;
        the paper's 0.01 a weight comes to about this.
      beta: exponent at the start and at the end (section 3.4).
      warm_start: share of the steps without the second term (its code).
    """

    steps: int = 1000
    batch_rows: int = 512
    learning_rate: float = 0.05
    regularization: float = 30.0
    beta: tuple[float, float] = (20.0, 2.0)
    warm_start: float = 0.2


@dataclasses.dataclass(frozen=True, eq=False)
class Learned:
    """A kernel's codes and what they are worth.

    Attributes:
      codes: whole numbers, float64 (G, K, O / G), within the grid.
      bias: float64 (G, 1, O / G), that centres the error of each channel.
      nearest_error: mean over rows of the squared error, summed over
        channels, behind the clip, of rounding to nearest.
      error: the same of `codes`; never larger.
      steps: that the optimiser took.
    """

    codes: np.ndarray
    bias: np.ndarray
    nearest_error: float
    error: float
    steps: int


def learn(
    kernel: np.ndarray,
    scale: np.ndarray,
    rows: layer_rows.Rows,
    *,
    grid: qtypes.QuantParams,
    bounds: tuple[np.ndarray, np.ndarray],
    config: Config,
    seed: int,
) -> Learned:
    """Learns the rounding of one layer.

    Args:
      kernel: float64 (G, K, O / G).
      scale: float64 (G, 1, O / G), the step of each output channel.
      rows: what the layer sees behind the layers that are rounded, and what it
        gives in the float network.
      grid: the ends of the codes.
      bounds: (low, high) of the activation behind, (G, 1, O / G) each.
      config: how.
      seed: of the rows of each step.

    Returns:
      The codes. Each output channel is judged on all rows: where rounding to
      nearest has the smaller error, it stays.
    """
    judge = functools.partial(_judge, rows=rows, scale=scale, bounds=bounds)
    position = kernel / scale
    nearest = np.clip(np.rint(position), grid.qmin, grid.qmax)
    near_error, near_bias = judge(nearest)
    total = float(near_error.sum())
    # What the layers before have shifted is not for rounding to mend.
    _, bias = judge(position)
    learned, steps = nearest, 0
    if config.steps and total > 0:
        learned, steps = _optimised(
            position, rows, scale, bias, total, grid, bounds, config, seed
        )
    error, learned_bias = judge(learned)
    better = error < near_error
    return Learned(
        np.where(better, learned, nearest),
        np.where(better, learned_bias, near_bias),
        total,
        float(np.where(better, error, near_error).sum()),
        steps,
    )


def _judge(codes, *, rows, scale, bounds):
    """Mean squared error by channel, and the bias that centres it."""
    weights = (codes * scale).astype(np.float32)
    product = np.matmul(rows.inputs, weights).astype(np.float64)
    bias = (rows.outputs - product).mean(axis=1, keepdims=True)
    difference = np.clip(product + bias, *bounds) - np.clip(
        rows.outputs, *bounds
    )
    return (difference**2).mean(axis=1, keepdims=True), bias


def _optimised(
    position, rows, scale, bias, unit, grid, bounds, config, seed
) -> tuple[np.ndarray, int]:
    """Codes by gradient descent on V, and the steps that it took."""
    floor = np.floor(position)
    fraction = np.clip(position - floor, 0.01, 0.99)
    start = -np.log((_ZETA - _GAMMA) / (fraction - _GAMMA) - 1)
    low, high = bounds
    fixed = [
        tf.constant(values, tf.float32)
        for values in (
            rows.inputs,
            np.clip(rows.outputs, low, high),
            floor,
            scale,
            bias,
            low,
            high,
            unit,
            (grid.qmin, grid.qmax),
        )
    ]
    state = [tf.constant(start, tf.float32)]
    state += [tf.zeros_like(state[0])] * 2
    run = _chunk(fixed[0].shape[0], config)
    step = 0
    # The same seed shall give the same codes.
    with frozen.in_fixed_order():
        while step < config.steps:
            count = min(_CHUNK, config.steps - step)
            *state, still_open = run(
                *state, *fixed, tf.constant([step, count, seed])
            )
            step += count
            if step > config.warm_start * config.steps and (
                float(still_open) < _SETTLED
            ):
                break
    up = state[0].numpy() >= 0.0
    return np.clip(floor + up, grid.qmin, grid.qmax), step


@functools.lru_cache(maxsize=8)
def _chunk(groups: int, config: Config):
    """Some steps of Adam, traced once for all layers of a shape."""
    del groups  # Layers of one group and of many have different kernels.

    # Numbers that differ by layer are arguments, so that shapes alone decide
    # whether it is traced again.
    @tf.function(reduce_retracing=False, autograph=False)
    def run(
        v,
        m,
        s,
        inputs,
        wanted,
        floor,
        scale,
        bias,
        low,
        high,
        unit,
        ends,
        at,
    ):
        start, count, seed = at[0], at[1], at[2]
        total = tf.shape(inputs)[1]
        size = tf.minimum(total, config.batch_rows)

        def body(step, v, m, s):
            picked = tf.random.stateless_uniform(
                [size], tf.stack([seed, step]), 0, total, tf.int32
            )
            x, y = (tf.gather(t, picked, axis=1) for t in (inputs, wanted))
            with tf.GradientTape() as tape:
                tape.watch(v)
                h = _rectified_sigmoid(v)
                weights = scale * tf.clip_by_value(floor + h, ends[0], ends[1])
                output = tf.clip_by_value(x @ weights + bias, low, high)
                error = tf.reduce_sum(
                    tf.reduce_mean(tf.square(output - y), axis=1)
                )
                loss = error / unit + _draw(h, step, config)
            return (
                step + 1,
                *_adam(
                    v, m, s, tape.gradient(loss, v), step, config.learning_rate
                ),
            )

        _, v, m, s = tf.while_loop(
            lambda step, *_: step < start + count,
            body,
            (start, v, m, s),
            parallel_iterations=1,
        )
        h = _rectified_sigmoid(v)
        between = tf.abs(h - 0.5) < 0.5 - _OPEN
        return v, m, s, tf.reduce_mean(tf.cast(between, tf.float32))

    return run


def _rectified_sigmoid(v: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value((_ZETA - _GAMMA) * tf.sigmoid(v) + _GAMMA, 0.0, 1.0)


def _draw(h: tf.Tensor, step: tf.Tensor, config: Config) -> tf.Tensor:
    """The term that draws every h to 0 or 1, stronger as beta falls."""
    first, last = config.beta
    warm = config.warm_start * config.steps
    progress = (tf.cast(step, tf.float32) - warm) / max(config.steps - warm, 1)
    cosine = tf.cos(np.pi * tf.clip_by_value(progress, 0.0, 1.0))
    beta = last + (first - last) * 0.5 * (1.0 + cosine)
    weight = tf.where(progress >= 0.0, config.regularization, 0.0)
    gap = tf.abs(2.0 * h - 1.0)
    # The small number keeps the gradient of the power finite at 1/2.
    return weight * tf.reduce_mean(1.0 - tf.pow(gap + 1e-8, beta))


def _adam(v, m, s, gradient, step, learning_rate):
    m = 0.9 * m + 0.1 * gradient
    s = 0.999 * s + 0.001 * tf.square(gradient)
    count = tf.cast(step + 1, tf.float32)
    mean = m / (1.0 - tf.pow(0.9, count))
    square = s / (1.0 - tf.pow(0.999, count))
    return v - learning_rate * mean / (tf.sqrt(square) + 1e-12), m, s
