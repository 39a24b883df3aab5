"""A walk gives what the whole graph gives, and computes it once."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from dsg_tf.graph import frozen, ir, walk
from tests import tiny_graphs


def _random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture
def graph():
    """Two layers with a shortcut around the second."""
    kernels = [
        tf.Variable(_random(4, 4, seed=s), name=f"kernel_{s}") for s in (1, 2)
    ]

    def function(x):
        hidden = tf.nn.relu(tf.matmul(x, kernels[0]))
        return tf.nn.relu(tf.matmul(hidden, kernels[1]) + hidden)

    return tiny_graphs.freeze(function, (None, 4))


def _targets(graph):
    return [n.output for n in graph if n.op in ("MatMul", "Relu")]


def _expected(graph, tensors, samples):
    function = frozen.to_function(graph, tensors)
    return [y.numpy() for y in function(tf.constant(samples))]


def _joined(batches):
    return [np.concatenate(values) for values in zip(*batches, strict=True)]


@pytest.mark.parametrize("count", [1, 5, 6, 7])
def test_values_are_those_of_the_graph(graph, count):
    targets, x = _targets(graph), _random(count, 4)
    going = walk.Walk(graph, targets, {"x": x}, batch_size=3)
    for target, wanted in zip(
        targets, _expected(graph, targets, x), strict=True
    ):
        batches = list(going.to([target]))
        assert [len(b[0]) for b in batches] == [
            min(3, count - i) for i in range(0, count, 3)
        ]
        # A matrix product of fewer rows may sum in another order.
        np.testing.assert_allclose(
            _joined(batches)[0], wanted, rtol=1e-5, atol=1e-5
        )


def test_several_targets_come_together(graph):
    targets, x = _targets(graph), _random(2, 4)
    going = walk.Walk(graph, targets, {"x": x})
    found = _joined(going.to(targets[:3]))
    for got, wanted in zip(
        found, _expected(graph, targets[:3], x), strict=True
    ):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


def test_a_constant_counts_from_where_the_walk_is(graph):
    targets, x = _targets(graph), _random(2, 4)
    going = walk.Walk(graph, targets, {"x": x})
    (before,) = _joined(going.to([targets[0]]))
    going.set_constant("kernel_1:0", 9 * np.eye(4, dtype=np.float32))
    going.set_constant("kernel_2:0", np.eye(4, dtype=np.float32))
    (last,) = _joined(going.to([targets[-1]]))
    # The first layer was computed with the kernel it had then.
    np.testing.assert_allclose(last, 2 * np.maximum(before, 0), rtol=1e-6)
    assert not np.array_equal(graph.literal("kernel_2:0"), np.eye(4))


def test_what_is_behind_is_not_computed_again(graph, monkeypatch):
    ran = []
    between = walk.Walk._compute

    def spy(self, tensors):
        nodes, _ = self._between(tensors)
        ran.extend(n for n in nodes if self._graph[n].op == "MatMul")
        between(self, tensors)

    monkeypatch.setattr(walk.Walk, "_compute", spy)
    targets = _targets(graph)
    going = walk.Walk(graph, targets, {"x": _random(2, 4)})
    for target in targets:
        list(going.to([target]))
    assert len(ran) == len(set(ran)) == 2


def test_what_no_target_needs_is_forgotten(graph):
    targets = _targets(graph)
    going = walk.Walk(graph, targets, {"x": _random(2, 4)})
    list(going.to(targets[:1]))
    assert graph.inputs[0].tensor not in going._live[0]
    list(going.to(targets[-1:]))
    assert going._live[0] == {}


def test_a_target_that_is_asked_for_twice_stays(graph):
    hidden = next(n.output for n in graph if n.op == "Relu")
    going = walk.Walk(graph, [hidden, hidden], {"x": _random(2, 4)})
    (first,) = _joined(going.to([hidden]))
    (second,) = _joined(going.to([hidden]))
    np.testing.assert_array_equal(first, second)


def test_targets_may_be_left_out(graph):
    targets, x = _targets(graph), _random(2, 4)
    going = walk.Walk(graph, targets, {"x": x})
    (last,) = _joined(going.to([targets[-1]]))
    wanted = _expected(graph, [targets[-1]], x)[0]
    np.testing.assert_allclose(last, wanted, rtol=1e-5, atol=1e-5)


def test_a_fixed_batch_gives_the_samples_alone():
    kernel = tf.Variable(np.eye(4, 2, dtype=np.float32), name="kernel")
    graph = tiny_graphs.freeze(lambda x: tf.matmul(x, kernel), (3, 4))
    x = _random(5, 4)
    going = walk.Walk(graph, [graph.outputs[0].tensor], {"x": x}, batch_size=2)
    batches = list(going.to([graph.outputs[0].tensor]))
    assert [len(y) for (y,) in batches] == [3, 2]
    np.testing.assert_array_equal(_joined(batches)[0], x[:, :2])


def test_an_input_can_be_a_target(graph):
    x = _random(2, 4)
    tensor = graph.inputs[0].tensor
    going = walk.Walk(graph, [tensor, *_targets(graph)], {"x": x})
    np.testing.assert_array_equal(_joined(going.to([tensor]))[0], x)
    assert ir.node_name(tensor) == "x"
