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

from dsg_tf.config import export_config, synthesis_config
from dsg_tf.core import checks, errors


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
        the .tflite is compared with the float graph; None for as many as are
        optimised together (`dsg_tf.config.needs`).
      min_agreement: the least agreement of an output with the float graph,
        0..1: of classes top-1, of others see `verify.Fidelity`.
      min_sqnr_db: the least signal to noise of an output around its own mean,
        dB; None doubts what is below `verdict.LEAST_SQNR_DB`.
      allow_unsafe_ops: accept graphs that touch files or call Python.
      resume: go on with what a killed run of the same config had finished.
    """

    synthesis: synthesis_config.SynthesisConfig = dataclasses.field(
        default_factory=synthesis_config.SynthesisConfig
    )
    export: export_config.ExportConfig = dataclasses.field(
        default_factory=export_config.ExportConfig
    )
    samples: str = ""
    signature: str = ""
    tags: tuple[str, ...] = ()
    input_shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    input_range: tuple[float, float] | None = None
    verify_samples: int | None = None
    min_agreement: float = 0.0
    min_sqnr_db: float | None = None
    allow_unsafe_ops: bool = False
    resume: bool = True

    def __post_init__(self):
        if self.verify_samples is not None:
            checks.require_int("--verify_samples", self.verify_samples, 1)
        checks.require_bool("--resume", self.resume)
        checks.require_number("--min_agreement", self.min_agreement, 0.0, 1.0)
        if self.min_sqnr_db is not None:
            checks.require_number(
                "--min_sqnr_db", self.min_sqnr_db, 0.0, math.inf
            )
        checks.require_bool("--allow_unsafe_ops", self.allow_unsafe_ops)
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
            checks.require_int(f"--input_shape of {name!r}", size, 1)
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
