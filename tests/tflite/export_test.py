"""Exported files hold what was asked for and compute it."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tflite_nets

from dsg_tf.core import errors
from dsg_tf.export import calibration
from dsg_tf.fidelity import verify
from dsg_tf.quant import qtypes, uniform
from dsg_tf.tflite import (
    convert,
    export,
    flatbuffer,
    interpreter,
    op_support,
    plan,
    readback,
    weight_grids,
    weights,
)

# Nets whose operations have no 16-bit form.
_NOT_16 = {"hard_swish", "layer_norm", "space_to_depth"}


def _exported(name, *, samples=None, **options):
    model = tflite_nets.float_tflite(name)
    samples = samples or tflite_nets.samples()
    return export.export(
        model,
        calibration.calibrate(model, samples),
        **options,
    )


def _sqnr_db(name, exported, *, delegates=True):
    """The least over outputs, on the samples of the calibration."""
    samples = tflite_nets.samples()
    runner = interpreter.Interpreter(exported.model, delegates=delegates)
    found = runner.run(samples)
    reference = interpreter.Interpreter(
        tflite_nets.float_tflite(name), delegates=False
    ).run(samples)
    assert list(found) == list(reference)
    return min(
        verify.compare(reference[key], found[key]).sqnr_db for key in reference
    )


def _op_names(model):
    return [op.name for op in flatbuffer.read(model).ops]


@pytest.mark.parametrize("name", sorted(tflite_nets.NETS))
def test_8_bit_files_hold_what_was_asked_and_are_near(name):
    exported = _exported(name)
    found = readback.check(exported.model, exported.requested)
    assert found.max_scale_error == 0
    assert found.float_ops == 0
    # One rounding of N(0, 1) over +-4 sigma to 8 bits leaves 41 dB; 16 of them
    # in a row 29, and a margin of 5. What is wrong has single digits.
    for delegates in (True, False):
        assert _sqnr_db(name, exported, delegates=delegates) > 24


@pytest.mark.parametrize("name", sorted(set(tflite_nets.NETS) - _NOT_16))
def test_16_bit_files_hold_what_was_asked_and_are_near(name):
    exported = _exported(name, activation_bits=16)
    found = readback.check(exported.model, exported.requested)
    assert found.max_scale_error == 0
    assert found.float_ops == 0
    # The weights' 8 bits are all that is rounded: 44 dB for one layer.
    assert _sqnr_db(name, exported) > 30


@pytest.mark.parametrize("name", sorted(_NOT_16))
def test_operations_without_a_16_bit_form_are_refused(name):
    with pytest.raises(errors.UserError, match="would stay float"):
        _exported(name, activation_bits=16)


@pytest.mark.parametrize("io_type", ["int8", "uint8"])
@pytest.mark.parametrize(
    "name",
    [
        *("concat_input", "conv", "input_is_output", "two_outputs"),
        *("outputs_read", "outputs_read_twice"),
    ],
)
def test_integer_io_gives_the_float_ios_values(name, io_type):
    exported = _exported(name, io_type=io_type)
    readback.check(exported.model, exported.requested)
    view = flatbuffer.read(exported.model)
    for tensor in (*view.input_names().values(), *view.output_names().values()):
        assert tensor.dtype == io_type
    samples = tflite_nets.samples()
    found = interpreter.Interpreter(exported.model).run(samples)
    if io_type == "uint8":
        # The same codes, 128 higher: nothing else may change. (Only where an
        # input goes to a Concat is it rounded once more, by other kernels.)
        other = _exported(name, io_type="int8")
        expected = interpreter.Interpreter(other.model).run(samples)
        for key, tensor in view.output_names().items():
            steps = float(tensor.params.scale[0]) * (name == "concat_input")
            np.testing.assert_allclose(
                found[key], expected[key], rtol=0, atol=1.001 * steps
            )
    assert _sqnr_db(name, exported) > 24


def test_int16_io_goes_with_16_bit_activations():
    exported = _exported("conv", activation_bits=16, io_type="int16")
    readback.check(exported.model, exported.requested)
    view = flatbuffer.read(exported.model)
    assert [view.tensors[i].dtype for i in view.inputs + view.outputs] == [
        "int16",
        "int16",
    ]
    assert _sqnr_db("conv", exported) > 40


@pytest.mark.parametrize(
    ("bits", "io_type"),
    [(16, "int8"), (16, "uint8"), (8, "int16"), (32, "int8"), (32, "int16")],
)
def test_io_types_that_do_not_fit_the_activations_are_refused(bits, io_type):
    with pytest.raises(errors.UserError, match="--io_type"):
        export.export(
            tflite_nets.float_tflite("conv"),
            {},
            activation_bits=bits,
            io_type=io_type,
        )


def test_a_convolution_computes_what_its_grids_say():
    """Against float64: integers times scales, rounded once at the end."""
    exported = _exported("conv", io_type="int8")
    view = flatbuffer.read(exported.model)
    (op,) = view.ops
    data, kernel, bias = (view.tensors[i] for i in op.inputs)
    output = view.tensors[op.outputs[0]]
    runner = interpreter.Interpreter(exported.model, delegates=True)
    plain = interpreter.Interpreter(exported.model, delegates=False)
    samples = tflite_nets.samples(seed=5)["x"]
    exact = []
    for sample in samples:
        codes = uniform.quantize(sample[np.newaxis], data.params)
        real = tf.nn.conv2d(
            uniform.dequantize(codes, data.params),
            uniform.dequantize(view.constant(kernel), kernel.params).transpose(
                1, 2, 3, 0
            ),
            2,
            "SAME",
        ).numpy() + uniform.dequantize(view.constant(bias), bias.params)
        exact.append(np.maximum(real, 0)[0])
    steps = np.stack(exact) / float(output.params.scale[0])
    high = output.params.qmax - int(output.params.zero_point[0])
    for model in (runner, plain):
        found = model.run({"x": samples})["output_0"]
        codes = found / float(output.params.scale[0])
        # Half a step, and what float32 scales and fixed-point multipliers of
        # 31 bits can do to 255 steps.
        error = np.abs(codes - np.minimum(steps, high))
        assert np.isfinite(error).all()
        assert error.max() <= 0.5 + 1e-4 + (model is plain) * 0.5


def test_a_missing_range_is_an_error_with_the_name():
    model = tflite_nets.float_tflite("residual")
    ranges = calibration.calibrate(model, tflite_nets.samples())
    name = next(name for name in ranges if "onv" in name)
    del ranges[name]
    with pytest.raises(errors.UserError, match="ranges of 1 activations"):
        export.export(model, ranges)


def test_the_quantizers_own_calibration_is_never_used(monkeypatch):
    def calibrate(*_, **__):
        raise AssertionError("calibrate was called")

    monkeypatch.setattr(export._Quantizer, "calibrate", calibrate)
    _exported("residual")


def test_ranges_are_ours_and_not_the_datas():
    model = tflite_nets.float_tflite("residual")
    ranges = calibration.calibrate(model, tflite_nets.samples())
    odd = {name: qtypes.TensorRange(-7.0, 9.0) for name in ranges}
    exported = export.export(model, odd)
    readback.check(exported.model, exported.requested)
    expected = uniform.affine_params(
        qtypes.TensorRange(-7.0, 9.0), 8, symmetric=False
    )
    found = [
        t.params
        for t in flatbuffer.read(exported.model).tensors
        if t.dtype == "int8" and not t.constant
    ]
    assert len(found) == len(ranges)
    assert all(params.same_as(expected) for params in found)


def test_the_bias_of_a_nearly_dead_channel_survives(monkeypatch):
    """A weight scale of 2e-11 would put a bias of 0.219 past int32."""

    def channel(exported):
        found = interpreter.Interpreter(exported.model).run(
            tflite_nets.samples()
        )["output_0"]
        step = exported.requested.tensors["PartitionedCall:0"].params.scale[0]
        return np.abs(found[..., -1] - 0.219).max(), step

    exported = _exported("tiny_channel")
    readback.check(exported.model, exported.requested)
    error, step = channel(exported)
    assert error <= step / 2 * (1 + 1e-5)
    # And without the guard it does not: the guard is what saves it.
    monkeypatch.setattr(weights, "_MAX_BIAS_CODE", np.inf)
    monkeypatch.setattr(weights, "_MIN_MULTIPLIER", 0.0)
    monkeypatch.setattr(uniform, "MIN_SCALE", 2.0**-100)
    exported = _exported("tiny_channel")
    with pytest.raises(readback.ReadBackError, match="bias"):
        readback.check(exported.model, exported.requested)
    error, step = channel(exported)
    assert error > 2 * step


def test_a_dead_layer_does_not_break_the_file(monkeypatch):
    exported = _exported("dead_layer")
    interpreter.Interpreter(exported.model)
    monkeypatch.setattr(plan, "_MAX_MULTIPLIER", np.inf)
    broken = _exported("dead_layer")
    with pytest.raises(errors.UserError, match="XNNPACK"):
        interpreter.Interpreter(broken.model)


def test_a_clip_far_above_its_tensor_does_not_break_the_file(monkeypatch):
    # The builtin kernels compute 6 / scale as an int32; XNNPACK does not.
    exported = _exported("vanishing_relu6")
    interpreter.Interpreter(exported.model, delegates=False)
    monkeypatch.setattr(plan, "_LEAST_SCALE", 0.0)
    broken = _exported("vanishing_relu6")
    with pytest.raises(errors.UserError, match="overflow"):
        interpreter.Interpreter(broken.model, delegates=False)


def test_a_dead_sum_keeps_a_step_that_the_kernel_takes():
    # Below 2^-19 of its inputs' steps ADD would end the process.
    exported = _exported("dead_sum")
    view = flatbuffer.read(exported.model)
    for op in view.ops:
        if op.name in ("ADD", "SUB"):
            least = min(
                float(view.tensors[op.outputs[0]].params.scale[0])
                / float(view.tensors[i].params.scale[0])
                for i in op.inputs
            )
            assert least >= 2.0**-10
    assert interpreter.Interpreter(exported.model).run(tflite_nets.samples())


def test_no_second_rounding_between_a_convolution_and_its_concat():
    assert (
        _op_names(_exported("concat", io_type="int8").model).count("QUANTIZE")
        == 0
    )


@pytest.mark.parametrize("name", ["conv", "depthwise", "dense"])
def test_per_tensor_granularity_gives_one_scale(name):
    options = weights.Options(granularity=qtypes.Granularity.TENSOR)
    exported = _exported(name, options=options)
    readback.check(exported.model, exported.requested)
    view = flatbuffer.read(exported.model)
    for tensor in view.tensors:
        if tensor.params is not None:
            assert tensor.params.scale.size == 1
    assert _sqnr_db(name, exported) > 24


@pytest.mark.parametrize("bits", [2, 4, 6])
def test_fewer_weight_bits_are_integers_of_that_many_bits(bits):
    options = weights.Options(bits=bits)
    exported = _exported("conv", options=options)
    readback.check(exported.model, exported.requested)
    view = flatbuffer.read(exported.model)
    codes = view.constant(view.tensors[view.ops[1].inputs[1]])
    assert np.abs(codes).max() == 2 ** (bits - 1) - 1
    # Each bit halves the step of the weights: 6 dB.
    assert _sqnr_db("conv", exported) > 6 * bits - 12


def test_weights_on_a_grid_of_their_own_keep_its_integers():
    rng = np.random.default_rng(0)
    params = uniform.symmetric_params(rng.uniform(0.2, 0.5, 8), 5, axis=0)
    # No channel reaches the grid's end, so that min-max would find others.
    codes = rng.integers(-9, 10, (8, 3, 3, 4))
    values = uniform.dequantize(codes, params).astype(np.float32)
    model = convert.to_float(
        tflite_nets.frozen(
            lambda x: tf.nn.conv2d(x, values.transpose(1, 2, 3, 0), 1, "SAME")
        )
    )
    ranges = calibration.calibrate(model, tflite_nets.samples())
    options = weights.Options(grids=[weight_grids.WeightGrid(values, params)])
    exported = export.export(model, ranges, options=options)
    readback.check(exported.model, exported.requested)
    view = flatbuffer.read(exported.model)
    kernel = view.tensors[view.ops[1].inputs[1]]
    np.testing.assert_array_equal(view.constant(kernel), codes)
    np.testing.assert_array_equal(kernel.params.scale, params.scale)
    assert exported.unmatched == ()


@pytest.mark.parametrize("name", ["stem", ""])
def test_a_grid_whose_weights_the_converter_changed_is_named(name):
    params = uniform.symmetric_params(0.5, 4)
    codes = np.random.default_rng(0).integers(-7, 8, (8, 3, 3, 4))
    values = uniform.dequantize(codes, params).astype(np.float32)
    kernel = values.transpose(1, 2, 3, 0)
    # The converter folds the factor into the weights.
    model = convert.to_float(
        tflite_nets.frozen(lambda x: 3.0 * tf.nn.conv2d(x, kernel, 1, "SAME"))
    )
    options = weights.Options(
        grids=[weight_grids.WeightGrid(values, params, name)]
    )
    ranges = calibration.calibrate(model, tflite_nets.samples())
    exported = export.export(model, ranges, options=options)
    assert exported.unmatched == (name or "weight grid 0",)
    readback.check(exported.model, exported.requested)
    # They are quantized as the options say of all others: 8 bits, by channel.
    view = flatbuffer.read(exported.model)
    kernel = view.tensors[view.ops[1].inputs[1]]
    assert kernel.params.scale.size == 8
    assert np.abs(view.constant(kernel)).max(axis=(1, 2, 3)).tolist() == (
        [127] * 8
    )


def test_float_operations_are_refused_listed_or_allowed():
    model = convert.to_float(
        tflite_nets.frozen(lambda x: tf.nn.relu(tf.square(2 * x) - 1))
    )
    (found,) = op_support.unsupported_ops(model)
    assert found.op == "SQUARE"
    ranges = calibration.calibrate(model, tflite_nets.samples())
    with pytest.raises(errors.UserError, match=r"SQUARE \(Square\)"):
        export.export(model, ranges)
    exported = export.export(model, ranges, allow_float_ops=True)
    assert exported.requested.float_ops == (("SQUARE", "Square"),)
    assert readback.check(exported.model, exported.requested).float_ops == 1


def test_whole_number_inputs_keep_their_type():
    model = convert.to_float(
        tflite_nets.frozen(
            lambda x: tf.nn.relu(tf.cast(x, tf.float32) / 127.5 - 1),
            tf.TensorSpec((1, *tflite_nets.SHAPE), tf.uint8, name="image"),
        )
    )
    assert op_support.unsupported_ops(model) == []
    samples = {
        "image": np.random.default_rng(0).integers(
            0, 256, (6, *tflite_nets.SHAPE), np.uint8
        )
    }
    exported = export.export(
        model, calibration.calibrate(model, samples), io_type="int8"
    )
    readback.check(exported.model, exported.requested)
    view = flatbuffer.read(exported.model)
    assert view.input_names()["image"].dtype == "uint8"
    found = interpreter.Interpreter(exported.model).run(samples)["output_0"]
    expected = np.maximum(samples["image"] / 127.5 - 1, 0)
    assert verify.compare(expected, found).sqnr_db > 35


def test_inputs_and_outputs_keep_names_and_order():
    def function(zeta, alpha):
        return tf.nn.relu(zeta) * 2, tf.reduce_mean(alpha, [1, 2]) - 1

    model = convert.to_float(
        tflite_nets.frozen(
            function,
            tf.TensorSpec((1, 4, 4, 2), name="zeta"),
            tf.TensorSpec((1, 6, 6, 3), name="alpha"),
        ),
        input_names=["wide", "narrow"],
        output_names=["b", "a"],
    )
    rng = np.random.default_rng(0)
    samples = {
        "wide": rng.normal(0, 1, (5, 4, 4, 2)).astype(np.float32),
        "narrow": rng.normal(0, 1, (5, 6, 6, 3)).astype(np.float32),
    }
    exported = export.export(model, calibration.calibrate(model, samples))
    readback.check(exported.model, exported.requested)
    found = interpreter.Interpreter(exported.model).run(samples)
    assert list(found) == ["b", "a"]
    assert list(flatbuffer.read(exported.model).input_names()) == [
        "wide",
        "narrow",
    ]
    expected = function(samples["wide"], samples["narrow"])
    for key, value in zip("ba", expected, strict=True):
        assert verify.compare(value.numpy(), found[key]).sqnr_db > 30


def test_equal_inputs_give_equal_bytes():
    assert (
        _exported("squeeze_excite").model == _exported("squeeze_excite").model
    )
