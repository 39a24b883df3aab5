"""What a run is asked to do: frozen, validated, JSON; no TensorFlow.

Each field is checked when the config is made, so that a wrong value is an
error in the first tenth of a second and not after an hour. The defaults are
measured; docs/method.md holds the numbers.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from typing import Any

from dsg_tf import errors

METHODS = ("dsg", "zeroq", "noise")
INITIALIZERS = ("natural", "gaussian")
BASES = ("pixels", "spectrum")
SLACK_SOURCES = ("natural", "gaussian", "share")
SCHEDULES = ("cosine", "plateau", "constant")
RANGE_METHODS = ("minmax", "percentile", "mse", "ema", "bn")
EXPORTERS = ("litert", "tflite_converter")
IO_TYPES = ("float32", "int8", "uint8", "int16")
GRANULARITIES = ("channel", "tensor")
BIAS_CORRECTIONS = ("analytic", "auto", "empirical", "none")
WEIGHT_ROUNDINGS = ("nearest", "adaround")
WEIGHT_BITS = (2, 3, 4, 5, 6, 7, 8)
# Activations that .tflite has no type for are simulated.
SIMULATED_BITS = (4, 5, 6, 7)
# 32 bits: float activations, weights alone are quantized.
FLOAT_BITS = 32
ACTIVATION_BITS = (*SIMULATED_BITS, 8, 16, FLOAT_BITS)
RECIPES = ("fast", "balanced", "best")


def _require_choice(subject: str, value, choices: tuple) -> None:
    if value not in choices:
        raise errors.UserError(
            subject,
            got=repr(value),
            expected="one of " + ", ".join(str(c) for c in sorted(choices)),
        )


def _require_int(subject: str, value, minimum: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise errors.UserError(
            subject, got=repr(value), expected=f"an integer >= {minimum}"
        )


def _require_number(
    subject: str, value, minimum: float, maximum: float
) -> None:
    valid = isinstance(value, int | float) and not isinstance(value, bool)
    if not (valid and math.isfinite(value) and minimum <= value <= maximum):
        expected = (
            f"a finite number >= {minimum:g}"
            if maximum == math.inf
            else f"a number from {minimum:g} to {maximum:g}"
        )
        raise errors.UserError(subject, got=repr(value), expected=expected)


def _require_bool(subject: str, value) -> None:
    if not isinstance(value, bool):
        raise errors.UserError(
            subject, got=repr(value), expected="True or False"
        )


def _subject(field: str) -> str:
    """How a field of SynthesisConfig is called on the command line."""
    return f"--{field}" if field in _OWN_FLAGS else f"--synthesis={field}"


@dataclasses.dataclass(frozen=True)
class SynthesisConfig:
    """How samples are made. Every ingredient can be turned off.

    Attributes:
      method: `dsg`, `zeroq` or `noise`; see `SynthesisConfig.of`.
      num_samples: samples to make.
      batch_size: samples optimised together; a batch is a problem of its own.
      steps: optimiser steps per batch.
      patience: steps without a fall of the loss by 1 % that end a batch; 0
        never does.
      learning_rate: Adam's, in deviations of the input domain per step.
      schedule: how the rate falls: `cosine` to zero, `plateau` (by ten where
        the loss has not fallen for `steps / 5`, as ZeroQ's code), `constant`.
      seed: of all randomness.
      initializer: `natural` (1/f noise, for image-shaped inputs) or
        `gaussian`.
      basis: what of natural images is optimised: `pixels`, or `spectrum`, the
        coefficients of the noise that they are made of
        (`synthesis.natural_images`).
      scatter: whether natural images start with brightness and contrast of
        their own.
      use_domain: start from the input domain's mean and deviation; otherwise
        from N(0, 1) in the model's input units.
      keep_domain: bring samples back into the domain's bounds at each step.
      jitter: at each step the network sees image-shaped samples shifted, at
        random, by at most this share of their height and width, 0..1.
      mirror: at half of the steps it sees colour images (3 or 4 channels)
        mirrored, left for right.
      normalize_loss: divide distances by sigma and by the number of channels.
      sample_weight: weight of the moments of each sample.
      batch_weight: weight of the moments of the whole batch.
      slack_percentile: DSG's SDA: the percentile, 0..1, of noise probes'
        distances that becomes the margin (section 3.2); 0 turns SDA off.
      slack_probes: noise inputs that the margins are derived from.
      slack_source: that noise: `natural`, what samples start as, or
        `gaussian`, white as in the paper; or `share`, margins from the share of
        BN's variance that lies between samples that start as `natural`.
      layerwise_enhancement: DSG's LSE (section 3.3).
      input_weight: weight of the input's own moments (ZeroQ's layer 0).
      label_weight: weight of the cross-entropy to drawn classes, where a
        classifier head is found.
      label_temperature: divides the logits of that cross-entropy: how far
        beyond certainty a class is asked for.
      spread_weight: weight of the output-spread loss, for every other output.
      prior_weight: weight of total variation, for image-shaped inputs.
    """

    method: str = "dsg"
    num_samples: int = 64
    batch_size: int = 16
    steps: int = 300
    patience: int = 0
    learning_rate: float = 0.1
    schedule: str = "cosine"
    seed: int = 0
    initializer: str = "natural"
    basis: str = "pixels"
    scatter: bool = True
    use_domain: bool = True
    keep_domain: bool = True
    jitter: float = 0.125
    mirror: bool = True
    normalize_loss: bool = True
    sample_weight: float = 1.0
    batch_weight: float = 1.0
    slack_percentile: float = 0.9
    slack_probes: int = 256
    slack_source: str = "natural"
    layerwise_enhancement: bool = True
    input_weight: float = 0.0
    label_weight: float = 1.0
    label_temperature: float = 3.0
    spread_weight: float = 0.1
    prior_weight: float = 0.0

    def __post_init__(self):
        _require_choice("--method", self.method, METHODS)
        for name, choices in (
            ("initializer", INITIALIZERS),
            ("basis", BASES),
            ("slack_source", SLACK_SOURCES),
            ("schedule", SCHEDULES),
        ):
            _require_choice(_subject(name), getattr(self, name), choices)
        for name in ("num_samples", "batch_size", "slack_probes"):
            _require_int(_subject(name), getattr(self, name), 1)
        for name in ("steps", "patience", "seed"):
            _require_int(_subject(name), getattr(self, name), 0)
        for name in _SWITCHES:
            _require_bool(_subject(name), getattr(self, name))
        for name in _WEIGHTS:
            _require_number(_subject(name), getattr(self, name), 0.0, math.inf)
        for name in ("learning_rate", "label_temperature"):
            if getattr(self, name) == 0:
                raise errors.UserError(
                    _subject(name), got="0", expected="a number above 0"
                )
        for name in ("slack_percentile", "jitter"):
            _require_number(_subject(name), getattr(self, name), 0.0, 1.0)
        if self.basis == "spectrum" and self.initializer != "natural":
            raise errors.UserError(
                _subject("basis"),
                got=f"'spectrum' with initializer={self.initializer}",
                expected="'pixels', or initializer=natural: only images have a"
                " spectrum to start with",
            )
        self._require_preset()

    def _require_preset(self) -> None:
        """Refuses a config that bears the name of a method that it is not."""
        if self.method == "noise" and self.steps:
            raise errors.UserError(
                "--steps",
                got=f"{self.steps} with the method noise",
                expected="0: noise is not optimised",
            )
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        telling = [n for n, v in _ZEROQ.items() if v != defaults[n]]
        if self.method == "zeroq" and not any(
            getattr(self, name) == _ZEROQ[name] for name in telling
        ):
            raise errors.UserError(
                "--method",
                got="'zeroq' with the fields of dsg",
                expected="SynthesisConfig.of('zeroq')",
            )

    @classmethod
    def of(cls, method: str, **changes) -> SynthesisConfig:
        """The config of a named method, with some fields changed.

        `dsg` is the default: every ingredient. `zeroq` is ZeroQ as published
        (Cai et al. 2020, section 3.1 and the released code): N(0, 1) images in
        the model's input units, the unnormalised per-sample loss with the
        input as layer 0, 500 steps of Adam at 0.1. `noise` makes white noise
        of the input domain's moments and optimises nothing.

        Example:
          >>> SynthesisConfig.of("zeroq").slack_percentile
          0.0
        """
        _require_choice("--method", method, METHODS)
        fields: dict[str, Any] = {"method": method}
        if method == "zeroq":
            fields |= _ZEROQ
        elif method == "noise":
            fields |= _NOISE
        return cls(**(fields | changes))


# The fields that have a flag of their own; the others are set by --synthesis.
_OWN_FLAGS = ("method", "num_samples", "batch_size", "steps", "seed")

_SWITCHES = (
    "scatter",
    "use_domain",
    "keep_domain",
    "mirror",
    "normalize_loss",
    "layerwise_enhancement",
)

_WEIGHTS = (
    "learning_rate",
    "sample_weight",
    "batch_weight",
    "input_weight",
    "label_weight",
    "label_temperature",
    "spread_weight",
    "prior_weight",
)

_ZEROQ = {
    "steps": 500,
    "patience": 0,
    "learning_rate": 0.1,
    "schedule": "plateau",
    "initializer": "gaussian",
    "scatter": False,
    "use_domain": False,
    "keep_domain": False,
    "jitter": 0.0,
    "mirror": False,
    "normalize_loss": False,
    "sample_weight": 1.0,
    "batch_weight": 0.0,
    "slack_percentile": 0.0,
    "layerwise_enhancement": False,
    "input_weight": 1.0,
    "label_weight": 0.0,
    "spread_weight": 0.0,
    "prior_weight": 0.0,
}

_NOISE = {"steps": 0, "initializer": "gaussian"}


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """How a model is quantized, and what is written.

    Attributes:
      exporter: `litert` (LiteRT Quantizer with our grids) or
        `tflite_converter` (samples as representative dataset).
      range_method: how activation ranges are taken from the samples; `bn`
        takes them from BatchNorm where it tells them, and else as `minmax`.
      io_type: type of the .tflite's inputs and outputs.
      weight_bits: 2 to 8.
      activation_bits: 8 or 16; 32 leaves activations float (weight-only); 4
        to 7 are simulated, in a SavedModel instead of a .tflite.
      granularity: scales per output `channel` or per `tensor` of weights.
      weight_rounding: `nearest`, or `adaround`: learned from the samples.
      equalize: cross-layer equalization (DFQ section 4.1).
      absorb_bias: high biases into the next layer (DFQ section 4.1.3).
      bias_correction: undoes what rounding the weights does to the means (DFQ
        section 4.2): `empirical` over the samples, `analytic` from BN, `auto`
        analytic where BN tells and empirical elsewhere, `none`.
      keep_first_last_8bit: 8-bit weights for layers that no layer is before
        or behind.
      packed: weights of at most 4 bits as int4, two in a byte.
      allow_float_ops: accept operations without an integer kernel; they stay
        float, and the report lists them.
    """

    exporter: str = "litert"
    range_method: str = "minmax"
    io_type: str = "float32"
    weight_bits: int = 8
    activation_bits: int = 8
    granularity: str = "channel"
    weight_rounding: str = "nearest"
    equalize: bool = False
    absorb_bias: bool = False
    bias_correction: str = "empirical"
    keep_first_last_8bit: bool = False
    packed: bool = False
    allow_float_ops: bool = False

    def __post_init__(self):
        for name, choices in (
            ("exporter", EXPORTERS),
            ("range_method", RANGE_METHODS),
            ("io_type", IO_TYPES),
            ("weight_rounding", WEIGHT_ROUNDINGS),
            ("bias_correction", BIAS_CORRECTIONS),
            ("granularity", GRANULARITIES),
        ):
            _require_choice(f"--{name}", getattr(self, name), choices)
        for name, choices in (
            ("weight_bits", WEIGHT_BITS),
            ("activation_bits", ACTIVATION_BITS),
        ):
            _require_int(f"--{name}", getattr(self, name), 1)
            _require_choice(f"--{name}", getattr(self, name), choices)
        for name in _EXPORT_SWITCHES:
            _require_bool(f"--{name}", getattr(self, name))
        self._require_exportable()

    def _require_exportable(self) -> None:
        """Refuses what no file, or not this exporter's, can hold."""
        if self.exporter != "litert":
            for name, only in (
                ("range_method", ("minmax",)),
                ("weight_bits", (8,)),
                ("activation_bits", (8, 16)),
                ("packed", (False,)),
            ):
                value = getattr(self, name)
                if value not in only:
                    raise errors.UserError(
                        f"--{name}",
                        got=f"{value!r} with --exporter={self.exporter}",
                        expected=" or ".join(map(repr, only))
                        + ", which is all that this exporter has",
                        remedy="--exporter=litert has them all",
                    )
        if self.activation_bits == FLOAT_BITS and self.range_method != "minmax":
            raise errors.UserError(
                "--range_method",
                got=f"{self.range_method!r} with --activation_bits=32",
                expected="no range method: float activations have no ranges",
            )
        if self.packed and self.weight_bits > 4:
            raise errors.UserError(
                "--packed",
                got=f"weights of {self.weight_bits} bits",
                expected="--weight_bits=2, 3 or 4: two of them share a byte",
            )
        if self.packed and self.simulated:
            raise errors.UserError(
                "--packed",
                got=f"{self.activation_bits}-bit activations",
                expected="8, 16 or 32: only a .tflite is packed",
            )
        if self.io_type != "float32" and (
            self.simulated or self.activation_bits == FLOAT_BITS
        ):
            raise errors.UserError(
                "--io_type",
                got=f"{self.io_type!r} with --activation_bits="
                f"{self.activation_bits}",
                expected="'float32'",
                remedy="integer inputs and outputs go with 8 or 16 bits",
            )

    @property
    def simulated(self) -> bool:
        """Whether no .tflite can hold it: the result is a SavedModel."""
        return self.activation_bits in SIMULATED_BITS

    @classmethod
    def of(cls, recipe: str, **changes) -> ExportConfig:
        """The config of a recipe, with some fields given.

        `fast` rounds to nearest and corrects biases. `balanced` also equalizes
        weights that share one scale, learns the rounding of weights below 8
        bits, and clips activations below 8 bits where that has the least
        squared error. `best` learns the rounding at any width.

        Example:
          >>> ExportConfig.of("balanced", weight_bits=4).weight_rounding
          'adaround'
          >>> ExportConfig.of("fast", granularity="tensor").equalize
          False
        """
        _require_choice("--recipe", recipe, RECIPES)
        low = changes.get("weight_bits", 8) < 8
        per_tensor = changes.get("granularity", "channel") == "tensor"
        fields: dict[str, Any] = {}
        if recipe != "fast":
            fields["equalize"] = per_tensor
            if low or recipe == "best":
                fields["weight_rounding"] = "adaround"
            if changes.get("activation_bits", 8) in SIMULATED_BITS:
                fields["range_method"] = "mse"
        return cls(**(fields | changes))


_EXPORT_SWITCHES = (
    "equalize",
    "absorb_bias",
    "keep_first_last_8bit",
    "packed",
    "allow_float_ops",
)


def weight_range_method(bits: int) -> str:
    """How scales of weights are chosen: see `weight_scales.choose`."""
    return "minmax" if bits == 8 else "mse"


@dataclasses.dataclass(frozen=True)
class PipelineConfig:
    """A whole run, from model to report.

    Attributes:
      synthesis: how samples are made; not used where `samples` is given.
      export: what is written.
      samples: path of the user's own samples (.npz, .npy), or empty.
      signature: the SavedModel's signature; empty chooses serving_default.
      tags: the SavedModel's tags; empty chooses.
      input_shapes: full or batch-less shape by input name; the name "" stands
        for a model's only input.
      input_range: bounds of the input values, (low, high), or None.
      verify_samples: further samples, never used for calibration, on which
        the .tflite is compared with the float graph.
      min_agreement: the least share of top-1 agreement (or, where there are
        no classes, of cosine similarity) with the float graph, 0..1.
      allow_unsafe_ops: accept graphs that touch files or call Python.
      resume: go on with what a killed run of the same config had finished.
    """

    synthesis: SynthesisConfig = SynthesisConfig()
    export: ExportConfig = ExportConfig()
    samples: str = ""
    signature: str = ""
    tags: tuple[str, ...] = ()
    input_shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    input_range: tuple[float, float] | None = None
    verify_samples: int = 16
    min_agreement: float = 0.0
    allow_unsafe_ops: bool = False
    resume: bool = True

    def __post_init__(self):
        _require_int("--verify_samples", self.verify_samples, 1)
        _require_bool("--resume", self.resume)
        _require_number("--min_agreement", self.min_agreement, 0.0, 1.0)
        _require_bool("--allow_unsafe_ops", self.allow_unsafe_ops)
        # A pathlib.Path is welcome; JSON wants text.
        object.__setattr__(self, "samples", os.fspath(self.samples))
        if self.input_range is not None:
            _require_range(self.input_range)
        _require_shapes(self.input_shapes)


def _require_range(value) -> None:
    try:
        low, high = (float(v) for v in value)
    except (TypeError, ValueError):
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise errors.UserError(
            "--input_range",
            got=repr(value),
            expected="two finite numbers, the smaller first",
            remedy="for instance --input_range=-1,1",
        )


def _require_shapes(pairs) -> None:
    names = [name for name, _ in pairs]
    for name, shape in pairs:
        for size in shape:
            _require_int(f"--input_shape of {name!r}", size, 1)
    if len(set(names)) < len(names) or ("" in names and len(names) > 1):
        raise errors.UserError(
            "--input_shape",
            got=f"{len(names)} shapes for the inputs {sorted(set(names))}",
            expected="one for each input, with its name if there are several",
            remedy="for instance --input_shape=image=224,224,3",
        )


def to_json(config) -> str:
    """The config as JSON with sorted keys; equal configs, equal text."""
    return json.dumps(dataclasses.asdict(config), sort_keys=True)
