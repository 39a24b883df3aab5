"""A config of Keras is judged as data: what it names decides, in any form."""

from __future__ import annotations

import inspect
import json

import keras
import pytest
import tf_keras
from keras.src import ops as keras_ops

from dsg_tf.core import errors
from dsg_tf.graph.load import keras_config, keras_names


def _refused(config) -> str:
    with pytest.raises(errors.UserError) as caught:
        keras_config.check(config, "net.keras")
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 700
    return text


def _model(layer: dict) -> dict:
    return {
        "class_name": "Sequential",
        "module": "keras",
        "registered_name": None,
        "config": {"name": "net", "layers": [layer]},
    }


def _layer(**config) -> dict:
    return {
        "class_name": "Dense",
        "module": "keras.layers",
        "registered_name": None,
        "config": {"name": "head", "units": 2, **config},
    }


def _function(name, module="builtins", registered=None) -> dict:
    return {
        "class_name": "function",
        "module": module,
        "config": name,
        "registered_name": registered or name,
    }


class TestParse:
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            (b"", "it is empty"),
            (b"  \n", "it is empty"),
            (b"{", "no JSON"),
            (b"[1]", "that is a list"),
            (b"null", "that is a NoneType"),
            (b'{"a": NaN}', "NaN is no number"),
            ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
            ('{"a": 1}'.encode("utf-16-le"), "no JSON"),
            ('{"a": 1}'.encode("utf-8-sig"), "no JSON"),
            (b"[" * 100_000 + b"]" * 100_000, "nested without end"),
            (b'{"a": ' + b"[" * 300 + b"]" * 300 + b"}", "300|more than 200"),
            (b'{"a": 9223372036854775808}', "beyond 64 bits"),
            (b'{"a": ' + b"9" * 5000 + b"}", "no JSON"),
        ],
    )
    def test_what_no_loader_could_take_is_one_line(self, text, words):
        with pytest.raises(errors.UserError, match=words) as caught:
            keras_config.parse(text, "net.keras")
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400

    def test_a_config_beyond_the_limit_is_not_decoded(self):
        text = b" " * (keras_config.MAX_BYTES + 1)
        with pytest.raises(errors.UserError, match="33,554,433 bytes"):
            keras_config.parse(text, "net.keras")

    def test_infinity_and_large_integers_are_numbers(self):
        found = keras_config.parse(
            b'{"a": Infinity, "b": -9223372036854775808}', "net.keras"
        )
        assert found == {"a": float("inf"), "b": -(2**63)}


class TestCheck:
    @pytest.mark.parametrize(
        "name",
        [
            "Lambda",
            "TFOpLambda",
            "SlicingOpLambda",
            "ClassMethod",
            "InstanceMethod",
            "InstanceProperty",
            "TFSMLayer",
            "TorchModuleWrapper",
            "JaxLayer",
            "FlaxLayer",
            "DropoutWrapper",
            "ResidualWrapper",
            "DeviceWrapper",
            "DenseFeatures",
            "LinearModel",
            "IndexLookup",
            "TypeSpec",
            "CompositeTensor",
            "__typespec__",
            "__lambda__",
            "GPTQConfig",
            "get_file",
            "load_model",
            "deserialize",
            "Own",
            "Package>Own",
            "os.system",
            "",
        ],
    )
    @pytest.mark.parametrize(
        "module", [None, "keras.layers", "tf_keras.layers"]
    )
    def test_classes_that_do_more_than_compute_are_refused(self, name, module):
        inner = {"class_name": name, "config": {"name": "odd"}}
        if module:
            inner["module"] = module
        assert name in _refused(_model(inner))

    @pytest.mark.parametrize(
        "place",
        [
            lambda odd: _layer(activation=odd),
            lambda odd: _layer(kernel_initializer=odd),
            lambda odd: _layer(kernel_regularizer=odd),
            lambda odd: _layer(dtype=odd),
            lambda odd: {"class_name": "RNN", "config": {"cell": odd}},
            lambda odd: {
                "class_name": "Bidirectional",
                "config": {"layer": _layer(), "backward_layer": odd},
            },
            lambda odd: {
                "class_name": "StackedRNNCells",
                "config": {"cells": [odd]},
            },
            lambda odd: _model(_model(odd)),
            lambda odd: {**_layer(), "build_config": {"input_shape": odd}},
            lambda odd: {**_layer(), "compile_config": {"loss": odd}},
            lambda odd: {
                **_layer(),
                "inbound_nodes": [{"args": [1], "kwargs": {"x": [odd]}}],
            },
            lambda odd: {
                "class_name": "__slice__",
                "config": {"start": odd, "stop": None, "step": None},
            },
        ],
    )
    @pytest.mark.parametrize(
        "odd",
        [
            _function("system", "os"),
            _function("get_file", "keras.utils"),
            _function("load_model", "keras.saving"),
            _function("eval"),
            _function("__import__"),
            _function("relu", "os"),
            _function("relu", registered="Custom>own"),
            {"class_name": "Popen", "module": "subprocess", "config": {}},
            {"class_name": "Dense", "module": "os", "config": {}},
            {"class_name": "Dense", "module": "keras.utils", "config": {}},
            {"class_name": "Dense", "module": ["keras.layers"], "config": {}},
            {"class_name": ["Dense"], "module": "keras.layers", "config": {}},
            {
                "class_name": "Dense",
                "module": "keras.layers",
                "registered_name": "my>Dense",
                "config": {},
            },
            {"class_name": "Map", "module": "keras.src.ops.core", "config": {}},
        ],
    )
    def test_a_foreign_name_is_found_in_every_place(self, place, odd):
        _refused(_model(place(odd)))

    def test_the_layer_is_named(self):
        text = _refused(_model(_layer(activation=_function("system", "os"))))
        assert "os.system in the layer 'head'" in text
        assert "live model" in text

    def test_the_first_one_in_the_file_is_named(self):
        layers = [
            {"class_name": "Lambda", "config": {"name": name}}
            for name in ("first", "second")
        ]
        model = _model(layers[0])
        model["config"]["layers"] = layers
        assert "Lambda layer 'first'" in _refused(model)

    def test_what_compiles_the_outer_model_is_no_matter(self):
        """With compile=False no loader of either library reads it."""
        config = _model(_layer())
        config["compile_config"] = {"loss": {"class_name": "__lambda__"}}
        keras_config.check(config, "net.keras")

    @pytest.mark.parametrize(
        ("config", "passes"),
        [
            ({"vocabulary": ["a", "b"]}, True),
            ({"vocabulary": None}, True),
            ({"vocabulary": "/etc/passwd"}, False),
            ({"vocabulary": "words.txt"}, False),
        ],
    )
    @pytest.mark.parametrize("name", sorted(keras_names.VOCABULARIES))
    def test_a_vocabulary_is_no_path(self, name, config, passes):
        model = _model({"class_name": name, "config": config})
        if passes:
            keras_config.check(model, "net.keras")
        else:
            assert "reads a file" in _refused(model)

    @pytest.mark.parametrize(
        ("node", "passes"),
        [
            ({"op": "DepthToSpace", "name": "d"}, True),
            ({"op": "WriteFile", "name": "w"}, False),
            ({"op": "ReadFile"}, False),
            ({"op": "Abort"}, False),
            ({"op": "NoSuchOperation"}, False),
            ({"op": "PartitionedCall", "attr": {"f": {"func": {}}}}, False),
            ("text", False),
            (None, False),
            ({"op": 3}, False),
        ],
    )
    def test_a_layer_of_one_operation_is_judged_by_it(self, node, passes):
        model = _model(
            {"class_name": "TensorFlowOpLayer", "config": {"node_def": node}}
        )
        if passes:
            keras_config.check(model, "net.h5")
        else:
            _refused(model)

    @pytest.mark.parametrize("dtype", ["O", "object", "void", ["f4"], "V8"])
    def test_an_array_holds_numbers(self, dtype):
        array = {"value": [1], "dtype": dtype}
        value = {"class_name": "__numpy__", "config": array}
        _refused(_model(_layer(mean=value)))


def _ours(library) -> list[type]:
    return [
        cls
        for name, cls in vars(library.layers).items()
        if inspect.isclass(cls)
        and issubclass(cls, library.layers.Layer)
        and not name.startswith("_")
    ]


class TestNames:
    # Each for a reason that `keras_names` gives.
    LEFT_OUT = frozenset(
        {
            "DenseFeatures",
            "FlaxLayer",
            "JaxLayer",
            "Lambda",
            "TFSMLayer",
            "TorchModuleWrapper",
        }
    )

    @pytest.mark.parametrize("library", [keras, tf_keras])
    def test_every_layer_of_keras_is_decided(self, library):
        names = {cls.__name__ for cls in _ours(library)}
        known = keras_names.LAYERS | keras_names.VOCABULARIES
        assert names - known == {n for n in self.LEFT_OUT if n in names}
        assert not known & self.LEFT_OUT

    @pytest.mark.parametrize("library", [keras, tf_keras])
    @pytest.mark.parametrize(
        ("kind", "known"),
        [
            ("initializers", keras_names.INITIALIZERS),
            ("regularizers", keras_names.REGULARIZERS),
            ("constraints", keras_names.CONSTRAINTS),
            ("losses", keras_names.LOSSES | {"Reduction"}),
            ("metrics", keras_names.METRICS),
            ("optimizers", keras_names.OPTIMIZERS | {"OptimizerMap"}),
        ],
    )
    def test_every_class_of_its_kind_is_listed(self, library, kind, known):
        module = getattr(library, kind)
        names = {n for n, cls in vars(module).items() if inspect.isclass(cls)}
        assert names - known == set()

    @pytest.mark.parametrize("library", [keras, tf_keras])
    def test_every_activation_is_listed(self, library):
        names = {
            n
            for n, function in vars(library.activations).items()
            if inspect.isfunction(function)
        }
        kept = names - {"get", "serialize", "deserialize"}
        assert kept - keras_names.FUNCTIONS == set()

    def test_operations_that_take_functions_are_left_out(self):
        taking = {
            name
            for name, function in vars(keras_ops).items()
            if inspect.isfunction(function)
            and {"f", "fn", "func", "function", "body", "cond", "true_fn"}
            & set(inspect.signature(function).parameters)
        }
        assert {"map", "scan", "while_loop", "cond", "vectorized_map"} <= taking
        assert not taking & keras_names.OPERATION_FUNCTIONS
        classes = {"Map", "Scan", "AssociativeScan", "WhileLoop", "Cond"}
        assert not classes & keras_names.OPERATIONS

    def test_nothing_that_reads_or_writes_is_a_function_here(self):
        for name in ("get_file", "load_img", "load_model", "eval", "exec"):
            assert name not in keras_names.FUNCTIONS
            assert name not in keras_names.OPERATION_FUNCTIONS


def _kinds(layers):
    return [
        layers.Conv2D(2, 3, activation="relu", kernel_regularizer="l2"),
        layers.BatchNormalization(),
        layers.TimeDistributed(layers.Dense(2, kernel_constraint="non_neg")),
        layers.Bidirectional(layers.GRU(2)),
        layers.RNN(layers.StackedRNNCells([layers.LSTMCell(2)])),
        layers.MultiHeadAttention(2, 2),
        layers.Dense(2, activation="gelu", dtype="mixed_float16"),
        layers.Normalization(mean=[1.0], variance=[2.0]),
        layers.StringLookup(vocabulary=["a"]),
        layers.Resizing(4, 4),
        layers.RandomFlip(),
    ]


@pytest.mark.parametrize("library", [keras, tf_keras])
def test_what_both_libraries_write_of_layers_passes(library):
    serialize = library.saving.serialize_keras_object
    for layer in _kinds(library.layers):
        config = json.loads(json.dumps(serialize(layer), default=str))
        keras_config.check(config, layer.name)
    legacy = tf_keras.layers.serialize
    for layer in _kinds(tf_keras.layers):
        config = legacy(layer, use_legacy_format=True)
        keras_config.check(json.loads(json.dumps(config, default=str)), "x")


@pytest.mark.parametrize("name", ["relu6", "gelu", "hard_swish", "mish"])
def test_functions_of_keras_as_activations_pass(name):
    layer = keras.layers.Dense(2, activation=getattr(keras.activations, name))
    config = keras.saving.serialize_keras_object(layer)
    keras_config.check(json.loads(json.dumps(config)), "net.keras")


def test_functions_of_keras_ops_pass_as_activations_and_others_do_not():
    for registered in ("sin", "function", None):
        function = _function("sin", "keras.ops", registered)
        keras_config.check(_model(_layer(activation=function)), "net.keras")
    for name in ("map", "scan", "while_loop", "convert_to_numpy", "system"):
        _refused(_model(_layer(activation=_function(name, "keras.ops"))))


def test_operations_on_symbolic_tensors_pass():
    inputs = keras.Input((8, 8, 4))
    x = keras.ops.relu(inputs[:, ::2]) * 2.0 - inputs[:, 1::2]
    x = keras.ops.concatenate([x, keras.ops.mean(x, -1, keepdims=True)], -1)
    model = keras.Model(inputs, keras.ops.reshape(x, (-1, 8)))
    keras_config.check(json.loads(model.to_json()), "net.keras")
