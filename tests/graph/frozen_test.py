"""A frozen graph computes what the function did, and has its gradients."""

from __future__ import annotations

import concurrent.futures

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tensorflow.python.eager import context

from dsg_tf.graph import evaluation, frozen

_EPS = np.finfo(np.float32).eps


def _concrete(function, *shapes, dtype=tf.float32):
    specs = [
        tf.TensorSpec(shape, dtype, name=f"in_{i}")
        for i, shape in enumerate(shapes)
    ]
    return tf.function(function).get_concrete_function(*specs)


def _freeze(function, *shapes, dtype=tf.float32, **kwargs):
    return frozen.freeze(_concrete(function, *shapes, dtype=dtype), **kwargs)


def _run(graph, *arrays):
    return [
        t.numpy() for t in frozen.to_function(graph)(*map(tf.constant, arrays))
    ]


def _sample(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _net(api):
    layers = api.layers
    return api.Sequential(
        [
            api.Input((6, 6, 2)),
            layers.Conv2D(4, 3, name="conv"),
            layers.BatchNormalization(name="bn"),
            layers.Activation("swish"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, activation="softmax", name="logits"),
        ]
    )


@pytest.mark.parametrize("api", [keras, tf_keras], ids=["keras3", "keras2"])
class TestKeras:
    def test_outputs_and_gradient_are_the_models(self, api):
        """Within rounding: one part in a thousand of the largest value.

        The graph runs the same operations, but the custom gradient of swish
        is that of its parts, which rounds otherwise.
        """
        model = _net(api)
        graph = _freeze(lambda x: model(x, training=False), (None, 6, 6, 2))
        function = frozen.to_function(graph)
        x = tf.constant(_sample(2, 6, 6, 2))
        values, gradients = [], []
        for call in (
            lambda x: model(x, training=False),
            lambda x: function(x)[0],
        ):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = call(x)
                loss = tf.reduce_sum(y[:, 0])
            values.append(y.numpy())
            gradients.append(tape.gradient(loss, x).numpy())
        np.testing.assert_allclose(values[1], values[0], rtol=1e-3)
        scale = np.abs(gradients[0]).max()
        assert scale > 0
        np.testing.assert_allclose(
            gradients[1], gradients[0], atol=1e-3 * scale, rtol=0
        )

    def test_nothing_but_computation_is_left(self, api):
        model = _net(api)
        graph = _freeze(lambda x: model(x, training=False), (None, 6, 6, 2))
        ops = {node.op for node in graph}
        assert not ops & {
            "Identity",
            "IdentityN",
            "NoOp",
            "PartitionedCall",
            "ReadVariableOp",
            "StatefulPartitionedCall",
            "VarHandleOp",
        }
        assert not any(
            i.startswith("^") for node in graph for i in node.definition.input
        )
        assert graph.library is None


class TestFreeze:
    def test_ports_have_the_callers_names_in_its_order(self):
        graph = _freeze(
            lambda a, b: {"z": a + 1.0, "m": b * 2.0},
            (None, 2),
            (None, 3),
            input_names=["left", "right"],
            output_names=["m", "z"],
        )
        assert [(p.name, p.shape) for p in graph.inputs] == [
            ("left", (None, 2)),
            ("right", (None, 3)),
        ]
        # A dictionary is flattened by its sorted keys.
        assert [(p.name, p.shape) for p in graph.outputs] == [
            ("m", (None, 3)),
            ("z", (None, 2)),
        ]
        a, b = _sample(1, 2), _sample(1, 3)
        m, z = _run(graph, a, b)
        np.testing.assert_array_equal(m, b * 2)
        np.testing.assert_array_equal(z, a + 1)

    def test_a_wrong_number_of_names_is_an_error(self):
        with pytest.raises(ValueError, match="zip"):
            _freeze(lambda a: a + 1.0, (None, 2), output_names=["p", "q"])

    def test_constants_have_the_names_of_the_variables(self):
        w = tf.Variable([1.0, 2.0], name="dense/kernel")
        graph = _freeze(lambda x: x * w, (None, 2))
        np.testing.assert_array_equal(graph.literal("dense/kernel:0"), [1, 2])

    def test_an_output_may_be_an_input_a_constant_or_the_same_twice(self):
        w = tf.Variable([1.0, 2.0])

        def function(x):
            y = x * 3.0
            return [tf.identity(x), tf.identity(w), y, y]

        graph = _freeze(function, (None, 2))
        assert len(graph.outputs) == 4
        x = _sample(2, 2)
        same, constant, first, second = _run(graph, x)
        np.testing.assert_array_equal(same, x)
        np.testing.assert_array_equal(constant, [1, 2])
        np.testing.assert_array_equal(first, x * np.float32(3))
        np.testing.assert_array_equal(second, first)

    def test_an_input_that_is_not_read_stays(self):
        graph = _freeze(lambda a, b: a + 1.0, (None, 2), (None, 3))
        assert [p.shape for p in graph.inputs] == [(None, 2), (None, 3)]

    @pytest.mark.parametrize(
        "options",
        [{}, {"jit_compile": True}, {"experimental_implements": "a.layer"}],
        ids=["plain", "compiled", "implements"],
    )
    def test_nested_calls_are_inlined(self, options):
        @tf.function(**options)
        def inner(x):
            return x * [1.0, 2.0]

        graph = _freeze(lambda x: inner(inner(x)), (None, 2))
        assert [n.op for n in graph if n.op == "Mul"] == ["Mul", "Mul"]
        x = _sample(2, 2)
        (y,) = _run(graph, x)
        np.testing.assert_array_equal(y, x * [1, 2] * [1, 2])

    def test_loops_and_branches_on_the_input_compute_as_before(self):
        def function(x):
            total = tf.reduce_sum(x)
            for _ in tf.range(3):
                x = x * 2.0
            return tf.cond(total > 0, lambda: x, lambda: -x)

        concrete = _concrete(function, (None, 2))
        graph = frozen.freeze(concrete)
        for sample in (np.ones((1, 2), np.float32), -(_sample(1, 2) ** 2)):
            (y,) = _run(graph, sample)
            np.testing.assert_array_equal(y, concrete(tf.constant(sample)))

    def test_places_of_the_training_machine_are_forgotten(self):
        w = tf.Variable([1.0, 2.0], name="w")

        def function(x):
            with tf.device("/device:GPU:0"):
                y = x * w
            with tf.compat.v1.colocate_with(y, ignore_existing=True):
                return y + tf.sqrt(w)

        graph = _freeze(function, (None, 2))
        assert not any(n.definition.device for n in graph)
        assert not any("_class" in n.definition.attr for n in graph)
        product = next(n for n in graph if n.op == "Mul")
        x = _sample(1, 2)
        values = evaluation.evaluate(graph, [product.output], {"in_0:0": x})
        np.testing.assert_array_equal(values[product.output], x * [1, 2])

    def test_custom_gradients_do_not_stand_in_the_way(self):
        @tf.custom_gradient
        def twice(x):
            return x * 2.0, lambda upstream: upstream * 100.0

        function = frozen.to_function(_freeze(twice, (None, 2)))
        x = tf.constant(_sample(1, 2))
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)[0]
        np.testing.assert_array_equal(tape.gradient(y, x), [[2.0, 2.0]])

    def test_custom_gradients_in_a_loop_do_not_either(self):
        @tf.custom_gradient
        def twice(x):
            return x * 2.0, lambda upstream: upstream * 100.0

        def function(x, count):
            for _ in tf.range(tf.cast(count[0], tf.int32)):
                x = twice(x)
            return x

        graph = _freeze(function, (1, 2), (1,))
        assert graph.library is not None
        assert not any(
            "_gradient_op_type" in node.attr
            for body in graph.library.function
            for node in body.node_def
        )
        (y,) = _run(graph, np.ones((1, 2), np.float32), np.full(1, 3, "f"))
        np.testing.assert_array_equal(y, [[8.0, 8.0]])


class TestFunction:
    def test_any_tensors_can_be_fetched(self):
        graph = _freeze(lambda x: tf.sqrt(tf.abs(x)), (None, 2))
        inner = next(n for n in graph if n.op == "Abs").output
        function = frozen.to_function(graph, [inner, graph.outputs[0].tensor])
        x = _sample(2, 2)
        first, second = function(tf.constant(x))
        np.testing.assert_array_equal(first, np.abs(x))
        np.testing.assert_allclose(second, np.sqrt(np.abs(x)), rtol=2 * _EPS)

    def test_it_is_called_in_the_order_of_the_inputs(self):
        graph = _freeze(lambda z, a: z - a, (None, 2), (None, 2))
        (y,) = _run(graph, np.full((1, 2), 3, "f"), np.ones((1, 2), "f"))
        np.testing.assert_array_equal(y, [[2, 2]])


class TestSplice:
    def test_computes_what_the_function_does_with_its_gradient(self):
        def function(x, y):
            return tf.tanh(x) @ tf.transpose(y), tf.nn.relu(x)

        graph = _freeze(function, (None, 4), (3, 4))
        inputs = [tf.constant(_sample(n, 4, seed=n)) for n in (2, 3)]
        wanted = [graph.outputs[1].tensor, graph.outputs[0].tensor]

        @tf.function
        def spliced(*inputs):
            outputs = frozen.splice(graph, inputs, wanted)
            return outputs, tf.gradients(outputs, inputs)

        outputs, gradients = spliced(*inputs)
        called = frozen.to_function(graph, wanted)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            expected = called(*inputs)
        for a, b in zip(outputs, expected, strict=True):
            np.testing.assert_array_equal(a, b)
        for a, b in zip(
            gradients, tape.gradient(expected, inputs), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=1e-6)

    def test_inputs_may_be_unread_or_outputs(self):
        graph = _freeze(lambda x, y: y, (None, 2), (None, 2))
        x, y = _sample(2, 2), _sample(2, 2, seed=1)
        spliced = tf.function(
            lambda *t: frozen.splice(graph, t, [graph.inputs[1].tensor])
        )
        np.testing.assert_array_equal(spliced(x, y)[0], y)

    def test_loops_have_gradients(self):
        def function(x):
            return tf.while_loop(
                lambda i, _: i < 3,
                lambda i, y: (i + 1, y * y),
                [tf.constant(0), x],
            )[1]

        graph = _freeze(function, (None, 2))

        @tf.function
        def gradient(x):
            y = frozen.splice(graph, [x], [graph.outputs[0].tensor])
            return tf.gradients(y, x)[0]

        x = np.float32([[1.0, 0.5]])
        np.testing.assert_allclose(
            gradient(tf.constant(x)), 8 * x**7, rtol=1e-5
        )


class TestSums:
    def test_of_many_become_sums_of_two_in_order(self):
        """1e8 and -1e8 swallow what is added between them."""
        terms = np.float32([1e8, 3, -1e8, 2])
        graph = _freeze(lambda x: tf.add_n([x * t for t in terms]), (None, 1))
        pairs = frozen.with_sums_in_pairs(graph)
        assert "AddN" in {n.op for n in graph}
        assert "AddN" not in {n.op for n in pairs}
        assert pairs.outputs == graph.outputs
        # Otherwise Grappler factors x out and folds the sum of the constants.
        with frozen.in_fixed_order():
            (y,) = _run(pairs, np.ones((1, 1), np.float32))
        np.testing.assert_array_equal(y, 2)

    def test_may_hold_a_tensor_twice(self):
        graph = _freeze(lambda x: tf.add_n([x, x, x * 2.0, x]), (None, 1))
        pairs = frozen.with_sums_in_pairs(graph)
        (y,) = _run(pairs, np.ones((1, 1), np.float32))
        np.testing.assert_array_equal(y, 5)

    def test_of_two_stay(self):
        graph = _freeze(lambda x: tf.add_n([x, x * 2.0]), (None, 1))
        assert frozen.with_sums_in_pairs(graph).text() == graph.text()


def _call_options():
    options = context.context().function_call_options
    return options.executor_type, options.config_proto_serialized


class TestFixedOrder:
    def test_a_large_sum_is_the_same_in_every_call(self):
        """32 addends of 8 MiB: more than Grappler takes a CPU to have."""

        @tf.function
        def total(x):
            return tf.add_n([tf.tanh(x * 1.3**n) for n in range(32)])

        x = tf.constant(_sample(2**21))
        with frozen.in_fixed_order():
            found = {total(x).numpy().tobytes() for _ in range(5)}
        assert len(found) == 1

    def test_options_are_this_threads_and_this_blocks_alone(self):
        before = _call_options()
        everywhere = tf.config.optimizer.get_experimental_options()

        def fail():
            with frozen.in_fixed_order():
                assert _call_options() != before
                with concurrent.futures.ThreadPoolExecutor(1) as pool:
                    assert pool.submit(_call_options).result() == before
                raise KeyError

        with pytest.raises(KeyError):
            fail()
        assert _call_options() == before
        assert tf.config.optimizer.get_experimental_options() == everywhere

    def test_the_users_options_hold_inside(self):
        with (
            tf.experimental.function_executor_type("SINGLE_THREADED_EXECUTOR"),
            frozen.in_fixed_order(),
        ):
            assert _call_options()[0] == "SINGLE_THREADED_EXECUTOR"


class TestShapes:
    def test_shapes_reach_the_outputs_and_leave_the_old_graph(self):
        graph = _freeze(lambda x: x[:, ::2], (None, None))
        wide = frozen.with_input_shapes(graph, {"in_0": (None, 8)})
        assert wide.shape(wide.outputs[0].tensor) == (None, 4)
        assert wide.inputs[0].shape == (None, 8)
        assert graph.inputs[0].shape == (None, None)

    @pytest.mark.parametrize("batch", [None, 3])
    def test_the_batch_can_be_set_and_opened(self, batch):
        graph = frozen.with_batch_size(_freeze(tf.nn.relu, (2, 5)), batch)
        assert graph.shape(graph.outputs[0].tensor) == (batch, 5)

    def test_a_batch_in_a_reshape_is_noticed(self):
        fixed = _freeze(lambda x: tf.reshape(x, (1, 6)), (1, 2, 3))
        merged = _freeze(lambda x: tf.reshape(x, (1, -1)), (1, 2, 3))
        free = _freeze(lambda x: tf.reshape(x, (-1, 6)), (1, 2, 3))
        assert frozen.accepts_batch_size(fixed, 1)
        assert not frozen.accepts_batch_size(fixed, 4)
        assert not frozen.accepts_batch_size(merged, 4)
        assert frozen.accepts_batch_size(free, 4)


class TestFloatInput:
    @pytest.mark.parametrize(
        "move",
        [
            lambda x: x,
            lambda x: tf.reshape(x, (-1, 4)),
            lambda x: tf.transpose(x),
            lambda x: tf.pad(x, [[0, 0], [1, 1]]),
            lambda x: x[:, ::-1],
            lambda x: tf.expand_dims(x, -1),
            lambda x: tf.concat([x, x], 0),
        ],
        ids=["none", "reshape", "swap", "pad", "slice", "expand", "concat"],
    )
    def test_whole_numbers_give_what_they_gave(self, move):
        graph = _freeze(
            lambda x: tf.cast(move(x), tf.float32) / 255.0,
            (None, 4),
            dtype=tf.uint8,
        )
        floating = frozen.with_float_input(graph, "in_0")
        assert floating.inputs[0].dtype == tf.float32
        x = np.random.default_rng(0).integers(0, 256, (3, 4)).astype(np.uint8)
        (expected,) = _run(graph, x)
        (y,) = _run(floating, x.astype(np.float32))
        np.testing.assert_array_equal(y, expected)

    def test_the_gradient_reaches_the_input(self):
        graph = _freeze(
            lambda x: tf.cast(x, tf.float32) * 3.0, (None, 4), dtype=tf.uint8
        )
        function = frozen.to_function(frozen.with_float_input(graph, "in_0"))
        x = tf.constant(_sample(1, 4))
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)[0]
        np.testing.assert_array_equal(tape.gradient(y, x), np.full((1, 4), 3))

    def test_its_shape_may_be_asked_for(self):
        graph = _freeze(
            lambda x: tf.reshape(tf.cast(x, tf.float32), (tf.shape(x)[0], -1)),
            (None, 2, 2),
            dtype=tf.uint8,
        )
        floating = frozen.with_float_input(graph, "in_0")
        (y,) = _run(floating, np.ones((3, 2, 2), np.float32))
        assert y.shape == (3, 4)

    def test_computing_with_the_integers_is_named(self):
        table = tf.Variable(np.ones((9, 2), np.float32))
        graph = _freeze(
            lambda x: tf.gather(table, x), (None, 4), dtype=tf.int32
        )
        with pytest.raises(ValueError, match="enters GatherV2"):
            frozen.with_float_input(graph, "in_0")
