"""No run passes of which the numbers say little, or something worse."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dsg_tf.fidelity import output_fidelity, output_kinds, verdict

_KIND = output_kinds.Kind


def _good(**changes) -> output_fidelity.Fidelity:
    fields = {
        "sqnr_db": 30.0,
        "cosine": 0.999,
        "top1_agreement": None,
        "max_abs_error": 0.1,
        "agreement": 0.99,
        "sqnr_mean_db": 25.0,
        "samples": 16,
        "float_range": (0.1, 0.9),
        "range": (0.1, 0.9),
    }
    return output_fidelity.Fidelity(**{**fields, **changes})


def _judge(output=None, layers=(), **asked) -> verdict.Verdict:
    return verdict.judge({"y": output or _good()}, layers, **asked)


def _layer(name: str, sqnr_db: float, **changes) -> dict:
    return {"layer": name, "sqnr_db": sqnr_db, **changes}


def test_a_good_run_passes_without_a_word():
    found = _judge(layers=[_layer("a", 12.0), _layer("b", math.inf)])
    assert found.passed
    assert found.doubts == found.notes == found.missed == ()
    assert (found.agreement, found.sqnr_db) == (0.99, 25.0)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"constant": True, "range": (0.5, 0.5)},
            "output 'y' is constant over the 16 samples: 0.5, where the float"
            " model gives 0.1 to 0.9",
        ),
        (
            {"still": True, "constant": True, "float_range": (0.5, 0.5)},
            "the samples do not move output 'y': the float model gives 0.5 on"
            " all 16",
        ),
        (
            {"constant": True, "step": 1.0},
            "the samples move output 'y' by less than a step of its integer"
            " grid: 0.1 to 0.9",
        ),
        ({"finite": False}, "output 'y' has NaN or infinity"),
        (
            {"float_finite": False},
            "output 'y': the float model itself gives NaN or infinity",
        ),
        (
            {"same_shape": False},
            "output 'y' has another shape than the float model's",
        ),
        (
            {"movement_db": -0.5},
            "output 'y' follows the samples no better than a constant"
            " (-0.5 dB)",
        ),
        (
            {"dead_channels": (7,)},
            "output 'y': channel 7 is constant over the 16 samples, where the"
            " float model moves",
        ),
        (
            {"dead_channels": (1, 2, 5, 7)},
            "output 'y': 4 channels (1, 2, 5, ...) are constant over the 16"
            " samples, where the float model moves",
        ),
        (
            {
                "kind": "whole numbers",
                "agreement": 0.5,
                "commonest": 0.5,
                "sqnr_mean_db": 1.0,
            },
            "output 'y' is equal in 50 %, no more than a constant would be",
        ),
        (
            {"sqnr_mean_db": 2.34},
            "output 'y': SQNR around its mean is 2.3 dB, below 10",
        ),
        (
            {"sqnr_mean_db": 2.34, "sqnr_of": "logit"},
            "output 'y': SQNR of its logit is 2.3 dB, below 10",
        ),
        (
            {"sqnr_mean_db": math.nan},
            "output 'y': SQNR around its mean is nan dB, below 10",
        ),
        (
            {"sqnr_mean_db": -math.inf},
            "output 'y': SQNR around its mean is -inf dB, below 10",
        ),
    ],
)
def test_a_doubtful_output_does_not_pass_and_one_line_says_why(changes, text):
    # Whatever it agrees.
    output = _good(**{"agreement": 1.0, **changes})
    for asked in ({}, {"min_agreement": 0.5}):
        found = _judge(output, **asked)
        assert found.doubts == (text,)
        assert not found.passed


@pytest.mark.parametrize(
    "changes",
    [
        {"sqnr_mean_db": math.inf},  # Equal, as weights alone can be.
        {"sqnr_mean_db": 10.0},
        {"movement_db": 0.1},
        {"kind": "constant", "still": True, "constant": True},
        # A class by its index is no quantity.
        {
            "kind": "whole numbers",
            "agreement": 0.9,
            "commonest": 0.5,
            "sqnr_mean_db": 1.0,
        },
        {
            "kind": "whole numbers",
            "agreement": 0.2,
            "commonest": 0.5,
            "sqnr_mean_db": 40.0,
        },
    ],
)
def test_what_only_looks_doubtful_passes(changes):
    assert _judge(_good(**changes)).passed


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (_layer("conv", 0.0), "lost: layer conv (0.0 dB)"),
        (_layer("conv", -math.inf), "lost: layer conv (-inf dB)"),
        (
            _layer("conv", 8.0, dead=True),
            "lost: layer conv (constant over the samples)",
        ),
    ],
)
def test_a_lost_layer_is_a_doubt(layer, text):
    found = _judge(layers=[layer, _layer("b", 20.0)])
    assert found.doubts == (text,)
    assert not found.passed


def test_a_layer_that_is_zero_anyway_is_none():
    zero = _layer("relu", -math.inf, zero=True)
    assert _judge(layers=[zero, _layer("b", 0.01)]).passed


def test_many_lost_layers_are_one_line():
    layers = [_layer(name, -1.0) for name in "abcde"]
    (text,) = _judge(layers=layers).doubts
    assert text.endswith("b (-1.0 dB), c (-1.0 dB) and 2 more")


def test_notes_are_no_doubts():
    one = _judge(_good(samples=1))
    assert one.passed
    assert "one sample" in one.notes[0]
    one_class = _judge(_good(kind="logits", shown=1))
    assert one_class.passed
    assert one_class.notes == ("the samples show one class of output 'y' only",)
    one_side = _judge(_good(kind="sigmoids", shown=1))
    assert one_side.notes == (
        "the samples show one side of 0.5 of output 'y' only",
    )


def test_agreement_that_is_asked_for_is_that_of_the_worst_output():
    outputs = {"a": _good(agreement=0.9), "b": _good(agreement=0.7)}
    found = verdict.judge(outputs, [], min_agreement=0.71)
    assert not found.passed
    assert found.missed == ("agreement 0.700 is below --min_agreement 0.71",)
    assert verdict.judge(outputs, [], min_agreement=0.7).passed


def test_threshold_of_sqnr_replaces_the_doubt_and_no_other():
    low = _good(sqnr_mean_db=6.0)
    accepted = _judge(low, min_sqnr_db=5.0)
    assert accepted.passed
    assert accepted.low_sqnr  # For whoever has another threshold.
    missed = _judge(_good(sqnr_mean_db=25.0), min_sqnr_db=30.0)
    assert not missed.passed
    assert missed.missed == (
        "SQNR 25.0 dB of output 'y' is below --min_sqnr_db 30",
    )
    assert not _judge(_good(constant=True), min_sqnr_db=0.0).passed
    assert not _judge(layers=[_layer("a", 0.0)], min_sqnr_db=0.0).passed


def test_measured_and_judged_a_dead_sigmoid_does_not_pass():
    p = np.linspace(0.97, 1.0, 16)[:, np.newaxis]
    for value in (0.5, 0.996):
        dead = output_fidelity.compare(
            p, np.full_like(p, value), kind=_KIND.SIGMOIDS, step=1 / 256
        )
        assert not _judge(dead).passed
        assert "is constant over the 16 samples" in _judge(dead).doubts[0]


def test_samples_that_do_not_reach_batch_norm_are_doubtful():
    assert verdict.judge({}, [], bits_off=0.9).passed
    found = verdict.judge({}, [], bits_off=1.3)
    assert not found.passed
    assert "1.3 bits off" in found.doubts[0]
    assert "--input_range" in found.doubts[0]


def test_samples_that_are_much_alike_are_noted_and_pass():
    assert not verdict.judge({}, [], cosine=0.9).notes
    found = verdict.judge({}, [], cosine=0.99)
    assert found.passed
    assert "much alike (cosine 0.99)" in found.notes[0]


def test_layers_that_lost_much_are_noted_and_pass():
    rows = [
        _layer("a", 6.1),
        _layer("b", 30.0),
        _layer("c", 9.0),
        _layer("d", 2.0, zero=True),
    ]
    found = _judge(layers=rows)
    assert found.passed
    (note,) = found.notes
    assert note.startswith("2 of 4 layers have less than 10 dB, the least a")
    assert _judge(layers=rows[1:2]).notes == ()
