"""Grids and integers of constants against float64 NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import tflite_nets

from dsg_tf.core import errors
from dsg_tf.quant import qtypes, uniform, weight_scales
from dsg_tf.tflite import flatbuffer, weights


def _view(name):
    view = flatbuffer.read(tflite_nets.float_tflite(name))
    ops = [op for op in view.ops if weights.operand(view, op) is not None]
    return view, ops


def _activations(view, scale=0.05):
    grid = qtypes.QuantParams([scale], [0], -128, 127)
    return {t.index: grid for t in view.float_activations()}


@pytest.mark.parametrize(
    ("name", "axis"),
    [("conv", 0), ("depthwise", 3), ("transpose_conv", 0), ("dense_3d", 0)],
)
@pytest.mark.parametrize("bits", [3, 8])
def test_each_channel_reaches_its_largest_weight(name, axis, bits):
    view, (op,) = _view(name)
    tensor = weights.operand(view, op)
    values = view.constant(tensor).astype(np.float64)
    chosen = weights.choose(view, weights.Options(bits=bits))
    (params,) = chosen.grids.values()
    others = tuple(i for i in range(values.ndim) if i != axis)
    expected = np.abs(values).max(others) / (2 ** (bits - 1) - 1)
    assert params.axis == axis
    np.testing.assert_allclose(params.scale, expected, rtol=2.0**-24)
    found = weights.quantized(view, op, _activations(view), chosen)[tensor.name]
    assert np.abs(found.codes).max(others).tolist() == (
        [2 ** (bits - 1) - 1] * values.shape[axis]
    )


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_mse_is_never_worse_than_minmax_and_better_at_few_bits(bits):
    view, (op,) = _view("conv")
    tensor = weights.operand(view, op)
    values = view.constant(tensor)
    costs = {}
    for method in weight_scales.METHODS:
        options = weights.Options(bits=bits, range_method=method)
        params = weights.choose(view, options).grids[tensor.index]
        error = uniform.fake_quantize(values, params) - values
        costs[method] = (error**2).sum((1, 2, 3))
    assert np.all(costs["mse"] <= costs["minmax"])
    assert costs["mse"].sum() < 0.95 * costs["minmax"].sum()


def test_biases_are_in_steps_of_input_times_weight():
    view, (op,) = _view("conv")
    chosen = weights.choose(view, weights.Options())
    grids = _activations(view)
    found = weights.quantized(view, op, grids, chosen)
    (bias,) = weights.quantized_bias(view, op, grids, found).values()
    (kernel,) = found.values()
    step = np.float64(np.float32(0.05)) * kernel.params.scale.astype(np.float64)
    values = view.constant(weights.bias_operand(view, op)).astype(np.float64)
    np.testing.assert_array_equal(bias.codes, np.rint(values / step))
    np.testing.assert_array_equal(bias.params.scale, step.astype(np.float32))


def test_the_floor_keeps_every_bias_within_2_to_the_30():
    view, (op,) = _view("tiny_channel")
    chosen = weights.choose(view, weights.Options())
    grids = _activations(view)
    found = weights.quantized(view, op, grids, chosen)
    (kernel,) = found.values()
    (own,) = chosen.grids.values()
    # Only the tiny channel's scale is raised.
    assert kernel.params.scale[-1] > own.scale[-1]
    np.testing.assert_array_equal(kernel.params.scale[:-1], own.scale[:-1])
    (bias,) = weights.quantized_bias(view, op, grids, found).values()
    assert abs(bias.codes[-1]) <= 2**30 * (1 + 2.0**-20)
    real = bias.codes[-1] * float(bias.params.scale[-1])
    assert real == pytest.approx(0.219, rel=1e-6)


def test_shared_weights_have_one_grid_that_serves_all_their_users():
    view, ops = _view("convs_sharing_weights")
    shared = [op for op in ops if op.inputs[1] == ops[-1].inputs[1]]
    assert len(shared) == 2
    chosen = weights.choose(view, weights.Options())
    grids = _activations(view)
    # One user's output is so coarse that its multiplier would vanish.
    coarse = qtypes.QuantParams([3e9], [0], -128, 127)
    grids[shared[0].outputs[0]] = coarse
    found = [weights.quantized(view, op, grids, chosen) for op in shared]
    (first,), (second,) = (list(f.values()) for f in found)
    assert first.params.same_as(second.params)
    own = chosen.grids[shared[0].inputs[1]]
    assert np.all(first.params.scale > own.scale)


@pytest.mark.parametrize("bits", [1, 9, "8"])
def test_impossible_bits_are_refused(bits):
    with pytest.raises(errors.UserError, match="weight_bits"):
        weights.Options(bits=bits)


def test_an_unknown_range_method_lists_the_known_ones():
    with pytest.raises(errors.UserError, match="minmax, mse"):
        weights.Options(range_method="max")
