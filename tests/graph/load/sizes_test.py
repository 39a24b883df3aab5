"""Shapes that fit into no memory are refused before anything takes it."""

from __future__ import annotations

import keras
import pytest
import tensorflow as tf
from tensorflow.core.framework import node_def_pb2
from tensorflow.core.protobuf import saved_model_pb2

from dsg_tf.core import errors, memory
from dsg_tf.graph.load import loading, sizes

_SPEC = tf.TensorSpec((None, 3), tf.float32, name="x")


def _refused(model, **kwargs) -> str:
    with pytest.raises(errors.UserError) as caught:
        loading.load(model, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 900
    return text


class _Net(tf.Module):
    def __init__(self):
        super().__init__()
        self.w = tf.Variable(tf.ones((3, 2)), name="weights")

    @tf.function(input_signature=[_SPEC])
    def __call__(self, x):
        return x @ self.w + tf.constant([[1.0, 2.0]], name="offset")


@pytest.fixture
def path(tmp_path):
    net = _Net()
    tf.saved_model.save(net, str(tmp_path / "m"), signatures=net.__call__)
    return tmp_path / "m"


def _edit(path, change) -> None:
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((path / "saved_model.pb").read_bytes())
    change(saved.meta_graphs[0])
    (path / "saved_model.pb").write_bytes(saved.SerializeToString())


def _constants(meta_graph):
    for function in meta_graph.graph_def.library.function:
        for node in function.node_def:
            if node.op == "Const":
                yield node.attr["value"].tensor


def _set_shape(shape, *dims) -> None:
    del shape.dim[:]
    for size in dims:
        shape.dim.add(size=size)


def _splat(meta_graph, *dims) -> None:
    for tensor in _constants(meta_graph):
        if tensor.dtype == tf.float32.as_datatype_enum:
            _set_shape(tensor.tensor_shape, *dims)
            tensor.tensor_content = b""
            tensor.float_val[:] = [1.0]


class TestSavedModel:
    @pytest.mark.parametrize(
        ("dims", "words"),
        [
            ((1 << 40, 4), "bytes of memory"),
            ((1 << 62, 1 << 62), "the shape"),
            ((-2, 3), "the shape"),
            ((1 << 31, 1 << 31), "bytes of memory"),
        ],
    )
    def test_a_constant_of_one_value_and_a_huge_shape(self, path, dims, words):
        _edit(path, lambda m: _splat(m, *dims))
        assert words in _refused(path)

    def test_a_constant_that_holds_less_than_it_promises(self, path):
        def change(meta_graph):
            for tensor in _constants(meta_graph):
                if tensor.tensor_content:
                    _set_shape(tensor.tensor_shape, 7, 7)

        _edit(path, change)
        assert "bytes for" in _refused(path)

    @pytest.mark.parametrize("dims", [(1 << 40, 1 << 10), (-3, 2)])
    def test_a_variable_of_a_huge_shape(self, path, dims):
        def change(meta_graph):
            for node in meta_graph.object_graph_def.nodes:
                if node.WhichOneof("kind") == "variable":
                    _set_shape(node.variable.shape, *dims)

        _edit(path, change)
        text = _refused(path)
        assert "its variables" in text or "the shape" in text

    def test_variables_of_tensorflow_1_count(self):
        from tensorflow.core.protobuf import meta_graph_pb2

        meta_graph = meta_graph_pb2.MetaGraphDef()
        node = meta_graph.graph_def.node.add(name="w", op="VariableV2")
        node.attr["dtype"].type = tf.float32.as_datatype_enum
        _set_shape(node.attr["shape"].shape, 1 << 50)
        with pytest.raises(errors.UserError, match="its variables: 4,503"):
            sizes.check_meta_graph(meta_graph, "m")

    def test_a_good_one_passes_with_all_kinds_of_constants(self, path):
        loading.load(path)
        kinds = ["a", [1, 2], [True], [1.5 + 2j], [], [[0.0]] * 3]
        nodes = []
        for value in kinds:
            node = node_def_pb2.NodeDef(name="c", op="Const")
            node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
            nodes.append(node)
        sizes.check_constants(nodes, "m")


class TestPromises:
    @pytest.mark.parametrize(
        "body",
        [
            lambda x: x + tf.fill([1 << 40], 0.5)[0],
            lambda x: tf.tile(x, [1 << 20, 1 << 20]),
            lambda x: tf.broadcast_to(x[:1, :1], [1 << 21, 1 << 21]),
            lambda x: x + tf.random.uniform([1 << 45])[0],
            lambda x: x + tf.random.stateless_normal([1 << 45], [1, 2])[0],
            lambda x: x + tf.cast(tf.range(1 << 45)[0], tf.float32),
            lambda x: x + tf.range(0.0, 1e15, 0.5)[0],
        ],
    )
    @pytest.mark.parametrize("inside", [False, True])
    def test_they_are_refused_before_the_graph_is_frozen(
        self, monkeypatch, body, inside
    ):
        def never(*args, **kwargs):
            raise AssertionError("it was frozen")

        inner = tf.function(body) if inside else body
        function = _traced(inner)
        from dsg_tf.graph import frozen

        monkeypatch.setattr(frozen, "freeze", never)
        assert "what it makes" in _refused(function)

    @pytest.mark.parametrize(
        ("op", "dims"),
        [
            # TensorFlow ends the process where it meets these.
            ("Fill", [1 << 62, 3]),
            ("RandomUniform", [1 << 31] * 3),
            ("Fill", [1 << 40] * 100),
            ("Reshape", [-1, 1 << 62, 1 << 62]),
        ],
    )
    def test_products_beyond_64_bits_are_refused(self, op, dims):
        shape = node_def_pb2.NodeDef(name="dims", op="Const")
        shape.attr["value"].tensor.CopyFrom(
            tf.make_tensor_proto(dims, tf.int64)
        )
        made = node_def_pb2.NodeDef(name="made", op=op)
        inputs = ["value", "dims:output:0"]
        made.input.extend(inputs if op == "Reshape" else inputs[::-1])
        with pytest.raises(errors.UserError, match="what it makes"):
            sizes.check_promises([shape, made], "m")

    @pytest.mark.parametrize("dims", [(1 << 62, 1 << 62), (-7, 3)])
    def test_a_shape_that_cannot_be_is_refused(self, dims):
        node = node_def_pb2.NodeDef(name="x", op="Placeholder")
        _set_shape(node.attr["shape"].shape, *dims)
        with pytest.raises(errors.UserError, match="the shape"):
            sizes.check_promises([node], "m")

    def test_small_ones_pass(self):
        function = _traced(
            lambda x: (
                x
                + tf.reduce_sum(tf.range(3.0))
                + tf.fill([1], 0.5)
                + tf.range(3.0, 0.0, -1.0)
            )
        )
        loading.load(function)


def _column(x, count: int):
    """(count,), open batch or not."""
    return tf.reshape(tf.tile(x[:1, :1], [1, count]), [count])


def _traced(body):
    """A concrete function of x, without computing any constant of it."""
    return tf.function(body, input_signature=[_SPEC]).get_concrete_function()


def test_a_saved_model_beyond_what_a_message_can_hold_is_not_read(path):
    with (path / "saved_model.pb").open("r+b") as file:
        file.truncate(1 << 40)
    assert "saved_model.pb of 1,099,511,627,776 bytes" in _refused(path)


class TestGraph:
    @pytest.mark.parametrize(
        "body",
        [
            lambda x: tf.linalg.diag(_column(x, 1 << 25)),
            lambda x: tf.one_hot(tf.cast(x, tf.int32), 1 << 30)[..., :2, :2],
        ],
    )
    def test_what_it_computes_must_fit_into_memory(self, monkeypatch, body):
        monkeypatch.setattr(memory, "available", lambda: 1 << 30)
        function = tf.function(body, input_signature=[_SPEC])
        text = _refused(function)
        assert "bytes of memory that are free" in text
        assert "a tensor of the shape" in text

    def test_a_sample_must_fit_into_memory(self):
        function = tf.function(
            lambda x: x * 2.0,
            input_signature=[tf.TensorSpec((None, None, None), name="x")],
        )
        text = _refused(function, input_shapes=(1 << 24, 1 << 24))
        assert "1,125,899,906,842,624 bytes" in text

    def test_what_fits_passes(self, monkeypatch):
        function = tf.function(lambda x: x * 2.0, input_signature=[_SPEC])
        monkeypatch.setattr(memory, "available", lambda: 12)
        loading.load(function)
        monkeypatch.setattr(memory, "available", lambda: 11)
        assert "12 bytes" in _refused(function)
        monkeypatch.setattr(memory, "available", lambda: None)
        loading.load(function)

    @pytest.mark.parametrize("shape", [(None, 0), (0, 3), (None, 4, 0, 2)])
    def test_an_input_without_numbers_is_refused(self, shape):
        function = tf.function(
            lambda x: x * 2.0, input_signature=[tf.TensorSpec(shape, name="x")]
        )
        assert "input 'x': got the shape" in _refused(function)

    def test_an_output_without_numbers_is_refused(self):
        function = tf.function(lambda x: x[:, 3:], input_signature=[_SPEC])
        assert "output 'output_0': got the shape" in _refused(function)

    def test_a_keras_model_of_no_channels_is_one_line(self):
        inputs = keras.Input((8, 8, 0), name="x")
        model = keras.Model(inputs, keras.layers.ReLU()(inputs))
        assert "input 'x': got the shape" in _refused(model)


class TestMemory:
    def test_this_machine_has_some(self):
        assert memory.available() > 1 << 20

    def test_the_limit_of_a_container_holds(self, tmp_path, monkeypatch):
        monkeypatch.setattr(memory, "_GROUP", tmp_path)
        before = memory.available()
        (tmp_path / "memory.max").write_text("1000\n")
        (tmp_path / "memory.current").write_text("900\n")
        (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 300\n")
        assert memory.available() == 400
        (tmp_path / "memory.max").write_text("max\n")
        assert memory.available() > 400
        assert before > 400

    def test_without_proc_the_system_is_asked(self, tmp_path, monkeypatch):
        monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "absent")
        assert memory.available() > 1 << 20

    def test_what_does_not_fit_is_said_in_bytes(self, monkeypatch):
        monkeypatch.setattr(memory, "available", lambda: 1000)
        memory.require(1000, "net", what="its weights")
        with pytest.raises(errors.UserError, match=r"1,001 bytes.*1,000 byte"):
            memory.require(1001, "net", what="its weights")


def test_feature_map_without_positions_is_refused():
    def net(x):
        maps = tf.reshape(x[:, :0], (-1, 0, 1, 1))
        return tf.reduce_mean(tf.nn.relu(maps), axis=(1, 2))

    function = tf.function(net, input_signature=[_SPEC])
    assert "the shape (None, 0, 1, 1)" in _refused(function)


def test_empty_lists_of_indices_are_no_fault():
    def net(x):
        return tf.concat([x, tf.zeros((tf.shape(x)[0], 0))], 1) * 2.0

    loading.load(tf.function(net, input_signature=[_SPEC]))
