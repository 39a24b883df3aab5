"""Bias correction: means as they were, from BN's numbers or from samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
import tiny_graphs

from dsg_tf.analysis import layer_edits, linear_layers
from dsg_tf.core import errors
from dsg_tf.graph import evaluation, ir
from dsg_tf.quant import weight_scales
from dsg_tf.transforms import (
    adaround,
    bias_correction,
    fold_batch_norm,
    learned_rounding,
    weight_rounding,
)

_UNIT = np.finfo(np.float32).eps / 2


def _draw(*shape, seed=0):
    values = np.random.default_rng([seed, *shape]).normal(size=shape)
    return values.astype(np.float32)


def _layers(graph):
    return linear_layers.find(graph)


def _grids(graph, bits=3):
    return {
        x.node: weight_scales.choose(x.rows(), bits) for x in _layers(graph)
    }


def _rounded(graph, bits=3) -> ir.Graph:
    return weight_rounding.round_weights(graph, _grids(graph, bits))[0]


def _batch_norm(x, seed=0):
    size = x.shape[-1]
    rng = np.random.default_rng(seed)
    return tf.nn.batch_normalization(
        x,
        rng.normal(0, 0.3, size).astype("f4"),
        tf.constant(rng.uniform(0.5, 2, size), tf.float32),
        rng.normal(0.5, 1, size).astype("f4"),
        rng.uniform(0.5, 3, size).astype("f4"),
        1e-3,
    )


def _function(act=tf.nn.relu6):
    """Convolution with BN, depthwise with BN, convolution and dense without.

    Of four layers three have a bias, and two an input that BN describes.
    """
    kernels = (
        _draw(3, 3, 3, 6),
        _draw(3, 3, 6, 1),
        _draw(1, 1, 6, 8),
        _draw(8, 4),
    )

    def function(x):
        x = tf.nn.conv2d(x, kernels[0], 1, "SAME")
        x = act(_batch_norm(x, 1))
        x = tf.nn.depthwise_conv2d(x, kernels[1], [1] * 4, "SAME")
        x = act(_batch_norm(x, 2))
        x = tf.nn.relu(tf.nn.conv2d(x, kernels[2], 1, "SAME"))
        return tf.reduce_mean(x, [1, 2]) @ kernels[3] + _draw(4)

    return function


def _net(act=tf.nn.relu6):
    graph = tiny_graphs.freeze(_function(act), (None, 8, 8, 3))
    return fold_batch_norm.fold_batch_norm(graph)[0]


def _samples(n=24):
    return {"x": _draw(n, 8, 8, 3, seed=5)}


def _means(graph, tensors, samples):
    """Means and deviations by channel of tensors, channels last, float64."""
    feeds = {f"{name}:0": value for name, value in samples.items()}
    values = evaluation.evaluate(graph, tensors, feeds)
    rows = [
        values[t].astype(np.float64).reshape(-1, values[t].shape[-1])
        for t in tensors
    ]
    return [r.mean(axis=0) for r in rows], [r.std(axis=0) for r in rows]


def _clipped_mean(mean, deviation, high):
    """E[clip(x, 0, high)] of a normal x, by the midpoint rule."""
    z = (np.arange(400_000) + 0.5) / 400_000 * 24 - 12
    weight = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) * 24 / 400_000
    return np.array(
        [
            np.sum(np.clip(m + d * z, 0, high) * weight)
            for m, d in zip(mean, deviation, strict=True)
        ]
    )


class TestAnalytic:
    @pytest.mark.parametrize(
        ("act", "high"), [(tf.nn.relu, np.inf), (tf.nn.relu6, 6.0)]
    )
    def test_what_rounding_adds_to_the_mean_input_is_taken_away(
        self, act, high
    ):
        graph = _net(act)
        rounded = _rounded(graph)
        result, report = bias_correction.correct_bias(
            rounded, graph, method="analytic"
        )
        for number in (1, 2):
            before, after = _layers(graph)[number], _layers(result)[number]
            moments = graph.moments[_layers(graph)[number - 1].output]
            expected = _clipped_mean(moments.mean, moments.deviation, high)
            change = after.kernel.astype(np.float64) - before.kernel
            if before.op == "DepthwiseConv2dNative":
                shift = change[..., 0].sum((0, 1)) * expected
            else:
                shift = expected @ change[0, 0]
            bias = 0 if before.bias is None else before.bias
            # The integral is good to 1e-9 here; the rest is one float32
            # rounding of the bias, and that of the difference of kernels.
            np.testing.assert_allclose(
                after.bias, bias - shift, rtol=1e-6, atol=1e-6
            )
            assert np.abs(shift).max() > 0.05
        assert [row.applied for row in report.rows] == [
            False,
            True,
            True,
            False,
        ]
        assert {row.reason for row in report.applied} == {"analytic"}
        assert report.rows[0].reason == "no BN tells the mean of its input"
        first = _layers(graph)[0], _layers(result)[0]
        np.testing.assert_array_equal(first[0].bias, first[1].bias)

    def test_a_second_correction_changes_nothing(self):
        graph = _net()
        once, _ = bias_correction.correct_bias(
            _rounded(graph), graph, method="analytic"
        )
        twice, _ = bias_correction.correct_bias(once, graph, method="analytic")
        for one, two in zip(_layers(once), _layers(twice), strict=True):
            np.testing.assert_array_equal(one.bias, two.bias)

    def test_a_transposed_convolution_meets_one_tap_in_so_many(self):
        kernel = _draw(2, 2, 5, 6) + 0.3

        def function(x):
            y = _batch_norm(tf.nn.conv2d(x, _draw(1, 1, 3, 6), 1, "SAME"))
            return tf.nn.conv2d_transpose(
                tf.nn.relu(y), kernel, [16, 16, 16, 5], 2, "SAME"
            )

        graph = tiny_graphs.freeze(function, (None, 8, 8, 3))
        graph, _ = fold_batch_norm.fold_batch_norm(graph)
        rounded = _rounded(graph)
        result, _ = bias_correction.correct_bias(
            rounded, graph, method="analytic"
        )
        before, after = _layers(graph)[1], _layers(result)[1]
        moments = graph.moments[_layers(graph)[0].output]
        expected = _clipped_mean(moments.mean, moments.deviation, np.inf)
        change = after.kernel.astype(np.float64) - before.kernel
        # 2 x 2 taps at stride 2: each position meets a single one.
        np.testing.assert_allclose(
            after.bias, -(change.mean((0, 1)) @ expected), atol=1e-6
        )


class TestEmpirical:
    def test_means_of_all_layers_are_those_of_the_float_network(self):
        graph = _net()
        rounded = _rounded(graph)
        result, report = bias_correction.correct_bias(
            rounded, graph, samples=_samples()
        )
        tensors = [layer.output for layer in _layers(graph)]
        wanted, deviations = _means(graph, tensors, _samples())
        found, _ = _means(result, tensors, _samples())
        off, _ = _means(rounded, tensors, _samples())
        for w, f, o, d in zip(wanted, found, off, deviations, strict=True):
            # Behind at most four sums of 54 float32 products, a few
            # deviations large each, averaged over samples.
            assert (np.abs(f - w) <= 4 * 54 * _UNIT * 10 * d.max()).all()
            assert np.abs(o - w).max() > 5e-3 * d.max()
        assert {row.reason for row in report.rows} == {"empirical"}

    def test_the_shift_is_told_in_deviations_of_the_output(self):
        graph = _net()
        rounded = _rounded(graph)
        _, report = bias_correction.correct_bias(
            rounded, graph, samples=_samples()
        )
        tensor = _layers(graph)[0].output
        (wanted,), (deviation,) = _means(graph, [tensor], _samples())
        (found,), _ = _means(rounded, [tensor], _samples())
        shift = np.sqrt(np.mean((found - wanted) ** 2))
        expected = shift / np.sqrt(np.mean(deviation**2))
        np.testing.assert_allclose(
            report.rows[0].measured["relative_shift"], expected, rtol=1e-4
        )

    def test_each_layer_is_corrected_behind_corrected_ones(self):
        """Only the first layer is rounded: behind it nothing is left."""
        graph = _net()
        only = dict(list(_grids(graph).items())[:1])
        rounded, _ = weight_rounding.round_weights(graph, only)
        result, report = bias_correction.correct_bias(
            rounded, graph, samples=_samples()
        )
        assert [row.applied for row in report.rows] == [True] + 3 * [False]
        for one, two in zip(
            _layers(graph)[1:], _layers(result)[1:], strict=True
        ):
            np.testing.assert_array_equal(one.kernel, two.kernel)
            bias = 0 if one.bias is None else one.bias
            np.testing.assert_array_equal(
                two.bias, np.broadcast_to(bias, two.bias.shape)
            )

    def test_samples_of_an_odd_number_count_alike(self):
        """19 samples are one batch of 16 and one of 3."""
        graph = _net()
        result, _ = bias_correction.correct_bias(
            _rounded(graph), graph, samples=_samples(19)
        )
        tensor = _layers(graph)[-1].output
        (wanted,), (deviation,) = _means(graph, [tensor], _samples(19))
        (found,), _ = _means(result, [tensor], _samples(19))
        limit = 4 * 54 * _UNIT * 10 * deviation.max()
        assert (np.abs(found - wanted) <= limit).all()

    def test_layers_that_have_no_bias_yet_are_corrected(self):
        kernels = _draw(1, 1, 3, 6), _draw(1, 1, 6, 4)
        graph = tiny_graphs.freeze(
            lambda x: tf.nn.conv2d(
                tf.nn.relu(tf.nn.conv2d(x, kernels[0], 1, "SAME")),
                kernels[1],
                1,
                "SAME",
            ),
            (None, 8, 8, 3),
        )
        result, report = bias_correction.correct_bias(
            _rounded(graph), graph, samples=_samples()
        )
        assert [row.applied for row in report.rows] == [True, True]
        tensors = [port.tensor for port in graph.outputs]
        (wanted,), (deviation,) = _means(graph, tensors, _samples())
        (found,), _ = _means(result, tensors, _samples())
        limit = 2 * 8 * _UNIT * 10 * deviation.max()
        assert (np.abs(found - wanted) <= limit).all()


class TestAuto:
    def test_batch_norm_goes_before_samples(self):
        graph = _net()
        _, report = bias_correction.correct_bias(
            _rounded(graph), graph, method="auto", samples=_samples()
        )
        assert [row.reason for row in report.rows] == [
            "empirical",
            "analytic",
            "analytic",
            "empirical",
        ]

    def test_the_layer_behind_analytic_ones_is_corrected_for_all(self):
        graph = _net()
        result, _ = bias_correction.correct_bias(
            _rounded(graph), graph, method="auto", samples=_samples()
        )
        tensor = _layers(graph)[-1].output
        (wanted,), (deviation,) = _means(graph, [tensor], _samples())
        (found,), _ = _means(result, [tensor], _samples())
        limit = 4 * 54 * _UNIT * 10 * deviation.max()
        assert (np.abs(found - wanted) <= limit).all()

    def test_analytic_layers_are_corrected_as_by_analytic(self):
        graph = _net()
        results = [
            bias_correction.correct_bias(
                _rounded(graph), graph, method=method, samples=_samples()
            )[0]
            for method in ("auto", "analytic")
        ]
        for one, two in zip(*map(_layers, results), strict=True):
            if one.node in {x.node for x in _layers(graph)[1:3]}:
                np.testing.assert_array_equal(one.bias, two.bias)

    def test_only_some_are_corrected_without_samples_of_the_others(self):
        """Behind analytic layers alone, nothing is measured."""
        graph = _net()
        analytic = dict(list(_grids(graph).items())[1:3])
        rounded, _ = weight_rounding.round_weights(graph, analytic)
        result, report = bias_correction.correct_bias(
            rounded, graph, method="auto", samples=_samples()
        )
        assert [row.reason for row in report.applied] == ["analytic"] * 2
        wanted, _ = bias_correction.correct_bias(
            rounded, graph, method="analytic"
        )
        for one, two in zip(_layers(result), _layers(wanted), strict=True):
            np.testing.assert_array_equal(one.bias, two.bias)


def _branches(x):
    """Layers beside each other, a sum, a transposed and a grouped one."""
    x = tf.nn.relu6(_batch_norm(tf.nn.conv2d(x, _draw(3, 3, 3, 6), 1, "SAME")))
    y = tf.nn.relu(tf.nn.conv2d(x, 0.3 * _draw(3, 3, 6, 6), 1, "SAME") + 0.1)
    z = tf.nn.depthwise_conv2d(x, _draw(3, 3, 6, 1), [1] * 4, "SAME")
    x = tf.nn.relu(x + y - tf.nn.relu(z))
    x = tf.nn.relu(tf.nn.conv2d(x, _draw(3, 3, 2, 6), 2, "SAME"))
    shape = tf.stack([tf.shape(x)[0], 8, 8, 5])
    x = tf.nn.conv2d_transpose(x, _draw(3, 3, 5, 6), shape, 2, "SAME")
    x = tf.ensure_shape(tf.nn.relu(x), (None, 8, 8, 5))
    return tf.reduce_mean(x, [1, 2]) @ _draw(5, 4)


def _by_layer(rounded, graph, samples):
    """Biases as the paper says: one layer after the other, by output."""
    biases = {}
    for layer in _layers(graph):
        (wanted,), _ = _means(graph, [layer.output], samples)
        (found,), _ = _means(rounded, [layer.output], samples)
        edit = layer_edits.Edit(layer_edits.with_own_constants(rounded))
        (own,) = [x for x in _layers(rounded) if x.output == layer.output]
        bias = 0 if own.bias is None else own.bias
        biases[layer.output] = bias + wanted - found
        edit.set(own, own.kernel, biases[layer.output].astype(np.float32))
        rounded = edit.graph()
    return biases


class TestInOnePass:
    def _folded(self, function, shape=(None, 8, 8, 3)):
        graph = tiny_graphs.freeze(function, shape)
        return fold_batch_norm.fold_batch_norm(graph)[0]

    def test_biases_are_those_of_one_layer_after_the_other(self):
        graph = self._folded(_branches)
        assert len(_layers(graph)) == 6
        rounded = _rounded(graph)
        result, report = bias_correction.correct_bias(
            rounded, graph, samples=_samples()
        )
        assert len(report.applied) == 6
        wanted = _by_layer(rounded, graph, _samples())
        _, deviations = _means(graph, list(wanted), _samples())
        for layer, deviation in zip(_layers(result), deviations, strict=True):
            # As above: six layers deep.
            np.testing.assert_allclose(
                layer.bias,
                wanted[layer.output],
                rtol=0,
                atol=6 * 54 * _UNIT * 10 * deviation.max(),
            )

    def test_means_are_those_of_the_float_network_where_branches_meet(self):
        graph = self._folded(_branches)
        rounded = _rounded(graph)
        result, _ = bias_correction.correct_bias(
            rounded, graph, samples=_samples()
        )
        tensors = [layer.output for layer in _layers(graph)]
        wanted, deviations = _means(graph, tensors, _samples())
        found, _ = _means(result, tensors, _samples())
        off, _ = _means(rounded, tensors, _samples())
        for w, f, o, d in zip(wanted, found, off, deviations, strict=True):
            assert (np.abs(f - w) <= 6 * 54 * _UNIT * 10 * d.max()).all()
            assert np.abs(o - w).max() > 1e-3 * d.max()

    def test_inputs_go_where_they_belong(self):
        graph = tiny_graphs.freeze(
            lambda x, y: (
                tf.nn.relu(x @ _draw(5, 6)) @ _draw(6, 4) + y @ _draw(3, 4)
            ),
            (None, 5),
            (None, 3),
        )
        # By name, in another order than the graph's.
        samples = {"y": _draw(20, 3, seed=1) + 2, "x": _draw(20, 5) - 1}
        rounded = _rounded(graph)
        result, report = bias_correction.correct_bias(
            rounded, graph, samples=samples
        )
        assert len(report.applied) == 3
        tensors = [port.tensor for port in graph.outputs]
        (wanted,), (deviation,) = _means(graph, tensors, samples)
        (found,), _ = _means(result, tensors, samples)
        limit = 2 * 14 * _UNIT * 10 * deviation.max()
        assert (np.abs(found - wanted) <= limit).all()

    def test_the_same_samples_give_the_same_bytes(self):
        graph = self._folded(_branches)
        first, second = (
            bias_correction.correct_bias(
                _rounded(graph), graph, samples=_samples()
            )[0]
            for _ in range(2)
        )
        for one, two in zip(_layers(first), _layers(second), strict=True):
            assert one.bias.tobytes() == two.bias.tobytes()


def _biases(graph, samples):
    result, report = bias_correction.correct_bias(
        _rounded(graph), graph, samples=samples
    )
    assert len(report.applied) == len(_layers(graph))
    return [layer.bias for layer in _layers(result)]


def _rows(*indices):
    return {"x": _samples()["x"][list(indices)]}


def _assert_biases(found, expected, atol=4 * 54 * _UNIT * 10):
    """Means of equal samples, in another order of summing up."""
    for one, two in zip(found, expected, strict=True):
        size = max(np.abs(two).max(), 1)
        np.testing.assert_allclose(one, two, rtol=0, atol=atol * size)


class TestBatchesOfTheModel:
    """A graph that was exported with a batch size takes no other."""

    @pytest.mark.parametrize(
        ("size", "given", "taken"),
        [
            (1, 1, range(1)),
            (1, 7, range(7)),
            (3, 6, range(6)),
            # The last batch would not be full.
            (3, 7, range(6)),
            (3, 3, range(3)),
            # None is full: all stand in it, about as often.
            (3, 1, [0]),
            (6, 2, [0, 1]),
            (6, 3, [0, 1, 2]),
            (3, 2, [0, 1, 0]),
        ],
    )
    def test_hold_the_samples_as_often_as_each_other(self, size, given, taken):
        graph = fold_batch_norm.fold_batch_norm(
            tiny_graphs.freeze(_function(), (size, 8, 8, 3))
        )[0]
        _assert_biases(
            _biases(graph, _rows(*range(given))),
            _biases(_net(), _rows(*taken)),
        )


class TestMemory:
    """Not more samples than the largest layer's outputs have room for."""

    # Of float32 8 x 8 x 8.
    _SAMPLE = 2048

    @pytest.mark.parametrize(
        ("room", "taken"),
        [
            (_SAMPLE * 10, 10),
            (_SAMPLE * 11 - 1, 10),
            (_SAMPLE * 100, 24),
            # Few enough to be of no use.
            (_SAMPLE, 4),
            (1, 4),
        ],
    )
    def test_limits_the_samples_and_all_are_corrected(
        self, monkeypatch, room, taken
    ):
        monkeypatch.setattr(bias_correction, "_MOST_BYTES", room)
        found = _biases(_net(), _samples())
        monkeypatch.undo()
        _assert_biases(found, _biases(_net(), _rows(*range(taken))))

    @pytest.mark.parametrize(("size", "taken"), [(1, 4), (3, 3), (6, 6)])
    def test_does_not_leave_a_batch_of_the_model_half_empty(
        self, monkeypatch, size, taken
    ):
        monkeypatch.setattr(bias_correction, "_MOST_BYTES", 1)
        graph = fold_batch_norm.fold_batch_norm(
            tiny_graphs.freeze(_function(), (size, 8, 8, 3))
        )[0]
        found = _biases(graph, _samples())
        monkeypatch.undo()
        _assert_biases(found, _biases(_net(), _rows(*range(taken))))


class TestWhatStays:
    @pytest.mark.parametrize("method", bias_correction.METHODS)
    def test_weights_and_their_grids_do(self, method):
        graph = _net()
        rounded = _rounded(graph)
        grids = _grids(graph)
        result, _ = bias_correction.correct_bias(
            rounded, graph, method=method, samples=_samples()
        )
        assert len(result.weight_grids) == len(grids)
        for one, two, grid in zip(
            _layers(rounded), _layers(result), grids.values(), strict=True
        ):
            np.testing.assert_array_equal(one.kernel, two.kernel)
            assert result.weight_grids[two.kernel_tensor].same_as(grid)

    @pytest.mark.parametrize("method", bias_correction.METHODS)
    def test_a_network_that_was_not_rounded_does(self, method):
        graph = _net()
        result, report = bias_correction.correct_bias(
            graph, graph, method=method, samples=_samples()
        )
        assert not report.applied
        reasons = {row.reason for row in report.rows}
        assert reasons == {"its weights are as before"}
        # The bias that a layer got is zero: the same operations.
        assert evaluation.relative_change(graph, result, _samples()) == 0

    def test_learned_rounding_needs_no_correction(self):
        """AdaRound has set the means: what is left is rounding error."""
        graph = _net()
        learned, _ = adaround.adaround(
            graph,
            _grids(graph),
            _samples(),
            config=learned_rounding.Config(steps=10),
        )
        result, report = bias_correction.correct_bias(
            learned, graph, samples=_samples()
        )
        assert len(report.applied) == 4
        for row in report.rows:
            # All 24 x 64 positions fit, so that both see the same means,
            # but for float32 sums of 54 products of some deviations.
            assert 0 <= row.measured["relative_shift"] <= 4 * 54 * _UNIT * 10
        for one, two in zip(_layers(learned), _layers(result), strict=True):
            np.testing.assert_array_equal(one.kernel, two.kernel)
            np.testing.assert_allclose(one.bias, two.bias, atol=1e-3)


def test_progress_counts_all_layers():
    graph = _net()
    seen = []
    bias_correction.correct_bias(
        _rounded(graph),
        graph,
        method="analytic",
        progress=lambda *args: seen.append(args),
    )
    assert seen == [(n, 4) for n in (1, 2, 3, 4)]


class TestErrors:
    def test_an_unknown_method_is_named(self):
        graph = _net()
        with pytest.raises(errors.UserError, match=r"--bias_correction.*'bn'"):
            bias_correction.correct_bias(graph, graph, method="bn")

    @pytest.mark.parametrize("samples", [None, {}])
    @pytest.mark.parametrize("method", ["auto", "empirical"])
    def test_missing_samples_are_asked_for(self, method, samples):
        graph = _net()
        with pytest.raises(errors.UserError, match="analytic needs none"):
            bias_correction.correct_bias(
                graph, graph, method=method, samples=samples
            )
