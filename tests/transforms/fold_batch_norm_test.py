"""A graph whose BN is folded computes what it did, and remembers the BN."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from dsg_tf.analysis import bn_statistics, linear_layers
from dsg_tf.graph import evaluation, frozen, ir
from dsg_tf.quant import qtypes
from dsg_tf.transforms import fold_batch_norm
from tests import tiny_graphs, tiny_models

_EPS = np.finfo(np.float32).eps
_EPSILON = 3e-3
_KERAS = pytest.mark.parametrize(
    "api", [keras, tf_keras], ids=["keras3", "keras2"]
)


def _random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _randomise(model, seed=0):
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        low = 0.3 if "variance" in weight.name else -1.5
        value = rng.uniform(low, 1.5, weight.shape)
        weight.assign(value.astype(np.float32))


def _freeze(model, *shape):
    return tiny_graphs.freeze(
        lambda x: model(x, training=False), (None, *shape)
    )


def _run(graph, x):
    return [y.numpy() for y in frozen.to_function(graph)(tf.constant(x))]


def _run_apart(graph, x):
    """Operation by operation, none fused with the next.

    TensorFlow fuses a convolution with a BiasAdd or a BN behind it, into one
    that takes no groups on a CPU.
    """
    before = tf.config.optimizer.get_experimental_options()
    tf.config.optimizer.set_experimental_options({"remapping": False})
    try:
        return _run(graph, x)
    finally:
        tf.config.optimizer.set_experimental_options(
            {"remapping": before.get("remapping", True)}
        )


def _check_weights(graph, folded):
    """Each folded layer's numbers, in float64 and by output channel.

    To one rounding to float32: what they are stored in.
    """
    before = {x.output: x for x in linear_layers.find(graph)}
    after = {x.output: x for x in linear_layers.find(folded)}
    for norm in bn_statistics.find(graph):
        layer = after[norm.output]
        source = norm.input
        while source not in before:
            source = graph.producer(source).inputs[0]
        old = before[source]
        for c in range(norm.num_channels):
            variance, gamma, beta, mean = (
                float(a[c])
                for a in (norm.variance, norm.gamma, norm.beta, norm.mean)
            )
            factor = gamma / (variance + norm.epsilon) ** 0.5
            row = old.rows()[c].astype(np.float64) * factor
            np.testing.assert_allclose(layer.rows()[c], row, rtol=_EPS)
            bias = 0.0 if old.bias is None else float(old.bias[c])
            bias = (bias - mean) * factor
            size = abs(bias) + abs(beta)
            assert abs(layer.bias[c] - (bias + beta)) <= _EPS * size


def _tolerance(graph, x):
    """By how much outputs may differ, (O,), of graphs that end in a BN.

    Before and behind the fold an output channel is a sum of the layer's K
    products and a few more numbers, each rounded at most K + 8 times.
    """
    norm = bn_statistics.find(graph)[-1]
    layer = linear_layers.find(graph)[-1]
    factor = np.abs(norm.gamma / np.sqrt(norm.variance + norm.epsilon))
    largest = np.abs(layer.rows()).sum(axis=1) * np.abs(x).max()
    bias = 0.0 if layer.bias is None else np.abs(layer.bias)
    size = factor * (largest + bias + np.abs(norm.mean)) + np.abs(norm.beta)
    return 2 * (layer.rows().shape[1] + 8) * _EPS * size


def _count_sums(graph):
    return sum(node.op in ("Add", "AddV2", "BiasAdd") for node in graph)


def _check(graph, *shape):
    """Folds a graph of one layer and its BN; returns it and the report."""
    folded, report = fold_batch_norm.fold_batch_norm(graph)
    assert [row.applied for row in report.rows] == [True]
    assert bn_statistics.find(folded) == ()
    assert folded.outputs == graph.outputs
    assert folded.inputs == graph.inputs
    x = _random(3, *shape)
    (before,), (after,) = _run_apart(graph, x), _run(folded, x)
    assert np.isfinite(before).all()
    assert np.abs(before).max() > 0
    assert (np.abs(after - before) <= _tolerance(graph, x)).all()
    _check_weights(graph, folded)
    return folded, report


_LAYERS = {
    "conv2d": (lambda k, b: k.Conv2D(5, 3, use_bias=b), (8, 8, 3)),
    "strided": (
        lambda k, b: k.Conv2D(5, 3, 2, padding="same", use_bias=b),
        (8, 8, 3),
    ),
    "dilated": (
        lambda k, b: k.Conv2D(5, 3, dilation_rate=2, use_bias=b),
        (8, 8, 3),
    ),
    "grouped": (lambda k, b: k.Conv2D(6, 3, groups=3, use_bias=b), (8, 8, 3)),
    "depthwise": (
        lambda k, b: k.DepthwiseConv2D(3, depth_multiplier=2, use_bias=b),
        (8, 8, 3),
    ),
    "transposed": (
        lambda k, b: k.Conv2DTranspose(5, 3, strides=2, use_bias=b),
        (4, 4, 3),
    ),
    "conv1d": (lambda k, b: k.Conv1D(5, 3, use_bias=b), (8, 3)),
    "dilated1d": (
        lambda k, b: k.Conv1D(5, 3, dilation_rate=2, use_bias=b),
        (8, 3),
    ),
    "depthwise1d": (
        lambda k, b: k.DepthwiseConv1D(3, depth_multiplier=2, use_bias=b),
        (8, 3),
    ),
    "dense": (lambda k, b: k.Dense(5, use_bias=b), (7,)),
    # As many positions as channels: an addition along the wrong axis works.
    "dense of rank 3": (lambda k, b: k.Dense(5, use_bias=b), (5, 3)),
}


class TestKeras:
    @_KERAS
    @pytest.mark.parametrize("name", list(_LAYERS))
    @pytest.mark.parametrize("bias", [False, True], ids=["plain", "biased"])
    def test_every_layer_takes_its_bn(self, api, name, bias):
        build, shape = _LAYERS[name]
        model = api.Sequential(
            [
                api.Input(shape),
                build(api.layers, bias),
                api.layers.BatchNormalization(epsilon=_EPSILON),
            ]
        )
        _randomise(model)
        folded, report = _check(_freeze(model, *shape), *shape)
        assert report.name == "fold_batch_norm"
        assert "Rsqrt" not in {node.op for node in folded}

    @_KERAS
    @pytest.mark.parametrize("scale", [True, False])
    @pytest.mark.parametrize("center", [True, False])
    @pytest.mark.parametrize("shape", [(6,), (8, 8, 3)], ids=["dense", "conv"])
    def test_scale_and_centre_may_be_missing(self, api, scale, center, shape):
        layers = api.layers
        model = api.Sequential(
            [
                api.Input(shape),
                layers.Dense(4) if len(shape) == 1 else layers.Conv2D(4, 3),
                layers.BatchNormalization(
                    epsilon=_EPSILON, scale=scale, center=center
                ),
            ]
        )
        _randomise(model)
        _check(_freeze(model, *shape), *shape)

    @pytest.mark.parametrize(
        ("build", "shape"),
        [
            (tiny_models.classifier, (8, 8, 3)),
            (lambda: tiny_models.classifier(shape=(16, 3)), (16, 3)),
            (tiny_models.vector_classifier, (12,)),
            (tiny_models.regressor, (8, 8, 3)),
        ],
        ids=["images", "series", "vectors", "image to image"],
    )
    def test_whole_models_compute_what_they_did(self, build, shape):
        """To a thousand roundings of the largest value, through three layers.

        Each sums up to 72 products, twice; ReLUs do not enlarge errors.
        """
        graph = _freeze(build(), *shape)
        folded, report = fold_batch_norm.fold_batch_norm(graph)
        assert not report.skipped
        assert len(report.rows) == len(bn_statistics.find(graph))
        change = evaluation.relative_change(
            graph, folded, {"x": _random(4, *shape)}
        )
        assert change <= 1000 * _EPS

    def test_the_report_names_the_layers_in_order(self):
        layers = []
        for name in ("stem", "block", "head"):
            layers += [
                keras.layers.Conv2D(4, 3, name=f"{name}_conv"),
                keras.layers.BatchNormalization(name=f"{name}_bn"),
                keras.layers.ReLU(),
            ]
        model = keras.Sequential([keras.Input((8, 8, 3)), *layers])
        folded, report = fold_batch_norm.fold_batch_norm(
            _freeze(model, 8, 8, 3)
        )
        names = ["stem_bn", "block_bn", "head_bn"]
        assert [row.node for row in report.rows] == names
        convs = [layer.name for layer in linear_layers.find(folded)]
        assert convs == ["stem_conv", "block_conv", "head_conv"]

    @_KERAS
    @pytest.mark.parametrize("dilation", [1, 2])
    @pytest.mark.parametrize("bias", [False, True], ids=["plain", "biased"])
    def test_a_separable_layer_takes_its_bn(self, api, dilation, bias):
        """Keras 2 adds the bias to an image of one row, and squeezes then."""
        model = api.Sequential(
            [
                api.Input((8, 3)),
                api.layers.SeparableConv1D(
                    5, 3, dilation_rate=dilation, use_bias=bias
                ),
                api.layers.BatchNormalization(epsilon=_EPSILON),
            ]
        )
        _randomise(model)
        graph = _freeze(model, 8, 3)
        folded, report = fold_batch_norm.fold_batch_norm(graph)
        assert [row.applied for row in report.rows] == [True]
        assert bn_statistics.find(folded) == ()
        _check_weights(graph, folded)
        # The old bias is gone, not added as well.
        assert _count_sums(folded) == 1
        # Sums of three products, twice, and a dozen roundings of what is at
        # most a few times as large as the largest output.
        change = evaluation.relative_change(
            graph, folded, {"x": _random(4, 8, 3)}
        )
        assert change <= 100 * _EPS


def _parameters(channels, seed=0):
    rng = np.random.default_rng(seed)
    return [
        rng.uniform(0.3, 2.0, channels).astype(np.float32) for _ in range(4)
    ]


def _decomposed(x, seed=0):
    """BN as tf.nn writes it out."""
    mean, variance, beta, gamma = _parameters(x.shape[-1], seed)
    return tf.nn.batch_normalization(
        x, mean, tf.constant(variance), beta, gamma, _EPSILON
    )


def _by_hand(x, seed=0):
    mean, variance, beta, gamma = _parameters(x.shape[-1], seed)
    sigma = tf.sqrt(tf.constant(variance) + _EPSILON)
    return gamma * (x - mean) / sigma + beta


def _fused(x, seed=0, **kwargs):
    mean, variance, beta, gamma = _parameters(kwargs.pop("size", x.shape[-1]))
    return tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=gamma,
        offset=beta,
        mean=mean,
        variance=variance,
        epsilon=_EPSILON,
        is_training=False,
        **kwargs,
    ).y


_NORM = pytest.mark.parametrize("norm", [_decomposed, _by_hand, _fused])


def _conv(x, channels=5, seed=0, padding="SAME", **kwargs):
    kernel = _random(3, 3, kwargs.pop("size", x.shape[-1]), channels, seed=seed)
    return tf.nn.conv2d(x, kernel, 1, padding, **kwargs)


def _reshaped_by_own_shape(y):
    return _decomposed(tf.reshape(y, [tf.shape(y)[0], 8, 5]))


class TestForms:
    @_NORM
    @pytest.mark.parametrize(
        "layer",
        [
            _conv,
            lambda x: _conv(x) + _random(5),
            lambda x: tf.nn.bias_add(_conv(x), _random(5)),
            lambda x: _conv(x) + np.float32(0.5),
            lambda x: tf.nn.depthwise_conv2d(
                x, _random(3, 3, 3, 2), (1, 1, 1, 1), "SAME"
            ),
        ],
        ids=["plain", "AddV2", "BiasAdd", "scalar", "depthwise"],
    )
    def test_every_form_behind_every_bias_is_folded(self, norm, layer):
        graph = tiny_graphs.freeze(lambda x: norm(layer(x)), (None, 8, 8, 3))
        folded, _ = _check(graph, 8, 8, 3)
        ops = [node.op for node in folded if node.op != "Const"]
        assert len(ops) == 3  # Placeholder, the layer, its bias.

    # A fused BN takes images alone.
    @pytest.mark.parametrize("norm", [_decomposed, _by_hand])
    @pytest.mark.parametrize(
        "reshape",
        [
            lambda y: tf.squeeze(y, [1]),
            lambda y: tf.reshape(y, [-1, 8, 5]),
            lambda y: tf.squeeze(tf.expand_dims(tf.squeeze(y, [1]), 1), [1]),
        ],
        ids=["Squeeze", "Reshape", "three"],
    )
    def test_a_bias_moves_behind_the_reshape(self, norm, reshape):
        graph = tiny_graphs.freeze(
            lambda x: norm(reshape(_conv(x) + _random(5))), (None, 1, 8, 3)
        )
        folded, _ = _check(graph, 1, 8, 3)
        (layer,) = linear_layers.find(folded)
        assert len(folded.shape(layer.linear_output)) == 3
        assert _count_sums(folded) == 1

    def test_a_reshape_to_a_shape_of_the_sum_leaves_one_bias(self):
        """Whatever reads the sum on the way to the BN reads the layer then."""
        graph = tiny_graphs.freeze(
            lambda x: _reshaped_by_own_shape(_conv(x) + _random(5)),
            (None, 1, 8, 3),
        )
        folded, report = fold_batch_norm.fold_batch_norm(graph)
        assert [row.applied for row in report.rows] == [True]
        x = _random(3, 1, 8, 3)
        (before,), (after,) = _run_apart(graph, x), _run(folded, x)
        assert (np.abs(after - before) <= _tolerance(graph, x)).all()
        assert _count_sums(folded) == 1

    @_NORM
    def test_bn_behind_bn_goes_into_the_layer_too(self, norm):
        """Two factors, one after the other: the tolerance twice over."""
        graph = tiny_graphs.freeze(
            lambda x: norm(norm(_conv(x)), seed=1), (None, 8, 8, 3)
        )
        assert len(bn_statistics.find(graph)) == 2
        folded, report = fold_batch_norm.fold_batch_norm(graph)
        assert [row.applied for row in report.rows] == [True, True]
        assert bn_statistics.find(folded) == ()
        x = _random(2, 8, 8, 3)
        (before,), (after,) = _run(graph, x), _run(folded, x)
        first, second = bn_statistics.find(graph)
        factor = np.abs(second.gamma) / second.sigma
        (layer,) = linear_layers.find(graph)
        size = np.abs(first.gamma) / first.sigma
        size = size * np.abs(layer.rows()).sum(axis=1) * np.abs(x).max()
        size = factor * (size + 10) + 10  # Parameters below 2, over 0.3.
        assert np.isfinite(before).all()
        assert (np.abs(after - before) <= 2 * 43 * _EPS * size).all()
        # What the first one knew is gone with its tensor.
        assert set(folded.moments) == {graph.outputs[0].tensor}

    def test_two_in_one_scope_have_a_row_each(self):
        def function(x):
            with tf.name_scope("block/norms"):
                y = _fused(_conv(x))
                z = _fused(tf.sigmoid(y))
                return tf.nn.relu(z)

        graph = tiny_graphs.freeze(function, (None, 8, 8, 3))
        _, report = fold_batch_norm.fold_batch_norm(graph)
        assert [row.applied for row in report.rows] == [True, False]

    def test_gamma_of_zero_leaves_the_centre(self):
        zero = np.zeros(5, np.float32)
        _, variance, beta, _ = _parameters(5)

        def function(x):
            return tf.nn.batch_normalization(
                _conv(x), zero, tf.constant(variance), beta, zero, _EPSILON
            )

        graph = tiny_graphs.freeze(function, (None, 8, 8, 3))
        folded, _ = fold_batch_norm.fold_batch_norm(graph)
        (y,) = _run(folded, _random(1, 8, 8, 3))
        np.testing.assert_array_equal(y, np.broadcast_to(beta, y.shape))
        (moments,) = folded.moments.values()
        np.testing.assert_array_equal(moments.deviation, zero)

    def test_channels_may_stand_first(self):
        """No CPU runs it: the numbers tell."""
        graph = tiny_graphs.freeze(
            lambda x: _fused(
                _conv(x, size=3, data_format="NCHW"),
                size=5,
                data_format="NCHW",
            ),
            (None, 3, 8, 8),
        )
        folded, report = fold_batch_norm.fold_batch_norm(graph)
        assert len(report.applied) == 1
        _check_weights(graph, folded)
        total = folded.producer(folded.outputs[0].tensor)
        assert (total.op, total.attr("data_format")) == ("BiasAdd", "NCHW")


class TestMoments:
    @_NORM
    def test_are_beta_and_gamma_of_the_bns_output(self, norm):
        graph = tiny_graphs.freeze(lambda x: norm(_conv(x)), (None, 8, 8, 3))
        folded, _ = fold_batch_norm.fold_batch_norm(graph)
        (found,) = bn_statistics.find(graph)
        ((tensor, moments),) = folded.moments.items()
        assert tensor == found.output == linear_layers.find(folded)[0].output
        np.testing.assert_array_equal(moments.mean, found.beta)
        variance = found.variance.astype(np.float64)
        # An input of this mean and variance, put through the BN.
        deviation = found.gamma * np.sqrt(variance)
        deviation /= np.sqrt(variance + found.epsilon)
        np.testing.assert_allclose(moments.deviation, deviation, rtol=1e-14)
        assert moments.mean.dtype == moments.deviation.dtype == np.float64

    def test_are_those_of_samples_of_the_training_set(self):
        """BN's moments taken from samples; so are the output's, then.

        rtol: float32 sums of 4096 numbers, relative to a variance that is
        not small beside the mean.
        """
        x = _random(64, 8, 8, 3)
        kernel = _random(3, 3, 3, 5)
        y = tf.nn.conv2d(x, kernel, 1, "SAME").numpy().astype(np.float64)
        mean, variance = y.mean(axis=(0, 1, 2)), y.var(axis=(0, 1, 2))
        gamma, beta = np.float32([-2, -1, 0.1, 1, 3]), _random(5)

        def function(x):
            return tf.nn.batch_normalization(
                tf.nn.conv2d(x, kernel, 1, "SAME"),
                np.float32(mean),
                tf.constant(np.float32(variance)),
                beta,
                gamma,
                0.5,
            )

        graph = tiny_graphs.freeze(function, (None, 8, 8, 3))
        folded, _ = fold_batch_norm.fold_batch_norm(graph)
        (moments,) = folded.moments.values()
        (z,) = _run(folded, x)
        z = z.astype(np.float64)
        np.testing.assert_allclose(
            moments.mean, z.mean(axis=(0, 1, 2)), atol=1e-5
        )
        np.testing.assert_allclose(
            moments.deviation, z.std(axis=(0, 1, 2)), rtol=1e-5
        )

    def test_of_other_tensors_stay(self):
        graph = tiny_graphs.freeze(lambda x: _fused(_conv(x)), (None, 8, 8, 3))
        known = ir.Moments(np.zeros(3), np.ones(3))
        graph = graph.replace_nodes({}, moments={"x:0": known})
        folded, _ = fold_batch_norm.fold_batch_norm(graph)
        assert folded.moments["x:0"] is known
        assert len(folded.moments) == 2


class TestSkipped:
    def _check(self, function, *shape):
        """Nothing is done; returns the reasons."""
        graph = tiny_graphs.freeze(function, (None, *shape))
        folded, report = fold_batch_norm.fold_batch_norm(graph)
        assert report.rows
        assert not report.applied
        assert folded.text() == graph.text()
        assert not folded.moments
        return [row.reason for row in report.rows]

    @_NORM
    @pytest.mark.parametrize(
        ("before", "op"),
        [
            (tf.identity, "Placeholder"),
            (lambda x: tf.nn.relu(_conv(x)), "Relu"),
            (lambda x: tf.concat([_conv(x), x], -1), "ConcatV2"),
            (lambda x: _conv(x, 3) + x, "AddV2"),
            (lambda x: tf.nn.max_pool2d(_conv(x), 2, 2, "SAME"), "MaxPool"),
        ],
        ids=["input", "activation", "concat", "sum", "pool"],
    )
    def test_bn_that_is_not_behind_a_layer_stays(self, norm, before, op):
        reasons = self._check(lambda x: norm(before(x)), 8, 8, 3)
        assert reasons == [f"behind {op}, which has no weights"]

    @_NORM
    @pytest.mark.parametrize(
        "also",
        [
            lambda y: tf.nn.relu(y),
            lambda y: y,
            lambda y: _conv(y, seed=3),
        ],
        ids=["another operation", "the caller", "another layer"],
    )
    @pytest.mark.parametrize("bias", [False, True], ids=["plain", "biased"])
    def test_a_layer_that_others_read_stays(self, norm, also, bias):
        def function(x):
            y = _conv(x)
            y = y + _random(5) if bias else y
            return norm(y), also(y)

        reasons = self._check(function, 8, 8, 3)
        assert reasons == ["others read the layer's output too"]

    def test_a_bias_that_others_read_before_a_squeeze_stays(self):
        def function(x):
            y = _conv(x) + _random(5)
            return _decomposed(tf.squeeze(y, [1])), tf.nn.relu(y)

        reasons = self._check(function, 1, 8, 3)
        assert reasons == ["others read the layer's output too"]

    def test_what_is_inside_the_bn_may_be_read_by_nobody_else(self):
        def function(x):
            mean, variance, beta, gamma = _parameters(5)
            centred = _conv(x) - mean
            sigma = tf.sqrt(tf.constant(variance) + _EPSILON)
            return centred / sigma * gamma + beta, tf.nn.relu(centred)

        reasons = self._check(function, 8, 8, 3)
        assert reasons == ["others read the layer's output too"]

    def test_a_layer_of_two_bns_stays(self):
        def function(x):
            y = _conv(x)
            return _fused(y), _decomposed(y, seed=1)

        assert len(self._check(function, 8, 8, 3)) == 2

    def test_channels_of_another_axis_are_not_the_layers(self):
        """Eight rows, eight channels: BN along the rows."""
        parameters = [p.reshape(8, 1, 1) for p in _parameters(8)]

        def function(x):
            mean, variance, beta, gamma = parameters
            return tf.nn.batch_normalization(
                _conv(x, 8), mean, tf.constant(variance), beta, gamma, _EPSILON
            )

        reasons = self._check(function, 8, 8, 3)
        assert reasons == ["its channels are not those of the layer"]

    def test_a_reshape_that_moves_channels_is_in_the_way(self):
        reasons = self._check(
            lambda x: _decomposed(tf.reshape(_conv(x), (-1, 8 * 8 * 5))),
            8,
            8,
            3,
        )
        assert len(reasons) == 1

    def test_a_kernel_that_varies_is_no_weight(self):
        reasons = self._check(
            lambda x: _decomposed(tf.matmul(x, x, transpose_b=True)), 8, 4
        )
        assert "which has no weights" in reasons[0]

    def test_a_graph_without_bn_has_an_empty_report(self):
        graph = tiny_graphs.freeze(_conv, (None, 8, 8, 3))
        folded, report = fold_batch_norm.fold_batch_norm(graph)
        assert folded is graph
        assert report.rows == ()


class TestNames:
    @_NORM
    def test_tensors_that_others_read_keep_theirs(self, norm):
        def function(x):
            y = norm(_conv(x))
            return tf.nn.relu(y), tf.sigmoid(y), y

        graph = tiny_graphs.freeze(function, (None, 8, 8, 3))
        folded, _ = fold_batch_norm.fold_batch_norm(graph)
        (found,) = bn_statistics.find(graph)
        assert folded.outputs == graph.outputs
        for before in graph.consumers(found.output):
            assert folded[before.name].inputs == before.inputs

    def test_a_kernel_of_two_layers_is_scaled_for_one(self):
        kernel = tf.Variable(_random(3, 3, 3, 3), name="shared/kernel")

        def function(x):
            first = tf.nn.conv2d(x, kernel, 1, "SAME")
            second = tf.nn.conv2d(x, kernel, 1, "SAME")
            return _fused(first), second

        graph = tiny_graphs.freeze(function, (None, 8, 8, 3))
        folded, report = fold_batch_norm.fold_batch_norm(graph)
        assert len(report.applied) == 1
        _check_weights(graph, folded)
        x = _random(2, 8, 8, 3)
        np.testing.assert_array_equal(_run(folded, x)[1], _run(graph, x)[1])

    def test_a_kernel_of_two_bns_is_scaled_for_each(self):
        kernel = tf.Variable(_random(3, 3, 3, 3), name="shared/kernel")

        def function(x):
            return [
                norm(tf.nn.conv2d(x, kernel, 1, "SAME"))
                for norm in (_fused, lambda x: _decomposed(x, seed=1))
            ]

        graph = tiny_graphs.freeze(function, (None, 8, 8, 3))
        folded, report = fold_batch_norm.fold_batch_norm(graph)
        assert len(report.applied) == 2
        _check_weights(graph, folded)

    def test_a_grid_does_not_outlive_its_kernel(self):
        graph = tiny_graphs.freeze(lambda x: _fused(_conv(x)), (None, 8, 8, 3))
        (layer,) = linear_layers.find(graph)
        grid = qtypes.QuantParams([1.0], [0], -7, 7)
        graph = graph.replace_nodes(
            {}, weight_grids={layer.kernel_tensor: grid}
        )
        folded, _ = fold_batch_norm.fold_batch_norm(graph)
        assert not folded.weight_grids
