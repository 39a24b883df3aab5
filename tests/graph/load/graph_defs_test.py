"""Frozen GraphDefs, folders with one model, names that are no scopes."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import convert_to_constants

from dsg_tf.core import errors
from dsg_tf.graph import evaluation
from dsg_tf.graph.load import formats, loading

_WEIGHTS = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)


def _call(x):
    hidden = tf.nn.relu(tf.matmul(x, _WEIGHTS), name="hidden")
    return tf.nn.softmax(hidden, name="scores"), tf.identity(x, name="copy")


@pytest.fixture(scope="module")
def graph_def() -> tf.compat.v1.GraphDef:
    spec = tf.TensorSpec((None, 3), tf.float32, name="x")
    traced = tf.function(_call).get_concrete_function(spec)
    frozen = convert_to_constants.convert_variables_to_constants_v2(traced)
    return frozen.graph.as_graph_def()


@pytest.fixture
def path(graph_def, tmp_path):
    path = tmp_path / "frozen.pb"
    path.write_bytes(graph_def.SerializeToString())
    return path


def test_outputs_are_the_nodes_that_are_named(path):
    graph = loading.load(path, output_names=["scores", "hidden:0"])
    assert [p.name for p in graph.inputs] == ["x"]
    assert [p.name for p in graph.outputs] == ["scores", "hidden"]
    values = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    ((scores, hidden),) = evaluation.batches(
        graph, [p.tensor for p in graph.outputs], {"x": values}
    )
    np.testing.assert_allclose(hidden, np.maximum(values @ _WEIGHTS, 0), 1e-5)
    np.testing.assert_allclose(scores, tf.nn.softmax(hidden), 1e-5)


def test_a_part_between_named_nodes_is_taken(path):
    graph = loading.load(path, input_names=["hidden"], output_names=["scores"])
    assert [p.name for p in graph.inputs] == ["hidden"]
    assert "MatMul" not in [node.op for node in graph]


def test_several_ends_ask_for_names(path):
    with pytest.raises(errors.UserError, match="--output_names="):
        loading.load(path)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"output_names": ["score"]}, "scores"),
        ({"input_names": ["y"], "output_names": ["scores"]}, "--input_names"),
        ({"output_names": ["^scores"]}, "--output_names"),
        ({"output_names": ["scores:7"]}, "--output_names"),
    ],
)
def test_a_wrong_name_is_one_line(path, names, said):
    with pytest.raises(errors.UserError, match=said):
        loading.load(path, **names)


def test_operations_that_do_more_than_compute_are_refused(tmp_path):
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, (None, 3), name="x")
        written = tf.io.write_file(str(tmp_path / "SENTINEL"), "x")
        with tf.control_dependencies([written]):
            tf.identity(x, name="y")
    path = tmp_path / "bad.pb"
    path.write_bytes(graph.as_graph_def().SerializeToString())
    with pytest.raises(errors.UserError, match="WriteFile"):
        loading.load(path, output_names=["y"])
    assert not (tmp_path / "SENTINEL").exists()


def test_other_models_have_no_nodes_to_feed():
    @tf.function(input_signature=[tf.TensorSpec((None, 3), tf.float32, "x")])
    def call(x):
        return tf.nn.relu(x)

    with pytest.raises(errors.UserError, match="only a frozen GraphDef has"):
        loading.load(call, input_names=["x"])


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"hello"])
def test_what_is_no_graph_def_is_refused(tmp_path, content):
    path = tmp_path / "bad.pb"
    path.write_bytes(content)
    with pytest.raises(errors.UserError, match="GraphDef"):
        loading.load(path)


def test_variables_without_values_are_named(tmp_path):
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, (None, 3), name="x")
        with tf.compat.v1.variable_scope("w", use_resource=False):
            weights = tf.compat.v1.get_variable("kernel", (3, 2))
        tf.matmul(x, weights, name="y")
    path = tmp_path / "unfrozen.pb"
    path.write_bytes(graph.as_graph_def().SerializeToString())
    with pytest.raises(errors.UserError, match="variable"):
        loading.load(path, output_names=["y"])


def test_the_only_model_below_a_folder_is_found(tmp_path):
    inner = tmp_path / "export" / "1"
    inner.mkdir(parents=True)
    (inner / "saved_model.pb").touch()
    (inner / "variables").mkdir()
    assert formats.located(tmp_path) == inner
    assert formats.located(inner) == inner
    (tmp_path / "net.weights.h5").touch()
    assert formats.located(tmp_path) == inner
    (tmp_path / "net.h5").touch()
    with pytest.raises(errors.UserError, match="2 models"):
        formats.located(tmp_path)


def test_layers_may_have_names_that_are_no_scopes():
    import keras

    layers = keras.layers
    image = keras.Input((4,), name="eingang")
    value = layers.Dense(3, name="größe ✓")(image)
    model = keras.Model(image, layers.Dense(2, name="_x y")(value))
    names = [layer.name for layer in model.layers]
    graph = loading.load(model)
    assert [p.name for p in graph.outputs] == ["_x y"]
    assert [layer.name for layer in model.layers] == names


def test_the_file_of_a_saved_model_stands_for_its_folder(tmp_path):
    path = tmp_path / "saved_model.pb"
    path.write_bytes(b"\x08\x01\x12\x03")
    assert formats.located(path) == tmp_path
    assert formats.identify(tmp_path) is formats.Format.SAVED_MODEL
    # A GraphDef of this name is none.
    path.write_bytes(b"\x0a\x03")
    assert formats.located(path) == path
