"""How samples are made: the method and its ingredients, as one config.

The fields are checked when the config is made. The defaults are measured;
docs/explanation/method.md holds the numbers.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from dsg_tf.config import options
from dsg_tf.core import checks, errors

METHODS = ("dsg", "zeroq", "noise")
INITIALIZERS = ("natural", "gaussian")
BASES = ("pixels", "spectrum")
SLACK_SOURCES = ("natural", "gaussian", "share")
FILLS = ("auto", "wrap", "black")
SCHEDULES = ("cosine", "plateau", "constant")


_SAMPLES = "Samples"


@dataclasses.dataclass(frozen=True)
class SynthesisConfig:
    """How samples are made. Every ingredient can be turned off.

    Counts that are None are left to the widths; see `config.needs`.

    Raises:
      errors.UserError: a value, or a combination, is not valid.

    Examples:
      >>> SynthesisConfig(steps=100).learning_rate
      0.1
    """

    method: str = options.option(
        "dsg",
        f"How samples are made: {', '.join(METHODS)}.",
        group=_SAMPLES,
        choices=METHODS,
        axis=options.ELSEWHERE,
    )
    num_samples: int | None = options.option(
        None,
        "Samples to calibrate with; default: as many as the widths need.",
        group=_SAMPLES,
        least=1,
        axis=options.BY_NAME,
    )
    batch_size: int | None = options.option(
        None,
        "Samples optimised together; default: as the widths need.",
        group=_SAMPLES,
        least=1,
    )
    steps: int | None = options.option(
        None,
        "Optimiser steps per batch; default: until the samples have "
        "settled, or the method's.",
        group=_SAMPLES,
        least=0,
        axis=options.BY_NAME,
    )
    tolerance: float | None = options.option(
        None,
        "How far ranges of activations may lie from those that BN "
        "tells, in bits: a batch that is farther off, or has not "
        "reached its classes, gets as many steps again, up to "
        "most_steps. 0 makes steps, and no more; default: as the widths "
        "need.",
        least=0.0,
    )
    most_steps: int | None = options.option(
        None,
        "See tolerance; default: the method's full amount.",
        least=0,
    )
    patience: int = options.option(
        0,
        "Steps without a fall of the loss by 1 % that end a batch; 0 "
        "never does.",
        least=0,
    )
    learning_rate: float = options.option(
        0.1,
        "Adam's, in deviations of the input domain per step.",
        least=0.0,
        above_least=True,
    )
    schedule: str = options.option(
        "cosine",
        "How the rate falls: cosine to zero, plateau (by ten where the "
        "loss has not fallen for a fifth of the steps, as ZeroQ's code) "
        "or constant.",
        choices=SCHEDULES,
    )
    seed: int = options.option(
        0,
        "Seed of all randomness.",
        group=_SAMPLES,
        least=0,
        axis=options.ELSEWHERE,
    )
    initializer: str = options.option(
        "natural",
        "What samples start as: natural (1/f noise, for image-shaped "
        "inputs) or gaussian.",
        choices=INITIALIZERS,
    )
    basis: str = options.option(
        "pixels",
        "What of natural images is optimised: pixels, or spectrum, the "
        "coefficients of the noise that they are made of.",
        choices=BASES,
    )
    scatter: bool = options.option(
        True,
        "Natural images start with brightness, contrast and sharpness "
        "of their own.",
    )
    use_domain: bool = options.option(
        True,
        "Start from the input domain's mean and deviation; else from "
        "N(0, 1) in the model's input units.",
    )
    keep_domain: bool = options.option(
        True,
        "Bring samples back into the domain's bounds at each step.",
    )
    jitter: float = options.option(
        0.125,
        "At each step the network sees every image-shaped sample "
        "shifted, at random, by at most this share of its height and "
        "width.",
        least=0.0,
        most=1.0,
    )
    fill: str = options.option(
        "auto",
        "What comes in at the edge of a shifted image: its other side "
        "(wrap), or black, the domain's lower bound, as in random crops "
        "of padded images; auto tries both and takes what fits BN's "
        "moments better.",
        choices=FILLS,
    )
    mirror: bool = options.option(
        True,
        "At each step the network sees half of the colour images (3 or "
        "4 channels) mirrored, left for right.",
    )
    normalize_loss: bool = options.option(
        True,
        "Divide distances by sigma and by the number of channels.",
    )
    sample_weight: float = options.option(
        0.1,
        "Weight of the moments of each sample, which pull samples "
        "together where those of the batch let them differ.",
        least=0.0,
    )
    batch_weight: float = options.option(
        1.0,
        "Weight of the moments of the whole batch.",
        least=0.0,
    )
    slack_percentile: float = options.option(
        0.9,
        "DSG's SDA: the percentile, 0..1, of noise probes' distances "
        "that becomes the margin (section 3.2); 0 turns SDA off.",
        least=0.0,
        most=1.0,
    )
    slack_probes: int = options.option(
        64,
        "Noise inputs that the margins are derived from.",
        least=1,
    )
    slack_source: str = options.option(
        "natural",
        "That noise: natural, what samples start as, or gaussian, white "
        "as in the paper; or share, margins from the share of BN's "
        "variance that lies between samples that start as natural.",
        choices=SLACK_SOURCES,
    )
    layerwise_enhancement: bool = options.option(
        True,
        "DSG's LSE (section 3.3).",
    )
    input_weight: float = options.option(
        0.0,
        "Weight of the input's own moments (ZeroQ's layer 0).",
        least=0.0,
    )
    label_weight: float = options.option(
        0.5,
        "Weight of the cross-entropy to drawn classes, where a "
        "classifier head is found.",
        least=0.0,
    )
    label_temperature: float = options.option(
        3.0,
        "Divides the logits of that cross-entropy: how far beyond "
        "certainty a class is asked for.",
        least=0.0,
        above_least=True,
    )
    spread_weight: float = options.option(
        0.1,
        "Weight of the output-spread loss, for every other output.",
        least=0.0,
    )
    prior_weight: float = options.option(
        0.0,
        "Weight of total variation, for image-shaped inputs.",
        least=0.0,
    )

    def __post_init__(self):
        options.check(self)
        if self.basis == "spectrum" and self.initializer != "natural":
            raise errors.UserError(
                "basis",
                got=f"'spectrum' with initializer={self.initializer}",
                expected="'pixels', or initializer=natural: only images have a"
                " spectrum to start with",
            )
        self._require_preset()

    def _require_preset(self) -> None:
        """Refuses a config that bears the name of a method that it is not."""
        if self.method == "noise" and self.steps != 0:
            raise errors.UserError(
                "steps",
                got=f"{self.steps} with the method noise",
                expected="0: noise is not optimised",
            )
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        telling = [n for n, v in _ZEROQ.items() if v != defaults[n]]
        if self.method == "zeroq" and not any(
            getattr(self, name) == _ZEROQ[name] for name in telling
        ):
            raise errors.UserError(
                "method",
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

        Examples:
          >>> SynthesisConfig.of("zeroq").slack_percentile
          0.0
        """
        checks.require_choice("method", method, METHODS)
        fields: dict[str, Any] = {"method": method}
        if method == "zeroq":
            fields |= _ZEROQ
        elif method == "noise":
            fields |= _NOISE
        return cls(**(fields | changes))


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
