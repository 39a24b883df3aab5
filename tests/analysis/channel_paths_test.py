"""Paths are exactly where a factor can be moved from layer to layer."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from dsg_tf.analysis import channel_paths, layer_edits, linear_layers
from dsg_tf.graph import frozen
from tests import tiny_graphs

_EPS = np.finfo(np.float32).eps
_C = 4


def _random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _conv(x, channels=_C, size=3, seed=0, **kwargs):
    kernel = _random(size, size, x.shape[-1], channels, seed=seed)
    return tf.nn.conv2d(x, kernel, 1, "SAME", **kwargs)


def _dense(x, outputs=3, seed=1):
    return tf.matmul(x, _random(x.shape[-1], outputs, seed=seed))


def _freeze(between, *, last=_conv, shape=(8, 8, 3)):
    """The graph of a layer, what stands between, and another layer."""
    return tiny_graphs.freeze(
        lambda x: last(between(_conv(x) + _random(_C, seed=2))), (None, *shape)
    )


def _first(between, **kwargs):
    return channel_paths.find(_freeze(between, **kwargs))[0]


def _leaky(x):
    return tf.nn.leaky_relu(x, 0.1)


def _resize(method):
    return lambda x: tf.image.resize(x, (4, 4), method=method)


def _pad(mode, value=0.0):
    return lambda x: tf.pad(
        x, [[0, 0], [1, 1], [1, 1], [0, 0]], mode, constant_values=value
    )


def _flat(x):
    return tf.reshape(x, (-1, 8 * 8 * _C))


_BOUND = np.float32([0.5, 1.0, 2.0, 4.0])

_PASSING = {
    "nothing": (tf.identity, []),
    "Relu": (tf.nn.relu, ["Relu"]),
    "Relu6": (tf.nn.relu6, ["Relu6"]),
    "LeakyRelu": (_leaky, ["LeakyRelu"]),
    "Minimum": (
        lambda x: tf.minimum(tf.nn.relu(x), _BOUND),
        ["Relu", "Minimum"],
    ),
    "Minimum on the right": (
        lambda x: tf.minimum(tf.constant(2.0), tf.nn.relu(x)),
        ["Relu", "Minimum"],
    ),
    "MaxPool": (lambda x: tf.nn.max_pool2d(x, 2, 2, "SAME"), ["MaxPool"]),
    "AvgPool": (lambda x: tf.nn.avg_pool2d(x, 3, 2, "SAME"), ["AvgPool"]),
    "Pad": (_pad("CONSTANT"), ["Pad"]),
    "PadV2": (
        lambda x: tf.raw_ops.PadV2(
            input=x,
            paddings=[[0, 0], [1, 0], [0, 1], [0, 0]],
            constant_values=0.0,
        ),
        ["PadV2"],
    ),
    "MirrorPad": (_pad("REFLECT"), ["MirrorPad"]),
    "bilinear": (_resize("bilinear"), ["ResizeBilinear"]),
    "nearest": (_resize("nearest"), ["ResizeNearestNeighbor"]),
    "space and back": (
        lambda x: tf.batch_to_space(
            tf.space_to_batch(x, [2, 2], [[0, 0], [0, 0]]),
            [2, 2],
            [[0, 0], [0, 0]],
        ),
        ["SpaceToBatchND", "BatchToSpaceND"],
    ),
    "Mean": (
        lambda x: tf.reduce_mean(x, (1, 2), keepdims=True),
        ["Mean"],
    ),
    "ExpandDims, Squeeze": (
        lambda x: tf.squeeze(tf.expand_dims(x, 1), 1),
        ["ExpandDims", "Squeeze"],
    ),
    "Reshape": (
        lambda x: tf.reshape(tf.nn.relu(x), (-1, 4, 16, _C)),
        ["Relu", "Reshape"],
    ),
}


class TestPaths:
    @pytest.mark.parametrize("name", list(_PASSING))
    def test_run_through_what_treats_each_channel_alone(self, name):
        between, ops = _PASSING[name]
        path = _first(between)
        assert isinstance(path, channel_paths.Path)
        assert [node.op for node in path.nodes] == ops
        assert path.repeats == 1

    @pytest.mark.parametrize("name", list(_PASSING))
    def test_carry_a_factor_from_layer_to_layer(self, name):
        """W2 f(W1 x) = (W2 s) f(W1 x / s): the definition itself.

        See `_check_factor`.
        """
        graph = _freeze(_PASSING[name][0])
        _check_factor(graph, channel_paths.find(graph)[0])

    @pytest.mark.parametrize(
        ("between", "expected"),
        [
            (tf.nn.relu6, np.full(_C, 6.0)),
            (lambda x: tf.minimum(x, 1.5), np.full(_C, 1.5)),
            (lambda x: tf.minimum(x, _BOUND), _BOUND),
            (lambda x: tf.minimum(_BOUND.reshape(1, 1, 1, _C), x), _BOUND),
        ],
        ids=["Relu6", "one", "by channel", "full rank"],
    )
    def test_bounds_are_told_by_channel(self, between, expected):
        path = _first(between)
        (name,) = path.clips
        assert name == path.nodes[0].name
        np.testing.assert_array_equal(path.clips[name], expected)
        assert path.clips[name].dtype == np.float64

    def test_end_where_the_next_one_begins(self):
        graph = tiny_graphs.freeze(
            lambda x: _dense(_dense(tf.nn.relu(_dense(x, 5)), 4)), (None, 3)
        )
        first, second, last = channel_paths.find(graph)
        layers = linear_layers.find(graph)
        assert first.first.node == layers[0].node
        assert first.second.node == second.first.node == layers[1].node
        assert second.second.node == layers[2].node
        assert last.reason == "the way ends at an output of the model"
        assert first.name == f"{layers[0].name} -> {layers[1].name}"

    @pytest.mark.parametrize(
        "last",
        [
            lambda x: tf.nn.depthwise_conv2d(
                x, _random(3, 3, _C, 2), (1, 1, 1, 1), "SAME"
            ),
            lambda x: tf.nn.conv2d(x, _random(3, 3, 2, 6), 1, "VALID"),
            lambda x: tf.nn.conv2d_transpose(
                x, _random(3, 3, 5, _C), (2, 8, 8, 5), 1
            ),
        ],
        ids=["depthwise", "grouped", "transposed"],
    )
    def test_end_at_layers_of_any_layout(self, last):
        graph = tiny_graphs.freeze(
            lambda x: last(tf.nn.relu(_conv(x))), (2, 8, 8, 3)
        )
        path = channel_paths.find(graph)[0]
        assert isinstance(path, channel_paths.Path)
        _check_factor(graph, path)

    def test_from_a_depthwise_layer_have_all_its_channels(self):
        def function(x):
            kernel = _random(3, 3, 3, 2)
            y = tf.nn.depthwise_conv2d(x, kernel, (1, 1, 1, 1), "SAME")
            return _conv(tf.nn.relu(y))

        graph = tiny_graphs.freeze(function, (None, 8, 8, 3))
        path = channel_paths.find(graph)[0]
        assert path.first.out_channels == path.second.in_channels == 6
        _check_factor(graph, path)

    def test_of_a_conv1d_begin_behind_its_squeeze(self):
        model = keras.Sequential(
            [
                keras.Input((8, 3)),
                keras.layers.Conv1D(4, 3, activation="relu", name="a"),
                keras.layers.Conv1D(5, 3, name="b"),
            ]
        )
        graph = tiny_graphs.freeze(
            lambda x: model(x, training=False), (None, 8, 3)
        )
        path, _ = channel_paths.find(graph)
        assert path.name == "a -> b"
        assert [n.op for n in path.nodes] == ["Relu", "ExpandDims"]
        _check_factor(graph, path)


def _check_factor(graph, path):
    """A path's factors, moved, change nothing but the order of sums.

    They are powers of two, so that every product is the same. TensorFlow may
    sum in another order where it fuses other operations: each sum has at most
    256 terms, about as large as the output (unit normal kernels).
    """
    scale = 2.0 ** np.arange(path.first.out_channels)
    edit = layer_edits.Edit(graph)
    first, second = path.first, path.second
    bias = None if first.bias is None else first.bias / scale
    edit.set(first, first.with_scaled_outputs(first.kernel, 1 / scale), bias)
    edit.set(
        second,
        second.with_scaled_inputs(second.kernel, path.at_second(scale)),
    )
    bounds = {name: bound / scale for name, bound in path.clips.items()}
    channel_paths.set_bounds(edit, graph, bounds)
    moved = edit.graph()
    assert moved.outputs == graph.outputs
    (port,) = graph.inputs
    x = 3 * _random(*[2 if n is None else n for n in port.shape])
    (before,), (after,) = (
        frozen.to_function(g)(tf.constant(x)) for g in (graph, moved)
    )
    assert np.isfinite(before).all()
    size = np.abs(before).max()
    np.testing.assert_allclose(after, before, rtol=0, atol=256 * _EPS * size)


class TestFlattened:
    def test_channels_stand_once_a_position(self):
        graph = _freeze(lambda x: _flat(tf.nn.relu(x)), last=_dense)
        path = channel_paths.find(graph)[0]
        assert path.repeats == 64
        values = np.arange(_C)
        np.testing.assert_array_equal(path.at_second(values), [0, 1, 2, 3] * 64)
        _check_factor(graph, path)

    def test_pooled_images_are_smaller(self):
        path = _first(
            lambda x: tf.reshape(
                tf.nn.max_pool2d(x, 2, 2, "VALID"), (-1, 16 * _C)
            ),
            last=_dense,
        )
        assert path.repeats == 16

    def test_images_of_one_position_repeat_nothing(self):
        path = _first(
            lambda x: tf.reshape(
                tf.reduce_mean(x, (1, 2), keepdims=True), (-1, _C)
            ),
            last=_dense,
        )
        assert path.repeats == 1

    @pytest.mark.parametrize(
        ("clip", "expected"),
        [
            (tf.nn.relu6, np.full(_C, 6.0)),
            (lambda x: tf.minimum(x, 1.5), np.full(_C, 1.5)),
            (lambda x: tf.minimum(x, np.tile(_BOUND, 64)), _BOUND),
        ],
        ids=["Relu6", "one", "by channel"],
    )
    def test_bounds_behind_are_those_of_each_position(self, clip, expected):
        graph = _freeze(lambda x: clip(_flat(x)), last=_dense)
        path = channel_paths.find(graph)[0]
        (bound,) = path.clips.values()
        np.testing.assert_array_equal(bound, expected)
        _check_factor(graph, path)

    def test_bounds_that_differ_between_positions_break_it(self):
        bound = np.linspace(1, 2, 64 * _C, dtype=np.float32)
        found = _first(lambda x: tf.minimum(_flat(x), bound), last=_dense)
        assert found.reason == "Minimum without a bound by channel"

    def test_an_unknown_size_breaks_it(self):
        graph = tiny_graphs.freeze(
            lambda x: _dense(
                tf.ensure_shape(
                    tf.reshape(_conv(x), (tf.shape(x)[0], -1)), (None, 12)
                )
            ),
            (None, None, 8, 3),
        )
        assert "moves the channels" in channel_paths.find(graph)[0].reason


class TestBroken:
    @pytest.mark.parametrize(
        ("between", "reason"),
        [
            (tf.sigmoid, "Sigmoid does not commute with a factor"),
            (tf.tanh, "Tanh does not commute with a factor"),
            (lambda x: x * x, "Mul does not commute with a factor"),
            (lambda x: x + 1.0 + x, "read by 2 operations"),
            (lambda x: tf.nn.relu(x) + 1.0, "AddV2 does not commute"),
            (lambda x: tf.reduce_mean(x, -1, keepdims=True), "over channels"),
            (lambda x: tf.reduce_mean(x, 0, keepdims=True), "over channels"),
            (_pad("CONSTANT", 1.0), "Pad with values"),
            (
                lambda x: tf.reshape(x, (-1, 8, 8 * _C // 2, 2)),
                "Reshape moves the channels",
            ),
            (
                lambda x: tf.transpose(x, (0, 2, 1, 3)),
                "Transpose does not commute",
            ),
            (lambda x: tf.minimum(x, -x), "read by 2 operations"),
            (
                lambda x: tf.minimum(x, _random(1, 8, 8, _C) ** 2),
                "Minimum without a bound by channel",
            ),
            (
                lambda x: tf.minimum(x, -1.0),
                "Minimum without a bound by channel",
            ),
            (
                lambda x: tf.pad(x, [[0, 0], [0, 0], [0, 0], [0, 2]]),
                "the next layer mixes the channels",
            ),
        ],
        ids=[
            "Sigmoid",
            "Tanh",
            "product",
            "two readers",
            "shift",
            "mean of channels",
            "mean of samples",
            "values",
            "moved",
            "swapped",
            "two activations",
            "by position",
            "negative",
            "more channels",
        ],
    )
    def test_the_reason_is_told(self, between, reason):
        found = _first(between)
        assert isinstance(found, channel_paths.Broken)
        assert reason in found.reason

    def test_a_sum_with_a_skip_connection_ends_both_ways(self):
        def function(x):
            y = _conv(tf.nn.relu(_conv(x, 3)), 3, seed=1)
            return _conv(tf.nn.relu(x + y), seed=2)

        graph = tiny_graphs.freeze(function, (None, 8, 8, 3))
        first, second, _ = channel_paths.find(graph)
        assert isinstance(first, channel_paths.Path)
        assert "AddV2" in second.reason

    def test_a_layer_that_feeds_two_layers_has_no_path(self):
        def function(x):
            y = tf.nn.relu(_conv(x))
            return _conv(y, seed=1), _conv(y, seed=2)

        graph = tiny_graphs.freeze(function, (None, 8, 8, 3))
        assert channel_paths.find(graph)[0].reason == "read by 2 operations"

    def test_what_the_caller_reads_keeps_its_scale(self):
        def function(x):
            y = tf.nn.relu(_conv(x))
            return y, _conv(y, seed=1)

        graph = tiny_graphs.freeze(function, (None, 8, 8, 3))
        found = channel_paths.find(graph)[0]
        assert found.reason == "the way ends at an output of the model"

    def test_the_last_layer_is_told_too(self):
        graph = tiny_graphs.freeze(_conv, (None, 8, 8, 3))
        (found,) = channel_paths.find(graph)
        assert "output of the model" in found.reason

    def test_channels_that_stand_first_are_not_followed(self):
        kernels = [_random(3, 3, 3, _C), _random(3, 3, _C, 2)]

        def function(x):
            y = tf.nn.conv2d(x, kernels[0], 1, "SAME", data_format="NCHW")
            y = tf.nn.relu(y)
            return tf.nn.conv2d(y, kernels[1], 1, "SAME", data_format="NCHW")

        graph = tiny_graphs.freeze(function, (None, 3, 8, 8))
        reasons = {b.reason for b in channel_paths.find(graph)}
        assert reasons == {"channels stand first"}

    def test_each_layer_has_one_entry_in_order(self):
        graph = _freeze(tf.nn.relu)
        found = channel_paths.find(graph)
        assert len(found) == len(linear_layers.find(graph)) == 2
        assert found[1].first == linear_layers.find(graph)[1].name


def _bounded(graph, bounds):
    edit = layer_edits.Edit(graph)
    channel_paths.set_bounds(edit, graph, bounds)
    return edit.graph()


class TestBounds:
    @pytest.mark.parametrize(
        "clip",
        [
            tf.nn.relu6,
            lambda x: tf.minimum(tf.nn.relu(x), 6.0),
            lambda x: tf.minimum(_BOUND, tf.nn.relu(x)),
        ],
        ids=["Relu6", "one", "by channel"],
    )
    @pytest.mark.parametrize("bound", [np.array([0.5, 1, 2, 9]), None])
    def test_new_bounds_clip_there(self, clip, bound):
        graph = tiny_graphs.freeze(lambda x: clip(20 * x), (None, 8, 8, _C))
        name = graph.producer(graph.outputs[0].tensor).name
        bounded = _bounded(graph, {name: bound})
        assert bounded.outputs == graph.outputs
        x = _random(2, 8, 8, _C)
        (y,) = frozen.to_function(bounded)(tf.constant(x))
        expected = np.maximum(np.float32(20) * x, 0)
        if bound is not None:
            expected = np.minimum(expected, np.float32(bound))
        np.testing.assert_array_equal(y, expected)

    def test_a_path_runs_through_bounds_that_were_set_or_dropped(self):
        graph = _freeze(lambda x: tf.minimum(tf.nn.relu(x), _BOUND))
        (name,) = channel_paths.find(graph)[0].clips
        halved = channel_paths.find(_bounded(graph, {name: _BOUND / 2}))[0]
        np.testing.assert_array_equal(halved.clips[name], _BOUND / 2)
        free = channel_paths.find(_bounded(graph, {name: None}))[0]
        assert isinstance(free, channel_paths.Path)
        assert not free.clips
