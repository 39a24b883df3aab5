"""What a run is asked to do: frozen, validated, JSON; no TensorFlow.

Each field is checked when the config is made, so that a wrong value is an
error in the first tenth of a second and not after an hour. The samples and the
export have configs of their own, `synthesis_config` and `export_config`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from typing import Any

from dsg_tf.config import export_config, options, synthesis_config
from dsg_tf.core import checks, errors

# Stands for the path of samples that are in memory.
IN_MEMORY = "(in memory)"
# Below, noise is more than a tenth of what is left of a signal, in dB.
LEAST_SQNR_DB = 10.0
MODEL, _SAMPLES, _OUTPUT, _VERIFICATION = (
    *("Model", "Samples", "Output", "Verification"),
)


@dataclasses.dataclass(frozen=True)
class PipelineConfig:
    """A whole run, from model to report.

    Attributes:
      synthesis: how samples are made; not used where `samples` is given.
      export: what is written.
      tags: a text is taken for one tag; `input_names` and `output_names`
        likewise.
      input_shapes: full or batch-less shape by input name, a dict or pairs; the
        name "" stands for a model's only input, and a lone shape for its own.

    Raises:
      errors.UserError: a value is not valid.

    Examples:
      >>> PipelineConfig(input_shapes={"x": (8, 8, 3)}).input_shapes
      (('x', (8, 8, 3)),)
    """

    synthesis: synthesis_config.SynthesisConfig = dataclasses.field(
        default_factory=synthesis_config.SynthesisConfig
    )
    export: export_config.ExportConfig = dataclasses.field(
        default_factory=export_config.ExportConfig
    )
    signature: str = options.option(
        "",
        "Signature of a SavedModel; default: serving_default.",
        group=MODEL,
    )
    tags: tuple[str, ...] = options.option(
        (),
        "Tags of a SavedModel's graph; default: the only one there is.",
        group=MODEL,
    )
    input_names: tuple[str, ...] = options.option(
        (),
        "Inputs of a frozen GraphDef; default: its placeholders.",
        group=MODEL,
    )
    output_names: tuple[str, ...] = options.option(
        (),
        "Outputs to keep; default: all. Of a frozen GraphDef: its nodes.",
        group=MODEL,
    )
    input_shapes: tuple[tuple[str, tuple[int, ...]], ...] = options.option(
        (),
        "Shape of one sample where the model leaves it open: 224,224,3; with"
        " several inputs NAME=49,10,1, repeated.",
        group=MODEL,
        flag="input_shape",
    )
    input_range: tuple[float, float] | None = options.option(
        None,
        "LOW,HIGH of the input values; default: recovered from the model.",
        group=MODEL,
    )
    allow_unsafe_ops: bool = options.option(
        False,
        "Accept a model whose graph reads or writes files or calls Python.",
        group=MODEL,
    )
    samples: str = options.option(
        "",
        "Your own samples (.npz, .npy), or a samples.npz of an earlier run;"
        " nothing is synthesised then.",
        group=_SAMPLES,
    )
    resume: bool = options.option(
        True,
        "Go on with what a killed run had finished.",
        group=_OUTPUT,
    )
    verify_samples: int | None = options.option(
        None,
        "Further samples on which the .tflite is compared with the float"
        " model; default: 8, or 16 where the widths need many samples.",
        group=_VERIFICATION,
        least=1,
    )
    min_agreement: float = options.option(
        0.0,
        "Least agreement with the float model, 0..1: of classes top-1, else the"
        " share of the variance explained; below it the exit code is 2.",
        group=_VERIFICATION,
        least=0.0,
        most=1.0,
    )
    min_sqnr_db: float | None = options.option(
        None,
        "Least SQNR of an output around its mean, dB; below it the exit code"
        f" is 2; default: {LEAST_SQNR_DB:g}.",
        group=_VERIFICATION,
        least=0.0,
    )

    def __post_init__(self):
        # A pathlib.Path is welcome; JSON wants text.
        object.__setattr__(self, "samples", os.fspath(self.samples))
        for name in ("tags", "input_names", "output_names"):
            texts = getattr(self, name)
            texts = (texts,) if isinstance(texts, str) else texts
            object.__setattr__(self, name, tuple(texts))
        object.__setattr__(self, "input_shapes", _pairs(self.input_shapes))
        options.check(self)
        if self.input_range is not None:
            _require_range(self.input_range)
        _require_shapes(self.input_shapes)

    @property
    def needs_moments(self) -> bool:
        """Whether samples are synthesised from BatchNormalization moments."""
        return not self.samples and self.synthesis.method != "noise"


def _pairs(shapes) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """(name, shape) of each input, from whatever form they are given in.

    Raises:
      errors.UserError: it is none of these.
    """
    if isinstance(shapes, Mapping):
        shapes = tuple(shapes.items())
    try:
        shapes = tuple(shapes)
        if shapes and all(isinstance(size, int) for size in shapes):
            shapes = (("", shapes),)
        return tuple((str(name), tuple(shape)) for name, shape in shapes)
    except (TypeError, ValueError):
        raise errors.UserError(
            "input_shapes",
            got=repr(shapes),
            expected="a shape, or a dict of shapes by input name",
            remedy="for instance input_shapes=(224, 224, 3)",
        ) from None


def _require_range(value) -> None:
    try:
        low, high = (float(v) for v in value)
    except (TypeError, ValueError):
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise errors.UserError(
            "input_range",
            got=repr(value),
            expected="two finite numbers, the smaller first",
            remedy="for instance -1 and 1",
        )


def _require_shapes(pairs) -> None:
    names = [name for name, _ in pairs]
    for name, shape in pairs:
        for size in shape:
            checks.require_int(f"input_shapes of {name!r}", size, 1)
    if len(set(names)) < len(names) or ("" in names and len(names) > 1):
        raise errors.UserError(
            "input_shapes",
            got=f"{len(names)} shapes for the inputs {sorted(set(names))}",
            expected="one for each input, with its name if there are several",
            remedy="for instance 224,224,3 for the input image",
        )


def to_json(config: Any) -> str:
    """The config as JSON with sorted keys; equal configs, equal text."""
    return json.dumps(dataclasses.asdict(config), sort_keys=True)
