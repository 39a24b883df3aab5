"""Decides from the measurements whether a result is good enough.

A broken result can have a good score: a constant output agrees with the float
model if all samples belong to one class. Such results are marked doubtful, and
a doubtful run does not pass, whatever its agreement.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

from dsg_tf.config import run_config
from dsg_tf.fidelity import output_kinds

# Ranges that are further off cost more than the least significant bit.
MOST_BITS_OFF = 1.0
# Images of networks that classify them have a cosine around 0 to 0.7.
MOST_ALIKE = 0.95
# Layers and channels that one line names.
_NAMED = 3


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What is held against a run.

    Attributes:
      passed: no doubts, and what was asked for is reached.
      doubts: why the result says little, or is bad in any case; a line each.
      low_sqnr: lines about signal to noise below `LEAST_SQNR_DB` of
        `run_config`: doubts, unless a threshold is given.
      notes: what the samples leave open; a line each.
      missed: what was asked for and is not reached; a line each.
      agreement: the least of the outputs, 0..1; see `verify.Fidelity`.
      sqnr_db: the least around an output's own mean, dB; None without any.
    """

    passed: bool
    doubts: tuple[str, ...]
    low_sqnr: tuple[str, ...]
    notes: tuple[str, ...]
    missed: tuple[str, ...]
    agreement: float
    sqnr_db: float | None


def judge(
    outputs: Mapping,
    layers: Sequence[Mapping],
    *,
    min_agreement: float = 0.0,
    min_sqnr_db: float | None = None,
    bits_off: float = 0.0,
    cosine: float | None = None,
) -> Verdict:
    """Judges a run.

    Args:
      outputs: `verify.Fidelity` by output name.
      layers: rows of `fidelity`.
      min_agreement: the least agreement, 0..1.
      min_sqnr_db: the least SQNR around an output's own mean, dB. By default
        it is not asked for, and below `LEAST_SQNR_DB` of `run_config` a result
        is doubtful.
      bits_off: of synthesised samples that were to settle and did not, how far
        the ranges that they give lie off BatchNorm's, in bits; else 0.
      cosine: of two synthesised samples at a BN layer, the median; None where
        nothing was synthesised.

    Examples:
      >>> import numpy as np
      >>> from dsg_tf.fidelity import output_fidelity
      >>> boxes = np.arange(24.0).reshape(6, 4)
      >>> dead = output_fidelity.compare(
      ...     boxes, np.ones((6, 4)), kind=output_kinds.Kind.VALUES
      ... )
      >>> verdict = judge({"boxes": dead}, [])
      >>> verdict.passed, verdict.doubts[0][:46]
      (False, "output 'boxes' is constant over the 6 samples:")
    """
    doubts: list[str] = []
    low: list[str] = []
    notes: list[str] = []
    for name, output in outputs.items():
        found = list(_doubts(name, output))
        if not found and _is_below(output, run_config.LEAST_SQNR_DB):
            low.append(_low_sqnr(name, output))
            # Whoever sets a threshold has thought of it.
            found = low[-1:] if min_sqnr_db is None else []
        doubts += found
        notes += _notes(name, output)
    doubts += _layer_doubts(layers)
    notes += _layer_notes(layers)
    if bits_off > MOST_BITS_OFF:
        doubts.append(
            f"the samples do not reach BatchNorm's statistics, ranges are"
            f" {bits_off:.1f} bits off: these are not what the model sees, or"
            " its inputs lie elsewhere; give --input_range, or --samples of"
            " your own"
        )
    if cosine is not None and cosine > MOST_ALIKE:
        notes.append(
            f"the samples are much alike (cosine {cosine:.2f}); inputs that"
            " vary more leave their ranges: --samples of your own would tell"
        )
    agreement = min((o.agreement for o in outputs.values()), default=0.0)
    missed = []
    if agreement < min_agreement:
        missed.append(
            f"agreement {agreement:.3f} is below --min_agreement"
            f" {min_agreement:g}"
        )
    if min_sqnr_db is not None:
        missed += [
            f"SQNR {output.sqnr_mean_db:.1f} dB of output {name!r} is below"
            f" --min_sqnr_db {min_sqnr_db:g}"
            for name, output in outputs.items()
            if _is_below(output, min_sqnr_db)
        ]
    ratios = [o.sqnr_mean_db for o in outputs.values() if _has_sqnr(o)]
    return Verdict(
        passed=not (doubts or missed),
        doubts=tuple(doubts),
        low_sqnr=tuple(low),
        notes=tuple(dict.fromkeys(notes)),
        missed=tuple(missed),
        agreement=agreement,
        sqnr_db=min(ratios, default=None),
    )


def _has_sqnr(output) -> bool:
    return output.same_shape and output.kind != output_kinds.Kind.WHOLE.value


def _doubts(name: str, output) -> Iterator[str]:
    """What no threshold excuses; the first says it all."""
    subject = f"output {name!r}"
    if not output.same_shape:
        yield f"{subject} has another shape than the float model's"
    elif not output.float_finite:
        yield f"{subject}: the float model itself gives NaN or infinity"
    elif not output.finite:
        yield f"{subject} has NaN or infinity"
    elif output.kind == output_kinds.Kind.CONSTANT.value:
        return
    elif output.still:
        yield (
            f"the samples do not move {subject}: the float model gives"
            f" {_extent(output.float_range)} on all {output.samples}"
        )
    elif output.constant and _within_a_step(output):
        yield (
            f"the samples move {subject} by less than a step of its integer"
            f" grid: {_extent(output.float_range)}"
        )
    elif output.constant:
        yield (
            f"{subject} is constant over the {output.samples} samples:"
            f" {_extent(output.range)}, where the float model gives"
            f" {_extent(output.float_range)}"
        )
    elif output.kind == output_kinds.Kind.WHOLE.value:
        if (
            output.agreement <= output.commonest
            and output.sqnr_mean_db < run_config.LEAST_SQNR_DB
        ):
            yield (
                f"{subject} is equal in {100 * output.agreement:.0f} %, no more"
                " than a constant would be"
            )
    elif output.movement_db is not None and output.movement_db <= 0:
        yield (
            f"{subject} follows the samples no better than a constant"
            f" ({output.movement_db:.1f} dB)"
        )
    elif output.dead_channels:
        yield (
            f"{subject}: {_channels(output.dead_channels)} constant over the"
            f" {output.samples} samples, where the float model moves"
        )


def _is_below(output, least_db: float) -> bool:
    # NaN is below too.
    return _has_sqnr(output) and not output.sqnr_mean_db >= least_db


def _low_sqnr(name: str, output) -> str:
    where = "around its mean"
    if output.sqnr_of != "values":
        where = f"of its {output.sqnr_of}"
    return (
        f"output {name!r}: SQNR {where} is {output.sqnr_mean_db:.1f} dB, below"
        f" {run_config.LEAST_SQNR_DB:g}"
    )


def _notes(name: str, output) -> Iterator[str]:
    if output.kind == output_kinds.Kind.CONSTANT.value or not output.same_shape:
        return
    if output.samples == 1:
        yield (
            "one sample verifies: whether outputs move with the samples cannot"
            " be judged"
        )
    elif output.shown == 1 and not output.still:
        what = "one class"
        if output.kind == output_kinds.Kind.SIGMOIDS.value:
            what = "one side of 0.5"
        yield f"the samples show {what} of output {name!r} only"


def _layer_doubts(layers: Sequence[Mapping]) -> list[str]:
    """Layers that are lost; one line for all of them."""
    lost = [
        row
        for row in layers
        if not row.get("zero") and (row.get("dead") or row["sqnr_db"] <= 0)
    ]
    if not lost:
        return []
    texts = [
        f"{row['layer']} ("
        + (
            "constant over the samples"
            if row.get("dead")
            else f"{row['sqnr_db']:.1f} dB"
        )
        + ")"
        for row in lost[:_NAMED]
    ]
    more = f" and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
    return [f"lost: layer {', '.join(texts)}{more}"]


def _layer_notes(layers: Sequence[Mapping]) -> list[str]:
    """The worst layer where it is bad and not lost.

    Outputs that the samples have made certain agree in spite of it; real
    inputs, which are less certain, do so less: MobileNetV1 0.25 with weights
    of 4 bits, 100 % of the samples and 61 % of real images.
    """
    low = [
        row
        for row in layers
        if not row.get("zero") and 0 < row["sqnr_db"] < run_config.LEAST_SQNR_DB
    ]
    if not low:
        return []
    worst = min(low, key=lambda row: row["sqnr_db"])
    return [
        f"{len(low)} of {len(layers)} layers have less than"
        f" {run_config.LEAST_SQNR_DB:g} dB, the least {worst['layer']} with"
        f" {worst['sqnr_db']:.1f}: real inputs, which are less clear than"
        " synthetic ones, agree less"
    ]


def _channels(dead: Sequence[int]) -> str:
    if len(dead) == 1:
        return f"channel {dead[0]} is"
    named = ", ".join(map(str, dead[:_NAMED]))
    if len(dead) > _NAMED:
        return f"{len(dead)} channels ({named}, ...) are"
    return f"channels {named} are"


def _extent(bounds: Sequence[float]) -> str:
    low, high = (f"{value:.3g}" for value in bounds)
    return low if low == high else f"{low} to {high}"


def _within_a_step(output) -> bool:
    low, high = output.float_range
    return math.isfinite(high - low) and high - low < output.step
