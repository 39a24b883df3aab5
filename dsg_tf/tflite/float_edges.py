"""Finds pre- and postprocessing operations that must stay in float.

Operations with weights, and those between them, are quantized. Before them a
model may preprocess its inputs (a cast of ids, a spectrogram); after them it
may decode its outputs (boxes from offsets, a threshold, non-maximum
suppression). Where such an operation has no integer form, or would lose too
much precision in integers, it stays float: in the preprocessing (the head) with
all operations before it, in the postprocessing (the tail) with all after it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterator, Mapping

import numpy as np

from dsg_tf.quant import qtypes
from dsg_tf.tflite import feature_scales, flatbuffer, op_support, weights

# In a concatenation, an operand whose range is a quarter of the common range
# keeps 6 of 8 bits.
_GREATEST_RATIO = 4.0
_JOINS = frozenset({"CONCATENATION", "PACK"})
# Operations of a normalization, and those that may occur between them.
_NORMALIZING = frozenset(
    {
        *("ADD", "DIV", "EXPAND_DIMS", "MAXIMUM", "MEAN", "MINIMUM", "MUL"),
        *("REDUCE_MAX", "REDUCE_MIN", "RESHAPE", "RSQRT", "SQRT", "SQUARE"),
        *("SQUARED_DIFFERENCE", "SQUEEZE", "SUB"),
    }
)
# Nonlinear operations: they tell a network from a linear transform.
_ACTIVATIONS = frozenset(
    {
        *("ELU", "GELU", "HARD_SWISH", "LEAKY_RELU", "LOGISTIC", "PRELU"),
        *("RELU", "RELU6", "RELU_N1_TO_1", "SOFTMAX", "TANH"),
    }
)


@dataclasses.dataclass(frozen=True)
class FloatEdges:
    """Operations that stay float, by position, with the reason.

    Attributes:
      head: between the inputs and the network.
      tail: between the network and the outputs.
    """

    head: Mapping[int, str] = dataclasses.field(default_factory=dict)
    tail: Mapping[int, str] = dataclasses.field(default_factory=dict)

    @property
    def ops(self) -> frozenset[int]:
        """Positions of all of them."""
        return frozenset(self.head) | frozenset(self.tail)


def find(
    view: flatbuffer.Model,
    *,
    activation_bits: int,
    ranges: Mapping[str, qtypes.TensorRange] | None = None,
    even: Container[str] = (),
) -> FloatEdges:
    """Finds the float head and the float tail of a file.

    Args:
      view: the float file.
      activation_bits: 8 or 16.
      ranges: of activations by tensor; without them, concatenations of
        operands with different ranges are not found.
      even: tensors whose channels were brought to one scale (see
        `output_scales`); what reads them brings the channels back.

    Returns:
      The operations. An operation without an integer form that is in neither
      head nor tail lies within the network.
    """
    head: dict[int, str] = {}
    tail: dict[int, str] = {}
    for seed in _tail_seeds(view, activation_bits, ranges, even):
        region = reached(view, seed.op, forward=True)
        if not any(has_weights(view, op) for op in region):
            tail |= dict.fromkeys((op.index for op in region), seed.reason)
    for seed in _head_seeds(view, activation_bits):
        region = reached(view, seed.op, forward=False)
        if seed.normalized:
            region += _normalization(view, region)
        if (
            seed.op.index not in tail
            and not any(op.name in _ACTIVATIONS for op in region)
            and (seed.weights or not any(has_weights(view, o) for o in region))
        ):
            head |= dict.fromkeys((op.index for op in region), seed.reason)
    return FloatEdges(head, tail)


@dataclasses.dataclass(frozen=True)
class _Seed:
    """An operation that should not be quantized.

    Attributes:
      op: the operation.
      reason: why, with its name.
      normalized: whether the operations that normalize its result stay float
        with it.
      weights: whether linear operations with weights may stand before it: a
        Fourier or mel transform.
    """

    op: flatbuffer.Op
    reason: str
    normalized: bool = False
    weights: bool = False

    @classmethod
    def of(cls, op: flatbuffer.Op, why: str, **fields: bool) -> _Seed:
        return cls(op, f"{op.name}: {why}", **fields)


def _tail_seeds(
    view: flatbuffer.Model,
    activation_bits: int,
    ranges: Mapping[str, qtypes.TensorRange] | None,
    even: Container[str],
) -> Iterator[_Seed]:
    greatest = _GREATEST_RATIO * 2.0 ** (activation_bits - 8)
    for op in view.ops:
        reason = _no_integer_form(view, op, activation_bits)
        if reason:
            yield _Seed.of(op, reason)
        elif (op.name == "MUL" and _spreads_columns(view, op)) or any(
            view.tensors[index].name in even for index in op.inputs
        ):
            yield _Seed.of(op, "brings channels to unlike scales")
        elif op.name in _JOINS and ranges:
            ratio = _range_ratio(view, op, ranges)
            if ratio > greatest:
                yield _Seed.of(
                    op,
                    f"joins parts whose ranges differ {ratio:.0f}-fold, which"
                    " one scale cannot hold",
                )


def _head_seeds(
    view: flatbuffer.Model, activation_bits: int
) -> Iterator[_Seed]:
    for op in view.ops:
        reason = _no_integer_form(view, op, activation_bits)
        if reason:
            yield _Seed.of(op, reason)
        elif op.name == "LOG" and _is_of_a_power(view, op):
            yield _Seed.of(
                op,
                "the logarithm of a power, which spans many decades",
                normalized=True,
                weights=True,
            )
        elif op.name == "MUL" and _scales_unlike_columns(view, op):
            yield _Seed.of(
                op, "brings columns of unlike scale to one", normalized=True
            )


def _no_integer_form(
    view: flatbuffer.Model, op: flatbuffer.Op, activation_bits: int
) -> str:
    if not op_support.touches_float(view, op) or op_support.is_input_cast(
        view, op
    ):
        return ""
    return op_support.reason_for_float(op, activation_bits)


def _range_ratio(
    view: flatbuffer.Model,
    op: flatbuffer.Op,
    ranges: Mapping[str, qtypes.TensorRange],
) -> float:
    """Widest operand range / narrowest one; 1 without operands."""
    found = [
        ranges[view.tensors[index].name].with_zero().width
        for index in op.inputs
        if index >= 0 and view.tensors[index].name in ranges
    ]
    # An operand that is always zero needs no resolution.
    widths = [width for width in found if width > 0]
    return max(widths) / min(widths) if widths else 1.0


def _scales_unlike_columns(view: flatbuffer.Model, op: flatbuffer.Op) -> bool:
    """Whether a MUL normalizes columns that one scale cannot hold.

    x * f + b, or (x - m) * f, brings columns of mean m = -b / f and deviation
    1 / f to mean 0 and deviation 1.
    """
    factor = _column_constant(view, op)
    if factor is None:
        return False
    with np.errstate(divide="ignore"):
        deviation = 1 / np.abs(factor)
    before = [view.producers[i] for i in op.inputs if i in view.producers]
    after = view.consumers[op.outputs[0]]
    mean = np.zeros(len(factor))
    for shift in (*before, *after):
        added = None
        if shift.name in ("ADD", "SUB"):
            added = _column_constant(view, shift)
        if added is not None:
            mean = np.abs(added) if shift in before else added * deviation
            break
    # A factor of 0 takes its column away.
    used = factor != 0
    return feature_scales.unlike(mean[used], deviation[used])


def _spreads_columns(view: flatbuffer.Model, op: flatbuffer.Op) -> bool:
    """Whether a MUL gives channels reaches that one scale cannot hold."""
    factor = _column_constant(view, op)
    if factor is None:
        return False
    # A factor of 0 takes its channel away.
    used = np.abs(factor[factor != 0])
    return used.size > 1 and used.max() > _GREATEST_RATIO * used.min()


def _column_constant(
    view: flatbuffer.Model, op: flatbuffer.Op
) -> np.ndarray | None:
    """The constant operand, a value for each column or one for all, (C,)."""
    columns = view.tensors[op.outputs[0]].shape[-1:]
    for index in op.inputs:
        tensor = view.tensors[index]
        if (
            tensor.constant
            and tensor.dtype == "float32"
            and columns
            and int(np.prod(tensor.shape)) in (1, columns[0])
        ):
            values = view.constant(tensor).astype(np.float64).reshape(-1)
            return np.broadcast_to(values, columns)
    return None


def _is_of_a_power(view: flatbuffer.Model, op: flatbuffer.Op) -> bool:
    """Whether an operation's input was computed from a square."""
    return any(
        other.name == "SQUARE"
        or (other.name == "MUL" and len(set(other.inputs)) == 1)
        for other in reached(view, op, forward=False)
    )


def _normalization(
    view: flatbuffer.Model, region: list[flatbuffer.Op]
) -> list[flatbuffer.Op]:
    """Operations without weights that depend on the head's results only.

    A spectrogram is often normalized to 0..1; before the normalization, one
    scale would have to cover its whole range.
    """
    made = {index for op in region for index in op.outputs}
    found = []
    for op in view.ops:
        read = [
            index
            for index in op.inputs
            if index >= 0 and not view.tensors[index].constant
        ]
        if (
            op not in region
            and op.name in _NORMALIZING
            and made.issuperset(read)
        ):
            found.append(op)
            made.update(op.outputs)
    return found


def has_weights(view: flatbuffer.Model, op: flatbuffer.Op) -> bool:
    """Whether an operation is a layer with weights, or a matrix product."""
    return weights.operand(view, op) is not None or op.name == "BATCH_MATMUL"


def reached(
    view: flatbuffer.Model, op: flatbuffer.Op, *, forward: bool
) -> list[flatbuffer.Op]:
    """An operation with its transitive consumers or producers."""
    found = {op.index: op}
    queue = [op]
    while queue:
        current = queue.pop()
        if forward:
            near = [
                o for index in current.outputs for o in view.consumers[index]
            ]
        else:
            near = [
                view.producers[index]
                for index in current.inputs
                if index in view.producers
            ]
        for other in near:
            if other.index not in found:
                found[other.index] = other
                queue.append(other)
    return [found[index] for index in sorted(found)]
