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
from collections.abc import Iterable, Mapping

import numpy as np

from dsg_tf.quant import qtypes
from dsg_tf.tflite import flatbuffer, op_support, weights

# In a concatenation, an operand whose range is a quarter of the common range
# keeps 6 of 8 bits.
_GREATEST_RATIO_8 = 4.0
# The same resolution at 16 bits.
_GREATEST_RATIO_16 = 4.0 * 2.0**8
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
) -> FloatEdges:
    """Finds the float head and the float tail of a file.

    Args:
      view: the float file.
      activation_bits: 8 or 16.
      ranges: of activations by tensor; without them, concatenations of
        operands with different ranges are not found.

    Returns:
      The operations. An operation without an integer form that is in neither
      head nor tail lies within the network.
    """
    head: dict[int, str] = {}
    tail: dict[int, str] = {}
    for op, reason in _tail_seeds(view, activation_bits, ranges):
        region = _reached(view, op, forward=True)
        if not any(_has_weights(view, other) for other in region):
            for other in region:
                tail.setdefault(other.index, f"behind {op.name}: {reason}")
            tail[op.index] = reason
    for op, reason in _head_seeds(view, activation_bits):
        region = _reached(view, op, forward=False)
        if op.name in ("DIV", "LOG", "MUL"):
            region += _normalization(view, region)
        linear = not any(other.name in _ACTIVATIONS for other in region)
        weighted = any(_has_weights(view, other) for other in region)
        if op.index in tail or not linear or (weighted and op.name != "LOG"):
            continue
        for other in region:
            head.setdefault(other.index, f"before {op.name}: {reason}")
        head[op.index] = reason
    return FloatEdges(head, tail)


def _tail_seeds(
    view: flatbuffer.Model,
    activation_bits: int,
    ranges: Mapping[str, qtypes.TensorRange] | None,
) -> Iterable[tuple[flatbuffer.Op, str]]:
    for op in view.ops:
        reason = _no_integer_form(view, op, activation_bits)
        if reason:
            yield op, reason
        elif op.name in _JOINS and ranges:
            ratio = _range_ratio(view, op, ranges)
            bits8 = activation_bits == 8
            if ratio > (_GREATEST_RATIO_8 if bits8 else _GREATEST_RATIO_16):
                yield (
                    op,
                    f"joins parts whose ranges differ {ratio:.0f}-fold, which"
                    " one scale cannot hold",
                )


def _head_seeds(
    view: flatbuffer.Model, activation_bits: int
) -> Iterable[tuple[flatbuffer.Op, str]]:
    for op in view.ops:
        reason = _no_integer_form(view, op, activation_bits)
        if reason:
            yield op, reason
        elif op.name == "LOG" and _is_of_a_power(view, op):
            yield op, "the logarithm of a power, which spans many decades"
        elif op.name in ("DIV", "MUL") and _unlike_factors(view, op):
            yield op, "brings features of unlike scale to one"


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


def _unlike_factors(view: flatbuffer.Model, op: flatbuffer.Op) -> bool:
    """Whether each feature, on the last axis, has a factor of its own."""
    for index in op.inputs:
        tensor = view.tensors[index]
        if not tensor.constant or tensor.dtype != "float32":
            continue
        factors = np.abs(view.constant(tensor))
        if factors.ndim and 1 < factors.size == factors.shape[-1]:
            return bool(factors.max() > _GREATEST_RATIO_8 * factors.min())
    return False


def _is_of_a_power(view: flatbuffer.Model, op: flatbuffer.Op) -> bool:
    """Whether an operation's input was computed from a square."""
    return any(
        other.name == "SQUARE"
        or (other.name == "MUL" and len(set(other.inputs)) == 1)
        for other in _reached(view, op, forward=False)
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


def _has_weights(view: flatbuffer.Model, op: flatbuffer.Op) -> bool:
    return weights.operand(view, op) is not None or op.name == "BATCH_MATMUL"


def _reached(
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
