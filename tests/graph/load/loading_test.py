"""Every format becomes one graph; every mistake becomes one line."""

from __future__ import annotations

import importlib.util
import json
import logging
import pathlib
import shutil
import sys
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from dsg_tf.core import errors
from dsg_tf.graph import frozen, ir
from dsg_tf.graph.load import loading

# Sums of a few dozen float32 products of numbers near 1, in two orders:
# 64 roundings of half an ulp of values below 8.
_TOLERANCE = 64 * 8 * 2.0**-24
_IMAGE = (8, 8, 3)


def _images(count: int = 2, shape=_IMAGE) -> np.ndarray:
    rng = np.random.default_rng(3)
    return rng.normal(size=(count, *shape)).astype(np.float32)


def _run(graph: ir.Graph, *arrays) -> list[np.ndarray]:
    outputs = frozen.to_function(graph)(*map(tf.constant, arrays))
    return [np.asarray(t) for t in outputs]


def _convnet(library, name: str = "tiny"):
    """Convolution, BN with moments of its own, dense layer."""
    layers = library.layers
    inputs = library.Input(_IMAGE, name="image")
    x = layers.Conv2D(4, 3, use_bias=False, name="conv")(inputs)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(x))
    model = library.Model(inputs, layers.Dense(5, name="head")(x), name=name)
    rng = np.random.default_rng(1)
    model.get_layer("bn").set_weights(
        [rng.uniform(0.5, 1.5, 4).astype(np.float32) for _ in range(4)]
    )
    return model


def _subclassed(library):
    class Net(library.Model):
        def __init__(self):
            super().__init__()
            self.dense = library.layers.Dense(2)

        def call(self, x, training=False):
            return -self.dense(x) if training else self.dense(x)

    return Net()


class _Module(tf.Module):
    """Two outputs by name, one matrix."""

    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(0)
        self.w = tf.Variable(rng.normal(size=(3, 4)).astype(np.float32))

    @tf.function(input_signature=[tf.TensorSpec((None, 3), name="features")])
    def __call__(self, x):
        return {"scores": x @ self.w, "embedding": x * 2.0}


class _Hub(tf.Module):
    """No signature; training is a Python argument, as TF Hub has it."""

    def __init__(self):
        super().__init__()
        self.w = tf.Variable(tf.ones((3, 4)))

    @tf.function
    def __call__(self, x, training=False):
        return x @ self.w if training else -x @ self.w


def _save_hub(path, trainings=(True, False)) -> pathlib.Path:
    hub = _Hub()
    for training in trainings:
        hub.__call__.get_concrete_function(
            tf.TensorSpec((None, 3), name="x"), training=training
        )
    tf.saved_model.save(hub, str(path))
    return path


def _refused(*args, **kwargs) -> str:
    with pytest.raises(errors.UserError) as caught:
        loading.load(*args, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    return text


class TestFormats:
    """One model through every format computes what the model computes."""

    @pytest.mark.parametrize(
        ("library", "how"),
        [
            (keras, "live"),
            (keras, ".keras"),
            (keras, ".h5"),
            (keras, "export"),
            (tf_keras, "live"),
            (tf_keras, ".keras"),
            (tf_keras, ".h5"),
            (tf_keras, "export"),
            (tf_keras, "save"),
        ],
        ids=lambda v: v if isinstance(v, str) else v.__name__,
    )
    def test_the_graph_computes_what_the_model_computes(
        self, tmp_path, library, how
    ):
        model = _convnet(library)
        wanted = np.asarray(model(_images(), training=False))
        source = model
        if how == "export":
            source = str(tmp_path / "m")
            model.export(source)
        elif how == "save":
            source = tmp_path / "m"
            model.save(source, save_format="tf")
        elif how != "live":
            source = tmp_path / f"m{how}"
            model.save(source)
        graph = loading.load(source)
        assert [(p.name, p.shape) for p in graph.inputs] == [
            ("image", (None, *_IMAGE))
        ]
        assert graph.inputs[0].tensor == "image:0"
        (output,) = graph.outputs
        assert output.name == ("output_0" if how == "export" else "head")
        (got,) = _run(graph, _images())
        assert np.isfinite(got).all()
        np.testing.assert_allclose(got, wanted, rtol=0, atol=_TOLERANCE)

    def test_an_unpacked_keras_file_is_read(self, tmp_path):
        _convnet(keras).save(tmp_path / "m.keras")
        with zipfile.ZipFile(tmp_path / "m.keras") as archive:
            archive.extractall(tmp_path / "m")
        assert loading.load(tmp_path / "m").inputs[0].name == "image"

    def test_keras_2_files_that_keras_3_cannot_read_go_to_tf_keras(
        self, tmp_path, monkeypatch
    ):
        _convnet(tf_keras).save(tmp_path / "m.h5")

        def fail(*args, **kwargs):
            raise TypeError("Unrecognized keyword arguments: {'groups': 1}")

        monkeypatch.setattr(keras.models, "load_model", fail)
        assert loading.load(tmp_path / "m.h5").outputs[0].name == "head"
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: name != "tf_keras" or None
        )
        assert "legacy-keras" in _refused(tmp_path / "m.h5")

    def test_modules_keep_the_names_of_their_signature(self, tmp_path):
        module = _Module()
        tf.saved_model.save(module, str(tmp_path / "m"))
        x = _images(2, (3,))
        for source in (module, module.__call__, tmp_path / "m"):
            graph = loading.load(source)
            assert [p.name for p in graph.inputs] == ["features"]
            assert [p.name for p in graph.outputs] == ["embedding", "scores"]
            embedding, scores = _run(graph, x)
            np.testing.assert_array_equal(embedding, 2 * x)
            np.testing.assert_allclose(
                scores, x @ module.w.numpy(), atol=_TOLERANCE
            )

    def test_a_hub_module_is_called_with_training_off(self, tmp_path):
        path = _save_hub(tmp_path / "m")
        loaded = tf.saved_model.load(str(path))
        for source in (path, loaded):
            (got,) = _run(loading.load(source), np.ones((1, 3), np.float32))
            np.testing.assert_array_equal(got, -3 * np.ones((1, 4)))

    def test_a_hub_module_saved_for_training_only_is_refused(self, tmp_path):
        text = _refused(_save_hub(tmp_path / "m", trainings=(True,)))
        assert "training only" in text

    def test_live_concrete_functions_and_plain_modules(self):
        module = _Module()
        concrete = module.__call__.get_concrete_function()
        assert len(loading.load(concrete).outputs) == 2

        class Plain(tf.Module):
            def __call__(self, x, training=True):
                return x if training else -x

        graph = loading.load(Plain(), input_shapes=(3,))
        (got,) = _run(graph, np.ones((1, 3), np.float32))
        np.testing.assert_array_equal(got, [[-1, -1, -1]])

    @pytest.mark.parametrize("library", [keras, tf_keras])
    def test_a_subclassed_model_knows_what_it_was_built_for(self, library):
        model = _subclassed(library)
        x = _images(2, (3,))
        wanted = np.asarray(model(x))
        for shapes in (None, (3,)):
            (got,) = _run(loading.load(model, input_shapes=shapes), x)
            np.testing.assert_allclose(got, wanted, rtol=0, atol=_TOLERANCE)

    def test_a_model_that_was_never_built_is_refused(self):
        assert "never built" in _refused(_subclassed(keras))

    @pytest.mark.parametrize("library", [keras, tf_keras])
    @pytest.mark.parametrize("kind", ["list", "dict"])
    def test_several_inputs_keep_names_order_and_meaning(self, library, kind):
        wide = library.Input((3,), name="wide")
        deep = library.Input((2,), name="deep")
        joined = library.layers.Concatenate()([wide, deep])
        inputs = [wide, deep]
        if kind == "dict":
            inputs = {"wide": wide, "deep": deep}
        model = library.Model(inputs, joined)
        graph = loading.load(model)
        values = {
            "wide": np.full((1, 3), 3, np.float32),
            "deep": np.full((1, 2), 2, np.float32),
        }
        assert {p.name for p in graph.inputs} == set(values)
        (got,) = _run(graph, *(values[p.name] for p in graph.inputs))
        np.testing.assert_array_equal(got, [[3, 3, 3, 2, 2]])

    def test_two_outputs_of_one_layer_have_two_names(self):
        inputs = keras.Input((3,), name="x")
        layer = keras.layers.Dense(2, name="shared")
        model = keras.Model(inputs, [layer(inputs), layer(-inputs)])
        names = [p.name for p in loading.load(model).outputs]
        assert len(set(names)) == 2

    def test_the_batch_size_of_a_model_stays(self):
        inputs = keras.Input(batch_shape=(1, 3), name="x")
        model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
        assert loading.load(model).inputs[0].shape == (1, 3)

    def test_integer_inputs_keep_their_type(self):
        inputs = keras.Input((4, 4, 3), dtype="uint8", name="pixels")
        model = keras.Model(inputs, keras.layers.Rescaling(1 / 255)(inputs))
        (port,) = loading.load(model).inputs
        assert (port.name, port.dtype) == ("pixels", tf.uint8)

    def test_an_illegal_input_name_stays_the_name_of_the_port(self):
        @tf.function(input_signature=[tf.TensorSpec((None, 3))])
        def call(x):
            return x + 1.0

        tensor = loading.load(call).inputs[0].tensor
        concrete = call.get_concrete_function()
        graph = frozen.freeze(concrete, input_names=["my image?"])
        assert graph.inputs[0].name == "my image?"
        assert graph.inputs[0].tensor == "my_image_:0"
        assert tensor == "x:0"

    def test_a_live_model_still_works_after_it_was_loaded(self):
        scale = tf.Variable(2.0)

        @tf.function(input_signature=[tf.TensorSpec((None, 3))])
        def call(x):
            return tf.while_loop(
                lambda i, y: i < 3, lambda i, y: (i + 1, y * scale), [0, x]
            )[1]

        for _ in range(2):
            loading.load(call)
        np.testing.assert_array_equal(call(tf.ones((1, 3))), [[8, 8, 8]])
        scale.assign(1.0)
        np.testing.assert_array_equal(call(tf.ones((1, 3))), [[1, 1, 1]])

    def test_the_same_file_gives_the_same_graph(self, tmp_path):
        _convnet(keras).export(str(tmp_path / "m"), verbose=False)
        first, second = (loading.load(tmp_path / "m") for _ in range(2))
        assert first.to_graph_def() == second.to_graph_def()

    def test_weights_keep_the_names_of_their_variables(self, tmp_path):
        _convnet(keras).export(str(tmp_path / "m"), verbose=False)
        graph = loading.load(tmp_path / "m")
        names = {n.name for n in graph if n.op == "Const"}
        assert {"conv/kernel", "bn/moving_variance", "head/bias"} <= names


class TestSignaturesAndTags:
    @pytest.fixture
    def path(self, tmp_path):
        module = _Module()

        @tf.function(input_signature=[tf.TensorSpec((None, 3), name="x")])
        def half(x):
            return {"y": x / 2.0}

        tf.saved_model.save(
            module,
            str(tmp_path / "m"),
            signatures={"full": module.__call__, "half": half},
        )
        return tmp_path / "m"

    def test_the_signature_that_was_asked_for_is_taken(self, path):
        assert loading.load(path, signature="half").outputs[0].name == "y"
        loaded = tf.saved_model.load(str(path))
        assert loading.load(loaded, signature="half").outputs[0].name == "y"

    def test_a_wrong_signature_lists_those_there_are(self, path):
        assert "full, half" in _refused(path, signature="serve")

    def test_without_serving_default_one_of_several_must_be_named(self, path):
        text = _refused(path)
        assert text.startswith("--signature")
        assert "full, half" in text

    def test_a_single_signature_is_taken_whatever_its_name(self, tmp_path):
        module = _Module()
        tf.saved_model.save(
            module, str(tmp_path / "m"), signatures={"odd": module.__call__}
        )
        assert len(loading.load(tmp_path / "m").outputs) == 2

    def test_tags_choose_and_wrong_ones_list_those_there_are(self, path):
        loading.load(path, tags=["serve"], signature="half")
        text = _refused(path, tags=["serve", "tpu"], signature="half")
        assert text.startswith("--tags: got serve,tpu")
        assert "serve" in text.split("expected")[1]

    def test_a_keras_file_has_no_signature_and_no_tags(self, tmp_path):
        _convnet(keras).save(tmp_path / "m.keras")
        for flag, value in (("signature", "serve"), ("tags", ["serve"])):
            text = _refused(tmp_path / "m.keras", **{flag: value})
            assert text.startswith(f"--{flag}: got serve")

    def test_a_folder_without_functions_is_refused(self, tmp_path):
        tf.saved_model.save(tf.train.Checkpoint(), str(tmp_path / "m"))
        assert "without signatures and without __call__" in _refused(
            tmp_path / "m"
        )


class TestPathsThatAreNoModel:
    def test_a_missing_path(self, tmp_path):
        text = _refused(tmp_path / "nowhere")
        assert "no such file or folder" in text

    @pytest.mark.parametrize(
        ("name", "content", "said"),
        [
            ("m.tflite", b"\x1c\0\0\0TFL3", "LiteRT interpreter runs"),
            ("noname", b"\x1c\0\0\0TFL3", "LiteRT interpreter runs"),
            ("m.tflite", b"<!doctype html>", "damaged .tflite"),
            ("m.onnx", b"\x08\x07", "onnx2tf"),
            ("m.pb", b"\x08\x01\x12\x03", "name it saved_model.pb"),
            ("m.pb", b'node {\n  name: "x"', "a GraphDef as text"),
            ("m.weights.h5", b"\x89HDF\r\n\x1a\n", "model.load_weights"),
            ("m.pt", b"PK\x03\x04", "PyTorch"),
            ("m.pb", b"\x0a", "frozen GraphDef"),
            ("saved_model.pb", b"\x0a", "pass its folder"),
            ("m.weights.h5", b"\x89HDF\r\n\x1a\n", "weights"),
            ("ckpt-1.index", b"", "checkpoint"),
            ("m.keras", b"", "0 bytes"),
            ("m.keras", b"not a zip", "damaged .keras"),
            ("m.h5", b"<!doctype html>", "damaged .h5"),
            ("m.h5", b"\x89HDF\r\n\x1a\n", "damaged file"),
            ("notes.txt", b"hello", "a .txt file"),
            ("https://tfhub.dev/google/x/1", None, "download it"),
        ],
    )
    def test_a_file_of_another_kind_says_what_it_is(
        self, tmp_path, name, content, said
    ):
        path = name
        if content is not None:
            path = tmp_path / name
            path.write_bytes(content)
        assert said in _refused(path)

    def test_folders_of_another_kind_say_what_they_are(self, tmp_path):
        assert "an empty folder" in _refused(tmp_path)
        (tmp_path / "model.ckpt-1.index").touch()
        assert "checkpoint" in _refused(tmp_path)
        # The only model below a folder is taken for it.
        (tmp_path / "net.keras").touch()
        assert "net.keras: got a damaged .keras file" in _refused(tmp_path)
        (tmp_path / "1").mkdir()
        (tmp_path / "1" / "saved_model.pb").touch()
        said = _refused(tmp_path)
        assert "a folder with 2 models" in said
        assert f"{tmp_path}/1, {tmp_path}/net.keras" in said

    def test_a_zip_of_something_else_is_to_be_unpacked(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
            archive.writestr("saved_model.pb", "")
        assert "unpack it" in _refused(tmp_path / "m.keras")

    def test_a_keras_archive_or_hdf5_of_another_name_is_to_be_renamed(
        self, tmp_path
    ):
        _convnet(keras).save(tmp_path / "m.keras")
        _convnet(keras).save(tmp_path / "m.h5")
        (tmp_path / "m.keras").rename(tmp_path / "k")
        (tmp_path / "m.h5").rename(tmp_path / "h.model")
        assert "rename it to .keras" in _refused(tmp_path / "k")
        assert "rename it to .h5" in _refused(tmp_path / "h.model")

    def test_a_damaged_saved_model(self, tmp_path):
        path = tmp_path / "m"
        tf.saved_model.save(_Module(), str(path))
        index = path / "variables" / "variables.index"
        index.write_bytes(index.read_bytes()[:10])
        assert "damaged" in _refused(path)
        shutil.rmtree(path / "variables")
        assert "variables/ is missing" in _refused(path)
        (path / "saved_model.pb").write_bytes(b"\xff\xff\xff")
        assert "cannot be read" in _refused(path)
        (path / "saved_model.pb").write_bytes(b"")
        assert "--tags" in _refused(path)

    @pytest.mark.parametrize("suffix", [".keras", ".h5"])
    def test_a_truncated_keras_file(self, tmp_path, suffix):
        path = tmp_path / f"m{suffix}"
        _convnet(keras).save(path)
        path.write_bytes(path.read_bytes()[:-2000])
        assert "damaged" in _refused(path)

    def test_an_object_of_another_kind(self):
        assert "type int" in _refused(3)
        assert "type type" in _refused(_Module)


class TestKerasStaysInSafeMode:
    @pytest.mark.parametrize("library", [keras, tf_keras])
    @pytest.mark.parametrize("suffix", [".keras", ".h5"])
    @pytest.mark.parametrize("unsafe", [True, False])
    def test_a_lambda_in_a_file_is_refused_by_name(
        self, tmp_path, library, suffix, unsafe
    ):
        inputs = library.Input((3,))
        double = library.layers.Lambda(
            lambda x: x * 2, output_shape=(3,), name="double"
        )
        library.Model(inputs, double(inputs)).save(tmp_path / f"m{suffix}")
        text = _refused(tmp_path / f"m{suffix}", allow_unsafe_ops=unsafe)
        assert "Lambda layer 'double'" in text
        assert "live model" in text

    def test_a_live_lambda_is_the_users_own(self):
        inputs = keras.Input((3,))
        outputs = keras.layers.Lambda(lambda x: x * 2)(inputs)
        (got,) = _run(
            loading.load(keras.Model(inputs, outputs)),
            np.ones((1, 3), np.float32),
        )
        np.testing.assert_array_equal(got, [[2, 2, 2]])

    def test_a_class_of_the_users_own_says_what_to_do(self, tmp_path):
        class Odd(keras.layers.Layer):
            def call(self, x):
                return -x

        inputs = keras.Input((3,))
        keras.Model(inputs, Odd()(inputs)).save(tmp_path / "m.keras")
        text = _refused(tmp_path / "m.keras")
        assert "live model" in text
        assert "Odd" in text

    def test_weights_only_hdf5_is_told_from_a_model(self, tmp_path):
        _convnet(tf_keras).save_weights(tmp_path / "w.h5")
        assert "without an architecture" in _refused(tmp_path / "w.h5")

    def test_another_backend_of_keras_is_refused(self, monkeypatch):
        monkeypatch.setattr(keras.config, "backend", lambda: "jax")
        assert "KERAS_BACKEND=tensorflow" in _refused(_convnet(keras))


class TestInputShapes:
    @pytest.fixture(scope="class")
    def open_size(self):
        inputs = keras.Input((None, None, 3), name="image")
        x = keras.layers.Conv2D(2, 3)(inputs)
        return keras.Model(inputs, keras.layers.GlobalMaxPooling2D()(x))

    @pytest.mark.parametrize(
        "given", [(8, 9, 3), (None, 8, 9, 3), {"image": (8, 9, 3)}, [8, 9, 3]]
    )
    def test_open_dimensions_are_filled(self, open_size, given):
        graph = loading.load(open_size, input_shapes=given)
        assert graph.inputs[0].shape == (None, 8, 9, 3)
        assert graph.shape("image:0") == (None, 8, 9, 3)

    def test_a_batch_may_be_given_too(self, open_size):
        graph = loading.load(open_size, input_shapes=(4, 8, 9, 3))
        assert graph.inputs[0].shape == (4, 8, 9, 3)

    def test_open_dimensions_are_an_error_with_an_example(self, open_size):
        text = _refused(open_size)
        assert "input 'image'" in text
        assert "(?, ?, ?, 3)" in text
        assert "--input_shape=image=224,224,3" in text

    @pytest.mark.parametrize(
        "given", [(8, 9, 1), (8, 9), (1, 2, 8, 9, 3), (0, 9, 3), (-1, 9, 3)]
    )
    def test_a_shape_that_contradicts_the_model_is_refused(
        self, open_size, given
    ):
        text = _refused(open_size, input_shapes=given)
        assert "--input_shape" in text
        assert "(?, ?, ?, 3)" in text

    def test_a_fixed_batch_is_not_changed(self):
        inputs = keras.Input(batch_shape=(2, None), name="x")
        model = keras.Model(inputs, keras.layers.ReLU()(inputs))
        assert loading.load(model, input_shapes=(5,)).inputs[0].shape == (2, 5)
        assert "(2, ?)" in _refused(model, input_shapes=(4, 5))

    def test_a_known_shape_may_be_repeated(self):
        graph = loading.load(_convnet(keras), input_shapes=_IMAGE)
        assert graph.inputs[0].shape == (None, *_IMAGE)

    def test_an_unknown_input_name_lists_the_inputs(self, open_size):
        text = _refused(open_size, input_shapes={"img": (8, 9, 3)})
        assert "'img'" in text
        assert "image" in text.split("expected")[1]

    def test_a_shape_without_a_name_needs_a_single_input(self):
        a, b = keras.Input((None,), name="a"), keras.Input((None,), name="b")
        model = keras.Model([a, b], keras.layers.Add()([a, b]))
        assert "a, b" in _refused(model, input_shapes=(3,))
        graph = loading.load(model, input_shapes={"a": (3,), "b": (3,)})
        assert [p.shape for p in graph.inputs] == [(None, 3)] * 2

    def test_a_shape_that_the_graph_cannot_compute_is_refused(self):
        weights = tf.Variable(tf.ones((6, 2)))

        @tf.function(input_signature=[tf.TensorSpec((None, None), name="x")])
        def call(x):
            return x @ weights

        assert "does not accept" in _refused(call, input_shapes=(5,))
        assert loading.load(call, input_shapes=(6,)).inputs[0].shape[1] == 6

    def test_an_unknown_rank_takes_a_shape_without_batch(self):
        @tf.function(input_signature=[tf.TensorSpec(None, name="x")])
        def call(x):
            return x + 1.0

        assert "unknown rank" in _refused(call)
        graph = loading.load(call, input_shapes=(4, 5))
        assert graph.inputs[0].shape == (None, 4, 5)

    def test_a_function_without_signature_needs_shapes(self):
        def call(x):
            return x + 1.0

        assert "does not know the shapes" in _refused(tf.function(call))
        graph = loading.load(tf.function(call), input_shapes={"img": (4,)})
        assert [(p.name, p.shape) for p in graph.inputs] == [("img", (None, 4))]


class TestGraphsThatCannotBeQuantized:
    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    @pytest.mark.parametrize(
        ("layer", "weight"), [("conv", "kernel"), ("bn", "moving_variance")]
    )
    @pytest.mark.parametrize("library", [keras, tf_keras])
    def test_a_weight_that_is_not_finite_is_named(
        self, tmp_path, library, layer, weight, bad
    ):
        model = _convnet(library)
        variable = getattr(model.get_layer(layer), weight)
        values = np.array(variable)
        values.flat[2] = bad
        variable.assign(values)
        tf.saved_model.save(model, str(tmp_path / "m"))
        for source in (model, tmp_path / "m"):
            text = _refused(source)
            assert f"{layer}/{weight}" in text
            count = "1 NaN and 0" if np.isnan(bad) else "0 NaN and 1"
            assert f"{count} infinite among the {values.size} values" in text

    def test_infinity_is_a_bound_as_a_constant_but_never_a_weight(self):
        spec = [tf.TensorSpec((None, 3), name="x")]

        @tf.function(input_signature=spec)
        def masked(x):
            return x + tf.constant([0.0, -np.inf, 0.0])

        @tf.function(input_signature=spec)
        def weighted(x):
            return x @ tf.constant([[0.0], [-np.inf], [0.0]])

        @tf.function(input_signature=spec)
        def undefined(x):
            return x + tf.constant([0.0, np.nan, 0.0])

        loading.load(masked)
        assert "1 infinite" in _refused(weighted)
        assert "1 NaN" in _refused(undefined)

    def test_a_graph_that_trains_is_refused(self, tmp_path):
        model = _convnet(tf_keras)
        call = tf.function(
            lambda x: model(x, training=True),
            input_signature=[tf.TensorSpec((None, *_IMAGE), name="image")],
        )
        text = _refused(call)
        assert "changes variables" in text
        assert "training=False" in text

    @pytest.mark.parametrize(
        "dtype", [tf.string, tf.bool, tf.complex64], ids=lambda d: d.name
    )
    def test_inputs_that_are_no_numbers_are_refused(self, dtype):
        @tf.function(input_signature=[tf.TensorSpec((None, 3), dtype, "x")])
        def call(x):
            if dtype is tf.string:
                return tf.strings.to_number(x)
            return tf.cast(x, tf.float32)

        text = _refused(call)
        assert "input 'x'" in text
        assert dtype.name in text

    def test_a_scalar_input_is_refused_unless_nothing_reads_it(self, caplog):
        specs = [
            tf.TensorSpec((None, 3), name="x"),
            tf.TensorSpec((), name="rate"),
        ]

        @tf.function(input_signature=specs)
        def reads(x, rate):
            return x * rate

        @tf.function(input_signature=specs)
        def ignores(x, rate):
            return x + 1.0

        assert "'rate': got a scalar" in _refused(reads)
        with caplog.at_level(logging.WARNING, logger="absl"):
            graph = loading.load(ignores)
        assert [p.name for p in graph.inputs] == ["x"]
        assert "rate" in caplog.text

    def test_sparse_inputs_are_refused(self):
        inputs = keras.Input((3,), sparse=True, name="x")
        model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
        assert "sparse" in _refused(model)

    def test_outputs_that_are_no_numbers_are_left_out_where_asked(self):
        table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer([0, 1], ["cat", "dog"]), "?"
        )
        weights = tf.Variable(tf.ones((3, 2)))

        @tf.function(input_signature=[tf.TensorSpec((None, 3), name="x")])
        def call(x):
            scores = x @ weights
            best = tf.argmax(scores, -1, tf.int32)
            return {"label": table.lookup(best), "scores": scores}

        with pytest.raises(errors.UserError, match=r"label \(string\)"):
            loading.load(call)
        graph = loading.load(call, output_names=["scores"])
        assert [p.name for p in graph.outputs] == ["scores"]

    def test_a_table_on_the_way_to_the_output_is_refused(self):
        table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer([0, 1], [0.5, 1.5]), 0.0
        )

        @tf.function(input_signature=[tf.TensorSpec((None, 3), name="x")])
        def call(x):
            return table.lookup(tf.argmax(x, -1, tf.int32))

        assert "lookup tables" in _refused(call)

    def test_a_constant_function_is_refused(self):
        @tf.function(input_signature=[tf.TensorSpec((None, 3), name="x")])
        def call(x):
            return tf.ones((1, 2))

        assert "depend on no input" in _refused(call)


class TestChatter:
    def test_loading_says_nothing_on_its_own(self, tmp_path, capfd, caplog):
        """Uncompiled models, unsaved gradients: nothing that matters here."""
        model = _convnet(tf_keras)
        model.save(tmp_path / "m", save_format="tf")
        model.save(tmp_path / "m.h5")
        capfd.readouterr()
        with caplog.at_level(logging.WARNING):
            caplog.clear()
            loading.load(tmp_path / "m")
            loading.load(tmp_path / "m.h5")
        assert caplog.text == ""
        assert "WARNING" not in capfd.readouterr().err

    def test_the_loggers_are_left_as_they_were(self, tmp_path):
        loggers = [logging.getLogger(n) for n in ("absl", "tensorflow")]
        before = [(list(g.filters), g.level) for g in loggers]
        loading.load(_convnet(keras))
        _refused(tmp_path / "nowhere")
        assert [(list(g.filters), g.level) for g in loggers] == before


class TestTensorFlow1:
    def _save(self, path, *, conditional: bool):
        """BN under a learning phase, as Keras saved it in TensorFlow 1."""
        v1 = tf.compat.v1
        graph = tf.Graph()
        with graph.as_default(), v1.Session(graph=graph) as session:
            x = v1.placeholder(tf.float32, (None, 4, 4, 2), name="x")
            phase = v1.placeholder_with_default(False, (), name="phase")
            gamma, beta, mean, variance = (
                v1.get_variable(
                    name,
                    initializer=tf.constant(value),
                    use_resource=conditional,
                )
                for name, value in (
                    ("gamma", [1.0, 2.0]),
                    ("beta", [3.0, 4.0]),
                    ("mean", [5.0, 6.0]),
                    ("variance", [7.0, 8.0]),
                )
            )

            def norm(training):
                moments = () if training else (mean, variance)
                return v1.nn.fused_batch_norm(
                    x, gamma, beta, *moments, is_training=training
                )[0]

            y = norm(False)
            if conditional:
                y = v1.cond(phase, lambda: norm(True), lambda: norm(False))
            y = tf.identity(y, name="y")
            session.run(v1.global_variables_initializer())
            v1.saved_model.simple_save(session, str(path), {"x": x}, {"y": y})
        return path

    @pytest.mark.parametrize("conditional", [False, True])
    @pytest.mark.parametrize("switches", [False, True])
    def test_only_the_inference_branch_is_left(
        self, tmp_path, conditional, switches
    ):
        if switches:
            tf.compat.v1.disable_control_flow_v2()
        try:
            path = self._save(tmp_path / "m", conditional=conditional)
        finally:
            tf.compat.v1.enable_control_flow_v2()
        graph = loading.load(path)
        norms = [n for n in graph if n.op.startswith("FusedBatchNorm")]
        assert [n.attr("is_training") for n in norms] == [False]
        assert not {n.op for n in graph} & {"Switch", "Merge", "If"}
        (got,) = _run(graph, np.full((1, 4, 4, 2), 9, np.float32))
        scale = np.array([1, 2]) / np.sqrt(np.array([7, 8]) + 1e-3)
        wanted = (9 - np.array([5, 6])) * scale + np.array([3, 4])
        np.testing.assert_allclose(got[0, 0, 0], wanted, rtol=4 * 2.0**-24)

    def test_several_sets_of_tags_must_be_chosen_from(self, tmp_path):
        v1 = tf.compat.v1
        builder = v1.saved_model.Builder(str(tmp_path / "m"))
        for index, tags in enumerate((["train"], ["gpu", "eval"])):
            graph = tf.Graph()
            with graph.as_default(), v1.Session(graph=graph) as session:
                x = v1.placeholder(tf.float32, (None, 3), name="x")
                w = v1.get_variable("w", (3, 1), use_resource=True)
                info = v1.saved_model.build_tensor_info
                signature = v1.saved_model.build_signature_def(
                    {"x": info(x)}, {f"y{index}": info(x @ w)}, "predict"
                )
                session.run(v1.global_variables_initializer())
                signatures = {"default": signature}
                if index == 0:
                    builder.add_meta_graph_and_variables(
                        session, tags, signature_def_map=signatures
                    )
                else:
                    builder.add_meta_graph(tags, signature_def_map=signatures)
        builder.save()
        text = _refused(tmp_path / "m")
        assert "eval,gpu" in text
        assert "train" in text
        graph = loading.load(tmp_path / "m", tags=["eval", "gpu"])
        assert graph.outputs[0].name == "y1"


class TestGradients:
    """What the loader leaves must have gradients: synthesis needs them."""

    @pytest.mark.parametrize("saved", [False, True])
    @pytest.mark.parametrize("activation", ["silu", "relu6", "gelu"])
    def test_activations_with_custom_gradients_have_their_own(
        self, tmp_path, activation, saved
    ):
        inputs = keras.Input((3,), name="x")
        outputs = keras.layers.Activation(activation)(inputs)
        source = keras.Model(inputs, outputs)
        if saved:
            source.export(str(tmp_path / "m"), verbose=False)
            source = tmp_path / "m"
        function = frozen.to_function(loading.load(source))
        x = tf.constant([[-1.0, 0.5, 2.0]])
        wanted_of = getattr(keras.activations, activation)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            got, wanted = function(x)[0], wanted_of(x)
        np.testing.assert_allclose(
            tape.gradient(got, x), tape.gradient(wanted, x), rtol=1e-5
        )

    @pytest.mark.parametrize(
        "options",
        [
            {"jit_compile": True},
            {"experimental_attributes": {"_noinline": True}},
        ],
        ids=["jit_compile", "noinline"],
    )
    def test_calls_that_were_not_to_be_inlined_are(self, options):
        weights = tf.Variable(tf.ones((3, 2)))

        @tf.function(**options)
        def inner(x):
            a, b = tf.split(x @ weights, 2, axis=-1)
            return tf.nn.relu(a), b

        @tf.function(input_signature=[tf.TensorSpec((None, 3), name="x")])
        def outer(x):
            a, b = inner(x + 1.0)
            return inner(x)[1] + a - 2.0 * b

        graph = loading.load(outer)
        assert not [n for n in graph if "Call" in n.op]
        x = tf.constant([[1.0, 2.0, 3.0]])
        function = frozen.to_function(graph)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)[0]
        np.testing.assert_allclose(y, outer(x))
        np.testing.assert_array_equal(tape.gradient(y, x), [[0, 0, 0]])

    def test_a_branch_on_a_constant_is_decided(self):
        training = tf.Variable(False, trainable=False)

        @tf.function(input_signature=[tf.TensorSpec((None, 3), name="x")])
        def call(x):
            return tf.cond(training, lambda: x * 2.0, lambda: x * 3.0)

        graph = loading.load(call)
        assert "If" not in {n.op for n in graph}
        (got,) = _run(graph, np.ones((1, 3), np.float32))
        np.testing.assert_array_equal(got, [[3, 3, 3]])


class TestRealModels:
    MODELS = (
        ("mlperf_tiny_resnet8/pretrainedResnet.h5", (32, 32, 3), 10),
        ("mlperf_tiny_kws_saved_model", (49, 10, 1), 12),
        ("resnet20_cifar10.keras", (32, 32, 3), 10),
        ("resnet20_cifar10_saved_model", (32, 32, 3), 10),
        ("mobilenet_v1_025_224.keras", (224, 224, 3), 1000),
        ("mobilenet_v1_025_224_saved_model", (224, 224, 3), 1000),
        ("vgg16bn_cifar10.keras", (32, 32, 3), 10),
    )

    @pytest.mark.parametrize(("name", "shape", "classes"), MODELS)
    def test_every_model_loads(self, shared, name, shape, classes):
        graph = loading.load(shared / "models" / name)
        assert [p.shape for p in graph.inputs] == [(None, *shape)]
        (scores,) = _run(graph, _images(1, shape))
        assert scores.shape == (1, classes)
        assert np.isfinite(scores).all()

    @pytest.mark.parametrize(
        ("file", "folder"),
        [
            ("resnet20_cifar10.keras", "resnet20_cifar10_saved_model"),
            ("mobilenet_v1_025_224.keras", "mobilenet_v1_025_224_saved_model"),
        ],
    )
    def test_a_file_and_its_export_compute_the_same(self, shared, file, folder):
        first = loading.load(shared / "models" / file)
        second = loading.load(shared / "models" / folder)
        images = _images(1, first.inputs[0].shape[1:])
        # The same operations on the same weights.
        np.testing.assert_array_equal(
            _run(first, images)[0], _run(second, images)[0]
        )

    def test_a_tflite_of_int8_weights_is_read(self, shared):
        folder = shared / "models" / "mlperf_tiny_kws_official"
        graph = loading.load(folder / "kws_ref_model_float32.tflite")
        assert [port.shape for port in graph.inputs] == [(None, 49, 10, 1)]


def test_tf_keras_is_not_imported_for_a_keras_3_file(tmp_path, monkeypatch):
    """It takes seconds, and may not be installed."""
    _convnet(keras).save(tmp_path / "m.keras")
    monkeypatch.setitem(sys.modules, "tf_keras", None)
    loading.load(tmp_path / "m.keras")


def test_layers_that_cannot_be_called_are_one_line():
    class Broken(keras.layers.Layer):
        def compute_output_spec(self, x):
            return keras.KerasTensor(x.shape)

        def call(self, x):
            raise AttributeError("'str' object has no attribute 'shape'")

    inputs = keras.Input((4,))
    model = keras.Model(inputs, Broken()(inputs), name="net")
    with pytest.raises(errors.UserError) as caught:
        loading.load(model)
    text = str(caught.value)
    assert "model 'net': got layers that cannot be called" in text
    assert "\n" not in text


def test_keras_file_of_another_object_is_no_model(tmp_path, monkeypatch):
    path = tmp_path / "net.keras"
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(path)
    load = keras.models.load_model
    monkeypatch.setattr(
        keras.models, "load_model", lambda *a, **k: load(*a, **k).get_config()
    )
    with pytest.raises(errors.UserError, match="holds a dict, no model"):
        loading.load(path)


def test_the_config_of_a_keras_file_is_plain_json(tmp_path):
    """What the search for bytecode relies on."""
    _convnet(keras).save(tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        config = json.loads(archive.read("config.json"))
    assert config["class_name"] == "Functional"


@pytest.mark.parametrize("groups", [1, 2])
def test_sequential_that_was_never_called_is_loaded(tmp_path, groups):
    layers = [keras.Input((8, 8, 4)), keras.layers.Conv2D(4, 3, groups=groups)]
    model = keras.Sequential([*layers, keras.layers.Flatten()])
    model.save(tmp_path / "net.keras")
    graph = loading.load(tmp_path / "net.keras")
    (port,) = graph.inputs
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype(np.float32)
    (found,) = frozen.to_function(graph)(tf.constant(x))
    np.testing.assert_allclose(found, model(x), rtol=1e-4, atol=1e-5)
    assert port.shape[1:] == (8, 8, 4)
