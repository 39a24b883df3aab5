"""How a model is quantized: wrong values are refused; recipes choose."""

from __future__ import annotations

import dataclasses

import config_faults
import pytest

from dsg_tf.config import export_config
from dsg_tf.core import errors

_FAULTS = [
    ("exporter", {"exporter": "onnx"}, "litert, tflite_converter"),
    ("range_method", {"range_method": "max"}, "bn, ema, minmax, mse"),
    ("io_type", {"io_type": "int4"}, "float32, int16, int8, uint8"),
    ("activation_bits", {"activation_bits": 9}, "4, 5, 6, 7, 8, 16, 32"),
    ("weight_bits", {"weight_bits": 1}, "2, 3, 4, 5, 6, 7, 8"),
    ("weight_bits", {"weight_bits": "4"}, "an integer"),
    ("weight_rounding", {"weight_rounding": "up"}, "adaround, nearest"),
    ("equalize", {"equalize": "yes"}, "True or False"),
    ("absorb_bias", {"absorb_bias": 1}, "True or False"),
    ("packed", {"packed": True}, "weight_bits=2, 3 or 4"),
    (
        "packed",
        {"packed": True, "weight_bits": 4, "activation_bits": 6},
        "8, 16 or 32",
    ),
    ("io_type", {"io_type": "int8", "activation_bits": 32}, "'float32'"),
    ("io_type", {"io_type": "int8", "activation_bits": 4}, "'float32'"),
    (
        "range_method",
        {"range_method": "mse", "activation_bits": 32},
        "no range method",
    ),
    (
        "weight_bits",
        {"exporter": "tflite_converter", "weight_bits": 4},
        "8, which is all",
    ),
    (
        "activation_bits",
        {"exporter": "tflite_converter", "activation_bits": 32},
        "8 or 16",
    ),
    ("activation_bits", {"activation_bits": 8.0}, "an integer"),
    ("granularity", {"granularity": "block"}, "channel, tensor"),
    ("bias_correction", {"bias_correction": "dfq"}, "auto, empirical, none"),
    ("allow_float_ops", {"allow_float_ops": "yes"}, "True or False"),
    (
        "float_edges",
        {"float_edges": True, "io_type": "int8"},
        "io_type=float32",
    ),
    (
        "range_method",
        {"exporter": "tflite_converter", "range_method": "mse"},
        "'minmax'",
    ),
]


@pytest.mark.parametrize("fault", _FAULTS, ids=config_faults.names(_FAULTS))
def test_wrong_value_is_one_line_with_flag_got_and_expected(fault):
    config_faults.assert_refused(export_config.ExportConfig, fault=fault)


def test_every_choice_and_number_has_a_fault_above():
    untested = config_faults.untested_fields(
        export_config.ExportConfig, faults=_FAULTS
    )
    # As equalize and absorb_bias, by `options.check`; recipes are below.
    assert untested == {"keep_first_last_8bit", "recipe"}


def test_configs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        export_config.ExportConfig().io_type = "int8"


class TestRecipes:
    def test_default_config_is_balanced(self):
        assert export_config.ExportConfig().recipe == "balanced"

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
        made = export_config.ExportConfig(recipe=recipe, **changes)
        assert (made.equalize, made.weight_rounding) == (equalize, rounding)

    def test_unknown_one_is_refused(self):
        with pytest.raises(errors.UserError, match="balanced, best, fast"):
            export_config.ExportConfig(recipe="slow")
