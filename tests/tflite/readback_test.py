"""The read-back sees every single thing that can be wrong in a file."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import tflite_nets
from ai_edge_litert import schema_py_generated as schema

from dsg_tf.export import calibration
from dsg_tf.tflite import export, flatbuffer, readback, weights


@pytest.fixture(scope="module")
def exported():
    model = tflite_nets.float_tflite("squeeze_excite")
    ranges = calibration.calibrate(model, tflite_nets.samples())
    return export.export(model, ranges)


def _with(exported, change) -> bytes:
    """The file after `change(view, its raw graph)`."""
    view = flatbuffer.read(exported.model)
    for buffer in view.raw.buffers:
        if buffer.data is not None:
            buffer.data = np.array(buffer.data)  # A copy that can be changed.
    change(view, view.raw.subgraphs[0])
    return flatbuffer.write(view.raw)


def _operand(view, slot):
    """Tensor index of an operand of the first convolution."""
    return next(op for op in view.ops if op.name == "CONV_2D").inputs[slot]


def _name(exported, slot):
    view = flatbuffer.read(exported.model)
    return view.tensors[_operand(view, slot)].name


def test_an_untouched_file_passes_and_everything_is_counted(exported):
    found = readback.check(_with(exported, lambda *_: None), exported.requested)
    view = flatbuffer.read(exported.model)
    constants = [t for t in view.tensors if t.constant and t.params is not None]
    assert found.constants == len(constants)
    assert found.integers == sum(view.constant(t).size for t in constants)
    quantized = [t for t in view.tensors if t.params is not None]
    assert found.activations == len(quantized) - len(constants)
    assert found.max_scale_error == 0


@pytest.mark.parametrize("slot", [1, 2], ids=["weights", "bias"])
def test_one_integer_off_by_one_is_found(exported, slot):
    def change(view, graph):
        data = view.raw.buffers[graph.tensors[_operand(view, slot)].buffer].data
        data[8] ^= 1  # The lowest bit of an integer, int8 or int32.

    with pytest.raises(readback.ReadBackError) as error:
        readback.check(_with(exported, change), exported.requested)
    assert repr(_name(exported, slot)) in str(error.value)
    assert "differences" in str(error.value)


@pytest.mark.parametrize(
    "slot", [0, 1, 2], ids=["activation", "weights", "bias"]
)
@pytest.mark.parametrize("factor", [1 + 2.0**-21, 2.0])
def test_one_scale_off_is_found(exported, slot, factor):
    def change(view, graph):
        scale = graph.tensors[_operand(view, slot)].quantization.scale
        scale = np.array(scale, np.float32)
        scale[-1] *= factor
        graph.tensors[_operand(view, slot)].quantization.scale = scale

    with pytest.raises(readback.ReadBackError, match="scale"):
        readback.check(_with(exported, change), exported.requested)


@pytest.mark.parametrize("slot", [0, 1])
def test_one_zero_point_off_is_found(exported, slot):
    def change(view, graph):
        tensor = graph.tensors[_operand(view, slot)]
        zero = np.array(tensor.quantization.zeroPoint, np.int64)
        zero[-1] += 1
        tensor.quantization.zeroPoint = zero

    with pytest.raises(readback.ReadBackError, match="zero point"):
        readback.check(_with(exported, change), exported.requested)


def test_another_channel_axis_is_found(exported):
    def change(view, graph):
        tensor = graph.tensors[_operand(view, 1)]
        tensor.quantization.quantizedDimension = 3

    with pytest.raises(readback.ReadBackError, match="axis"):
        readback.check(_with(exported, change), exported.requested)


def test_a_lost_scale_is_found(exported):
    def change(view, graph):
        graph.tensors[_operand(view, 1)].quantization = None

    with pytest.raises(readback.ReadBackError, match="no scale"):
        readback.check(_with(exported, change), exported.requested)


def test_another_type_is_found(exported):
    def change(view, graph):
        graph.tensors[_operand(view, 0)].type = schema.TensorType.INT16

    with pytest.raises(readback.ReadBackError, match="int16; expected int8"):
        readback.check(_with(exported, change), exported.requested)


def test_a_saturated_bias_is_found_though_abs_of_int32_min_is_negative(
    exported,
):
    def change(view, graph):
        data = view.raw.buffers[graph.tensors[_operand(view, 2)].buffer].data
        data[:4] = np.frombuffer(np.int32(-(2**31)).tobytes(), np.uint8)

    with pytest.raises(readback.ReadBackError, match="a bias of 2147483648"):
        readback.check(_with(exported, change), exported.requested)


def test_a_tensor_that_was_not_asked_for_is_found(exported):
    def change(view, graph):
        graph.tensors[_operand(view, 1)].name = b"another"

    with pytest.raises(readback.ReadBackError, match="another"):
        readback.check(_with(exported, change), exported.requested)


def test_a_tensor_that_is_not_there_is_found(exported):
    extra = dataclasses.replace(
        exported.requested,
        tensors=exported.requested.tensors
        | {"more": next(iter(exported.requested.tensors.values()))},
    )
    with pytest.raises(readback.ReadBackError, match="'more'"):
        readback.check(exported.model, extra)


def test_another_interface_is_found(exported):
    for change in (
        {"inputs": ("image",)},
        {"outputs": ("logits",)},
        {"io_type": "int8"},
    ):
        with pytest.raises(readback.ReadBackError):
            readback.check(
                exported.model,
                dataclasses.replace(exported.requested, **change),
            )


def test_a_float_operation_that_was_not_said_is_found():
    model = tflite_nets.float_tflite("hard_swish")
    ranges = calibration.calibrate(model, tflite_nets.samples())
    exported = export.export(
        model, ranges, activation_bits=16, allow_float_ops=True
    )
    assert readback.check(exported.model, exported.requested).float_ops == 1
    unsaid = dataclasses.replace(exported.requested, float_ops=())
    with pytest.raises(readback.ReadBackError, match="a float HARD_SWISH"):
        readback.check(exported.model, unsaid)


def test_float_constants_are_found(exported):
    """Weights that were left float32 would compute, and nobody would see."""

    def change(view, graph):
        index = _operand(view, 1)
        tensor = view.tensors[index]
        buffer = copy.copy(view.raw.buffers[graph.tensors[index].buffer])
        values = view.constant(tensor).astype(np.float32)
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        view.raw.buffers[graph.tensors[index].buffer] = buffer
        graph.tensors[index].type = schema.TensorType.FLOAT32
        graph.tensors[index].quantization = None

    with pytest.raises(readback.ReadBackError, match="float32"):
        readback.check(_with(exported, change), exported.requested)


@pytest.fixture(scope="module", params=[8, 32])
def packed(request):
    model = tflite_nets.float_tflite("squeeze_excite")
    return export.export(
        model,
        calibration.calibrate(model, tflite_nets.samples()),
        activation_bits=request.param,
        options=weights.Options(bits=4, packed=True),
    )


def _kernel_index(exported):
    view = flatbuffer.read(exported.model)
    return next(t.index for t in view.tensors if t.dtype == "int4")


def test_one_int4_off_by_one_is_found(packed):
    index = _kernel_index(packed)
    readback.check(packed.model, packed.requested)

    def change(view, graph):
        # The second code of the byte.
        view.raw.buffers[graph.tensors[index].buffer].data[3] ^= 0x10

    with pytest.raises(readback.ReadBackError, match="and 1 differences"):
        readback.check(_with(packed, change), packed.requested)


def test_another_container_is_found_either_way(packed):
    name = flatbuffer.read(packed.model).tensors[_kernel_index(packed)].name

    def check(is_packed):
        tensors = dict(packed.requested.tensors)
        tensors[name] = dataclasses.replace(tensors[name], packed=is_packed)
        return readback.check(
            packed.model, dataclasses.replace(packed.requested, tensors=tensors)
        )

    check(True)
    with pytest.raises(readback.ReadBackError, match="int4; expected int8"):
        check(False)

    def change(view, graph):
        for tensor in graph.tensors:
            if tensor.type == schema.TensorType.INT4:
                data = view.raw.buffers[tensor.buffer].data
                view.raw.buffers[tensor.buffer].data = np.repeat(data, 2)[
                    : np.prod(tensor.shape)
                ]
                tensor.type = schema.TensorType.INT8

    with pytest.raises(readback.ReadBackError, match="int8; expected int4"):
        readback.check(_with(packed, change), packed.requested)
