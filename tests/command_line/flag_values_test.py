"""Values that no flag takes are refused under the flag's name."""

from __future__ import annotations

import pytest
from absl import flags

from dsg_tf.command_line import flag_values, quantize_flags
from dsg_tf.core import errors


@pytest.mark.parametrize(
    "value",
    [
        *(2**63, -(2**63), 10**4000),
        *(float("nan"), float("inf"), float("-inf")),
        *("a\nb", "a\0", "\x7f", "a\r", "\udc80"),
    ],
    ids=lambda value: f"{type(value).__name__}-{str(value)[:5]!a}",
)
def test_value_is_refused_in_one_line(value):
    with pytest.raises(errors.UserError, match="--x: got") as raised:
        flag_values.check_value("--x", value)
    assert len(str(raised.value).splitlines()) == 1
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize(
    "value", [2**63 - 1, 0, True, None, 1e300, "", "a b/ä\U0001f600", "x" * 999]
)
def test_value_is_taken(value):
    flag_values.check_value("--x", value)


def test_every_flag_is_looked_at_in_lists_too():
    values = flags.FlagValues()
    quantize_flags.define(values)
    flag_values.check(values)
    values(["", "--tags=a,b\x01"])
    with pytest.raises(errors.UserError, match="--tags: got"):
        flag_values.check(values)


@pytest.mark.parametrize(
    "line",
    [
        "--seed=99999999999999999999",
        "--num_samples=99999999999999999999",
        "--weight_bits=99999999999999999999",
        "--min_agreement=nan",
        "--min_agreement=inf",
        "--input_range=nan,1",
        "--input_range=-inf,inf",
        "--synthesis=learning_rate=nan",
        "--synthesis=learning_rate=inf",
        "--synthesis=jitter=99999999999999999999",
        "--synthesis=",
        "--synthesis=jitter",
        "--input_shape=",
        "--input_shape=99999999999,99999999999",
        "--input_shape=1," + "9" * 5000,
        "--input_shape=nan",
        "--seed=",
        "--seed=-1",
        "--method=",
        "--recipe=",
        "--io_type=",
        "--granularity=",
        "--weight_rounding=",
        "--exporter=",
        "--weigth_bits=4",
    ],
)
def test_flags_of_quantize_refuse_what_cannot_be(line):
    with pytest.raises(errors.UserError) as raised:
        quantize_flags.parse([line])
    assert len(str(raised.value).splitlines()) == 1


def test_greatest_seed_is_taken():
    config = quantize_flags.parse([f"--seed={2**63 - 1}"])
    assert config.synthesis.seed == 2**63 - 1


def test_flagfiles_of_earlier_batches_are_still_understood():
    # As batches wrote them before flags were looked at.
    lines = [
        "--saved_model=/zoo/net",
        "--output=/out/net/dsg/W4A8/seed0/model.tflite",
        "--method=dsg",
        "--num_samples=8",
        "--steps=30",
        "--weight_bits=4",
        "--activation_bits=8",
        "--seed=0",
        "--recipe=balanced",
        "--input_shape=image=224,224,3",
        "--input_shape=mfcc=49,10,1",
        "--input_range=-1,1",
        "--synthesis=jitter=0",
        "--noallow_unsafe_ops",
        "--nokeep_first_last_8bit",
        "--verify_samples=16",
    ]
    config = quantize_flags.parse(lines)
    assert config.export.weight_bits == 4
    assert config.input_shapes == (
        ("image", (224, 224, 3)),
        ("mfcc", (49, 10, 1)),
    )
    assert config.input_range == (-1, 1)
