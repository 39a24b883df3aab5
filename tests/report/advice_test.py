"""The verdict is one sentence; the next command follows from the report."""

from __future__ import annotations

import copy
import shlex

import pytest

from dsg_tf.command_line import quantize_flags
from dsg_tf.config import run_config
from dsg_tf.report import advice

_REPORT = {
    "model": "net",
    "output": "net.tflite",
    "passed": True,
    "agreement": 0.99,
    "flags": [],
    "rounds": {"0": {"settled": True}},
    "config": {
        "samples": "",
        "input_range": None,
        "export": {
            "weight_bits": 8,
            "activation_bits": 8,
            "granularity": "channel",
            "recipe": "balanced",
        },
    },
    "verdict": {"doubts": [], "missed": [], "notes": []},
    "layers": [{"layer": "conv", "sqnr_db": 25.0, "zero": False}],
}


def _report(*, sqnr_db=25.0, doubts=(), settled=True, **export):
    report = copy.deepcopy(_REPORT)
    report["layers"][0]["sqnr_db"] = sqnr_db
    report["verdict"]["doubts"] = list(doubts)
    report["passed"] = not doubts
    report["rounds"]["0"]["settled"] = settled
    report["config"]["samples"] = export.pop("samples", "")
    report["config"]["export"] |= export
    return report


def test_good_result_is_fit_for_use_and_there_is_nothing_to_try():
    found = advice.of(_report())
    assert found.state == advice.FIT
    assert "99.0 % agreement" in found.verdict
    assert found.command == ""


def test_result_that_passes_with_a_bad_layer_names_it():
    found = advice.of(_report(sqnr_db=4.0))
    assert found.state == advice.LOOK
    assert found.verdict.startswith("Look at layer conv (4.0 dB)")


def test_doubtful_result_is_not_to_be_shipped():
    found = advice.of(_report(doubts=["output 'a' does not move"]))
    assert found.state == advice.STOP
    assert "output 'a' does not move" in found.verdict


@pytest.mark.parametrize(
    ("fields", "flag"),
    [
        ({}, "--activation_bits=16"),
        ({"weight_bits": 4}, "--recipe=best"),
        ({"granularity": "tensor"}, "--granularity=channel"),
        ({"settled": False}, "--input_range=LOW,HIGH"),
        ({"activation_bits": 16}, "--samples=FILE.npz"),
        ({"activation_bits": 16, "samples": "own.npz"}, ""),
    ],
)
def test_next_command_is_the_cheapest_remedy_that_is_open(fields, flag):
    found = advice.of(_report(doubts=["low"], **fields))
    assert (shlex.split(found.command) or [""])[-1] == flag
    assert bool(found.reason) == bool(flag)


def test_flags_of_the_run_are_replaced_not_repeated():
    report = _REPORT | {"flags": ["--activation_bits=8", "--seed=3"]}
    line = advice.command_line(report, ["--activation_bits=16"])
    assert shlex.split(line)[5:] == ["--seed=3", "--activation_bits=16"]
    parsed = quantize_flags.parse(shlex.split(line)[5:])
    assert parsed.export.activation_bits == 16


def test_what_is_in_memory_has_to_be_saved_first():
    flags = [f"--samples={run_config.IN_MEMORY}", "--seed=3"]
    report = _REPORT | {"live_model": True, "model": "Model", "flags": flags}
    words = shlex.split(advice.command_line(report))
    assert words[3:] == [
        *("--saved_model=MODEL", "--output=net.tflite"),
        *("--samples=FILE.npz", "--seed=3"),
    ]
