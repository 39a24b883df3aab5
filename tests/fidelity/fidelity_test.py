"""A quantized model against its graph: every output by what it is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
import tflite_nets
import tiny_graphs

from dsg_tf.export import calibration, simulation, tflite_writer
from dsg_tf.fidelity import fidelity, verdict, verify
from dsg_tf.samples import sample_sets
from dsg_tf.tflite import export

_WEIGHTS = np.random.default_rng(0).normal(size=(4, 3)).astype("f")


def _held_out(count: int = 8) -> sample_sets.SampleSet:
    return sample_sets.SampleSet(tflite_nets.samples(count))


def _graph(function):
    return tiny_graphs.freeze(function, (None, *tflite_nets.SHAPE))


def _heads(x):
    # Their names are output_0 to output_3, in the order of these.
    pooled = tf.reduce_mean(x, [1, 2])
    return {
        "a": tf.sigmoid(8 * pooled[:, :1]),
        "b": tf.sigmoid(9 * pooled),
        "c": tf.nn.relu(x),
        "d": tf.argmax(pooled, -1),
    }


def _int8(graph, sample_set, **changes) -> bytes:
    model = tflite_writer.to_float_tflite(graph)
    ranges = calibration.calibrate(model, sample_set.arrays) | changes
    return export.export(model, ranges, allow_float_ops=True).model


def test_each_output_of_a_file_is_judged_by_its_kind():
    graph, held_out = _graph(_heads), _held_out()
    found = fidelity.compare_outputs(graph, _int8(graph, held_out), held_out)
    one, tags, image, best = found.values()
    assert [row.kind for row in found.values()] == [
        "sigmoids",
        "sigmoids",
        "values",
        "whole numbers",
    ]
    # The kernels prescribe the grid of a sigmoid.
    assert one.step == tags.step == 1 / 256
    assert (one.sqnr_of, tags.sqnr_of) == ("logit", "values")
    assert image.step > 0
    assert best.step == 0
    assert verdict.judge(found, []).passed


def test_outputs_of_a_simulation_have_the_steps_of_their_grids():
    graph, held_out = _graph(_heads), _held_out()
    for bits in (4, 6):
        ranges = simulation.ranges_of(graph, held_out.arrays, bits=bits)
        simulated, _ = simulation.simulate(graph, ranges, bits=bits)
        found = fidelity.compare_outputs(graph, simulated, held_out)
        assert found["output_0"].step == pytest.approx(2.0**-bits, rel=1e-3)


def test_a_constant_file_does_not_pass():
    graph, held_out = _graph(_heads), _held_out()
    dead = _graph(
        lambda x: {
            name: value - value + tf.cast(1, value.dtype)
            for name, value in _heads(x).items()
        }
    )
    found = fidelity.compare_outputs(
        graph, tflite_writer.to_float_tflite(dead), held_out
    )
    told = verdict.judge(found, []).doubts
    for name in found:
        assert any(f"output '{name}' is constant" in text for text in told)


def test_an_output_that_overflows_in_float_is_told_and_no_fault():
    graph = _graph(lambda x: tf.math.log(tf.nn.relu(x)))
    held_out = _held_out()
    model = tflite_writer.to_float_tflite(graph)
    found = fidelity.compare_outputs(graph, model, held_out)
    (text,) = verdict.judge(found, []).doubts
    assert "the float model itself gives NaN or infinity" in text
    rows = fidelity.compare_layers(graph, model, model, held_out)
    assert {row["sqnr_db"] for row in rows} == {math.inf}


def test_shapes_that_depend_on_the_values_are_told_and_no_fault():
    graph = _graph(lambda x: tf.reshape(x, [-1])[:3])
    other = _graph(lambda x: tf.reshape(x, [-1])[:5])
    found = fidelity.compare_outputs(graph, other, _held_out(2))
    (text,) = verdict.judge(found, []).doubts
    assert "has another shape" in text


def test_an_output_without_axes_is_compared_sample_by_sample():
    graph, held_out = _graph(tf.reduce_sum), _held_out()
    for model in (graph, tflite_writer.to_float_tflite(graph)):
        (found,) = fidelity.compare_outputs(graph, model, held_out).values()
        assert (found.samples, found.constant) == (8, False)
        assert found.sqnr_mean_db > 60


# ---- layers


def _rows(name: str, **changes) -> list[verify.LayerFidelity]:
    model = tflite_nets.float_tflite(name)
    sample_set = tflite_nets.samples(6)
    ranges = calibration.calibrate(model, sample_set) | changes
    exported = export.export(model, ranges)
    return verify.per_layer(model, exported.model, sample_set)


def test_a_layer_that_never_fires_is_zero_and_not_dead():
    rows = {row.op: row for row in _rows("dead_sum")}
    assert rows["ADD"].zero
    assert not any(row.dead for row in rows.values())
    assert not rows["INPUT"].zero


def test_a_layer_that_stands_still_in_the_file_is_dead_and_comes_first():
    sums = verify.LayerSums()
    rng = np.random.default_rng(0)
    for _ in range(4):
        sums.update(rng.normal(1, 1, (1, 5)), np.full((1, 5), 0.9))
    row = sums.row("t", "CONV_2D", [])
    assert row.sqnr_db > 0
    assert row.dead
    assert row.badness <= 0
    near = verify.LayerSums()
    for _ in range(4):
        near.update(rng.normal(1, 0.01, (1, 5)), np.ones((1, 5)))
    assert not near.row("t", "CONV_2D", []).dead


def test_rounding_beside_the_inputs_is_zero():
    inputs, mean = verify.LayerSums(), verify.LayerSums()
    x = np.random.default_rng(0).normal(size=(4, 100)).astype("f")
    inputs.update(x, x)
    mean.update(1e-8 * x, 1e-2 * x)
    row = mean.row("mean", "MEAN", [inputs])
    assert row.zero
    assert row.sqnr_db < 0
    assert row.badness == math.inf
