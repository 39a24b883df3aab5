"""Channels of unlike scale that one layer makes keep their resolution."""

import numpy as np
import pytest
import tensorflow as tf

import dsg_tf
from dsg_tf.config import export_config, run_config
from dsg_tf.export import calibration
from dsg_tf.graph.load import loading
from dsg_tf.quant import qtypes, weight_scales
from dsg_tf.tflite import (
    convert,
    export,
    flatbuffer,
    float_edges,
    interpreter,
    output_scales,
    readback,
    weight_grids,
    weights,
)
from tests import tflite_nets

_SCALES = np.array([200.0, 1.0, 0.02, 150.0])
_SHIFTS = np.array([100.0, 0.0, 5.0, 0.0])
_KERNEL = np.random.default_rng(0).normal(size=(1, 1, 6, 4)) * _SCALES
_SPEC = tf.TensorSpec((1, 3, 3, 6), tf.float32, name="x")


def _conv(x, kernel=_KERNEL, shifts=_SHIFTS):
    made = tf.nn.conv2d(x, np.float32(kernel), 1, "SAME")
    return tf.nn.bias_add(made, np.float32(shifts))


def _relu(x):
    return tf.nn.relu(_conv(x, shifts=_SCALES))


def _decoded(x):
    made = _conv(x)
    parts = made[..., :1], tf.sigmoid(made[..., 1:3]), made[..., 3:]
    return tf.concat(parts, -1)


def _classes(x):
    return tf.nn.softmax(_conv(x))


def _alike(x):
    return _conv(x, _KERNEL / _SCALES, 0 * _SHIFTS)


def _inside(x):
    last = np.random.default_rng(1).normal(size=(1, 1, 4, 4)) / _SCALES[:, None]
    made = _conv(x, shifts=0 * _SHIFTS)
    return tf.nn.conv2d(tf.nn.relu(made), np.float32(last), 1, "SAME")


def _samples():
    values = np.random.default_rng(2).normal(size=(64, 3, 3, 6))
    return {"x": values.astype(np.float32)}


def _run(model):
    (values,) = interpreter.Interpreter(model).run(_samples()).values()
    return values.reshape(-1, values.shape[-1]).astype(np.float64)


def _sqnr_db(expected, found):
    """Of each channel, around its mean."""
    noise = np.mean(np.square(found - expected), 0)
    return 10 * np.log10(expected.var(0) / noise)


def _float(net):
    return convert.to_float(tflite_nets.frozen(net, _SPEC))


def _in_integers(model, grids=(), even=()):
    exported = export.export(
        model,
        calibration.calibrate(model, _samples()),
        float_edges=True,
        even=even,
        options=weights.Options(grids=grids),
    )
    readback.check(exported.model, exported.requested)
    assert exported.unmatched == ()
    return exported.model


def _linear(x):
    return _conv(x)


@pytest.mark.parametrize("net", [_linear, _relu, _decoded])
def test_small_channels_are_not_lost_in_integers(net):
    before = _float(net)
    model, (layer,) = output_scales.equalized(before, _samples())
    expected = _run(before)
    assert _sqnr_db(expected, _run(model)).min() > 60
    assert _sqnr_db(expected, _run(_in_integers(model))).min() > 25
    assert _sqnr_db(expected, _run(_in_integers(before))).min() < 10
    assert set(np.frexp(layer.factors)[0]) == {0.5}


@pytest.mark.parametrize("net", [_classes, _alike, _inside])
def test_one_scale_stays_where_it_is_right(net):
    before = _float(net)
    assert output_scales.equalized(before, _samples()) == (before, ())


def test_a_constant_channel_is_no_reason():
    kernel, shifts = _KERNEL.copy() / _SCALES, np.array([0.0, 100.0, 0.0, 0.0])
    kernel[..., 1] = 0.0
    before = _float(lambda x: _conv(x, kernel, 0 * shifts))
    assert output_scales.equalized(before, _samples()) == (before, ())
    wide = _float(lambda x: _conv(x, kernel, 100 * shifts))
    model, _ = output_scales.equalized(wide, _samples())
    np.testing.assert_allclose(_run(model), _run(wide), rtol=1e-5, atol=1e-4)


def test_channels_that_differ_by_their_centres_alone():
    kernel, shifts = _KERNEL / _SCALES, np.array([0.0, 900.0, 0.0, -400.0])
    before = _float(lambda x: _conv(x, kernel, shifts))
    model, (layer,) = output_scales.equalized(before, _samples())
    assert np.ptp(np.log2(layer.factors)) <= 2
    found = _in_integers(model, even={layer.even})
    assert _sqnr_db(_run(before), _run(found)).min() > 25


def test_weights_on_a_grid_stay_on_it():
    rows = _KERNEL.reshape(6, 4).T
    params = weight_scales.choose(
        rows, 4, granularity=qtypes.Granularity.CHANNEL, method="minmax"
    )
    scale = params.scale[:, np.newaxis]
    codes = np.round(rows / scale)
    values = (codes * scale).astype(np.float32)
    grid = weight_grids.WeightGrid(values, params, "conv")
    kernel = values.T.reshape(1, 1, 6, 4)
    before = _float(lambda x: _conv(x, kernel))
    model, (layer,) = output_scales.equalized(before, _samples())
    made = flatbuffer.read(_in_integers(model, [layer.scaled(grid)]))
    (conv,) = (op for op in made.ops if op.name == "CONV_2D")
    found = made.constant(made.tensors[conv.inputs[1]])
    np.testing.assert_array_equal(found.reshape(4, 6), codes)


def test_a_factor_by_channel_at_the_end_stays_float():
    factor = np.float32([160.0, 160.0, 1.0, 1.0])
    model = _float(lambda x: factor * tf.sigmoid(_alike(x)))
    view = flatbuffer.read(model)
    edges = float_edges.find(view, activation_bits=8)
    assert {view.ops[i].name for i in edges.tail} == {"MUL"}
    assert _sqnr_db(_run(model), _run(_in_integers(model))).min() > 25


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_the_front_door(tmp_path, granularity):
    first = np.random.default_rng(3).normal(size=(3, 3, 6, 6)) / 5

    def net(x):
        hidden = tf.nn.relu(tf.nn.conv2d(x, np.float32(first), 1, "SAME"))
        return _decoded(hidden)

    model = tf.function(net, input_signature=[_SPEC])
    result = dsg_tf.quantize_model(
        model,
        output=tmp_path / "net.tflite",
        samples=_samples()["x"],
        config=run_config.PipelineConfig(
            export=export_config.ExportConfig(granularity=granularity)
        ),
    )
    expected = np.concatenate(
        [net(x[np.newaxis]) for x in _samples()["x"]]
    ).reshape(-1, 4)
    assert _sqnr_db(expected, _run(result.tflite)).min() > 20
    assert "MUL" in {f.operation for f in result.report.float_operations}
    assert loading.load(model).outputs
