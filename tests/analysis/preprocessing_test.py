"""Whatever a graph does to its input first is measured, or refused."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tiny_graphs

from dsg_tf.analysis import preprocessing

_KERNEL = np.random.default_rng(0).normal(0, 0.5, (3, 3, 3, 8)).astype("f")


def _affine(before, shape=(None, 8, 8, 3), kernel=_KERNEL):
    graph = tiny_graphs.freeze(
        lambda x: tf.nn.conv2d(before(x), kernel, 1, "SAME"), shape
    )
    found = list(preprocessing.first_layers(graph, graph.inputs[0]))
    assert len(found) < 2
    return found[0][1] if found else None


@pytest.mark.parametrize(
    "before",
    [
        lambda x: x,
        lambda x: tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]),
        lambda x: x[:, ::2, 1:],
        lambda x: tf.reshape(x, (-1, 4, 16, 3)),
    ],
    ids=["nothing", "pad", "crop", "reshape"],
)
def test_moving_values_changes_nothing(before):
    affine = _affine(before)
    assert affine.identity
    assert affine.channel.tolist() == [0, 1, 2]


def test_rescaling_and_normalization_are_composed():
    mean, deviation = np.float32([0.4, 0.5, 0.6]), np.float32([0.2, 0.3, 0.4])
    affine = _affine(lambda x: (x / 255.0 - mean) / deviation)
    assert not affine.identity
    # Float32 arithmetic on values up to 3, a few rounding errors of 6e-8.
    np.testing.assert_allclose(affine.scale, 1 / 255 / deviation, rtol=1e-3)
    np.testing.assert_allclose(affine.offset, -mean / deviation, rtol=1e-6)


def test_swapped_channels_are_sorted_back():
    affine = _affine(lambda x: x[..., ::-1] - np.float32([100, 110, 120]))
    assert affine.channel.tolist() == [2, 1, 0]
    np.testing.assert_allclose(affine.offset, [-100, -110, -120])
    assert affine.to_input(np.array([1.0, 2.0, 3.0])).tolist() == [3, 2, 1]


def test_repeated_channel_averages_what_its_copies_say():
    affine = _affine(lambda x: tf.concat([x, x, x], -1), shape=(None, 8, 8, 1))
    assert affine.identity
    assert affine.to_input(np.array([1.0, 2.0, 6.0])).tolist() == [3.0]


def test_input_with_a_channel_that_nobody_reads_gets_the_average():
    affine = _affine(lambda x: x[..., :3], shape=(None, 8, 8, 4))
    assert affine.to_input(np.array([1.0, 2.0, 6.0])).tolist() == [3.0]


@pytest.mark.parametrize(
    "before",
    [
        lambda x: tf.square(x),
        lambda x: tf.math.log(x),
        lambda x: tf.clip_by_value(x, 0.0, 1.0),
        lambda x: x - tf.reduce_mean(x, [1, 2, 3], keepdims=True),
        lambda x: tf.tile(tf.reduce_mean(x, -1, keepdims=True), (1, 1, 1, 3)),
    ],
    ids=["square", "log", "clip", "own_mean", "luminance"],
)
def test_what_is_not_affine_per_channel_is_no_evidence(before):
    assert _affine(before) is None


def test_two_inputs_mixed_before_a_layer_are_no_evidence():
    graph = tiny_graphs.freeze(
        lambda x, y: tf.nn.conv2d(x + y, _KERNEL, 1, "SAME"),
        (None, 8, 8, 3),
        (None, 8, 8, 3),
    )
    assert not list(preprocessing.first_layers(graph, graph.inputs[0]))


def test_padded_borders_are_not_what_is_measured():
    pads = [[0, 0], [1, 1], [1, 1], [0, 0]]
    affine = _affine(lambda x: tf.pad(x, pads) * 2.0 - 1.0)
    np.testing.assert_allclose(affine.scale, 2.0)
    np.testing.assert_allclose(affine.offset, -1.0)


def test_only_the_first_layer_counts():
    # A depthwise convolution is affine in constant inputs, and still a layer.
    first = np.ones((3, 3, 3, 1), np.float32)
    graph = tiny_graphs.freeze(
        lambda x: tf.nn.conv2d(
            tf.nn.depthwise_conv2d(x, first, [1, 1, 1, 1], "SAME"),
            _KERNEL,
            1,
            "SAME",
        ),
        (None, 8, 8, 3),
    )
    found = list(preprocessing.first_layers(graph, graph.inputs[0]))
    assert len(found) == 1
    assert found[0][0].inputs[0] == graph.inputs[0].tensor
