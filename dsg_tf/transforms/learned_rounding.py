"""AdaRound's arithmetic: learns the rounding of one layer's weights.

The kernel is a matrix and its inputs are rows. For each weight the decision to
round down or up is learned by minimising

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
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from dsg_tf.analysis import layer_rows
from dsg_tf.graph import frozen
from dsg_tf.quant import qtypes

# The stretch of the rectified sigmoid (section 3.4): zeta and gamma.
_ZETA, _GAMMA = 1.1, -0.1
# Steps between two checks of how many roundings are undecided.
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
    """The codes of a kernel, with their error.

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
    # Rounding must not compensate a shift that earlier layers caused.
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
    size = min(config.batch_rows, rows.inputs.shape[1])
    rng = np.random.default_rng(seed)
    inputs, wanted = _shuffled(
        (rows.inputs, np.clip(rows.outputs, low, high)), size, rng
    )
    fixed = [
        tf.constant(values, tf.float32)
        for values in (
            inputs,
            wanted,
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
    run = _chunk(size, config)
    # The last chunk may have fewer steps; its places have the same shape.
    places = rng.integers(0, rows.inputs.shape[1], config.steps + _CHUNK)
    step = 0
    # The same seed shall give the same codes.
    with frozen.in_fixed_order():
        while step < config.steps:
            count = min(_CHUNK, config.steps - step)
            *state, still_open = run(
                *state,
                *fixed,
                tf.constant(places[step : step + _CHUNK], tf.int32),
                tf.constant([step, count]),
            )
            step += count
            if step > config.warm_start * config.steps and (
                float(still_open) < _SETTLED
            ):
                break
    up = state[0].numpy() >= 0.0
    return np.clip(floor + up, grid.qmin, grid.qmax), step


def _shuffled(
    arrays: Sequence[np.ndarray], size: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Rows in random order, (G, R + size - 1, ...), the first again at the end.

    Each step takes consecutive rows from a random start: one contiguous copy
    instead of one copy for each row and group.
    """
    count = arrays[0].shape[1]
    order = rng.permutation(count)
    order = np.concatenate([order, order[: size - 1]])
    return [array[:, order] for array in arrays]


@functools.lru_cache(maxsize=8)
def _chunk(size: int, config: Config):
    """Some steps of Adam, traced once for all layers of a shape."""

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
        places,
        at,
    ):
        start, count = at[0], at[1]

        def body(index, v, m, s):
            step = tf.cast(start + index, tf.float32)
            x, y = (
                tf.slice(t, [0, places[index], 0], [-1, size, -1])
                for t in (inputs, wanted)
            )
            h, slope = _rectified_sigmoid(v)
            codes = floor + h
            gradient = slope * (
                _error_gradient(
                    codes, x, y, scale, bias, (low, high), unit, ends
                )
                - _draw_gradient(h, step, config)
            )
            return (
                index + 1,
                *_adam(v, m, s, gradient, step, config.learning_rate),
            )

        _, v, m, s = tf.while_loop(
            lambda index, *_: index < count,
            body,
            (0, v, m, s),
            parallel_iterations=1,
        )
        between = tf.abs(_rectified_sigmoid(v)[0] - 0.5) < 0.5 - _OPEN
        return v, m, s, tf.reduce_mean(tf.cast(between, tf.float32))

    return run


def _error_gradient(codes, x, y, scale, bias, bounds, unit, ends) -> tf.Tensor:
    """Gradient of the relative error by h; twice as fast as autodiff."""
    weights = scale * tf.clip_by_value(codes, ends[0], ends[1])
    output = x @ weights + bias
    # The gradient of a clipped output is zero.
    moves = tf.logical_and(output > bounds[0], output < bounds[1])
    difference = tf.where(moves, output - y, tf.zeros_like(y))
    rows = tf.cast(tf.shape(x)[1], tf.float32)
    by_weight = tf.matmul(x, difference, transpose_a=True) * (
        2.0 / (rows * unit)
    )
    inside = tf.logical_and(codes >= ends[0], codes <= ends[1])
    return tf.where(inside, by_weight * scale, tf.zeros_like(codes))


def _rectified_sigmoid(v: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """h(V), and its derivative."""
    sigmoid = tf.sigmoid(v)
    whole = (_ZETA - _GAMMA) * sigmoid + _GAMMA
    inside = tf.logical_and(whole > 0.0, whole < 1.0)
    slope = (_ZETA - _GAMMA) * sigmoid * (1.0 - sigmoid)
    return (
        tf.clip_by_value(whole, 0.0, 1.0),
        tf.where(inside, slope, tf.zeros_like(v)),
    )


def _draw_gradient(h: tf.Tensor, step: tf.Tensor, config: Config) -> tf.Tensor:
    """Gradient of lambda * mean(|2 h - 1|^beta) by h (regularizer).

    The caller subtracts it, because the loss has 1 - |2 h - 1|^beta.
    """
    first, last = config.beta
    warm = config.warm_start * config.steps
    progress = (step - warm) / max(config.steps - warm, 1)
    cosine = tf.cos(np.pi * tf.clip_by_value(progress, 0.0, 1.0))
    beta = last + (first - last) * 0.5 * (1.0 + cosine)
    weight = tf.where(progress >= 0.0, config.regularization, 0.0)
    gap = 2.0 * h - 1.0
    # The small number keeps the logarithm finite at 1/2.
    power = tf.exp((beta - 1.0) * tf.math.log(tf.abs(gap) + 1e-8))
    scale = 2.0 * weight * beta / tf.cast(tf.size(h), tf.float32)
    return scale * power * tf.sign(gap)


def _adam(v, m, s, gradient, step, learning_rate):
    m = 0.9 * m + 0.1 * gradient
    s = 0.999 * s + 0.001 * tf.square(gradient)
    count = step + 1.0
    mean = m / (1.0 - tf.pow(0.9, count))
    square = s / (1.0 - tf.pow(0.999, count))
    return v - learning_rate * mean / (tf.sqrt(square) + 1e-12), m, s
