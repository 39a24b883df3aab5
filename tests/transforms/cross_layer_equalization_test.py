"""Equalization: ranges meet in the middle, and the function stays."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf
import tiny_graphs

from dsg_tf.analysis import channel_statistics, linear_layers
from dsg_tf.graph import evaluation, ir
from dsg_tf.transforms import cross_layer_equalization, fold_batch_norm

_UNIT = np.finfo(np.float32).eps / 2
# The pass stops when no factor moves by more than this in a round. A pair's
# two ranges can each have moved by as much after the pair was last balanced.
_SETTLED = 2e-3 + 4 * _UNIT


def _draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def _spread(*shape, seed=0):
    """Weights whose output channels differ in size up to a thousand times."""
    sizes = 10 ** np.random.default_rng(seed).uniform(-1.5, 1.5, shape[-1])
    return (_draw(*shape, seed=seed) * sizes).astype(np.float32)


def _layers(graph: ir.Graph) -> list[linear_layers.LinearLayer]:
    return list(linear_layers.find(graph))


def _made(layer) -> np.ndarray:
    """Largest absolute weight of each output channel, by NumPy alone."""
    kernel = np.abs(layer.kernel.astype(np.float64))
    if layer.op == "DepthwiseConv2dNative":
        return kernel.max(axis=(0, 1)).reshape(-1)
    return kernel.max(axis=tuple(range(kernel.ndim - 1)))


def _read(layer) -> np.ndarray:
    """Largest absolute weight that reads each input channel."""
    kernel = np.abs(layer.kernel.astype(np.float64))
    if layer.op == "DepthwiseConv2dNative":
        return kernel.max(axis=(0, 1, 3))
    return np.moveaxis(kernel, -2, 0).reshape(kernel.shape[-2], -1).max(1)


def _pair(*, w1, b1, w2, b2, act=tf.nn.relu) -> ir.Graph:
    return tiny_graphs.freeze(
        lambda x: (
            act(x @ w1.astype("f4") + b1.astype("f4")) @ w2.astype("f4")
            + b2.astype("f4")
        ),
        (None, len(w1)),
    )


class TestPair:
    def test_factors_are_the_root_of_the_ratio_of_ranges(self):
        w1 = np.array([[2.0, -0.5, 0.3], [-8.0, 0.25, 0.1]])
        b1 = np.array([1.0, -2.0, 3.0])
        w2 = np.array([[0.5, -0.1], [-2.0, 1.0], [0.3, 0.2]])
        b2 = np.array([5.0, 7.0])
        graph = _pair(w1=w1, b1=b1, w2=w2, b2=b2)
        result, report = cross_layer_equalization.equalize(graph)
        # r1 = (8, 0.5, 0.3), r2 = (0.5, 2, 0.3).
        s = np.array([4.0, 0.5, 1.0])
        first, second = _layers(result)
        # Stored as float32: one rounding, and one of the inputs'.
        near = {"rtol": 4 * _UNIT}
        np.testing.assert_allclose(first.kernel, w1 / s, **near)
        np.testing.assert_allclose(first.bias, b1 / s, **near)
        np.testing.assert_allclose(second.kernel, w2 * s[:, None], **near)
        np.testing.assert_array_equal(second.bias, b2)
        np.testing.assert_allclose(_made(first), [2.0, 1.0, 0.3], **near)
        np.testing.assert_allclose(_read(second), [2.0, 1.0, 0.3], **near)
        row, last = report.rows
        assert row.applied
        assert not last.applied
        assert last.reason == "the way ends at an output of the model"
        np.testing.assert_allclose(
            [row.measured[f"range_ratio_{w}"] for w in ("before", "after")],
            [8 / 0.3, 2 / 0.3],
            # The 0.3 of the graph is a float32.
            rtol=4 * _UNIT,
        )

    def test_a_layer_without_a_bias_gets_none(self):
        w1, w2 = _spread(4, 6), _spread(6, 3)
        graph = tiny_graphs.freeze(lambda x: tf.nn.relu(x @ w1) @ w2, (None, 4))
        result, _ = cross_layer_equalization.equalize(graph)
        assert [layer.bias for layer in _layers(result)] == [None, None]
        np.testing.assert_allclose(
            _made(_layers(result)[0]), _read(_layers(result)[1]), rtol=_SETTLED
        )

    def test_moments_are_divided_as_the_channels_are(self):
        graph = _folded_pair(_spread(5, 6), _spread(6, 3))
        before = graph.moments
        (tensor,) = before
        result, _ = cross_layer_equalization.equalize(
            graph, max_range_growth=None
        )
        scale = _made(_layers(graph)[0]) / _made(_layers(result)[0])
        assert np.ptp(np.log(scale)) > 1
        after = result.moments[tensor]
        # `scale` is of two float32 numbers, the moments are float64.
        near = {"rtol": 4 * _UNIT}
        np.testing.assert_allclose(
            after.mean, before[tensor].mean / scale, **near
        )
        np.testing.assert_allclose(
            after.deviation, before[tensor].deviation / scale, **near
        )


def _folded_pair(w1, w2, *, gamma=None, beta=None, act=tf.nn.relu):
    """Dense, BN, activation, dense; the BN is folded, its moments stay."""
    size = w1.shape[1]
    gamma = np.linspace(0.5, 2, size) if gamma is None else np.asarray(gamma)
    beta = np.linspace(-1, 1, size) if beta is None else np.asarray(beta)
    graph = tiny_graphs.freeze(
        lambda x: (
            act(
                tf.nn.batch_normalization(
                    x @ w1,
                    np.linspace(-0.2, 0.2, size).astype("f4"),
                    tf.constant(np.linspace(1, 2, size), tf.float32),
                    beta.astype("f4"),
                    gamma.astype("f4"),
                    1e-5,
                )
            )
            @ w2
        ),
        (None, len(w1)),
    )
    return fold_batch_norm.fold_batch_norm(graph)[0]


class _Chain:
    """Convolution, depthwise convolution, convolution, mean, dense."""

    def __init__(self, act=tf.nn.relu6):
        self.act = act
        self.kernels = [
            _spread(3, 3, 3, 6),
            _spread(3, 3, 6, 1) * np.linspace(0.1, 3, 6)[:, None],
            _spread(3, 3, 6, 8),
            _spread(8, 4),
        ]
        self.kernels = [k.astype(np.float32) for k in self.kernels]
        sizes = (6, 6, 8, 4)
        self.biases = [_draw(n).astype(np.float32) for n in sizes]

    def graph(self) -> ir.Graph:
        def function(x):
            k, b = self.kernels, self.biases
            x = self.act(tf.nn.conv2d(x, k[0], 1, "SAME") + b[0])
            x = tf.nn.depthwise_conv2d(x, k[1], [1] * 4, "SAME") + b[1]
            x = self.act(x)
            x = self.act(tf.nn.conv2d(x, k[2], 1, "SAME") + b[2])
            return tf.reduce_mean(x, [1, 2]) @ k[3] + b[3]

        return tiny_graphs.freeze(function, (None, 8, 8, 3))

    def run(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, list]:
        """Outputs in float64, a bound of float32's error, pre-activations.

        A sum of K products and a bias, all rounded, is off by at most
        (K + 3) u sum |w| |x|, and hands on |w| times what its input is off.
        """
        top = 6.0 if self.act is tf.nn.relu6 else np.inf
        x = x.astype(np.float64)
        error, seen = np.zeros_like(x), []
        for number, kernel in enumerate(self.kernels):
            kernel = kernel.astype(np.float64)
            bias = self.biases[number].astype(np.float64)
            if number == 3:
                positions = x.shape[1] * x.shape[2]
                error = error.mean((1, 2)) + positions * _UNIT * x.mean((1, 2))
                x = x.mean((1, 2))
            apply, taps = self._linear(kernel)
            size = apply(np.abs(x), np.abs(kernel)) + np.abs(bias)
            error = apply(error, np.abs(kernel)) + (taps + 3) * _UNIT * size
            x = apply(x, kernel) + bias
            seen.append(x)
            if number < 3:
                x = np.clip(x, 0.0, top)
        return x, error, seen

    @staticmethod
    def _linear(kernel):
        if kernel.ndim == 2:
            return np.matmul, len(kernel)
        if kernel.shape[3] > 1:
            return tiny_graphs.conv_same, np.prod(kernel.shape[:3])

        def depthwise(x, kernel):
            full = kernel[..., 0][..., None, :] * np.eye(kernel.shape[2])
            return tiny_graphs.conv_same(x, full)

        return depthwise, 9


class TestChain:
    def test_ranges_of_all_neighbours_meet(self):
        graph = _Chain().graph()
        result, report = cross_layer_equalization.equalize(graph)
        first, depthwise, second, dense = _layers(result)
        pairs = [(first, depthwise), (depthwise, second), (second, dense)]
        for left, right in pairs:
            np.testing.assert_allclose(_made(left), _read(right), rtol=_SETTLED)
        # A depthwise channel is read and made by the same weights.
        np.testing.assert_allclose(
            _made(first), _read(second), rtol=2 * _SETTLED
        )
        assert [row.applied for row in report.rows] == [True] * 3 + [False]

    def test_biases_follow_their_channels(self):
        graph = _Chain().graph()
        result, _ = cross_layer_equalization.equalize(graph)
        scale = np.ones(3)
        for before, after in zip(
            _layers(graph)[:3], _layers(result)[:3], strict=True
        ):
            arriving = before.kernel.astype(np.float64)
            # Weights are multiplied by what their inputs were divided by.
            arriving = arriving * (
                scale[:, None] if before.kernel.ndim > 2 else 1
            )
            made = np.abs(arriving).max((0, 1))
            made = made.max(0) if before.op == "Conv2D" else made.reshape(-1)
            scale = made / _made(after)
            np.testing.assert_allclose(
                after.bias, before.bias / scale, rtol=16 * _UNIT
            )
        np.testing.assert_array_equal(
            _layers(graph)[3].bias, _layers(result)[3].bias
        )

    @pytest.mark.parametrize("act", [tf.nn.relu, tf.nn.relu6])
    def test_the_function_stays_bends_included(self, act):
        chain = _Chain(act)
        graph = chain.graph()
        result, _ = cross_layer_equalization.equalize(graph)
        x = (3 * _draw(4, 8, 8, 3, seed=1)).astype(np.float32)
        wanted, error, seen = chain.run(x)
        for value in seen[:3]:
            # The inputs do reach both bends.
            assert (value > 6).any()
            assert (value < 0).any()
        for each in (graph, result):
            tensor = each.outputs[0].tensor
            (found,) = evaluation.evaluate(each, [tensor], {"x:0": x}).values()
            assert np.isfinite(found).all()
            # Behind factors, weights and bounds are rounded twice: 2 u more
            # on top of at least (8 + 3) u a layer.
            assert (np.abs(found - wanted) <= 1.2 * error).all()

    def test_nothing_is_left_to_do(self):
        result, _ = cross_layer_equalization.equalize(_Chain().graph())
        again, _ = cross_layer_equalization.equalize(result)
        for one, two in zip(_layers(result), _layers(again), strict=True):
            np.testing.assert_allclose(one.kernel, two.kernel, rtol=1e-3)


class TestClips:
    def test_relu6_becomes_relu_and_a_bound_for_each_channel(self):
        graph = _Chain().graph()
        result, report = cross_layer_equalization.equalize(graph)
        ops = [node.op for node in result]
        assert "Relu6" not in ops
        assert ops.count("Relu") == ops.count("Minimum") == 3
        scale = _made(_layers(graph)[0]) / _made(_layers(result)[0])
        node = next(n for n in result if n.op == "Minimum")
        bound = result.literal(node.inputs[1])
        assert bound.shape == (1, 1, 1, 6)
        np.testing.assert_allclose(bound.reshape(-1), 6 / scale, rtol=4 * _UNIT)
        reasons = {row.reason for row in report.applied}
        assert reasons == {"its bound is kept, channel by channel"}
        assert not report.measured

    # The bound counts as near from 0.75 of it on.
    @pytest.mark.parametrize(("share", "kept"), [(0.7, False), (0.8, True)])
    def test_a_bound_goes_only_where_samples_stay_far_from_it(
        self, share, kept
    ):
        w1, w2 = np.eye(3) * [0.1, 1, 4], _spread(3, 2)
        zero = np.zeros
        graph = _pair(w1=w1, b1=zero(3), w2=w2, b2=zero(2), act=tf.nn.relu6)
        # The furthest first: there are two batches.
        x = np.array([[0, 6 * share, 0]] + 20 * [[1, 1, 0.1]], np.float32)
        result, report = cross_layer_equalization.equalize(
            graph, samples={"x": x}
        )
        ops = [node.op for node in result]
        assert ("Minimum" in ops) == kept
        assert "Relu" in ops
        assert "Relu6" not in ops
        reason = "kept, channel by channel" if kept else "was dropped"
        assert reason in report.applied[0].reason
        assert bool(report.measured) != kept
        if not kept:
            # Two sums of at most three products each, relative to the output.
            change = report.measured["relative_output_change"]
            assert 0 <= change <= 16 * _UNIT

    def test_a_dropped_bound_is_missed_beyond_the_samples(self):
        one = np.ones((1, 1))
        graph = _pair(w1=one, b1=one[0], w2=4 * one, b2=one[0], act=tf.nn.relu6)
        result, _ = cross_layer_equalization.equalize(
            graph, samples={"x": np.ones((2, 1), np.float32)}
        )
        far = {"x": np.full((1, 1), 11, np.float32)}
        # 4 relu(12) + 1 = 49 against 25.
        change = evaluation.relative_change(graph, result, far)
        np.testing.assert_allclose(change, 24 / 25, rtol=1e-6)

    def test_a_bound_that_is_there_already_moves(self):
        bound = np.array([1.0, 2.0, 4.0], np.float32)
        w1, w2 = _spread(5, 3), _spread(3, 2)
        graph = tiny_graphs.freeze(
            lambda x: tf.minimum(tf.nn.relu(x @ w1), bound) @ w2, (None, 5)
        )
        result, _ = cross_layer_equalization.equalize(graph)
        scale = _made(_layers(graph)[0]) / _made(_layers(result)[0])
        node = next(n for n in result if n.op == "Minimum")
        np.testing.assert_allclose(
            result.literal(node.inputs[1])[0], bound / scale, rtol=4 * _UNIT
        )


def _conv(x, *shape, seed=0, padding="SAME", groups=1):
    """A convolution with a bias."""
    size = (*shape[:2], shape[2] // groups, shape[3])
    return tf.nn.conv2d(x, _spread(*size, seed=seed), 1, padding) + _draw(
        shape[3], seed=seed
    ).astype("f4")


def _head(x):
    return tf.nn.conv2d(x, _spread(1, 1, x.shape[-1], 2, seed=9), 1, "SAME")


def _between(operation):
    return lambda x: _head(operation(_conv(x, 3, 3, 3, 6)))


def _upscaled(x):
    kernel = _spread(2, 2, 6, 5, seed=3).transpose(0, 1, 3, 2)
    # Batches of three alone: tf.shape would read x as well.
    return tf.nn.conv2d_transpose(x, kernel, [3, 16, 16, 5], 2, "SAME")


_WAYS = {
    "average_pool": _between(lambda x: tf.nn.avg_pool2d(x, 2, 2, "SAME")),
    "flatten": lambda x: (
        tf.reshape(_conv(x, 3, 3, 3, 6), [-1, 384]) @ _spread(384, 3)
    ),
    "flatten_relu6": lambda x: (
        tf.nn.relu6(tf.reshape(_conv(x, 3, 3, 3, 6), [-1, 384]))
        @ _spread(384, 3)
    ),
    "grouped": lambda x: _conv(
        tf.nn.relu(_conv(x, 3, 3, 3, 6)), 3, 3, 6, 4, groups=2
    ),
    "leaky_relu": _between(lambda x: tf.nn.leaky_relu(x, 0.3)),
    "max_pool": _between(lambda x: tf.nn.max_pool2d(x, 2, 2, "VALID")),
    "pad": _between(lambda x: tf.pad(x, [[0, 0], [1, 0], [0, 1], [0, 0]])),
    "relu6_squeezed": lambda x: (
        tf.squeeze(tf.nn.relu6(_conv(x, 8, 8, 3, 6, padding="VALID")), [1, 2])
        @ _spread(6, 3)
    ),
    "transposed_matmul": lambda x: tf.matmul(
        tf.nn.relu(tf.reduce_mean(_conv(x, 3, 3, 3, 6), [1, 2])),
        _spread(6, 3).T,
        transpose_b=True,
    ),
    "upscaled": lambda x: _upscaled(tf.nn.relu(_conv(x, 3, 3, 3, 6))),
}


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("way", sorted(_WAYS))
def test_the_function_stays_along_every_way(way, sampled):
    graph = tiny_graphs.freeze(_WAYS[way], (None, 8, 8, 3))
    x = (8 * _draw(3, 8, 8, 3)).astype(np.float32)
    result, report = cross_layer_equalization.equalize(
        graph, samples={"x": x} if sampled else None
    )
    assert report.rows[0].applied, report.rows
    before, after = _layers(graph)[0], _layers(result)[0]
    assert np.ptp(np.log(_made(before) / _made(after))) > 1
    # Largest outputs come from hundreds of products without much of a
    # cancellation: two sums of at most 384 terms, each rounded at worst
    # half a unit, and so on the way before of 27 terms.
    change = evaluation.relative_change(graph, result, {"x": x})
    assert change <= 2 * (384 + 27) * _UNIT


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (
            lambda x: (lambda y: _head(y) + _head(y + 1))(_conv(x, 1, 1, 3, 3)),
            "read by 2 operations",
        ),
        (
            lambda x: (lambda y: _head(y + x))(_conv(x, 1, 1, 3, 3)),
            "AddV2 does not commute with a factor",
        ),
        (
            lambda x: _head(tf.nn.sigmoid(_conv(x, 1, 1, 3, 6))),
            "Sigmoid does not commute with a factor",
        ),
        (
            lambda x: _head(
                tf.pad(
                    _conv(x, 1, 1, 3, 6),
                    [[0, 0], [1, 1], [1, 1], [0, 0]],
                    constant_values=1.0,
                )
            ),
            "Pad with values",
        ),
        (
            lambda x: _head(
                tf.reduce_mean(_conv(x, 1, 1, 3, 6), 3, keepdims=True)
            ),
            "Mean over channels",
        ),
    ],
)
def test_layers_without_a_way_are_left_alone_and_told(function, reason):
    graph = tiny_graphs.freeze(function, (None, 8, 8, 3))
    result, report = cross_layer_equalization.equalize(graph)
    assert report.rows[0].reason == reason
    assert not report.applied
    for one, two in zip(_layers(graph), _layers(result), strict=True):
        np.testing.assert_array_equal(one.kernel, two.kernel)
        if one.bias is not None:
            np.testing.assert_array_equal(one.bias, two.bias)


def test_a_residual_block_is_equalized_inside():
    def function(x):
        y = _conv(x, 3, 3, 3, 6, seed=1)
        z = tf.nn.relu(_conv(tf.nn.relu(y), 3, 3, 6, 6, seed=2))
        return _head(tf.nn.relu(y + _conv(z, 3, 3, 6, 6, seed=3)))

    graph = tiny_graphs.freeze(function, (None, 8, 8, 3))
    result, report = cross_layer_equalization.equalize(graph)
    assert [row.applied for row in report.rows] == [False, True, False, False]
    stem, inner, last, head = _layers(result)
    np.testing.assert_array_equal(stem.kernel, _layers(graph)[0].kernel)
    np.testing.assert_array_equal(head.kernel, _layers(graph)[3].kernel)
    np.testing.assert_allclose(_made(inner), _read(last), rtol=_SETTLED)


def test_a_long_chain_settles_before_the_rounds_end(monkeypatch):
    """As long as MobileNetV1, and no round that was to come moves anything."""
    kernels = [_spread(6, 6, seed=n) for n in range(27)]

    def function(x):
        for kernel in kernels:
            x = tf.nn.relu(x @ kernel)
        return x

    graph = tiny_graphs.freeze(function, (None, 6))
    result, _ = cross_layer_equalization.equalize(graph)
    most = cross_layer_equalization._MAX_ROUNDS
    monkeypatch.setattr(cross_layer_equalization, "_MAX_ROUNDS", 2 * most)
    again, _ = cross_layer_equalization.equalize(graph)
    assert again.to_graph_def() == result.to_graph_def()


def test_layers_that_share_a_kernel_part():
    kernel = _spread(6, 6)
    graph = tiny_graphs.freeze(
        lambda x: tf.nn.relu(tf.nn.relu(x @ kernel) @ kernel) @ kernel,
        (None, 6),
    )
    result, _ = cross_layer_equalization.equalize(graph)
    layers = _layers(result)
    assert len({layer.kernel_tensor for layer in layers}) == 3
    for left, right in itertools.pairwise(layers):
        np.testing.assert_allclose(_made(left), _read(right), rtol=_SETTLED)
    x = {"x": np.abs(_draw(4, 6)).astype(np.float32)}
    # Three sums of six products, in two networks.
    assert evaluation.relative_change(graph, result, x) <= 2 * 3 * 9 * _UNIT


class TestDeadChannels:
    @pytest.mark.parametrize("where", ["made", "read", "both"])
    def test_zero_weights_change_nothing_and_stay_finite(self, where):
        w1, w2, b1 = _spread(4, 6), _spread(6, 3), _draw(6).astype("f4")
        if where != "read":
            w1[:, 2] = 0
        if where != "made":
            w2[2] = 0
        graph = _pair(w1=w1, b1=b1, w2=w2, b2=np.zeros(3))
        result, _ = cross_layer_equalization.equalize(graph)
        first, second = _layers(result)
        for values in (first.kernel, first.bias, second.kernel):
            assert np.isfinite(values).all()
        assert first.bias[2] == b1[2]
        np.testing.assert_array_equal(second.kernel[2], w2[2])
        np.testing.assert_array_equal(first.kernel[:, 2], w1[:, 2])
        alive = np.arange(6) != 2
        np.testing.assert_allclose(
            _made(first)[alive], _read(second)[alive], rtol=_SETTLED
        )

    @pytest.mark.parametrize("tiny", [1e-12, 1e-30, 1e-42])
    def test_tiny_weights_with_a_large_bias_are_not_blown_up(self, tiny):
        """What folding a BN makes of a channel that it switched off."""
        gamma, beta = np.full(6, 1.0), np.full(6, 0.5)
        gamma[2], beta[2] = tiny, 2.0
        graph = _folded_pair(
            _spread(4, 6) / _made_of(_spread(4, 6)),
            _spread(6, 3),
            gamma=gamma,
            beta=beta,
        )
        before = _layers(graph)[0]
        result, _ = cross_layer_equalization.equalize(graph)
        first, second = _layers(result)
        for values in (first.kernel, first.bias, second.kernel):
            assert np.isfinite(values).all()
        # 0.5 + 3 deviations is as far as any channel went, and so the most
        # that the bias of 2 may become.
        assert 0 < first.bias[2] <= 3.5 * (1 + 1e-3)
        assert before.bias[2] == pytest.approx(2.0)
        x = {"x": _draw(8, 4).astype(np.float32)}
        assert evaluation.relative_change(graph, result, x) <= 2 * 20 * _UNIT

    def test_a_channel_that_is_always_off_keeps_a_bias_of_some_size(self):
        """Below zero for good: it reaches nothing, but its bias is stored."""
        gamma, beta = np.full(6, 1.0), np.full(6, 0.5)
        gamma[2], beta[2] = 1e-20, -5.0
        graph = _folded_pair(
            _spread(4, 6), _spread(6, 3), gamma=gamma, beta=beta
        )
        result, _ = cross_layer_equalization.equalize(graph)
        bias = _layers(result)[0].bias
        assert np.isfinite(bias).all()
        # 64 times as far as the activations reach, by the module's constant.
        assert -64 * 3.5 * (1 + 1e-3) <= bias[2] < 0


def _made_of(kernel):
    return np.abs(kernel).max(axis=0)


class TestRangeGrowth:
    @pytest.mark.parametrize("growth", [0.5, 1.0, 2.0])
    def test_no_channel_reaches_further_than_allowed(self, growth):
        graph = _folded_pair(_spread(5, 12, seed=4), _spread(12, 3, seed=5))

        def reach(graph):
            known = channel_statistics.find(graph)
            relu = next(n for n in graph if n.op == "Relu")
            return known[relu.output].interval(3.0)[1]

        free, _ = cross_layer_equalization.equalize(
            graph, max_range_growth=None
        )
        held, _ = cross_layer_equalization.equalize(
            graph, max_range_growth=growth
        )
        most = growth * reach(graph).max()
        # Without a limit it would go further.
        assert reach(free).max() > 1.1 * most
        # Moments are float64, but folded from float32 parameters.
        assert (reach(held) <= most * (1 + 1e-6)).all()
        near = reach(held) > most * (1 - 1e-6)
        assert near.any()
        assert not near.all()
        made, read = (
            f(layer)
            for f, layer in zip((_made, _read), _layers(held), strict=True)
        )
        np.testing.assert_allclose(made[~near], read[~near], rtol=_SETTLED)
        x = {"x": _draw(8, 5).astype(np.float32)}
        assert evaluation.relative_change(graph, held, x) <= 2 * 30 * _UNIT

    def test_without_batch_norm_there_is_no_limit(self):
        graph = _pair(
            w1=_spread(5, 6), b1=np.ones(6), w2=_spread(6, 3), b2=np.ones(3)
        )
        limited, _ = cross_layer_equalization.equalize(
            graph, max_range_growth=1.0
        )
        free, _ = cross_layer_equalization.equalize(
            graph, max_range_growth=None
        )
        for one, two in zip(_layers(limited), _layers(free), strict=True):
            np.testing.assert_array_equal(one.kernel, two.kernel)
