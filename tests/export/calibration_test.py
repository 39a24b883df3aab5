"""Ranges are those of the float graph's tensors, sample by sample."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tflite_nets
import tiny_graphs

from dsg_tf.core import errors
from dsg_tf.export import calibration
from dsg_tf.quant import qtypes
from dsg_tf.tflite import convert, flatbuffer, op_support


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
    assert op_support.activation_spec(16) == qtypes.QuantSpec(
        16, symmetric=True
    )


def _graph(batch_size=None, outputs=1):
    """Input x and a matrix product of it, which merges batch and space."""
    kernel = tflite_nets._weights(4, 3)

    def network(x):
        y = tf.reshape(x, [-1, 4]) @ kernel
        return [tf.nn.relu(tf.reshape(y, [-1, 8, 8, 3]))] * outputs

    return tiny_graphs.freeze(network, (batch_size, *tflite_nets.SHAPE))


def _expected(x: np.ndarray) -> np.ndarray:
    """The matrix product, float64 (N, 192)."""
    kernel = tflite_nets._weights(4, 3).astype(np.float64)
    return (x.reshape(-1, 4) @ kernel).reshape(len(x), -1)


@pytest.mark.parametrize("batch_size", [None, 1, 5])
@pytest.mark.parametrize("method", ["ema", "minmax", "mse", "percentile"])
def test_graph_tensors_have_the_ranges_of_their_values(method, batch_size):
    samples = tflite_nets.samples(19)
    graph = _graph(batch_size)
    tensors = ["x:0", "matmul:0"]
    found = calibration.calibrate_graph(
        graph,
        tensors,
        samples,
        range_method=method,
        percentile=90.0,
        spec=qtypes.QuantSpec(4, symmetric=False),
    )
    assert list(found) == tensors
    for values, bounds in zip(
        (samples["x"].reshape(19, -1), _expected(samples["x"])),
        found.values(),
        strict=True,
    ):
        # Sums of four float32 products in another order.
        if method == "minmax":
            assert bounds.max == pytest.approx(values.max(), rel=1e-6)
            assert bounds.min == pytest.approx(values.min(), rel=1e-6)
        elif method == "ema":  # Of samples, wherever their axis went.
            mean = values.max(axis=1).mean()
            assert bounds.max == pytest.approx(mean, rel=1e-6)
        elif method == "percentile":
            assert bounds.max == pytest.approx(
                np.quantile(values, 0.9), rel=0.01
            )
        else:
            # The best 4-bit clip of a Gaussian lies near 2.5 deviations.
            assert 2 < bounds.max / values.std() < values.max() / values.std()


def test_graph_and_file_have_the_same_ranges():
    kernel = tflite_nets._weights(3, 3, 4, 4)
    graph = tiny_graphs.freeze(
        lambda x: tf.nn.relu(x + tf.nn.conv2d(x, kernel, 1, "SAME")),
        (None, *tflite_nets.SHAPE),
    )
    samples = tflite_nets.samples(6)
    own = calibration.calibrate_graph(
        graph, ["x:0", "Conv2D:0", "Relu:0"], samples
    )
    theirs = calibration.calibrate(
        tflite_nets.float_tflite("residual"), samples
    )
    for ours, other in zip(
        sorted(r.max for r in own.values()),
        sorted(r.max for r in theirs.values()),
        strict=True,
    ):
        # Sums of 36 float32 products in another order.
        assert ours == pytest.approx(other, abs=1e-5)


def test_graphs_run_a_few_samples_at_a_time():
    """Never all of them, which may lie on the disk and not fit in memory."""

    class Samples:
        shape = (19, *tflite_nets.SHAPE)

        def __init__(self):
            self.read = []

        def __getitem__(self, index):
            self.read.append((index.start, index.stop))
            return np.zeros((index.stop - index.start, *self.shape[1:]))

    samples, calls = Samples(), []
    calibration.calibrate_graph(
        _graph(),
        ["matmul:0"],
        {"x": samples},
        progress=lambda done, total: calls.append((done, total)),
    )
    assert samples.read == [(0, 8), (8, 16), (16, 19)]
    assert calls == [(8, 19), (16, 19), (19, 19)]


def test_constants_and_whole_number_inputs_calibrate():
    table = tflite_nets._weights(10, 4)
    graph = tiny_graphs.freeze(
        lambda x: tf.gather(table, x) * np.float32([1, 2, -3, 4]),
        (None, 5),
        dtype=tf.int32,
    )
    (scaling,) = [
        t for t in graph.producer("mul:0").inputs if graph.is_constant(t)
    ]
    # Real numbers that stand for whole ones, as samples do.
    found = calibration.calibrate_graph(
        graph, [scaling, "mul:0"], {"x": np.arange(10.0).reshape(2, 5)}
    )
    assert found[scaling] == qtypes.TensorRange(-3, 4)
    expected = table * [1, 2, -3, 4]
    assert found["mul:0"].max == pytest.approx(expected.max())


def test_nan_in_a_graph_is_an_error_that_names_the_tensor():
    graph = tiny_graphs.freeze(tf.math.log, (None, 3))
    with pytest.raises(errors.UserError, match=r"'Log:0': got NaN"):
        calibration.calibrate_graph(
            graph, ["Log:0"], {"x": -np.ones((2, 3), np.float32)}
        )


@pytest.mark.parametrize(
    "samples",
    [
        {"y": np.zeros((2, 8, 8, 4))},
        {"x": np.zeros((2, 8, 8, 5))},
        {"x": np.zeros((0, 8, 8, 4))},
        {"x": np.float32(0)},
    ],
)
def test_samples_that_do_not_fit_a_graph_are_refused(samples):
    with pytest.raises(errors.UserError, match="samples"):
        calibration.calibrate_graph(_graph(), ["x:0"], samples)


def test_a_graph_that_is_built_for_a_batch_is_refused():
    graph = tiny_graphs.freeze(
        lambda x: tf.reshape(x, [5, -1]), (5, *tflite_nets.SHAPE)
    )
    with pytest.raises(errors.UserError, match="batch size"):
        calibration.calibrate_graph(graph, ["x:0"], tflite_nets.samples(5))
