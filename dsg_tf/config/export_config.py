"""How a model is quantized, and what is written, as one config.

The fields are checked when the config is made, also against each other. The
defaults are measured; docs/explanation/method.md holds the numbers.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from dsg_tf.config import options
from dsg_tf.core import errors

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


_QUANTIZATION, _OUTPUT = "Quantization", "Output"


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """How a model is quantized, and what is written.

    Fields that are None are the recipe's: `fast` rounds to nearest. `balanced`
    equalizes weights that share one scale, learns the rounding of weights
    below 8 bits, and clips activations below 8 bits where that has the least
    squared error. `best` learns the rounding at any width. A config that is
    made has a value in each of them.

    Raises:
      errors.UserError: a value, or a combination, is not valid.

    Examples:
      >>> ExportConfig(weight_bits=4).weight_rounding
      'adaround'
      >>> ExportConfig(recipe="fast", granularity="tensor").equalize
      False
    """

    recipe: str = options.option(
        "balanced",
        "fast (rounds to nearest), balanced (equalizes and learns rounding"
        " where it pays) or best (always learns rounding); flags below override"
        " it.",
        group=_QUANTIZATION,
        choices=RECIPES,
        axis=options.BY_VALUE,
    )
    weight_bits: int = options.option(
        8,
        "Bits of weights: 2-8.",
        group=_QUANTIZATION,
        choices=WEIGHT_BITS,
        axis=options.ELSEWHERE,
    )
    activation_bits: int = options.option(
        8,
        "Bits of activations: 8 or 16; 32 leaves them float; 4-7 write a"
        " simulated SavedModel.",
        group=_QUANTIZATION,
        choices=ACTIVATION_BITS,
        axis=options.ELSEWHERE,
    )
    granularity: str = options.option(
        "channel",
        "Weight scales per channel or per tensor.",
        group=_QUANTIZATION,
        choices=GRANULARITIES,
        axis=options.BY_VALUE,
    )
    weight_rounding: str | None = options.option(
        None,
        "nearest, or adaround (learned from the samples); default: the"
        " recipe's.",
        group=_QUANTIZATION,
        choices=WEIGHT_ROUNDINGS,
        axis=options.BY_VALUE,
    )
    equalize: bool | None = options.option(
        None,
        "Cross-layer equalization (DFQ section 4.1); default: the recipe's.",
        group=_QUANTIZATION,
    )
    absorb_bias: bool = options.option(
        False,
        "High biases into the next layer (DFQ section 4.1.3).",
        group=_QUANTIZATION,
    )
    bias_correction: str = options.option(
        "empirical",
        "Undoes what rounding does to means (DFQ section 4.2): empirical (over"
        " the samples), analytic (from BatchNorm), auto (analytic where it can"
        " be) or none.",
        group=_QUANTIZATION,
        choices=BIAS_CORRECTIONS,
        axis=options.BY_NAME,
    )
    range_method: str | None = options.option(
        None,
        f"Activation ranges: {', '.join(RANGE_METHODS)} (from BatchNorm where"
        " it tells them); default: minmax, below 8 bits the recipe's.",
        group=_QUANTIZATION,
        choices=RANGE_METHODS,
        axis=options.BY_VALUE,
    )
    keep_first_last_8bit: bool = options.option(
        False,
        "8-bit weights in first and last layers.",
        group=_QUANTIZATION,
    )
    io_type: str = options.option(
        "float32",
        f"Type of inputs and outputs: {', '.join(IO_TYPES)}.",
        group=_OUTPUT,
        choices=IO_TYPES,
        axis=options.BY_VALUE,
    )
    packed: bool = options.option(
        False,
        "Weights of at most 4 bits as int4, two in a byte.",
        group=_OUTPUT,
    )
    exporter: str = options.option(
        "litert",
        "litert (LiteRT Quantizer, our ranges) or tflite_converter (samples as"
        " representative dataset).",
        group=_OUTPUT,
        choices=EXPORTERS,
        axis=options.BY_VALUE,
    )
    allow_float_ops: bool = options.option(
        False,
        "Accept operations without an integer kernel; they stay float, and the"
        " report lists them.",
        group=_OUTPUT,
    )

    float_edges: bool | None = options.option(
        None,
        "Leave operations at the model's ends float where integers lose what"
        " they work on; default: where inputs and outputs are float32.",
        group=_OUTPUT,
    )

    def __post_init__(self):
        options.check(self)
        for name, value in self._of_recipe().items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        self._require_exportable()

    def _of_recipe(self) -> dict[str, Any]:
        fast = self.recipe == "fast"
        learns = self.recipe == "best" or (self.weight_bits < 8 and not fast)
        return {
            "weight_rounding": "adaround" if learns else "nearest",
            "equalize": self.granularity == "tensor" and not fast,
            "range_method": "mse" if self.simulated and not fast else "minmax",
            "float_edges": self._may_have_float_edges,
        }

    @property
    def _may_have_float_edges(self) -> bool:
        return (
            self.io_type == "float32"
            and self.exporter == "litert"
            and not self.simulated
            and self.activation_bits != FLOAT_BITS
        )

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
                        name,
                        got=f"{value!r} with exporter={self.exporter}",
                        expected=" or ".join(map(repr, only))
                        + ", which is all that this exporter has",
                        remedy="exporter=litert has them all",
                    )
        if self.activation_bits == FLOAT_BITS and self.range_method != "minmax":
            raise errors.UserError(
                "range_method",
                got=f"{self.range_method!r} with activation_bits=32",
                expected="no range method: float activations have no ranges",
            )
        if self.packed and self.weight_bits > 4:
            raise errors.UserError(
                "packed",
                got=f"weights of {self.weight_bits} bits",
                expected="weight_bits=2, 3 or 4: two of them share a byte",
            )
        if self.packed and self.simulated:
            raise errors.UserError(
                "packed",
                got=f"{self.activation_bits}-bit activations",
                expected="8, 16 or 32: only a .tflite is packed",
            )
        if self.float_edges and not self._may_have_float_edges:
            raise errors.UserError(
                "float_edges",
                got=f"io_type={self.io_type}, exporter={self.exporter},"
                f" activation_bits={self.activation_bits}",
                expected="io_type=float32, exporter=litert and"
                " activation_bits=8 or 16",
            )
        if self.io_type != "float32" and (
            self.simulated or self.activation_bits == FLOAT_BITS
        ):
            raise errors.UserError(
                "io_type",
                got=f"{self.io_type!r} with activation_bits="
                f"{self.activation_bits}",
                expected="'float32'",
                remedy="integer inputs and outputs go with 8 or 16 bits",
            )

    @property
    def simulated(self) -> bool:
        """Whether no .tflite can hold it: the result is a SavedModel."""
        return self.activation_bits in SIMULATED_BITS


def weight_range_method(bits: int) -> str:
    """How scales of weights are chosen: see `weight_scales.choose`."""
    return "minmax" if bits == 8 else "mse"
