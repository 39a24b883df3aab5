"""The ingredients of the default method, put together and taken apart.

What `benchmarks.ablation` runs, without its flags.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from dsg_tf.config import synthesis_config

STUDIES = ("ladder", "without", "slack")

# An ingredient a rung, in the fields of SynthesisConfig; each rung has those
# before it, too.
_LADDER: dict[str, dict[str, Any]] = {
    "ZeroQ": {},
    "+ normalised loss, cosine rate": {
        "normalize_loss": True,
        "schedule": "cosine",
    },
    "+ domain and bounds": {
        "use_domain": True,
        "keep_domain": True,
        "input_weight": 0.0,
    },
    "+ natural start": {"initializer": "natural"},
    "+ slack (SDA)": {"slack_percentile": 0.9, "slack_source": "gaussian"},
    "+ LSE": {"layerwise_enhancement": True},
    "+ labels, spread": {"label_weight": 1.0, "spread_weight": 0.1},
    "+ image prior": {"prior_weight": 0.1},
    "+ batch moments, no prior": {"batch_weight": 1.0, "prior_weight": 0.0},
    "+ jitter, mirror": {"jitter": 0.125, "mirror": True},
    "+ scatter, natural slack": {
        "scatter": True,
        "slack_source": "natural",
    },
    "+ edges found out": {"fill": "auto"},
    # All moments then have half of their weight, and so have the labels.
    "+ a tenth of the samples' moments (the default)": {
        "sample_weight": 0.1,
        "label_weight": 0.5,
    },
    "spectrum": {"basis": "spectrum"},
}

# Changes to the default method.
_WITHOUT: dict[str, dict[str, Any]] = {
    "default": {},
    "no bias correction": {},
    "no labels": {"label_weight": 0.0},
    "label temperature 1": {"label_temperature": 1.0},
    "no batch moments": {"batch_weight": 0.0, "sample_weight": 1.0},
    "no sample moments": {"sample_weight": 0.0},
    "all of the samples' moments": {"sample_weight": 1.0},
    "twice the weight of labels": {"label_weight": 1.0},
    "no LSE": {"layerwise_enhancement": False},
    "no normalisation": {"normalize_loss": False},
    "no scatter": {"scatter": False},
    "spectrum": {"basis": "spectrum"},
    "white-noise start": {"initializer": "gaussian"},
    "no bounds": {"keep_domain": False},
    "no domain": {"use_domain": False, "keep_domain": False},
    "no jitter": {"jitter": 0.0},
    "no mirror": {"mirror": False},
    "wrapped edges": {"fill": "wrap"},
    "black edges": {"fill": "black"},
    "half the steps": {"steps": 0.5},
    "twice the steps": {"steps": 2.0},
    "twice the samples": {"num_samples": 2.0},
    "image prior 0.1": {"prior_weight": 0.1},
}

# Of a row, in fields of ExportConfig.
EXPORTS = {"no bias correction": {"bias_correction": "none"}}

# What has slack are the samples' moments: here at the papers' weight.
_FULL_WEIGHT = {"sample_weight": 1.0, "label_weight": 1.0}
_SLACK: dict[str, dict[str, Any]] = {
    "none": {"slack_percentile": 0.0, **_FULL_WEIGHT},
    **{
        f"{source}, {percentile:g}": {
            **_FULL_WEIGHT,
            "slack_source": source,
            "slack_percentile": percentile,
        }
        for source in ("gaussian", "natural", "share")
        for percentile in (0.5, 0.9, 0.99)
    },
}


def variants(
    study: str, *, num_samples: int, steps: int
) -> dict[str, synthesis_config.SynthesisConfig]:
    """The rows of a study, with seed 0.

    Args:
      study: `ladder`, `without` or `slack`.
      num_samples, steps: of every row that does not say otherwise.
    """
    of = synthesis_config.SynthesisConfig.of
    counts = {"num_samples": num_samples, "steps": steps}
    rows: dict[str, synthesis_config.SynthesisConfig] = {}
    if study == "ladder":
        rows["white noise"] = of(
            "noise",
            num_samples=num_samples,
            use_domain=False,
            keep_domain=False,
        )
        rung = of("zeroq", **counts)
        for title, changes in _LADDER.items():
            if changes:
                rung = dataclasses.replace(rung, method="dsg", **changes)
            rows[title] = rung
        return rows
    default = of("dsg", **counts)
    for title, changes in (_WITHOUT if study == "without" else _SLACK).items():
        scaled = {
            name: int(value * counts[name]) if name in counts else value
            for name, value in changes.items()
        }
        rows[title] = dataclasses.replace(default, **scaled)
    if study == "without":
        rows["zeroq"] = of("zeroq", **counts)
        rows["noise of the domain"] = of("noise", num_samples=num_samples)
    return rows
