"""A parametric graph is the graph with those constants in place."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from dsg_tf.graph import frozen, ir, parametric
from tests import tiny_graphs


def _random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture
def graph():
    """Two layers of one kernel, a bias, and a function of the kernel."""
    kernel = tf.Variable(_random(4, 4), name="shared/kernel")
    bias = tf.Variable(_random(4, seed=1), name="last/bias")

    def function(x):
        hidden = tf.nn.relu(tf.matmul(x, kernel))
        return tf.matmul(hidden, tf.transpose(kernel)) + bias

    return tiny_graphs.freeze(function, (None, 4))


def _replaced(graph, constants):
    nodes = {
        ir.node_name(t): ir.Node.constant(ir.node_name(t), value)
        for t, value in constants.items()
    }
    return graph.replace_nodes(nodes)


def _expected(graph, constants, tensors, samples):
    function = frozen.to_function(_replaced(graph, constants), tensors)
    return [y.numpy() for y in function(tf.constant(samples))]


def _tensors(graph):
    return [graph.outputs[0].tensor] + [
        node.output for node in graph if node.op == "Relu"
    ]


def _joined(batches):
    return [np.concatenate(values) for values in zip(*batches, strict=True)]


_CONSTANTS = ("shared/kernel:0", "last/bias:0")


class TestValues:
    @pytest.mark.parametrize("count", [1, 5, 6, 7])
    def test_are_those_of_a_graph_with_these_constants(self, graph, count):
        runner = parametric.Parametric(graph, _CONSTANTS, batch_size=3)
        function = runner.function(_tensors(graph))
        x = _random(count, 4, seed=2)
        for seed in (3, 4):
            constants = {
                "shared/kernel:0": _random(4, 4, seed=seed),
                "last/bias:0": _random(4, seed=seed),
            }
            batches = list(runner.values(function, {"x": x}, constants))
            assert [len(b[0]) for b in batches] == [
                min(3, count - i) for i in range(0, count, 3)
            ]
            expected = _expected(graph, constants, _tensors(graph), x)
            for got, want in zip(_joined(batches), expected, strict=True):
                assert np.isfinite(got).all()
                # The same products, but a matrix product of fewer rows may
                # sum them in another order: 8 roundings of numbers below 10.
                np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)

    def test_of_constants_that_are_not_given_are_the_graphs(self, graph):
        runner = parametric.Parametric(graph, _CONSTANTS)
        function = runner.function([graph.outputs[0].tensor])
        x = _random(2, 4)
        ((got,),) = runner.values(function, {"x": x}, {})
        (expected,) = frozen.to_function(graph)(tf.constant(x))
        np.testing.assert_array_equal(got, expected)

    def test_taken_in_turns_do_not_mix(self, graph):
        runner = parametric.Parametric(graph, _CONSTANTS, batch_size=1)
        function = runner.function([graph.outputs[0].tensor])
        x = _random(3, 4)
        kernels = [{"shared/kernel:0": k * np.eye(4)} for k in (1, 3)]
        both = zip(
            *(runner.values(function, {"x": x}, k) for k in kernels),
            strict=True,
        )
        bias = graph.literal("last/bias:0")
        for row, ((one,), (three,)) in zip(x, both, strict=True):
            np.testing.assert_array_equal(one[0], np.maximum(row, 0) + bias)
            nine = np.float32(3) * (np.float32(3) * np.maximum(row, 0))
            np.testing.assert_array_equal(three[0], nine + bias)

    def test_of_a_fixed_batch_are_those_of_the_samples_alone(self):
        kernel = tf.Variable(_random(4, 2), name="kernel")
        graph = tiny_graphs.freeze(lambda x: tf.matmul(x, kernel), (3, 4))
        runner = parametric.Parametric(graph, ["kernel:0"], batch_size=2)
        function = runner.function([graph.outputs[0].tensor])
        x = _random(5, 4)
        constants = {"kernel:0": np.eye(4)[:, :2]}
        batches = list(runner.values(function, {"x": x}, constants))
        assert [len(y) for (y,) in batches] == [3, 2]
        np.testing.assert_array_equal(_joined(batches)[0], x[:, :2])

    def test_only_what_a_tensor_depends_on_runs(self):
        """The other half fails: four numbers make no rows of three."""
        kernel = tf.Variable(_random(4, 2), name="kernel")

        def function(x):
            y = tf.matmul(x, kernel)
            return tf.nn.relu(y), tf.reshape(x, (-1, 3))

        graph = tiny_graphs.freeze(function, (None, 4))
        runner = parametric.Parametric(graph, ["kernel:0"])
        first = runner.function([graph.outputs[0].tensor])
        ((y,),) = runner.values(first, {"x": _random(1, 4)}, {})
        assert y.shape == (1, 2)
        second = runner.function([graph.outputs[1].tensor])
        with pytest.raises(tf.errors.InvalidArgumentError):
            list(runner.values(second, {"x": _random(1, 4)}, {}))

    def test_the_graph_stays(self, graph):
        before = graph.literal("last/bias:0")
        runner = parametric.Parametric(graph, _CONSTANTS)
        function = runner.function([graph.outputs[0].tensor])
        constants = {"last/bias:0": np.full(4, 9)}
        list(runner.values(function, {"x": _random(1, 4)}, constants))
        np.testing.assert_array_equal(graph.literal("last/bias:0"), before)
