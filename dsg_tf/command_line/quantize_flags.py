"""The flags of `dsg_tf.quantize`, and the config that they ask for.

Other command lines take the same flags under the same names: a definition is
here once, and each command line has it put into flags of its own.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from dsg_tf.command_line import flag_values
from dsg_tf.config import export_config, run_config, synthesis_config
from dsg_tf.core import errors


def _define_model(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "saved_model",
        None,
        "SavedModel folder, .keras or .h5 file.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "signature",
        "",
        "Signature of a SavedModel; default: serving_default.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "tags",
        [],
        "Tags of a SavedModel's graph; default: the only one there is.",
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "input_shape",
        [],
        "Shape of one sample where the model leaves it open: 224,224,3; with"
        " several inputs NAME=49,10,1, repeated.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "input_range",
        [],
        "LOW,HIGH of the input values; default: recovered from the model.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "allow_unsafe_ops",
        False,
        "Accept a model whose graph reads or writes files or calls Python.",
        flag_values=values,
    )


def _define_samples(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "method",
        "dsg",
        f"How samples are made: {', '.join(synthesis_config.METHODS)}.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "num_samples",
        None,
        "Samples to calibrate with; default: as many as the widths need.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "batch_size",
        None,
        "Samples optimised together; default: as the widths need.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "steps",
        None,
        "Optimiser steps per batch; default: until the samples have settled, or"
        " the method's.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "seed", 0, "Seed of all randomness.", flag_values=values
    )
    flags.DEFINE_multi_string(
        "synthesis",
        [],
        "Any other field of SynthesisConfig as NAME=VALUE, repeated.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "samples",
        "",
        "Your own samples (.npz, .npy), or a samples.npz of an earlier run;"
        " nothing is synthesised then.",
        flag_values=values,
    )


def _define_quantization(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "recipe",
        "balanced",
        "fast (rounds to nearest), balanced (equalizes and learns rounding"
        " where it pays) or best (always learns rounding); flags below override"
        " it.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "weight_bits", 8, "Bits of weights: 2-8.", flag_values=values
    )
    flags.DEFINE_integer(
        "activation_bits",
        8,
        "Bits of activations: 8 or 16; 32 leaves them float; 4-7 write a"
        " simulated SavedModel.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "granularity",
        "channel",
        "Weight scales per channel or per tensor.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "weight_rounding",
        None,
        "nearest, or adaround (learned from the samples); default: the"
        " recipe's.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "equalize",
        None,
        "Cross-layer equalization; default: the recipe's.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "absorb_bias",
        None,
        "High biases into the next layer; default: no.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "bias_correction",
        None,
        "empirical (over the samples), analytic (from BatchNorm), auto"
        " (analytic where it can be) or none; default: empirical.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "range_method",
        None,
        f"Activation ranges: {', '.join(export_config.RANGE_METHODS)}; default:"
        " minmax, below 8 bits the recipe's.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "keep_first_last_8bit",
        False,
        "8-bit weights in first and last layers.",
        flag_values=values,
    )


def _define_output(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "output",
        "",
        "The .tflite to write, in this folder by default and named after the"
        " model and the widths. All else of the run goes to <output>.run/.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "io_type",
        "float32",
        f"Type of inputs and outputs: {', '.join(export_config.IO_TYPES)}.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "packed",
        False,
        "Weights of at most 4 bits as int4, two in a byte.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "exporter",
        "litert",
        "litert (LiteRT Quantizer, our ranges) or tflite_converter (samples as"
        " representative dataset).",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "allow_float_ops",
        False,
        "Accept operations without an integer kernel; they stay float.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "resume",
        True,
        "Go on with what a killed run had finished.",
        flag_values=values,
    )


def _define_verification(values: flags.FlagValues) -> None:
    flags.DEFINE_integer(
        "verify_samples",
        None,
        "Further samples on which the .tflite is compared with the float"
        " model; default: 8, or 16 where the widths need many samples.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "min_agreement",
        0.0,
        "Least agreement with the float model, 0..1: of classes top-1, else the"
        " share of the variance explained; below it the exit code is 2.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "min_sqnr_db",
        None,
        "Least SQNR of an output around its own mean, dB; below it (default:"
        " below 10), as for other doubtful results, the exit code is 2.",
        flag_values=values,
    )


_DEFINITIONS = {
    "Model": _define_model,
    "Samples": _define_samples,
    "Quantization": _define_quantization,
    "Output": _define_output,
    "Verification": _define_verification,
}


def _names(definition: Callable[[flags.FlagValues], None]) -> tuple[str, ...]:
    values = flags.FlagValues()
    definition(values)
    return tuple(values)


# The names of the flags, by the titles that --help has them under.
GROUPS = {
    title: _names(definition) for title, definition in _DEFINITIONS.items()
}


def define(values: flags.FlagValues) -> None:
    """Defines every flag of `dsg_tf.quantize`."""
    for definition in _DEFINITIONS.values():
        definition(values)


def own_values() -> flags.FlagValues:
    """These flags by themselves, with their defaults."""
    values = flags.FlagValues()
    define(values)
    return values


def parse(lines: Sequence[str]) -> run_config.PipelineConfig:
    """The config that flags on a command line, or in a flagfile, ask for.

    Raises:
      errors.UserError: a flag is unknown or its value not valid.

    Example:
      >>> parse(["--weight_bits=4"]).export.weight_rounding
      'adaround'
    """
    values = own_values()
    try:
        values(["", *lines])
    except flags.Error as error:
        raise errors.UserError(
            "flags", got=str(error), expected="flags of dsg_tf.quantize"
        ) from None
    flag_values.check(values)
    return pipeline_config(values)


def pipeline_config(values: flags.FlagValues) -> run_config.PipelineConfig:
    """The config that the flags ask for.

    Raises:
      errors.UserError: a flag's value is not valid.
    """
    chosen = _given(
        values,
        "weight_rounding",
        "equalize",
        "absorb_bias",
        "bias_correction",
        "range_method",
    )
    return dataclasses.replace(
        model_and_samples_config(values),
        export=export_config.ExportConfig.of(
            values.recipe,
            exporter=values.exporter,
            io_type=values.io_type,
            weight_bits=values.weight_bits,
            activation_bits=values.activation_bits,
            granularity=values.granularity,
            keep_first_last_8bit=values.keep_first_last_8bit,
            packed=values.packed,
            allow_float_ops=values.allow_float_ops,
            **chosen,
        ),
        samples=values.samples,
        min_agreement=values.min_agreement,
        min_sqnr_db=values.min_sqnr_db,
        resume=values.resume,
    )


def model_fields(values: flags.FlagValues) -> dict[str, Any]:
    """The fields of a `config.PipelineConfig` that say how to load a model.

    Raises:
      errors.UserError: a flag's value is not valid.
    """
    return {
        "signature": values.signature,
        "tags": tuple(values.tags),
        "input_shapes": tuple(parse_shape(text) for text in values.input_shape),
        "allow_unsafe_ops": values.allow_unsafe_ops,
    }


def model_and_samples_config(
    values: flags.FlagValues,
) -> run_config.PipelineConfig:
    """What the flags of the model and of the synthesis ask for.

    Raises:
      errors.UserError: a flag's value is not valid.
    """
    changes = _given(values, "num_samples", "batch_size", "steps", "seed")
    for text in values.synthesis:
        changes |= parse_field(text)
    return run_config.PipelineConfig(
        synthesis=synthesis_config.SynthesisConfig.of(values.method, **changes),
        **model_fields(values),
        input_range=parse_range(values.input_range),
        verify_samples=values.verify_samples,
    )


def _given(values: flags.FlagValues, *names: str) -> dict[str, object]:
    """The flags among `names` that have a value, by name."""
    return {
        name: values[name].value
        for name in names
        if values[name].value is not None
    }


_KINDS = {kind.__name__: kind for kind in (bool, int, float, str)}

_IN_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
}


def parse_field(text: str) -> dict[str, object]:
    """A field of SynthesisConfig from `name=value`, in the field's type.

    Example:
      >>> parse_field("slack_percentile=0.9")
      {'slack_percentile': 0.9}
    """
    name, _, value = text.partition("=")
    fields = {
        f.name: f for f in dataclasses.fields(synthesis_config.SynthesisConfig)
    }
    if name not in fields or name == "method":
        raise errors.UserError(
            "--synthesis",
            got=repr(text),
            expected="NAME=VALUE with one of "
            + ", ".join(sorted(set(fields) - {"method"})),
        )
    # Of the annotation: a count that is open by default is None.
    kind = _KINDS[fields[name].type.partition(" | ")[0]]
    words = {"true": True, "false": False}
    try:
        parsed = words[value.lower()] if kind is bool else kind(value)
    except (KeyError, ValueError):
        raise errors.UserError(
            f"--synthesis={name}", got=repr(value), expected=_IN_WORDS[kind]
        ) from None
    flag_values.check_value(f"--synthesis={name}", parsed)
    return {name: parsed}


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """(input name or "", shape) from `224,224,3` or `name=224,224,3`.

    Example:
      >>> parse_shape("mfcc=49,10,1")
      ('mfcc', (49, 10, 1))
    """
    name, separator, dims = text.rpartition("=")
    try:
        shape = tuple(int(d) for d in dims.split(","))
    except ValueError:
        shape = ()
    # The axes of one sample together: TensorFlow counts in 64 bits.
    elements = math.prod(shape)
    if (
        not shape
        or min(shape) < 1
        or elements >= 2**63
        or (separator and not name)
    ):
        raise errors.UserError(
            "--input_shape",
            got=repr(text),
            expected="positive numbers, or NAME=numbers",
            remedy="for instance --input_shape=224,224,3",
        )
    return name, shape


def parse_range(texts: list[str]) -> tuple[float, float] | None:
    """(low, high) from the two items of a list; None from an empty list."""
    if not texts:
        return None
    try:
        low, high = (float(t) for t in texts)
    except ValueError:
        raise errors.UserError(
            "--input_range",
            got=repr(",".join(texts)),
            expected="two numbers",
            remedy="for instance --input_range=-1,1",
        ) from None
    for value in (low, high):
        flag_values.check_value("--input_range", value)
    return low, high
