"""Patterns match structure, in any order, and say why they do not."""

from __future__ import annotations

import itertools

import pytest
import tensorflow as tf

from dsg_tf.graph import frozen, pattern

_X, _Y = pattern.varying("x"), pattern.varying("y")
_A, _B = pattern.const("a"), pattern.const("b")


def _graph(function, dtype=tf.float32):
    return frozen.freeze(
        tf.function(function).get_concrete_function(
            tf.TensorSpec((None, 2), dtype, name="x")
        )
    )


def _match(wanted, graph):
    return pattern.match(wanted, graph, graph.outputs[0].tensor)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * [2.0, 3.0] + [4.0, 5.0],
        lambda x: [4.0, 5.0] + x * [2.0, 3.0],
        lambda x: [4.0, 5.0] + tf.constant([2.0, 3.0]) * x,
        lambda x: tf.constant([2.0, 3.0]) * x + [4.0, 5.0],
    ],
)
def test_commutative_operations_match_in_either_order(function):
    graph = _graph(function)
    found = _match(
        pattern.op("AddV2", pattern.op("Mul", _X, _A), _B, name="sum"), graph
    )
    assert found
    assert found["x"] == "x:0"
    assert found["sum"] == found.root == graph.outputs[0].tensor
    assert graph.literal(found["a"]).tolist() == [2.0, 3.0]
    assert graph.literal(found["b"]).tolist() == [4.0, 5.0]


def test_subtraction_matches_in_its_order_only():
    graph = _graph(lambda x: [4.0, 5.0] - x)
    assert _match(pattern.op("Sub", _A, _X), graph)
    assert not _match(pattern.op("Sub", _X, _A), graph)


@pytest.mark.parametrize("same", [True, False])
def test_a_name_stands_for_one_tensor(same):
    graph = _graph(lambda x: tf.abs(x) * (x if same else tf.abs(x)) + x)
    product = next(n for n in graph if n.op == "Mul")
    wanted = pattern.op("Mul", _X, pattern.op("Abs", _X))
    found = pattern.match(wanted, graph, product.output)
    assert bool(found) == same


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_alternatives_backtrack_into_what_lets_the_whole_match(order):
    """The right alternative is found, wherever it stands."""
    graph = _graph(lambda x: tf.sqrt(tf.abs(x)) - tf.abs(x))
    choices = [
        pattern.op("Sqrt", pattern.op("Abs", _Y)),
        pattern.op("Sqrt", pattern.op("Neg", _X)),
        pattern.op("Sqrt", pattern.op("Abs", _X)),
    ]
    first = pattern.one_of(*(choices[i] for i in order))
    # Only the third names x the same on both sides.
    wanted = pattern.op("Sub", first, pattern.op("Abs", _X))
    found = _match(wanted, graph)
    assert found
    assert found["x"] == "x:0"


def test_a_bound_name_makes_the_first_alternative_fail():
    graph = _graph(lambda x: tf.abs(x) - tf.sqrt(tf.abs(x)))
    first = pattern.one_of(
        pattern.var("v"), pattern.op("Abs", pattern.var("v"))
    )
    wanted = pattern.op(
        "Sub", first, pattern.op("Sqrt", pattern.op("Abs", pattern.var("v")))
    )
    found = _match(wanted, graph)
    assert found
    assert found["v"] == "x:0"


def test_kinds_of_variables_tell_constants_from_what_varies():
    graph = _graph(lambda x: x + tf.constant([1.0, 2.0]))
    assert _match(pattern.op("AddV2", pattern.var("p"), _A), graph)
    assert not _match(pattern.op("AddV2", _X, _Y), graph)
    assert not _match(pattern.op("AddV2", _A, _B), graph)


def test_a_literal_is_that_value_everywhere():
    graph = _graph(lambda x: x * tf.constant([2.0, 2.0]))
    assert _match(pattern.op("Mul", _X, pattern.literal(2.0)), graph)
    assert not _match(pattern.op("Mul", _X, pattern.literal(1.0)), graph)
    mixed = _graph(lambda x: x * tf.constant([2.0, 1.0]))
    assert not _match(pattern.op("Mul", _X, pattern.literal(2.0)), mixed)
    assert not _match(pattern.op("Mul", _X, pattern.literal(1.0)), mixed)


def test_float_casts_of_constants_are_looked_through():
    w = tf.Variable([2.0, 3.0])
    graph = _graph(lambda x: x * tf.sqrt(tf.cast(w, tf.float16)), tf.float16)
    found = _match(pattern.op("Mul", _X, pattern.op("Sqrt", _A)), graph)
    assert found
    assert graph.dtype(found["a"]) == tf.float32


def test_a_cast_that_is_asked_for_is_found():
    w = tf.Variable([2.0, 3.0])
    graph = _graph(lambda x: x * tf.cast(w, tf.float16), tf.float16)
    assert _match(pattern.op("Mul", _X, pattern.op("Cast", _A)), graph)


def test_casts_of_integers_are_not():
    w = tf.Variable([2, 3])
    graph = _graph(lambda x: x * tf.cast(w, tf.float32))
    found = _match(pattern.op("Mul", _X, _A), graph)
    assert graph.dtype(found["a"]) == tf.float32


def test_casts_of_what_varies_are_not():
    graph = _graph(lambda x: tf.cast(x, tf.float16) * [1.0, 2.0])
    found = _match(pattern.op("Mul", _X, _A), graph)
    assert graph.producer(found["x"]).op == "Cast"
    assert not _match(pattern.op("Cast", pattern.op("Mul", _X, _A)), graph)


class TestNoMatch:
    def test_the_deepest_mismatch_is_the_reason(self):
        graph = _graph(lambda x: tf.nn.relu(tf.sqrt(tf.abs(x))))
        wanted = pattern.one_of(
            pattern.op("Exp", _X),
            pattern.op("Relu", pattern.op("Sqrt", pattern.op("Neg|Exp", _X))),
            pattern.op("Relu", pattern.op("Abs", _X)),
        )
        missed = _match(wanted, graph)
        assert not missed
        assert missed.reason == "Abs where Exp or Neg was expected"
        assert graph.producer(missed.tensor).op == "Abs"

    @pytest.mark.parametrize(
        ("wanted", "reason"),
        [
            (pattern.op("Relu", _A), "a should be a constant"),
            (pattern.op("Relu", _X, _A), "Relu has too few inputs"),
            (pattern.op("Relu", pattern.literal(1.0)), "no constant 1.0"),
        ],
    )
    def test_the_reason_names_what_was_expected(self, wanted, reason):
        missed = _match(wanted, _graph(tf.nn.relu))
        assert not missed
        assert missed.reason == reason

    def test_a_name_that_is_taken_is_the_reason(self):
        graph = _graph(lambda x: tf.abs(x) - x)
        missed = _match(pattern.op("Sub", _X, _X), graph)
        assert not missed
        assert missed.reason.startswith("x is also ")


def test_something_else_than_a_pattern_is_an_error():
    with pytest.raises(TypeError, match="not a pattern"):
        _match(pattern.op("Relu", "x"), _graph(tf.nn.relu))
