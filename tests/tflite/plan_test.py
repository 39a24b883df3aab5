"""The plan ties scales as the kernels do, before anything is written."""

from __future__ import annotations

import numpy as np
import pytest
import tflite_nets

from dsg_tf.export import calibration
from dsg_tf.quant import qtypes, uniform
from dsg_tf.tflite import flatbuffer, plan, weights


def _planned(name, bits=8):
    model = tflite_nets.float_tflite(name)
    view = flatbuffer.read(model)
    ranges = calibration.calibrate(model, tflite_nets.samples())
    planned = plan.make(
        view,
        ranges,
        chosen=weights.choose(view, weights.Options()),
        activation_bits=bits,
    )
    return view, ranges, planned


def _grids(view, planned, op_name):
    op = next(op for op in view.ops if op.name == op_name)
    return [
        [
            planned.activations[view.tensors[i].name]
            for i in indices
            if i >= 0 and view.tensors[i].name in planned.activations
        ]
        for indices in (op.inputs, op.outputs)
    ]


@pytest.mark.parametrize("bits", [8, 16])
def test_a_free_tensor_covers_its_range(bits):
    view, ranges, planned = _planned("residual", bits)
    for tensor in view.float_activations():
        expected = uniform.affine_params(
            ranges[tensor.name], bits, symmetric=bits == 16
        )
        assert planned.activations[tensor.name].same_as(expected)


@pytest.mark.parametrize(
    ("name", "op"),
    [
        ("average_pool", "AVERAGE_POOL_2D"),
        ("transpose", "TRANSPOSE"),
        ("split", "SPLIT"),
        ("mean_pad_resize", "RESIZE_BILINEAR"),
    ],
)
def test_outputs_of_moving_operations_have_the_inputs_grid(name, op):
    view, _, planned = _planned(name)
    (source,), outputs = _grids(view, planned, op)
    assert outputs
    assert all(grid.same_as(source) for grid in outputs)


def test_operands_of_a_concat_adopt_its_range_where_nothing_else_reads_them():
    view, _, planned = _planned("concat_input")
    sources, (output,) = _grids(view, planned, "CONCATENATION")
    own = planned.activations[view.tensors[view.inputs[0]].name]
    assert [grid.same_as(output) for grid in sources].count(True) == 2
    assert not own.same_as(output)


@pytest.mark.parametrize(
    ("bits", "scale", "zero_point"), [(8, 1 / 256, -128), (16, 1 / 32768, 0)]
)
def test_softmax_has_the_kernels_grid(bits, scale, zero_point):
    view, _, planned = _planned("dense", bits)
    _, (output,) = _grids(view, planned, "SOFTMAX")
    assert (output.scale[0], output.zero_point[0]) == (scale, zero_point)


def test_multipliers_stay_where_xnnpack_takes_them():
    view, _, planned = _planned("dead_layer")
    for op in view.ops:
        data, kernel = (view.tensors[i].name for i in op.inputs[:2])
        product = planned.activations[data].scale.astype(
            np.float64
        ) * planned.weights[kernel].params.scale.astype(np.float64)
        output = planned.activations[view.tensors[op.outputs[0]].name]
        ratio = product / float(output.scale[0])
        # XNNPACK's own bounds.
        assert np.all((ratio >= 2.0**-32) & (ratio < 2.0**8))


def test_a_widened_grid_keeps_the_ranges_proportions():
    model = tflite_nets.float_tflite("conv")
    view = flatbuffer.read(model)
    ranges = {
        t.name: qtypes.TensorRange(-3, 3) for t in view.float_activations()
    }
    output = view.tensors[view.outputs[0]].name
    chosen = weights.choose(view, weights.Options())
    for low, high, zero_point in ((-1e-9, 3e-9, -64), (0.0, 0.0, -128)):
        ranges[output] = qtypes.TensorRange(low, high)
        planned = plan.make(view, ranges, chosen=chosen)
        assert planned.activations[output].zero_point[0] == zero_point
        assert planned.activations[output].scale[0] > 1e-7


def test_constants_that_are_no_weights_are_quantized_as_activations():
    view, _, planned = _planned("concat_constant")
    _, (output,) = _grids(view, planned, "CONCATENATION")
    (constant,) = planned.operands.values()
    assert constant.params.same_as(output)
    view, _, planned = _planned("preprocessing")
    (constant,) = planned.operands.values()
    assert constant.codes.min() == -128 or constant.codes.max() == 127


def test_float_activations_need_no_ranges_and_get_no_grids():
    view = flatbuffer.read(tflite_nets.float_tflite("mixed"))
    planned = plan.make(
        view,
        {},
        chosen=weights.choose(view, weights.Options(bits=4)),
        activation_bits=32,
    )
    assert planned.activations == planned.biases == planned.operands == {}
    kernels = [
        weights.operand(view, op).name
        for op in view.ops
        if weights.operand(view, op) is not None
    ]
    assert len(kernels) == 3
    assert set(planned.weights) == set(kernels)
    assert [op for op, _ in planned.float_ops] == [op.name for op in view.ops]
