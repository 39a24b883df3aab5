"""Terms of the synthesis loss, as pure functions of tensors.

Notation of the papers: BN layer l of N has moving mean mu, deviation sigma and
C channels; its input for sample i has moments m (mean) and s (deviation) over
its positions.

References:
  ZeroQ: Cai et al., CVPR 2020. DSG: Zhang, Qin et al., CVPR 2021.
  Image prior: Yin et al. (DeepInversion), CVPR 2020.
  Labels: Haroush et al., CVPR 2020.
"""

from __future__ import annotations

import tensorflow as tf

# A variance below this counts as zero.
_SMALLEST_VARIANCE = 1e-12


def sample_moments(
    features: tf.Tensor, channel_axis: int, *, epsilon: float = 0.0
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and deviation of every sample and channel over its positions.

    Args:
      features: float (B, ..., C) or (B, C, ...), one layer's BN input.
      channel_axis: the axis of the channels, >= 1.
      epsilon: added to the variance, as the BN layer does, so that s can be
        compared with sigma.

    Returns:
      m and s, float (B, C). Without positions (rank 2) s is sqrt(epsilon).
    """
    axes = _position_axes(features, channel_axis)
    if not axes:
        return features, tf.fill(tf.shape(features), epsilon**0.5)
    mean, variance = tf.nn.moments(features, axes)
    return mean, deviation(variance + epsilon)


def has_positions(features: tf.Tensor, channel_axis: int) -> bool:
    """Whether a single sample has a deviation, i.e. several positions.

    Features of dense layers, and pooled ones (B, 1, 1, C), have none; only
    the batch shows how they vary.
    """
    axes = _position_axes(features, channel_axis)
    return any(features.shape[a] != 1 for a in axes)


def batch_moments(
    mean: tf.Tensor, deviations: tf.Tensor, *, epsilon: tf.Tensor | float = 0.0
) -> tuple[tf.Tensor, tf.Tensor]:
    """Moments over the whole batch, from those of its samples.

    The variance of a mixture is the mean of the variances plus the variance
    of the means. BN's moving variance is of this kind: it holds what differs
    *between* images too, which no single sample can show.

    Args:
      mean, deviations: float (B, C), from `sample_moments`.
      epsilon: what the deviations already contain, float (C,) or one number.

    Returns:
      M and S, float (C,).
    """
    within = tf.reduce_mean(tf.square(deviations) - epsilon, axis=0)
    between = tf.math.reduce_variance(mean, axis=0)
    return tf.reduce_mean(mean, 0), deviation(within + between + epsilon)


def slack_squares(
    actual: tf.Tensor,
    target: tf.Tensor,
    *,
    margin: tf.Tensor | float = 0.0,
    scale: tf.Tensor | float = 1.0,
) -> tf.Tensor:
    """Squared distance beyond a margin, of each channel.

    `max(|a - t| / scale - margin, 0)^2`: the relaxed BNS term of DSG (section
    3.2). With margin 0 and scale 1 it is ZeroQ's term.

    Args:
      actual: float (..., C).
      target: float (C,).
      margin: the slack, in units of `scale`; float (C,), or one number.
      scale: float (C,), or 1; the unit of each channel.

    Returns:
      float (..., C).
    """
    excess = tf.nn.relu(tf.abs(actual - target) / scale - margin)
    return tf.square(excess)


def enhancement_weights(
    num_samples: int, num_layers: int, *, first: int = 0
) -> tf.Tensor:
    """Layerwise sample enhancement: each sample stresses one layer.

    Row i of `I + 1 1^T` (DSG section 3.3), for sample `first + i` and layer
    `(first + i) mod N`: weight 2 on its own layer, 1 on all others.

    Returns:
      float32 (num_samples, num_layers).

    Examples:
      >>> enhancement_weights(2, 3).numpy().tolist()
      [[2.0, 1.0, 1.0], [1.0, 2.0, 1.0]]
    """
    own = (tf.range(num_samples) + first) % num_layers
    return 1.0 + tf.one_hot(own, num_layers)


def label_loss(
    logits: tf.Tensor,
    labels: tf.Tensor,
    *,
    temperature: tf.Tensor | float = 1.0,
    multi_label: bool = False,
) -> tf.Tensor:
    """Cross-entropy to the drawn class, mean over samples, in nats.

    The gradient of cross-entropy vanishes once the class is certain. The logits
    are divided by a temperature T first, so that the gradient vanishes only at
    a T times larger margin, which a few of many real images have.

    Args:
      logits: float (B, K).
      labels: int64 (B,).
      temperature: a scalar, or float (B, 1).
      multi_label: whether the head is a sigmoid per class, not a softmax. A
        single sigmoid is a binary head: its labels are 0 and 1.
    """
    logits = logits / temperature
    if not multi_label:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        return tf.reduce_mean(losses)
    if logits.shape[-1] == 1:
        wanted = tf.cast(labels[:, None], logits.dtype)
    else:
        wanted = tf.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    losses = tf.nn.sigmoid_cross_entropy_with_logits(wanted, logits)
    return tf.reduce_mean(tf.reduce_sum(losses, -1))


def spread_loss(outputs: tf.Tensor) -> tf.Tensor:
    """Minus the log spread of each output channel over batch and positions.

    Cover for tensors behind the last BN where no class can be asked for
    (regression, detection, segmentation): BN statistics say nothing about
    them, and unasked they stay too small. The logarithm makes the pull
    independent of the output's unit and weaker the wider it gets.

    Args:
      outputs: float (B, ..., K).

    Returns:
      A scalar, in nats.
    """
    axes = list(range(outputs.shape.rank - 1))
    variance = tf.math.reduce_variance(outputs, axes)
    return -0.5 * tf.reduce_mean(tf.math.log(variance + 1e-8))


def total_variation(images: tf.Tensor) -> tf.Tensor:
    """Mean squared difference of neighbouring pixels (image prior).

    Args:
      images: float (B, H, W, C), in deviations.
    """
    down = images[:, 1:] - images[:, :-1]
    right = images[:, :, 1:] - images[:, :, :-1]
    return tf.reduce_mean(tf.square(down)) + tf.reduce_mean(tf.square(right))


def deviation(variance: tf.Tensor) -> tf.Tensor:
    """The root of a variance, with gradient 0 where nothing varies.

    The root's own gradient is infinite there: a channel behind a ReLU that is
    dead for a whole sample would make every pixel NaN where epsilon is 0.
    """
    return tf.sqrt(tf.maximum(variance, _SMALLEST_VARIANCE))


def _position_axes(features: tf.Tensor, channel_axis: int) -> list[int]:
    return [a for a in range(1, features.shape.rank) if a != channel_axis]
