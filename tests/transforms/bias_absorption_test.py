"""Absorption: exact where zeros are not padded, measured where they are."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tiny_graphs

from dsg_tf.analysis import linear_layers
from dsg_tf.graph import evaluation, ir
from dsg_tf.quant import weight_scales
from dsg_tf.transforms import bias_absorption, weight_rounding

_UNIT = np.finfo(np.float32).eps / 2
# Before the ReLU: below zero, near it, above, far above.
_BETA = np.array([-1.0, 0.5, 2.0, 5.0])
_GAMMA = np.array([1.0, 0.3, 0.5, 1.0])
_SHIFT = np.array([0.0, 0.0, 0.5, 2.0])  # max(0, beta - 3 gamma), by hand


def _draw(*shape, seed=0):
    values = np.random.default_rng([seed, *shape]).normal(size=shape)
    return values.astype(np.float32)


def _with_moments(graph: ir.Graph, *, layer=0) -> ir.Graph:
    """The graph as one whose first BN, beta and gamma above, was folded."""
    tensor = linear_layers.find(graph)[layer].output
    moments = {**graph.moments, tensor: ir.Moments(_BETA, _GAMMA)}
    return graph.replace_nodes({}, moments=moments)


def _layers(graph):
    return linear_layers.find(graph)


def _first(x):
    """4 channels, weights that give the moments to normal inputs."""
    kernel = np.diag(_GAMMA).astype(np.float32)
    return tf.nn.conv2d(x, kernel[None, None], 1, "SAME") + _BETA.astype("f4")


def _net(act=tf.nn.relu, size=1, padding="VALID", between=None):
    kernel, bias = _draw(size, size, 4, 3), _draw(3)

    def function(x):
        y = act(_first(x))
        y = y if between is None else between(y)
        return tf.nn.conv2d(y, kernel, 1, padding) + bias

    return _with_moments(tiny_graphs.freeze(function, (None, 8, 8, 4)))


def _output(graph, x):
    tensor = graph.outputs[0].tensor
    (value,) = evaluation.evaluate(graph, [tensor], {"x:0": x}).values()
    assert np.isfinite(value).all()
    return value.astype(np.float64)


def _pixels(n, *, seed=1, reach=10.0):
    """Normal inputs, none further than `reach` deviations."""
    values = np.random.default_rng(seed).normal(size=(n, 8, 8, 4))
    return np.clip(values, -reach, reach).astype(np.float32)


def _same_weights(a, b):
    for one, two in zip(_layers(a), _layers(b), strict=True):
        np.testing.assert_array_equal(one.kernel, two.kernel)
        np.testing.assert_array_equal(one.bias, two.bias)


class TestFormula:
    def test_what_is_always_there_moves_into_the_next_bias(self):
        graph = _net()
        result, report = bias_absorption.absorb_bias(graph)
        before, after = _layers(graph), _layers(result)
        # Differences of float32 numbers of up to 5, stored as float32.
        near = {"atol": 8 * _UNIT, "rtol": 0}
        np.testing.assert_allclose(after[0].bias, _BETA - _SHIFT, **near)
        kernel = before[1].kernel[0, 0].astype(np.float64)
        np.testing.assert_allclose(
            after[1].bias, before[1].bias + _SHIFT @ kernel, **near
        )
        for one, two in zip(before, after, strict=True):
            np.testing.assert_array_equal(one.kernel, two.kernel)
        assert report.rows[0].applied
        assert report.rows[1].reason == (
            "the way ends at an output of the model"
        )

    @pytest.mark.parametrize("deviations", [0.0, 1.5, 4.0])
    def test_deviations_say_what_counts_as_always(self, deviations):
        result, _ = bias_absorption.absorb_bias(_net(), deviations=deviations)
        expected = np.minimum(_BETA, deviations * _GAMMA)
        np.testing.assert_allclose(
            _layers(result)[0].bias,
            np.where(_BETA > 0, expected, _BETA),
            atol=8 * _UNIT,
        )

    def test_moments_shift_with_the_bias(self):
        graph = _net()
        result, _ = bias_absorption.absorb_bias(graph)
        moments = result.moments[_layers(result)[0].output]
        np.testing.assert_allclose(moments.mean, _BETA - _SHIFT, rtol=1e-15)
        np.testing.assert_array_equal(moments.deviation, _GAMMA)

    def test_a_next_layer_without_a_bias_gets_one(self):
        kernel = _draw(1, 1, 4, 3)
        graph = _with_moments(
            tiny_graphs.freeze(
                lambda x: tf.nn.conv2d(
                    tf.nn.relu(_first(x)), kernel, 1, "SAME"
                ),
                (None, 8, 8, 4),
            )
        )
        result, _ = bias_absorption.absorb_bias(graph)
        np.testing.assert_allclose(
            _layers(result)[1].bias,
            _SHIFT @ kernel[0, 0].astype(np.float64),
            atol=4 * _UNIT,
        )
        assert [p.tensor for p in result.outputs] == [
            p.tensor for p in graph.outputs
        ]

    def test_grids_of_the_weights_are_kept(self):
        graph = _net()
        grids = {
            x.node: weight_scales.choose(x.rows(), 4) for x in _layers(graph)
        }
        graph, _ = weight_rounding.round_weights(graph, grids)
        result, report = bias_absorption.absorb_bias(graph)
        assert report.applied
        for layer in _layers(result):
            assert result.weight_grids[layer.kernel_tensor].same_as(
                grids[layer.node]
            )


class TestFunction:
    @pytest.mark.parametrize("act", [tf.nn.relu, tf.nn.relu6])
    def test_inputs_within_three_deviations_are_treated_exactly(self, act):
        graph = _net(act)
        result, report = bias_absorption.absorb_bias(graph)
        assert report.applied
        x = _pixels(8, reach=2.99)
        wanted, found = _output(graph, x), _output(result, x)
        # Five float32 terms of at most 10 x 3 in either network.
        np.testing.assert_allclose(found, wanted, atol=2 * 8 * _UNIT * 100)

    def test_beyond_them_the_change_is_what_is_missing_to_c(self):
        graph = _net()
        result, _ = bias_absorption.absorb_bias(graph)
        x = 2 * _pixels(8)
        made = x.astype(np.float64) * _GAMMA.astype("f4") + _BETA
        # relu(y - c) + c - relu(y) = c - relu(y) where y < c.
        missing = np.maximum(_SHIFT - np.maximum(made, 0), 0)
        assert (missing > 0).any()
        kernel = _layers(graph)[1].kernel[0, 0].astype(np.float64)
        np.testing.assert_allclose(
            _output(result, x) - _output(graph, x),
            missing @ kernel,
            atol=2 * 8 * _UNIT * 100,
        )

    @pytest.mark.parametrize(
        "between",
        [
            lambda x: tf.nn.max_pool2d(x, 2, 2, "SAME"),
            lambda x: tf.nn.avg_pool2d(x, 3, 2, "SAME"),
            lambda x: tf.reduce_mean(x, [1, 2], keepdims=True),
        ],
        ids=["max_pool", "average_pool", "mean"],
    )
    def test_poolings_hand_the_constant_on(self, between):
        graph = _net(between=between)
        result, report = bias_absorption.absorb_bias(graph)
        assert report.applied
        x = _pixels(8, reach=2.99)
        # As above; the mean of 64 numbers has 64 roundings more.
        np.testing.assert_allclose(
            _output(result, x), _output(graph, x), atol=2 * 72 * _UNIT * 100
        )

    def test_a_flattened_image_hands_it_to_every_position(self):
        kernel = _draw(256, 3)
        graph = _with_moments(
            tiny_graphs.freeze(
                lambda x: tf.reshape(tf.nn.relu(_first(x)), [-1, 256]) @ kernel,
                (None, 8, 8, 4),
            )
        )
        result, report = bias_absorption.absorb_bias(graph)
        assert report.applied
        x = _pixels(4, reach=2.99)
        # 257 terms, of at most 10 each, in either network.
        np.testing.assert_allclose(
            _output(result, x), _output(graph, x), atol=2 * 260 * _UNIT * 1000
        )

    def test_a_valid_convolution_meets_no_border(self):
        graph = _net(size=3)
        result, report = bias_absorption.absorb_bias(graph)
        assert report.applied
        x = _pixels(4, reach=2.99)
        np.testing.assert_allclose(
            _output(result, x), _output(graph, x), atol=2 * 40 * _UNIT * 500
        )


class TestBounds:
    def test_the_bound_of_relu6_moves_down_with_its_channel(self):
        result, _ = bias_absorption.absorb_bias(_net(tf.nn.relu6))
        (node,) = [n for n in result if n.op == "Minimum"]
        np.testing.assert_allclose(
            result.literal(node.inputs[1]).reshape(-1),
            6 - _SHIFT,
            rtol=2 * _UNIT,
        )

    def test_something_of_a_bound_is_left(self):
        bound = np.array([6.0, 6.0, 6.0, 1.0], np.float32)
        graph = _net(lambda x: tf.minimum(tf.nn.relu(x), bound))
        result, _ = bias_absorption.absorb_bias(graph)
        # 2 would be absorbed of a channel that ends at 1: 0.95 is.
        np.testing.assert_allclose(
            _layers(result)[0].bias[3], 5 - 0.95, rtol=4 * _UNIT
        )
        (node,) = [n for n in result if n.op == "Minimum"]
        np.testing.assert_allclose(
            result.literal(node.inputs[1]).reshape(-1),
            [6, 6, 5.5, 0.05],
            rtol=4 * _UNIT,
        )
        x = _pixels(4, reach=2.99)
        np.testing.assert_allclose(
            _output(result, x), _output(graph, x), atol=2 * 8 * _UNIT * 100
        )


def _padded(explicit):
    """A 3 x 3 convolution behind zeros, its own or of an operation."""
    pads = [[0, 0], [1, 1], [1, 1], [0, 0]]
    if explicit:
        return _net(size=3, between=lambda x: tf.pad(x, pads))
    return _net(size=3, padding="SAME")


class TestPadding:
    @pytest.mark.parametrize("explicit", [False, True])
    def test_without_samples_a_padded_pair_is_left_alone(self, explicit):
        graph = _padded(explicit)
        result, report = bias_absorption.absorb_bias(graph)
        assert report.rows[0].reason == (
            "padded, and there are no samples to measure on"
        )
        _same_weights(graph, result)

    @pytest.mark.parametrize("explicit", [False, True])
    def test_too_much_change_is_measured_and_undone(self, explicit):
        graph = _padded(explicit)
        x = _pixels(16, reach=2.99)
        result, report = bias_absorption.absorb_bias(graph, samples={"x": x})
        row = report.rows[0]
        assert row.reason == "the next layer's output would change too much"
        assert row.measured["absorbed_channels"] == 2
        # At a border c is added although zero is padded: W2 c of the taps
        # outside, in float64, over all 8 x 8 positions.
        kernel = _layers(graph)[1].kernel.astype(np.float64)
        inside = tiny_graphs.conv_same(
            np.broadcast_to(_SHIFT, (1, 8, 8, 4)), kernel
        )
        change = kernel.sum((0, 1)).T @ _SHIFT - inside
        expected = np.sqrt(np.mean(change**2)) / np.std(_output(graph, x))
        assert expected > 0.02
        # Root mean square of float32 numbers, relative to ones as large.
        np.testing.assert_allclose(
            row.measured["relative_change"], expected, rtol=1e-4
        )
        _same_weights(graph, result)
        assert result.moments[_layers(result)[0].output].mean[3] == 5.0

    def test_change_within_the_bound_is_accepted(self):
        graph = _net(size=3, padding="SAME")
        x = _pixels(16, reach=2.99)
        _, report = bias_absorption.absorb_bias(graph, samples={"x": x})
        change = report.rows[0].measured["relative_change"]
        for factor, applied in ((0.99, False), (1.01, True)):
            result, report = bias_absorption.absorb_bias(
                graph, samples={"x": x}, max_change=factor * change
            )
            assert report.rows[0].applied == applied
            moved = _layers(result)[0].bias[3] < 4
            assert moved == applied

    def test_exact_pairs_measure_next_to_nothing(self):
        x = _pixels(16, reach=2.99)
        _, report = bias_absorption.absorb_bias(_net(), samples={"x": x})
        row = report.rows[0]
        assert row.applied
        assert row.measured["absorbed_channels"] == 2
        # Outputs of up to 20 and a deviation of about one.
        assert 0 <= row.measured["relative_change"] <= 2 * 8 * _UNIT * 20

    def test_samples_that_go_below_undo_an_unpadded_pair_too(self):
        x = 8 * _pixels(16)
        graph = _net()
        result, report = bias_absorption.absorb_bias(graph, samples={"x": x})
        assert not report.rows[0].applied
        _same_weights(graph, result)


def test_pairs_in_a_row_are_judged_each_behind_those_before():
    middle = np.diag(_GAMMA).astype(np.float32)[None, None]

    def chain(x):
        y = tf.nn.relu(_first(x))
        y = tf.nn.conv2d(y, middle, 1, "SAME") + _BETA.astype("f4")
        return tf.nn.conv2d(tf.nn.relu(y), _draw(1, 1, 4, 3), 1, "SAME")

    graph = tiny_graphs.freeze(chain, (None, 8, 8, 4))
    graph = _with_moments(_with_moments(graph), layer=1)
    x = _pixels(8, reach=2.99)
    result, report = bias_absorption.absorb_bias(graph, samples={"x": x})
    assert [row.applied for row in report.rows] == [True, True, False]
    first, second, _ = _layers(result)
    np.testing.assert_allclose(first.bias, _BETA - _SHIFT, atol=8 * _UNIT)
    # The second pair gets what the first gives and loses its own.
    np.testing.assert_allclose(
        second.bias, _BETA + _GAMMA * _SHIFT - _SHIFT, atol=16 * _UNIT
    )
    np.testing.assert_allclose(
        _output(result, x), _output(graph, x), atol=4 * 8 * _UNIT * 100
    )


def test_a_pair_is_not_charged_with_what_one_before_it_changed():
    kernel = _draw(3, 3, 4, 4)

    def chain(x):
        y = tf.nn.relu(_first(x))
        y = tf.nn.conv2d(y, kernel, 1, "SAME") + np.full(4, 1000, "f4")
        return tf.nn.conv2d(tf.nn.relu(y), _draw(1, 1, 4, 3), 1, "SAME")

    graph = _with_moments(tiny_graphs.freeze(chain, (None, 8, 8, 4)))
    second = ir.Moments(np.full(4, 1000.0), np.full(4, 100.0))
    moments = {**graph.moments, _layers(graph)[1].output: second}
    graph = graph.replace_nodes({}, moments=moments)
    _, report = bias_absorption.absorb_bias(
        graph, samples={"x": _pixels(8, reach=2.99)}, max_change=1.0
    )
    padded, exact = (row.measured["relative_change"] for row in report.rows[:2])
    assert padded > 0.02
    # Outputs of some thousands and a deviation of some tens.
    assert exact <= 2 * 8 * _UNIT * 1000


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (
            lambda: _net().replace_nodes({}, moments={}),
            "no BN tells the moments of its output",
        ),
        (
            lambda: _net().replace_nodes(
                {},
                moments={
                    _layers(_net())[0].output: ir.Moments(3 * _GAMMA, _GAMMA)
                },
            ),
            "no channel is far enough above zero",
        ),
        (lambda: _net(tf.identity), "no ReLU alone stands between"),
        (
            lambda: _net(lambda x: tf.nn.leaky_relu(x, 0.2)),
            "no ReLU alone stands between",
        ),
        (
            lambda: _with_moments(
                tiny_graphs.freeze(
                    lambda x: tf.nn.conv2d_transpose(
                        tf.nn.relu(_first(x)),
                        _draw(2, 2, 5, 4),
                        [3, 16, 16, 5],
                        2,
                        "VALID",
                    ),
                    (None, 8, 8, 4),
                )
            ),
            "a transposed convolution adds it unevenly",
        ),
    ],
    ids=["no_bn", "low", "no_activation", "leaky", "upscaled"],
)
def test_pairs_that_cannot_be_treated_are_told(graph, reason):
    graph = graph()
    result, report = bias_absorption.absorb_bias(graph)
    assert report.rows[0].reason == reason
    assert not report.applied
    assert result is graph
