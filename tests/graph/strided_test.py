"""A strided convolution and its gradient are TensorFlow's own."""

from __future__ import annotations

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
import tiny_graphs
from hypothesis import strategies

from dsg_tf.graph import strided, tapped

_EPS = np.finfo(np.float32).eps


def _draw(*shape, seed=0):
    values = np.random.default_rng([seed, *shape]).normal(size=shape)
    return values.astype(np.float32)


def _both(image, kernel, *, stride, padding):
    """Value and gradient, ours and then TensorFlow's."""
    found = []
    for function in (
        lambda x: strided.convolution(
            x, kernel, stride=stride, padding=padding
        ),
        lambda x: tf.nn.conv2d(x, kernel, stride, padding),
    ):
        with tf.GradientTape() as tape:
            x = tf.constant(image)
            tape.watch(x)
            y = function(x)
            # Each output counts differently.
            loss = tf.reduce_sum(y * _draw(*y.shape, seed=1))
        found.append((y.numpy(), tape.gradient(loss, x).numpy()))
    return found


def _assert_alike(image, kernel, *, stride, padding):
    (value, gradient), (wanted, wanted_gradient) = _both(
        image, kernel, stride=stride, padding=padding
    )
    assert value.shape == wanted.shape
    assert gradient.shape == image.shape
    # Sums of so many products of normal numbers, of which none is beyond 5:
    # of one output, and of all that one position goes into.
    height, width, channels, outputs = kernel.shape
    terms = height * width * channels
    np.testing.assert_allclose(value, wanted, rtol=0, atol=25 * terms * _EPS)
    terms = height * width * outputs
    np.testing.assert_allclose(
        gradient, wanted_gradient, rtol=0, atol=25 * terms * _EPS
    )


_SIZES = strategies.integers(1, 13)


@hypothesis.settings(max_examples=60, derandomize=True)
@hypothesis.given(
    size=strategies.tuples(_SIZES, _SIZES),
    window=strategies.tuples(
        strategies.integers(1, 7), strategies.integers(1, 7)
    ),
    stride=strategies.integers(2, 4),
    padding=strategies.sampled_from(["SAME", "VALID"]),
    channels=strategies.integers(1, 4),
)
def test_value_and_gradient_are_tensorflow_s(
    size, window, stride, padding, channels
):
    if padding == "VALID":
        window = tuple(min(w, s) for w, s in zip(window, size, strict=True))
    _assert_alike(
        _draw(2, *size, channels),
        _draw(*window, channels, 3),
        stride=stride,
        padding=padding,
    )


# What networks begin with, at sizes that leave a rest and that do not.
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("size", [15, 16, 17])
@pytest.mark.parametrize(("window", "stride"), [(3, 2), (7, 2), (4, 4), (1, 2)])
def test_first_layers_of_networks_are(window, stride, size, padding):
    _assert_alike(
        _draw(2, size, size, 3),
        _draw(window, window, 3, 8),
        stride=stride,
        padding=padding,
    )


def _conv(x, *, kernel=(3, 3, 3, 4), strides=2, padding="SAME", **others):
    return tf.nn.conv2d(x, _draw(*kernel), strides, padding, **others)


def _freeze(function, shape=(2, 8, 8, 3), **others):
    return tiny_graphs.freeze(function, shape, **others)


class TestTaps:
    @pytest.mark.parametrize("padding", ["SAME", "VALID"])
    def test_compute_the_convolution_of_an_image(self, padding):
        graph = _freeze(
            lambda x: tf.nn.relu(_conv(x, padding=padding) + _draw(4))
        )
        (tap,) = strided.taps(graph)
        (node,) = [n for n in graph if n.op == "Conv2D"]
        assert (tap.source, tap.replaced) == ("x:0", node.output)

        @tf.function(autograph=False)
        def run(x):
            found = []
            for taps in ((), (tap,)):
                ((y,),) = tapped.splice(
                    graph, [[x]], [graph.outputs[0].tensor], taps=taps
                )
                found.append((y, tf.gradients(tf.square(y), x)[0]))
            types = {
                op.type
                for op in tf.compat.v1.get_default_graph().get_operations()
            }
            assert "DepthToSpace" in types
            return found

        (plain, wanted), (found, gradient) = run(tf.constant(_draw(2, 8, 8, 3)))
        # 27 products of normal numbers forward, 36 of them times 25 back.
        np.testing.assert_allclose(found, plain, rtol=0, atol=25 * 27 * _EPS)
        np.testing.assert_allclose(
            gradient, wanted, rtol=0, atol=25 * 36 * 25 * _EPS
        )

    def test_each_image_has_its_own(self):
        graph = tiny_graphs.freeze(
            lambda x, y: (_conv(x), _conv(y, kernel=(5, 5, 1, 2))),
            (2, 8, 8, 3),
            (2, 9, 7, 1),
        )
        assert {tap.source for tap in strided.taps(graph)} == {"x:0", "y:0"}

    def test_four_channels_are_an_image_still(self):
        graph = _freeze(lambda x: _conv(x, kernel=(3, 3, 4, 2)), (2, 8, 8, 4))
        assert len(strided.taps(graph)) == 1

    @pytest.mark.parametrize(
        ("function", "shape"),
        [
            (lambda x: _conv(x, strides=1), (2, 8, 8, 3)),
            (lambda x: _conv(x, strides=(2, 1)), (2, 8, 8, 3)),
            (lambda x: _conv(x, strides=(2, 3)), (2, 8, 8, 3)),
            (lambda x: _conv(x, kernel=(3, 3, 5, 4)), (2, 8, 8, 5)),
            (lambda x: _conv(x, kernel=(3, 3, 2, 4)), (2, 8, 8, 4)),
            (
                lambda x: _conv(x, padding=[[0, 0], [1, 1], [1, 1], [0, 0]]),
                (2, 8, 8, 3),
            ),
            (lambda x: _conv(x, data_format="NCHW"), (2, 3, 8, 8)),
            (lambda x: (_conv(x), x + 1.0), (2, 8, 8, 3)),
            (lambda x: (_conv(x), _conv(x, padding="VALID")), (2, 8, 8, 3)),
            (lambda x: _conv(x), (None, 8, 8, 3)),
            (lambda x: _conv(x), (2, None, None, 3)),
            (
                lambda x: tf.nn.conv2d(
                    x, tf.reshape(x[:1, :3, :3], (3, 3, 3, 1)), 2, "SAME"
                ),
                (2, 8, 8, 3),
            ),
            (
                lambda x: tf.nn.depthwise_conv2d(
                    x, _draw(3, 3, 3, 1), (1, 2, 2, 1), "SAME"
                ),
                (2, 8, 8, 3),
            ),
        ],
        ids=[
            *("stride of 1", "one stride of 1", "strides that differ"),
            *("many channels", "groups", "explicit padding"),
            *("channels first", "image read twice", "two layers", "open batch"),
            *("open size", "kernel of the input", "depthwise"),
        ],
    )
    def test_leave_alone(self, function, shape):
        assert strided.taps(_freeze(function, shape)) == []

    def test_leave_a_dilated_convolution_alone(self):
        """TensorFlow itself refuses strides with dilation on a CPU."""
        graph = _freeze(_conv)
        (node,) = [n for n in graph if n.op == "Conv2D"]
        changed = node.with_inputs(node.inputs)
        changed.definition.attr["dilations"].list.i[:] = [1, 2, 2, 1]
        graph = graph.replace_nodes({node.name: changed})
        assert strided.taps(graph) == []

    def test_leave_other_types_alone(self):
        kernel = _draw(3, 3, 3, 4).astype(np.float64)
        graph = _freeze(
            lambda x: tf.nn.conv2d(x, kernel, 2, "SAME"), dtype=tf.float64
        )
        assert strided.taps(graph) == []
