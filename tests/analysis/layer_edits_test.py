"""Other kernels and biases compute what they say; names and grids stay."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from dsg_tf.analysis import layer_edits, linear_layers
from dsg_tf.graph import ir
from dsg_tf.quant import qtypes
from tests import layer_nets, tiny_graphs

_KERAS = pytest.mark.parametrize(
    "api", [keras, tf_keras], ids=["keras3", "keras2"]
)


@pytest.fixture(params=list(layer_nets.LAYOUTS))
def case(request):
    return layer_nets.single(request.param)


def _edited(layer, graph, *args, **kwargs):
    edit = layer_edits.Edit(graph)
    edit.set(layer, *args, **kwargs)
    return edit.graph()


class TestEdit:
    def test_another_kernel_and_bias_compute_what_they_say(self, case):
        layer, graph, meaning, x = case
        kernel = layer_nets.random(*layer.kernel.shape, seed=6)
        bias = layer_nets.random(layer.out_channels, seed=7)
        edited = _edited(layer, graph, kernel, bias)
        assert edited.outputs == graph.outputs
        (y,) = layer_nets.run(edited, x.astype(np.float32))
        expected = meaning(x, kernel.astype(np.float64)) + bias
        size = meaning(np.abs(x), np.abs(kernel.astype(np.float64)))
        terms = layer.rows().shape[1] + 1
        layer_nets.assert_rounded(y, expected, size + np.abs(bias), terms)
        (found,) = linear_layers.find(edited)
        np.testing.assert_array_equal(found.kernel, kernel)
        np.testing.assert_array_equal(found.bias, bias)
        assert found.output == layer.output

    def test_no_bias_leaves_the_bias(self):
        layer, graph = layer_nets.only(
            lambda x: layer_nets.plain(x) + layer_nets.BIAS, 8, 8, 4
        )
        (found,) = linear_layers.find(_edited(layer, graph, 2 * layer.kernel))
        np.testing.assert_array_equal(found.kernel, 2 * layer.kernel)
        np.testing.assert_array_equal(found.bias, layer_nets.BIAS)

    def test_the_old_graph_stays(self):
        layer, graph = layer_nets.only(layer_nets.plain, 8, 8, 4)
        text, x = graph.text(), layer_nets.random(1, 8, 8, 4)
        (before,) = layer_nets.run(graph, x)
        _edited(layer, graph, 2 * layer.kernel, np.ones(6))
        assert graph.text() == text
        np.testing.assert_array_equal(layer_nets.run(graph, x)[0], before)

    def test_a_kernel_of_two_layers_changes_for_one(self):
        kernel = tf.Variable(layer_nets.random(4, 4), name="shared/kernel")

        def function(x):
            return tf.matmul(tf.nn.relu(tf.matmul(x, kernel)), kernel)

        graph = tiny_graphs.freeze(function, (None, 4))
        first, second = linear_layers.find(graph)
        assert first.kernel_tensor == second.kernel_tensor
        edited = _edited(second, graph, -second.kernel)
        a, b = linear_layers.find(edited)
        np.testing.assert_array_equal(a.kernel, first.kernel)
        np.testing.assert_array_equal(b.kernel, -second.kernel)
        x = layer_nets.random(2, 4)
        # A sign changes no rounding.
        np.testing.assert_array_equal(
            layer_nets.run(edited, x)[0], -layer_nets.run(graph, x)[0]
        )

    def test_a_bias_of_two_layers_changes_for_one(self):
        bias = tf.Variable(layer_nets.BIAS[:4], name="shared/bias")

        def function(x):
            x = tf.nn.bias_add(tf.matmul(x, layer_nets.random(4, 4)), bias)
            return tf.nn.bias_add(
                tf.matmul(x, layer_nets.random(4, 4, seed=1)), bias
            )

        graph = tiny_graphs.freeze(function, (None, 4))
        first, _ = linear_layers.find(graph)
        edited = _edited(first, graph, first.kernel, np.zeros(4))
        a, b = linear_layers.find(edited)
        np.testing.assert_array_equal(a.bias, np.zeros(4))
        np.testing.assert_array_equal(b.bias, layer_nets.BIAS[:4])

    def test_a_constant_that_the_caller_reads_too_stays(self):
        kernel = tf.Variable(layer_nets.random(4, 4), name="dense/kernel")
        graph = tiny_graphs.freeze(
            lambda x: (tf.matmul(x, kernel), tf.identity(kernel)), (None, 4)
        )
        (layer,) = linear_layers.find(graph)
        edited = _edited(layer, graph, 2 * layer.kernel)
        x = layer_nets.random(2, 4)
        (y, before), (z, after) = (
            layer_nets.run(graph, x),
            layer_nets.run(edited, x),
        )
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
        layer, graph = layer_nets.only(
            lambda x: model(x, training=False), *shape
        )
        bias = layer_nets.random(5)
        edited = _edited(layer, graph, layer.kernel, bias)
        weights = [made.get_weights()[0], bias]
        biased = type(made).from_config(
            {**made.get_config(), "use_bias": True, "name": "biased"}
        )
        biased.build((None, *shape))
        biased.set_weights(weights)
        x = layer_nets.random(2, *shape)
        expected = np.maximum(biased(x), 0)
        # The same sums; an order of their terms that may be another.
        size = np.abs(weights[0]).sum(axis=tuple(range(weights[0].ndim - 1)))
        size = size * np.abs(x).max() + np.abs(bias)
        terms = layer.rows().shape[1] + 1
        layer_nets.assert_rounded(
            layer_nets.run(edited, x)[0], expected, size, terms
        )

    def test_a_layer_without_a_bias_moves_over_and_keeps_its_name(self):
        model = keras.Sequential(
            [
                keras.Input((8, 8, 4)),
                keras.layers.Conv2D(6, 3, use_bias=False, name="block"),
                keras.layers.ReLU(),
            ]
        )
        layer, graph = layer_nets.only(
            lambda x: model(x, training=False), 8, 8, 4
        )
        edited = _edited(layer, graph, layer.kernel, layer_nets.BIAS)
        (found,) = linear_layers.find(edited)
        assert found.name == layer.name == "block"
        assert found.output == layer.output
        assert found.node != layer.node
        assert edited.producer(layer.output).op == "BiasAdd"

    def test_constants_are_named_after_the_layer(self):
        kernel = tf.Variable(layer_nets.random(4, 3), name="dense/kernel")
        graph = tiny_graphs.freeze(lambda x: tf.matmul(x, kernel), (None, 4))
        (layer,) = linear_layers.find(graph)
        edited = _edited(layer, graph, layer.kernel, np.ones(3))
        (found,) = linear_layers.find(edited)
        assert found.kernel_tensor.startswith("dense/kernel")
        assert found.bias_tensor.startswith("dense/bias")
        assert found.name == layer.name

    def test_channels_first_get_a_bias_of_their_own_layout(self):
        layer, graph = layer_nets.only(
            lambda x: layer_nets.plain(x, data_format="NCHW"), 4, 8, 8
        )
        edited = _edited(layer, graph, layer.kernel, layer_nets.BIAS)
        (found,) = linear_layers.find(edited)
        np.testing.assert_array_equal(found.bias, layer_nets.BIAS)
        assert edited.producer(found.output).attr("data_format") == "NCHW"
        assert edited.shape(found.output) == graph.shape(layer.output)

    def test_names_that_are_taken_are_not_given_again(self):
        layer, graph = layer_nets.only(layer_nets.plain, 8, 8, 4)
        edit = layer_edits.Edit(graph)
        first, second = edit.free_name("new"), edit.free_name("new")
        assert first != second
        assert edit.free_name(layer.node) not in graph.nodes

    def test_grids_go_with_the_kernels_that_lie_on_them(self):
        layer, graph = layer_nets.only(layer_nets.plain, 8, 8, 4)
        grid = qtypes.QuantParams(np.ones(6), np.zeros(6), -7, 7, axis=0)
        whole = np.rint(3 * layer.kernel)
        gridded = _edited(layer, graph, whole, grid=grid)
        (found,) = linear_layers.find(gridded)
        assert dict(gridded.weight_grids) == {found.kernel_tensor: grid}
        again = _edited(found, gridded, layer.kernel)
        assert not again.weight_grids

    def test_other_nodes_can_be_replaced_too(self):
        layer, graph = layer_nets.only(
            lambda x: tf.nn.relu6(layer_nets.plain(x)), 8, 8, 4
        )
        name = graph.producer(graph.outputs[0].tensor).name
        edit = layer_edits.Edit(graph)
        edit.replace(ir.Node.of(name, "Relu", [layer.output], T=tf.float32))
        assert edit.graph()[name].op == "Relu"

    def test_moments_stay_unless_others_are_given(self):
        layer, graph = layer_nets.only(layer_nets.plain, 8, 8, 4)
        moments = {layer.output: ir.Moments(np.zeros(6), np.ones(6))}
        graph = graph.replace_nodes({}, moments=moments)
        edit = layer_edits.Edit(graph)
        assert dict(edit.graph().moments) == moments
        assert not edit.graph(moments={}).moments


class TestOwnConstants:
    def test_the_function_is_the_same_and_all_is_const(self):
        kernel = tf.Variable(
            layer_nets.random(3, 3, 4, 4), name="shared/kernel"
        )

        def function(x):
            y = tf.nn.conv2d(x, kernel, 1, "SAME")
            y = tf.nn.relu(tf.nn.conv2d(tf.nn.relu(y), kernel, 1, "SAME"))
            y = tf.reduce_mean(y, (1, 2))
            weights = tf.transpose(tf.constant(layer_nets.random(2, 4)))
            return tf.matmul(y, weights) + np.float32(0.25)

        graph = tiny_graphs.freeze(function, (None, 8, 8, 4))
        own = layer_edits.with_own_constants(graph)
        x = layer_nets.random(2, 8, 8, 4)
        # Adding zero rounds nothing, nor does adding the same number; a kernel
        # that adds a constant bias by itself may round otherwise, by an ulp.
        np.testing.assert_allclose(
            layer_nets.run(own, x)[0], layer_nets.run(graph, x)[0], rtol=3e-7
        )
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
        layer, graph = layer_nets.only(layer_nets.plain, 8, 8, 4)
        grid = qtypes.QuantParams(np.ones(6), np.zeros(6), -7, 7, axis=0)
        graph = _edited(layer, graph, np.rint(layer.kernel), grid=grid)
        own = layer_edits.with_own_constants(graph)
        (found,) = linear_layers.find(own)
        assert own.weight_grids[found.kernel_tensor].same_as(grid)
