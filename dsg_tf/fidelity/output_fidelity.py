"""Similarity of one output of the quantized and the float model.

Each kind of output is measured by what it is for: classes by the best class,
sigmoids by their decisions and how far they follow the samples, values by the
share of their variance that is explained, whole numbers by equality. Each
also by signal to noise around its own mean, where a constant has 0 dB.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from dsg_tf.fidelity import output_kinds, output_pair, output_spread

# Up to as many channels, each is a quantity of its own, as of boxes.
_OWN_CHANNELS = 16
# With fewer samples, the movement of a single channel is left to chance.
_ENOUGH_SAMPLES = 8
# Channels that move with the samples at least this far, relative to the one
# that moves most, or in steps of the output's grid, can be called dead.
_PLAIN, _PLAIN_STEPS = 0.25, 4.0
# A channel that moves less far than this share of the float model's is dead.
_DEAD = 0.1
_CLASSES = (output_kinds.Kind.PROBABILITIES, output_kinds.Kind.LOGITS)
# Whole numbers need be no quantities, and a constant does not move.
_WITHOUT_SPREAD = (output_kinds.Kind.WHOLE, output_kinds.Kind.CONSTANT)


@dataclasses.dataclass(frozen=True)
class Fidelity:
    """How near one output comes to its reference.

    Attributes:
      sqnr_db: signal to quantization noise, dB; inf where equal.
      cosine: cosine similarity of all values at once, -1..1.
      top1_agreement: share of samples, of a map of positions, with the same
        best class; of whole numbers, the share that is equal; 0..1. None for
        other outputs.
      max_abs_error: greatest absolute difference, in the output's units.
      kind: a value of `output_kinds.Kind`.
      agreement: one number by kind, 0..1. Probabilities, logits and whole
        numbers: `top1_agreement`. Sigmoids: the lesser of `same_decisions` and
        the share of variance explained, 1 - noise / variance around the mean,
        from 0 (of one sigmoid, that of its logit). Values, and logits of
        which the samples show one class only: the share of variance explained;
        up to 16 channels each is a quantity of its own, and the least counts.
      sqnr_mean_db: signal to noise around the mean of each channel (the last
        axis), dB; of `sqnr_of`, and where channels count by themselves, of the
        worst. Of a single sample, and of outputs that no input reaches, around
        zero.
      sqnr_of: what `sqnr_mean_db` is of: `values`, or the `logit` of one
        sigmoid, or the `logarithm` of a softmax: rounding errors of the last
        layer are alike there, however near 0 and 1 they end.
      same_decisions: of sigmoids, the share on the same side of 0.5, 0..1.
      commonest: of whole numbers, the share that the float model's most
        frequent one has.
      shown: how many classes, or sides of 0.5, the float model shows.
      samples: how many were compared.
      still: whether the samples do not move the float model's output.
      constant: whether they do not move the quantized model's.
      float_range, range: (least, greatest) value of both.
      step: of the output's integer grid, in its units; 0 where it is float.
      movement_db: of maps, movement with the samples over what of it is
        missed, dB; None of other outputs.
      worst_channel: its place on the last axis; None without several.
      worst_channel_db, median_channel_db: `sqnr_mean_db` of channels.
      dead_channels: those that the float model moves and this one does not.
      finite, float_finite: whether there is no NaN and no infinity.
      same_shape: whether there was anything to compare.
    """

    sqnr_db: float
    cosine: float
    top1_agreement: float | None
    max_abs_error: float
    kind: str = output_kinds.Kind.VALUES.value
    agreement: float = 0.0
    sqnr_mean_db: float = -math.inf
    sqnr_of: str = "values"
    same_decisions: float | None = None
    commonest: float | None = None
    shown: int | None = None
    samples: int = 1
    still: bool = False
    constant: bool = False
    float_range: tuple[float, float] = (0.0, 0.0)
    range: tuple[float, float] = (0.0, 0.0)
    step: float = 0.0
    movement_db: float | None = None
    worst_channel: int | None = None
    worst_channel_db: float | None = None
    median_channel_db: float | None = None
    dead_channels: tuple[int, ...] = ()
    finite: bool = True
    float_finite: bool = True
    same_shape: bool = True


def compare(
    reference: np.ndarray,
    output: np.ndarray,
    *,
    kind: output_kinds.Kind | None = None,
    step: float = 0.0,
    samples: int | None = None,
) -> Fidelity:
    """Compares an output with its reference.

    Args:
      reference: (N, ...) of the float model.
      output: (N, ...) of the quantized model, dequantized.
      kind: what the output holds; by default (N, K > 1) are logits and all
        else is values.
      step: of the output's integer grid, in its units; 0 where it is float.
      samples: how many; N by default, which is a multiple of it.

    Returns:
      The measures.

    Raises:
      ValueError: unlike shapes.

    Examples:
      >>> f = compare(np.array([[3.0, 4.0]]), np.array([[3.0, 3.5]]))
      >>> round(f.sqnr_db, 2), f.top1_agreement, f.max_abs_error
      (20.0, 1.0, 0.5)
      >>> p = np.array([[0.97], [0.99], [1.0]])
      >>> f = compare(p, np.full_like(p, 0.9), kind=output_kinds.Kind.SIGMOIDS)
      >>> f.same_decisions, f.agreement, f.constant
      (1.0, 0.0, True)
    """
    moments = output_spread.Moments()
    for r, q in zip(reference, output, strict=True):
        moments.update(r, q)
    count = samples or len(reference)
    pair = output_pair.Pair(reference, output, count, step)
    if kind is None:
        scores = np.ndim(reference) == 2 and pair.channels > 1
        kind = output_kinds.Kind.LOGITS if scores else output_kinds.Kind.VALUES
    elif kind is output_kinds.Kind.VALUES and pair.sums_to_one():
        kind = output_kinds.Kind.PROBABILITIES  # A softmax in pieces.
    return Fidelity(
        sqnr_db=moments.sqnr_db,
        cosine=moments.cosine,
        kind=kind.value,
        **pair.facts(),
        **_by_kind(pair, kind, moments.sqnr_db),
    )


def incomparable(kind: output_kinds.Kind, samples: int) -> Fidelity:
    """Of an output whose shape is not its reference's: the worst there is."""
    return Fidelity(
        -math.inf,
        -1.0,
        None,
        math.inf,
        kind=kind.value,
        samples=samples,
        same_shape=False,
    )


def _by_kind(
    pair: output_pair.Pair, kind: output_kinds.Kind, sqnr_db: float
) -> dict:
    """The fields that depend on what the output is."""
    if kind in _CLASSES:
        found = _of_classes(pair, kind)
    elif kind is output_kinds.Kind.SIGMOIDS:
        found = _of_sigmoids(pair)
    elif kind is output_kinds.Kind.WHOLE:
        found = _of_whole_numbers(pair)
    elif kind is output_kinds.Kind.CONSTANT or pair.alone:
        found = _of_a_constant(sqnr_db)
    else:
        found = _of_values(pair)
    if pair.alone:
        # Nothing tells how far it moves.
        found["sqnr_mean_db"] = sqnr_db
    elif pair.samples > 1 and kind not in _WITHOUT_SPREAD:
        found |= _of_channels(pair, kind)
        if pair.positions > 1:
            found["movement_db"] = pair.spread.movement_db
    if not pair.finite:
        found["sqnr_mean_db"] = -math.inf
        if kind not in _CLASSES:
            found["agreement"] = 0.0
    return {"top1_agreement": None, **found}


def _of_classes(pair: output_pair.Pair, kind: output_kinds.Kind) -> dict:
    best, own = pair.r.argmax(axis=-1), pair.q.argmax(axis=-1)
    same = float(np.mean((best == own) & pair.usable))
    found: dict[str, object] = {
        "top1_agreement": same,
        "agreement": same,
        "shown": len(np.unique(best)),
        "sqnr_mean_db": pair.spread.sqnr_db,
    }
    if kind is output_kinds.Kind.PROBABILITIES and not pair.alone:
        found["sqnr_of"] = "logarithm"
        found["sqnr_mean_db"] = pair.logarithms().sqnr_db
    one_class = found["shown"] == 1 and pair.samples > 1
    if kind is output_kinds.Kind.LOGITS and one_class:
        # Then nothing tells classes from a regression.
        found |= _of_values(pair)
    return found


def _of_sigmoids(pair: output_pair.Pair) -> dict:
    above = pair.r > 0.5
    near = np.abs(pair.r - pair.q) <= pair.step / 2
    same = float(np.mean((above == (pair.q > 0.5)) | near))
    of_logit = pair.samples > 1 and pair.positions == pair.channels == 1
    spread = pair.logits() if of_logit else pair.spread
    return {
        "sqnr_of": "logit" if of_logit else "values",
        "same_decisions": same,
        "shown": len(np.unique(above)),
        "agreement": same if pair.alone else min(same, spread.explained),
        "sqnr_mean_db": spread.sqnr_db,
    }


def _of_whole_numbers(pair: output_pair.Pair) -> dict:
    equal = float(np.mean(pair.r == pair.q))
    _, counts = np.unique(pair.r, return_counts=True)
    return {
        "top1_agreement": equal,
        "agreement": equal,
        "commonest": float(counts.max() / pair.r.size),
        "sqnr_mean_db": pair.spread.sqnr_db,
    }


def _of_a_constant(sqnr_db: float) -> dict:
    """Of what has no spread, or one that nobody can know."""
    share = 1 - 10 ** (-sqnr_db / 10) if sqnr_db > 0 else 0.0
    return {"agreement": share, "sqnr_mean_db": sqnr_db}


def _of_values(pair: output_pair.Pair) -> dict:
    spread, moving = pair.spread, pair.spread.moving
    if not _each_counts(pair) or not moving.any():
        return {"agreement": spread.explained, "sqnr_mean_db": spread.sqnr_db}
    shares = map(
        output_spread.explained, spread.signal[moving], spread.noise[moving]
    )
    return {
        "agreement": min(shares),
        "sqnr_mean_db": float(spread.channel_db()[moving].min()),
    }


def _each_counts(pair: output_pair.Pair) -> bool:
    """Whether each channel of values is judged by itself."""
    return pair.channels <= _OWN_CHANNELS and pair.samples >= _ENOUGH_SAMPLES


def _of_channels(pair: output_pair.Pair, kind: output_kinds.Kind) -> dict:
    """The worst channel, the median one, and those that are dead."""
    spread, moving = pair.spread, pair.spread.moving
    if pair.channels == 1 or not moving.any():
        return {}
    plain = moving & (spread.moved >= _PLAIN**2 * spread.moved.max())
    if kind is output_kinds.Kind.VALUES and _each_counts(pair):
        plain = moving
    elif kind is output_kinds.Kind.SIGMOIDS:
        least = _PLAIN_STEPS * pair.least_step
        plain = moving & (spread.moved >= spread.count * least**2)
    dead = plain & (spread.followed < _DEAD**2 * spread.moved)
    decibels = spread.channel_db()
    counted = np.flatnonzero(plain if plain.any() else moving)
    worst = counted[np.argmin(decibels[counted])]
    return {
        "worst_channel": int(worst),
        "worst_channel_db": float(decibels[worst]),
        "median_channel_db": float(np.median(decibels[counted])),
        "dead_channels": tuple(map(int, np.flatnonzero(dead))),
    }
