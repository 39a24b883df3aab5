"""Ranges are those of the float graph's tensors, sample by sample."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tflite_nets

from dsg_tf import calibration, errors, qtypes
from dsg_tf.tflite import convert, flatbuffer, policy


def test_every_activation_has_the_range_of_the_graphs_tensor():
    samples = tflite_nets.samples(6)
    ranges = calibration.calibrate(
        tflite_nets.float_tflite("residual"), samples
    )
    kernel = tflite_nets._weights(3, 3, 4, 4)
    inner = tf.nn.conv2d(samples["x"], kernel, 1, "SAME").numpy()
    expected = {
        "serving_default_x:0": samples["x"],
        "PartitionedCall:0": np.maximum(samples["x"] + inner, 0),
    }
    (name,) = set(ranges) - set(expected)
    expected[name] = inner
    for tensor, values in expected.items():
        found = ranges[tensor]
        # Sums of 36 float32 products in another order.
        assert found.min == pytest.approx(min(values.min(), 0), abs=1e-5)
        assert found.max == pytest.approx(max(values.max(), 0), abs=1e-5)


@pytest.mark.parametrize("name", ["concat_input", "squeeze_excite", "split"])
def test_no_activation_is_left_out_and_no_constant_is_in(name):
    model = tflite_nets.float_tflite(name)
    ranges = calibration.calibrate(model, tflite_nets.samples(2))
    view = flatbuffer.read(model)
    assert set(ranges) == {
        t.name for t in view.tensors if t.dtype == "float32" and not t.constant
    }


@pytest.mark.parametrize("method", ["ema", "minmax", "mse", "percentile"])
def test_the_method_is_the_one_asked_for(method):
    model = tflite_nets.float_tflite("average_pool")
    samples = tflite_nets.samples(4)
    ranges = calibration.calibrate(
        model,
        samples,
        range_method=method,
        percentile=90.0,
        spec=qtypes.QuantSpec(4, symmetric=False),
    )
    found = ranges["serving_default_x:0"].max
    x = samples["x"].astype(np.float64)
    if method == "minmax":
        assert found == x.max()
    elif method == "ema":
        assert found == pytest.approx(x.max((1, 2, 3)).mean())
    elif method == "percentile":
        assert found == pytest.approx(np.quantile(x, 0.9), rel=0.01)
    else:
        # The best 4-bit clip of a Gaussian lies near 2.5 deviations.
        assert 2 < found < x.max()


def test_nan_is_an_error_that_names_the_tensor():
    model = convert.to_float(
        tflite_nets.frozen(lambda x: tf.nn.relu(tf.math.log(x)) + 1.0)
    )
    samples = tflite_nets.samples(3)
    samples["x"] = np.abs(samples["x"]) + 0.1
    calibration.calibrate(model, samples)
    samples["x"][2, 1, 1, 1] = -1
    with pytest.raises(errors.UserError, match=r"'Log': got NaN"):
        calibration.calibrate(model, samples)


def test_samples_are_counted_off():
    calls = []
    calibration.calibrate(
        tflite_nets.float_tflite("conv"),
        tflite_nets.samples(3),
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_samples_are_read_one_by_one():
    """A memory-mapped file of samples is never taken in as a whole."""

    class Samples:
        shape = (3, *tflite_nets.SHAPE)

        def __init__(self):
            self.read = []

        def __getitem__(self, index):
            self.read.append(index)
            return np.zeros(self.shape[1:], np.float32)

    samples = Samples()
    calibration.calibrate(tflite_nets.float_tflite("conv"), {"x": samples})
    assert samples.read == [0, 1, 2]


@pytest.mark.parametrize(
    "samples", [{"y": np.zeros((2, 8, 8, 4))}, {"x": np.zeros((2, 8, 8, 5))}]
)
def test_samples_that_do_not_fit_are_refused(samples):
    with pytest.raises(errors.UserError, match="samples"):
        calibration.calibrate(tflite_nets.float_tflite("conv"), samples)


def test_an_unknown_method_is_refused_before_anything_runs():
    with pytest.raises(errors.UserError, match="range_method"):
        calibration.calibrate(
            tflite_nets.float_tflite("conv"),
            tflite_nets.samples(1),
            range_method="max",
        )


def test_16_bit_grids_are_symmetric():
    assert policy.activation_spec(16) == qtypes.QuantSpec(16, symmetric=True)
