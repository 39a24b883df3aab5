"""m and s on the folded graph are those of the graph as it was."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tiny_graphs

from dsg_tf.analysis import bn_statistics
from dsg_tf.diversity import sample_moments
from dsg_tf.graph import frozen
from dsg_tf.synthesis import losses, measured

_EPS = np.finfo(np.float32).eps
# Float32 sums of at most 200 products, four layers deep, over deviations of
# not less than a fifth of the values.
_SLACK = 1000 * _EPS
_BATCH = 3


def _draw(*shape, seed=0):
    values = np.random.default_rng([seed, *shape]).normal(size=shape)
    return values.astype(np.float32)


def _bn(x, seed=0, *, axis=-1, **given):
    """A BN layer, decomposed, of drawn numbers, some of its scales negative."""
    size = x.shape[axis]
    rng = np.random.default_rng([seed, size])
    drawn = {
        "mean": rng.normal(0, 0.5, size),
        "variance": rng.uniform(0.5, 2, size),
        "beta": rng.normal(0.3, 0.5, size),
        "gamma": rng.uniform(0.5, 1.5, size) * rng.choice([-1, 1, 1], size),
    }
    shape = [1] * x.shape.rank
    shape[axis] = size
    values = {
        name: np.float32(given.get(name, value)) * np.ones(size, "f")
        for name, value in drawn.items()
    }
    if axis != -1:
        values = {name: v.reshape(shape) for name, v in values.items()}
    return tf.nn.batch_normalization(
        x,
        values["mean"],
        tf.constant(values["variance"]),
        values["beta"],
        values["gamma"],
        1e-3,
    )


def _kernel(*shape, seed=0):
    """Of outputs about as wide as the inputs."""
    return _draw(*shape, seed=seed) / np.float32(np.sqrt(np.prod(shape[:-1])))


def _conv(x, outputs=6, *, seed=0, size=3, **others):
    kernel = _kernel(size, size, x.shape[-1], outputs, seed=seed)
    options = {"strides": 1, "padding": "SAME", **others}
    return tf.nn.conv2d(x, kernel, **options)


def _scores(x):
    flat = tf.reshape(x, (_BATCH, -1))
    return flat @ _kernel(flat.shape[-1], 4, seed=9)


def _layer(x):
    return _scores(tf.nn.relu6(_bn(_conv(x) + 0.2)))


def _linear(x):
    return _scores(_bn(_conv(x)))


def _deep(x):
    y = tf.nn.relu6(_bn(_conv(x), 1))
    y = tf.nn.depthwise_conv2d(y, _kernel(3, 3, 6, 1), [1] * 4, "SAME")
    y = tf.nn.relu(_bn(y, 2))
    y = tf.reduce_mean(y, [1, 2]) @ _kernel(6, 5)
    return tf.nn.relu(_bn(y, 3)) @ _kernel(5, 4)


def _behind_relu(x):
    return _scores(tf.nn.relu6(_bn(tf.nn.relu(_conv(x)))))


def _behind_relu_of_another(x):
    """What one layer's activation gives is what the next one measures."""
    y = tf.nn.relu(_bn(_conv(x), 1))
    return _scores(tf.nn.relu6(_bn(y, 2)))


def _behind_concat(x):
    y = tf.nn.relu(_bn(_conv(x), 1))
    z = tf.nn.relu(_bn(_conv(y, 4, seed=1), 2))
    # As DenseNet: what a layer reads has layers of its own behind it.
    return _scores(tf.nn.relu(_bn(tf.concat([y, z], -1), 3)))


def _residual(x):
    y = _bn(_conv(x), 1)
    z = tf.nn.relu(y)
    return _scores(tf.nn.relu(y + _bn(_conv(z, seed=1), 2)))


def _other_activation(x):
    return _scores(tf.nn.elu(_bn(_conv(x))))


def _two_behind_one(x):
    return _scores(tf.nn.relu(_bn(_bn(_conv(x), 1), 2)))


def _of_the_input(x):
    return _scores(tf.nn.relu(_bn(_conv(_bn(x, 1)), 2)))


def _two_of_one(x):
    y = _conv(x)
    return _scores(tf.nn.relu(_bn(y, 1)) + tf.nn.relu6(_bn(y, 2)))


def _activation_is_an_output(x):
    y = tf.nn.relu(_bn(_conv(x)))
    return _scores(y), y


def _padded(x):
    y = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
    return _scores(tf.nn.relu6(_bn(_conv(y, padding="VALID"))))


def _strided(x):
    return _scores(tf.nn.relu6(_bn(_conv(x, strides=2))))


def _strided_behind_relu(x):
    """A convolution of three channels that is no image's."""
    y = tf.nn.relu(_bn(_conv(x, 3), 1))
    return _scores(tf.nn.relu6(_bn(_conv(y, strides=2), 2)))


def _grouped(x):
    y = tf.nn.relu(_bn(_conv(x, 8), 1))
    y = tf.nn.conv2d(y, _kernel(3, 3, 4, 6), 1, "SAME")
    return _scores(tf.nn.relu(_bn(y, 2)))


def _pooled(x):
    y = tf.reduce_mean(_conv(x), [1, 2], keepdims=True)
    return _scores(tf.nn.relu(_bn(y)))


def _channels_first(x):
    y = tf.transpose(_conv(x), (0, 3, 1, 2))
    return _scores(tf.nn.relu(_bn(y, axis=1)))


def _middle_axis(x):
    return _scores(tf.nn.relu(_bn(_conv(x), axis=2)))


def _frames(x):
    """Each row of an image by itself: eight rows of features a sample."""
    y = tf.reshape(x, (-1, 8, 3)) @ _kernel(1, 3, 6)[0]
    return _scores(tf.nn.relu(_bn(y)))


def _frames_channels_first(x):
    y = tf.transpose(tf.reshape(x, (-1, 8, 3)), (0, 2, 1))
    return _scores(tf.nn.relu(_bn(y, axis=1)))


def _rows(x):
    """Every pixel by itself."""
    y = tf.reshape(x, (-1, 3)) @ _kernel(3, 6)
    return _scores(tf.nn.relu(_bn(y)))


def _dense(x):
    y = tf.reshape(x, (_BATCH, -1)) @ _kernel(8 * 8 * 3, 6)
    return tf.nn.relu(_bn(y)) @ _kernel(6, 4)


def _conv1d(x):
    y = tf.nn.conv1d(tf.reshape(x, (-1, 64, 3)), _kernel(3, 3, 6), 1, "SAME")
    return _scores(tf.nn.relu6(_bn(y)))


def _conv3d(x):
    y = tf.reshape(x, (-1, 4, 4, 4, 3))
    y = tf.nn.conv3d(y, _kernel(3, 3, 3, 3, 6), [1] * 5, "SAME")
    return _scores(tf.nn.relu6(_bn(y)))


_NETS = {
    f.__name__.strip("_").replace("_", " "): f
    for f in (
        *(_layer, _linear, _deep, _behind_relu, _behind_relu_of_another),
        *(_behind_concat, _residual, _other_activation, _two_behind_one),
        *(_of_the_input, _two_of_one, _activation_is_an_output, _padded),
        *(_strided, _strided_behind_relu, _grouped, _pooled),
        *(
            _channels_first,
            _middle_axis,
            _frames,
            _frames_channels_first,
            _rows,
        ),
        *(_dense, _conv1d, _conv3d),
    )
}


def _graph(net):
    return tiny_graphs.freeze(net, (_BATCH, 8, 8, 3))


def _images(scale=1.5):
    return scale * _draw(_BATCH, 8, 8, 3, seed=4)


def _values(graph, x):
    """m and s by layer, and the outputs, as the folded graph tells them."""
    layers = bn_statistics.find(graph)
    found = measured.MeasuredGraph(graph, layers)
    outputs = [port.tensor for port in graph.outputs]

    @tf.function(autograph=False)
    def run(x):
        return found.values([x], outputs)

    mean, deviation, tensors = run(tf.constant(x))
    ends = np.cumsum(found.channels)[:-1]
    return (
        np.split(mean.numpy(), ends, 1),
        np.split(deviation.numpy(), ends, 1),
        [t.numpy() for t in tensors],
    )


def _plain(graph, x, layers, tensors):
    """The same by operations of TensorFlow on the graph as it is; in a trace.

    Where a sample has several rows, these are positions.
    """
    found = frozen.splice(graph, [x], [*(y.input for y in layers), *tensors])
    means, deviations = [], []
    for layer, features in zip(layers, found, strict=False):
        axes = [
            a for a in range(features.shape.rank) if a != layer.channel_axis
        ]
        rows = tf.transpose(features, [*axes, layer.channel_axis])
        rows = tf.reshape(rows, (_BATCH, -1, layer.num_channels))
        mean, variance = tf.nn.moments(rows, 1)
        means.append(mean)
        deviations.append(losses.deviation(variance + layer.epsilon))
    return tf.concat(means, 1), tf.concat(deviations, 1), found[len(layers) :]


@pytest.fixture(params=[0, 10**12], ids=["compiled", "plain"])
def _backward(request, monkeypatch):
    monkeypatch.setattr(measured, "_COMPILED_FROM", request.param)


@pytest.mark.parametrize("net", _NETS.values(), ids=_NETS)
class TestOfEveryLayer:
    def test_moments_and_outputs_are_those_of_the_graph(self, net):
        graph, x = _graph(net), _images()
        means, deviations, tensors = _values(graph, x)
        expected = sample_moments.of_graph(
            graph, {"x": x}, layers=bn_statistics.find(graph)
        )
        assert len(expected) == len(means) > 0
        for mean, deviation, wanted in zip(
            means, deviations, expected, strict=True
        ):
            size = np.abs(wanted.mean).max() + wanted.sigma.max()
            np.testing.assert_allclose(
                mean, wanted.mean, rtol=0, atol=_SLACK * size
            )
            of_graph = wanted.deviation
            if of_graph is None:
                of_graph = np.sqrt(wanted.layer.epsilon)
            np.testing.assert_allclose(
                deviation,
                np.broadcast_to(of_graph, deviation.shape),
                rtol=0,
                atol=_SLACK * size,
            )
        plain = frozen.to_function(graph)(tf.constant(x))
        for found, wanted in zip(tensors, plain, strict=True):
            assert found.shape == wanted.shape
            np.testing.assert_allclose(
                found, wanted, rtol=0, atol=_SLACK * np.abs(wanted).max()
            )

    @pytest.mark.usefixtures("_backward")
    def test_gradients_are_those_of_the_graph(self, net):
        graph = _graph(net)
        layers = bn_statistics.find(graph)
        found = measured.MeasuredGraph(graph, layers)
        tensors = [port.tensor for port in graph.outputs]

        def weighted(mean, deviation, outputs):
            # Each number counts differently, and all kinds about alike.
            return sum(
                tf.reduce_sum(value * _draw(*value.shape, seed=seed))
                for seed, value in enumerate([mean, deviation, *outputs])
            )

        @tf.function(autograph=False)
        def run(x):
            return [
                tf.gradients(weighted(*values), x)[0]
                for values in (
                    found.values([x], tensors),
                    _plain(graph, x, layers, tensors),
                )
            ]

        gradient, expected = run(tf.constant(_images()))
        assert np.abs(expected).max() > 0.01
        np.testing.assert_allclose(
            gradient, expected, rtol=0, atol=_SLACK * np.abs(expected).max()
        )


def _measured(net):
    graph = _graph(net)
    return measured.MeasuredGraph(graph, bn_statistics.find(graph))


@pytest.mark.parametrize(
    ("net", "left"),
    [
        *((_layer, 0), (_deep, 0), (_residual, 0), (_dense, 0), (_conv1d, 0)),
        # As it was: the first of two hides, where both are folded.
        *((_two_behind_one, 2), (_behind_relu, 1), (_behind_concat, 1)),
        *((_two_of_one, 2), (_behind_relu_of_another, 1)),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_graph_that_runs_is_folded_where_it_can_be(net, left):
    assert len(bn_statistics.find(_measured(net).graph)) == left


def test_the_graph_that_runs_pads_in_its_convolutions():
    ops = {node.op for node in _measured(_padded).graph}
    assert "Conv2D" in ops
    assert "Pad" not in ops


@pytest.mark.parametrize(
    ("net", "wanted"),
    [
        (_layer, (True,)),
        (_deep, (True, True, False)),
        (_pooled, (False,)),
        (_channels_first, (True,)),
        (_conv3d, (True,)),
    ],
)
def test_has_positions_is_told_by_layer(net, wanted):
    assert _measured(net).has_positions == wanted


def _with(**given):
    """A convolution with BN of given numbers."""
    return lambda x: _scores(tf.nn.relu(_bn(_conv(x, 4), **given)))


_DEAD = np.array([True, False, True, False])


@pytest.mark.usefixtures("_backward")
class TestDeadChannels:
    @pytest.mark.parametrize("gamma", [0.0, 1e-20, 1e-7])
    def test_are_where_batch_norm_wants_them_without_a_gradient(self, gamma):
        graph = _graph(_with(gamma=np.where(_DEAD, gamma, 1.0)))
        (layer,) = layers = bn_statistics.find(graph)
        found = measured.MeasuredGraph(graph, layers)

        @tf.function(autograph=False)
        def run(x):
            mean, deviation, _ = found.values([x], ())
            plain = _plain(graph, x, layers, ())
            of_dead = tf.gradients([v[:, 0] for v in (mean, deviation)], x)[0]
            of_all = [
                tf.gradients([v * np.float32(~_DEAD) for v in values], x)[0]
                for values in ((mean, deviation), plain[:2])
            ]
            return mean, deviation, plain, of_dead, of_all

        mean, deviation, plain, of_dead, of_all = run(tf.constant(_images()))
        for values, wanted, expected in (
            (mean, layer.mean, plain[0]),
            (deviation, layer.sigma, plain[1]),
        ):
            dead = values.numpy()[:, _DEAD]
            np.testing.assert_array_equal(
                dead, np.broadcast_to(wanted[_DEAD], dead.shape)
            )
            np.testing.assert_allclose(
                values.numpy()[:, ~_DEAD],
                expected.numpy()[:, ~_DEAD],
                rtol=0,
                atol=2 * _SLACK,
            )
        np.testing.assert_array_equal(of_dead, np.zeros_like(of_dead))
        np.testing.assert_allclose(
            of_all[0],
            of_all[1],
            rtol=0,
            atol=_SLACK * np.abs(of_all[1]).max(),
        )

    def test_a_layer_of_nothing_else_is_no_error(self):
        graph = _graph(_with(gamma=0.0))
        (layer,) = bn_statistics.find(graph)
        (mean,), (deviation,), _ = _values(graph, _images())
        np.testing.assert_array_equal(mean, np.tile(layer.mean, (_BATCH, 1)))
        np.testing.assert_array_equal(
            deviation, np.tile(layer.sigma, (_BATCH, 1))
        )

    def test_a_weak_channel_is_not_dead(self):
        gamma = np.where(_DEAD, 1e-3, 1.0)
        graph = _graph(_with(gamma=gamma, beta=0.0))
        (mean,), (deviation,), _ = _values(graph, _images())
        (wanted,) = sample_moments.of_graph(graph, {"x": _images()})
        for found, expected in (
            (mean, wanted.mean),
            (deviation, wanted.deviation),
        ):
            np.testing.assert_allclose(found, expected, atol=2 * _SLACK)


@pytest.mark.usefixtures("_backward")
class TestMeansOfManyDeviations:
    """E[y^2] - E[y]^2 of float32 would be off by more than it is."""

    @pytest.mark.parametrize("behind", [tf.nn.relu, tf.identity])
    @pytest.mark.parametrize("far", [200.0, 1000.0, 1e4])
    def test_of_a_folded_layer_are_told(self, far, behind):
        graph = _graph(
            lambda x: _scores(
                behind(_bn(_conv(x, 4), beta=far, gamma=1.0, variance=1.0))
            )
        )
        self._check(graph, far)

    @pytest.mark.parametrize("behind", [tf.nn.relu, tf.identity])
    @pytest.mark.parametrize("far", [-1000.0, 200.0, 1000.0, 1e4])
    def test_of_a_layer_that_is_not_folded_are_told(self, far, behind):
        graph = _graph(
            lambda x: _scores(
                behind(_bn(tf.square(x) + far, mean=far, variance=1.0))
            )
        )
        self._check(graph, far)

    def _check(self, graph, far):
        layers = bn_statistics.find(graph)
        found = measured.MeasuredGraph(graph, layers)

        @tf.function(autograph=False)
        def run(x):
            mean, deviation, _ = found.values([x], ())
            plain = _plain(graph, x, layers, ())
            return [
                (m, s, tf.gradients([m * m, s], x)[0])
                for m, s in ((mean, deviation), plain[:2])
            ]

        x = tf.constant(_images())
        (mean, deviation, _), (plain_mean, plain_deviation, _) = run(x)
        # Float32 numbers of this size are so far apart: below the limit the
        # variance is off by up to the square of `far`, above it by `far`.
        step = abs(far) * _EPS
        np.testing.assert_allclose(
            mean, plain_mean, rtol=0, atol=4 * step + _SLACK
        )
        most = far**2 * _EPS if abs(far) < 300 else step
        np.testing.assert_allclose(
            deviation, plain_deviation, rtol=0, atol=4 * most + 2 * _SLACK
        )


def test_several_inputs_go_where_they_belong():
    graph = tiny_graphs.freeze(
        lambda x, y: _scores(
            tf.nn.relu(_bn(_conv(x), 1)) + (y @ _kernel(5, 6))[:, None, None]
        ),
        (_BATCH, 8, 8, 3),
        (_BATCH, 5),
    )
    found = measured.MeasuredGraph(graph, bn_statistics.find(graph))
    fed = [tf.constant(_images()), tf.constant(_draw(_BATCH, 5))]
    tensors = [port.tensor for port in graph.outputs]
    run = tf.function(lambda *x: found.values(x, tensors), autograph=False)
    mean, _, (scores,) = run(*fed)
    (wanted,) = frozen.to_function(graph)(*fed)
    np.testing.assert_allclose(
        scores, wanted, rtol=0, atol=_SLACK * np.abs(wanted).max()
    )
    (moments,) = sample_moments.of_graph(
        graph, {"x": fed[0].numpy(), "y": fed[1].numpy()}
    )
    np.testing.assert_allclose(mean, moments.mean, rtol=0, atol=4 * _SLACK)


def test_activations_are_computed_with_the_moments():
    """One pass: the graph's own operation is not in the trace."""
    found = _measured(_deep)
    run = tf.function(
        lambda x: found.values([x], [p.tensor for p in found.graph.outputs]),
        autograph=False,
    )
    spec = tf.TensorSpec((_BATCH, 8, 8, 3))
    traced = run.get_concrete_function(spec).graph.get_operations()
    names = [op.name for op in traced if op.type in ("Relu", "Relu6")]
    own = {node.name for node in found.graph if node.op in ("Relu", "Relu6")}
    assert len(own) == 3
    # Imported nodes stand below `frozen`.
    assert not [n for n in names if n.partition("/")[0].startswith("frozen")]


def test_half_precision_features_are_measured_in_single():
    def net(x):
        half = tf.cast(x, tf.float16)
        ones = tf.ones(3)
        y = tf.compat.v1.nn.fused_batch_norm(
            half,
            *(ones, 0.1 * ones, 0.2 * ones, 2 * ones),
            1e-3,
            is_training=False,
        )[0]
        return _scores(tf.cast(tf.nn.relu(y), tf.float32))

    graph, x = _graph(net), _images()
    (mean,), (deviation,), (scores,) = _values(graph, x)
    features = x.astype(np.float16).astype(np.float64)
    np.testing.assert_allclose(mean, features.mean((1, 2)), atol=_SLACK)
    np.testing.assert_allclose(
        deviation, np.sqrt(features.var((1, 2)) + 1e-3), atol=_SLACK
    )
    (wanted,) = frozen.to_function(graph)(tf.constant(x))
    # Float16 features, a rounding of 2^-11 each.
    np.testing.assert_allclose(scores, wanted, rtol=0, atol=2e-2)
