"""A written graph loads again as it was; a failed write leaves nothing."""

from __future__ import annotations

import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf
import tiny_graphs
import tiny_models
from tensorflow.core.protobuf import saved_model_pb2

from dsg_tf.core import errors, staging
from dsg_tf.graph import frozen, ir, writing
from dsg_tf.graph.load import loading
from dsg_tf.quant import qtypes, uniform
from dsg_tf.transforms import insert_fake_quant

_RNG = np.random.default_rng(0)


def _named(graph: ir.Graph, inputs, outputs) -> ir.Graph:
    """The graph with other public names."""

    def ports(old, names):
        return [
            ir.Port(name, port.tensor, port.dtype, port.shape)
            for port, name in zip(old, names, strict=True)
        ]

    return graph.replace_nodes(
        {},
        inputs=ports(graph.inputs, inputs),
        outputs=ports(graph.outputs, outputs),
    )


def _two_inputs() -> ir.Graph:
    return tiny_graphs.freeze(
        lambda x, y: (x - y, tf.nn.relu(y)), (None, 3), (None, 3)
    )


def _simulated() -> ir.Graph:
    graph = loading.load(tiny_models.classifier())
    points = insert_fake_quant.quantization_points(graph)
    grid = uniform.affine_params(qtypes.TensorRange(-3, 4), 5, symmetric=False)
    return insert_fake_quant.insert(graph, dict.fromkeys(points, grid))[0]


def _run(graph: ir.Graph, *inputs: np.ndarray) -> dict[str, np.ndarray]:
    values = frozen.to_function(graph)(*map(tf.constant, inputs))
    names = [port.name for port in graph.outputs]
    return {n: v.numpy() for n, v in zip(names, values, strict=True)}


@pytest.mark.parametrize("make", [_two_inputs, _simulated])
def test_both_loaders_compute_the_same_numbers(make, tmp_path):
    graph = make()
    writing.save(graph, tmp_path / "model")
    again = loading.load(tmp_path / "model")
    live = tf.saved_model.load(str(tmp_path / "model"))
    fed = {
        port.name: _RNG.normal(size=(5, *port.shape[1:])).astype(np.float32)
        for port in graph.inputs
    }
    expected = _run(graph, *fed.values())
    own = _run(again, *(fed[port.name] for port in again.inputs))
    theirs = live.signatures["serving_default"](
        **{name: tf.constant(value) for name, value in fed.items()}
    )
    assert set(own) == set(theirs) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(own[name], value)
        np.testing.assert_array_equal(theirs[name].numpy(), value)


def test_ports_and_nodes_keep_names_types_and_open_batch(tmp_path):
    graph = _simulated()
    writing.save(graph, tmp_path / "model")
    again = loading.load(tmp_path / "model")
    assert again.inputs == graph.inputs
    assert again.outputs == graph.outputs
    assert again.text() == graph.text()
    assert "FakeQuantWithMinMaxVars" in again.text()


def test_the_signature_tells_the_shapes(tmp_path):
    """What serving systems read, who never look into the graph."""
    writing.save(_two_inputs(), tmp_path / "model")
    written = saved_model_pb2.SavedModel.FromString(
        (tmp_path / "model" / "saved_model.pb").read_bytes()
    )
    signature = written.meta_graphs[0].signature_def["serving_default"]
    shape = signature.inputs["y"].tensor_shape
    assert tf.TensorShape(shape).as_list() == [None, 3]


@pytest.mark.parametrize(
    "names",
    [
        ("a", "b"),
        ("b", "a"),
        ("images/left", "images:0"),
        ("input-1", "1 input"),
        ("größe", "x.y"),
    ],
)
def test_any_name_serves_as_it_is(names, tmp_path):
    graph = _named(_two_inputs(), names, [f"{n} out" for n in names])
    writing.save(graph, tmp_path / "model")
    again = loading.load(tmp_path / "model")
    assert {port.name for port in again.inputs} == set(names)
    x, y = _RNG.normal(size=(2, 4, 3)).astype(np.float32)
    live = tf.saved_model.load(str(tmp_path / "model"))
    theirs = live.signatures["serving_default"](
        **{names[0]: tf.constant(x), names[1]: tf.constant(y)}
    )
    np.testing.assert_array_equal(theirs[f"{names[0]} out"].numpy(), x - y)
    np.testing.assert_array_equal(
        theirs[f"{names[1]} out"].numpy(), np.maximum(y, 0)
    )


@pytest.mark.parametrize(
    ("inputs", "outputs", "text"),
    [
        (("x", "x"), ("a", "b"), "names of inputs: got 'x', 'x'"),
        (("x", "y"), ("a", "a"), "names of outputs"),
        (("", "y"), ("a", "b"), "names of inputs"),
        (("lambda", "y"), ("a", "b"), "'lambda'"),
        (("a/b", "a_b"), ("a", "b"), "'a/b', 'a_b'"),
    ],
)
def test_names_that_could_not_be_loaded_are_refused(
    inputs, outputs, text, tmp_path
):
    graph = _named(_two_inputs(), inputs, outputs)
    with pytest.raises(errors.UserError, match=text):
        writing.save(graph, tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_same_graph_same_bytes(tmp_path):
    graph = _simulated()
    for name in "ab":
        writing.save(graph, tmp_path / name)
    first, second = (
        (tmp_path / name / "saved_model.pb").read_bytes() for name in "ab"
    )
    assert first == second


def test_loops_keep_their_bodies(tmp_path):
    def power(x):
        return tf.while_loop(
            lambda i, _: i < 3, lambda i, y: (i + 1, y * x), (0, x)
        )[1]

    graph = tiny_graphs.freeze(power, (None, 2))
    assert graph.library is not None
    writing.save(graph, tmp_path / "model")
    x = _RNG.normal(size=(3, 2)).astype(np.float32)
    again = loading.load(tmp_path / "model")
    np.testing.assert_allclose(
        *(_run(g, x)["output_0"] for g in (again, graph))
    )


@pytest.mark.parametrize("before", ["nothing", "empty", "saved_model"])
def test_a_saved_model_is_replaced_as_a_whole(before, tmp_path):
    path = tmp_path / "model"
    if before != "nothing":
        path.mkdir()
    if before == "saved_model":
        (path / "saved_model.pb").write_text("old")
    writing.save(_two_inputs(), path)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert [p.name for p in path.iterdir()] == ["saved_model.pb"]
    loading.load(path)


def _file(path: pathlib.Path) -> None:
    path.write_text("mine")


def _folder(path: pathlib.Path) -> None:
    path.mkdir()
    (path / "thesis.tex").write_text("mine")


def _link(path: pathlib.Path) -> None:
    writing.save(_two_inputs(), path.with_name("original"))
    path.symlink_to(path.with_name("original"))


def _trained(path: pathlib.Path) -> None:
    (path / "variables").mkdir(parents=True)
    (path / "variables" / "variables.index").write_text("trained for weeks")
    (path / "saved_model.pb").write_text("old")


def _with_more(path: pathlib.Path) -> None:
    writing.save(_two_inputs(), path)
    (path / "notes.txt").write_text("mine")


def _dangling(path: pathlib.Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


@pytest.mark.parametrize(
    "make", [_file, _folder, _link, _dangling, _trained, _with_more]
)
def test_what_is_no_saved_model_is_never_replaced(make, tmp_path):
    make(tmp_path / "model")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(errors.UserError, match="no SavedModel"):
        writing.save(_two_inputs(), tmp_path / "model")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_missing_parent_is_an_error_of_the_user(tmp_path):
    with pytest.raises(errors.UserError, match="no folder"):
        writing.save(_two_inputs(), tmp_path / "missing" / "model")


def test_a_model_that_a_killed_run_moved_away_is_put_back(tmp_path):
    path = tmp_path / "model"
    writing.save(_two_inputs(), path)
    before = (path / "saved_model.pb").read_bytes()
    # What lies there between the two renames.
    workspace = tmp_path / ".model.0123abcd.dsg_tf.tmp"
    (workspace / "new").mkdir(parents=True)
    path.rename(workspace / "old")
    staging.sweep(path)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert (path / "saved_model.pb").read_bytes() == before


def test_staged_models_have_no_name_before_they_are_placed(tmp_path):
    path = tmp_path / "model"
    with staging.Staging() as staged:
        size = writing.stage(_two_inputs(), path, staged)
        assert not path.exists()
    assert list(tmp_path.iterdir()) == []
    with staging.Staging() as staged:
        writing.stage(_two_inputs(), path, staged)
        staged.place()
    assert (path / "saved_model.pb").stat().st_size == size
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("failing", ["write", "rename"])
def test_a_failed_write_leaves_the_old_model_and_nothing_else(
    failing, tmp_path, monkeypatch
):
    path = tmp_path / "model"
    writing.save(_two_inputs(), path)
    before = (path / "saved_model.pb").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    rename = os.rename

    def once(source, target):
        if pathlib.Path(source).name == "new":
            full()
        rename(source, target)

    if failing == "write":
        monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    else:
        monkeypatch.setattr(os, "rename", once)
    with pytest.raises(errors.UserError, match="No space left"):
        writing.save(_simulated(), path)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert (path / "saved_model.pb").read_bytes() == before


def test_the_folder_can_be_read_by_whom_the_umask_lets(tmp_path):
    writing.save(_two_inputs(), tmp_path / "model")
    (tmp_path / "plain").mkdir()
    modes = {(tmp_path / n).stat().st_mode for n in ("model", "plain")}
    assert len(modes) == 1
