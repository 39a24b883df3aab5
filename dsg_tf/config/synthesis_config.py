"""How samples are made: the method and its ingredients, as one config.

The fields are checked when the config is made. The defaults are measured;
docs/method.md holds the numbers.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from dsg_tf.core import checks, errors

METHODS = ("dsg", "zeroq", "noise")
INITIALIZERS = ("natural", "gaussian")
BASES = ("pixels", "spectrum")
SLACK_SOURCES = ("natural", "gaussian", "share")
FILLS = ("auto", "wrap", "black")
SCHEDULES = ("cosine", "plateau", "constant")


def _subject(field: str) -> str:
    """How a field of SynthesisConfig is called on the command line."""
    return f"--{field}" if field in _OWN_FLAGS else f"--synthesis={field}"


@dataclasses.dataclass(frozen=True)
class SynthesisConfig:
    """How samples are made. Every ingredient can be turned off.

    Attributes:
      method: `dsg`, `zeroq` or `noise`; see `SynthesisConfig.of`.
      num_samples: samples to calibrate with; None as many as the widths need
        (`dsg_tf.config.needs`).
      batch_size: samples optimised together; a batch is a problem of its own.
      steps: optimiser steps per batch; None as many as the widths need.
      tolerance: how far the ranges of activations may lie from those that BN
        tells, in bits (`synthesis.settling`): a batch that is farther off, or
        has not reached its classes, gets twice the steps again and again, up
        to `most_steps`. 0 makes `steps`, and no more.
      most_steps: see `tolerance`; None for what the method's full amount is.
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
      scatter: whether natural images start with brightness, contrast and
        sharpness of their own.
      use_domain: start from the input domain's mean and deviation; otherwise
        from N(0, 1) in the model's input units.
      keep_domain: bring samples back into the domain's bounds at each step.
      jitter: at each step the network sees every image-shaped sample shifted,
        at random, by at most this share of its height and width, 0..1.
      fill: what comes in at the edge of a shifted image: its other side
        (`wrap`), or `black`, the domain's lower bound, as in random crops of
        padded images; `auto` tries both and takes what fits BN's moments
        better (`synthesis.edge_trial`).
      mirror: it sees half of the colour images (3 or 4 channels) mirrored,
        left for right.
      normalize_loss: divide distances by sigma and by the number of channels.
      sample_weight: weight of the moments of each sample, which pull samples
        together where those of the batch let them differ.
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
    num_samples: int | None = None
    batch_size: int | None = None
    steps: int | None = None
    tolerance: float | None = None
    most_steps: int | None = None
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
    fill: str = "auto"
    mirror: bool = True
    normalize_loss: bool = True
    sample_weight: float = 0.1
    batch_weight: float = 1.0
    slack_percentile: float = 0.9
    slack_probes: int = 64
    slack_source: str = "natural"
    layerwise_enhancement: bool = True
    input_weight: float = 0.0
    label_weight: float = 0.5
    label_temperature: float = 3.0
    spread_weight: float = 0.1
    prior_weight: float = 0.0

    def __post_init__(self):
        checks.require_choice("--method", self.method, METHODS)
        for name, choices in (
            ("initializer", INITIALIZERS),
            ("basis", BASES),
            ("slack_source", SLACK_SOURCES),
            ("fill", FILLS),
            ("schedule", SCHEDULES),
        ):
            checks.require_choice(_subject(name), getattr(self, name), choices)
        for name, least in _COUNTS.items():
            if getattr(self, name) is not None:
                checks.require_int(_subject(name), getattr(self, name), least)
        if self.tolerance is not None:
            checks.require_number(
                _subject("tolerance"), self.tolerance, 0.0, math.inf
            )
        for name in _SWITCHES:
            checks.require_bool(_subject(name), getattr(self, name))
        for name in _WEIGHTS:
            checks.require_number(
                _subject(name), getattr(self, name), 0.0, math.inf
            )
        for name in ("learning_rate", "label_temperature"):
            if getattr(self, name) == 0:
                raise errors.UserError(
                    _subject(name), got="0", expected="a number above 0"
                )
        for name in ("slack_percentile", "jitter"):
            checks.require_number(_subject(name), getattr(self, name), 0.0, 1.0)
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
        if self.method == "noise" and self.steps != 0:
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
        checks.require_choice("--method", method, METHODS)
        fields: dict[str, Any] = {"method": method}
        if method == "zeroq":
            fields |= _ZEROQ
        elif method == "noise":
            fields |= _NOISE
        return cls(**(fields | changes))


# The fields that have a flag of their own; the others are set by --synthesis.
_OWN_FLAGS = ("method", "num_samples", "batch_size", "steps", "seed")

# Least values. None of the first four leaves the choice to `config.needs`.
_COUNTS = {
    "num_samples": 1,
    "batch_size": 1,
    "steps": 0,
    "most_steps": 0,
    "slack_probes": 1,
    "patience": 0,
    "seed": 0,
}

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
    "fill": "wrap",
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

# Noise is not looked at, in no view.
_NOISE = {"steps": 0, "initializer": "gaussian", "jitter": 0.0, "mirror": False}
