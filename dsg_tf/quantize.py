"""From a trained TensorFlow model to a verified integer .tflite, without data.

  python -m dsg_tf.quantize --saved_model=path/to/saved_model

This module only turns flags into a `PipelineConfig`; `dsg_tf.pipeline` works.
"""

from __future__ import annotations

import dataclasses
import pathlib

from absl import flags, logging

from dsg_tf import cli, errors, quiet
from dsg_tf import config as config_lib

_USAGE = """
Quantizes a trained TensorFlow model to an integer .tflite, without data.

  python -m dsg_tf.quantize --saved_model=PATH [--output=OUT.tflite] [flags]
"""

_GROUPS = {
    "Model": (
        "saved_model",
        "signature",
        "tags",
        "input_shape",
        "input_range",
        "allow_unsafe_ops",
    ),
    "Samples": (
        "method",
        "num_samples",
        "batch_size",
        "steps",
        "seed",
        "synthesis",
        "samples",
    ),
    "Quantization": (
        "recipe",
        "weight_bits",
        "activation_bits",
        "granularity",
        "weight_rounding",
        "equalize",
        "absorb_bias",
        "bias_correction",
        "range_method",
        "keep_first_last_8bit",
    ),
    "Output": (
        "output",
        "io_type",
        "packed",
        "exporter",
        "allow_float_ops",
        "resume",
    ),
    "Verification": ("verify_samples", "min_agreement"),
}

_SAVED_MODEL = flags.DEFINE_string(
    "saved_model", None, "SavedModel folder, .keras or .h5 file."
)
_SIGNATURE = flags.DEFINE_string(
    "signature", "", "Signature of a SavedModel; default: serving_default."
)
_TAGS = flags.DEFINE_list(
    "tags", [], "Tags of a SavedModel's graph; default: the only one there is."
)
_INPUT_SHAPE = flags.DEFINE_multi_string(
    "input_shape",
    [],
    "Shape of one sample where the model leaves it open: 224,224,3; with"
    " several inputs NAME=49,10,1, repeated.",
)
_INPUT_RANGE = flags.DEFINE_list(
    "input_range",
    [],
    "LOW,HIGH of the input values; default: recovered from the model.",
)
_ALLOW_UNSAFE_OPS = flags.DEFINE_bool(
    "allow_unsafe_ops",
    False,
    "Accept a model whose graph reads or writes files or calls Python.",
)
_METHOD = flags.DEFINE_string(
    "method", "dsg", f"How samples are made: {', '.join(config_lib.METHODS)}."
)
_NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples", None, "Samples to calibrate with; default: the method's."
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", None, "Samples optimised together; default: the method's."
)
_STEPS = flags.DEFINE_integer(
    "steps", None, "Optimiser steps per batch; default: the method's."
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of all randomness.")
_SYNTHESIS = flags.DEFINE_multi_string(
    "synthesis",
    [],
    "Any other field of SynthesisConfig as NAME=VALUE, repeated.",
)
_SAMPLES = flags.DEFINE_string(
    "samples",
    "",
    "Your own samples (.npz, .npy), or a samples.npz of an earlier run;"
    " nothing is synthesised then.",
)
_OUTPUT = flags.DEFINE_string(
    "output",
    "",
    "The .tflite to write, in this folder by default and named after the model"
    " and the widths. All else of the run goes to <output>.run/.",
)
_EXPORTER = flags.DEFINE_string(
    "exporter",
    "litert",
    "litert (LiteRT Quantizer, our ranges) or tflite_converter (samples as"
    " representative dataset).",
)
_RANGE_METHOD = flags.DEFINE_string(
    "range_method",
    None,
    f"Activation ranges: {', '.join(config_lib.RANGE_METHODS)}; default:"
    " minmax, below 8 bits the recipe's.",
)
_IO_TYPE = flags.DEFINE_string(
    "io_type",
    "float32",
    f"Type of inputs and outputs: {', '.join(config_lib.IO_TYPES)}.",
)
_RECIPE = flags.DEFINE_string(
    "recipe",
    "balanced",
    "fast (rounds to nearest), balanced (equalizes and learns rounding where it"
    " pays) or best (always learns rounding); flags below override it.",
)
_WEIGHT_BITS = flags.DEFINE_integer("weight_bits", 8, "Bits of weights: 2-8.")
_ACTIVATION_BITS = flags.DEFINE_integer(
    "activation_bits",
    8,
    "Bits of activations: 8 or 16; 32 leaves them float; 4-7 write a simulated"
    " SavedModel.",
)
_GRANULARITY = flags.DEFINE_string(
    "granularity", "channel", "Weight scales per channel or per tensor."
)
_WEIGHT_ROUNDING = flags.DEFINE_string(
    "weight_rounding",
    None,
    "nearest, or adaround (learned from the samples); default: the recipe's.",
)
_EQUALIZE = flags.DEFINE_bool(
    "equalize", None, "Cross-layer equalization; default: the recipe's."
)
_ABSORB_BIAS = flags.DEFINE_bool(
    "absorb_bias", None, "High biases into the next layer; default: no."
)
_BIAS_CORRECTION = flags.DEFINE_string(
    "bias_correction",
    None,
    "empirical (over the samples), analytic (from BatchNorm), auto (analytic"
    " where it can be) or none; default: empirical.",
)
_KEEP_FIRST_LAST_8BIT = flags.DEFINE_bool(
    "keep_first_last_8bit", False, "8-bit weights in first and last layers."
)
_PACKED = flags.DEFINE_bool(
    "packed", False, "Weights of at most 4 bits as int4, two in a byte."
)
_ALLOW_FLOAT_OPS = flags.DEFINE_bool(
    "allow_float_ops",
    False,
    "Accept operations without an integer kernel; they stay float.",
)
_RESUME = flags.DEFINE_bool(
    "resume", True, "Go on with what a killed run had finished."
)
_VERIFY_SAMPLES = flags.DEFINE_integer(
    "verify_samples",
    16,
    "Further samples on which the .tflite is compared with the float model.",
)
_MIN_AGREEMENT = flags.DEFINE_float(
    "min_agreement",
    0.0,
    "Least top-1 agreement with the float model, 0..1; below it the exit code"
    " is 2.",
)


def pipeline_config() -> config_lib.PipelineConfig:
    """The config that the flags ask for.

    Raises:
      errors.UserError: a flag's value is not valid.
    """
    changes = {
        name: value
        for name, value in (
            ("num_samples", _NUM_SAMPLES.value),
            ("batch_size", _BATCH_SIZE.value),
            ("steps", _STEPS.value),
            ("seed", _SEED.value),
        )
        if value is not None
    }
    for text in _SYNTHESIS.value:
        changes |= parse_field(text)
    chosen = {
        name: value
        for name, value in (
            ("weight_rounding", _WEIGHT_ROUNDING.value),
            ("equalize", _EQUALIZE.value),
            ("absorb_bias", _ABSORB_BIAS.value),
            ("bias_correction", _BIAS_CORRECTION.value),
            ("range_method", _RANGE_METHOD.value),
        )
        if value is not None
    }
    return config_lib.PipelineConfig(
        synthesis=config_lib.SynthesisConfig.of(_METHOD.value, **changes),
        export=config_lib.ExportConfig.of(
            _RECIPE.value,
            exporter=_EXPORTER.value,
            io_type=_IO_TYPE.value,
            weight_bits=_WEIGHT_BITS.value,
            activation_bits=_ACTIVATION_BITS.value,
            granularity=_GRANULARITY.value,
            keep_first_last_8bit=_KEEP_FIRST_LAST_8BIT.value,
            packed=_PACKED.value,
            allow_float_ops=_ALLOW_FLOAT_OPS.value,
            **chosen,
        ),
        samples=_SAMPLES.value,
        signature=_SIGNATURE.value,
        tags=tuple(_TAGS.value),
        input_shapes=tuple(parse_shape(text) for text in _INPUT_SHAPE.value),
        input_range=parse_range(_INPUT_RANGE.value),
        verify_samples=_VERIFY_SAMPLES.value,
        min_agreement=_MIN_AGREEMENT.value,
        allow_unsafe_ops=_ALLOW_UNSAFE_OPS.value,
        resume=_RESUME.value,
    )


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
    fields = {f.name: f for f in dataclasses.fields(config_lib.SynthesisConfig)}
    if name not in fields or name == "method":
        raise errors.UserError(
            "--synthesis",
            got=repr(text),
            expected="NAME=VALUE with one of "
            + ", ".join(sorted(set(fields) - {"method"})),
        )
    kind = type(fields[name].default)
    words = {"true": True, "false": False}
    try:
        return {name: words[value.lower()] if kind is bool else kind(value)}
    except (KeyError, ValueError):
        raise errors.UserError(
            f"--synthesis={name}", got=repr(value), expected=_IN_WORDS[kind]
        ) from None


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
    if not shape or min(shape) < 1 or (separator and not name):
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
    return low, high


def default_output(model: str, export: config_lib.ExportConfig) -> str:
    """A name in this folder, after a model's path and the widths.

    Example:
      >>> int8 = config_lib.ExportConfig()
      >>> default_output("zoo/mobilenet.keras", int8)
      'mobilenet_int8.tflite'
      >>> w4a6 = config_lib.ExportConfig(weight_bits=4, activation_bits=6)
      >>> default_output("zoo/net/", w4a6)
      'net_w4a6_simulated'
    """
    path = pathlib.Path(model).absolute()
    stem = path.stem if path.suffix in (".keras", ".h5", ".hdf5") else path.name
    bits = export.weight_bits, export.activation_bits
    if bits == (8, 8):
        return f"{stem}_int8.tflite"
    ending = "_simulated" if export.simulated else ".tflite"
    return "{}_w{}a{}{}".format(stem, *bits, ending)


def main() -> int:
    """Runs the pipeline that the flags ask for; returns the exit code."""
    if not _SAVED_MODEL.value:
        raise errors.UserError(
            "--saved_model",
            got="nothing",
            expected="the path of a SavedModel, .keras or .h5",
            remedy="--help lists all flags",
        )
    config = pipeline_config()
    output = _OUTPUT.value or default_output(_SAVED_MODEL.value, config.export)
    logging.set_verbosity(max(logging.get_verbosity(), logging.INFO))
    # Only now: importing TensorFlow takes seconds.
    with quiet.captured_stderr(show_on_error=True):
        from dsg_tf import pipeline, report

    result = pipeline.quantize_model(
        _SAVED_MODEL.value, output=output, config=config
    )
    report.show(result.report)
    return 0 if result.passed else 2


if __name__ == "__main__":
    cli.run(main, usage=_USAGE, groups=_GROUPS)
