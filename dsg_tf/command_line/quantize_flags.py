"""The flags of `dsg_tf.quantize`, and the config that they ask for.

The flags are derived from the fields of the configs (`config.options`). Other
command lines reuse these definitions under the same names.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import flags

from dsg_tf.command_line import flag_values
from dsg_tf.config import (
    export_config,
    needs,
    options,
    run_config,
    synthesis_config,
)
from dsg_tf.core import errors

CONFIGS = (
    synthesis_config.SynthesisConfig,
    export_config.ExportConfig,
    run_config.PipelineConfig,
)
# In the order of `--help`.
_TITLES = ("Model", "Samples", "Quantization", "Output", "Verification")


def _define_saved_model(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "saved_model",
        None,
        "SavedModel folder, .keras, .h5, frozen GraphDef .pb; with --samples"
        " also a float .tflite.",
        flag_values=values,
    )


def _define_synthesis(values: flags.FlagValues) -> None:
    flags.DEFINE_multi_string(
        "synthesis",
        [],
        "Any other field of SynthesisConfig as NAME=VALUE, repeated.",
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


# What is no field of a config, by the flag that it stands before.
_OTHERS = {
    "signature": _define_saved_model,
    "samples": _define_synthesis,
    "io_type": _define_output,
}


def _define_option(entry: options.Declared, values: flags.FlagValues) -> None:
    """Defines the flag of a field."""
    name, text, default = entry.flag, entry.option.help, entry.default
    if name == "input_shape":
        flags.DEFINE_multi_string(name, [], text, flag_values=values)
        return
    kinds: dict[type | None, Callable] = {
        bool: flags.DEFINE_bool,
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        str: flags.DEFINE_string,
    }
    define_one = kinds.get(entry.kind, flags.DEFINE_list)
    if entry.kind is None:
        default = []
    define_one(name, default, text, flag_values=values)


def _define_group(
    title: str, values: flags.FlagValues, configs: Sequence[type]
) -> None:
    for config in configs:
        for entry in options.declared(config).values():
            if entry.option.group == title:
                if entry.flag in _OTHERS:
                    _OTHERS[entry.flag](values)
                _define_option(entry, values)


def groups(configs: Sequence[type] = CONFIGS) -> dict[str, tuple[str, ...]]:
    """The names of the flags, by the titles that `--help` has them under."""
    found = {}
    for title in _TITLES:
        values = flags.FlagValues()
        _define_group(title, values, configs)
        found[title] = tuple(values)
    return found


GROUPS = groups()


def define(values: flags.FlagValues, configs: Sequence[type] = CONFIGS) -> None:
    """Defines every flag of `dsg_tf.quantize`."""
    for title in _TITLES:
        _define_group(title, values, configs)


def own_values() -> flags.FlagValues:
    """These flags by themselves, with their defaults."""
    values = flags.FlagValues()
    define(values)
    return values


def parse(lines: Sequence[str]) -> run_config.PipelineConfig:
    """The config that flags on a command line, or in a flagfile, ask for.

    Raises:
      errors.UserError: a flag is unknown or its value not valid.

    Examples:
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


def shortest(config: run_config.PipelineConfig) -> list[str]:
    """The fewest flags that ask for a config, without model and output.

    Args:
      config: any. What no flag can say (a name with a comma, say) is told as
        near as flags come to it.

    Examples:
      >>> from dsg_tf.config import needs
      >>> shortest(needs.complete(parse(["--weight_bits=4", "--seed=0"])))
      ['--weight_bits=4']
    """
    config = needs.complete(config)
    entries = [
        (entry, getattr(part, entry.name))
        for part in (config, config.synthesis, config.export)
        for entry in options.declared(part).values()
    ]
    # A method, and a recipe, decide about other defaults: what differs from
    # the fields' defaults is mostly all there is to say, and not always.
    changed, whole = (
        [line for e, v in told for line in _as_lines(e, v)]
        for told in ([(e, v) for e, v in entries if v != e.default], entries)
    )
    found = [_without_needless(config, lines) for lines in (changed, whole)]
    return min((x for x in found if x is not None), key=len, default=changed)


def _without_needless(
    config: run_config.PipelineConfig, lines: list[str]
) -> list[str] | None:
    """Those of the lines that a config needs; None if they give another."""

    def gives(lines: Sequence[str]) -> bool:
        try:
            return needs.complete(parse(lines)) == config
        except errors.UserError:  # One flag asks for another.
            return False

    if not gives(lines):
        return None
    # Some open fields are filled in together: they go in pairs.
    for size in (1, 2):
        for needless in itertools.combinations(reversed(lines), size):
            others = [line for line in lines if line not in needless]
            if len(others) == len(lines) - size and gives(others):
                lines = others
    return lines


def _as_lines(entry: options.Declared, value: Any) -> list[str]:
    """A field's value as flags; none where it is empty."""
    if value is None or value in ("", ()):
        return []
    if entry.name == "input_shapes":
        named = [(f"{n}=" if n else "", shape) for n, shape in value]
        texts = [n + ",".join(map(str, shape)) for n, shape in named]
        return [f"--{entry.flag}={text}" for text in texts]
    if entry.kind is bool and entry.option.group:
        return [f"--{'' if value else 'no'}{entry.flag}"]
    if isinstance(value, bool):
        value = str(value).lower()
    if isinstance(value, tuple):
        value = ",".join(map(str, value))
    return [f"--{entry.flag}={value}"]


def pipeline_config(values: flags.FlagValues) -> run_config.PipelineConfig:
    """The config that the flags ask for.

    Raises:
      errors.UserError: a flag's value is not valid.
    """
    config = model_and_samples_config(values)
    with naming_flags():
        return dataclasses.replace(
            config,
            export=export_config.ExportConfig(
                **fields(values, export_config.ExportConfig)
            ),
            **{
                name: values[name].value
                for name in (
                    "samples",
                    "min_agreement",
                    "min_sqnr_db",
                    "resume",
                )
                if name in values
            },
        )


def fields(values: flags.FlagValues, config: type) -> dict[str, Any]:
    """The values of a config's fields that have a flag of a simple kind.

    Args:
      values: parsed; flags that are not there are left out.
      config: the class.
    """
    return {
        name: values[entry.flag].value
        for name, entry in options.declared(config).items()
        if entry.kind is not None and entry.flag in values
    }


@contextlib.contextmanager
def naming_flags() -> Iterator[None]:
    """Errors about fields of a config become errors about their flags.

    Examples:
      >>> with naming_flags():
      ...     run_config.PipelineConfig(verify_samples=0)
      Traceback (most recent call last):
      dsg_tf.core.errors.UserError: --verify_samples: got 0; expected an \
integer >= 1
    """
    try:
        yield
    except errors.UserError as error:
        name, space, rest = error.subject.partition(" ")
        for config in CONFIGS:
            entry = options.declared(config).get(name)
            if entry is not None:
                raise errors.UserError(
                    f"--{entry.flag}{space}{rest}",
                    got=error.got,
                    expected=error.expected,
                    remedy=error.remedy,
                ) from None
        raise


def model_fields(values: flags.FlagValues) -> dict[str, Any]:
    """The fields of a `run_config.PipelineConfig` that say how to load a model.

    Raises:
      errors.UserError: a flag's value is not valid.
    """
    return {
        "signature": values.signature,
        "tags": tuple(values.tags),
        "input_shapes": tuple(parse_shape(text) for text in values.input_shape),
        **{
            name: tuple(values[name].value)
            for name in ("input_names", "output_names")
            if name in values
        },
        "allow_unsafe_ops": values.allow_unsafe_ops,
    }


def model_and_samples_config(
    values: flags.FlagValues,
) -> run_config.PipelineConfig:
    """What the flags of the model and of the synthesis ask for.

    Raises:
      errors.UserError: a flag's value is not valid.
    """
    changes = fields(values, synthesis_config.SynthesisConfig)
    method = changes.pop("method")
    # What is open is the method's.
    changes = {n: v for n, v in changes.items() if v is not None}
    for text in values.synthesis:
        changes |= parse_field(text)
    with naming_flags():
        return run_config.PipelineConfig(
            synthesis=synthesis_config.SynthesisConfig.of(method, **changes),
            **model_fields(values),
            input_range=parse_range(values.input_range),
            verify_samples=values.verify_samples,
        )


_IN_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
}


def parse_field(text: str) -> dict[str, object]:
    """A field of SynthesisConfig from `name=value`, in the field's type.

    Examples:
      >>> parse_field("slack_percentile=0.9")
      {'slack_percentile': 0.9}
    """
    name, _, value = text.partition("=")
    known = options.declared(synthesis_config.SynthesisConfig)
    if name not in known or name == "method":
        raise errors.UserError(
            "--synthesis",
            got=repr(text),
            expected="NAME=VALUE with one of "
            + ", ".join(sorted(set(known) - {"method"})),
        )
    kind = known[name].kind
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

    Examples:
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
