"""The recipe with which LiteRT Quantizer writes exactly the plan.

Its rules set the storage type of each operation's weights; its statistics ("the
calibration result") set the scales. Both are computed from the plan alone.
"""

from __future__ import annotations

import dataclasses
import re

import numpy as np
from litert_quantizer import qtyping
from litert_quantizer.utils import tfl_flatbuffer_utils

from dsg_tf.quant import qtypes
from dsg_tf.tflite import flatbuffer, op_aliases, op_support, plan, weights

EVERYWHERE = ".*"


@dataclasses.dataclass(frozen=True)
class Rule:
    """One rule; later ones override earlier ones.

    Attributes:
      scope: regular expression on the names of an operation's outputs.
      op: the quantizer's name of the operation.
      config: what to do with it; None leaves it as it is.
    """

    scope: str
    op: qtyping.TFLOperationName
    config: qtyping.OpQuantizationConfig | None


def rules(
    view: flatbuffer.Model,
    planned: plan.Plan,
    *,
    activation_bits: int,
    io_type: str,
) -> list[Rule]:
    """The quantizer's rules for a whole file.

    Args:
      view: the float file.
      planned: what it should become.
      activation_bits: 8, 16 or 32.
      io_type: type of inputs and outputs.

    Returns:
      The rules; none where nothing is to be quantized.
    """
    found = []
    if activation_bits != op_support.FLOAT_BITS:
        found += _activation_rules(activation_bits, io_type)
    found += _weight_rules(view, planned, activation_bits)
    if activation_bits != op_support.FLOAT_BITS:
        found += _float_rules(view, planned, activation_bits)
    return found


def statistics(
    view: flatbuffer.Model, planned: plan.Plan
) -> dict[str, dict[str, np.ndarray]]:
    """The "calibration result" from which the quantizer gets our grids.

    It computes scale = (max - min) / 255, or max / 127 where symmetric (7 for
    int4), in the type of the bounds. We give it bounds that are integer
    multiples of our float32 scale, in float64, so that it computes our scale
    exactly. Bias scales follow from input and weight scales.
    """
    found = {}
    constants = planned.weights | planned.operands
    for name, params in (
        *planned.activations.items(),
        *((name, target.params) for name, target in constants.items()),
    ):
        qmin, qmax = params.qmin, params.qmax
        if name in planned.weights:
            # The bounds are those of the storage type, not of the bit width.
            qmax = 7 if planned.weights[name].packed else 127
            qmin = -qmax
        shape = [1] * len(view.by_name[name].shape)
        if params.axis is not None:
            shape[params.axis] = -1
        scale = params.scale.astype(np.float64)
        found[name] = {
            "min": (scale * (qmin - params.zero_point)).reshape(shape),
            "max": (scale * (qmax - params.zero_point)).reshape(shape),
        }
    return found


def _activation_rules(activation_bits: int, io_type: str) -> list[Rule]:
    """Rules for activations, including the model's inputs and outputs."""
    names = qtyping.TFLOperationName
    channel, tensor = qtypes.Granularity.CHANNEL, qtypes.Granularity.TENSOR
    found = [
        Rule(
            EVERYWHERE,
            names.ALL_SUPPORTED,
            op_support.op_config(activation_bits, channel),
        ),
        # Its kernels support only a per-tensor scale for the second operand.
        Rule(
            EVERYWHERE,
            names.BATCH_MATMUL,
            op_support.op_config(activation_bits, tensor),
        ),
    ]
    if io_type in ("float32", "uint8"):
        config = (
            op_support.op_config(activation_bits, channel, unsigned=True)
            if io_type == "uint8"
            else None
        )
        found += [
            Rule(EVERYWHERE, name, config)
            for name in (names.INPUT, names.OUTPUT)
        ]
    return found


def _float_rules(
    view: flatbuffer.Model, planned: plan.Plan, activation_bits: int
) -> list[Rule]:
    """One rule for each kind of operation that stays float by choice."""
    scopes: dict[qtyping.TFLOperationName, list[str]] = {}
    graph = view.raw.subgraphs[0]
    for op in view.ops:
        name = op_support.quantizer_name(op_aliases.of(op, activation_bits))
        stays = (op.name, view.tensors[op.outputs[0]].name)
        if name is not None and stays in planned.float_ops:
            scope = tfl_flatbuffer_utils.get_op_scope(
                graph.operators[op.index], graph.tensors
            )
            scopes.setdefault(name, []).append(scope)
    return [
        Rule(rf"\A(?:{'|'.join(map(re.escape, found))})\Z", name, None)
        for name, found in scopes.items()
    ]


def _weight_rules(
    view: flatbuffer.Model, planned: plan.Plan, activation_bits: int
) -> list[Rule]:
    """One rule for each kind of operation, container and granularity."""
    scopes: dict[tuple, list[str]] = {}
    graph = view.raw.subgraphs[0]
    for op in view.ops:
        tensor = weights.operand(view, op)
        if tensor is None or tensor.name not in planned.weights:
            continue
        target = planned.weights[tensor.name]
        granularity = (
            qtypes.Granularity.TENSOR
            if target.params.axis is None
            else qtypes.Granularity.CHANNEL
        )
        scopes.setdefault((op.name, target.packed, granularity), []).append(
            tfl_flatbuffer_utils.get_op_scope(
                graph.operators[op.index], graph.tensors
            )
        )
    # The operation is named too: a model's output goes by the name of the
    # operation that computes it, and has its own rule.
    return [
        Rule(
            rf"\A(?:{'|'.join(map(re.escape, found))})\Z",
            op_support.quantizer_name(name),
            op_support.op_config(activation_bits, granularity, packed=packed),
        )
        for (name, packed, granularity), found in scopes.items()
    ]
