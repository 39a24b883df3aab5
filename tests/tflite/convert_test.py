"""Conversion keeps names, order and values, and says what it cannot do."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tflite_nets

from dsg_tf.core import errors
from dsg_tf.fidelity import verify
from dsg_tf.quant import qtypes
from dsg_tf.tflite import convert, flatbuffer, interpreter


def _two_inputs():
    """Inputs of one shape and unlike ranges: a swap would be seen.

    The converter turns their order around.
    """

    def function(alpha, zeta):
        return tf.nn.relu(alpha), 100.0 * zeta

    return function, tflite_nets.frozen(
        function,
        tf.TensorSpec((1, 4), name="alpha"),
        tf.TensorSpec((1, 4), name="zeta"),
    )


def _two_samples(count=6):
    rng = np.random.default_rng(0)
    return {
        "a": rng.normal(0, 1, (count, 4)).astype(np.float32),
        "z": rng.normal(0, 50, (count, 4)).astype(np.float32),
    }


def test_names_and_order_are_the_functions():
    _, cf = _two_inputs()
    view = flatbuffer.read(convert.to_float(cf))
    assert list(view.input_names()) == ["alpha", "zeta"]
    assert list(view.output_names()) == ["output_0", "output_1"]
    renamed = flatbuffer.read(
        convert.to_float(cf, input_names=["a", "z"], output_names=["p", "q"])
    )
    assert list(renamed.input_names()) == ["a", "z"]
    assert list(renamed.output_names()) == ["p", "q"]
    assert [renamed.tensors[i].name for i in renamed.inputs] == [
        "serving_default_alpha:0",
        "serving_default_zeta:0",
    ]
    own = flatbuffer.read(convert._convert(convert._converter(cf)))
    assert [own.tensors[i].name for i in own.inputs] == [
        "serving_default_zeta:0",
        "serving_default_alpha:0",
    ]


def test_values_go_to_the_inputs_they_are_named_for():
    function, cf = _two_inputs()
    model = convert.to_float(cf, input_names=["a", "z"])
    samples = _two_samples()
    found = interpreter.Interpreter(model).run(samples)
    expected = function(samples["a"], samples["z"])
    for value, name in zip(expected, found, strict=True):
        np.testing.assert_allclose(found[name], value, rtol=1e-6)


def test_a_graph_with_identity_n_keeps_its_names():
    # Keras's silu: the converter writes no signature for it.
    layer = tf.keras.layers.Activation("silu")
    cf = tflite_nets.frozen(
        layer, tf.TensorSpec((1, 4), tf.float32, name="image")
    )
    view = flatbuffer.read(convert.to_float(cf))
    assert list(view.input_names()) == ["image"]
    assert list(view.output_names()) == ["output_0"]


def test_a_function_of_a_dict_keeps_the_order_of_its_outputs():
    cf = tflite_nets.frozen(
        lambda x: {"b": x + 1, "a": tf.reduce_mean(x, [1, 2, 3])}
    )
    model = convert.to_float(cf)
    shapes = [t.shape for t in flatbuffer.read(model).output_names().values()]
    assert shapes == [tuple(t.shape) for t in cf.outputs]


def test_tensor_names_are_unique():
    tensors = (
        flatbuffer.read(tflite_nets.float_tflite("squeeze_excite"))
        .raw.subgraphs[0]
        .tensors
    )
    for tensor in tensors:
        tensor.name = b"same"
    convert._make_names_unique(tensors)
    assert len({tensor.name for tensor in tensors}) == len(tensors)


def test_operations_without_a_kernel_are_listed():
    cf = tflite_nets.frozen(
        lambda x: tf.raw_ops.Erfinv(x=x) + tf.linalg.inv(x),
        tf.TensorSpec((2, 2), name="x"),
    )
    with pytest.raises(
        errors.UserError, match="Erfinv, MatrixInverse"
    ) as error:
        convert.to_float(cf)
    assert "\n" not in str(error.value)


def test_nothing_is_written_to_the_screen(capfd):
    convert.to_float(_two_inputs()[1])
    with pytest.raises(errors.UserError):
        convert.to_float(
            tflite_nets.frozen(
                lambda x: tf.raw_ops.Erfinv(x=x), tf.TensorSpec((2,), name="x")
            )
        )
    assert capfd.readouterr() == ("", "")


def _classic(cf, samples, **options):
    def dataset():
        for index in range(len(next(iter(samples.values())))):
            yield {k: v[index : index + 1] for k, v in samples.items()}

    return convert.by_converter(cf, dataset, **options)


@pytest.mark.parametrize(
    ("bits", "io_type"),
    [
        (8, "float32"),
        (8, "int8"),
        (8, "uint8"),
        (16, "float32"),
        (16, "int16"),
    ],
)
def test_the_classic_road_quantizes_with_the_samples_of_each_input(
    bits, io_type
):
    function, cf = _two_inputs()
    samples = _two_samples()
    model = _classic(
        cf,
        samples,
        activation_bits=bits,
        io_type=io_type,
        input_names=["a", "z"],
        output_names=["p", "q"],
    )
    runner = interpreter.Interpreter(model)
    view = runner.view
    assert list(view.input_names()) == ["a", "z"]
    for tensor in (*view.input_names().values(), *view.output_names().values()):
        assert tensor.dtype == io_type
    found = runner.run(samples)
    expected = function(samples["a"], samples["z"])
    for value, name in zip(expected, "pq", strict=True):
        # A swap of the inputs' ranges would clip one at a fiftieth.
        assert verify.compare(np.asarray(value), found[name]).sqnr_db > 30


@pytest.mark.parametrize("granularity", list(qtypes.Granularity))
def test_the_classic_road_knows_both_granularities(granularity):
    model = _classic(
        tflite_nets.frozen(tflite_nets.NETS["conv"]),
        tflite_nets.samples(),
        granularity=granularity,
    )
    view = flatbuffer.read(model)
    (conv,) = (op for op in view.ops if op.name == "CONV_2D")
    scales = view.tensors[conv.inputs[1]].params.scale.size
    assert scales == (8 if granularity is qtypes.Granularity.CHANNEL else 1)


def test_the_classic_road_lists_what_it_cannot_quantize():
    cf = tflite_nets.frozen(lambda x: tf.nn.relu(tf.sin(x)))
    with pytest.raises(errors.UserError, match="SIN"):
        _classic(cf, tflite_nets.samples(2))
    model = _classic(cf, tflite_nets.samples(2), allow_float_ops=True)
    assert "SIN" in [op.name for op in flatbuffer.read(model).ops]


def test_the_classic_road_has_no_float_activations():
    with pytest.raises(errors.UserError, match="--activation_bits=32"):
        _classic(
            tflite_nets.frozen(tflite_nets.NETS["conv"]),
            tflite_nets.samples(2),
            activation_bits=32,
        )


def test_io_types_are_those_of_the_activations():
    for bits, fitting in (
        (8, {"float32", "int8", "uint8"}),
        (16, {"float32", "int16"}),
        (32, {"float32"}),
    ):
        for io_type in ("float32", "int8", "uint8", "int16"):
            if io_type in fitting:
                convert.check_io_type(io_type, bits)
            else:
                with pytest.raises(errors.UserError, match="--io_type"):
                    convert.check_io_type(io_type, bits)
    with pytest.raises(errors.UserError, match="8, 16 or 32"):
        convert.check_io_type("float32", 4)


def test_operations_that_are_no_culprits_are_not_named():
    said = "error: 'tf.Const' op is\nerror: 'tf.StringJoin' op is neither"
    text = str(convert._user_error(ValueError(said)))
    assert "cannot take: StringJoin;" in text
    text = str(convert._user_error(ValueError("'tf.Const' op " + "x" * 400)))
    assert "refusal: 'tf.Const' op xx" in text
    assert len(text) < 300


def test_a_bias_has_a_number_for_each_channel():
    """The converter makes the addition a bias of one number; six are read."""
    kernel = np.random.default_rng(0).normal(size=(1, 1, 6, 4))
    kernel = kernel.astype(np.float32)

    def function(x):
        shape = [1, 1, 5, 6]
        return 3.0 + tf.nn.conv2d_transpose(x, kernel, shape, 1, "VALID")

    frozen = tflite_nets.frozen(function, tf.TensorSpec((1, 1, 5, 4), name="x"))
    model = convert.to_float(frozen)
    x = np.ones((1, 1, 5, 4), np.float32)
    (found,) = interpreter.Interpreter(model).run({"x": x}).values()
    np.testing.assert_allclose(found, function(x), atol=1e-5)
