"""The graph is sorted, closed under its edges, and never changes."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tensorflow.core.framework import node_def_pb2

from dsg_tf.graph import frozen, ir
from dsg_tf.quant import qtypes


def _node(name, op="Relu", inputs=(), **types):
    definition = node_def_pb2.NodeDef(name=name, op=op, input=inputs)
    for key, value in types.items():
        definition.attr[key].type = value.as_datatype_enum
    return ir.Node.from_def(definition)


def _port(tensor, name="p"):
    return ir.Port(name, tensor, tf.float32, (None, 2))


def _relus(edges):
    """A graph of x and Relus or AddN, from each node's inputs by name."""
    nodes = [frozen.placeholder("x", tf.float32, (None, 2))]
    for name, inputs in edges.items():
        op = "Relu" if len(inputs) == 1 else "AddN"
        node = _node(name, op, inputs, T=tf.float32)
        if op == "AddN":
            node.definition.attr["N"].i = len(inputs)
        nodes.append(node)
    return nodes


def _build(edges, output, **kwargs):
    return ir.Graph.build(
        _relus(edges), inputs=[_port("x:0", "x")], outputs=[_port(output)]
    )


class TestNode:
    def test_control_edges_are_no_inputs(self):
        node = _node("a", inputs=["x", "^init", "split:1"])
        assert node.inputs == ("x:0", "split:1")

    def test_attributes_are_plain_values(self):
        definition = node_def_pb2.NodeDef(name="a", op="Conv2D")
        definition.attr["padding"].s = b"SAME"
        definition.attr["strides"].list.i.extend([1, 2, 2, 1])
        definition.attr["flag"].b = True
        definition.attr["alpha"].f = 0.5
        node = ir.Node.from_def(definition)
        assert node.attr("padding") == "SAME"
        assert node.attr("strides") == [1, 2, 2, 1]
        assert node.attr("flag") is True
        assert node.attr("alpha") == 0.5
        assert node.attr("absent", 7) == 7

    def test_asking_for_an_absent_attribute_does_not_add_it(self):
        node = _node("a")
        node.attr("absent")
        assert not node.definition.attr

    def test_other_inputs_leave_the_node_as_it_was(self):
        node = _node("a", inputs=["x", "^init"])
        changed = node.with_inputs(["y:0"])
        assert (node.inputs, changed.inputs) == (("x:0",), ("y:0",))
        assert list(node.definition.input) == ["x", "^init"]
        assert node.with_inputs(["y:0"], name="b").name == "b"

    def test_a_new_one_has_the_attributes_that_were_asked_for(self):
        node = ir.Node.of(
            "y",
            "MatMul",
            ["x", "w:0"],
            T=tf.float32,
            transpose_b=True,
            padding="SAME",
            axis=3,
        )
        assert (node.name, node.op) == ("y", "MatMul")
        assert node.inputs == ("x:0", "w:0")
        assert node.attr("T") == tf.float32.as_datatype_enum
        # A truth value is an integer in Python, but not in a NodeDef.
        assert node.definition.attr["transpose_b"].WhichOneof("value") == "b"
        assert node.attr("transpose_b") is True
        assert node.attr("padding") == "SAME"
        assert node.attr("axis") == 3

    @pytest.mark.parametrize(
        "value",
        [
            np.arange(6, dtype=np.float32).reshape(2, 3),
            np.float64(0.1),
            np.zeros((0, 2), np.int32),
            np.array([True, False]),
        ],
        ids=["float32", "scalar", "empty", "bool"],
    )
    def test_a_constant_has_its_value_and_type(self, value):
        graph = ir.Graph.build(
            [ir.Node.constant("c", value)], inputs=[], outputs=[_port("c:0")]
        )
        literal = graph.literal("c:0")
        np.testing.assert_array_equal(literal, value)
        assert literal.dtype == graph.dtype("c:0").as_numpy_dtype
        assert literal.dtype == value.dtype
        assert graph.shape("c:0") == value.shape


class TestBuild:
    @given(st.data())
    @settings(max_examples=50, deadline=None)
    def test_any_acyclic_graph_is_sorted_and_pruned(self, data):
        count = data.draw(st.integers(1, 12))
        edges = {}
        for i in range(count):
            known = ["x", *edges]
            inputs = data.draw(
                st.lists(st.sampled_from(known), min_size=1, max_size=3)
            )
            edges[f"n{i}"] = inputs
        order = data.draw(st.permutations(list(edges)))
        shuffled = {name: edges[name] for name in order}
        output = data.draw(st.sampled_from(list(edges)))
        graph = _build(shuffled, f"{output}:0")
        seen = set()
        for node in graph:
            assert {ir.node_name(t) for t in node.inputs} <= seen
            seen.add(node.name)
        needed, stack = {"x"}, [output]
        while stack:
            name = stack.pop()
            needed.add(name)
            stack += [i for i in edges.get(name, ()) if i not in needed]
        assert set(graph.nodes) == needed

    def test_inputs_stay_though_nothing_reads_them(self):
        nodes = _relus({"a": ["x"]})
        nodes.append(frozen.placeholder("unused", tf.float32, (None, 2)))
        graph = ir.Graph.build(
            nodes,
            inputs=[_port("x:0", "x"), _port("unused:0", "unused")],
            outputs=[_port("a:0")],
        )
        assert "unused" in graph.nodes

    def test_a_cycle_is_named(self):
        with pytest.raises(ValueError, match="'a' depends on itself"):
            _build({"a": ["b"], "b": ["a"]}, "a:0")

    def test_a_node_that_is_missing_is_named(self):
        with pytest.raises(ValueError, match="no node is named 'gone'"):
            _build({"a": ["gone"]}, "a:0")

    @pytest.mark.parametrize(
        ("nodes", "message"),
        [
            ({"b": _node("a")}, "'a' is filed under 'b'"),
            ({"a": _node("a", inputs=["x"])}, "reads 'x:0'"),
            ({}, "'p' names 'x:0'"),
        ],
    )
    def test_verify_names_what_is_wrong(self, nodes, message):
        graph = ir.Graph(nodes, (_port("x:0"),), ())
        with pytest.raises(ValueError, match=message):
            graph.verify()

    def test_a_deep_graph_takes_no_recursion_and_linear_time(self):
        """Each node is looked at once, each edge at most twice."""

        class Counting(dict):
            reads = 0

            def __getitem__(self, key):
                self.reads += 1
                return super().__getitem__(key)

        count = 5_000
        edges = {"n0": ["x"]}
        for i in range(1, count):
            edges[f"n{i}"] = [f"n{i - 1}", f"n{i // 2}"]
        nodes = Counting((node.name, node) for node in _relus(edges))
        order = ir._topological(nodes, [f"n{count - 1}"])
        assert order == ["x", *(f"n{i}" for i in range(count))]
        assert nodes.reads <= len(nodes) + 2 * 2 * len(nodes)


class TestEdges:
    @pytest.fixture
    def graph(self):
        # x -> a -> (b, c) -> d, and e beside them.
        return ir.Graph.build(
            _relus(
                {
                    "a": ["x"],
                    "b": ["a"],
                    "c": ["a"],
                    "d": ["b", "c", "b"],
                    "e": ["x"],
                }
            ),
            inputs=[_port("x:0", "x")],
            outputs=[_port("d:0"), _port("e:0", "q")],
        )

    def test_consumers_are_those_who_read_each_once(self, graph):
        assert [n.name for n in graph.consumers("a:0")] == ["b", "c"]
        assert [n.name for n in graph.consumers("b:0")] == ["d"]
        assert graph.consumers("d:0") == ()

    def test_ancestors_begin_with_the_tensor_itself(self, graph):
        names = [n.name for n in graph.ancestors("d:0")]
        assert names[0] == "d"
        assert set(names) == {"d", "b", "c", "a", "x"}

    def test_descendants_are_sorted_and_without_the_tensor_itself(self, graph):
        assert [n.name for n in graph.descendants("a:0")] == ["b", "c", "d"]

    def test_descendants_go_by_tensor_not_by_node(self):
        function = tf.function(lambda x: [t + 1 for t in tf.split(x, 2, 1)])
        graph = frozen.freeze(
            function.get_concrete_function(tf.TensorSpec((None, 2)))
        )
        split = next(n for n in graph if n.op == "Split")
        first = graph.descendants(f"{split.name}:0")
        second = graph.descendants(f"{split.name}:1")
        assert len(first) == len(second) == 1
        assert first != second

    def test_shape_and_type_are_inferred(self, graph):
        assert graph.shape("d:0") == (None, 2)
        assert graph.dtype("d:0") == tf.float32

    def test_replacing_nodes_leaves_the_old_graph(self, graph):
        before = graph.text()
        changed = graph.replace_nodes(
            {"d": graph["d"].with_inputs(["x:0"] * 3)}
        )
        assert graph.text() == before
        assert set(changed.nodes) == {"x", "d", "e"}

    def test_text_lists_operations_and_outputs(self, graph):
        lines = graph.text().splitlines()
        assert "a = Relu(x:0)" in lines
        assert lines[-1] == "-> q: e:0"


class TestConstants:
    def _graph(self, function):
        return frozen.freeze(
            tf.function(function).get_concrete_function(
                tf.TensorSpec((None, 2), name="x")
            )
        )

    def test_what_depends_on_constants_alone_is_constant(self):
        w = tf.Variable([1.0, 2.0])
        graph = self._graph(lambda x: x * tf.sqrt(w))
        root = next(n for n in graph if n.op == "Sqrt")
        assert graph.is_constant(root.output)
        assert not graph.is_constant(graph.outputs[0].tensor)

    def test_what_is_random_is_not_constant(self):
        graph = self._graph(lambda x: x + tf.random.normal((2,)))
        draw = next(n for n in graph if n.op == "RandomStandardNormal")
        assert not graph.is_constant(draw.output)

    def test_a_literal_is_the_value_of_a_const_only(self):
        w = tf.Variable([1.0, 2.0])
        graph = self._graph(lambda x: x * tf.sqrt(w))
        root = next(n for n in graph if n.op == "Sqrt")
        np.testing.assert_array_equal(graph.literal(root.inputs[0]), [1.0, 2.0])
        assert graph.literal(root.output) is None


class TestKnowledge:
    """What a graph knows of its tensors beside its nodes."""

    _MOMENTS = ir.Moments(np.array([1.0, -2.0]), np.array([0.5, 3.0]))
    _GRID = qtypes.QuantParams([1.0], [0], -7, 7)

    def _graph(self):
        return ir.Graph.build(
            _relus({"a": ["x"], "b": ["a"], "c": ["x"]}),
            inputs=[_port("x:0", "x")],
            outputs=[_port("b:0")],
            moments=dict.fromkeys(["a:0", "b:0", "c:0"], self._MOMENTS),
            weight_grids=dict.fromkeys(["a:0", "c:0"], self._GRID),
        )

    def test_goes_with_the_nodes(self):
        graph = self._graph()
        assert set(graph.nodes) == {"x", "a", "b"}
        assert set(graph.moments) == {"a:0", "b:0"}
        assert set(graph.weight_grids) == {"a:0"}

    def test_stays_with_the_nodes_that_stay(self):
        graph = self._graph()
        changed = graph.replace_nodes({"b": graph["b"].with_inputs(["x:0"])})
        assert set(changed.moments) == {"b:0"}
        assert not changed.weight_grids
        assert set(graph.moments) == {"a:0", "b:0"}

    def test_can_be_given_anew(self):
        graph = self._graph()
        moments = {"b:0": self._MOMENTS, "c:0": self._MOMENTS}
        changed = graph.replace_nodes({}, moments=moments, weight_grids={})
        assert set(changed.moments) == {"b:0"}
        assert not changed.weight_grids
        assert set(graph.replace_nodes({}).weight_grids) == {"a:0"}

    def test_is_nothing_at_first(self):
        graph = _build({"a": ["x"]}, "a:0")
        assert graph.moments == graph.weight_grids == {}

    def test_moments_follow_a_scale_and_a_shift(self):
        """As samples of that mean and deviation do."""
        samples = self._MOMENTS.mean + self._MOMENTS.deviation * np.array(
            [[-1.0], [1.0]]
        )
        scale, shift = np.array([-4.0, 0.5]), np.array([3.0, -1.0])
        for moments, moved in (
            (self._MOMENTS.scaled(scale), samples * scale),
            (self._MOMENTS.shifted(shift), samples + shift),
        ):
            np.testing.assert_allclose(moments.mean, moved.mean(axis=0))
            np.testing.assert_allclose(moments.deviation, moved.std(axis=0))


class TestPassThrough:
    def test_readers_read_the_source(self):
        nodes = {
            n.name: n
            for n in [
                _node("x", "Placeholder"),
                _node("i", "Identity", ["x"]),
                _node("j", "Snapshot", ["i", "^nothing"]),
                _node("nothing", "NoOp"),
                _node("a", "Relu", ["j", "^nothing"]),
            ]
        }
        plain = ir.without_pass_through(nodes)
        assert set(plain) == {"x", "a"}
        assert plain["a"].inputs == ("x:0",)
        assert list(plain["a"].definition.input) == ["x:0"]

    def test_identity_n_hands_on_each_input(self):
        nodes = {
            n.name: n
            for n in [
                _node("x", "Placeholder"),
                _node("y", "Placeholder"),
                _node("both", "IdentityN", ["x", "y"]),
                _node("a", "Sub", ["both:1", "both:0"]),
            ]
        }
        assert ir.without_pass_through(nodes)["a"].inputs == ("y:0", "x:0")


class TestNames:
    def test_renaming_reaches_every_reader(self):
        nodes = {n.name: n for n in _relus({"a": ["x"], "b": ["a", "a"]})}
        renamed = ir.renamed(nodes, {"a": "relu"})
        assert set(renamed) == {"x", "relu", "b"}
        assert renamed["relu"].name == "relu"
        assert renamed["b"].inputs == ("relu:0", "relu:0")

    @example("scope/", set())
    @example("", {"x"})
    @given(st.text(max_size=8), st.sets(st.text(max_size=4), max_size=4))
    @settings(max_examples=60, deadline=None)
    def test_a_free_name_is_free_and_legal(self, wanted, taken):
        name = ir.free_name(wanted, taken)
        assert name not in taken
        with tf.Graph().as_default():
            assert tf.constant(0, name=name).op.name == name
