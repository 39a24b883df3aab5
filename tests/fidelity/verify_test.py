"""Scores against float64 NumPy; NaN never scores well."""

from __future__ import annotations

import math

import hypothesis
import numpy as np
import pytest
import tflite_nets
from hypothesis import strategies
from hypothesis.extra import numpy as arrays

from dsg_tf.export import calibration
from dsg_tf.fidelity import verify
from dsg_tf.tflite import export, flatbuffer

_VALUES = arrays.arrays(
    np.float64,
    strategies.tuples(strategies.integers(1, 5), strategies.integers(2, 5)),
    elements=strategies.floats(-1e3, 1e3, allow_subnormal=False),
)


@hypothesis.given(_VALUES, strategies.integers(0, 2**32 - 1))
def test_the_scores_are_their_formulas(reference, seed):
    output = reference + np.random.default_rng(seed).normal(
        0, 1, reference.shape
    )
    found = verify.compare(reference, output)
    signal = np.linalg.norm(reference.ravel()) ** 2
    noise = np.linalg.norm((reference - output).ravel()) ** 2
    if signal > 1e-6:
        # Sums of at most 25 float64 terms.
        assert found.sqnr_db == pytest.approx(
            10 * np.log10(signal / noise), abs=1e-9
        )
        norms = np.linalg.norm(reference) * np.linalg.norm(output)
        assert found.cosine == pytest.approx(
            np.vdot(reference, output) / norms, abs=1e-12
        )
    assert found.max_abs_error == np.abs(reference - output).max()
    assert found.kind == "logits"
    assert found.top1_agreement == np.mean(
        [
            np.argmax(r) == np.argmax(o)
            for r, o in zip(reference, output, strict=True)
        ]
    )


def test_parts_sum_to_the_whole():
    rng = np.random.default_rng(0)
    r, q = rng.normal(0, 1, (2, 6, 7))
    parts = verify.Moments()
    for i in range(6):
        parts.update(r[i], q[i])
    whole = verify.compare(r, q)
    assert parts.sqnr_db == pytest.approx(whole.sqnr_db, abs=1e-12)
    assert parts.cosine == pytest.approx(whole.cosine, abs=1e-14)


def test_equal_outputs_have_the_best_scores():
    values = np.random.default_rng(0).normal(0, 1, (4, 5))
    found = verify.compare(values, values)
    assert found.sqnr_db == math.inf
    assert found.cosine == pytest.approx(1, abs=1e-15)
    assert (found.top1_agreement, found.max_abs_error) == (1, 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 7])
def test_outputs_that_are_not_finite_have_the_worst_scores(bad, place):
    reference = np.eye(4) + 0.01
    output = reference.copy()
    output.flat[place] = bad
    found = verify.compare(reference, output)
    assert (found.sqnr_db, found.cosine) == (-math.inf, -1)
    assert found.max_abs_error == math.inf
    # The sample with the value disagrees, even where argmax would agree.
    assert found.top1_agreement == 0.75


def test_nan_in_one_part_spoils_the_whole():
    moments = verify.Moments()
    moments.update(np.ones(3), np.ones(3))
    moments.update(np.ones(3), np.array([1, np.nan, 1]))
    moments.update(np.ones(3), np.ones(3))
    assert (moments.sqnr_db, moments.cosine) == (-math.inf, -1)


@pytest.mark.parametrize(
    ("reference", "output", "sqnr_db", "cosine"),
    [
        ([0.0, 0.0], [0.0, 0.0], math.inf, 1),
        ([0.0, 0.0], [0.0, 1.0], -math.inf, 0),
        ([0.0, 1.0], [0.0, 0.0], 0, 0),
        ([0.0, 1.0], [0.0, -1.0], -6.02, -1),
    ],
)
def test_zeros_and_opposites_score_as_they_should(
    reference, output, sqnr_db, cosine
):
    found = verify.compare(np.array([reference]), np.array([output]))
    assert found.sqnr_db == pytest.approx(sqnr_db, abs=1e-2)
    assert found.cosine == cosine


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 3, 3)])
def test_agreement_is_for_classes_alone(shape):
    values = np.ones(shape)
    assert verify.compare(values, values).top1_agreement is None


def test_references_must_be_of_the_outputs_shape():
    with pytest.raises(ValueError, match="shapes"):
        verify.compare(np.ones((1, 2)), np.ones((2, 1)))


def _layers(name, spoil=None, **options):
    model = tflite_nets.float_tflite(name)
    samples = tflite_nets.samples(6)
    ranges = calibration.calibrate(model, samples)
    if spoil:
        ranges |= spoil(flatbuffer.read(model), ranges)
    exported = export.export(model, ranges, **options)
    return verify.per_layer(model, exported.model, samples)


def test_a_file_against_itself_is_without_noise():
    model = tflite_nets.float_tflite("squeeze_excite")
    rows = verify.per_layer(model, model, tflite_nets.samples(3))
    view = flatbuffer.read(model)
    assert {row.tensor for row in rows} == {
        t.name for t in view.float_activations()
    }
    assert {row.sqnr_db for row in rows} == {math.inf}


@pytest.mark.parametrize("io_type", ["float32", "int8", "uint8"])
def test_all_tensors_are_compared_worst_first(io_type):
    rows = _layers("squeeze_excite", io_type=io_type)
    model = tflite_nets.float_tflite("squeeze_excite")
    assert {row.tensor for row in rows} == {
        t.name for t in flatbuffer.read(model).float_activations()
    }
    scores = [row.sqnr_db for row in rows]
    assert scores == sorted(scores)
    assert np.isfinite(scores).all()
    assert min(scores) > 24
    assert {row.op for row in rows if row.tensor.endswith("x:0")} == {"INPUT"}


def test_a_clipped_layer_is_where_the_loss_is_seen():
    def spoil(view, ranges):
        name = view.tensors[view.ops[1].outputs[0]].name
        bounds = ranges[name]
        clipped = type(bounds)(bounds.min / 20, bounds.max / 20)
        return {name: clipped}

    model = tflite_nets.float_tflite("convs_sharing_weights")
    view = flatbuffer.read(model)
    rows = {row.tensor: row for row in _layers("convs_sharing_weights", spoil)}
    first, second, third = (
        rows[view.tensors[op.outputs[0]].name] for op in view.ops
    )
    assert first.sqnr_db > 24
    assert second.sqnr_db < 10
    assert second.input_sqnr_db == first.sqnr_db
    # Behind it all is lost too, but not there: its input was bad already.
    assert third.sqnr_db < 10
    assert third.input_sqnr_db == second.sqnr_db


@pytest.mark.parametrize(
    ("tensor", "order", "expected"),
    [
        ("serving_default_image:0", None, "image"),
        ("PartitionedCall:0", None, "PartitionedCall"),
        ("PartitionedCall/PartitionedCall/m/a/Relu;m/b/Add", None, "m/a/Relu"),
        ("123;;m/b/Add", None, "m/b/Add"),
        # The last node of the group, wherever it stands, digits or not.
        (
            "m/c/Conv2D;m/r/Relu1;m/b/Add",
            {"m/c/Conv2D": 1, "m/r/Relu": 3, "m/b/Add": 2},
            "m/r/Relu",
        ),
        ("W/m/c/Conv2D", {"m/c/Conv2D": 0}, "m/c/Conv2D"),
        ("m/c/Conv2D_1", {"m/c/Conv2D": 0, "m/c/Conv2D_1": 1}, "m/c/Conv2D_1"),
        ("a/Relu", {"b/Relu": 0}, "a/Relu"),
    ],
)
def test_fused_names_are_read(tensor, order, expected):
    assert verify.source_layer_name(tensor, order) == expected


def test_readable_names_leave_out_what_all_begin_with():
    view = flatbuffer.read(tflite_nets.float_tflite("residual"))
    names = verify.readable_names(view)
    assert set(names) == {view.tensors[op.outputs[0]].name for op in view.ops}
    # The output, which the converter renames, has its public name at least.
    assert names["PartitionedCall:0"] == "output_0"
    raw = view.raw.subgraphs[0].tensors
    raw[view.ops[0].outputs[0]].name = b"W/net/block/conv/Conv2D;W/net/b/Add"
    raw[view.outputs[0]].name = b"W/net/block/relu/Relu"
    names = verify.readable_names(flatbuffer.view_of(view.raw))
    assert sorted(names.values()) == ["conv/Conv2D", "relu/Relu"]
