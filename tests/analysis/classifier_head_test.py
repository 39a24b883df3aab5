"""Classifier heads are found, and nothing else is taken for one."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tiny_graphs

from dsg_tf.analysis import classifier_head


def _weights(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("f")


def _features(x):
    return tf.reduce_mean(tf.nn.relu(x), [1, 2])


def _dense(x, classes):
    return tf.nn.bias_add(
        _features(x) @ _weights(4, classes), _weights(classes)
    )


def _find(function):
    graph = tiny_graphs.freeze(function, (None, 8, 8, 4))
    head = classifier_head.find(graph)
    return graph, head


@pytest.mark.parametrize(
    "head",
    [
        lambda x: tf.nn.softmax(_dense(x, 5)),
        lambda x: tf.nn.log_softmax(_dense(x, 5)),
        lambda x: _dense(x, 5),
        lambda x: _features(x) @ _weights(4, 5),
        lambda x: tf.nn.softmax(tf.reshape(_conv_head(x), (-1, 5))),
        lambda x: tf.reshape(tf.nn.softmax(_conv_head(x)), (-1, 5)),
        lambda x: tf.squeeze(_conv_head(x), [1, 2]),
        lambda x: _conv_head(x),
        lambda x: tf.nn.softmax(_conv_head(x)),
        lambda x: tf.reduce_mean(
            tf.nn.conv2d(x, _weights(1, 1, 4, 5), 1, "SAME"), [1, 2]
        ),
    ],
    ids=[
        *("softmax", "log_softmax", "logits", "no_bias", "conv_reshape"),
        *("softmax_reshape", "conv_squeeze", "conv", "conv_softmax"),
        "pooled_scores",
    ],
)
def test_softmax_heads_and_logits_are_found(head):
    graph, found = _find(head)
    assert found is not None
    assert (found.num_classes, found.multi_label) == (5, False)
    assert graph.shape(found.logits)[-1] == 5
    ahead = {n.op for n in graph.ancestors(found.logits)}
    assert not ahead & {"Softmax", "LogSoftmax"}


def _conv_head(x):
    pooled = tf.reduce_mean(x, [1, 2], keepdims=True)
    return tf.nn.bias_add(
        tf.nn.conv2d(pooled, _weights(1, 1, 4, 5), 1, "SAME"), _weights(5)
    )


def test_logits_are_what_softmax_reads():
    graph, found = _find(lambda x: tf.nn.softmax(_dense(x, 5)))
    assert graph.producer(found.logits).op == "BiasAdd"
    assert found.output == "output_0"


@pytest.mark.parametrize(("outputs", "classes"), [(1, 2), (5, 5)])
def test_sigmoid_heads_have_independent_labels(outputs, classes):
    graph, found = _find(lambda x: tf.sigmoid(_dense(x, outputs)))
    assert (found.num_classes, found.multi_label) == (classes, True)
    assert graph.shape(found.logits)[-1] == outputs


@pytest.mark.parametrize(
    "output",
    [
        lambda x: _dense(x, 1),
        lambda x: tf.nn.softmax(_dense(x, 1)),
        lambda x: tf.nn.conv2d(x, _weights(1, 1, 4, 5), 1, "SAME"),
        lambda x: tf.nn.softmax(
            tf.nn.conv2d(x, _weights(1, 1, 4, 5), 1, "SAME")
        ),
        lambda x: tf.sigmoid(tf.nn.conv2d(x, _weights(1, 1, 4, 1), 1, "SAME")),
        lambda x: tf.math.l2_normalize(_dense(x, 5), -1),
        lambda x: tf.nn.relu(_dense(x, 5)),
        lambda x: tf.argmax(_dense(x, 5), -1),
        lambda x: _features(x) @ _weights(4, 5) + _dense(x, 5),
        lambda x: tf.reduce_sum(_dense(x, 5)),
        # Attention-like: softmax over positions, then flattened.
        lambda x: tf.reshape(
            tf.nn.softmax(tf.reshape(x, (-1, 4, 64))), (-1, 256)
        ),
    ],
    ids=[
        *("regression", "one_class", "map", "segmentation", "mask"),
        *("embedding", "relu", "argmax", "sum_of_two", "scalar", "attention"),
    ],
)
def test_what_scores_no_classes_is_no_head(output):
    assert _find(output)[1] is None


def test_first_of_several_outputs_that_scores_classes_is_taken():
    def function(x):
        return {
            "a_box": tf.math.l2_normalize(_dense(x, 4), -1),
            "b_class": tf.nn.softmax(_dense(x, 5)),
            "c_class": tf.nn.softmax(_dense(x, 7)),
        }

    assert _find(function)[1].num_classes == 5
