"""Any width of weights, in either container, behind any activations."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tensorflow as tf
import tflite_nets

from dsg_tf.export import calibration
from dsg_tf.fidelity import verify
from dsg_tf.quant import qtypes, uniform
from dsg_tf.tflite import (
    convert,
    export,
    flatbuffer,
    interpreter,
    plan,
    readback,
    unshare,
    weight_grids,
    weights,
)

_CASES = [
    (bits, activation_bits, packed)
    for bits in range(2, 9)
    for activation_bits in (8, 16, 32)
    for packed in ((False, True) if bits <= 4 else (False,))
]

# Least SQNR against the float file with the same rounded weights, by width of
# activations. A rounding of N(0, 1) over +-4 sigma to 8 bits leaves 41 dB; in
# `mixed` there are 8 in a row: input, convolution, depthwise, sum, input into
# the Concat, pool, output, and at 2 bits the biases, whose steps are as coarse
# as the weights' (9 dB), and a margin of 5. 8 bits more are 48 dB more.
_LEAST_SQNR = {8: 27.0, 16: 75.0}
# Float32 sums of at most n = 72 products: an error of 2^-24 a partial sum
# walks to sqrt(n) * 2^-24 = 5e-7 of the largest; three layers in a row.
_FLOAT_ERROR = 1.5e-6


def _with_rounded_weights(model, options):
    """The float file that computes with the options' rounded weights."""
    view = unshare.separated(flatbuffer.read(model))
    chosen = weights.choose(view, options)
    planned = plan.make(view, {}, chosen=chosen, activation_bits=32)
    export._put_weights_on_grid(view, planned)
    return flatbuffer.write(view.raw)


@functools.cache
def _case(bits, activation_bits, packed):
    """An export of `mixed`, and outputs of the rounded float file."""
    options = weights.Options(bits=bits, packed=packed)
    model = tflite_nets.float_tflite("mixed")
    rounded = _with_rounded_weights(model, options)
    samples = tflite_nets.samples()
    # Ranges of the weights that will be there, lest outputs be clipped.
    ranges = calibration.calibrate(rounded, samples)
    exported = export.export(
        model,
        {} if activation_bits == 32 else ranges,
        activation_bits=activation_bits,
        options=options,
    )
    reference = interpreter.Interpreter(rounded, delegates=False).run(samples)
    return exported, reference["output_0"].astype(np.float64)


def _assert_near(found, reference, activation_bits):
    assert np.isfinite(found).all()
    if activation_bits == 32:
        error = np.abs(found - reference).max() / np.abs(reference).max()
        assert error < _FLOAT_ERROR
    else:
        sqnr_db = verify.compare(reference, found).sqnr_db
        assert sqnr_db > _LEAST_SQNR[activation_bits]


def _kernels(view):
    """Constants with four or two axes that are weights, by name."""
    return {
        t.name: t for t in view.tensors if t.constant and len(t.shape) in (2, 4)
    }


@pytest.mark.parametrize(("bits", "activation_bits", "packed"), _CASES)
def test_integers_and_scales_are_ours(bits, activation_bits, packed):
    exported, _ = _case(bits, activation_bits, packed)
    assert readback.check(exported.model, exported.requested).integers > 800
    source = flatbuffer.read(tflite_nets.float_tflite("mixed"))
    view = flatbuffer.read(exported.model)
    qmax = 2 ** (bits - 1) - 1
    kernels = _kernels(source)
    assert len(kernels) == 3
    for name, tensor in kernels.items():
        depthwise = tensor.shape[0] == 1
        values = source.constant(tensor).astype(np.float64)
        axis = 3 if depthwise else 0
        others = tuple(i for i in range(values.ndim) if i != axis)
        # Computed here anew, and not by the plan.
        scale = np.abs(values).max(others, keepdims=True) / qmax
        scale = scale.astype(np.float32)
        codes = np.rint(values / scale.astype(np.float64))
        found = view.by_name[name]
        np.testing.assert_array_equal(view.constant(found), codes)
        np.testing.assert_array_equal(found.params.scale, scale.ravel())
        assert found.params.axis == axis
        assert found.dtype == ("int4" if packed and not depthwise else "int8")
    # Biases are integers where activations are, and floats where they are.
    types = {t.dtype for t in view.tensors if t.constant and len(t.shape) == 1}
    bias = {8: "int32", 16: "int64", 32: "float32"}[activation_bits]
    assert bias in types
    assert types <= {bias, "int32"}


@pytest.mark.parametrize("delegates", [True, False])
@pytest.mark.parametrize(("bits", "activation_bits", "packed"), _CASES)
def test_the_kernels_compute_what_the_integers_say(
    bits, activation_bits, packed, delegates
):
    exported, reference = _case(bits, activation_bits, packed)
    found = interpreter.Interpreter(exported.model, delegates=delegates).run(
        tflite_nets.samples()
    )["output_0"]
    _assert_near(found, reference, activation_bits)


@pytest.mark.parametrize("activation_bits", [8, 16, 32])
@pytest.mark.parametrize("granularity", list(qtypes.Granularity))
@pytest.mark.parametrize(
    "name", ["conv1d", "conv_dilated", "conv_grouped", "dense_3d"]
)
def test_int4_kernels_know_every_form_of_their_layers(
    name, granularity, activation_bits
):
    """The same codes in int8 are the reference."""
    model = tflite_nets.float_tflite(name)
    samples = tflite_nets.samples(3)
    ranges = calibration.calibrate(model, samples)
    found = {}
    for packed in (False, True):
        exported = export.export(
            model,
            ranges,
            activation_bits=activation_bits,
            io_type={8: "int8", 16: "int16", 32: "float32"}[activation_bits],
            options=weights.Options(
                bits=4, granularity=granularity, packed=packed
            ),
        )
        readback.check(exported.model, exported.requested)
        runner = interpreter.Interpreter(exported.model)
        types = {t.dtype for t in _kernels(runner.view).values()}
        assert types == {"int4" if packed else "int8"}
        found[packed] = runner.run(samples)["output_0"]
    # One layer, whose sums are exact: the rounding of its output may differ.
    (output,) = runner.view.output_names().values()
    step = (
        _FLOAT_ERROR * np.abs(found[False]).max()
        if activation_bits == 32
        else 1.001 * float(output.params.scale[0])
    )
    assert np.abs(found[True] - found[False]).max() <= step


def _given(rng, shape, op, bits, *, per_channel, name):
    """A kernel on a grid that it does not fill: (kernel, grid, rows)."""
    channels = shape[-1] if op != "DepthwiseConv2dNative" else shape[2]
    count = channels if per_channel else 1
    params = uniform.symmetric_params(
        rng.uniform(0.2, 0.5, count), bits, 0 if per_channel else None
    )
    reach = max(params.qmax - 1, 1)
    codes = rng.integers(-reach, reach + 1, (channels, *shape[:2], shape[2]))
    if op == "MatMul":
        codes = codes[:, : shape[0], 0, 0]
    elif op == "DepthwiseConv2dNative":
        codes = codes[..., :1]
    values = uniform.dequantize(codes, params).astype(np.float32)
    kernel = {
        "Conv2D": lambda v: v.transpose(1, 2, 3, 0),
        "DepthwiseConv2dNative": lambda v: v.transpose(1, 2, 0, 3),
        "MatMul": lambda v: v.T,
    }[op](values)
    grid = tflite_nets.grid_of_kernel(kernel, op, params, name=name)
    return kernel, grid, codes


def _given_net(seed=0):
    """First and last layer of 8 bits, 4, 3 and 2 between them, given."""
    rng = np.random.default_rng(seed)
    layers = {}
    for name, shape, op, bits, per_channel in (
        ("first", (3, 3, 4, 8), "Conv2D", 8, True),
        ("narrow", (1, 1, 8, 6), "Conv2D", 4, True),
        ("depthwise", (3, 3, 6, 1), "DepthwiseConv2dNative", 3, True),
        ("coarse", (1, 1, 6, 6), "Conv2D", 2, False),
        ("last", (24, 1, 1, 5), "MatMul", 8, False),
    ):
        layers[name] = _given(
            rng, shape, op, bits, per_channel=per_channel, name=name
        )
    kernels = {name: kernel for name, (kernel, _, _) in layers.items()}

    def net(x):
        y = tf.nn.relu(tf.nn.conv2d(x, kernels["first"], 1, "SAME") + 0.1)
        y = tf.nn.relu(tf.nn.conv2d(y, kernels["narrow"], 1, "SAME"))
        y = tf.nn.depthwise_conv2d(y, kernels["depthwise"], [1] * 4, "SAME")
        y = tf.nn.conv2d(tf.nn.relu(y), kernels["coarse"], 1, "SAME")
        y = tf.reshape(tf.nn.avg_pool2d(y, 4, 4, "SAME"), [1, -1])
        return tf.matmul(y, kernels["last"])

    return convert.to_float(tflite_nets.frozen(net)), layers


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("activation_bits", [8, 16, 32])
def test_given_grids_of_many_widths_go_into_one_file(activation_bits, packed):
    model, layers = _given_net()
    samples = tflite_nets.samples()
    exported = export.export(
        model,
        calibration.calibrate(model, samples),
        activation_bits=activation_bits,
        options=weights.Options(
            bits=5, grids=[g for _, g, _ in layers.values()], packed=packed
        ),
    )
    assert exported.unmatched == ()
    readback.check(exported.model, exported.requested)
    view = flatbuffer.read(exported.model)
    found = [
        view.tensors[op.inputs[1]]
        if activation_bits != 32
        else view.tensors[view.producers[op.inputs[1]].inputs[0]]
        for op in view.ops
        if op.name in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
    ]
    int4 = {"narrow", "coarse"} if packed else set()
    for tensor, (name, (_, grid, codes)) in zip(
        found, layers.items(), strict=True
    ):
        rows = weight_grids.rows(
            view.constant(tensor), 3 if name == "depthwise" else 0
        )
        np.testing.assert_array_equal(rows, codes.reshape(rows.shape))
        np.testing.assert_array_equal(tensor.params.scale, grid.params.scale)
        assert tensor.dtype == ("int4" if name in int4 else "int8")
    # The file's weights are the float file's own: nothing was rounded. Its
    # layers are as many as those of `mixed`.
    reference = interpreter.Interpreter(model, delegates=False).run(samples)
    for delegates in (True, False):
        values = interpreter.Interpreter(
            exported.model, delegates=delegates
        ).run(samples)
        _assert_near(values["output_0"], reference["output_0"], activation_bits)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        "ELU",
        "LEAKY_RELU",
        "average_pool",
        "batch_matmul_constant",
        "convs_sharing_weights",
        "convs_sharing_zero_bias",
        "input_is_output",
        "layer_norm",
        "one_tensor_two_outputs",
        "squeeze_excite",
        "transpose_conv_valid",
    ],
)
def test_weight_only_leaves_all_else_as_it_was(name, packed):
    model = tflite_nets.float_tflite(name)
    options = weights.Options(bits=4, packed=packed)
    exported = export.export(model, {}, activation_bits=32, options=options)
    readback.check(exported.model, exported.requested)
    source, view = flatbuffer.read(model), flatbuffer.read(exported.model)
    ops = [op.name for op in view.ops if op.name != "DEQUANTIZE"]
    assert ops == [op.name for op in source.ops]
    assert list(view.output_names()) == list(source.output_names())
    samples = tflite_nets.samples(4)
    reference = interpreter.Interpreter(
        _with_rounded_weights(model, options), delegates=False
    ).run(samples)
    for delegates in (True, False):
        found = interpreter.Interpreter(
            exported.model, delegates=delegates
        ).run(samples)
        for key, values in reference.items():
            error = np.abs(found[key] - values).max() / np.abs(values).max()
            assert error < _FLOAT_ERROR


def _with_a_dead_channel():
    kernel = tflite_nets._weights(3, 3, 4, 8).copy()
    kernel[..., 2] = 0
    return convert.to_float(
        tflite_nets.frozen(lambda x: tf.nn.conv2d(x, kernel, 1, "SAME") + 0.5)
    )


def test_a_dead_channel_of_int4_weights_keeps_its_scale(monkeypatch):
    def exported():
        return export.export(
            _with_a_dead_channel(),
            {},
            activation_bits=32,
            options=weights.Options(bits=4, packed=True),
        )

    result = exported()
    readback.check(result.model, result.requested)
    samples = tflite_nets.samples(2)
    found = interpreter.Interpreter(result.model).run(samples)["output_0"]
    np.testing.assert_array_equal(found[..., 2], 0.5)
    view = flatbuffer.read(result.model)
    (kernel,) = _kernels(view).values()
    assert kernel.params.scale[2] >= uniform.MIN_SCALE
    # And without the higher floor the quantizer writes a scale of its own.
    monkeypatch.setattr(weights, "_MIN_PACKED_SCALE", uniform.MIN_SCALE)
    result = exported()
    with pytest.raises(readback.ReadBackError, match="scale"):
        readback.check(result.model, result.requested)


def test_packed_files_are_smaller_by_half_of_the_packed_weights():
    exports = {
        packed: _case(4, 32, packed)[0].model for packed in (False, True)
    }
    view = flatbuffer.read(exports[True])
    packed = sum(
        int(np.prod(t.shape)) for t in view.tensors if t.dtype == "int4"
    )
    assert packed == 3 * 3 * 4 * 8 + 48 * 10
    saved = len(exports[False]) - len(exports[True])
    # Buffers are aligned to 16 bytes.
    assert abs(saved - packed // 2) <= 32
