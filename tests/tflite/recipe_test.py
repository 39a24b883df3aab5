"""Each operation gets the rule of its own weights, and no other's."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tensorflow as tf
import tflite_nets
from litert_quantizer import qtyping
from litert_quantizer.utils import tfl_flatbuffer_utils

from dsg_tf.export import calibration
from dsg_tf.quant import qtypes
from dsg_tf.tflite import (
    convert,
    export,
    flatbuffer,
    plan,
    readback,
    recipe,
    weights,
)


def _two_convolutions(first, second):
    """Two of them whose outputs have the given names, and their kernels."""
    kernels = [tflite_nets._weights(3, 3, 4, 4, seed=i) for i in (1, 2)]
    model = convert.to_float(
        tflite_nets.frozen(
            lambda x: tf.nn.conv2d(
                tf.nn.conv2d(x, kernels[0], 1, "SAME"), kernels[1], 1, "SAME"
            )
        )
    )
    view = flatbuffer.read(model)
    for op, name in zip(view.ops, (first, second), strict=True):
        view.raw.subgraphs[0].tensors[op.outputs[0]].name = name.encode()
    return flatbuffer.write(view.raw), kernels


@pytest.mark.parametrize(
    "names",
    [("a", "a;b"), ("a;b", "a"), ("x.y", "xzy"), ("c(1)[0]|d", "c")],
)
@pytest.mark.parametrize("bits", [8, 16, 32])
def test_a_layers_container_is_its_own_whatever_its_name(names, bits):
    model, kernels = _two_convolutions(*names)
    grid = tflite_nets.grid_of_kernel(
        np.sign(kernels[1]),
        "Conv2D",
        qtypes.QuantParams([1.0], [0], -127, 127),
    )
    # The second layer's weights become +-1 on an 8-bit grid.
    view = flatbuffer.read(model)
    tensor = view.ops[1].inputs[1]
    raw = view.raw.buffers[view.raw.subgraphs[0].tensors[tensor].buffer]
    raw.data = np.frombuffer(
        np.ascontiguousarray(grid.values).tobytes(), np.uint8
    )
    model = flatbuffer.write(view.raw)
    exported = export.export(
        model,
        calibration.calibrate(model, tflite_nets.samples(2)),
        activation_bits=bits,
        options=weights.Options(bits=4, packed=True, grids=[grid]),
    )
    assert exported.unmatched == ()
    readback.check(exported.model, exported.requested)
    other = flatbuffer.read(exported.model)
    found = {
        t.dtype: t.params.axis
        for t in other.tensors
        if t.constant and len(t.shape) == 4
    }
    assert found == {"int4": 0, "int8": None}


def _rules(name, **options):
    view = flatbuffer.read(tflite_nets.float_tflite(name))
    planned = plan.make(
        view,
        {},
        chosen=weights.choose(view, weights.Options(**options)),
        activation_bits=32,
    )
    found = recipe.rules(view, planned, activation_bits=32, io_type="float32")
    return view, planned, found


def test_without_activations_only_layers_with_weights_have_a_rule():
    view, _, found = _rules("mixed", bits=4, packed=True)
    graph = view.raw.subgraphs[0]
    for op in view.ops:
        scope = tfl_flatbuffer_utils.get_op_scope(
            graph.operators[op.index], graph.tensors
        )
        rules = [rule for rule in found if re.search(rule.scope, scope)]
        assert len(rules) == (weights.operand(view, op) is not None)
        for rule in rules:
            assert rule.op.value == op.name
            bits = 8 if op.name == "DEPTHWISE_CONV_2D" else 4
            assert rule.config.weight_tensor_config.num_bits == bits


@pytest.mark.parametrize("granularity", list(qtypes.Granularity))
def test_rules_say_the_granularity_of_the_weights(granularity):
    _, _, found = _rules("mixed", granularity=granularity)
    words = {
        qtypes.Granularity.CHANNEL: qtyping.QuantGranularity.CHANNELWISE,
        qtypes.Granularity.TENSOR: qtyping.QuantGranularity.TENSORWISE,
    }
    assert len(found) == 3
    for rule in found:
        config = rule.config.weight_tensor_config
        assert config.granularity == words[granularity]


def test_a_file_without_weights_has_no_rules_and_stays_as_it_is():
    _, _, found = _rules("average_pool")
    assert found == []
    exported = export.export(
        tflite_nets.float_tflite("average_pool"), {}, activation_bits=32
    )
    assert readback.check(exported.model, exported.requested).constants == 0


@pytest.mark.parametrize(
    ("packed", "end"), [(False, 127), (True, 7)], ids=["int8", "int4"]
)
def test_ranges_of_weights_end_where_their_container_does(packed, end):
    view, planned, _ = _rules("conv", bits=3, packed=packed)
    ((name, target),) = planned.weights.items()
    found = recipe.statistics(view, planned)
    assert set(found) == {name}
    # 24 bits times 7: exact in float64, and so is the way back.
    scale = target.params.scale.astype(np.float64)
    np.testing.assert_array_equal(found[name]["max"].ravel() / end, scale)
    np.testing.assert_array_equal(found[name]["min"], -found[name]["max"])
    assert found[name]["max"].shape == (8, 1, 1, 1)
