"""Mean shifts against brute-force convolutions of TensorFlow in float64."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tflite_nets

from dsg_tf import calibration
from dsg_tf.tflite import (
    bias_correction,
    convert,
    export,
    flatbuffer,
    interpreter,
    plan,
    weights,
)

_RNG = np.random.default_rng(0)


def _layer(function, shape):
    """One-layer file: its view and its one operation with weights."""
    model = convert.to_float(
        tflite_nets.frozen(
            function, tf.TensorSpec((1, *shape), tf.float32, name="x")
        )
    )
    view = flatbuffer.read(model)
    (op,) = (op for op in view.ops if weights.operand(view, op) is not None)
    return model, view, op


def _kernel(*shape):
    return _RNG.normal(0, 1, shape).astype(np.float32)


_LAYERS = {
    "same": (lambda x: tf.nn.conv2d(x, _K, 1, "SAME"), (7, 6, 3)),
    "same_strided": (lambda x: tf.nn.conv2d(x, _K, 2, "SAME"), (8, 7, 3)),
    "strides_differ": (
        lambda x: tf.nn.conv2d(x, _K, [1, 1, 2, 1], "VALID"),
        (6, 9, 3),
    ),
    "valid": (lambda x: tf.nn.conv2d(x, _K, 1, "VALID"), (7, 6, 3)),
    "dilated": (
        lambda x: tf.nn.conv2d(x, _K, 1, "SAME", dilations=[1, 2, 3, 1]),
        (9, 9, 3),
    ),
    "even_kernel": (
        lambda x: tf.nn.conv2d(x, _K[:2, :2], 2, "SAME"),
        (7, 7, 3),
    ),
    "grouped": (lambda x: tf.nn.conv2d(x, _K, 1, "SAME"), (6, 6, 6)),
    "depthwise": (
        lambda x: tf.nn.depthwise_conv2d(x, _D, [1, 2, 2, 1], "SAME"),
        (7, 8, 3),
    ),
    "transpose_same": (
        lambda x: tf.nn.conv2d_transpose(x, _T, [1, 10, 12, 5], 2, "SAME"),
        (5, 6, 3),
    ),
    "transpose_valid": (
        lambda x: tf.nn.conv2d_transpose(x, _T, [1, 11, 13, 5], 2, "VALID"),
        (5, 6, 3),
    ),
    "dense": (lambda x: tf.matmul(x, _F), (12,)),
    "dense_rows": (lambda x: tf.matmul(x, _F), (5, 12)),
}
_K, _D, _T, _F = (
    _kernel(3, 3, 3, 6),
    _kernel(3, 3, 3, 2),
    _kernel(3, 3, 5, 3),
    _kernel(12, 4),
)


@pytest.mark.parametrize("name", sorted(_LAYERS))
def test_the_shift_is_the_mean_of_the_layers_output(name):
    function, shape = _LAYERS[name]
    _, view, op = _layer(function, shape)
    x = _RNG.normal(1, 1, (1, *shape))
    kernel = view.constant(weights.operand(view, op)).astype(np.float64)
    found = bias_correction.output_shift(view, op, kernel, x)
    exact = function(tf.constant(x, tf.float32)).numpy().astype(np.float64)
    expected = exact.reshape(-1, exact.shape[-1]).mean(axis=0)
    # float32 sums of some 50 products of size 1, averaged.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert np.abs(expected).min() > 1e-3


@pytest.mark.parametrize(
    "name", ["dense", "depthwise", "grouped", "same", "transpose_same"]
)
def test_corrected_layers_have_the_float_layers_mean(name):
    function, shape = _LAYERS[name]
    model, view, _ = _layer(function, shape)
    samples = {
        "x": np.maximum(_RNG.normal(0.5, 1, (20, *shape)), 0).astype(np.float32)
    }
    options = weights.Options(bits=3)
    planned = plan.make(
        view,
        calibration.calibrate(model, samples),
        chosen=weights.choose(view, options),
    )
    means = bias_correction.input_means(model, samples)
    other = bias_correction.corrected(view, planned.weights, means)

    def mean(source):
        export._put_weights_on_grid(source, planned)
        values = interpreter.Interpreter(flatbuffer.write(source.raw)).run(
            samples
        )["output_0"]
        return values.reshape(-1, values.shape[-1]).mean(axis=0, dtype=float)

    reference = interpreter.Interpreter(model).run(samples)["output_0"]
    exact = reference.reshape(-1, reference.shape[-1]).mean(axis=0, dtype=float)
    after = np.abs(mean(other) - exact).max()
    before = np.abs(mean(flatbuffer.read(model)) - exact).max()
    # float32 convolutions and a float32 bias.
    assert after < 1e-5
    assert before > 1e-2


def test_input_means_are_the_mean_over_samples():
    samples = tflite_nets.samples(5)
    means = bias_correction.input_means(
        tflite_nets.float_tflite("conv"), samples
    )
    (found,) = means.values()
    np.testing.assert_allclose(
        found[0], samples["x"].mean(axis=0, dtype=float), rtol=1e-14
    )


def test_a_layer_without_bias_gets_one():
    function, shape = _LAYERS["dense_rows"]
    model, view, op = _layer(function, shape)
    assert weights.bias_operand(view, op) is None
    samples = {"x": _RNG.normal(3, 1, (6, *shape)).astype(np.float32)}
    exported = export.export(
        model,
        calibration.calibrate(model, samples),
        options=weights.Options(bits=3),
        input_means=bias_correction.input_means(model, samples),
    )
    other = flatbuffer.read(exported.model)
    (op,) = (op for op in other.ops if op.name == "FULLY_CONNECTED")
    assert other.tensors[op.inputs[2]].dtype == "int32"


def test_progress_counts_samples():
    calls = []
    bias_correction.input_means(
        tflite_nets.float_tflite("conv"),
        tflite_nets.samples(3),
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(1, 3), (2, 3), (3, 3)]
