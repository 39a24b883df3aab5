"""The flags of a batch are those of dsg_tf.quantize, under the same names."""

from __future__ import annotations

import pytest
from absl import flags

from dsg_tf.batch import batch_flags
from dsg_tf.command_line import image_flags, quantize_flags
from dsg_tf.core import errors


def _values(*argv: str) -> flags.FlagValues:
    values = flags.FlagValues()
    batch_flags.define(values)
    values(["", *argv])
    return values


def test_every_flag_is_in_one_group_of_the_help_but_that_of_model_files():
    grouped = [n for names in batch_flags.GROUPS.values() for n in names]
    assert sorted([*grouped, "saved_model"]) == sorted(_values())


def test_every_flag_of_quantize_is_an_axis_or_passed_on_or_the_batchs_own():
    theirs = set(quantize_flags.own_values())
    own = {"saved_model", "samples", "output", "resume"}
    own |= {"min_agreement", "min_sqnr_db"}
    parts = [set(batch_flags.AXES) - {"bits"}, set(batch_flags.PASSED_ON), own]
    assert set().union(*parts) == theirs
    assert sum(map(len, parts)) == len(theirs)
    assert theirs.isdisjoint(image_flags.NAMES)


def test_command_line_overrides_the_axes_of_a_flagfile(tmp_path):
    file = tmp_path / "zoo.flags"
    file.write_text("# a zoo\n--weight_bits=4,8\n--seed=0,1\n--packed\n")
    values = _values(f"--flagfile={file}", "--weight_bits=2")
    assert values.weight_bits == ["2"]
    assert values.seed == ["0", "1"]
    assert values.packed


def test_widths_come_together_or_apart():
    point = {"recipe": "fast", "bits": "w4A16", "seed": "0"}
    assert list(batch_flags.widths_apart(point).items()) == [
        ("recipe", "fast"),
        ("weight_bits", "4"),
        ("activation_bits", "16"),
        ("seed", "0"),
    ]
    point = {"weight_bits": "4", "seed": "0"}
    assert batch_flags.widths_apart(point) == point


@pytest.mark.parametrize(
    "text", ["W4", "A8", "4A8", "W1A8", "W9A8", "W4A", "W4A0", "W4A8x", "A8W4"]
)
def test_widths_that_are_none_are_refused_with_an_example(text):
    with pytest.raises(errors.UserError, match=f"got '{text}'.*W4A8$"):
        batch_flags.check_axes(_values(f"--bits=W4A8,{text}"))


@pytest.mark.parametrize("name", ["weight_bits", "activation_bits"])
def test_widths_together_and_apart_are_refused(name):
    argv = ("--bits=W4A8", f"--{name}=8")
    words = f"--bits: got --{name} too; .*; --{name}= takes"
    with pytest.raises(errors.UserError, match=words):
        batch_flags.check_axes(_values(*argv))
    # What the message says: an empty list takes back what a flagfile has.
    batch_flags.check_axes(_values(*argv, f"--{name}="))
    batch_flags.check_axes(_values(*argv, "--bits="))


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("--weight_bits=4,x", "--weight_bits: got 'x'; expected an integer"),
        ("--seed=0,", "--seed: got ''"),
        ("--steps=1.5", "--steps"),
    ],
)
def test_value_that_is_no_number_is_refused_under_its_flag(argv, words):
    with pytest.raises(errors.UserError, match=words):
        batch_flags.check_axes(_values(argv))
