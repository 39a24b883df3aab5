"""Our few tables agree with the library's own, and the rest is asked of it."""

from __future__ import annotations

import pytest
import tensorflow as tf
import tflite_nets
from ai_edge_litert import schema_py_generated as schema
from litert_quantizer import algorithm_manager, qtyping
from litert_quantizer.utils import tfl_flatbuffer_utils

from dsg_tf.export import calibration
from dsg_tf.quant import qtypes
from dsg_tf.tflite import convert, export, flatbuffer, op_support


def _op(name, custom=False):
    return flatbuffer.Op(0, name, (0,), (1,), custom)


@pytest.mark.parametrize("name", sorted(op_support.WEIGHTS))
def test_channel_axes_are_the_quantizers(name):
    key = tfl_flatbuffer_utils.TFL_OP_CODE_TO_NAME[
        getattr(schema.BuiltinOperator, name)
    ]
    axes = tfl_flatbuffer_utils.TFL_OP_TO_WEIGHT_QUANTIZED_DIM
    assert op_support.WEIGHTS[name].axis == axes[key]
    # And no operation with weights that the static recipe takes is left out.
    static = {"EMBEDDING_LOOKUP": False}
    for other in axes:
        code = tfl_flatbuffer_utils.TFL_OP_NAME_TO_CODE[other]
        builtin = flatbuffer._OP_NAMES[code]
        if static.get(other.value, True):
            assert builtin in op_support.WEIGHTS


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("CONV_2D", op_support.Scales.FREE),
        ("ADD", op_support.Scales.FREE),
        ("LEAKY_RELU", op_support.Scales.FREE),
        ("RESHAPE", op_support.Scales.AS_INPUT),
        ("MAX_POOL_2D", op_support.Scales.AS_INPUT),
        ("REDUCE_MAX", op_support.Scales.AS_INPUT),
        ("CONCATENATION", op_support.Scales.AS_OUTPUT),
        ("MINIMUM", op_support.Scales.AS_OUTPUT),
        ("SOFTMAX", op_support.Scales.FIXED),
        ("LOG_SOFTMAX", op_support.Scales.FIXED),
    ],
)
def test_ties_between_scales_are_those_of_the_tflite_specification(name, kind):
    assert op_support.scales(_op(name)) is kind


def test_every_operation_with_a_fixed_output_has_its_grid():
    names = {
        flatbuffer._OP_NAMES[tfl_flatbuffer_utils.TFL_OP_NAME_TO_CODE[name]]
        for name, kind in op_support._scales_by_name().items()
        if kind is op_support.Scales.FIXED
    }
    assert names
    assert names <= set(op_support.FIXED_OUTPUTS)


@pytest.mark.parametrize(
    ("name", "bits", "integer"),
    [
        ("HARD_SWISH", 8, True),
        ("HARD_SWISH", 16, False),
        ("PRELU", 8, True),
        ("PRELU", 16, False),
        ("SQUARE", 8, False),
        ("CONV_2D", 16, True),
    ],
)
def test_a_reason_is_given_exactly_where_an_operation_stays_float(
    name, bits, integer
):
    assert (op_support.reason_for_float(_op(name), bits) == "") == integer


def test_a_custom_operation_stays_float_whatever_its_name():
    assert op_support.reason_for_float(_op("CONV_2D", custom=True), 8)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(
    "name", ["hard_swish", "layer_norm", "residual", "squeeze_excite"]
)
def test_what_is_foretold_is_what_the_export_leaves_float(name, bits):
    model = tflite_nets.float_tflite(name)
    foretold = op_support.unsupported_ops(model, activation_bits=bits)
    exported = export.export(
        model,
        calibration.calibrate(model, tflite_nets.samples(2)),
        activation_bits=bits,
        allow_float_ops=True,
    )
    found = op_support.float_ops(exported.model)
    assert [(f.op, f.tensor) for f in found] == [
        (f.op, f.tensor) for f in foretold
    ]
    assert bool(found) == (bits == 16 and name in ("hard_swish", "layer_norm"))


@pytest.mark.parametrize("name", ["layer_norm", "PRELU"])
def test_where_float_is_asked_for_nothing_is_unsupported(name):
    model = tflite_nets.float_tflite(name)
    assert op_support.unsupported_ops(model, activation_bits=16)
    assert op_support.unsupported_ops(model, activation_bits=32) == []
    export.refuse_float_ops(model, activation_bits=32)


def test_whole_numbers_alone_are_no_float_operation():
    model = convert.to_float(
        tflite_nets.frozen(
            lambda x: x + 1, tf.TensorSpec((1, 4), tf.int32, name="x")
        )
    )
    assert op_support.unsupported_ops(model) == []
    assert flatbuffer.read(model).ops


@pytest.mark.parametrize("bits", [8, 16])
def test_the_config_is_one_of_the_quantizers_policy(bits):
    config = op_support.op_config(bits, qtypes.Granularity.TENSOR)
    assert config.activation_tensor_config.num_bits == bits
    assert config.activation_tensor_config.symmetric == (bits == 16)
    assert config.compute_precision == qtyping.ComputePrecision.INTEGER


@pytest.mark.parametrize("granularity", list(qtypes.Granularity))
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("bits", [8, 16, 32])
def test_every_config_of_weights_is_one_that_the_quantizer_takes(
    bits, packed, granularity
):
    config = op_support.op_config(bits, granularity, packed=packed)
    names = ["CONV_2D", "FULLY_CONNECTED"]
    names += [] if packed else ["DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"]
    for name in names:
        # It raises where its policy lacks the config.
        algorithm_manager.check_op_quantization_config(
            op_support.ALGORITHM, op_support.quantizer_name(name), config
        )
    assert config.weight_tensor_config.num_bits == (4 if packed else 8)
    assert config.explicit_dequantize == (bits == 32)
    assert (config.activation_tensor_config is None) == (bits == 32)
