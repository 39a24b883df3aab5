"""The view names what the file holds."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tflite_nets
from ai_edge_litert import schema_py_generated as schema

from dsg_tf.core import errors
from dsg_tf.tflite import convert, flatbuffer


def test_operations_tensors_and_constants_are_named():
    view = flatbuffer.read(tflite_nets.float_tflite("residual"))
    assert [op.name for op in view.ops] == ["CONV_2D", "ADD"]
    conv, add = view.ops
    kernel = view.tensors[conv.inputs[1]]
    assert (kernel.shape, kernel.dtype) == ((4, 3, 3, 4), "float32")
    assert kernel.constant
    assert not view.tensors[conv.inputs[0]].constant
    expected = tflite_nets._weights(3, 3, 4, 4).transpose(3, 0, 1, 2)
    np.testing.assert_array_equal(view.constant(kernel), expected)
    assert view.producers[add.outputs[0]] is add
    assert view.consumers[view.inputs[0]] == (conv, add)
    assert view.outputs == add.outputs
    assert list(view.input_names()) == ["x"]
    assert list(view.output_names()) == ["output_0"]
    assert {t.index for t in view.float_activations()} == {
        view.inputs[0],
        conv.outputs[0],
        add.outputs[0],
    }


def test_a_left_out_operand_is_minus_one_and_no_tensor():
    model = convert.to_float(
        tflite_nets.frozen(
            lambda x: tf.matmul(x, np.ones((4, 3), np.float32)),
            tf.TensorSpec((1, 4), name="x"),
        )
    )
    (op,) = flatbuffer.read(model).ops
    assert op.inputs[2] == -1


def test_writing_what_was_read_changes_nothing():
    model = tflite_nets.float_tflite("squeeze_excite")
    view = flatbuffer.read(model)
    again = flatbuffer.read(flatbuffer.write(view.raw))
    assert (again.tensors, again.ops) == (view.tensors, view.ops)
    for tensor in view.tensors:
        if tensor.constant:
            np.testing.assert_array_equal(
                again.constant(tensor), view.constant(tensor)
            )


def test_grids_are_read_with_their_axis():
    view = flatbuffer.read(tflite_nets.float_tflite("conv"))
    raw = view.raw.subgraphs[0].tensors
    kernel, data = (view.ops[0].inputs[i] for i in (1, 0))
    for index, scale, axis in (
        (kernel, np.arange(1.0, 9), 0),
        (data, [2.0], 3),
    ):
        raw[index].type = schema.TensorType.INT8
        raw[index].quantization = schema.QuantizationParametersT()
        raw[index].quantization.scale = scale
        raw[index].quantization.zeroPoint = [0] * len(scale)
        raw[index].quantization.quantizedDimension = axis
    again = flatbuffer.view_of(view.raw)
    params = again.tensors[kernel].params
    np.testing.assert_array_equal(params.scale, np.arange(1, 9))
    assert (params.axis, params.qmin, params.qmax) == (0, -128, 127)
    # One scale is one for the whole tensor, whatever axis the file says.
    assert again.tensors[data].params.axis is None


@pytest.mark.parametrize("shape", [(4,), (5,), (2, 3)])
def test_int4_is_unpacked_low_nibble_first(shape):
    codes = np.resize(np.arange(-8, 8), int(np.prod(shape)))
    padded = np.append(codes, 0) if codes.size % 2 else codes
    packed = (padded[0::2] & 0xF) | ((padded[1::2] & 0xF) << 4)
    found = flatbuffer._unpacked_int4(packed.astype(np.uint8), shape)
    np.testing.assert_array_equal(found, codes.reshape(shape))


def test_what_is_no_tflite_is_refused():
    with pytest.raises(errors.UserError, match="TFL3"):
        flatbuffer.read(b"PK\x03\x04 a zip file, say")


def test_control_flow_is_refused():
    loop = tflite_nets.frozen(
        lambda x: tf.while_loop(
            lambda i, y: i < tf.cast(tf.reduce_max(y), tf.int32),
            lambda i, y: (i + 1, y / 2),
            [0, x],
        )[1],
        tf.TensorSpec((1, 4), name="x"),
    )
    with pytest.raises(errors.UserError, match="control flow"):
        convert.to_float(loop)
