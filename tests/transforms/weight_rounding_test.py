"""Rounding to nearest: on the grid to the bit, and the grid is kept."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tiny_graphs

from dsg_tf.analysis import linear_layers
from dsg_tf.graph import ir
from dsg_tf.quant import qtypes, weight_scales
from dsg_tf.transforms import weight_rounding


def _draw(*shape):
    values = np.random.default_rng(shape).normal(size=shape)
    return values.astype(np.float32)


# Every layout of a kernel, and the axes of its output channels.
_LAYERS = {
    "conv": (lambda x: tf.nn.conv2d(x, _draw(3, 3, 4, 6), 1, "SAME"), (3,)),
    "depthwise": (
        lambda x: tf.nn.depthwise_conv2d(x, _draw(3, 3, 4, 2), [1] * 4, "SAME"),
        (2, 3),
    ),
    "grouped": (lambda x: tf.nn.conv2d(x, _draw(3, 3, 2, 6), 1, "SAME"), (3,)),
    "matmul": (
        lambda x: tf.reduce_mean(x, [1, 2]) @ _draw(4, 5),
        (1,),
    ),
    "transposed_matmul": (
        lambda x: tf.matmul(
            tf.reduce_mean(x, [1, 2]), _draw(5, 4), transpose_b=True
        ),
        (0,),
    ),
    "upscaled": (
        lambda x: tf.nn.conv2d_transpose(
            x, _draw(2, 2, 5, 4), [2, 16, 16, 5], 2, "SAME"
        ),
        (2,),
    ),
}


def _graph(name) -> ir.Graph:
    return tiny_graphs.freeze(_LAYERS[name][0], (None, 8, 8, 4))


@pytest.mark.parametrize("granularity", qtypes.Granularity)
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("name", sorted(_LAYERS))
def test_every_weight_is_the_nearest_code_times_its_scale(
    name, bits, granularity
):
    graph = _graph(name)
    (layer,) = linear_layers.find(graph)
    grid = weight_scales.choose(layer.rows(), bits, granularity=granularity)
    result, report = weight_rounding.round_weights(graph, {layer.node: grid})
    (after,) = linear_layers.find(result)

    kernel = layer.kernel.astype(np.float64)
    axes = _LAYERS[name][1]
    shape = [n if i in axes else 1 for i, n in enumerate(kernel.shape)]
    scale = grid.scale.astype(np.float64)
    scale = scale.reshape(shape if scale.size > 1 else ())
    top = 2 ** (bits - 1) - 1
    codes = np.clip(np.rint(kernel / scale), -top, top)
    # To the bit: a product of a code and a float32 scale, rounded once.
    np.testing.assert_array_equal(
        after.kernel, (codes * scale).astype(np.float32)
    )
    assert len(np.unique(codes)) > 2
    error = np.sqrt(np.mean((codes * scale - kernel) ** 2))
    (row,) = report.rows
    # Up to 216 squares of float32 weights, summed up in float32.
    np.testing.assert_allclose(
        row.measured["relative_error"],
        error / np.sqrt(np.mean(kernel**2)),
        rtol=216 * 2.0**-24,
    )
    assert list(result.weight_grids) == [after.kernel_tensor]
    assert result.weight_grids[after.kernel_tensor].same_as(grid)


def test_codes_come_back_from_the_rounded_weights():
    """float32(code * scale) / scale is nearest to the code: 2^-24 << 1/2."""
    graph = _graph("conv")
    (layer,) = linear_layers.find(graph)
    grid = weight_scales.choose(layer.rows(), 8)
    result, _ = weight_rounding.round_weights(graph, {layer.node: grid})
    again, _ = weight_rounding.round_weights(result, {layer.node: grid})
    (once,), (twice,) = map(linear_layers.find, (result, again))
    np.testing.assert_array_equal(once.kernel, twice.kernel)


def test_layers_without_a_grid_stay_and_are_told():
    kernels = _draw(4, 6), _draw(6, 3)
    graph = tiny_graphs.freeze(
        lambda x: tf.nn.relu(x @ kernels[0] + _draw(6)) @ kernels[1], (None, 4)
    )
    first, second = linear_layers.find(graph)
    grids = {second.node: weight_scales.choose(second.rows(), 4)}
    result, report = weight_rounding.round_weights(graph, grids)
    after = linear_layers.find(result)
    np.testing.assert_array_equal(after[0].kernel, first.kernel)
    np.testing.assert_array_equal(after[0].bias, first.bias)
    assert not np.array_equal(after[1].kernel, second.kernel)
    assert [row.applied for row in report.rows] == [False, True]
    assert report.skipped[0].reason == "its weights stay float"
    assert list(result.weight_grids) == [after[1].kernel_tensor]


def test_layers_that_share_a_kernel_get_their_own_grids():
    kernel = _draw(5, 5)
    graph = tiny_graphs.freeze(
        lambda x: tf.nn.relu(x @ kernel) @ kernel, (None, 5)
    )
    first, second = linear_layers.find(graph)
    grids = {
        layer.node: weight_scales.choose(layer.rows(), bits)
        for layer, bits in ((first, 3), (second, 5))
    }
    result, _ = weight_rounding.round_weights(graph, grids)
    after = linear_layers.find(result)
    tops = [result.weight_grids[layer.kernel_tensor].qmax for layer in after]
    assert tops == [3, 15]
    assert not np.array_equal(after[0].kernel, after[1].kernel)


def test_a_layer_of_zeros_stays_zero_and_its_error_finite():
    kernel = np.zeros((4, 3), np.float32)
    graph = tiny_graphs.freeze(lambda x: x @ kernel, (None, 4))
    (layer,) = linear_layers.find(graph)
    grids = {layer.node: weight_scales.choose(layer.rows(), 4)}
    result, report = weight_rounding.round_weights(graph, grids)
    (after,) = linear_layers.find(result)
    np.testing.assert_array_equal(after.kernel, kernel)
    assert report.rows[0].measured["relative_error"] == 0
