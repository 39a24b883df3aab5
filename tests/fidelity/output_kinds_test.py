"""What an output is follows from the operation that makes it."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tiny_graphs

from dsg_tf.fidelity import output_kinds

_KIND = output_kinds.Kind


def _weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype("f")


def _dense(x, size: int):
    return tf.reduce_mean(tf.nn.relu(x), [1, 2]) @ _weights(4, size)


def _conv(x, size: int):
    return tf.nn.conv2d(x, _weights(1, 1, 4, size), 1, "SAME")


def _kinds(function) -> list[str]:
    """The kinds of the outputs, in order."""
    graph = tiny_graphs.freeze(function, (None, 8, 8, 4))
    found = output_kinds.find(graph)
    assert list(found) == [port.name for port in graph.outputs]
    return [kind.name for kind in found.values()]


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (lambda x: tf.nn.softmax(_dense(x, 5)), _KIND.PROBABILITIES),
        (lambda x: tf.nn.log_softmax(_dense(x, 5)), _KIND.PROBABILITIES),
        # A map of classes, and one whose positions are in a row.
        (lambda x: tf.nn.softmax(_conv(x, 3)), _KIND.PROBABILITIES),
        (
            lambda x: tf.reshape(tf.nn.softmax(_conv(x, 3)), (-1, 64, 3)),
            _KIND.PROBABILITIES,
        ),
        # Then the last axis is no longer the classes'.
        (
            lambda x: tf.reshape(tf.nn.softmax(_conv(x, 3)), (-1, 192)),
            _KIND.VALUES,
        ),
        (lambda x: tf.nn.softmax(_dense(x, 5))[:, :1], _KIND.VALUES),
        (lambda x: _dense(x, 5), _KIND.LOGITS),
        (lambda x: _dense(x, 1), _KIND.VALUES),
        (lambda x: tf.sigmoid(_dense(x, 1)), _KIND.SIGMOIDS),
        (lambda x: tf.sigmoid(_dense(x, 50)), _KIND.SIGMOIDS),
        (lambda x: tf.sigmoid(_conv(x, 1)), _KIND.SIGMOIDS),
        (lambda x: tf.sigmoid(_dense(x, 1))[:, 0], _KIND.SIGMOIDS),
        (
            lambda x: tf.concat(
                [tf.sigmoid(_dense(x, 2)), tf.sigmoid(_dense(x, 3))], -1
            ),
            _KIND.SIGMOIDS,
        ),
        (
            lambda x: tf.concat([tf.sigmoid(_dense(x, 2)), _dense(x, 3)], -1),
            _KIND.VALUES,
        ),
        (lambda x: 2 * tf.sigmoid(_dense(x, 2)), _KIND.VALUES),
        (lambda x: tf.tanh(_conv(x, 3)), _KIND.VALUES),
        (lambda x: _conv(x, 3), _KIND.VALUES),
        (lambda x: tf.nn.relu(_dense(x, 9)), _KIND.VALUES),
        (lambda x: tf.argmax(_dense(x, 5), -1), _KIND.WHOLE),
        (lambda x: _dense(x, 5) > 0, _KIND.WHOLE),
        (lambda x: tf.constant(_weights(4, 2)), _KIND.CONSTANT),
    ],
)
def test_an_output_is_what_makes_it(function, kind):
    # Beside an output that reads the input, as a constant alone would not.
    assert _kinds(lambda x: (function(x), tf.tanh(x)))[0] == kind.name


def test_beside_a_classifier_a_linear_layer_regresses():
    assert _kinds(
        lambda x: (_dense(x, 4), tf.nn.softmax(_dense(x, 5)), _dense(x, 10))
    ) == ["VALUES", "PROBABILITIES", "VALUES"]
    assert _kinds(lambda x: (_dense(x, 4), tf.sigmoid(_dense(x, 1)))) == [
        "VALUES",
        "SIGMOIDS",
    ]


def test_what_a_softmax_reads_is_logits_and_of_linear_layers_the_first():
    def both(x):
        scores = _dense(x, 5)
        return _dense(x, 3), scores, tf.nn.softmax(scores)

    assert _kinds(both) == ["VALUES", "LOGITS", "PROBABILITIES"]
    assert _kinds(lambda x: (_dense(x, 5), _dense(x, 4))) == [
        "LOGITS",
        "VALUES",
    ]
