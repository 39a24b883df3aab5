"""Layers are found with TensorFlow's own numbers, whatever their layout."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from dsg_tf.analysis import linear_layers
from tests import layer_nets, tiny_graphs

_EPS = np.finfo(np.float32).eps
_KERAS = pytest.mark.parametrize(
    "api", [keras, tf_keras], ids=["keras3", "keras2"]
)


@pytest.fixture(params=list(layer_nets.LAYOUTS))
def case(request):
    return layer_nets.single(request.param)


class TestLayouts:
    def test_kernels_are_what_tensorflow_computes_with(self, case):
        layer, graph, meaning, x = case
        (y,) = layer_nets.run(graph, x.astype(np.float32))
        kernel = layer.kernel.astype(np.float64)
        size = meaning(np.abs(x), np.abs(kernel))
        layer_nets.assert_rounded(
            y, meaning(x, kernel), size, layer.rows().shape[1]
        )
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
        other = layer_nets.random(*layer.kernel.shape, seed=5)
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
        flat = layer_nets.random(6, 3 * 3 * 4)
        layer, _ = layer_nets.only(
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
        kernel = layer_nets.random(3, 3, 4, 6)
        graph = tiny_graphs.freeze(
            lambda x: tf.nn.conv2d(x, kernel, 1, "SAME"), None
        )
        (layer,) = linear_layers.find(graph)
        assert (layer.in_channels, layer.groups) == (4, 1)

    @pytest.mark.parametrize(
        "function",
        [
            lambda x: tf.matmul(x, x, transpose_b=True),
            lambda x: tf.matmul(x, layer_nets.random(3, 2), transpose_a=True),
            lambda x: tf.matmul(layer_nets.random(2, 3), x),
            lambda x: tf.cast(
                tf.matmul(tf.cast(x, tf.float64), np.ones((4, 2))), tf.float32
            ),
            lambda x: (
                x
                + tf.matmul(tf.constant(layer_nets.random(3, 4)), np.eye(4, 4))
            ),
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


class TestBias:
    @pytest.mark.parametrize(
        ("add", "expected"),
        [
            (lambda y: tf.nn.bias_add(y, layer_nets.BIAS), layer_nets.BIAS),
            (lambda y: y + layer_nets.BIAS, layer_nets.BIAS),
            (
                lambda y: tf.add(tf.constant(layer_nets.BIAS), y),
                layer_nets.BIAS,
            ),
            (
                lambda y: y + layer_nets.BIAS.reshape(1, 1, 1, 6),
                layer_nets.BIAS,
            ),
            (lambda y: y + layer_nets.BIAS.reshape(1, 6), layer_nets.BIAS),
            (lambda y: y + np.float32(0.5), np.full(6, 0.5)),
            (lambda y: y + np.full((1, 1, 1, 1), 0.5, "f"), np.full(6, 0.5)),
            (
                lambda y: tf.nn.bias_add(
                    y, tf.reshape(layer_nets.BIAS[None], (-1,))
                ),
                layer_nets.BIAS,
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
        layer, graph = layer_nets.only(
            lambda x: tf.nn.relu(add(layer_nets.plain(x))), 8, 8, 4
        )
        np.testing.assert_array_equal(layer.bias, np.float32(expected))
        assert layer.bias.shape == (6,)
        assert layer.linear_output == graph[layer.node].output
        (relu,) = graph.consumers(layer.output)
        assert relu.op == "Relu"

    @pytest.mark.parametrize(
        "add",
        [
            tf.nn.relu,
            lambda y: y + layer_nets.random(8, 8, 6),
            lambda y: y + layer_nets.random(8, 1, 6),
            lambda y: y - layer_nets.BIAS,
            lambda y: y * layer_nets.BIAS,
            lambda y: y + y,
            lambda y: y + layer_nets.random(2, 1, 1, 1, 6),
            lambda y: (y + layer_nets.BIAS) * tf.sigmoid(y),
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
        layer, graph = layer_nets.only(
            lambda x: add(layer_nets.plain(x)), 8, 8, 4
        )
        assert layer.bias is None
        assert layer.bias_tensor is None
        assert layer.output == layer.linear_output == graph[layer.node].output

    def test_a_constant_along_another_axis_of_that_size_is_none(self):
        """Eight rows, eight columns, and eight channels."""
        vector = layer_nets.random(8)
        for data_format, shape, name in [
            ("NHWC", (8, 1, 1), "rows"),
            ("NHWC", (1, 8, 1), "columns"),
            ("NHWC", (1, 8, 1, 1), "rows"),
            ("NCHW", (8,), "columns"),
            ("NCHW", (8, 1), "rows"),
        ]:
            layer, _ = layer_nets.only(
                lambda x, f=data_format, s=shape: (
                    layer_nets.plain(x, 8, data_format=f) + vector.reshape(s)
                ),
                *((8, 8, 4) if data_format == "NHWC" else (4, 8, 8)),
            )
            assert layer.bias is None, (data_format, name)

    @pytest.mark.parametrize(
        "add",
        [
            lambda y: tf.nn.bias_add(y, layer_nets.BIAS, data_format="NCHW"),
            lambda y: y + layer_nets.BIAS.reshape(6, 1, 1),
            lambda y: y + layer_nets.BIAS.reshape(1, 6, 1, 1),
        ],
        ids=["BiasAdd", "without batch", "full rank"],
    )
    def test_channels_may_stand_first(self, add):
        layer, _ = layer_nets.only(
            lambda x: add(layer_nets.plain(x, data_format="NCHW")), 4, 8, 8
        )
        np.testing.assert_array_equal(layer.bias, layer_nets.BIAS)
        assert layer.channel_axis == 1

    def test_what_the_caller_reads_has_no_bias_behind_it(self):
        def function(x):
            y = layer_nets.plain(x)
            return y, y + layer_nets.BIAS

        graph = tiny_graphs.freeze(function, (None, 8, 8, 4))
        (layer,) = linear_layers.find(graph)
        assert layer.bias is None
        assert layer.output == graph.outputs[0].tensor

    def test_a_biased_output_may_be_an_output(self):
        layer, graph = layer_nets.only(
            lambda x: layer_nets.plain(x) + layer_nets.BIAS, 8, 8, 4
        )
        assert layer.output == graph.outputs[0].tensor
        np.testing.assert_array_equal(layer.bias, layer_nets.BIAS)

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
            layer_nets.random(*w.shape, seed=i)
            for i, w in enumerate(made.weights)
        ]
        made.set_weights(weights)
        layer, graph = layer_nets.only(
            lambda x: model(x, training=False), *shape
        )
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
                tf.matmul(x, layer_nets.random(16, 2)),
                tf.matmul(x, x, transpose_b=True),
                tf.matmul(tf.constant(layer_nets.random(1, 3)), x),
                tf.nn.conv3d(
                    image, layer_nets.random(1, 1, 1, 2, 3), [1] * 5, "SAME"
                ),
                tf.matmul(
                    tf.reshape(x, (-1, 4, 4)), layer_nets.random(1, 4, 4)
                ),
                tf.einsum(
                    "bi,io->bo", x, tf.constant(layer_nets.random(16, 2))
                ),
            ]

        graph = tiny_graphs.freeze(function, (3, 16))
        ops = [op for _, op in linear_layers.untreated(graph)]
        assert sorted(ops) == ["BatchMatMulV2", "Conv3D", "Einsum", "MatMul"]
        assert len(linear_layers.find(graph)) == 1

    def test_products_of_constants_are_not(self):
        graph = tiny_graphs.freeze(
            lambda x: (
                x
                + tf.matmul(
                    tf.constant(layer_nets.random(3, 4)), np.eye(4, 1, 0, "f")
                )
            ),
            (3, 1),
        )
        assert linear_layers.untreated(graph) == ()


class TestActivationBounds:
    @pytest.mark.parametrize(
        ("activate", "low", "high"),
        [
            (tf.nn.relu, 0, np.inf),
            (tf.nn.relu6, 0, 6),
            (
                lambda y: tf.minimum(tf.nn.relu(y), layer_nets.BIAS**2),
                0,
                layer_nets.BIAS**2,
            ),
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
        layer, graph = layer_nets.only(
            lambda x: activate(layer_nets.plain(x) + layer_nets.BIAS), 8, 8, 4
        )
        found = linear_layers.activation_bounds(graph, layer)
        for got, expected in zip(found, (low, high), strict=True):
            assert got.shape == (6,)
            np.testing.assert_array_equal(
                got, np.broadcast_to(np.float64(expected), 6)
            )

    def test_end_where_the_caller_reads(self):
        def function(x):
            y = layer_nets.plain(x)
            return y, tf.nn.relu(y)

        graph = tiny_graphs.freeze(function, (None, 8, 8, 4))
        (layer,) = linear_layers.find(graph)
        low, high = linear_layers.activation_bounds(graph, layer)
        assert np.isinf(low).all()
        assert np.isinf(high).all()
