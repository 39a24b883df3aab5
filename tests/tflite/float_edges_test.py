"""Heads and tails that stay float, and the network between, which does not."""

import numpy as np
import pytest
import tensorflow as tf

from dsg_tf.core import errors
from dsg_tf.export import calibration
from dsg_tf.tflite import (
    convert,
    export,
    flatbuffer,
    float_edges,
    interpreter,
    lowering,
    readback,
)
from tests import tflite_nets

_KERNEL = np.random.default_rng(0).normal(0, 0.3, (3, 3, 4, 8))


def _conv(x, seed=0):
    kernel = np.random.default_rng(seed).normal(0, 0.3, (3, 3, x.shape[-1], 8))
    return tf.nn.relu(tf.nn.conv2d(x, np.float32(kernel), 1, "SAME"))


def _joined(x):
    """Boxes up to some hundreds and scores up to 1 in one output."""
    y = tf.reshape(_conv(x), [1, 64, 8])
    return tf.concat([300.0 * y[..., :4], tf.sigmoid(y[..., 4:])], -1)


def _spectrogram(x):
    """A linear transform, its power, the logarithm, brought to 0..1."""
    real = tf.nn.conv2d(x, np.float32(_KERNEL), 1, "SAME")
    imaginary = tf.nn.conv2d(x, np.float32(_KERNEL[::-1]), 1, "SAME")
    log = tf.math.log(1e-8 + tf.square(real) + tf.square(imaginary))
    log -= tf.reduce_min(log, [1, 2, 3], keepdims=True)
    return _conv(log / tf.reduce_max(log, [1, 2, 3], keepdims=True), 1)


_NETS = {
    # Name: function, operations of the head, operations of the tail.
    "cast_of_ids": (
        lambda x: _conv(
            tf.gather(
                np.float32(_KERNEL[:, :, 0, 0]),
                tf.cast(tf.abs(x[..., 0]), tf.int32) % 3,
            )
        ),
        {"CAST"},
        set(),
    ),
    "joined": (_joined, set(), {"CONCATENATION"}),
    "rounded": (
        lambda x: tf.reshape(tf.round(_conv(x)), [1, -1]),
        set(),
        {"ROUND", "RESHAPE"},
    ),
    "spectrogram": (_spectrogram, {"CONV_2D", "LOG", "REDUCE_MIN"}, set()),
}


def _converted(net):
    return lowering.lowered(convert.to_float(tflite_nets.frozen(net)), 8)


@pytest.mark.parametrize("name", sorted(_NETS))
def test_the_ends_stay_float_and_the_network_does_not(name):
    net, head, tail = _NETS[name]
    model = _converted(net)
    samples = tflite_nets.samples()
    ranges = calibration.calibrate(model, samples)
    view = flatbuffer.read(model)
    found = float_edges.find(view, activation_bits=8, ranges=ranges)
    assert head <= {view.ops[index].name for index in found.head}
    assert tail <= {view.ops[index].name for index in found.tail}
    exported = export.export(model, ranges, float_edges=True)
    readback.check(exported.model, exported.requested)
    assert set(exported.reasons) == {
        view.tensors[view.ops[index].outputs[0]].name for index in found.ops
    }
    written = flatbuffer.read(exported.model)
    kernels = {
        written.tensors[op.inputs[1]].dtype
        for op in written.ops
        if op.name == "CONV_2D"
    }
    assert "int8" in kernels
    assert ("float32" in kernels) == ("CONV_2D" in head)
    expected = interpreter.Interpreter(model).run(samples)
    values = interpreter.Interpreter(exported.model).run(samples)
    for key, value in expected.items():
        error = np.sum(np.square(values[key] - value))
        assert np.sum(np.square(value)) > 100 * error


def test_each_part_of_a_joined_output_keeps_its_resolution():
    model = _converted(_joined)
    samples = tflite_nets.samples()
    ranges = calibration.calibrate(model, samples)
    (expected,) = interpreter.Interpreter(model).run(samples).values()

    def scores_db(**options):
        exported = export.export(model, ranges, **options)
        (found,) = interpreter.Interpreter(exported.model).run(samples).values()
        error = np.sum(np.square(found - expected)[..., 4:])
        return 10 * np.log10(np.sum(np.square(expected[..., 4:])) / error)

    assert scores_db(float_edges=True) > 30
    # What the float end is for: one scale for both leaves nothing of scores.
    assert scores_db() < 10


def test_an_operation_within_the_network_is_no_edge():
    model = _converted(lambda x: _conv(tf.round(_conv(x)), 1))
    found = float_edges.find(flatbuffer.read(model), activation_bits=8)
    assert not found.ops
    with pytest.raises(errors.UserError, match="ROUND"):
        export.refuse_float_ops(model, float_edges=True)


def test_a_join_of_like_parts_stays_integer():
    model = _converted(lambda x: tf.concat([_conv(x), 2 * _conv(x, 1)], -1))
    ranges = calibration.calibrate(model, tflite_nets.samples())
    view = flatbuffer.read(model)
    assert not float_edges.find(view, activation_bits=8, ranges=ranges).ops


def test_the_remedy_names_the_flag_that_helps():
    model = _converted(lambda x: tf.round(_conv(x)))
    with pytest.raises(errors.UserError, match="--float_edges"):
        export.refuse_float_ops(model)
    export.refuse_float_ops(model, float_edges=True)
