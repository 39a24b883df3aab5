"""Configs refuse what is wrong in one line, and presets are as published."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib

import pytest

from dsg_tf import config, errors

_SYNTHESIS_FAULTS = [
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
    ("--synthesis=schedule", {"schedule": "step"}, "constant, cosine, plateau"),
    ("--num_samples", {"num_samples": 0}, "an integer >= 1"),
    ("--num_samples", {"num_samples": 8.0}, "an integer >= 1"),
    ("--num_samples", {"num_samples": True}, "an integer >= 1"),
    ("--batch_size", {"batch_size": -1}, "an integer >= 1"),
    ("--synthesis=slack_probes", {"slack_probes": 0}, "an integer >= 1"),
    ("--steps", {"steps": -1}, "an integer >= 0"),
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

_EXPORT_FAULTS = [
    ("--exporter", {"exporter": "onnx"}, "litert, tflite_converter"),
    ("--range_method", {"range_method": "max"}, "bn, ema, minmax, mse"),
    ("--io_type", {"io_type": "int4"}, "float32, int16, int8, uint8"),
    ("--activation_bits", {"activation_bits": 9}, "4, 5, 6, 7, 8, 16, 32"),
    ("--weight_bits", {"weight_bits": 1}, "2, 3, 4, 5, 6, 7, 8"),
    ("--weight_bits", {"weight_bits": "4"}, "an integer"),
    ("--weight_rounding", {"weight_rounding": "up"}, "adaround, nearest"),
    ("--equalize", {"equalize": "yes"}, "True or False"),
    ("--absorb_bias", {"absorb_bias": 1}, "True or False"),
    ("--packed", {"packed": True}, "--weight_bits=2, 3 or 4"),
    (
        "--packed",
        {"packed": True, "weight_bits": 4, "activation_bits": 6},
        "8, 16 or 32",
    ),
    ("--io_type", {"io_type": "int8", "activation_bits": 32}, "'float32'"),
    ("--io_type", {"io_type": "int8", "activation_bits": 4}, "'float32'"),
    (
        "--range_method",
        {"range_method": "mse", "activation_bits": 32},
        "no range method",
    ),
    (
        "--weight_bits",
        {"exporter": "tflite_converter", "weight_bits": 4},
        "8, which is all",
    ),
    (
        "--activation_bits",
        {"exporter": "tflite_converter", "activation_bits": 32},
        "8 or 16",
    ),
    ("--activation_bits", {"activation_bits": 8.0}, "an integer"),
    ("--granularity", {"granularity": "block"}, "channel, tensor"),
    ("--bias_correction", {"bias_correction": "dfq"}, "auto, empirical, none"),
    ("--allow_float_ops", {"allow_float_ops": "yes"}, "True or False"),
    (
        "--range_method",
        {"exporter": "tflite_converter", "range_method": "mse"},
        "'minmax'",
    ),
]

_PIPELINE_FAULTS = [
    ("--verify_samples", {"verify_samples": 0}, "an integer >= 1"),
    ("--resume", {"resume": "no"}, "True or False"),
    ("--min_agreement", {"min_agreement": 1.5}, "from 0 to 1"),
    ("--min_agreement", {"min_agreement": math.nan}, "from 0 to 1"),
    ("--allow_unsafe_ops", {"allow_unsafe_ops": 1}, "True or False"),
    ("--input_range", {"input_range": (1.0, -1.0)}, "the smaller first"),
    ("--input_range", {"input_range": (0.0, math.inf)}, "finite"),
    ("--input_range", {"input_range": (0.0,)}, "two finite numbers"),
    ("--input_range", {"input_range": ("a", "b")}, "two finite numbers"),
    ("--input_shape of ''", {"input_shapes": (("", (8, 0)),)}, ">= 1"),
    (
        "--input_shape",
        {"input_shapes": (("a", (8,)), ("a", (9,)))},
        "one for each input",
    ),
    (
        "--input_shape",
        {"input_shapes": (("", (8,)), ("a", (9,)))},
        "one for each input",
    ),
]

_FAULTS = [
    (cls, *fault)
    for cls, faults in (
        (config.SynthesisConfig, _SYNTHESIS_FAULTS),
        (config.ExportConfig, _EXPORT_FAULTS),
        (config.PipelineConfig, _PIPELINE_FAULTS),
    )
    for fault in faults
]


@pytest.mark.parametrize(
    ("cls", "flag", "fields", "expected"),
    _FAULTS,
    ids=[f"{f[1]}-{i}" for i, f in enumerate(_FAULTS)],
)
def test_wrong_value_is_one_line_with_flag_got_and_expected(
    cls, flag, fields, expected
):
    with pytest.raises(errors.UserError) as caught:
        cls(**fields)
    error = caught.value
    assert error.subject == flag
    assert expected in error.expected
    assert error.got
    assert len(str(error).splitlines()) == 1


def test_every_choice_and_number_of_a_config_has_a_fault_above():
    # A field that is added without a check, or a check without a test.
    unchecked = {"synthesis", "export", "samples", "signature", "tags"}
    same_check = {
        # As label_weight and prior_weight: one loop over _WEIGHTS.
        *("sample_weight", "batch_weight", "input_weight", "spread_weight"),
        # As use_domain and keep_domain: one loop over _SWITCHES.
        *("normalize_loss", "layerwise_enhancement"),
        # As equalize and absorb_bias: one loop over _EXPORT_SWITCHES.
        "keep_first_last_8bit",
    }
    tested = {name for _, _, fields, _ in _FAULTS for name in fields}
    known = {
        field.name
        for cls in (
            config.SynthesisConfig,
            config.ExportConfig,
            config.PipelineConfig,
        )
        for field in dataclasses.fields(cls)
    }
    assert known - tested - unchecked - same_check == set()


@pytest.mark.parametrize("field", config._WEIGHTS)
def test_weights_are_numbers_not_below_zero(field):
    with pytest.raises(errors.UserError, match=field):
        config.SynthesisConfig(**{field: -1.0})


@pytest.mark.parametrize("field", config._SWITCHES)
def test_switches_are_booleans(field):
    with pytest.raises(errors.UserError, match=field):
        config.SynthesisConfig(**{field: 1})


def test_every_field_of_synthesis_is_checked():
    checked = {
        *config._OWN_FLAGS,
        *config._WEIGHTS,
        *config._SWITCHES,
        *("patience", "schedule", "initializer", "basis"),
        *("slack_percentile", "slack_probes", "slack_source", "jitter"),
    }
    fields = {f.name for f in dataclasses.fields(config.SynthesisConfig)}
    assert fields == checked


def test_zeroq_is_as_published():
    # Cai et al. 2020, section 3.1, and the released distill_data.py: N(0, 1)
    # inputs, the plain squared distances of each sample's moments with the
    # input as layer 0, Adam at 0.1 for 500 steps, the rate lowered on a
    # plateau. Nothing of DSG, no labels, no prior, no domain.
    zeroq = config.SynthesisConfig.of("zeroq")
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
    noise = config.SynthesisConfig.of("noise")
    assert noise.steps == 0
    assert noise.initializer == "gaussian"
    assert noise.use_domain


def test_dsg_is_the_default():
    assert config.SynthesisConfig.of("dsg") == config.SynthesisConfig()
    assert config.SynthesisConfig().layerwise_enhancement
    assert config.SynthesisConfig().slack_percentile > 0


def test_named_method_takes_changes():
    zeroq = config.SynthesisConfig.of("zeroq", num_samples=3, steps=7)
    assert (zeroq.num_samples, zeroq.steps) == (3, 7)
    assert zeroq.input_weight == 1


def test_unknown_method_lists_the_known():
    with pytest.raises(errors.UserError, match="one of dsg, noise, zeroq"):
        config.SynthesisConfig.of("gan")


def test_configs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.ExportConfig().io_type = "int8"


def test_equal_configs_have_equal_json_and_unlike_ones_do_not():
    one = config.PipelineConfig(
        synthesis=config.SynthesisConfig.of("zeroq", seed=3)
    )
    same = config.PipelineConfig(
        synthesis=config.SynthesisConfig.of("zeroq", seed=3)
    )
    other = config.PipelineConfig(
        synthesis=config.SynthesisConfig.of("zeroq", seed=4)
    )
    assert config.to_json(one) == config.to_json(same)
    assert config.to_json(one) != config.to_json(other)
    read = json.loads(config.to_json(one))
    assert read["synthesis"]["seed"] == 3
    # Whatever the order of the fields in the class.
    assert list(read) == sorted(read)


def test_samples_may_be_a_path_object():
    given = config.PipelineConfig(samples=pathlib.Path("folder") / "a.npz")
    text = str(pathlib.Path("folder") / "a.npz")
    assert json.loads(config.to_json(given))["samples"] == text


class TestRecipes:
    def test_default_config_is_balanced(self):
        assert config.ExportConfig.of("balanced") == config.ExportConfig()

    @pytest.mark.parametrize(
        ("recipe", "changes", "equalize", "rounding"),
        [
            (
                "fast",
                {"granularity": "tensor", "weight_bits": 4},
                False,
                "nearest",
            ),
            ("balanced", {"granularity": "tensor"}, True, "nearest"),
            ("balanced", {"weight_bits": 4}, False, "adaround"),
            ("best", {}, False, "adaround"),
            ("best", {"weight_rounding": "nearest"}, False, "nearest"),
            (
                "best",
                {"granularity": "tensor", "equalize": False},
                False,
                "adaround",
            ),
        ],
    )
    def test_choose_and_give_way(self, recipe, changes, equalize, rounding):
        made = config.ExportConfig.of(recipe, **changes)
        assert (made.equalize, made.weight_rounding) == (equalize, rounding)

    def test_unknown_one_is_refused(self):
        with pytest.raises(errors.UserError, match="balanced, best, fast"):
            config.ExportConfig.of("slow")
