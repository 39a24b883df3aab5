"""How samples are made: wrong values are refused; presets are as published."""

from __future__ import annotations

import math

import config_faults
import pytest

from dsg_tf.config import options, synthesis_config
from dsg_tf.core import errors

_FAULTS = [
    ("method", {"method": "dfq"}, "dsg, noise, zeroq"),
    ("initializer", {"initializer": "zeros"}, "gaussian, natural"),
    ("basis", {"basis": "waves"}, "pixels, spectrum"),
    (
        "basis",
        {"basis": "spectrum", "initializer": "gaussian"},
        "only images",
    ),
    ("scatter", {"scatter": 1}, "True or False"),
    ("slack_source", {"slack_source": "bn"}, "natural, share"),
    ("fill", {"fill": "grey"}, "auto, black, wrap"),
    ("schedule", {"schedule": "step"}, "constant, cosine, plateau"),
    ("num_samples", {"num_samples": 0}, "an integer >= 1"),
    ("num_samples", {"num_samples": 8.0}, "an integer >= 1"),
    ("num_samples", {"num_samples": True}, "an integer >= 1"),
    ("batch_size", {"batch_size": -1}, "an integer >= 1"),
    ("slack_probes", {"slack_probes": 0}, "an integer >= 1"),
    ("steps", {"steps": -1}, "an integer >= 0"),
    ("most_steps", {"most_steps": -1}, "an integer >= 0"),
    ("most_steps", {"most_steps": 9.5}, "an integer >= 0"),
    ("tolerance", {"tolerance": -0.5}, ">= 0"),
    ("tolerance", {"tolerance": math.nan}, "finite"),
    ("tolerance", {"tolerance": "little"}, "finite"),
    ("patience", {"patience": -1}, "an integer >= 0"),
    ("seed", {"seed": -1}, "an integer >= 0"),
    ("learning_rate", {"learning_rate": 0.0}, "above 0"),
    ("learning_rate", {"learning_rate": math.inf}, "finite"),
    ("learning_rate", {"learning_rate": "fast"}, "finite"),
    ("label_temperature", {"label_temperature": 0}, "above 0"),
    ("label_weight", {"label_weight": -0.1}, ">= 0"),
    ("prior_weight", {"prior_weight": math.nan}, "finite"),
    ("slack_percentile", {"slack_percentile": 30}, "from 0 to 1"),
    ("jitter", {"jitter": 4}, "from 0 to 1"),
    ("use_domain", {"use_domain": 1}, "True or False"),
    ("mirror", {"mirror": 1}, "True or False"),
    ("keep_domain", {"keep_domain": "no"}, "True or False"),
    ("steps", {"method": "noise", "steps": 3}, "not optimised"),
    ("method", {"method": "zeroq"}, "SynthesisConfig.of('zeroq')"),
]


@pytest.mark.parametrize("fault", _FAULTS, ids=config_faults.names(_FAULTS))
def test_wrong_value_is_one_line_with_flag_got_and_expected(fault):
    config_faults.assert_refused(synthesis_config.SynthesisConfig, fault=fault)


def test_every_choice_and_number_has_a_fault_above():
    untested = config_faults.untested_fields(
        synthesis_config.SynthesisConfig, faults=_FAULTS
    )
    # As label_weight and as use_domain: all are checked by their declaration.
    assert untested == {
        *("sample_weight", "batch_weight", "input_weight", "spread_weight"),
        *("normalize_loss", "layerwise_enhancement"),
    }


_DECLARED = options.declared(synthesis_config.SynthesisConfig)


@pytest.mark.parametrize("field", sorted(_DECLARED))
def test_no_field_takes_a_list(field):
    with pytest.raises(errors.UserError, match=field):
        synthesis_config.SynthesisConfig(**{field: []})


@pytest.mark.parametrize(
    "field", [n for n, entry in _DECLARED.items() if entry.kind is float]
)
def test_numbers_are_not_below_zero(field):
    with pytest.raises(errors.UserError, match=field):
        synthesis_config.SynthesisConfig(**{field: -1.0})


@pytest.mark.parametrize(
    "field", [n for n, entry in _DECLARED.items() if entry.kind is bool]
)
def test_switches_are_booleans(field):
    with pytest.raises(errors.UserError, match=field):
        synthesis_config.SynthesisConfig(**{field: 1})


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
