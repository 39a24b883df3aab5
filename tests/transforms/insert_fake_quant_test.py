"""Simulated integers: on the grid, where the .tflite has one, and near it."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import simulated_nets
import tensorflow as tf
import tflite_nets
import tiny_graphs

from dsg_tf.analysis import linear_layers
from dsg_tf.export import calibration
from dsg_tf.fidelity import verify
from dsg_tf.graph import frozen, ir
from dsg_tf.graph.load import loading
from dsg_tf.quant import qtypes, uniform
from dsg_tf.tflite import interpreter
from dsg_tf.transforms import insert_fake_quant

_RNG = np.random.default_rng(0)
# Ranges around zero, and those that begin or end there.
_RANGES = [
    qtypes.TensorRange(low, high)
    for scale in (1e-4, 1e-1, 1.0, 37.0, 1e4)
    for low, high in (
        (0.0, scale * 0.917),
        (-scale * 1.31, 0.0),
        (-scale * 0.213, scale),
        (-scale, scale * 1.011),
    )
]


def _grid(low, high, *, bits=4, symmetric=False) -> qtypes.QuantParams:
    return uniform.affine_params(qtypes.TensorRange(low, high), bits, symmetric)


def _run(graph: ir.Graph, *inputs: np.ndarray) -> list[np.ndarray]:
    return [
        t.numpy() for t in frozen.to_function(graph)(*map(tf.constant, inputs))
    ]


def _insert(function, fed: np.ndarray, grid: qtypes.QuantParams, **grids):
    """A function with one grid on all points but those of `grids`."""
    graph = tiny_graphs.freeze(function, (None, *fed.shape[1:]))
    points = insert_fake_quant.quantization_points(graph)
    chosen = {p: grids.get(ir.node_name(p), grid) for p in points}
    simulated, report = insert_fake_quant.insert(graph, chosen)
    return _run(simulated, fed), report


def _check_same(found: np.ndarray, x: np.ndarray, grid: qtypes.QuantParams):
    """Equal to uniform.fake_quantize, but for float32 and ties.

    Both ends of the grid are rounded to float32 and subtracted: 2 ulp of the
    greater, and one for the product. The quotient x / scale, up to 2^bits, has
    them too: a value within 2^(bits - 22) steps of the middle between two
    codes may come to either.
    """
    scale, ends = float(grid.scale[0]), grid.range
    error = np.abs(found - uniform.fake_quantize(x, grid))
    bits = (grid.qmax - grid.qmin).bit_length()
    to_tie = np.abs(np.abs(x / scale) % 1 - 0.5)
    tied = to_tie < 2.0 ** (bits - 22)
    error = np.where(tied, np.minimum(error, np.abs(scale - error)), error)
    assert error.max() <= 3 * np.spacing(np.float32(max(-ends.min, ends.max)))
    np.testing.assert_array_equal(found[x == 0], 0)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8, 16])
def test_rounding_is_that_of_uniform_at_every_width(bits, symmetric):
    for bounds in _RANGES:
        grid = uniform.affine_params(bounds, bits, symmetric)
        scale, ends = float(grid.scale[0]), grid.range
        codes = np.arange(grid.qmin, grid.qmax + 1) - grid.zero_point[0]
        beyond = 3 * scale
        x = np.concatenate(
            [
                _RNG.uniform(ends.min - beyond, ends.max + beyond, 2000),
                codes[:: max(1, len(codes) // 512)] * scale,
                [0.0, -1e5 * scale, 1e5 * scale],
            ]
        ).astype(np.float32)
        # A reversal has its input's grid, so that x is the only point.
        (found,), report = _insert(
            lambda v: tf.reverse(v, [0]), x[:, np.newaxis], grid
        )
        assert len(report.applied) == 1
        _check_same(found[::-1, 0], x, grid)


def test_pixels_between_two_codes_go_to_the_even_one_as_in_kernels():
    """Those of [-1, 1] all lie there, at 8 bits, and float32 blurs it."""
    grid = _grid(-1, 1, bits=8)
    pixels = np.arange(256, dtype=np.float32) / np.float32(127.5) - 1
    x = pixels[:, np.newaxis]
    (found,), _ = _insert(lambda v: tf.reverse(v, [0]), x, grid)
    steps = x * (1 / grid.scale[0])  # As XNNPACK does.
    expected = np.clip(np.rint(steps), -128, 127) * grid.scale[0]
    # Two products, and 3 ulp of the FakeQuant behind them.
    np.testing.assert_allclose(found[::-1], expected, atol=4e-7)


@pytest.mark.parametrize("bits", [4, 8])
def test_no_more_values_than_codes(bits):
    x = _RNG.normal(size=(64, 8, 8, 2)).astype(np.float32)
    fine = _grid(-4, 4, bits=16)
    (found,), _ = _insert(tf.exp, x, _grid(0, 3, bits=bits), x=fine)
    assert 2 ** (bits - 1) < len(np.unique(found)) <= 2**bits


# Outside of these sets the simulation rounds as the file does but for ties
# and the kernels' fixed-point arithmetic. A share p of outputs that is one
# step s off is noise of p s^2, where rounding alone makes s^2 / 12: at
# p = 4 %, 3 dB less.
_MARGIN_DB = 3.0
# Jumps where x meets a constant, so that a tie is a large difference; and an
# average of 16 integers, where one in 16 is a tie and all of them go one way.
# That they are no farther than twice the noise is what can be said.
_LOOSE = frozenset({"GREATER", "LESS_EQUAL", "mixed"})
_NETS = tflite_nets.NETS | tflite_nets.STAND_IN_NETS
_MORE = {"hard_swish_alone", "pool_relu", "shifted_conv_unpadded"}


@pytest.mark.parametrize("name", sorted(_NETS.keys() | _MORE))
def test_simulation_is_nearer_to_the_tflite_than_the_float_model_is(name):
    graph, model, matched = simulated_nets.case(name)
    samples = tflite_nets.samples(8)
    exported, found = simulated_nets.export_int8(model, samples)
    grids = {point: found[t] for point, t in matched.pairs.items()}
    # What the converter computes once has no partner.
    ranges = calibration.calibrate_graph(graph, matched.graph_only, samples)
    for point, bounds in ranges.items():
        grids[point] = uniform.affine_params(bounds, 8, symmetric=False)
    simulated, _ = insert_fake_quant.insert(graph, grids)
    outputs = [_run(simulated, x[np.newaxis]) for x in samples["x"]]
    integer = interpreter.Interpreter(exported).run(samples)
    reference = interpreter.Interpreter(model).run(samples)
    margin = -3.0 if name in _LOOSE else _MARGIN_DB
    for port, *values in zip(simulated.outputs, *outputs, strict=True):
        expected = integer[port.name]
        own = np.concatenate(values)
        if not port.dtype.is_floating:
            np.testing.assert_array_equal(own, expected)
            continue
        near = verify.compare(expected, own).sqnr_db
        far = verify.compare(expected, reference[port.name]).sqnr_db
        # 60 dB, a thousandth, is beyond what 8 bits can tell.
        assert near >= min(far + margin, 60)


def test_a_keras_network_with_residuals_and_concat_agrees():
    keras.utils.set_random_seed(3)
    inputs = keras.Input((8, 8, 4), name="x")
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(inputs)
    y = keras.layers.DepthwiseConv2D(3, padding="same")(x)
    y = keras.layers.ReLU(6.0)(keras.layers.Add()([x, y]))
    z = keras.layers.Conv2D(8, 1, activation="hard_swish")(y)
    y = keras.layers.Concatenate()([y, z])
    y = keras.layers.GlobalAveragePooling2D()(y)
    outputs = keras.layers.Dense(5, activation="softmax")(y)
    graph = loading.load(keras.Model(inputs, outputs))
    graph = simulated_nets.on_grid(frozen.with_batch_size(graph, 1))
    samples = tflite_nets.samples(16)
    model = simulated_nets.to_float_tflite(graph)
    matched = simulated_nets.match(graph, model, tflite_nets.samples(1))
    assert (matched.graph_only, matched.tflite_only) == ([], [])
    exported, found = simulated_nets.export_int8(model, samples)
    simulated, _ = insert_fake_quant.insert(
        graph, {p: found[t] for p, t in matched.pairs.items()}
    )
    (name,) = (port.name for port in graph.outputs)
    expected = interpreter.Interpreter(exported).run(samples)[name]
    own = np.concatenate([_run(simulated, v[None])[0] for v in samples["x"]])
    # One step of the Softmax, 1/256, and what a step before it makes of one.
    assert np.abs(own - expected).max() <= 2 / 256
    assert verify.compare(expected, own).top1_agreement >= 15 / 16


def test_ranges_of_the_graph_are_those_of_the_file():
    graph, model, matched = simulated_nets.case("residual_with_concat")
    samples = tflite_nets.samples(4)
    own = calibration.calibrate_graph(graph, matched.pairs, samples)
    theirs = calibration.calibrate(model, samples)
    for point, tensor in matched.pairs.items():
        # Sums of 72 float32 products in another order.
        assert own[point].min == pytest.approx(theirs[tensor].min, abs=1e-5)
        assert own[point].max == pytest.approx(theirs[tensor].max, abs=1e-5)


@pytest.mark.parametrize(
    ("function", "top", "steps"),
    [(tf.sigmoid, 1.0, 16), (tf.nn.softmax, 1.0, 16), (tf.tanh, 1.0, 8)],
)
def test_prescribed_grids_keep_their_ends_at_4_bits(function, top, steps):
    x = 4 * _RNG.normal(size=(500, 3)).astype(np.float32)
    (found,), _ = _insert(function, x, _grid(-8, 8))
    assert found.max() == top - top / steps
    codes = found * steps
    np.testing.assert_array_equal(codes, np.rint(codes))


def test_prescribed_grids_are_those_of_the_tflite_at_8_bits():
    for name, expected in (
        ("LOG_SOFTMAX", (16 / 256, 127)),
        ("L2_NORMALIZATION", (1 / 128, 0)),
        ("one_tensor_two_outputs", (1 / 128, 0)),
    ):
        graph = simulated_nets.case(name)[0]
        points = insert_fake_quant.quantization_points(graph)
        grids = {p: _grid(-3, 5, bits=8) for p in points}
        _, report = insert_fake_quant.insert(graph, grids)
        last = report.rows[-1].measured
        assert (last["scale"], last["zero_point"]) == expected, name


def test_a_prescribed_grid_may_be_missing():
    graph = tiny_graphs.freeze(tf.sigmoid, (None, 3))
    simulated, report = insert_fake_quant.insert(graph, {"x:0": _grid(-1, 1)})
    assert [row.measured["bits"] for row in report.rows] == [4, 4]
    x = _RNG.normal(size=(9, 3)).astype(np.float32)
    codes = _run(simulated, x)[0] * 16
    np.testing.assert_array_equal(codes, np.rint(codes))


def test_constant_operands_are_rounded_to_the_width_of_the_result():
    vector = np.float32([0.1, 0.5, -0.7, 0.3])
    grid = _grid(-64, 63, bits=7)  # Whole numbers: what is 1 stays 1.
    fine = _grid(-2, 2, bits=16)
    ones = np.ones((1, 4), np.float32)
    (found,), _ = _insert(
        lambda x: vector * x, ones, grid, mul=_grid(-1, 1, bits=16)
    )
    own = _grid(-0.7, 0.5, bits=16)
    np.testing.assert_allclose(
        found[0], uniform.fake_quantize(vector, own), atol=2e-5
    )
    (found,), _ = _insert(lambda x: vector * x, ones, fine, mul=_grid(-7, 8))
    assert found[0].tolist() == [0, 0, -1, 0]  # Steps of one.


@pytest.mark.parametrize("reshaped", [False, True])
def test_biases_lie_on_the_grid_of_integers(reshaped):
    bias = np.float32([0.3, -0.2, 0.04, 5.0])
    bias = bias.reshape(1, 1, 1, 4) if reshaped else bias
    # The last channel is dead: its bias has a step of next to nothing.
    kernel = np.float32([[[[0.5, -0.25, 1.0, 0.0]]]])
    graph = tiny_graphs.freeze(
        lambda x: tf.nn.conv2d(x, kernel, 1, "SAME") + bias, (1, 1, 1, 1)
    )
    (layer,) = linear_layers.find(graph)
    weights = qtypes.QuantParams([0.5, 0.25, 1.0, 1e-9], [0] * 4, -127, 127, 0)
    graph = graph.replace_nodes({}, weight_grids={layer.kernel_tensor: weights})
    grids = {"x:0": _grid(0, 1.5), "add:0": _grid(-8, 8, bits=16)}
    simulated, report = insert_fake_quant.insert(graph, grids)
    (layer,) = linear_layers.find(simulated)
    # Steps are a tenth of the weights'.
    expected = [0.3, -0.2, 0.0, 5.0]
    np.testing.assert_allclose(layer.bias, expected, rtol=1e-6)
    assert simulated.shape(layer.bias_tensor) == bias.shape
    assert report.measured == {"rounded_biases": 1}


def test_a_bias_is_left_where_a_scale_before_the_layer_goes_into_it():
    """Its weights in the .tflite are others, and so is the bias's step."""
    kernel = np.float32([[[[0.5]]]])
    graph = tiny_graphs.freeze(
        lambda x: tf.nn.conv2d(0.1 * x, kernel, 1, "SAME") + np.float32([0.3]),
        (1, 8, 8, 1),
    )
    (layer,) = linear_layers.find(graph)
    weights = qtypes.QuantParams(0.5, 0, -127, 127)
    graph = graph.replace_nodes({}, weight_grids={layer.kernel_tensor: weights})
    grids = {"x:0": _grid(0, 1.5), "add:0": _grid(-8, 8)}
    _, report = insert_fake_quant.insert(graph, grids)
    assert report.measured == {"rounded_biases": 0}


def test_a_bias_behind_weights_off_the_grid_is_left():
    graph = tiny_graphs.freeze(
        lambda x: x @ np.float32([[0.3]]) + np.float32([0.1234]), (None, 1)
    )
    grids = {"x:0": _grid(0, 1.5), "add:0": _grid(-8, 8)}
    simulated, _ = insert_fake_quant.insert(graph, grids)
    (layer,) = linear_layers.find(simulated)
    assert layer.bias.tolist() == np.float32([0.1234]).tolist()


def test_divisors_are_rounded_as_the_factors_they_become():
    # 1/8 and 1/3: on 4 bits of [0, 1/3] that is 6/45 and 15/45; 1/1000 is 0.
    divisor = np.float32([8, 3, 1000])
    (found,), _ = _insert(
        lambda x: x / divisor,
        np.ones((1, 3), np.float32),
        _grid(0, 15),
        truediv=_grid(0, 15 / 45),
    )
    np.testing.assert_allclose(found[0], [6 / 45, 15 / 45, 0], rtol=1e-6)


def test_a_pool_computes_on_its_inputs_grid():
    x = _RNG.uniform(0, 15, (5, 8, 8, 1)).astype(np.float32)
    (found,), report = _insert(
        lambda v: tf.nn.avg_pool2d(v, 2, 2, "SAME"), x, _grid(0, 15)
    )
    np.testing.assert_array_equal(found, np.rint(found))
    assert [row.applied for row in report.rows] == [True, True]


def test_readers_and_outputs_see_rounded_values_and_inputs_pass():
    x = _RNG.uniform(0, 15, (3, 4)).astype(np.float32)
    (kept, doubled, again), _ = _insert(
        lambda v: (v, 2 * v, tf.abs(2 * v)), x, _grid(0, 30)
    )
    np.testing.assert_array_equal(kept, x)
    for found in (doubled, again):
        np.testing.assert_array_equal(found / 2, np.rint(found / 2))


def test_every_float_tensor_has_a_row_and_the_graph_is_left_as_it_was():
    graph = simulated_nets.case("residual_with_concat")[0]
    before = graph.to_graph_def().SerializeToString(deterministic=True)
    points = insert_fake_quant.quantization_points(graph)
    _, report = insert_fake_quant.insert(
        graph, {p: _grid(-3, 3) for p in points}
    )
    after = graph.to_graph_def().SerializeToString(deterministic=True)
    assert after == before
    varying = [
        node.name for node in graph if not graph.is_constant(node.output)
    ]
    assert [row.node for row in report.rows] == varying
    assert [f"{row.node}:0" for row in report.applied] == list(points)
    assert {row.reason for row in report.skipped} >= {
        "merged with Relu",
        "has the grid of ConcatV2",
        "MaxPool has its input's grid",
    }


def test_half_precision_is_left_and_said():
    graph = tiny_graphs.freeze(tf.exp, (1, 4), dtype=tf.float16)
    points = insert_fake_quant.quantization_points(graph)
    _, report = insert_fake_quant.insert(
        graph, {p: _grid(0, 1) for p in points}
    )
    assert [row.reason for row in report.rows] == ["float16, not float32"] * 2


@pytest.mark.parametrize(
    ("grids", "text"),
    [
        ({"x:0": _grid(0, 1)}, r"got none of \['Exp:0'\]"),
        (
            {"x:0": _grid(0, 1), "Exp:0": _grid(0, 1), "y:0": _grid(0, 1)},
            r"\['y:0'\]",
        ),
        (
            {
                "x:0": qtypes.QuantParams([1.0, 2.0], [0, 0], -7, 7, axis=1),
                "Exp:0": _grid(0, 1),
            },
            "axis 1",
        ),
        (
            {
                "x:0": qtypes.QuantParams(1.0, 0, 0, 255),
                "Exp:0": _grid(0, 1),
            },
            r"codes 0\.\.255",
        ),
    ],
)
def test_grids_that_do_not_fit_are_refused(grids, text):
    graph = tiny_graphs.freeze(tf.exp, (None, 3))
    with pytest.raises(ValueError, match=text):
        insert_fake_quant.insert(graph, grids)
