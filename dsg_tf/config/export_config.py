"""How a model is quantized, and what is written, as one config.

The fields are checked when the config is made, also against each other. The
defaults are measured; docs/method.md holds the numbers.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from dsg_tf.core import checks, errors

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
            checks.require_choice(f"--{name}", getattr(self, name), choices)
        for name, choices in (
            ("weight_bits", WEIGHT_BITS),
            ("activation_bits", ACTIVATION_BITS),
        ):
            checks.require_int(f"--{name}", getattr(self, name), 1)
            checks.require_choice(f"--{name}", getattr(self, name), choices)
        for name in _EXPORT_SWITCHES:
            checks.require_bool(f"--{name}", getattr(self, name))
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
        checks.require_choice("--recipe", recipe, RECIPES)
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
