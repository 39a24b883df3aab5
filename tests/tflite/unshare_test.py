"""Constants are shared between like uses only, and keep their values."""

from __future__ import annotations

import numpy as np
import tflite_nets

from dsg_tf.tflite import flatbuffer, interpreter, unshare


def _read(name):
    return flatbuffer.read(tflite_nets.float_tflite(name))


def test_a_bias_that_two_convolutions_share_becomes_two():
    view = _read("convs_sharing_zero_bias")
    first, second = (op.inputs[2] for op in view.ops)
    assert first == second  # The converter's doing.
    other = unshare.separated(view)
    first, second = (other.tensors[op.inputs[2]] for op in other.ops)
    assert first.name != second.name
    np.testing.assert_array_equal(other.constant(first), other.constant(second))
    buffers = [
        other.raw.subgraphs[0].tensors[t.index].buffer for t in (first, second)
    ]
    assert buffers[0] != buffers[1]


def test_weights_shared_in_the_same_way_stay_one():
    view = unshare.separated(_read("convs_sharing_weights"))
    kernels = [op.inputs[1] for op in view.ops]
    assert kernels[1] == kernels[2] != kernels[0]


def test_a_buffer_of_two_tensors_becomes_two():
    view = _read("concat")
    raw = view.raw.subgraphs[0].tensors
    kernels = [op.inputs[1] for op in view.ops if op.name == "CONV_2D"]
    raw[kernels[1]].buffer = raw[kernels[0]].buffer
    other = unshare.separated(flatbuffer.view_of(view.raw))
    buffers = {other.raw.subgraphs[0].tensors[i].buffer for i in kernels}
    assert len(buffers) == 2


def test_the_source_is_left_alone_and_the_copy_computes_the_same():
    name = "convs_sharing_zero_bias"
    view = _read(name)
    other = unshare.separated(view)
    assert len(other.tensors) > len(view.tensors)
    assert flatbuffer.view_of(view.raw).tensors == view.tensors
    samples = tflite_nets.samples(3)
    for key, values in (
        interpreter.Interpreter(flatbuffer.write(other.raw))
        .run(samples)
        .items()
    ):
        expected = interpreter.Interpreter(tflite_nets.float_tflite(name)).run(
            samples
        )
        np.testing.assert_array_equal(values, expected[key])
