"""What taps leave alone is the graph's; what they replace, all readers see."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tiny_graphs
from tensorflow.python.eager import context

from dsg_tf.graph import frozen, tapped

_EPS = np.finfo(np.float32).eps
_SHAPE = (None, 6, 6, 4)


def _draw(*shape, seed=0):
    values = np.random.default_rng([seed, *shape]).normal(size=shape)
    return values.astype(np.float32)


def _images(seed=1, count=2):
    return tf.constant(_draw(count, *_SHAPE[1:], seed=seed))


def _conv(x, outputs=4, *, seed=0, size=3):
    kernel = 0.3 * _draw(size, size, x.shape[-1], outputs, seed=seed)
    return tf.nn.conv2d(x, kernel, 1, "SAME")


def _residual(x):
    y = tf.nn.relu(_conv(x) + 0.1)
    return tf.nn.relu6(y + _conv(y, seed=1)) * 2.0


def _split(x):
    first, second = tf.split(_conv(x), 2, axis=-1)
    return tf.concat([second, tf.nn.relu(first)], -1), tf.nn.elu(second)


def _grouped(x):
    # Four channels that are read two at a time.
    y = tf.nn.conv2d(x, _draw(3, 3, 2, 6), 1, "SAME")
    return tf.nn.relu(tf.nn.bias_add(y, _draw(6)))


def _loop(x):
    (_, y) = tf.while_loop(
        lambda n, y: n < 3, lambda n, y: (n + 1, tf.nn.relu(_conv(y))), (0, x)
    )
    return y + 1.0


def _branch(x):
    return tf.cond(
        tf.reduce_sum(x) > 0, lambda: tf.nn.relu(x), lambda: tf.nn.elu(x)
    )


def _chain(x):
    """One operation behind the other: Square, Relu, Neg, Exp."""
    return tf.exp(-tf.nn.relu(tf.square(x) - 1.0))


_NETS = {
    f.__name__.strip("_"): f
    for f in (_residual, _split, _grouped, _loop, _branch, _chain)
}


def _outputs(graph):
    return [port.tensor for port in graph.outputs]


def _run(graph, batches, *, taps=(), outputs=None):
    """Values of a graph's outputs by batch, through one call."""
    outputs = _outputs(graph) if outputs is None else outputs

    @tf.function(autograph=False)
    def run(*fed):
        return tapped.splice(graph, [[x] for x in fed], outputs, taps=taps)

    return [[t.numpy() for t in batch] for batch in run(*batches)]


def _tensors(graph):
    """Every float tensor that depends on the input."""
    return [
        tensor
        for node in graph
        for tensor in graph.output_tensors(node)
        if graph.dtype(tensor) == tf.float32 and not graph.is_constant(tensor)
    ]


def _only(graph, op):
    (node,) = [node for node in graph if node.op == op]
    return node.output


def _assert_alike(found, expected):
    # The same operations; a convolution may sum its 54 products in another
    # order once it is fused with what stands behind it.
    for one, two in zip(found, expected, strict=True):
        assert one.shape == two.shape
        np.testing.assert_allclose(
            one, two, rtol=0, atol=100 * _EPS * np.abs(two).max()
        )


@pytest.mark.parametrize("net", _NETS.values(), ids=_NETS)
class TestWithoutAChange:
    def test_a_splice_gives_what_the_function_does(self, net):
        graph = tiny_graphs.freeze(net, _SHAPE)
        (found,) = _run(graph, [_images()])
        _assert_alike(found, frozen.to_function(graph)(_images()))

    def test_a_tap_on_every_tensor_sees_it_and_leaves_it(self, net):
        graph = tiny_graphs.freeze(net, _SHAPE)
        tensors, seen = _tensors(graph), []

        def tap(tensor):
            def function(value):
                seen.append(tensor)
                return tf.identity(value)

            return tapped.Tap.of_each(tensor, tensor, function)

        (found,) = _run(graph, [_images()], taps=[*map(tap, tensors)])
        _assert_alike(found, frozen.to_function(graph)(_images()))
        assert sorted(seen) == sorted(tensors)

    def test_gradients_are_those_of_the_plain_splice(self, net):
        graph = tiny_graphs.freeze(net, _SHAPE)
        taps = [tapped.Tap.of_each(t, t, tf.identity) for t in _tensors(graph)]

        # A function each: TensorFlow has but one gradient of a loop's body.
        @tf.function(autograph=False)
        def through(x):
            (ys,) = tapped.splice(graph, [[x]], _outputs(graph), taps=taps)
            return tf.gradients([tf.sin(y) for y in ys], x)[0]

        @tf.function(autograph=False)
        def plain(x):
            ys = frozen.splice(graph, [x], _outputs(graph))
            return tf.gradients([tf.sin(y) for y in ys], x)[0]

        found, expected = through(_images()), plain(_images())
        assert np.abs(expected).max() > 0.01
        _assert_alike([found.numpy()], [expected.numpy()])


class TestReplacement:
    def test_all_readers_of_a_replaced_tensor_see_it(self):
        graph = tiny_graphs.freeze(
            lambda x: (tf.square(x) + 1.0, tf.exp(-tf.square(x))), _SHAPE
        )
        # One Square each, or one for both: tap them all.
        taps = [
            tapped.Tap.of_each(n.output, n.output, lambda v: v + 0.5)
            for n in graph
            if n.op == "Square"
        ]
        ((found, other),) = _run(graph, [_images()], taps=taps)
        square = np.square(_images().numpy()) + 0.5
        np.testing.assert_allclose(found, square + 1, rtol=4 * _EPS)
        np.testing.assert_allclose(other, np.exp(-square), rtol=9 * _EPS)

    def test_an_activation_is_computed_by_the_function_instead(self):
        graph = tiny_graphs.freeze(_chain, _SHAPE)
        source = graph[_only(graph, "Relu").split(":")[0]].inputs[0]
        tap = tapped.Tap.of_each(source, _only(graph, "Relu"), tf.abs)
        ops = []

        @tf.function(autograph=False)
        def run(x):
            ((y,),) = tapped.splice(graph, [[x]], _outputs(graph), taps=[tap])
            ops.extend(
                op.type
                for op in tf.compat.v1.get_default_graph().get_operations()
            )
            return y

        x = _images().numpy()
        expected = np.exp(-np.abs(np.square(x) - 1))
        np.testing.assert_allclose(run(_images()), expected, rtol=9 * _EPS)
        assert "Relu" not in ops
        assert "Abs" in ops

    def test_other_readers_of_the_source_see_the_source(self):
        def both(x):
            y = tf.square(x)
            return tf.nn.relu(y - 1.0) + 1.0, tf.nn.relu(-y) - y

        graph = tiny_graphs.freeze(both, _SHAPE)
        (first, second) = [n.output for n in graph if n.op == "Relu"]
        taps = [
            tapped.Tap.of_each(
                graph.producer(t).inputs[0], t, lambda v: 0 * v + 7.0
            )
            for t in (first, second)
        ]
        ((one, two),) = _run(graph, [_images()], taps=taps)
        np.testing.assert_array_equal(one, np.full_like(one, 8.0))
        expected = 7.0 - np.square(_images().numpy())
        np.testing.assert_allclose(two, expected, rtol=4 * _EPS)

    @pytest.mark.parametrize("op", ["Square", "Relu"])
    def test_what_is_replaced_can_be_an_output(self, op):
        def function(x):
            y = tf.square(x)
            return y, tf.nn.relu(y), tf.nn.relu(y) + 0.0

        graph = tiny_graphs.freeze(function, _SHAPE)
        source = _only(graph, "Square")
        relus = [n.output for n in graph if n.op == "Relu"]
        replaced = source if op == "Square" else relus[0]
        tap = tapped.Tap.of_each(source, replaced, lambda v: v - 3.0)
        (found,) = _run(graph, [_images()], taps=[tap])
        square = np.square(_images().numpy())
        plain, changed = square, square - 3
        expected = (
            [changed, np.maximum(changed, 0)]
            if op == "Square"
            else [plain, changed]
        )
        for one, two in zip(found, expected, strict=False):
            np.testing.assert_allclose(one, two, rtol=4 * _EPS)

    def test_an_input_can_be_replaced(self):
        graph = tiny_graphs.freeze(_residual, _SHAPE)
        tap = tapped.Tap.of_each("x:0", "x:0", lambda v: v * 0.5)
        (found,) = _run(graph, [_images()], taps=[tap])
        _assert_alike(found, frozen.to_function(graph)(_images() * 0.5))

    def test_a_layer_that_reads_the_input_can_be(self):
        graph = tiny_graphs.freeze(
            lambda x: (tf.nn.relu(tf.square(x)), x + 1.0), _SHAPE
        )
        tap = tapped.Tap.of_each("x:0", _only(graph, "Square"), tf.abs)
        ((one, two),) = _run(graph, [_images()], taps=[tap])
        np.testing.assert_array_equal(one, np.abs(_images()))
        np.testing.assert_array_equal(two, _images() + 1.0)

    def test_an_input_can_be_an_output(self):
        graph = tiny_graphs.freeze(lambda x: tf.nn.relu(x), _SHAPE)
        ((found, other),) = _run(
            graph, [_images()], outputs=["x:0", *_outputs(graph)]
        )
        np.testing.assert_array_equal(found, _images())
        np.testing.assert_array_equal(other, tf.nn.relu(_images()))

    def test_only_one_output_of_a_node_can_be(self):
        graph = tiny_graphs.freeze(_split, _SHAPE)
        (node,) = [n for n in graph if n.op == "Split"]
        tap = tapped.Tap.of_each(
            f"{node.name}:1", f"{node.name}:1", tf.zeros_like
        )
        ((joined, elu),) = _run(graph, [_images()], taps=[tap])
        first = np.asarray(frozen.to_function(graph)(_images())[0])[..., 2:]
        np.testing.assert_array_equal(joined[..., :2], 0 * first)
        np.testing.assert_allclose(joined[..., 2:], first, atol=100 * _EPS)
        np.testing.assert_array_equal(elu, 0 * first)

    def test_what_one_tap_replaced_another_is_given(self):
        """A layer behind an activation that is computed with one before it."""
        graph = tiny_graphs.freeze(lambda x: _chain(x) * 2.0, _SHAPE)
        relu, neg, exp = (_only(graph, op) for op in ("Relu", "Neg", "Exp"))
        seen = []

        def keep(value):
            seen.append(value)
            return -value

        taps = [
            tapped.Tap.of_each(graph.producer(relu).inputs[0], relu, tf.abs),
            tapped.Tap.of_each(relu, neg, keep),
            tapped.Tap.of_each(neg, exp, lambda v: v + 1.0),
        ]
        ((found,),) = _run(graph, [_images()], taps=taps)
        assert len(seen) == 1
        square = np.square(_images().numpy()) - 1
        expected = 2 * (1 - np.abs(square))
        # Squares of up to 20, and a difference of like numbers.
        np.testing.assert_allclose(found, expected, atol=9 * 20 * _EPS)

    def test_gradients_are_those_of_the_function(self):
        graph = tiny_graphs.freeze(_chain, _SHAPE)

        @tf.custom_gradient
        def odd(value):
            return value, lambda upstream: 3.0 * upstream

        tensor = _only(graph, "Neg")
        tap = tapped.Tap.of_each(tensor, tensor, odd)

        @tf.function(autograph=False)
        def gradients(x):
            return [
                tf.gradients(
                    tapped.splice(graph, [[x]], _outputs(graph), taps=t), x
                )[0]
                for t in ((), (tap,))
            ]

        plain, changed = gradients(_images())
        assert np.abs(plain).max() > 0.01
        np.testing.assert_allclose(changed, 3 * plain, rtol=9 * _EPS)


class TestBatches:
    def test_go_through_one_by_one(self):
        graph = tiny_graphs.freeze(_residual, _SHAPE)
        batches = [_images(seed=1), _images(seed=2, count=3)]
        found = _run(graph, batches)
        for values, batch in zip(found, batches, strict=True):
            _assert_alike(values, frozen.to_function(graph)(batch))

    def test_a_tap_sees_all_of_them(self):
        graph = tiny_graphs.freeze(_chain, _SHAPE)
        tensor = _only(graph, "Neg")

        def centred(values):
            mean = tf.reduce_mean(tf.concat(values, 0), 0)
            return [value - mean for value in values]

        batches = [_images(seed=1), _images(seed=2, count=3)]
        tap = tapped.Tap(tensor, tensor, centred)
        found = _run(graph, batches, taps=[tap])
        x = np.concatenate(batches)
        inner = -np.maximum(np.square(x) - 1, 0)
        # Numbers up to 20, five of which make a mean.
        np.testing.assert_allclose(
            np.log(np.concatenate([y for (y,) in found])),
            inner - inner.mean(0),
            atol=20 * 10 * _EPS,
        )

    def test_taps_are_called_once_for_all_and_in_order(self):
        graph = tiny_graphs.freeze(_chain, _SHAPE)
        seen = []

        def tap(op):
            def function(values):
                seen.append((op, len(values)))
                return values

            return tapped.Tap(_only(graph, op), _only(graph, op), function)

        ops = ["Exp", "Square", "Relu", "Neg"]
        _run(graph, [_images()] * 3, taps=[*map(tap, ops)])
        assert seen == [(op, 3) for op in ("Square", "Relu", "Neg", "Exp")]

    def test_a_tap_on_an_input_sees_all_of_them(self):
        graph = tiny_graphs.freeze(lambda x: x + 0.0, _SHAPE)
        tap = tapped.Tap("x:0", "x:0", lambda values: values[::-1])
        found = _run(graph, [_images(1), _images(2)], taps=[tap])
        np.testing.assert_array_equal(found[0][0], _images(2))
        np.testing.assert_array_equal(found[1][0], _images(1))

    def test_have_every_input(self):
        graph = tiny_graphs.freeze(lambda x, y: x - 2 * y, (None, 3), (None, 3))
        fed = [tf.constant(_draw(2, 3, seed=s)) for s in range(4)]
        run = tf.function(
            lambda *f: tapped.splice(graph, [f[:2], f[2:]], _outputs(graph)),
            autograph=False,
        )
        (one,), (two,) = run(*fed)
        np.testing.assert_array_equal(one, fed[0] - 2 * fed[1])
        np.testing.assert_array_equal(two, fed[2] - 2 * fed[3])

    def test_one_that_lacks_an_input_is_refused(self):
        graph = tiny_graphs.freeze(lambda x, y: x - y, (None, 3), (None, 3))
        x = tf.zeros((2, 3))
        with pytest.raises(ValueError, match="zip"):
            tapped.splice(graph, [[x, x], [x]], _outputs(graph))


class TestTapsThatNoOutputNeeds:
    def test_are_called_without_any_output(self):
        graph = tiny_graphs.freeze(_chain, _SHAPE)
        kept = {}
        tensor = _only(graph, "Relu")

        def keep(value):
            kept["value"] = value
            return value

        @tf.function(autograph=False)
        def run(x):
            taps = [tapped.Tap.of_each(tensor, tensor, keep)]
            assert tapped.splice(graph, [[x]], (), taps=taps) == [[]]
            return kept["value"]

        expected = np.maximum(np.square(_images().numpy()) - 1, 0)
        np.testing.assert_allclose(
            run(_images()), expected, rtol=4 * _EPS, atol=4 * _EPS
        )

    def test_what_nobody_needs_is_not_put_into_the_trace(self):
        graph = tiny_graphs.freeze(_chain, _SHAPE)

        @tf.function(autograph=False)
        def run(x):
            return tapped.splice(graph, [[x]], [_only(graph, "Relu")])

        traced = run.get_concrete_function(_images()).graph.get_operations()
        assert "Exp" not in {op.type for op in traced}
        assert "Relu" in {op.type for op in traced}


class TestUnoptimised:
    def test_no_optimizer_looks_at_what_is_called(self):
        with tapped.unoptimised():
            options = context.context().function_call_options
        config = tf.compat.v1.ConfigProto.FromString(
            options.config_proto_serialized
        )
        assert config.graph_options.rewrite_options.disable_meta_optimizer

    def test_options_are_as_before_afterwards(self):
        before = context.context().function_call_options
        with tapped.unoptimised():
            assert context.context().function_call_options is not before
        assert context.context().function_call_options is before

    def test_options_are_as_before_after_an_error(self):
        before = context.context().function_call_options
        with pytest.raises(ZeroDivisionError), tapped.unoptimised():
            raise ZeroDivisionError
        assert context.context().function_call_options is before

    def test_what_it_computes_is_the_same(self):
        graph = tiny_graphs.freeze(_grouped, _SHAPE)
        run = tf.function(
            lambda x: tapped.splice(graph, [[x]], _outputs(graph)),
            autograph=False,
        )
        with tapped.unoptimised():
            (found,) = run(_images())
        _assert_alike(
            [t.numpy() for t in found], frozen.to_function(graph)(_images())
        )
