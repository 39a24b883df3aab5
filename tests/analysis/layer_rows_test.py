"""Rows times the kernel, plus the bias, are what the layer really gives."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from dsg_tf.analysis import layer_rows, linear_layers
from dsg_tf.graph import evaluation
from tests import tiny_graphs

_EPS = np.finfo(np.float32).eps


def _random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _conv(kernel_shape, strides=1, padding="SAME", dilations=1):
    kernel = _random(*kernel_shape)
    return lambda x: tf.nn.conv2d(
        x, kernel, strides, padding, dilations=dilations
    )


def _depthwise(kernel_shape, stride=1, padding="SAME", dilations=(1, 1)):
    kernel = _random(*kernel_shape)
    return lambda x: tf.nn.depthwise_conv2d(
        x, kernel, (1, stride, stride, 1), padding, dilations=dilations
    )


_EXPLICIT = [[0, 0], [2, 1], [0, 3], [0, 0]]
_IMAGE = (8, 7, 4)

_LAYERS = {
    "same": (_conv((3, 3, 4, 6)), _IMAGE),
    "same, even": (_conv((2, 4, 4, 6)), _IMAGE),
    "same, stride 2": (_conv((3, 3, 4, 6), 2), _IMAGE),
    "same, stride over kernel": (_conv((1, 2, 4, 6), 3), _IMAGE),
    "valid": (_conv((3, 2, 4, 6), 1, "VALID"), _IMAGE),
    "valid, strides": (_conv((3, 2, 4, 6), (2, 3), "VALID"), _IMAGE),
    "explicit": (_conv((3, 3, 4, 6), (2, 1), _EXPLICIT), _IMAGE),
    "dilated, same": (_conv((3, 3, 4, 6), 1, "SAME", (2, 3)), _IMAGE),
    "dilated, valid": (_conv((3, 2, 4, 6), 1, "VALID", 2), _IMAGE),
    "grouped": (_conv((3, 3, 2, 6)), _IMAGE),
    "grouped, stride 2": (_conv((3, 3, 1, 8), 2, "VALID"), _IMAGE),
    "depthwise": (_depthwise((3, 3, 4, 1)), _IMAGE),
    "depthwise, multiplier": (_depthwise((3, 2, 4, 3)), _IMAGE),
    "depthwise, stride 2": (_depthwise((3, 3, 4, 2), 2), _IMAGE),
    "depthwise, dilated": (
        _depthwise((3, 3, 4, 2), 1, "VALID", (2, 2)),
        _IMAGE,
    ),
    "matmul": (lambda x: tf.matmul(x, _random(5, 3)), (5,)),
    "matmul transposed": (
        lambda x: tf.matmul(x, _random(3, 5), transpose_b=True),
        (5,),
    ),
}


def _biased(operation):
    """The operation and a bias behind it."""

    def function(x):
        y = operation(x)
        return y + _random(y.shape[-1], seed=1)

    return function


def _values(graph, layer, samples):
    """Inputs of the layer and outputs of its operation, bias added."""
    tensors = [layer.input, graph[layer.node].output]
    bias = 0.0 if layer.bias is None else layer.bias
    batches = evaluation.batches(graph, tensors, {"x": samples}, size=2)
    return [(x, y + bias) for x, y in batches]


def _check(graph, layer, rows):
    """rows.inputs times the kernel, in float64, is rows.outputs.

    Within two roundings of each product and sum of the float32 layer.
    """
    kernel = layer_rows.grouped(layer, layer.kernel.astype(np.float64))
    inputs = rows.inputs.astype(np.float64)
    bias = np.zeros(layer.out_channels) if layer.bias is None else layer.bias
    bias = layer_rows.by_group(layer, bias.astype(np.float64))
    size = np.abs(inputs) @ np.abs(kernel) + np.abs(bias)
    error = np.abs(inputs @ kernel + bias - rows.outputs)
    assert np.isfinite(error).all()
    assert (error <= 2 * (kernel.shape[1] + 1) * _EPS * size).all()
    groups, count, width = rows.inputs.shape
    assert groups * width == layer_rows.size(layer)
    assert rows.outputs.shape == (groups, count, layer.out_channels // groups)


@pytest.mark.parametrize("name", list(_LAYERS))
class TestLayers:
    def _made(self, name):
        operation, shape = _LAYERS[name]
        graph = tiny_graphs.freeze(_biased(operation), (None, *shape))
        (layer,) = linear_layers.find(graph)
        return graph, layer, _random(3, *shape, seed=2)

    def test_all_rows_give_all_outputs(self, name):
        graph, layer, samples = self._made(name)
        values = _values(graph, layer, samples)
        assert layer_rows.reason_against(layer) == ""
        rows = layer_rows.collect(
            graph, layer, values, share=1.0, rng=np.random.default_rng(0)
        )
        _check(graph, layer, rows)
        outputs = np.concatenate([y for _, y in values])
        outputs = outputs.reshape(-1, layer.out_channels)
        got = rows.outputs.transpose(1, 0, 2).reshape(outputs.shape)
        np.testing.assert_array_equal(got, outputs)

    def test_some_rows_give_their_own_outputs(self, name):
        graph, layer, samples = self._made(name)
        values = _values(graph, layer, samples)
        rows = layer_rows.collect(
            graph, layer, values, share=0.3, rng=np.random.default_rng(0)
        )
        _check(graph, layer, rows)
        counts = [y[..., 0].size for _, y in values]
        expected = sum(max(1, round(0.3 * n)) for n in counts)
        assert rows.inputs.shape[1] == expected

    def test_grouped_and_back_is_the_kernel(self, name):
        _, layer, _ = self._made(name)
        grouped = layer_rows.grouped(layer, layer.kernel)
        np.testing.assert_array_equal(
            layer_rows.ungrouped(layer, grouped), layer.kernel
        )


@pytest.mark.parametrize("api", [keras, tf_keras], ids=["keras3", "keras2"])
@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda k: k.layers.Conv1D(5, 3, padding="same"), (8, 3)),
        (lambda k: k.layers.Conv1D(5, 3, dilation_rate=2), (8, 3)),
        (
            lambda k: k.layers.Conv2D(5, 3, dilation_rate=3, padding="same"),
            (8, 8, 3),
        ),
        (lambda k: k.layers.Dense(5), (4, 3)),
        (lambda k: k.layers.Conv2D(6, 3, groups=3), (8, 8, 3)),
    ],
    ids=["conv1d", "dilated1d", "dilated2d", "dense of rank 3", "grouped"],
)
def test_keras_layers_have_rows(api, build, shape):
    """Dilation moves positions between the operation and its bias."""
    model = api.Sequential([api.Input(shape), build(api)])
    graph = tiny_graphs.freeze(
        lambda x: model(x, training=False), (None, *shape)
    )
    (layer,) = linear_layers.find(graph)
    values = _values(graph, layer, _random(3, *shape))
    rows = layer_rows.collect(
        graph, layer, values, share=0.5, rng=np.random.default_rng(0)
    )
    _check(graph, layer, rows)


class TestCollect:
    @pytest.fixture
    def made(self):
        graph = tiny_graphs.freeze(_conv((3, 3, 4, 6)), (None, 8, 8, 4))
        (layer,) = linear_layers.find(graph)
        return graph, layer, _values(graph, layer, _random(4, 8, 8, 4))

    def _collect(self, made, share, seed):
        graph, layer, values = made
        rng = np.random.default_rng(seed)
        return layer_rows.collect(graph, layer, values, share=share, rng=rng)

    def test_a_seed_chooses_the_positions(self, made):
        a, b, other = (self._collect(made, 0.2, seed) for seed in (0, 0, 1))
        np.testing.assert_array_equal(a.inputs, b.inputs)
        np.testing.assert_array_equal(a.outputs, b.outputs)
        assert not np.array_equal(a.outputs, other.outputs)

    def test_no_position_is_chosen_twice(self, made):
        (outputs,) = self._collect(made, 0.5, 0).outputs
        assert len(np.unique(outputs, axis=0)) == len(outputs) == 2 * 64

    @pytest.mark.parametrize(("share", "count"), [(1e-9, 2), (7.0, 4 * 64)])
    def test_each_batch_gives_one_row_and_at_most_all(self, made, share, count):
        assert self._collect(made, share, 0).outputs.shape[1] == count

    def test_other_outputs_than_the_layers_may_be_wanted(self, made):
        graph, layer, values = made
        wanted = [(x, -y) for x, y in values]
        rows = self._collect((graph, layer, wanted), 0.4, 0)
        plain = self._collect(made, 0.4, 0)
        np.testing.assert_array_equal(rows.outputs, -plain.outputs)
        np.testing.assert_array_equal(rows.inputs, plain.inputs)


class TestReason:
    def test_transposed_convolutions_are_no_products_of_rows(self):
        graph = tiny_graphs.freeze(
            lambda x: tf.nn.conv2d_transpose(
                x, _random(3, 3, 6, 4), (2, 16, 16, 6), 2
            ),
            (2, 8, 8, 4),
        )
        (layer,) = linear_layers.find(graph)
        reason = layer_rows.reason_against(layer)
        assert reason == "Conv2DBackpropInput is no product of rows"

    def test_channels_may_not_stand_first(self):
        graph = tiny_graphs.freeze(
            lambda x: tf.nn.conv2d(
                x, _random(3, 3, 4, 6), 1, "SAME", data_format="NCHW"
            ),
            (2, 4, 8, 8),
        )
        (layer,) = linear_layers.find(graph)
        assert layer_rows.reason_against(layer) == "channels stand first"


def test_values_by_channel_stand_as_the_outputs_do():
    graph = tiny_graphs.freeze(_depthwise((3, 3, 4, 2)), (None, 8, 8, 4))
    (layer,) = linear_layers.find(graph)
    values = layer_rows.by_group(layer, np.arange(8))
    np.testing.assert_array_equal(
        values, [[[0, 1]], [[2, 3]], [[4, 5]], [[6, 7]]]
    )
