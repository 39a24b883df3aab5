"""How samples are made: wrong values are refused; presets are as published."""

from __future__ import annotations

import dataclasses
import math

import config_faults
import pytest

from dsg_tf.config import synthesis_config
from dsg_tf.core import errors

_FAULTS = [
    ("--method", {"method": "dfq"}, "dsg, noise, zeroq"),
    ("--synthesis=initializer", {"initializer": "zeros"}, "gaussian, natural"),
    ("--synthesis=basis", {"basis": "waves"}, "pixels, spectrum"),
    (
        "--synthesis=basis",
        {"basis": "spectrum", "initializer": "gaussian"},
        "only images",
    ),
    ("--synthesis=scatter", {"scatter": 1}, "True or False"),
    ("--synthesis=slack_source", {"slack_source": "bn"}, "natural, share"),
    ("--synthesis=fill", {"fill": "grey"}, "auto, black, wrap"),
    ("--synthesis=schedule", {"schedule": "step"}, "constant, cosine, plateau"),
    ("--num_samples", {"num_samples": 0}, "an integer >= 1"),
    ("--num_samples", {"num_samples": 8.0}, "an integer >= 1"),
    ("--num_samples", {"num_samples": True}, "an integer >= 1"),
    ("--batch_size", {"batch_size": -1}, "an integer >= 1"),
    ("--synthesis=slack_probes", {"slack_probes": 0}, "an integer >= 1"),
    ("--steps", {"steps": -1}, "an integer >= 0"),
    ("--synthesis=most_steps", {"most_steps": -1}, "an integer >= 0"),
    ("--synthesis=most_steps", {"most_steps": 9.5}, "an integer >= 0"),
    ("--synthesis=tolerance", {"tolerance": -0.5}, ">= 0"),
    ("--synthesis=tolerance", {"tolerance": math.nan}, "finite"),
    ("--synthesis=tolerance", {"tolerance": "little"}, "finite"),
    ("--synthesis=patience", {"patience": -1}, "an integer >= 0"),
    ("--seed", {"seed": -1}, "an integer >= 0"),
    ("--synthesis=learning_rate", {"learning_rate": 0.0}, "above 0"),
    ("--synthesis=learning_rate", {"learning_rate": math.inf}, "finite"),
    ("--synthesis=learning_rate", {"learning_rate": "fast"}, "finite"),
    ("--synthesis=label_temperature", {"label_temperature": 0}, "above 0"),
    ("--synthesis=label_weight", {"label_weight": -0.1}, ">= 0"),
    ("--synthesis=prior_weight", {"prior_weight": math.nan}, "finite"),
    ("--synthesis=slack_percentile", {"slack_percentile": 30}, "from 0 to 1"),
    ("--synthesis=jitter", {"jitter": 4}, "from 0 to 1"),
    ("--synthesis=use_domain", {"use_domain": 1}, "True or False"),
    ("--synthesis=mirror", {"mirror": 1}, "True or False"),
    ("--synthesis=keep_domain", {"keep_domain": "no"}, "True or False"),
    ("--steps", {"method": "noise", "steps": 3}, "not optimised"),
    ("--method", {"method": "zeroq"}, "SynthesisConfig.of('zeroq')"),
]


@pytest.mark.parametrize("fault", _FAULTS, ids=config_faults.names(_FAULTS))
def test_wrong_value_is_one_line_with_flag_got_and_expected(fault):
    config_faults.assert_refused(synthesis_config.SynthesisConfig, fault=fault)


def test_every_choice_and_number_has_a_fault_above():
    untested = config_faults.untested_fields(
        synthesis_config.SynthesisConfig, faults=_FAULTS
    )
    assert untested == {
        # As label_weight and prior_weight: one loop over _WEIGHTS.
        *("sample_weight", "batch_weight", "input_weight", "spread_weight"),
        # As use_domain and keep_domain: one loop over _SWITCHES.
        *("normalize_loss", "layerwise_enhancement"),
    }


@pytest.mark.parametrize("field", synthesis_config._WEIGHTS)
def test_weights_are_numbers_not_below_zero(field):
    with pytest.raises(errors.UserError, match=field):
        synthesis_config.SynthesisConfig(**{field: -1.0})


@pytest.mark.parametrize("field", synthesis_config._SWITCHES)
def test_switches_are_booleans(field):
    with pytest.raises(errors.UserError, match=field):
        synthesis_config.SynthesisConfig(**{field: 1})


def test_every_field_of_synthesis_is_checked():
    checked = {
        *synthesis_config._OWN_FLAGS,
        *synthesis_config._WEIGHTS,
        *synthesis_config._SWITCHES,
        *("patience", "schedule", "initializer", "basis", "fill"),
        *("tolerance", "most_steps"),
        *("slack_percentile", "slack_probes", "slack_source", "jitter"),
    }
    fields = {
        f.name for f in dataclasses.fields(synthesis_config.SynthesisConfig)
    }
    assert fields == checked


def test_zeroq_is_as_published():
    # Cai et al. 2020, section 3.1, and the released distill_data.py: N(0, 1)
    # inputs, the plain squared distances of each sample's moments with the
    # input as layer 0, Adam at 0.1 for 500 steps, the rate lowered on a
    # plateau. Nothing of DSG, no labels, no prior, no domain.
    zeroq = synthesis_config.SynthesisConfig.of("zeroq")
    assert zeroq.initializer == "gaussian"
    assert not zeroq.use_domain
    assert not zeroq.keep_domain
    assert not zeroq.normalize_loss
    assert zeroq.sample_weight == 1
    assert zeroq.input_weight == 1
    assert zeroq.batch_weight == 0
    assert zeroq.slack_percentile == 0
    assert not zeroq.layerwise_enhancement
    assert zeroq.label_weight == zeroq.spread_weight == zeroq.prior_weight == 0
    assert (zeroq.steps, zeroq.learning_rate) == (500, 0.1)
    assert zeroq.schedule == "plateau"
    assert zeroq.patience == 0


def test_noise_is_white_noise_of_the_domain_and_optimises_nothing():
    noise = synthesis_config.SynthesisConfig.of("noise")
    assert noise.steps == 0
    assert noise.initializer == "gaussian"
    assert noise.use_domain


def test_dsg_is_the_default():
    assert (
        synthesis_config.SynthesisConfig.of("dsg")
        == synthesis_config.SynthesisConfig()
    )
    assert synthesis_config.SynthesisConfig().layerwise_enhancement
    assert synthesis_config.SynthesisConfig().slack_percentile > 0


def test_named_method_takes_changes():
    zeroq = synthesis_config.SynthesisConfig.of("zeroq", num_samples=3, steps=7)
    assert (zeroq.num_samples, zeroq.steps) == (3, 7)
    assert zeroq.input_weight == 1


def test_unknown_method_lists_the_known():
    with pytest.raises(errors.UserError, match="one of dsg, noise, zeroq"):
        synthesis_config.SynthesisConfig.of("gan")
