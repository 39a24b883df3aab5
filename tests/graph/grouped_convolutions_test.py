"""Grouped convolutions run on a CPU, fused or not, and have a gradient."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tiny_graphs

from dsg_tf.graph import frozen, grouped_convolutions, walk

_EPS = np.finfo(np.float32).eps


def _draw(*shape, seed=0):
    values = np.random.default_rng([seed, *shape]).normal(size=shape)
    return values.astype(np.float32)


def _fused_batch_norm(y):
    size = y.shape[-1]
    ends = [_draw(size, seed=n) for n in range(3)]
    return tf.compat.v1.nn.fused_batch_norm(
        y, *ends, np.ones(size, "f"), is_training=False
    )[0]


_BEHIND = {
    "nothing": tf.identity,
    "BiasAdd": lambda y: tf.nn.bias_add(y, _draw(y.shape[-1])),
    "BiasAdd, Relu": lambda y: tf.nn.relu(
        tf.nn.bias_add(y, _draw(y.shape[-1]))
    ),
    "FusedBatchNorm": _fused_batch_norm,
    "FusedBatchNorm, Relu": lambda y: tf.nn.relu(_fused_batch_norm(y)),
}
# (H, W, C / G, O) of inputs with 8 channels: 4, 2 and 8 groups.
_KERNELS = [(3, 3, 2, 12), (1, 3, 4, 2), (3, 2, 1, 16)]


def _by_group(x, kernel, strides):
    """The convolution of each group by itself, then side by side."""
    count = x.shape[-1] // kernel.shape[2]
    parts = zip(
        tf.split(x, count, axis=-1),
        tf.split(tf.constant(kernel), count, axis=-1),
        strict=True,
    )
    return tf.concat(
        [tf.nn.conv2d(a, k, strides, "SAME") for a, k in parts], axis=-1
    )


def _functions(kernel, behind, strides=1):
    """A grouped convolution and what stands behind it, both ways."""
    return [
        lambda x: behind(tf.nn.conv2d(x, kernel, strides, "SAME")),
        lambda x: behind(_by_group(x, kernel, strides)),
    ]


def _slack(kernel):
    """Two roundings of float32 for each term of a sum, of terms up to 8."""
    return 2 * 8 * int(np.prod(kernel.shape[:3])) * _EPS


@pytest.mark.parametrize("behind", _BEHIND.values(), ids=_BEHIND)
@pytest.mark.parametrize("shape", _KERNELS, ids=str)
class TestOnCpu:
    def test_a_function_computes_what_each_group_does(self, shape, behind):
        kernel, x = _draw(*shape), tf.constant(_draw(2, 8, 8, 8))
        grouped, meaning = _functions(kernel, behind, strides=2)
        graph = tiny_graphs.freeze(grouped, (None, 8, 8, 8))
        (y,) = frozen.to_function(graph)(x)
        np.testing.assert_allclose(y, meaning(x), rtol=0, atol=_slack(kernel))

    def test_the_gradient_is_that_of_each_group(self, shape, behind):
        kernel, x = _draw(*shape), tf.constant(_draw(2, 8, 8, 8))
        grouped, meaning = _functions(kernel, behind)
        graph = tiny_graphs.freeze(grouped, (None, 8, 8, 8))
        direction = tf.constant(_draw(2, 8, 8, shape[-1], seed=1))
        tensors = [port.tensor for port in graph.outputs]

        @tf.function
        def gradients(x):
            (y,) = frozen.splice(graph, [x], tensors)
            return [
                tf.gradients(y, x, direction)[0],
                tf.gradients(meaning(x), x, direction)[0],
            ]

        found, expected = gradients(x)
        outputs = np.zeros((*shape[:2], shape[3]))
        np.testing.assert_allclose(
            found, expected, rtol=0, atol=_slack(outputs)
        )


def test_a_kernel_that_is_fed_is_the_one_that_counts():
    kernel = tf.Variable(_draw(3, 3, 2, 12), name="kernel")
    graph = tiny_graphs.freeze(
        lambda x: tf.nn.bias_add(
            tf.nn.conv2d(x, kernel, 1, "SAME"), np.ones(12, "f")
        ),
        (None, 8, 8, 8),
    )
    output = graph.outputs[0].tensor
    x, other = _draw(2, 8, 8, 8), _draw(3, 3, 2, 12, seed=1)
    going = walk.Walk(graph, [output], {"x": x})
    going.set_constant("kernel:0", other)
    ((y,),) = going.to([output])
    expected = _by_group(tf.constant(x), other, 1) + 1
    np.testing.assert_allclose(y, expected, rtol=0, atol=_slack(other))


class TestAsDense:
    def test_names_stay_and_no_group_is_left(self):
        (grouped, _) = _functions(_draw(3, 3, 2, 12), tf.nn.relu)
        graph = tiny_graphs.freeze(grouped, (None, 8, 8, 8))
        dense = grouped_convolutions.as_dense(graph)
        assert set(graph.nodes) <= set(dense.nodes)
        assert dense.outputs == graph.outputs
        counts = [
            {grouped_convolutions.groups(g, node) for node in g}
            for g in (graph, dense)
        ]
        assert counts == [{1, 4}, {1}]

    def test_a_graph_without_groups_is_the_same_graph(self):
        graph = tiny_graphs.freeze(
            lambda x: tf.nn.conv2d(x, _draw(3, 3, 8, 4), 1, "SAME"),
            (None, 8, 8, 8),
        )
        assert grouped_convolutions.as_dense(graph) is graph

    def test_groups_of_channels_that_stand_first(self):
        graph = tiny_graphs.freeze(
            lambda x: tf.nn.conv2d(
                x, _draw(3, 3, 2, 12), 1, "SAME", data_format="NCHW"
            ),
            (None, 8, 6, 6),
        )
        (node,) = [n for n in graph if n.op == "Conv2D"]
        assert grouped_convolutions.groups(graph, node) == 4

    def test_a_converter_sees_the_groups(self):
        (grouped, _) = _functions(_draw(3, 3, 2, 12), tf.identity)
        graph = tiny_graphs.freeze(grouped, (1, 8, 8, 8))
        ops = [
            [op.type for op in function.graph.get_operations()]
            for function in (
                frozen.to_function(graph),
                frozen.to_function(graph, as_written=True),
            )
        ]
        assert ["Tile" in found for found in ops] == [True, False]
