"""TensorFlow's spelling of the float operations of a .tflite.

One row of the table for each kind of operation; `build` gives what an operation
computes. Layouts differ in weights alone: TFLite has the output channels first.

Source: the operators' definitions in LiteRT's schema and reference kernels.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from dsg_tf.tflite import flatbuffer


class UnreadableError(Exception):
    """An operation that has no row, or options that its row does not know."""


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One operation with its operands.

    Attributes:
      inputs: arrays where the file holds the values, else tensors; None where
        an optional operand is omitted.
      options: the operation's generated options object; None without one.
      outputs: what the file says of the results.
    """

    inputs: Sequence[Any]
    options: Any
    outputs: Sequence[flatbuffer.Tensor]

    def option(self, name: str, default: Any = 0) -> Any:
        """An option; the default where the file has no options."""
        return getattr(self.options, name, default)

    def operand(self, index: int) -> Any:
        """An operand; None where it is omitted."""
        return self.inputs[index] if index < len(self.inputs) else None

    def numbers(self, index: int) -> np.ndarray:
        """An operand of whole numbers that the file holds."""
        value = self.operand(index)
        if not isinstance(value, np.ndarray):
            raise UnreadableError(f"whose operand {index} is computed")
        return value


def build(name: str, call: Call) -> list:
    """Builds an operation in the function that is traced.

    Args:
      name: the builtin name, "CONV_2D".
      call: its operands and options.

    Returns:
      Its results, one for each output.

    Raises:
      UnreadableError: this table does not know it.
    """
    if name not in _OPS:
        raise UnreadableError("which dsg_tf cannot read")
    made = _OPS[name](call)
    made = list(made) if isinstance(made, list | tuple) else [made]
    activation = call.option("fusedActivationFunction")
    return [_activated(value, activation) for value in made]


def _activated(value, code: int):
    if code not in _ACTIVATIONS:
        raise UnreadableError(f"with activation {code}")
    return _ACTIVATIONS[code](value)


# ActivationFunctionType of the schema.
_ACTIVATIONS: dict[int, Callable] = {
    0: lambda x: x,
    1: tf.nn.relu,
    2: lambda x: tf.clip_by_value(x, -1.0, 1.0),
    3: tf.nn.relu6,
    4: tf.tanh,
}
_PADDINGS = {0: "SAME", 1: "VALID"}


def _padding(call: Call) -> str:
    return _PADDINGS[call.option("padding")]


def _strides(call: Call) -> list[int]:
    return [1, call.option("strideH", 1), call.option("strideW", 1), 1]


def _dilations(call: Call) -> list[int]:
    return [
        call.option("dilationHFactor", 1),
        call.option("dilationWFactor", 1),
    ]


def _reordered(weights, order: Sequence[int]):
    """Weights with another order of axes; an array stays one."""
    if isinstance(weights, np.ndarray):
        return np.ascontiguousarray(weights.transpose(order))
    return tf.transpose(weights, order)


def _with_bias(value, bias):
    return value if bias is None else tf.nn.bias_add(value, bias)


def _conv_2d(call: Call):
    made = tf.nn.conv2d(
        call.inputs[0],
        _reordered(call.inputs[1], (1, 2, 3, 0)),
        _strides(call),
        _padding(call),
        dilations=_dilations(call),
    )
    return _with_bias(made, call.operand(2))


def _depthwise_conv_2d(call: Call):
    x, weights = call.inputs[:2]
    _, height, width, channels = weights.shape
    multiplier = channels // int(x.shape[-1])
    made = tf.nn.depthwise_conv2d(
        x,
        tf.reshape(weights, (height, width, -1, multiplier))
        if not isinstance(weights, np.ndarray)
        else weights.reshape((height, width, -1, multiplier)),
        _strides(call),
        _padding(call),
        dilations=_dilations(call),
    )
    return _with_bias(made, call.operand(2))


def _conv_3d(call: Call):
    depth = [1, call.option("strideD", 1), *_strides(call)[1:]]
    dilations = [1, call.option("dilationDFactor", 1), *_dilations(call), 1]
    made = tf.nn.conv3d(
        call.inputs[0],
        call.inputs[1],
        depth,
        _padding(call),
        dilations=dilations,
    )
    return _with_bias(made, call.operand(2))


def _transpose_conv(call: Call):
    shape, weights, x = call.inputs[:3]
    made = tf.nn.conv2d_transpose(
        x,
        _reordered(weights, (1, 2, 0, 3)),
        shape,
        _strides(call),
        _padding(call),
    )
    return _with_bias(made, call.operand(3))


def _fully_connected(call: Call):
    x, weights = call.inputs[:2]
    if call.option("weightsFormat"):
        raise UnreadableError("with shuffled weights")
    if not call.option("keepNumDims", False) and len(x.shape) != 2:
        x = tf.reshape(x, (-1, int(weights.shape[1])))
    if isinstance(weights, np.ndarray):
        made = tf.matmul(x, np.ascontiguousarray(weights.T))
    else:
        made = tf.matmul(x, weights, transpose_b=True)
    return _with_bias(made, call.operand(2))


def _pool(op: Callable) -> Callable[[Call], Any]:
    def made(call: Call):
        size = [
            1,
            call.option("filterHeight", 1),
            call.option("filterWidth", 1),
        ]
        return op(call.inputs[0], [*size, 1], _strides(call), _padding(call))

    return made


def _reduce(op: Callable) -> Callable[[Call], Any]:
    def made(call: Call):
        return op(
            call.inputs[0],
            axis=call.numbers(1).reshape(-1).tolist(),
            keepdims=bool(call.option("keepDims", False)),
        )

    return made


def _resize(op: Callable) -> Callable[[Call], Any]:
    def made(call: Call):
        return op(
            images=call.inputs[0],
            size=call.inputs[1],
            align_corners=bool(call.option("alignCorners", False)),
            half_pixel_centers=bool(call.option("halfPixelCenters", False)),
        )

    return made


def _softmax(call: Call):
    beta = call.option("beta", 1.0)
    x = call.inputs[0]
    return tf.nn.softmax(x if beta == 1 else x * np.float32(beta))


def _prelu(call: Call):
    x, alpha = call.inputs[:2]
    return tf.nn.relu(x) - alpha * tf.nn.relu(-x)


def _hard_swish(call: Call):
    x = call.inputs[0]
    return x * tf.nn.relu6(x + 3.0) * np.float32(1 / 6)


def _gelu(call: Call):
    approximate = bool(call.option("approximate", False))
    return tf.nn.gelu(call.inputs[0], approximate=approximate)


def _reshape(call: Call):
    shape = call.operand(1)
    if shape is None:
        shape = np.asarray(call.option("newShape"), np.int32)
    return tf.reshape(call.inputs[0], shape)


def _squeeze(call: Call):
    axes = call.option("squeezeDims", None)
    return tf.squeeze(call.inputs[0], None if axes is None else list(axes))


def _strided_slice(call: Call):
    if call.option("offset", False):
        raise UnreadableError("whose ends are offsets")
    x, begin, end, strides = call.inputs[:4]
    return tf.strided_slice(
        x,
        begin,
        end,
        strides,
        begin_mask=call.option("beginMask"),
        end_mask=call.option("endMask"),
        ellipsis_mask=call.option("ellipsisMask"),
        new_axis_mask=call.option("newAxisMask"),
        shrink_axis_mask=call.option("shrinkAxisMask"),
    )


def _mirror_pad(call: Call):
    mode = ("REFLECT", "SYMMETRIC")[call.option("mode")]
    return tf.pad(call.inputs[0], call.inputs[1], mode)


def _gather(call: Call):
    if call.option("batchDims"):
        return tf.gather(
            call.inputs[0],
            call.inputs[1],
            axis=call.option("axis"),
            batch_dims=call.option("batchDims"),
        )
    return tf.gather(call.inputs[0], call.inputs[1], axis=call.option("axis"))


def _one_hot(call: Call):
    x, depth, on, off = call.inputs[:4]
    return tf.one_hot(x, depth, on, off, axis=call.option("axis", -1))


def _split(call: Call):
    axis, x = call.inputs[:2]
    return tf.split(x, len(call.outputs), int(np.reshape(axis, ())))


def _split_v(call: Call):
    x, sizes, axis = call.inputs[:3]
    return tf.split(x, list(map(int, sizes)), int(np.reshape(axis, ())))


def _batch_matmul(call: Call):
    return tf.matmul(
        call.inputs[0],
        call.inputs[1],
        transpose_a=bool(call.option("adjX", False)),
        transpose_b=bool(call.option("adjY", False)),
    )


def _cumsum(call: Call):
    return tf.cumsum(
        call.inputs[0],
        int(np.reshape(call.numbers(1), ())),
        exclusive=bool(call.option("exclusive", False)),
        reverse=bool(call.option("reverse", False)),
    )


def _local_response(call: Call):
    return tf.nn.local_response_normalization(
        call.inputs[0],
        call.option("radius"),
        call.option("bias"),
        call.option("alpha"),
        call.option("beta"),
    )


def _arg(op: Callable) -> Callable[[Call], Any]:
    def made(call: Call):
        axis = int(np.reshape(call.numbers(1), ()))
        return op(call.inputs[0], axis, call.outputs[0].dtype)

    return made


def _to_dtype(call: Call):
    return tf.cast(call.inputs[0], call.outputs[0].dtype)


def _shape(call: Call):
    return tf.shape(call.inputs[0], call.outputs[0].dtype)


def _in_order(op: Callable) -> Callable[[Call], Any]:
    """For operations that take the operands in the file's order."""
    return lambda call: op(*call.inputs)


def _blocks(op: Callable) -> Callable[[Call], Any]:
    return lambda call: op(call.inputs[0], call.option("blockSize"))


_PLAIN = {
    "ABS": tf.abs,
    "ADD": tf.add,
    "BATCH_TO_SPACE_ND": lambda x, b, c: tf.raw_ops.BatchToSpaceND(
        input=x, block_shape=b, crops=c
    ),
    "BROADCAST_TO": tf.broadcast_to,
    "CEIL": tf.math.ceil,
    "COS": tf.cos,
    "DIV": tf.divide,
    "ELU": tf.nn.elu,
    "EMBEDDING_LOOKUP": lambda ids, table: tf.gather(table, ids),
    "EQUAL": tf.equal,
    "EXP": tf.exp,
    "EXPAND_DIMS": tf.expand_dims,
    "FILL": tf.fill,
    "FLOOR": tf.floor,
    "FLOOR_DIV": tf.math.floordiv,
    "FLOOR_MOD": tf.math.floormod,
    "GATHER_ND": tf.gather_nd,
    "GREATER": tf.greater,
    "GREATER_EQUAL": tf.greater_equal,
    "LESS": tf.less,
    "LESS_EQUAL": tf.less_equal,
    "LOG": tf.math.log,
    "LOGICAL_AND": tf.logical_and,
    "LOGICAL_NOT": tf.logical_not,
    "LOGICAL_OR": tf.logical_or,
    "LOGISTIC": tf.sigmoid,
    "LOG_SOFTMAX": tf.nn.log_softmax,
    "L2_NORMALIZATION": lambda x: tf.math.l2_normalize(x, -1),
    "MAXIMUM": tf.maximum,
    "MINIMUM": tf.minimum,
    "MUL": tf.multiply,
    "NEG": tf.negative,
    "NOT_EQUAL": tf.not_equal,
    "PAD": tf.pad,
    "PADV2": lambda x, borders, fill: tf.raw_ops.PadV2(
        input=x, paddings=borders, constant_values=fill
    ),
    "POW": tf.pow,
    "RANGE": tf.range,
    "RELU": tf.nn.relu,
    "RELU6": tf.nn.relu6,
    "RELU_N1_TO_1": _ACTIVATIONS[2],
    "REVERSE_V2": tf.reverse,
    "ROUND": tf.round,
    "RSQRT": tf.math.rsqrt,
    "SELECT": tf.where,
    "SELECT_V2": tf.where,
    "SIGN": tf.sign,
    "SIN": tf.sin,
    "SLICE": tf.slice,
    "SPACE_TO_BATCH_ND": lambda x, b, p: tf.raw_ops.SpaceToBatchND(
        input=x, block_shape=b, paddings=p
    ),
    "SQRT": tf.sqrt,
    "SQUARE": tf.square,
    "SQUARED_DIFFERENCE": tf.math.squared_difference,
    "SUB": tf.subtract,
    "TANH": tf.tanh,
    "TILE": tf.tile,
    "TRANSPOSE": tf.transpose,
    "ZEROS_LIKE": tf.zeros_like,
}

_OPS: dict[str, Callable[[Call], Any]] = {
    **{name: _in_order(op) for name, op in _PLAIN.items()},
    "ADD_N": lambda call: functools.reduce(tf.add, call.inputs),
    "ARG_MAX": _arg(tf.argmax),
    "ARG_MIN": _arg(tf.argmin),
    "AVERAGE_POOL_2D": _pool(tf.nn.avg_pool2d),
    "BATCH_MATMUL": _batch_matmul,
    "CAST": _to_dtype,
    "CONCATENATION": lambda call: tf.concat(call.inputs, call.option("axis")),
    "CONV_2D": _conv_2d,
    "CONV_3D": _conv_3d,
    "CUMSUM": _cumsum,
    "DEPTHWISE_CONV_2D": _depthwise_conv_2d,
    "DEPTH_TO_SPACE": _blocks(tf.nn.depth_to_space),
    "FULLY_CONNECTED": _fully_connected,
    "GATHER": _gather,
    "GELU": _gelu,
    "HARD_SWISH": _hard_swish,
    "LEAKY_RELU": lambda call: tf.nn.leaky_relu(
        call.inputs[0], call.option("alpha")
    ),
    "LOCAL_RESPONSE_NORMALIZATION": _local_response,
    "MAX_POOL_2D": _pool(tf.nn.max_pool2d),
    "MEAN": _reduce(tf.reduce_mean),
    "MIRROR_PAD": _mirror_pad,
    "ONE_HOT": _one_hot,
    "PACK": lambda call: tf.stack(call.inputs, call.option("axis")),
    "PRELU": _prelu,
    "REDUCE_ALL": _reduce(tf.reduce_all),
    "REDUCE_ANY": _reduce(tf.reduce_any),
    "REDUCE_MAX": _reduce(tf.reduce_max),
    "REDUCE_MIN": _reduce(tf.reduce_min),
    "REDUCE_PROD": _reduce(tf.reduce_prod),
    "RESHAPE": _reshape,
    "RESIZE_BILINEAR": _resize(tf.raw_ops.ResizeBilinear),
    "RESIZE_NEAREST_NEIGHBOR": _resize(tf.raw_ops.ResizeNearestNeighbor),
    "SHAPE": _shape,
    "SOFTMAX": _softmax,
    "SPACE_TO_DEPTH": _blocks(tf.nn.space_to_depth),
    "SPLIT": _split,
    "SPLIT_V": _split_v,
    "SQUEEZE": _squeeze,
    "STRIDED_SLICE": _strided_slice,
    "SUM": _reduce(tf.reduce_sum),
    "TOPK_V2": lambda call: tf.math.top_k(
        call.inputs[0], int(np.reshape(call.numbers(1), ()))
    ),
    "TRANSPOSE_CONV": _transpose_conv,
    "UNPACK": lambda call: tf.unstack(
        call.inputs[0], len(call.outputs), call.option("axis")
    ),
}
