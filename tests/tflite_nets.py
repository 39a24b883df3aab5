"""Tiny seeded networks, one or a few operations each, as float .tflite.

`NETS` maps a name to a function of x, float32 (1, 8, 8, 4). They are drawn
from what converters and exporters get wrong: shared constants, operations that
tie scales, outputs that are inputs, layers that never fire.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import convert_to_constants

from dsg_tf.quant import qtypes
from dsg_tf.tflite import convert, weight_grids

SHAPE = (8, 8, 4)


def _weights(*shape: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng([seed, *shape])
    return rng.normal(0, 0.3, shape).astype(np.float32)


_K = _weights(3, 3, 4, 8)
_K8 = _weights(1, 1, 8, 8)
_BIAS = _weights(8)
_C4 = _weights(4)


def _conv(x, kernel=_K, strides=1, padding="SAME", **options):
    return tf.nn.conv2d(x, kernel, strides, padding, **options)


def _squeeze_excite(x):
    y = _conv(x)
    gate = tf.reduce_mean(y, [1, 2], keepdims=True)
    gate = tf.nn.relu(_conv(gate, _weights(1, 1, 8, 2)))
    return y * tf.sigmoid(_conv(gate, _weights(1, 1, 2, 8)))


def _layer_norm(x):
    mean = tf.reduce_mean(x, -1, keepdims=True)
    variance = tf.reduce_mean(
        tf.math.squared_difference(x, mean), -1, keepdims=True
    )
    return (x - mean) * tf.math.rsqrt(variance + 1e-3)


def _outputs_read(x):
    """Features, logits and probabilities are outputs, each made of the last."""
    features = tf.reduce_mean(tf.nn.relu(_conv(x)), [1, 2])
    logits = tf.matmul(features, _weights(8, 10)) + _weights(10)
    return features, logits, tf.nn.softmax(logits)


def _outputs_read_twice(x):
    """Readers that tie their scales to an output of the model, or do not."""
    y = tf.nn.relu(_conv(x, _weights(3, 3, 4, 4)))
    return y, tf.concat([y, 3 * x], -1), tf.reshape(y, [1, -1]), y + x


def _prelu(x):
    # The pattern that Keras's layer makes and the converter fuses.
    return tf.nn.relu(x) + -_C4.reshape(1, 1, 4) * tf.nn.relu(-x)


def _tiny_channel(x):
    """The last output channel has nearly no weights, but a bias."""
    kernel = _K.copy()
    kernel[..., -1] = 2e-9
    return _conv(x, kernel) + np.float32([0.1] * 7 + [0.219])


def _mixed(x):
    """A little of everything with weights, and of what ties scales."""
    y = tf.nn.relu(_conv(x) + _BIAS)
    z = tf.nn.depthwise_conv2d(y, _weights(3, 3, 8, 1), [1] * 4, "SAME")
    y = tf.nn.avg_pool2d(tf.concat([y + z, x], -1), 4, 4, "SAME")
    return tf.matmul(tf.reshape(y, [1, -1]), _weights(48, 10)) + _weights(10)


NETS = {
    "average_pool": lambda x: tf.nn.avg_pool2d(x, 3, 1, "VALID"),
    "batch_matmul": lambda x: tf.matmul(
        tf.reshape(x, [1, 64, 4]),
        tf.nn.relu(tf.reshape(x, [1, 64, 4])),
        transpose_b=True,
    ),
    "batch_matmul_constant": lambda x: tf.matmul(
        tf.reshape(x, [1, 32, 8]), _weights(1, 8, 8)
    ),
    "concat": lambda x: tf.concat([_conv(x), _conv(x, 3 * _K)], -1),
    "concat_constant": lambda x: tf.concat([x, _weights(1, 8, 8, 2)], -1),
    "concat_input": lambda x: tf.concat([_conv(x), 0.1 * _conv(x), x], -1),
    "concat_pools": lambda x: tf.concat(
        [
            tf.nn.max_pool2d(x, 2, 2, "SAME"),
            tf.nn.avg_pool2d(x, 2, 2, "SAME"),
            _conv(x, strides=2),
        ],
        -1,
    ),
    "conv": lambda x: tf.nn.relu(_conv(x, strides=2) + _BIAS),
    "conv1d": lambda x: tf.nn.conv1d(
        tf.reshape(x, [1, 64, 4]), _K[0], 1, "SAME"
    ),
    "conv_dilated": lambda x: _conv(x, padding="VALID", dilations=2) + _BIAS,
    "conv_grouped": lambda x: _conv(x, _weights(3, 3, 2, 8)),
    "convs_sharing_zero_bias": lambda x: _conv(tf.nn.relu(_conv(x)), 5 * _K8),
    "convs_sharing_weights": lambda x: _conv(
        tf.nn.relu(_conv(tf.nn.relu(_conv(x)), _K8)), _K8
    ),
    "dead_layer": lambda x: _conv(tf.nn.relu(_conv(x) - 1000.0), _K8) + 1.0,
    "dead_sum": lambda x: tf.nn.relu(x - 100.0) + tf.nn.relu(2 * x - 100.0),
    "vanishing_relu6": lambda x: (
        _conv(tf.nn.relu6(_conv(x * 1e-12)), _K8) + 1.0
    ),
    "dense": lambda x: tf.nn.softmax(
        tf.matmul(tf.reshape(_conv(x), [1, -1]), _weights(512, 10))
    ),
    "dense_3d": lambda x: tf.matmul(tf.reshape(x, [1, 64, 4]), _weights(4, 4)),
    "depthwise": lambda x: tf.nn.depthwise_conv2d(
        x, _weights(3, 3, 4, 2), [1] * 4, "SAME"
    ),
    "depthwise_dilated": lambda x: tf.nn.depthwise_conv2d(
        x, _weights(3, 3, 4, 1), [1] * 4, "SAME", dilations=[2, 2]
    ),
    "divide": lambda x: x / (1 + tf.nn.relu(x)),
    "gather": lambda x: tf.gather(x, [0, 2], axis=-1),
    "gelu": lambda x: tf.nn.gelu(x),
    "hard_swish": lambda x: _conv(x) * tf.nn.relu6(_conv(x) + 3) / 6,
    "input_is_output": lambda x: (x, tf.nn.relu(_conv(x))),
    "layer_norm": _layer_norm,
    "maximum": lambda x: tf.maximum(x, 0.1 * x),
    "mean_pad_resize": lambda x: tf.image.resize(
        tf.pad(
            tf.reduce_mean(tf.reshape(x, [1, 8, 8, 2, 2]), -1),
            [[0, 0], [1, 1], [1, 1], [0, 0]],
        ),
        (20, 20),
    ),
    "mixed": _mixed,
    "mirror_pad": lambda x: tf.pad(
        x, [[0, 0], [1, 1], [1, 1], [0, 0]], "REFLECT"
    ),
    "one_tensor_two_outputs": lambda x: (tf.tanh(x), tf.tanh(x)),
    "outputs_read": _outputs_read,
    "outputs_read_twice": _outputs_read_twice,
    "pad_with_value": lambda x: tf.pad(
        x, [[0, 0], [1, 1], [1, 1], [0, 0]], constant_values=0.7
    ),
    "preprocessing": lambda x: _conv((x - _C4) / 3.3),
    "residual": lambda x: tf.nn.relu(x + _conv(x, _weights(3, 3, 4, 4))),
    "resize_nearest": lambda x: tf.image.resize(x, (16, 16), "nearest"),
    "silu": lambda x: tf.nn.silu(_conv(x)),
    "space_to_depth": lambda x: tf.nn.space_to_depth(x, 2),
    "split": lambda x: tf.add(*map(tf.nn.relu, tf.split(x, 2, -1))),
    "split_unused": lambda x: 2 * tf.split(x, 2, -1)[1],
    "square_root": lambda x: tf.sqrt(tf.nn.relu(x) + 0.1),
    "squeeze_excite": _squeeze_excite,
    "stack": lambda x: tf.stack([x, 0.1 * tf.nn.relu(x)], 1),
    "strided_slice": lambda x: 2 * x[:, ::2, 1::2],
    "tiny_channel": _tiny_channel,
    "transpose": lambda x: tf.transpose(x, [0, 3, 1, 2]),
    "transpose_conv": lambda x: tf.nn.conv2d_transpose(
        x, _weights(3, 3, 6, 4), [1, 16, 16, 6], 2, "SAME"
    ),
    "transpose_conv_valid": lambda x: (
        tf.nn.conv2d_transpose(
            x, _weights(3, 3, 6, 4), [1, 17, 17, 6], 2, "VALID"
        )
        + _weights(6)
    ),
    "two_outputs": lambda x: (
        tf.nn.relu(x),
        tf.sigmoid(tf.reduce_mean(x, [1, 2])),
    ),
}

# Each has one operation that the quantizer alone would leave in float.
STAND_IN_NETS = {
    "ABS": tf.abs,
    "ARG_MAX": lambda x: tf.argmax(tf.reduce_mean(x, [1, 2]), -1),
    "ARG_MIN": lambda x: tf.argmin(tf.reduce_mean(x, [1, 2]), -1),
    "BATCH_TO_SPACE_ND": lambda x: tf.batch_to_space(
        tf.nn.relu(tf.space_to_batch(x, [2, 2], [[0, 0], [0, 0]])),
        [2, 2],
        [[0, 0], [0, 0]],
    ),
    "DEPTH_TO_SPACE": lambda x: tf.nn.depth_to_space(x, 2),
    "ELU": tf.nn.elu,
    "EXP": tf.exp,
    "GREATER": lambda x: tf.where(x > 0.3, 2 * x, x),
    "GREATER_EQUAL": lambda x: tf.where(x >= 0.3, 2 * x, x),
    "L2_NORMALIZATION": lambda x: tf.math.l2_normalize(x, -1),
    "LEAKY_RELU": lambda x: tf.nn.leaky_relu(_conv(x)),
    "LESS": lambda x: tf.where(x < 0.3, 2 * x, x),
    "LESS_EQUAL": lambda x: tf.where(x <= 0.3, 2 * x, x),
    "LOG": lambda x: tf.math.log(tf.nn.relu(x) + 1.0),
    "LOG_SOFTMAX": lambda x: tf.nn.log_softmax(tf.reduce_mean(x, [1, 2])),
    "MINIMUM": lambda x: tf.minimum(x, 0.5 * x),
    "PRELU": _prelu,
    "REDUCE_MAX": lambda x: tf.reduce_max(x, [1, 2]),
    "RELU6": lambda x: tf.nn.relu6(x),
    "RELU_N1_TO_1": lambda x: tf.clip_by_value(x, -1.0, 1.0),
    "REVERSE_V2": lambda x: tf.reverse(x, [-1]),
    "SPACE_TO_BATCH_ND": lambda x: tf.space_to_batch(
        x, [2, 2], [[0, 0], [0, 0]]
    ),
    "SPLIT_V": lambda x: tf.multiply(*tf.split(x, [1, 3], -1)),
    "TILE": lambda x: tf.tile(x, [1, 2, 1, 1]),
}


def frozen(function, *specs: tf.TensorSpec):
    """A function of tensors as a frozen concrete function."""
    if not specs:
        specs = (tf.TensorSpec((1, *SHAPE), tf.float32, name="x"),)
    traced = tf.function(function, autograph=False)
    return convert_to_constants.convert_variables_to_constants_v2(
        traced.get_concrete_function(*specs)
    )


@functools.cache
def float_tflite(name: str) -> bytes:
    """A net of `NETS` or `STAND_IN_NETS`, converted."""
    return convert.to_float(frozen((NETS | STAND_IN_NETS)[name]))


def samples(count: int = 8, seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs of the nets, float32 (count, 8, 8, 4) from N(0, 1)."""
    values = np.random.default_rng(seed).normal(0, 1, (count, *SHAPE))
    return {"x": values.astype(np.float32)}


def grid_of_kernel(
    kernel: np.ndarray,
    op: str,
    params: qtypes.QuantParams,
    *,
    name: str = "",
    transpose_b: bool = False,
) -> weight_grids.WeightGrid:
    """The grid of a kernel in TensorFlow's layout.

    Args:
      kernel: float32, on the grid. Conv2D (H, W, C / groups, O),
        DepthwiseConv2dNative (H, W, C, M), Conv2DBackpropInput (H, W, O, C),
        MatMul and BatchMatMul (C, O) or, with `transpose_b`, (O, C).
      op: TensorFlow's operation.
      params: scales in the order of output channels (depthwise c * M + m), or
        one. Their axis may be any layout's: it is not looked at.
      name: the layer, for reports.
      transpose_b: of a MatMul.
    """
    if op == "DepthwiseConv2dNative":
        kernel, axis = kernel.reshape(*kernel.shape[:2], -1), 2
    elif op in ("Conv2D", "Conv2DBackpropInput"):
        axis = 3 if op == "Conv2D" else 2
    else:
        axis = 0 if transpose_b else 1
    values = np.moveaxis(kernel, axis, 0)
    one = params.scale.size == 1 < values.shape[0]
    per_tensor = params.axis is None or one
    return weight_grids.WeightGrid(
        values,
        dataclasses.replace(params, axis=None if per_tensor else 0),
        name,
    )
