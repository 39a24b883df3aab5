"""A whole run's config refuses what is wrong in one line, and is JSON."""

from __future__ import annotations

import json
import math
import pathlib

import config_faults
import pytest

from dsg_tf.config import run_config, synthesis_config

_FAULTS = [
    ("verify_samples", {"verify_samples": 0}, "an integer >= 1"),
    ("resume", {"resume": "no"}, "True or False"),
    ("min_agreement", {"min_agreement": 1.5}, "from 0 to 1"),
    ("min_agreement", {"min_agreement": math.nan}, "from 0 to 1"),
    ("min_sqnr_db", {"min_sqnr_db": -1.0}, "finite number >= 0"),
    ("min_sqnr_db", {"min_sqnr_db": math.inf}, "finite number >= 0"),
    ("allow_unsafe_ops", {"allow_unsafe_ops": 1}, "True or False"),
    ("signature", {"signature": 3}, "text"),
    ("input_shapes", {"input_shapes": 3}, "a dict of shapes"),
    ("input_shapes", {"input_shapes": {"x": 3}}, "a dict of shapes"),
    ("input_range", {"input_range": (1.0, -1.0)}, "the smaller first"),
    ("input_range", {"input_range": (0.0, math.inf)}, "finite"),
    ("input_range", {"input_range": (0.0,)}, "two finite numbers"),
    ("input_range", {"input_range": ("a", "b")}, "two finite numbers"),
    ("input_shapes of ''", {"input_shapes": (("", (8, 0)),)}, ">= 1"),
    (
        "input_shapes",
        {"input_shapes": (("a", (8,)), ("a", (9,)))},
        "one for each input",
    ),
    (
        "input_shapes",
        {"input_shapes": (("", (8,)), ("a", (9,)))},
        "one for each input",
    ),
]


@pytest.mark.parametrize("fault", _FAULTS, ids=config_faults.names(_FAULTS))
def test_wrong_value_is_one_line_with_flag_got_and_expected(fault):
    config_faults.assert_refused(run_config.PipelineConfig, fault=fault)


def test_every_choice_and_number_has_a_fault_above():
    untested = config_faults.untested_fields(
        run_config.PipelineConfig, faults=_FAULTS
    )
    assert untested == {
        *("synthesis", "export", "samples", "tags"),
        *("input_names", "output_names"),
    }


def test_equal_configs_have_equal_json_and_unlike_ones_do_not():
    one = run_config.PipelineConfig(
        synthesis=synthesis_config.SynthesisConfig.of("zeroq", seed=3)
    )
    same = run_config.PipelineConfig(
        synthesis=synthesis_config.SynthesisConfig.of("zeroq", seed=3)
    )
    other = run_config.PipelineConfig(
        synthesis=synthesis_config.SynthesisConfig.of("zeroq", seed=4)
    )
    assert run_config.to_json(one) == run_config.to_json(same)
    assert run_config.to_json(one) != run_config.to_json(other)
    read = json.loads(run_config.to_json(one))
    assert read["synthesis"]["seed"] == 3
    # Whatever the order of the fields in the class.
    assert list(read) == sorted(read)


def test_samples_may_be_a_path_object():
    given = run_config.PipelineConfig(samples=pathlib.Path("folder") / "a.npz")
    text = str(pathlib.Path("folder") / "a.npz")
    assert json.loads(run_config.to_json(given))["samples"] == text


def test_shapes_and_tags_may_have_the_form_that_is_at_hand():
    wanted = (("x", (8, 8, 3)), ("y", (2,)))
    for given in (wanted, dict(wanted), [["x", [8, 8, 3]], ["y", [2]]]):
        assert run_config.PipelineConfig(input_shapes=given).input_shapes == (
            wanted
        )
    lone = run_config.PipelineConfig(input_shapes=(8, 8, 3))
    assert lone.input_shapes == (("", (8, 8, 3)),)
    assert run_config.PipelineConfig(tags="serve").tags == ("serve",)
