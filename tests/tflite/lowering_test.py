"""Operations that integers do not have, by others: exact, and then int8."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from dsg_tf.export import calibration
from dsg_tf.fidelity import verify
from dsg_tf.tflite import (
    convert,
    export,
    flatbuffer,
    interpreter,
    lowering,
    op_support,
    readback,
)
from tests import tflite_nets


def _layer(layer):
    layer.build((1, *tflite_nets.SHAPE))
    return layer


def _positive(x):
    return tf.nn.relu(x) + 0.5


_NETS = {
    "add_n": lambda x: tf.add_n([x, 2 * x, tf.nn.relu(x)]),
    "cube": lambda x: tf.pow(x, 3.0),
    "fourth_power": lambda x: tf.pow(x, 4.0),
    "group_norm": _layer(keras.layers.GroupNormalization(2)),
    "inverse": lambda x: tf.pow(_positive(x), -1.0),
    "layer_norm": _layer(keras.layers.LayerNormalization()),
    "log_sigmoid": tf.math.log_sigmoid,
    "neg": lambda x: -x,
    "rms_norm": _layer(keras.layers.RMSNormalization()),
    "square": tf.square,
    "unit_norm": _layer(keras.layers.UnitNormalization()),
}
_NETS_16 = {
    "hard_swish": keras.ops.hard_swish,
    "squared_difference": lambda x: tf.math.squared_difference(
        x, tf.reduce_mean(x, -1, keepdims=True)
    ),
    "neg": lambda x: -x,
}


@pytest.mark.parametrize(
    ("name", "bits"),
    [(n, 8) for n in sorted(_NETS)] + [(n, 16) for n in sorted(_NETS_16)],
)
def test_it_is_the_same_in_float_and_near_in_integers(name, bits):
    net = (_NETS if bits == 8 else _NETS_16)[name]
    before = convert.to_float(tflite_nets.frozen(net))
    assert op_support.unsupported_ops(before, activation_bits=bits)
    model = lowering.lowered(before, bits)
    assert not op_support.unsupported_ops(model, activation_bits=bits)
    samples = tflite_nets.samples()
    expected = interpreter.Interpreter(before).run(samples)
    found = interpreter.Interpreter(model).run(samples)
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-5, atol=1e-6)
    exported = export.export(
        model, calibration.calibrate(model, samples), activation_bits=bits
    )
    assert readback.check(exported.model, exported.requested).float_ops == 0
    (reference,) = expected.values()
    (integers,) = interpreter.Interpreter(exported.model).run(samples).values()
    assert verify.compare(reference, integers).sqnr_db > 20


def test_what_integers_have_stays_as_it_is():
    model = tflite_nets.float_tflite("PRELU")
    assert lowering.lowered(model, 8) == model


def test_float_activations_need_no_other_operations():
    model = convert.to_float(tflite_nets.frozen(_NETS["neg"]))
    assert lowering.lowered(model, op_support.FLOAT_BITS) == model


def test_a_power_that_is_no_small_number_is_left():
    model = convert.to_float(
        tflite_nets.frozen(lambda x: tf.pow(_positive(x), 2.7))
    )
    lowered = flatbuffer.read(lowering.lowered(model, 8))
    assert "POW" in [op.name for op in lowered.ops]
