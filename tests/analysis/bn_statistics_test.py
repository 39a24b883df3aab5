"""BN layers are found in every form, with exactly the layer's own numbers."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from dsg_tf.analysis import bn_statistics
from dsg_tf.core import errors
from dsg_tf.graph import evaluation, frozen
from dsg_tf.graph.load import loading

_KERAS = pytest.mark.parametrize(
    "api", [keras, tf_keras], ids=["keras3", "keras2"]
)
_EPSILON = 3e-3


def _freeze(function, *shape, dtype=tf.float32, batch=None):
    """Freezes a Python function of one input; `shape` without the batch."""
    spec = tf.TensorSpec((batch, *shape), dtype, name="x")
    return frozen.freeze(tf.function(function).get_concrete_function(spec))


def _freeze_model(model, *shape):
    return _freeze(lambda x: model(x, training=False), *shape)


def _randomise(layer, seed=0):
    """Gives a BN layer weights that no two of are alike; returns them."""
    rng = np.random.default_rng(seed)
    values = {}
    for what, weight in (
        ("gamma", layer.gamma),
        ("beta", layer.beta),
        ("mean", layer.moving_mean),
        ("variance", layer.moving_variance),
    ):
        if weight is None:
            continue
        value = rng.uniform(0.3, 2.0, weight.shape).astype(np.float32)
        weight.assign(value)
        values[what] = value
    return values


def _constants(channels, seed=0):
    rng = np.random.default_rng(seed)
    return [
        rng.uniform(0.3, 2.0, channels).astype(np.float32) for _ in range(4)
    ]


def _check_values(found, values):
    """Exact: the numbers are read, never computed."""
    channels = len(values["mean"])
    gamma = values.get("gamma", np.ones(channels, np.float32))
    beta = values.get("beta", np.zeros(channels, np.float32))
    np.testing.assert_array_equal(found.mean, values["mean"])
    np.testing.assert_array_equal(found.variance, values["variance"])
    np.testing.assert_array_equal(found.gamma, gamma)
    np.testing.assert_array_equal(found.beta, beta)
    assert found.epsilon == np.float32(_EPSILON)
    assert found.num_channels == channels


def _check_oracle(graph, found, seed=0):
    """The layer's output is what its record says, in float64.

    Tolerance: the graph rounds at most eight times on the way, on numbers of
    the size of |gamma * x / sigma| + |gamma * mean / sigma| + |beta|.
    """
    rng = np.random.default_rng(seed)
    feeds = {
        port.tensor: rng.normal(
            size=[2 if d is None else d for d in port.shape]
        ).astype(port.dtype.as_numpy_dtype)
        for port in graph.inputs
    }
    values = evaluation.evaluate(graph, [found.input, found.output], feeds)
    x = values[found.input].astype(np.float64)
    shape = [1] * x.ndim
    shape[found.channel_axis] = -1
    mean, variance, gamma, beta = (
        a.astype(np.float64).reshape(shape)
        for a in (found.mean, found.variance, found.gamma, found.beta)
    )
    scale = gamma / np.sqrt(variance + found.epsilon)
    expected = scale * (x - mean) + beta
    size = np.abs(scale) * (np.abs(x) + np.abs(mean)) + np.abs(beta)
    error = np.abs(values[found.output] - expected)
    assert np.isfinite(error).all()
    assert (error <= 8 * np.finfo(np.float32).eps * size).all()


class TestKerasLayers:
    @_KERAS
    @pytest.mark.parametrize("scale", [True, False])
    @pytest.mark.parametrize("center", [True, False])
    @pytest.mark.parametrize("shape", [(6,), (4, 4, 6)], ids=["dense", "map"])
    def test_scale_and_center_are_what_the_layer_has(
        self, api, scale, center, shape
    ):
        layer = api.layers.BatchNormalization(
            scale=scale, center=center, epsilon=_EPSILON
        )
        model = api.Sequential([api.Input(shape), layer])
        values = _randomise(layer)
        graph = _freeze_model(model, *shape)
        (found,) = bn_statistics.find(graph)
        _check_values(found, values)
        _check_oracle(graph, found)
        assert found.channel_axis == len(shape)
        assert found.input == "x:0"
        assert found.producer == "Placeholder"

    @_KERAS
    @pytest.mark.parametrize(
        ("build", "shape", "producer"),
        [
            (lambda k: k.layers.Conv2D(5, 2), (4, 4, 2), "Conv2D"),
            (lambda k: k.layers.Conv1D(5, 2), (6, 2), "Conv2D"),
            (lambda k: k.layers.Conv3D(5, 2), (3, 3, 3, 2), "Conv3D"),
            (lambda k: k.layers.Dense(5), (3,), "MatMul"),
            (
                lambda k: k.layers.DepthwiseConv2D(2),
                (4, 4, 3),
                "DepthwiseConv2dNative",
            ),
        ],
        ids=["conv2d", "conv1d", "conv3d", "dense", "depthwise"],
    )
    def test_moments_describe_the_biased_output_of_the_layer_before(
        self, api, build, shape, producer
    ):
        before = build(api)
        layer = api.layers.BatchNormalization(epsilon=_EPSILON)
        model = api.Sequential([api.Input(shape), before, layer])
        values = _randomise(layer)
        rng = np.random.default_rng(1)
        before.set_weights([rng.normal(size=w.shape) for w in before.weights])
        graph = _freeze_model(model, *shape)
        (found,) = bn_statistics.find(graph)
        _check_values(found, values)
        _check_oracle(graph, found)
        assert found.producer == producer
        sample = rng.normal(size=(2, *shape)).astype(np.float32)
        (x,) = evaluation.evaluate(
            graph, [found.input], {"x:0": sample}
        ).values()
        # The same operations on the same numbers, in another order at most.
        np.testing.assert_allclose(x, before(sample), rtol=1e-5, atol=1e-5)

    @_KERAS
    def test_channels_first_run_along_axis_one(self, api):
        layer = api.layers.BatchNormalization(axis=1, epsilon=_EPSILON)
        model = api.Sequential([api.Input((5, 3, 4)), layer])
        values = _randomise(layer)
        graph = _freeze_model(model, 5, 3, 4)
        (found,) = bn_statistics.find(graph)
        _check_values(found, values)
        assert found.channel_axis == 1
        if api is keras:  # No CPU kernel for the fused NCHW operation.
            _check_oracle(graph, found)

    @_KERAS
    def test_mixed_precision_keeps_the_float32_variables(self, api):
        layer = api.layers.BatchNormalization(
            epsilon=_EPSILON, dtype="mixed_float16"
        )
        conv = api.layers.Conv2D(5, 2, dtype="mixed_float16")
        model = api.Sequential([api.Input((4, 4, 2)), conv, layer])
        values = _randomise(layer)
        graph = _freeze_model(model, 4, 4, 2)
        (found,) = bn_statistics.find(graph)
        _check_values(found, values)
        assert found.producer == "Conv2D"

    @_KERAS
    def test_one_channel_keeps_variance_and_epsilon_apart(self, api):
        layer = api.layers.BatchNormalization(epsilon=_EPSILON)
        model = api.Sequential([api.Input((1,)), layer])
        values = _randomise(layer)
        # A dead channel: a variance below epsilon.
        values["variance"] = np.array([1e-4], np.float32)
        layer.moving_variance.assign(values["variance"])
        (found,) = bn_statistics.find(_freeze_model(model, 1))
        _check_values(found, values)

    @_KERAS
    def test_a_layer_of_two_branches_is_found_in_both(self, api):
        layer = api.layers.BatchNormalization(epsilon=_EPSILON)
        x = api.Input((6,))
        first = layer(api.layers.Dense(4)(x))
        second = layer(api.layers.Dense(4)(x))
        model = api.Model(x, api.layers.Add()([first, second]))
        values = _randomise(layer)
        found = bn_statistics.find(_freeze_model(model, 6))
        assert len({f.input for f in found}) == 2
        for each in found:
            _check_values(each, values)

    @_KERAS
    def test_layers_come_in_topological_order_with_their_names(self, api):
        layers = []
        for name in ("stem_bn", "block_bn", "head_bn"):
            layers += [
                api.layers.Dense(4, name=name.replace("bn", "dense")),
                api.layers.BatchNormalization(name=name),
                api.layers.ReLU(),
            ]
        model = api.Sequential([api.Input((4,)), *layers])
        found = bn_statistics.find(_freeze_model(model, 4))
        assert [f.name for f in found] == ["stem_bn", "block_bn", "head_bn"]

    @_KERAS
    def test_input_normalisation_is_no_bn(self, api):
        preprocess = api.layers.Normalization(
            mean=[1.0, 2.0, 3.0], variance=[4.0, 5.0, 6.0]
        )
        layer = api.layers.BatchNormalization(epsilon=_EPSILON)
        model = api.Sequential(
            [api.Input((4, 4, 3)), preprocess, api.layers.Conv2D(2, 2), layer]
        )
        values = _randomise(layer)
        (found,) = bn_statistics.find(_freeze_model(model, 4, 4, 3))
        _check_values(found, values)


_SHAPES = [(5,), (1, 1, 1, 5), (1, 5, 1, 1)]


def _forms():
    """Every arithmetic form: name -> output of (x, mean, var, gamma, beta)."""
    root = tf.math.rsqrt
    e = np.float32(_EPSILON)

    def with_k(x, m, v, g, b):
        k = g * root(v + e)
        return x, m, k, b

    def form(function):
        return lambda *args: function(*with_k(*args))

    return {
        "x*k+(b-m*k)": form(lambda x, m, k, b: x * k + (b - m * k)),
        "x*k-(m*k-b)": form(lambda x, m, k, b: x * k - (m * k - b)),
        "x*k+(b+(-m)*k)": form(lambda x, m, k, b: x * k + (b + (-m) * k)),
        "x*k+(b+-(m*k))": form(lambda x, m, k, b: x * k + (b + -(m * k))),
        "(x*k-m*k)+b": form(lambda x, m, k, b: (x * k - m * k) + b),
        "(x*k+b)-m*k": form(lambda x, m, k, b: (x * k + b) - m * k),
        "(x-m)*k+b": form(lambda x, m, k, b: (x - m) * k + b),
        "b+k*(x-m)": form(lambda x, m, k, b: b + k * (x - m)),
        "g*(x-m)/sqrt": lambda x, m, v, g, b: g * (x - m) / tf.sqrt(v + e) + b,
        "g*((x-m)/sqrt)": lambda x, m, v, g, b: (
            g * ((x - m) / tf.sqrt(v + e)) + b
        ),
        "(x-m)*(g/sqrt)": lambda x, m, v, g, b: (
            (x - m) * (g / tf.sqrt(v + e)) + b
        ),
        "(x-m)*rsqrt*g": lambda x, m, v, g, b: (x - m) * root(v + e) * g + b,
        "(x-m)*g*rsqrt": lambda x, m, v, g, b: (x - m) * g * root(v + e) + b,
        "1/sqrt": lambda x, m, v, g, b: (
            (x - m) * (1.0 / tf.sqrt(v + e)) * g + b
        ),
        "reciprocal": lambda x, m, v, g, b: (
            (x - m) * tf.math.reciprocal(tf.sqrt(v + e)) * g + b
        ),
        "pow -0.5": lambda x, m, v, g, b: (x - m) * tf.pow(v + e, -0.5) * g + b,
        "pow 0.5": lambda x, m, v, g, b: (x - m) / tf.pow(v + e, 0.5) * g + b,
        "eps+v": lambda x, m, v, g, b: (x - m) * root(e + v) * g + b,
        "tf.nn": lambda x, m, v, g, b: tf.nn.batch_normalization(
            x, m, v, b, g, e
        ),
    }


class TestHandWritten:
    @pytest.mark.parametrize("form", sorted(_forms()))
    def test_every_arithmetic_form_is_found(self, form):
        mean, variance, gamma, beta = _constants(5)
        graph = _freeze(
            lambda x: _forms()[form](
                x, *map(tf.constant, (mean, variance, gamma, beta))
            ),
            3,
            3,
            5,
        )
        (found,) = bn_statistics.find(graph)
        _check_values(
            found,
            {"mean": mean, "variance": variance, "gamma": gamma, "beta": beta},
        )
        _check_oracle(graph, found)

    @pytest.mark.parametrize("shape", _SHAPES, ids=str)
    def test_constants_of_any_broadcast_shape_are_found(self, shape):
        constants = [tf.constant(c.reshape(shape)) for c in _constants(5)]
        mean, variance, gamma, beta = constants
        graph = _freeze(
            lambda x: tf.nn.batch_normalization(
                x, mean, variance, beta, gamma, np.float32(_EPSILON)
            ),
            5,
            4,
            5,
        )
        (found,) = bn_statistics.find(graph)
        assert found.channel_axis == (1 if shape == (1, 5, 1, 1) else 3)
        _check_oracle(graph, found)

    @pytest.mark.parametrize("scale", [True, False])
    @pytest.mark.parametrize("center", [True, False])
    def test_tf_nn_without_scale_or_offset_is_found(self, scale, center):
        mean, variance, gamma, beta = _constants(5)
        graph = _freeze(
            lambda x: tf.nn.batch_normalization(
                x,
                tf.constant(mean),
                tf.constant(variance),
                beta if center else None,
                gamma if scale else None,
                np.float32(_EPSILON),
            ),
            5,
        )
        (found,) = bn_statistics.find(graph)
        values = {"mean": mean, "variance": variance}
        values |= {"gamma": gamma} if scale else {}
        values |= {"beta": beta} if center else {}
        _check_values(found, values)
        _check_oracle(graph, found)

    def test_casts_on_the_constants_are_looked_through(self):
        constants = _constants(5)
        mean, variance, gamma, beta = map(tf.Variable, constants)

        def half(variable):
            return tf.cast(variable, tf.float16)

        graph = _freeze(
            lambda x: tf.nn.batch_normalization(
                x,
                half(mean),
                half(variance),
                half(beta),
                half(gamma),
                np.float16(_EPSILON),
            ),
            5,
            dtype=tf.float16,
        )
        (found,) = bn_statistics.find(graph)
        for what, value in zip(
            ("mean", "variance", "gamma", "beta"), constants, strict=True
        ):
            np.testing.assert_array_equal(getattr(found, what), value)
        assert found.epsilon == np.float16(_EPSILON)

    def test_a_sum_that_was_folded_is_all_variance(self):
        mean, variance, gamma, beta = _constants(5)
        total = variance + np.float32(_EPSILON)
        graph = _freeze(
            lambda x: (x - mean) * (tf.math.rsqrt(total) * gamma) + beta, 5
        )
        (found,) = bn_statistics.find(graph)
        np.testing.assert_array_equal(found.variance, total)
        assert found.epsilon == 0.0
        _check_oracle(graph, found)

    @pytest.mark.parametrize(
        "function",
        [
            lambda x, m, v: (x - m) * tf.pow(v + 1e-3, -0.25),
            lambda x, m, v: (x - m) / tf.pow(v + 1e-3, 2.0),
            lambda x, m, v: (x - m) / tf.sqrt(v),
            lambda x, m, v: (x - m) / tf.maximum(tf.sqrt(v), 1e-7),
            lambda x, m, v: (x - 0.5) / tf.sqrt(0.25 + 1e-3 * tf.ones([])),
            lambda x, m, v: x * m + v,
        ],
        ids=["power", "square", "standardise", "floor", "scalars", "affine"],
    )
    def test_other_arithmetic_is_no_bn(self, function):
        mean, variance, _, _ = _constants(5)
        graph = _freeze(
            lambda x: function(x, tf.constant(mean), tf.constant(variance)),
            4,
            5,
        )
        assert not bn_statistics.find(graph)

    def test_another_numerator_is_the_scale(self):
        mean, variance, _, beta = _constants(5)
        graph = _freeze(
            lambda x: (
                (x - mean)
                * (2.0 / tf.sqrt(tf.constant(variance) + np.float32(_EPSILON)))
                + beta
            ),
            5,
        )
        (found,) = bn_statistics.find(graph)
        np.testing.assert_array_equal(found.gamma, np.full(5, 2, np.float32))
        _check_oracle(graph, found)


class TestFused:
    @pytest.mark.parametrize(
        "op",
        [
            tf.raw_ops.FusedBatchNorm,
            tf.raw_ops.FusedBatchNormV2,
            tf.raw_ops.FusedBatchNormV3,
        ],
        ids=["V1", "V2", "V3"],
    )
    def test_all_versions_are_found(self, op):
        mean, variance, gamma, beta = _constants(5)

        def function(x):
            return op(
                x=x,
                scale=gamma,
                offset=beta,
                mean=mean,
                variance=variance,
                epsilon=_EPSILON,
                is_training=False,
            ).y

        graph = _freeze(function, 3, 3, 5)
        (found,) = bn_statistics.find(graph)
        _check_values(
            found,
            {"mean": mean, "variance": variance, "gamma": gamma, "beta": beta},
        )
        _check_oracle(graph, found)
        assert found.channel_axis == 3

    def test_a_scale_that_depends_on_the_input_is_named(self):
        mean, variance, gamma, beta = _constants(5)

        def function(x):
            return tf.raw_ops.FusedBatchNormV3(
                x=x,
                scale=gamma * tf.reduce_mean(x),
                offset=beta,
                mean=mean,
                variance=variance,
                is_training=False,
            ).y

        with pytest.raises(errors.UserError, match="gamma that depends"):
            bn_statistics.find(_freeze(function, 3, 3, 5))


class TestErrors:
    def test_fused_training_mode_says_how_to_export(self):
        def function(x):
            return tf.raw_ops.FusedBatchNormV3(
                x=x,
                scale=tf.ones(5),
                offset=tf.zeros(5),
                mean=[],
                variance=[],
                is_training=True,
            ).y

        with pytest.raises(errors.UserError, match="training=False"):
            bn_statistics.find(_freeze(function, 3, 3, 5))

    @pytest.mark.parametrize("shape", [(5,), (3, 3, 5)], ids=["dense", "map"])
    def test_decomposed_training_mode_says_how_to_export(self, shape):
        axes = list(range(len(shape)))

        def function(x):
            mean, variance = tf.nn.moments(x, axes)
            return tf.nn.batch_normalization(x, mean, variance, 1.0, 2.0, 1e-3)

        with pytest.raises(errors.UserError, match="training=False"):
            bn_statistics.find(_freeze(function, *shape))

    def test_training_mode_by_the_mean_of_squares_is_noticed(self):
        def function(x):
            mean = tf.reduce_mean(x, [0, 1, 2])
            variance = tf.reduce_mean(x * x, [0, 1, 2]) - mean * mean
            return (x - mean) * tf.math.rsqrt(tf.nn.relu(variance) + 1e-3)

        with pytest.raises(errors.UserError, match="training mode"):
            bn_statistics.find(_freeze(function, 3, 3, 5))

    def test_statistics_of_the_batch_alone_are_no_bn(self):
        def function(x):
            _, variance = tf.nn.moments(x, [0], keepdims=True)
            return tf.concat([x, tf.sqrt(variance + 0 * x)], -1)

        assert not bn_statistics.find(_freeze(function, 3, 3, 5))

    @_KERAS
    @pytest.mark.parametrize("shape", [(5,), (4, 4, 6)], ids=["dense", "map"])
    def test_layer_norm_is_named(self, api, shape):
        model = api.Sequential(
            [api.Input(shape), api.layers.LayerNormalization()]
        )
        with pytest.raises(errors.UserError, match="1 x LayerNorm"):
            bn_statistics.require(_freeze_model(model, *shape))

    @_KERAS
    def test_group_norm_is_named(self, api):
        model = api.Sequential(
            [api.Input((4, 4, 6)), api.layers.GroupNormalization(2)]
        )
        with pytest.raises(errors.UserError, match="1 x InstanceNorm or Group"):
            bn_statistics.require(_freeze_model(model, 4, 4, 6))

    def test_l2_normalisation_is_not_called_a_norm_layer(self):
        graph = _freeze(lambda x: tf.math.l2_normalize(x, -1), 5)
        with pytest.raises(errors.UserError) as caught:
            bn_statistics.require(graph)
        assert "LayerNorm" not in str(caught.value)
        assert "Rsqrt" in str(caught.value)

    def test_folded_convolutions_are_named(self):
        kernel, bias = np.ones((2, 2, 3, 4), np.float32), np.ones(4, np.float32)
        graph = _freeze(
            lambda x: tf.nn.bias_add(tf.nn.conv2d(x, kernel, 1, "SAME"), bias),
            4,
            4,
            3,
        )
        with pytest.raises(errors.UserError, match="1 convolutions, 1 with"):
            bn_statistics.require(graph)

    @pytest.mark.parametrize(
        ("what", "value", "message"),
        [
            ("mean", np.nan, "1 of 5 channels of its mean"),
            ("gamma", np.inf, "1 of 5 channels of its gamma"),
            ("variance", -1.0, "negative variance"),
        ],
    )
    def test_moments_that_cannot_be_are_refused(self, what, value, message):
        layer = keras.layers.BatchNormalization()
        model = keras.Sequential([keras.Input((5,)), layer])
        values = _randomise(layer)
        values[what][2] = value
        getattr(
            layer, f"moving_{what}" if what in ("mean", "variance") else what
        ).assign(values[what])
        with pytest.raises(errors.UserError, match=message):
            bn_statistics.find(_freeze_model(model, 5))


_REAL = {
    "mlperf_tiny_kws_saved_model": 9,
    "mlperf_tiny_resnet8/pretrainedResnet.h5": 7,
    "mobilenet_v1_025_224.keras": 27,
    "mobilenet_v1_025_224_saved_model": 27,
    "resnet20_cifar10.keras": 19,
    "resnet20_cifar10_saved_model": 19,
    "vgg16bn_cifar10.keras": 13,
}


@pytest.mark.parametrize("path", sorted(_REAL))
def test_real_models_have_all_their_layers(shared, path):
    graph = loading.load(shared / "models" / path)
    found = bn_statistics.require(graph)
    assert len(found) == _REAL[path]
    assert len({f.name for f in found}) == _REAL[path]
    assert not any(f.name.endswith("bn_1") for f in found)
    _check_oracle(graph, found[0])
