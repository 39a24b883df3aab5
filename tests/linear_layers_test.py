"""Layers are found with TensorFlow's own numbers, whatever their layout."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from dsg_tf import linear_layers, qtypes
from dsg_tf.graph import frozen, ir
from tests import tiny_graphs

_EPS = np.finfo(np.float32).eps
_KERAS = pytest.mark.parametrize(
    "api", [keras, tf_keras], ids=["keras3", "keras2"]
)


def _random(*shape, seed=0):
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
_LAYOUTS = {
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


@pytest.fixture(params=list(_LAYOUTS))
def case(request):
    """The only layer of a graph, the graph, its meaning, and an input."""
    op, meaning, shape, kernel_shape = _LAYOUTS[request.param]
    kernel = _random(*kernel_shape)
    graph = tiny_graphs.freeze(lambda x: op(x, kernel), shape)
    (layer,) = linear_layers.find(graph)
    return layer, graph, meaning, _random(*shape, seed=1).astype(np.float64)


def _only(function, *shape):
    graph = tiny_graphs.freeze(function, (None, *shape))
    (layer,) = linear_layers.find(graph)
    return layer, graph


def _run(graph, *inputs):
    outputs = [
        y.numpy() for y in frozen.to_function(graph)(*map(tf.constant, inputs))
    ]
    assert all(np.isfinite(y).all() for y in outputs)
    return outputs


def _assert_rounded(actual, expected, size, terms):
    """Equal but for a rounding of each of `terms` products and sums."""
    assert np.isfinite(actual).all()
    assert (np.abs(actual - expected) <= 2 * terms * _EPS * size).all()


class TestLayouts:
    def test_kernels_are_what_tensorflow_computes_with(self, case):
        layer, graph, meaning, x = case
        (y,) = _run(graph, x.astype(np.float32))
        kernel = layer.kernel.astype(np.float64)
        size = meaning(np.abs(x), np.abs(kernel))
        _assert_rounded(y, meaning(x, kernel), size, layer.rows().shape[1])
        assert layer.output == graph.outputs[0].tensor
        assert layer.in_channels == x.shape[-1]
        assert layer.out_channels == y.shape[-1]
        assert layer.channel_axis == y.ndim - 1
        assert layer.input == "x:0"

    def test_a_row_is_all_that_makes_one_output_channel(self, case):
        layer, _, meaning, x = case
        rows = layer.rows().astype(np.float64)
        y = meaning(x, layer.kernel.astype(np.float64))
        for channel in range(layer.out_channels):
            alone = np.zeros_like(rows)
            alone[channel] = rows[channel]
            got = meaning(x, layer.from_rows(alone))
            # Zeros add nothing.
            np.testing.assert_array_equal(got[..., channel], y[..., channel])
            assert not np.delete(got, channel, axis=-1).any()

    def test_rows_and_back_is_the_kernel(self, case):
        layer, *_ = case
        again = layer.from_rows(layer.rows())
        np.testing.assert_array_equal(again, layer.kernel)
        assert again.flags.c_contiguous

    def test_other_kernels_of_the_layout_have_rows_too(self, case):
        layer, *_ = case
        other = _random(*layer.kernel.shape, seed=5)
        np.testing.assert_array_equal(layer.from_rows(layer.rows(other)), other)

    def test_scaled_outputs_are_scaled_outputs(self, case):
        layer, _, meaning, x = case
        kernel = layer.kernel.astype(np.float64)
        scale = np.random.default_rng(2).uniform(0.1, 9, layer.out_channels)
        # float64 twice over: far within a million of its roundings.
        np.testing.assert_allclose(
            meaning(x, layer.with_scaled_outputs(kernel, scale)),
            meaning(x, kernel) * scale,
            rtol=1e-10,
            atol=1e-10,
        )

    def test_scaled_inputs_are_scaled_inputs(self, case):
        layer, _, meaning, x = case
        kernel = layer.kernel.astype(np.float64)
        scale = np.random.default_rng(3).uniform(0.1, 9, layer.in_channels)
        np.testing.assert_allclose(
            meaning(x, layer.with_scaled_inputs(kernel, scale)),
            meaning(x * scale, kernel),
            rtol=1e-10,
            atol=1e-10,
        )

    def test_an_input_range_is_the_largest_answer_to_an_impulse(self, case):
        layer, _, meaning, x = case
        kernel = layer.kernel.astype(np.float64)
        expected = []
        for channel in range(layer.in_channels):
            impulse = np.zeros_like(x)
            middle = tuple(n // 2 for n in x.shape[1:-1])
            impulse[(0, *middle, channel)] = 1.0
            expected.append(np.abs(meaning(impulse, kernel)).max())
        # Every other product is zero.
        np.testing.assert_array_equal(layer.input_ranges(kernel), expected)

    def test_the_response_to_a_constant_is_that_of_the_middle(self, case):
        layer, _, meaning, x = case
        kernel = layer.kernel.astype(np.float64)
        constant = np.random.default_rng(4).normal(size=layer.in_channels)
        y = meaning(np.broadcast_to(constant, x.shape), kernel)
        middle = tuple(n // 2 for n in y.shape[1:-1])
        np.testing.assert_allclose(
            layer.respond(kernel, constant), y[(0, *middle)], rtol=1e-10
        )

    def test_kernels_may_come_out_of_constant_operations(self):
        flat = _random(6, 3 * 3 * 4)
        layer, _ = _only(
            lambda x: tf.nn.conv2d(
                x,
                tf.transpose(
                    tf.reshape(tf.constant(flat), (6, 3, 3, 4)), (1, 2, 3, 0)
                ),
                1,
                "SAME",
            ),
            8,
            8,
            4,
        )
        np.testing.assert_array_equal(layer.rows(), flat)

    def test_unknown_ranks_of_inputs_are_no_hindrance(self):
        kernel = _random(3, 3, 4, 6)
        graph = tiny_graphs.freeze(
            lambda x: tf.nn.conv2d(x, kernel, 1, "SAME"), None
        )
        (layer,) = linear_layers.find(graph)
        assert (layer.in_channels, layer.groups) == (4, 1)

    @pytest.mark.parametrize(
        "function",
        [
            lambda x: tf.matmul(x, x, transpose_b=True),
            lambda x: tf.matmul(x, _random(3, 2), transpose_a=True),
            lambda x: tf.matmul(_random(2, 3), x),
            lambda x: tf.cast(
                tf.matmul(tf.cast(x, tf.float64), np.ones((4, 2))), tf.float32
            ),
            lambda x: x + tf.matmul(tf.constant(_random(3, 4)), np.eye(4, 4)),
        ],
        ids=["varying", "transpose_a", "left", "float64", "constant"],
    )
    def test_what_is_no_product_with_a_float_kernel_is_no_layer(self, function):
        graph = tiny_graphs.freeze(function, (3, 4))
        assert linear_layers.find(graph) == ()

    def test_layers_come_in_topological_order_with_their_names(self):
        model = keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                keras.layers.Conv2D(4, 3, name="stem"),
                keras.layers.DepthwiseConv2D(3, name="mix"),
                keras.layers.Flatten(),
                keras.layers.Dense(2, name="head"),
            ]
        )
        graph = tiny_graphs.freeze(
            lambda x: model(x, training=False), (None, 8, 8, 3)
        )
        found = [(x.name, x.op) for x in linear_layers.find(graph)]
        assert found == [
            ("stem", "Conv2D"),
            ("mix", "DepthwiseConv2dNative"),
            ("head", "MatMul"),
        ]


def _plain(x, channels=6, **kwargs):
    kernel = _random(3, 3, 4, channels)
    return tf.nn.conv2d(x, kernel, 1, "SAME", **kwargs)


_BIAS = _random(6, seed=9)


class TestBias:
    @pytest.mark.parametrize(
        ("add", "expected"),
        [
            (lambda y: tf.nn.bias_add(y, _BIAS), _BIAS),
            (lambda y: y + _BIAS, _BIAS),
            (lambda y: tf.add(tf.constant(_BIAS), y), _BIAS),
            (lambda y: y + _BIAS.reshape(1, 1, 1, 6), _BIAS),
            (lambda y: y + _BIAS.reshape(1, 6), _BIAS),
            (lambda y: y + np.float32(0.5), np.full(6, 0.5)),
            (lambda y: y + np.full((1, 1, 1, 1), 0.5, "f"), np.full(6, 0.5)),
            (
                lambda y: tf.nn.bias_add(y, tf.reshape(_BIAS[None], (-1,))),
                _BIAS,
            ),
        ],
        ids=[
            "BiasAdd",
            "vector",
            "on the left",
            "full rank",
            "matrix",
            "scalar",
            "one number",
            "computed",
        ],
    )
    def test_constants_by_channel_are_the_bias(self, add, expected):
        layer, graph = _only(lambda x: tf.nn.relu(add(_plain(x))), 8, 8, 4)
        np.testing.assert_array_equal(layer.bias, np.float32(expected))
        assert layer.bias.shape == (6,)
        assert layer.linear_output == graph[layer.node].output
        (relu,) = graph.consumers(layer.output)
        assert relu.op == "Relu"

    @pytest.mark.parametrize(
        "add",
        [
            tf.nn.relu,
            lambda y: y + _random(8, 8, 6),
            lambda y: y + _random(8, 1, 6),
            lambda y: y - _BIAS,
            lambda y: y * _BIAS,
            lambda y: y + y,
            lambda y: y + _random(2, 1, 1, 1, 6),
            lambda y: (y + _BIAS) * tf.sigmoid(y),
        ],
        ids=[
            "nothing",
            "image",
            "columns",
            "difference",
            "product",
            "itself",
            "higher rank",
            "read twice",
        ],
    )
    def test_anything_else_is_none(self, add):
        layer, graph = _only(lambda x: add(_plain(x)), 8, 8, 4)
        assert layer.bias is None
        assert layer.bias_tensor is None
        assert layer.output == layer.linear_output == graph[layer.node].output

    def test_a_constant_along_another_axis_of_that_size_is_none(self):
        """Eight rows, eight columns, and eight channels."""
        vector = _random(8)
        for data_format, shape, name in [
            ("NHWC", (8, 1, 1), "rows"),
            ("NHWC", (1, 8, 1), "columns"),
            ("NHWC", (1, 8, 1, 1), "rows"),
            ("NCHW", (8,), "columns"),
            ("NCHW", (8, 1), "rows"),
        ]:
            layer, _ = _only(
                lambda x, f=data_format, s=shape: (
                    _plain(x, 8, data_format=f) + vector.reshape(s)
                ),
                *((8, 8, 4) if data_format == "NHWC" else (4, 8, 8)),
            )
            assert layer.bias is None, (data_format, name)

    @pytest.mark.parametrize(
        "add",
        [
            lambda y: tf.nn.bias_add(y, _BIAS, data_format="NCHW"),
            lambda y: y + _BIAS.reshape(6, 1, 1),
            lambda y: y + _BIAS.reshape(1, 6, 1, 1),
        ],
        ids=["BiasAdd", "without batch", "full rank"],
    )
    def test_channels_may_stand_first(self, add):
        layer, _ = _only(lambda x: add(_plain(x, data_format="NCHW")), 4, 8, 8)
        np.testing.assert_array_equal(layer.bias, _BIAS)
        assert layer.channel_axis == 1

    def test_what_the_caller_reads_has_no_bias_behind_it(self):
        def function(x):
            y = _plain(x)
            return y, y + _BIAS

        graph = tiny_graphs.freeze(function, (None, 8, 8, 4))
        (layer,) = linear_layers.find(graph)
        assert layer.bias is None
        assert layer.output == graph.outputs[0].tensor

    def test_a_biased_output_may_be_an_output(self):
        layer, graph = _only(lambda x: _plain(x) + _BIAS, 8, 8, 4)
        assert layer.output == graph.outputs[0].tensor
        np.testing.assert_array_equal(layer.bias, _BIAS)

    @_KERAS
    @pytest.mark.parametrize(
        ("build", "shape"),
        [
            (lambda k: k.layers.Conv1D(5, 3), (8, 3)),
            (lambda k: k.layers.Conv1D(5, 3, dilation_rate=2), (8, 3)),
            (lambda k: k.layers.Conv2D(5, 3, dilation_rate=2), (8, 8, 3)),
            (lambda k: k.layers.Conv2D(6, 3, groups=3), (8, 8, 3)),
            (lambda k: k.layers.DepthwiseConv2D(3), (8, 8, 3)),
            (lambda k: k.layers.Conv2DTranspose(5, 3, strides=2), (4, 4, 3)),
            (lambda k: k.layers.Dense(5), (3,)),
            (lambda k: k.layers.Dense(5), (4, 3)),
        ],
        ids=[
            "conv1d",
            "dilated1d",
            "dilated2d",
            "grouped",
            "depthwise",
            "transposed",
            "dense",
            "dense of rank 3",
        ],
    )
    def test_keras_layers_have_the_weights_that_keras_has(
        self, api, build, shape
    ):
        made = build(api)
        model = api.Sequential([api.Input(shape), made, api.layers.ReLU()])
        weights = [
            _random(*w.shape, seed=i) for i, w in enumerate(made.weights)
        ]
        made.set_weights(weights)
        layer, graph = _only(lambda x: model(x, training=False), *shape)
        np.testing.assert_array_equal(layer.kernel.ravel(), weights[0].ravel())
        np.testing.assert_array_equal(layer.bias, weights[1])
        (relu,) = graph.consumers(layer.output)
        assert relu.op == "Relu"
        assert layer.channel_axis == len(shape)
        groups = 3 if getattr(made, "groups", 1) == 3 else 1
        assert layer.groups == groups


class TestUntreated:
    def test_linear_operations_beyond_the_layers_are_told(self):
        def function(x):
            image = tf.reshape(x, (-1, 2, 2, 2, 2))
            return [
                tf.matmul(x, _random(16, 2)),
                tf.matmul(x, x, transpose_b=True),
                tf.matmul(tf.constant(_random(1, 3)), x),
                tf.nn.conv3d(image, _random(1, 1, 1, 2, 3), [1] * 5, "SAME"),
                tf.matmul(tf.reshape(x, (-1, 4, 4)), _random(1, 4, 4)),
                tf.einsum("bi,io->bo", x, tf.constant(_random(16, 2))),
            ]

        graph = tiny_graphs.freeze(function, (3, 16))
        ops = [op for _, op in linear_layers.untreated(graph)]
        assert sorted(ops) == ["BatchMatMulV2", "Conv3D", "Einsum", "MatMul"]
        assert len(linear_layers.find(graph)) == 1

    def test_products_of_constants_are_not(self):
        graph = tiny_graphs.freeze(
            lambda x: (
                x + tf.matmul(tf.constant(_random(3, 4)), np.eye(4, 1, 0, "f"))
            ),
            (3, 1),
        )
        assert linear_layers.untreated(graph) == ()


def _edited(layer, graph, *args, **kwargs):
    edit = linear_layers.Edit(graph)
    edit.set(layer, *args, **kwargs)
    return edit.graph()


class TestEdit:
    def test_another_kernel_and_bias_compute_what_they_say(self, case):
        layer, graph, meaning, x = case
        kernel = _random(*layer.kernel.shape, seed=6)
        bias = _random(layer.out_channels, seed=7)
        edited = _edited(layer, graph, kernel, bias)
        assert edited.outputs == graph.outputs
        (y,) = _run(edited, x.astype(np.float32))
        expected = meaning(x, kernel.astype(np.float64)) + bias
        size = meaning(np.abs(x), np.abs(kernel.astype(np.float64)))
        terms = layer.rows().shape[1] + 1
        _assert_rounded(y, expected, size + np.abs(bias), terms)
        (found,) = linear_layers.find(edited)
        np.testing.assert_array_equal(found.kernel, kernel)
        np.testing.assert_array_equal(found.bias, bias)
        assert found.output == layer.output

    def test_no_bias_leaves_the_bias(self):
        layer, graph = _only(lambda x: _plain(x) + _BIAS, 8, 8, 4)
        (found,) = linear_layers.find(_edited(layer, graph, 2 * layer.kernel))
        np.testing.assert_array_equal(found.kernel, 2 * layer.kernel)
        np.testing.assert_array_equal(found.bias, _BIAS)

    def test_the_old_graph_stays(self):
        layer, graph = _only(_plain, 8, 8, 4)
        text, x = graph.text(), _random(1, 8, 8, 4)
        (before,) = _run(graph, x)
        _edited(layer, graph, 2 * layer.kernel, np.ones(6))
        assert graph.text() == text
        np.testing.assert_array_equal(_run(graph, x)[0], before)

    def test_a_kernel_of_two_layers_changes_for_one(self):
        kernel = tf.Variable(_random(4, 4), name="shared/kernel")

        def function(x):
            return tf.matmul(tf.nn.relu(tf.matmul(x, kernel)), kernel)

        graph = tiny_graphs.freeze(function, (None, 4))
        first, second = linear_layers.find(graph)
        assert first.kernel_tensor == second.kernel_tensor
        edited = _edited(second, graph, -second.kernel)
        a, b = linear_layers.find(edited)
        np.testing.assert_array_equal(a.kernel, first.kernel)
        np.testing.assert_array_equal(b.kernel, -second.kernel)
        x = _random(2, 4)
        # A sign changes no rounding.
        np.testing.assert_array_equal(_run(edited, x)[0], -_run(graph, x)[0])

    def test_a_bias_of_two_layers_changes_for_one(self):
        bias = tf.Variable(_BIAS[:4], name="shared/bias")

        def function(x):
            x = tf.nn.bias_add(tf.matmul(x, _random(4, 4)), bias)
            return tf.nn.bias_add(tf.matmul(x, _random(4, 4, seed=1)), bias)

        graph = tiny_graphs.freeze(function, (None, 4))
        first, _ = linear_layers.find(graph)
        edited = _edited(first, graph, first.kernel, np.zeros(4))
        a, b = linear_layers.find(edited)
        np.testing.assert_array_equal(a.bias, np.zeros(4))
        np.testing.assert_array_equal(b.bias, _BIAS[:4])

    def test_a_constant_that_the_caller_reads_too_stays(self):
        kernel = tf.Variable(_random(4, 4), name="dense/kernel")
        graph = tiny_graphs.freeze(
            lambda x: (tf.matmul(x, kernel), tf.identity(kernel)), (None, 4)
        )
        (layer,) = linear_layers.find(graph)
        edited = _edited(layer, graph, 2 * layer.kernel)
        x = _random(2, 4)
        (y, before), (z, after) = _run(graph, x), _run(edited, x)
        np.testing.assert_array_equal(after, before)
        np.testing.assert_array_equal(z, 2 * y)

    @pytest.mark.parametrize(
        ("build", "shape"),
        [
            (lambda k: k.layers.Conv1D(5, 3), (8, 3)),
            (lambda k: k.layers.Conv1D(5, 3, use_bias=False), (8, 3)),
            (lambda k: k.layers.Conv2D(5, 3, dilation_rate=2), (8, 8, 3)),
            (lambda k: k.layers.Dense(5), (5, 3)),
            (lambda k: k.layers.Dense(5, use_bias=False), (5, 3)),
        ],
        ids=["conv1d", "conv1d no bias", "dilated", "dense", "dense no bias"],
    )
    @_KERAS
    def test_a_new_bias_is_added_by_channel(self, api, build, shape):
        made = build(api)
        model = api.Sequential([api.Input(shape), made, api.layers.ReLU()])
        layer, graph = _only(lambda x: model(x, training=False), *shape)
        bias = _random(5)
        edited = _edited(layer, graph, layer.kernel, bias)
        weights = [made.get_weights()[0], bias]
        biased = type(made).from_config(
            {**made.get_config(), "use_bias": True, "name": "biased"}
        )
        biased.build((None, *shape))
        biased.set_weights(weights)
        x = _random(2, *shape)
        expected = np.maximum(biased(x), 0)
        # The same sums; an order of their terms that may be another.
        size = np.abs(weights[0]).sum(axis=tuple(range(weights[0].ndim - 1)))
        size = size * np.abs(x).max() + np.abs(bias)
        terms = layer.rows().shape[1] + 1
        _assert_rounded(_run(edited, x)[0], expected, size, terms)

    def test_a_layer_without_a_bias_moves_over_and_keeps_its_name(self):
        model = keras.Sequential(
            [
                keras.Input((8, 8, 4)),
                keras.layers.Conv2D(6, 3, use_bias=False, name="block"),
                keras.layers.ReLU(),
            ]
        )
        layer, graph = _only(lambda x: model(x, training=False), 8, 8, 4)
        edited = _edited(layer, graph, layer.kernel, _BIAS)
        (found,) = linear_layers.find(edited)
        assert found.name == layer.name == "block"
        assert found.output == layer.output
        assert found.node != layer.node
        assert edited.producer(layer.output).op == "BiasAdd"

    def test_constants_are_named_after_the_layer(self):
        kernel = tf.Variable(_random(4, 3), name="dense/kernel")
        graph = tiny_graphs.freeze(lambda x: tf.matmul(x, kernel), (None, 4))
        (layer,) = linear_layers.find(graph)
        edited = _edited(layer, graph, layer.kernel, np.ones(3))
        (found,) = linear_layers.find(edited)
        assert found.kernel_tensor.startswith("dense/kernel")
        assert found.bias_tensor.startswith("dense/bias")
        assert found.name == layer.name

    def test_channels_first_get_a_bias_of_their_own_layout(self):
        layer, graph = _only(lambda x: _plain(x, data_format="NCHW"), 4, 8, 8)
        edited = _edited(layer, graph, layer.kernel, _BIAS)
        (found,) = linear_layers.find(edited)
        np.testing.assert_array_equal(found.bias, _BIAS)
        assert edited.producer(found.output).attr("data_format") == "NCHW"
        assert edited.shape(found.output) == graph.shape(layer.output)

    def test_names_that_are_taken_are_not_given_again(self):
        layer, graph = _only(_plain, 8, 8, 4)
        edit = linear_layers.Edit(graph)
        first, second = edit.free_name("new"), edit.free_name("new")
        assert first != second
        assert edit.free_name(layer.node) not in graph.nodes

    def test_grids_go_with_the_kernels_that_lie_on_them(self):
        layer, graph = _only(_plain, 8, 8, 4)
        grid = qtypes.QuantParams(np.ones(6), np.zeros(6), -7, 7, axis=0)
        whole = np.rint(3 * layer.kernel)
        gridded = _edited(layer, graph, whole, grid=grid)
        (found,) = linear_layers.find(gridded)
        assert dict(gridded.weight_grids) == {found.kernel_tensor: grid}
        again = _edited(found, gridded, layer.kernel)
        assert not again.weight_grids

    def test_other_nodes_can_be_replaced_too(self):
        layer, graph = _only(lambda x: tf.nn.relu6(_plain(x)), 8, 8, 4)
        name = graph.producer(graph.outputs[0].tensor).name
        edit = linear_layers.Edit(graph)
        edit.replace(ir.Node.of(name, "Relu", [layer.output], T=tf.float32))
        assert edit.graph()[name].op == "Relu"

    def test_moments_stay_unless_others_are_given(self):
        layer, graph = _only(_plain, 8, 8, 4)
        moments = {layer.output: ir.Moments(np.zeros(6), np.ones(6))}
        graph = graph.replace_nodes({}, moments=moments)
        edit = linear_layers.Edit(graph)
        assert dict(edit.graph().moments) == moments
        assert not edit.graph(moments={}).moments


class TestOwnConstants:
    def test_the_function_is_the_same_and_all_is_const(self):
        kernel = tf.Variable(_random(3, 3, 4, 4), name="shared/kernel")

        def function(x):
            y = tf.nn.conv2d(x, kernel, 1, "SAME")
            y = tf.nn.relu(tf.nn.conv2d(tf.nn.relu(y), kernel, 1, "SAME"))
            y = tf.reduce_mean(y, (1, 2))
            weights = tf.transpose(tf.constant(_random(2, 4)))
            return tf.matmul(y, weights) + np.float32(0.25)

        graph = tiny_graphs.freeze(function, (None, 8, 8, 4))
        own = linear_layers.with_own_constants(graph)
        x = _random(2, 8, 8, 4)
        # Adding zero rounds nothing, nor does adding the same number.
        np.testing.assert_array_equal(_run(own, x)[0], _run(graph, x)[0])
        assert own.outputs == graph.outputs
        layers = linear_layers.find(own)
        assert [x.output for x in layers] == [
            x.output for x in linear_layers.find(graph)
        ]
        tensors = [t for x in layers for t in (x.kernel_tensor, x.bias_tensor)]
        assert len(set(tensors)) == 6
        for tensor in tensors:
            assert own.producer(tensor).op == "Const"
            assert len(own.consumers(tensor)) == 1

    def test_grids_stay_with_their_kernels(self):
        layer, graph = _only(_plain, 8, 8, 4)
        grid = qtypes.QuantParams(np.ones(6), np.zeros(6), -7, 7, axis=0)
        graph = _edited(layer, graph, np.rint(layer.kernel), grid=grid)
        own = linear_layers.with_own_constants(graph)
        (found,) = linear_layers.find(own)
        assert own.weight_grids[found.kernel_tensor].same_as(grid)


class TestActivationBounds:
    @pytest.mark.parametrize(
        ("activate", "low", "high"),
        [
            (tf.nn.relu, 0, np.inf),
            (tf.nn.relu6, 0, 6),
            (lambda y: tf.minimum(tf.nn.relu(y), _BIAS**2), 0, _BIAS**2),
            (lambda y: tf.minimum(2.0, tf.nn.relu(y)), 0, 2),
            (lambda y: tf.nn.relu6(tf.nn.relu(y)), 0, 6),
            (tf.sigmoid, -np.inf, np.inf),
            (lambda y: tf.minimum(y, -y), -np.inf, np.inf),
            (lambda y: tf.nn.relu(y) + y, -np.inf, np.inf),
        ],
        ids=[
            "Relu",
            "Relu6",
            "by channel",
            "one bound",
            "twice",
            "Sigmoid",
            "varying",
            "read twice",
        ],
    )
    def test_are_those_of_what_the_layer_alone_feeds(self, activate, low, high):
        layer, graph = _only(lambda x: activate(_plain(x) + _BIAS), 8, 8, 4)
        found = linear_layers.activation_bounds(graph, layer)
        for got, expected in zip(found, (low, high), strict=True):
            assert got.shape == (6,)
            np.testing.assert_array_equal(
                got, np.broadcast_to(np.float64(expected), 6)
            )

    def test_end_where_the_caller_reads(self):
        def function(x):
            y = _plain(x)
            return y, tf.nn.relu(y)

        graph = tiny_graphs.freeze(function, (None, 8, 8, 4))
        (layer,) = linear_layers.find(graph)
        low, high = linear_layers.activation_bounds(graph, layer)
        assert np.isinf(low).all()
        assert np.isinf(high).all()
