"""Given grids are found in the file whatever its layout, or not at all."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tflite_nets

from dsg_tf.quant import qtypes, uniform
from dsg_tf.tflite import convert, flatbuffer, op_support, weight_grids, weights

# TensorFlow's operation, its kernel's shape and output channels' axes, and a
# net around it; x is (1, 8, 8, 4).
_CASES = {
    "conv": (
        "Conv2D",
        (3, 2, 4, 6),
        (3,),
        lambda x, k: tf.nn.conv2d(x, k, 1, "SAME"),
    ),
    "grouped": (
        "Conv2D",
        (3, 2, 2, 6),
        (3,),
        lambda x, k: tf.nn.conv2d(x, k, 1, "SAME"),
    ),
    "grouped_by_channel": (
        "Conv2D",
        (3, 2, 1, 8),
        (3,),
        lambda x, k: tf.nn.conv2d(x, k, 1, "SAME"),
    ),
    "depthwise": (
        "DepthwiseConv2dNative",
        (3, 2, 4, 2),
        (2, 3),
        lambda x, k: tf.nn.depthwise_conv2d(x, k, [1] * 4, "SAME"),
    ),
    "transposed_conv": (
        "Conv2DBackpropInput",
        (3, 2, 6, 4),
        (2,),
        lambda x, k: tf.nn.conv2d_transpose(x, k, [1, 16, 16, 6], 2, "SAME"),
    ),
    "dense": (
        "MatMul",
        (256, 6),
        (1,),
        lambda x, k: tf.matmul(tf.reshape(x, [1, 256]), k),
    ),
    "dense_transposed": (
        "MatMul",
        (6, 256),
        (0,),
        lambda x, k: tf.matmul(tf.reshape(x, [1, 256]), k, transpose_b=True),
    ),
    "dense_rows": (
        "BatchMatMulV2",
        (4, 6),
        (1,),
        lambda x, k: tf.matmul(tf.reshape(x, [1, 64, 4]), k),
    ),
}


def _on_grid(shape, axes, bits, *, per_channel, seed=0):
    """A kernel on a random grid that it does not fill, and the grid."""
    rng = np.random.default_rng(seed)
    channels = int(np.prod([shape[a] for a in axes])) if per_channel else 1
    bound = rng.uniform(0.2, 0.5, channels)
    params = uniform.symmetric_params(bound, bits, 0 if per_channel else None)
    reach = max(params.qmax - 1, 1)
    codes = rng.integers(-reach, reach + 1, shape)
    along = [shape[a] if a in axes and per_channel else 1 for a in range(4)]
    scale = params.scale.astype(np.float64).reshape(along[: len(shape)])
    return (codes * scale).astype(np.float32), params


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("bits", [2, 5, 8])
@pytest.mark.parametrize("name", sorted(_CASES))
def test_a_tensorflow_kernel_is_found_and_keeps_its_grid(
    name, bits, per_channel
):
    op_name, shape, axes, function = _CASES[name]
    kernel, params = _on_grid(shape, axes, bits, per_channel=per_channel)
    view = flatbuffer.read(
        convert.to_float(tflite_nets.frozen(lambda x: function(x, kernel)))
    )
    grid = tflite_nets.grid_of_kernel(
        kernel, op_name, params, transpose_b=name == "dense_transposed"
    )
    chosen = weights.choose(view, weights.Options(bits=3, grids=[grid]))
    assert chosen.unmatched == ()
    ((index, found),) = chosen.grids.items()
    np.testing.assert_array_equal(found.scale, params.scale)
    assert (found.qmin, found.qmax) == (params.qmin, params.qmax)
    (op,) = (op for op in view.ops if weights.operand(view, op) is not None)
    axis = op_support.WEIGHTS[op.name].axis
    assert found.axis == (axis if per_channel else None)
    # The scales belong to their channels: every weight is whole there.
    values = view.constant(view.tensors[index]).astype(np.float64)
    steps = np.moveaxis(values, axis, -1) / found.scale.astype(np.float64)
    assert np.abs(steps - np.rint(steps)).max() < 2.0**-16


def test_one_weight_in_the_last_place_is_another_model():
    kernel, params = _on_grid((3, 3, 4, 8), (3,), 4, per_channel=True)
    nudged = kernel.copy()
    nudged[0, 0, 0, 0] = np.nextafter(nudged[0, 0, 0, 0], np.float32(9))
    for value, found in ((kernel, True), (nudged, False)):
        grid = tflite_nets.grid_of_kernel(value, "Conv2D", params)
        assert grid.matches(kernel.transpose(3, 0, 1, 2), 0) == found


def test_equal_bytes_with_other_channels_are_no_match():
    kernel, params = _on_grid((4, 6), (1,), 4, per_channel=False)
    grid = tflite_nets.grid_of_kernel(kernel, "MatMul", params)
    assert grid.matches(kernel.T.copy(), 0)
    assert not grid.matches(kernel.T.reshape(4, 6), 0)
    assert not grid.matches(kernel.T.copy(), 1)


def test_a_grouped_convolution_is_found_as_a_depthwise_one():
    kernel, params = _on_grid((3, 2, 1, 8), (3,), 4, per_channel=True)
    grid = tflite_nets.grid_of_kernel(kernel, "Conv2D", params)
    depthwise = kernel.transpose(2, 0, 1, 3)
    assert grid.matches(depthwise, 3)
    assert grid.on_axis(3).axis == 3


def test_minus_zero_is_zero():
    kernel = np.float32([[0.0, 0.5], [-0.0, -0.5]])
    params = qtypes.QuantParams([0.5], [0], -1, 1)
    grid = tflite_nets.grid_of_kernel(kernel, "MatMul", params)
    assert grid.matches(np.abs(kernel.T) * np.sign(kernel.T), 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": [0.5, 0.5], "zero_point": [0, 0], "axis": 1}, "axis 1"),
        ({"scale": [0.5], "zero_point": [0], "axis": 0}, "1 scales on axis 0"),
        ({"zero_point": [1]}, "zero points up to 1"),
        ({"qmax": 255}, r"-7\.\.255"),
        ({"qmin": -128}, r"-128\.\.7"),
        ({"scale": [0.4]}, "steps off the grid"),
        # 1.0 is 4 steps, which 3 bits cannot tell from 3.
        ({"scale": [0.25], "qmin": -3, "qmax": 3}, "1 steps off the grid"),
    ],
)
def test_what_is_no_grid_of_these_weights_is_refused(change, message):
    values = np.float32([[0.5, -1.0], [0.0, 1.0]])
    fields = {"scale": [0.5], "zero_point": [0], "qmin": -7, "qmax": 7}
    weight_grids.WeightGrid(values, qtypes.QuantParams(**fields))
    with pytest.raises(ValueError, match=message):
        weight_grids.WeightGrid(
            values, qtypes.QuantParams(**fields | change), "stem"
        )


def test_an_unmatched_grid_is_named_and_the_others_are_used():
    kernel, params = _on_grid((3, 3, 4, 8), (3,), 4, per_channel=True)
    view = flatbuffer.read(
        convert.to_float(
            tflite_nets.frozen(lambda x: tf.nn.conv2d(x, kernel, 1, "SAME"))
        )
    )
    of_kernel = tflite_nets.grid_of_kernel
    grids = [
        of_kernel(2 * kernel, "Conv2D", _doubled(params), name="stem"),
        of_kernel(kernel, "Conv2D", params, name="head"),
        of_kernel(kernel[:1], "Conv2D", params),
    ]
    chosen = weights.choose(view, weights.Options(grids=grids))
    assert chosen.unmatched == ("stem", "weight grid 2")
    (found,) = chosen.grids.values()
    np.testing.assert_array_equal(found.scale, params.scale)


def _doubled(params):
    return qtypes.QuantParams(
        2 * params.scale, params.zero_point, params.qmin, params.qmax, 0
    )
