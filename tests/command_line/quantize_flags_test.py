"""Flags become the config that they name."""

from __future__ import annotations

import dataclasses

import pytest

from dsg_tf.command_line import quantize_flags
from dsg_tf.config import export_config, run_config, synthesis_config
from dsg_tf.core import errors


def test_flags_reach_the_config():
    settings = quantize_flags.parse(
        [
            "--method=zeroq",
            "--steps=7",
            "--synthesis=use_domain=true",
            "--synthesis=schedule=constant",
            "--synthesis=prior_weight=0.5",
            "--input_shape=a=8,8,3",
            "--input_shape=b=5",
            "--input_range=-1,1",
            "--tags=serve,gpu",
            "--io_type=int8",
            "--verify_samples=5",
        ]
    )
    assert settings == run_config.PipelineConfig(
        synthesis=synthesis_config.SynthesisConfig.of(
            "zeroq",
            steps=7,
            use_domain=True,
            schedule="constant",
            prior_weight=0.5,
        ),
        export=export_config.ExportConfig(io_type="int8"),
        input_shapes=(("a", (8, 8, 3)), ("b", (5,))),
        input_range=(-1.0, 1.0),
        tags=("serve", "gpu"),
        verify_samples=5,
    )


def test_flags_left_alone_give_the_default_config():
    assert quantize_flags.parse([]) == run_config.PipelineConfig()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # Open by default, a count of each kind.
        ("tolerance=0.5", 0.5),
        ("most_steps=60", 60),
        ("num_samples=3", 3),
        # Of a default in each type.
        ("patience=4", 4),
        ("jitter=0.25", 0.25),
        ("mirror=False", False),
        ("fill=black", "black"),
    ],
)
def test_a_field_has_its_own_type(text, value):
    (found,) = quantize_flags.parse_field(text).values()
    assert found == value
    assert type(found) is type(value)


def test_every_field_but_the_method_can_be_set():
    for field in dataclasses.fields(synthesis_config.SynthesisConfig):
        if field.name == "method":
            continue
        value = field.default
        text = "3" if value is None else str(value)
        found = quantize_flags.parse([f"--synthesis={field.name}={text}"])
        wanted = 3 if value is None else value
        assert getattr(found.synthesis, field.name) == wanted


@pytest.mark.parametrize(
    "text",
    [
        *("", "steps", "steps=", "steps=1.5", "method=noise", "a=b=c"),
        *("tolerance=", "tolerance=x", "most_steps=1.5", "most_steps=none"),
    ],
)
def test_wrong_field_is_refused(text):
    with pytest.raises(errors.UserError, match="--synthesis"):
        quantize_flags.parse_field(text)


@pytest.mark.parametrize("text", ["", "a", "8,", "8,0", "=8", "a=", "8,-1,3"])
def test_wrong_shape_is_refused(text):
    with pytest.raises(errors.UserError, match="--input_shape"):
        quantize_flags.parse_shape(text)


def test_unknown_flag_is_an_error_of_the_user():
    with pytest.raises(errors.UserError, match="nonsense"):
        quantize_flags.parse(["--nonsense=1"])


def test_synthesis_takes_its_flags_alone():
    values = quantize_flags.own_values()
    values(["", "--seed=3", "--weight_bits=4", "--verify_samples=5"])
    assert quantize_flags.model_and_samples_config(
        values
    ) == run_config.PipelineConfig(
        synthesis=synthesis_config.SynthesisConfig(seed=3), verify_samples=5
    )


@pytest.mark.parametrize("recipe", export_config.RECIPES)
@pytest.mark.parametrize("weight_bits", [2, 4, 8])
@pytest.mark.parametrize("activation_bits", export_config.ACTIVATION_BITS)
@pytest.mark.parametrize("granularity", export_config.GRANULARITIES)
def test_python_and_the_command_line_ask_for_the_same(
    recipe, weight_bits, activation_bits, granularity
):
    fields = {
        "recipe": recipe,
        "weight_bits": weight_bits,
        "activation_bits": activation_bits,
        "granularity": granularity,
    }
    lines = [f"--{name}={value}" for name, value in fields.items()]
    found = quantize_flags.parse(lines)
    assert found.export == export_config.ExportConfig(**fields)
    assert found == run_config.PipelineConfig(export=found.export)


@pytest.mark.parametrize(
    ("line", "subject"),
    [
        ("--weight_bits=9", "--weight_bits"),
        ("--synthesis=jitter=2", "--synthesis=jitter"),
        ("--steps=-1", "--steps"),
        ("--verify_samples=0", "--verify_samples"),
    ],
)
def test_errors_name_the_flag(line, subject):
    with pytest.raises(errors.UserError) as caught:
        quantize_flags.parse([line])
    assert caught.value.subject == subject
