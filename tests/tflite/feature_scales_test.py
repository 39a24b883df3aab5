"""Columns of unlike scale keep their resolution in integers."""

import numpy as np
import pytest
import tensorflow as tf

from dsg_tf.export import calibration
from dsg_tf.tflite import (
    convert,
    export,
    feature_scales,
    flatbuffer,
    interpreter,
    readback,
)
from tests import tflite_nets

_MEAN = np.array([0.0, 5.0, -3.0, 7e4])
_DEVIATION = np.array([0.1, 1.0, 30.0, 5e3])
_KERNEL = np.random.default_rng(0).normal(size=(4, 8)) / _DEVIATION[:, None]
_SPEC = tf.TensorSpec((1, 4), tf.float32, name="x")


def _net(x):
    bias = -_MEAN @ _KERNEL
    hidden = tf.matmul(x, np.float32(_KERNEL)) + np.float32(bias)
    last = np.random.default_rng(1).normal(size=(8, 3))
    return tf.matmul(tf.nn.relu(hidden), np.float32(last))


def _masked(x):
    known = tf.reduce_any(tf.not_equal(x, 0.0), -1, keepdims=True)
    return _net(tf.where(known, x, 0.0))


def _samples():
    values = np.random.default_rng(2).normal(size=(64, 4))
    return {"x": (_MEAN + values * _DEVIATION).astype(np.float32)}


def _sqnr_db(reference, model, samples):
    (expected,) = interpreter.Interpreter(reference).run(samples).values()
    (found,) = interpreter.Interpreter(model).run(samples).values()
    signal = np.sum(np.square(expected - expected.mean(0)))
    return 10 * np.log10(signal / np.sum(np.square(found - expected)))


@pytest.mark.parametrize("net", [_net, _masked], ids=["plain", "masked"])
def test_small_columns_are_not_lost_in_integers(net):
    before = convert.to_float(tflite_nets.frozen(net, _SPEC))
    columns = {"x": (_MEAN, _DEVIATION)}
    model = feature_scales.equalized(before, columns)
    samples = _samples()
    # float32 holds 7e4 to a hundredth only.
    assert _sqnr_db(before, model, samples) > 50

    def in_integers(float_tflite):
        ranges = calibration.calibrate(float_tflite, samples)
        exported = export.export(float_tflite, ranges, float_edges=True)
        readback.check(exported.model, exported.requested)
        return exported

    ours = in_integers(model)
    assert "MUL" in {op for op, _ in ours.requested.float_ops}
    assert _sqnr_db(before, ours.model, samples) > 25
    assert _sqnr_db(before, in_integers(before).model, samples) < 10


def test_columns_of_like_scale_stay_as_they_are():
    before = convert.to_float(tflite_nets.frozen(_net, _SPEC))
    columns = {"x": (np.zeros(4), np.array([1.0, 2.0, 1.5, 3.0]))}
    assert feature_scales.equalized(before, columns) == before


def test_another_layer_in_between_ends_the_columns():
    def net(x):
        return _net(tf.nn.relu(x) @ np.eye(4, dtype=np.float32))

    before = convert.to_float(tflite_nets.frozen(net, _SPEC))
    after = feature_scales.equalized(before, {"x": (_MEAN, _DEVIATION)})
    names = [op.name for op in flatbuffer.read(after).ops]
    assert names.count("SUB") <= 1


def test_columns_of_unlike_mean_and_like_deviation_are_centred_in_float():
    mean = np.array([0.0, 1000.0, -500.0, 20.0])
    kernel = np.float32(_KERNEL * _DEVIATION[:, None])

    def net(x):
        bias = np.float32(-mean @ kernel.astype(np.float64))
        return tf.nn.relu(tf.matmul(x, kernel) + bias)

    before = convert.to_float(tflite_nets.frozen(net, _SPEC))
    model = feature_scales.equalized(before, {"x": (mean, np.ones(4))})
    values = np.random.default_rng(2).normal(size=(64, 4)) + mean
    samples = {"x": values.astype(np.float32)}
    exported = export.export(
        model, calibration.calibrate(model, samples), float_edges=True
    )
    assert {"MUL", "SUB"} == {op for op, _ in exported.requested.float_ops}
    assert _sqnr_db(before, exported.model, samples) > 25
