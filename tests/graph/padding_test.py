"""A Pad that SAME padding can stand for goes; what it computed stays."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tiny_graphs

from dsg_tf.graph import frozen, padding

_EPS = np.finfo(np.float32).eps


def _draw(*shape, seed=0):
    values = np.random.default_rng([seed, *shape]).normal(size=shape)
    return values.astype(np.float32)


def _ops(graph):
    return [node.op for node in graph]


def _pads(graph):
    return [op for op in _ops(graph) if "Pad" in op]


def _borders(rows, columns):
    return [[0, 0], list(rows), list(columns), [0, 0]]


def _conv(x, window=(3, 3), *, depthwise=False, stride=1, dilation=1):
    if depthwise:
        # Dilated, the op itself and not what tf.nn makes of it.
        return tf.raw_ops.DepthwiseConv2dNative(
            input=x,
            filter=_draw(*window, x.shape[-1], 2),
            strides=[1, stride, stride, 1],
            padding="VALID",
            dilations=[1, dilation, dilation, 1],
        )
    return tf.raw_ops.Conv2D(
        input=x,
        filter=_draw(*window, x.shape[-1], 4),
        strides=[1, stride, stride, 1],
        padding="VALID",
        dilations=[1, dilation, dilation, 1],
    )


def _freeze(function, shape=(None, 9, 7, 3)):
    return tiny_graphs.freeze(function, shape)


def _assert_same_values(one, two, terms=27):
    assert [p.tensor for p in one.outputs] == [p.tensor for p in two.outputs]
    x = tf.constant(_draw(2, *one.inputs[0].shape[1:], seed=1))
    for a, b in zip(
        frozen.to_function(one)(x), frozen.to_function(two)(x), strict=True
    ):
        assert a.shape == b.shape
        # Sums of so many products of normal numbers, of which none is beyond 5.
        np.testing.assert_allclose(a, b, rtol=0, atol=25 * terms * _EPS)


@pytest.mark.parametrize("pad", ["Pad", "PadV2"])
@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize(
    ("window", "dilation", "rows", "columns"),
    [
        ((3, 3), 1, (1, 1), (1, 1)),
        ((5, 3), 1, (2, 2), (1, 1)),
        ((3, 1), 1, (1, 1), (0, 0)),
        ((3, 3), 2, (2, 2), (2, 2)),
        # Of an even kernel SAME puts the odd row at the end.
        ((2, 2), 1, (0, 1), (0, 1)),
        ((4, 2), 1, (1, 2), (0, 1)),
    ],
)
def test_the_padding_of_same_goes(
    window, dilation, rows, columns, depthwise, pad
):
    borders = _borders(rows, columns)

    def function(x):
        padded = (
            tf.pad(x, borders)
            if pad == "Pad"
            else tf.raw_ops.PadV2(
                input=x, paddings=borders, constant_values=0.0
            )
        )
        y = _conv(padded, window, depthwise=depthwise, dilation=dilation)
        return tf.nn.relu(y) + 1.0

    graph = _freeze(function)
    assert _pads(graph) == [pad]
    absorbed = padding.absorbed(graph)
    assert _pads(absorbed) == []
    _assert_same_values(graph, absorbed, terms=3 * np.prod(window))


def test_of_a_chain_all_go_and_names_stay():
    def block(x):
        y = tf.nn.relu(_conv(tf.pad(x, _borders((1, 1), (1, 1)))))
        return (
            _conv(tf.pad(y, _borders((1, 1), (1, 1))), depthwise=True)
            + _conv(x, (1, 1))[..., :1]
        )

    graph = _freeze(block)
    absorbed = padding.absorbed(graph)
    assert _pads(graph) == ["Pad", "Pad"]
    assert _pads(absorbed) == []
    assert set(absorbed.nodes) < set(graph.nodes)
    _assert_same_values(graph, absorbed, terms=27 * 9)


def test_a_pad_that_others_read_stays_for_them():
    def function(x):
        padded = tf.pad(x, _borders((1, 1), (1, 1)))
        return _conv(padded), tf.reduce_sum(padded, 3)

    graph = _freeze(function)
    absorbed = padding.absorbed(graph)
    assert _pads(absorbed) == ["Pad"]
    (conv,) = [n for n in absorbed if n.op == "Conv2D"]
    assert conv.inputs[0] == "x:0"
    _assert_same_values(graph, absorbed)


def test_two_layers_behind_one_pad_both_absorb_it():
    def function(x):
        padded = tf.pad(x, _borders((1, 1), (1, 1)))
        return _conv(padded), _conv(padded, depthwise=True)

    graph = _freeze(function)
    absorbed = padding.absorbed(graph)
    assert _pads(absorbed) == []
    _assert_same_values(graph, absorbed)


def test_of_two_kernels_behind_one_pad_the_fitting_one_absorbs_it():
    def function(x):
        padded = tf.pad(x, _borders((1, 1), (1, 1)))
        return _conv(padded), _conv(padded, (5, 5))

    graph = _freeze(function)
    absorbed = padding.absorbed(graph)
    assert _pads(absorbed) == ["Pad"]
    assert {n.attr("padding") for n in absorbed if n.op == "Conv2D"} == {
        "SAME",
        "VALID",
    }
    _assert_same_values(graph, absorbed, terms=75)


def _filled(x):
    return _conv(tf.pad(x, _borders((1, 1), (1, 1)), constant_values=0.5))


def _filled_by_the_input(x):
    return _conv(
        tf.raw_ops.PadV2(
            input=x,
            paddings=_borders((1, 1), (1, 1)),
            constant_values=tf.reduce_min(x),
        )
    )


def _output(x):
    padded = tf.pad(x, _borders((1, 1), (1, 1)))
    return padded, _conv(padded)


def _channels_first(x):
    padded = tf.pad(x, [[0, 0], [0, 0], [1, 1], [1, 1]])
    return tf.nn.conv2d(
        padded, _draw(3, 3, 3, 4), 1, "VALID", data_format="NCHW"
    )


def _same_already(x):
    padded = tf.pad(x, _borders((1, 1), (1, 1)))
    return tf.nn.conv2d(padded, _draw(3, 3, 3, 4), 1, "SAME")


def _explicit(x):
    padded = tf.pad(x, _borders((1, 1), (1, 1)))
    return tf.nn.conv2d(padded, _draw(3, 3, 3, 4), 1, _borders((1, 1), (1, 1)))


def _padded(borders, *, mode="CONSTANT", **conv):
    return lambda x: _conv(tf.pad(x, borders, mode=mode), **conv)


_ONES = _borders((1, 1), (1, 1))


@pytest.mark.parametrize(
    "function",
    [
        _padded(_ONES, stride=2),
        _padded(_ONES, stride=2, depthwise=True),
        _padded(_borders((0, 2), (1, 1))),
        _padded(_borders((2, 0), (2, 0))),
        _padded(_borders((1, 1), (2, 2))),
        _padded(_borders((2, 2), (2, 2))),
        _padded(_borders((1, 0), (1, 0)), window=(2, 2)),
        _padded(_ONES, dilation=2),
        _padded([[0, 0], [1, 1], [1, 1], [0, 1]]),
        _padded([[1, 1], [1, 1], [1, 1], [0, 0]]),
        _padded(_ONES, mode="REFLECT"),
        _padded(_ONES, mode="SYMMETRIC"),
        _filled,
        _filled_by_the_input,
        _output,
        _channels_first,
        _same_already,
        _explicit,
    ],
    ids=[
        *("stride", "depthwise stride", "uneven", "before", "too wide"),
        *("too much", "even kernel, other side", "dilation", "channels"),
        *("batch", "reflect", "symmetric", "fill", "fill of the input"),
        *("output", "channels first", "SAME", "explicit"),
    ],
)
def test_other_padding_stays(function):
    shape = (None, 3, 9, 7) if function is _channels_first else (None, 9, 7, 3)
    graph = _freeze(function, shape)
    assert padding.absorbed(graph) is graph
    assert len(_pads(graph)) == 1


def test_borders_that_depend_on_the_input_stay():
    def function(x):
        borders = tf.stack([tf.shape(x)[0] * 0 + 1] * 8)
        mask = tf.constant([0, 0, 1, 1, 1, 1, 0, 0])
        padded = tf.pad(x, tf.reshape(borders * mask, (4, 2)))
        return _conv(tf.ensure_shape(padded, (None, 11, 9, 3)))

    def direct(x):
        borders = tf.stack([tf.shape(x)[0] * 0 + 1] * 8)
        mask = tf.constant([0, 0, 1, 1, 1, 1, 0, 0])
        padded = tf.pad(x, tf.reshape(borders * mask, (4, 2)))
        padded.set_shape((None, 11, 9, 3))
        return _conv(padded)

    for graph in (_freeze(function), _freeze(direct)):
        assert padding.absorbed(graph) is graph


def test_moments_of_folded_layers_are_kept():
    from dsg_tf.transforms import fold_batch_norm

    def function(x):
        y = _conv(tf.pad(x, _ONES))
        return tf.nn.relu(tiny_graphs.batch_norm(y, np.zeros(4), np.ones(4)))

    folded, _ = fold_batch_norm.fold_batch_norm(_freeze(function))
    absorbed = padding.absorbed(folded)
    assert _pads(absorbed) == []
    assert list(absorbed.moments) == list(folded.moments) != []
