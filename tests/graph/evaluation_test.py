"""Tensors have the values of all samples, however many go at a time."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tiny_graphs

from dsg_tf.graph import evaluation

_EPS = np.finfo(np.float32).eps


def _freeze(function, *shapes):
    names = [f"in_{i}" for i in range(len(shapes))]
    return tiny_graphs.freeze(function, *shapes, names=names)


def _sample(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


class TestEvaluate:
    def test_constants_need_no_feeds(self):
        w = tf.Variable([4.0, 9.0])
        graph = _freeze(lambda x: x * tf.sqrt(w), (None, 2))
        root = next(n for n in graph if n.op == "Sqrt").output
        values = evaluation.evaluate(graph, [root, root])
        assert list(values) == [root]
        np.testing.assert_array_equal(values[root], [2, 3])

    def test_feeds_are_by_tensor(self):
        graph = _freeze(lambda a, b: a - b, (None, 2), (None, 2))
        a, b = (p.tensor for p in graph.inputs)
        out = graph.outputs[0].tensor
        values = evaluation.evaluate(
            graph, [out], {b: np.ones((1, 2)), a: np.full((1, 2), 3)}
        )
        np.testing.assert_array_equal(values[out], [[2, 2]])

    def test_nothing_wanted_is_nothing_done(self):
        assert evaluation.evaluate(_freeze(tf.nn.relu, (None, 2)), []) == {}


class TestBatches:
    @pytest.mark.parametrize(
        ("batch", "count", "sizes"),
        [
            (None, 7, [3, 3, 1]),
            (None, 6, [3, 3]),
            (None, 2, [2]),
            (4, 7, [4, 3]),
            (4, 8, [4, 4]),
            (4, 1, [1]),
        ],
    )
    def test_together_are_the_values_of_all_samples(self, batch, count, sizes):
        """A fixed batch is filled up, and what fills it is left out."""
        graph = _freeze(lambda x: x + 1.0, (batch, 2))
        x = _sample(count, 2)
        found = list(
            evaluation.batches(
                graph,
                [graph.outputs[0].tensor, "in_0:0"],
                {"in_0": x},
                size=3,
            )
        )
        assert [len(y) for y, _ in found] == sizes
        y, same = (np.concatenate(v) for v in zip(*found, strict=True))
        np.testing.assert_array_equal(y, x + np.float32(1))
        np.testing.assert_array_equal(same, x)

    def test_each_input_has_its_own_samples_and_type(self):
        graph = _freeze(
            lambda a, b: tf.cast(a, tf.float32) - b, (None, 2), (None, 2)
        )
        samples = {"in_1": np.ones((3, 2)), "in_0": np.full((3, 2), 5)}
        outputs = [p.tensor for p in graph.outputs]
        ((y,),) = evaluation.batches(graph, outputs, samples)
        np.testing.assert_array_equal(y, np.full((3, 2), 4))

    def test_rows_that_are_no_samples_are_all_there(self):
        graph = _freeze(lambda x: tf.reshape(x, (-1,)), (None, 4))
        outputs = [p.tensor for p in graph.outputs]
        sizes = [
            len(y)
            for (y,) in evaluation.batches(
                graph, outputs, {"in_0": _sample(5, 4)}, size=3
            )
        ]
        assert sizes == [12, 8]

    def test_an_input_of_unknown_rank_has_an_open_batch(self):
        graph = _freeze(tf.nn.relu, None)
        outputs = [p.tensor for p in graph.outputs]
        found = evaluation.batches(
            graph, outputs, {"in_0": _sample(5, 4)}, size=3
        )
        assert [len(y) for (y,) in found] == [3, 2]


class TestRelativeChange:
    def _change(self, function, other, x):
        graphs = [_freeze(f, (None, 2)) for f in (function, other)]
        return evaluation.relative_change(*graphs, {"in_0": x})

    def test_is_the_largest_change_over_the_largest_value(self):
        x = np.zeros((40, 2), np.float32)
        x[3, 0], x[37, 1] = -8.0, 4.0
        # At 4 by 1; the largest value stands in another batch.
        change = self._change(
            lambda x: x, lambda x: x + tf.cast(x > 3, tf.float32), x
        )
        assert change == 1 / 8

    def test_is_that_of_the_worst_output(self):
        change = self._change(
            lambda x: (x, x, 10.0 * x),
            lambda x: (x, 1.5 * x, 11.0 * x),
            _sample(4, 2),
        )
        # Two roundings of float32 at the most.
        assert change == pytest.approx(0.5, rel=4 * float(_EPS))

    def test_of_the_same_function_is_none(self):
        assert self._change(tf.nn.relu, tf.nn.relu, _sample(4, 2)) == 0

    def test_of_what_is_not_a_number_is_not_a_number(self):
        change = self._change(
            lambda x: (x, x),
            lambda x: (tf.where(x == 1, np.nan, x), 3.0 * x),
            np.array([[1, 2], [3, 4]]),
        )
        assert np.isnan(change)

    def test_of_zeros_is_finite(self):
        change = self._change(lambda x: 0.0 * x, tf.nn.relu, np.ones((1, 2)))
        assert np.isfinite(change)
        assert change >= 1
