"""How many samples, and how many steps, the widths of an export need.

Weights of 8 bits that are rounded to nearest ask for ranges of activations and
means of outputs, which a few samples tell after a few steps; with one scale for
a whole layer, twice as many. Learned rounding, and activations below 8 bits,
gain from every sample and step up to the full amount. The study behind the
numbers: docs/explanation/performance.md.
"""

from __future__ import annotations

import dataclasses

from dsg_tf.config import export_config, run_config


@dataclasses.dataclass(frozen=True)
class Amount:
    """Samples and steps.

    Attributes:
      num_samples: samples to calibrate with.
      batch_size: samples that are optimised together.
      steps: optimiser steps per batch.
      tolerance: of activations' ranges, bits; 0 asks for exactly `steps`.
      most_steps: steps per batch where the tolerance is not met before.
      verify_samples: further samples, to compare the result on.
    """

    num_samples: int
    batch_size: int
    steps: int
    tolerance: float
    most_steps: int
    verify_samples: int


FULL = Amount(
    num_samples=64,
    batch_size=16,
    steps=300,
    tolerance=0.0,
    most_steps=300,
    verify_samples=16,
)
FEW = Amount(
    num_samples=8,
    batch_size=8,
    steps=25,
    tolerance=1.0,
    most_steps=300,
    verify_samples=8,
)

# The fewest of the study that lose nothing with one scale for a whole layer.
SOME = dataclasses.replace(
    FEW, num_samples=16, batch_size=16, steps=50, verify_samples=16
)


def of(export: export_config.ExportConfig) -> Amount:
    """What an export needs.

    Examples:
      >>> of(export_config.ExportConfig()).num_samples
      8
      >>> of(export_config.ExportConfig(granularity="tensor")).num_samples
      16
      >>> of(export_config.ExportConfig(weight_bits=4)).num_samples
      64
    """
    few = (
        export.weight_bits == 8
        and export.weight_rounding == "nearest"
        and not export.simulated
    )
    if not few:
        return FULL
    return FEW if export.granularity == "channel" else SOME


def complete(config: run_config.PipelineConfig) -> run_config.PipelineConfig:
    """The config of a run with a number for each count that it leaves open.

    Who says how many steps gets so many, and no more. A tolerance of 0 asks for
    the full amount whatever the widths.

    Args:
      config: any; of the methods, `dsg` alone has fewer than the full amount.

    Examples:
      >>> from dsg_tf.config import synthesis_config
      >>> given = synthesis_config.SynthesisConfig(steps=100)
      >>> config = run_config.PipelineConfig(synthesis=given)
      >>> found = complete(config)
      >>> found.synthesis.num_samples, found.synthesis.most_steps
      (8, 100)
      >>> found.verify_samples
      8
    """
    synthesis = config.synthesis
    few = synthesis.method == "dsg" and synthesis.tolerance != 0
    amount = of(config.export) if few else FULL
    values = dataclasses.asdict(amount)
    verify_samples = values.pop("verify_samples")
    if synthesis.steps is not None:
        values |= {"most_steps": synthesis.steps, "tolerance": 0.0}
    given = {
        name: getattr(synthesis, name)
        for name in values
        if getattr(synthesis, name) is not None
    }
    if config.samples:
        verify_samples = FULL.verify_samples
    return dataclasses.replace(
        config,
        synthesis=dataclasses.replace(synthesis, **(values | given)),
        verify_samples=config.verify_samples or verify_samples,
    )


def lines(config: run_config.PipelineConfig) -> list[str]:
    """What a config leaves open, as lines of a flagfile that decide it.

    Examples:
      >>> from dsg_tf.config import synthesis_config
      >>> given = synthesis_config.SynthesisConfig(num_samples=4)
      >>> lines(run_config.PipelineConfig(synthesis=given))[:2]
      ['--batch_size=8', '--steps=25']
    """
    whole = complete(config)
    found = [
        f"--{name}={getattr(whole.synthesis, name)}"
        for name in ("num_samples", "batch_size", "steps")
        if getattr(config.synthesis, name) is None
    ]
    found += [
        f"--synthesis={name}={getattr(whole.synthesis, name)}"
        for name in ("tolerance", "most_steps")
        if getattr(config.synthesis, name) is None
    ]
    if config.verify_samples is None:
        found.append(f"--verify_samples={whole.verify_samples}")
    return found
