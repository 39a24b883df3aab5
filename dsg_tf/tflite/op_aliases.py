"""Integer forms of operations that LiteRT Quantizer leaves in float.

LiteRT's kernels support more integer operations than its quantizer. While the
quantizer runs, such an operation gets the operator code of one with the same
kinds of operands and the same constraints on scales; afterwards its own code is
restored. Its options, tensors and grids are never changed.
"""

from __future__ import annotations

import dataclasses

from ai_edge_litert import schema_py_generated as schema

from dsg_tf.tflite import flatbuffer


@dataclasses.dataclass(frozen=True)
class StandIn:
    """The operation as which the quantizer sees another operation.

    Attributes:
      op: the operation whose operator code is used.
      activation_bits: widths that the replaced operation's kernel supports.
    """

    op: str
    activation_bits: tuple[int, ...] = (8, 16)


# One row for each kind: the stand-in, what it stands for at 8 and 16 bits, and
# what at 8 bits only: LiteRT 2.3 has no 16-bit kernels of those, or wrong ones
# (PRELU, comparisons). tests/tflite/op_aliases_test.py runs every one of them.
_TABLE = (
    # One float operand; input and output have different scales.
    (
        "RELU",
        ("ABS", "EXP", "LEAKY_RELU", "LOG", "RELU6"),
        ("ELU", "L2_NORMALIZATION", "LOG_SOFTMAX", "RELU_N1_TO_1"),
    ),
    # Two float operands; operands and output have different scales.
    ("MUL", (), ("PRELU",)),
    # Two float operands that take the output's scale.
    ("MAXIMUM", ("MINIMUM",), ()),
    # One float operand that gives the outputs its scale ...
    ("AVERAGE_POOL_2D", (), ("DEPTH_TO_SPACE",)),
    # ... with one operand of whole numbers,
    ("RESHAPE", ("REDUCE_MAX", "REVERSE_V2", "TILE"), ()),
    # ... or two.
    ("SLICE", ("BATCH_TO_SPACE_ND", "SPACE_TO_BATCH_ND", "SPLIT_V"), ()),
    # One float operand, whole numbers out.
    ("MEAN", (), ("ARG_MAX", "ARG_MIN")),
    # Two float operands, each its own scale, truth values out.
    ("EQUAL", (), ("GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL")),
)

STAND_INS = {
    name: StandIn(op, bits)
    for op, both, eight in _TABLE
    for names, bits in ((both, (8, 16)), (eight, (8,)))
    for name in names
}


def of(op: flatbuffer.Op, activation_bits: int) -> str:
    """The operation name that the quantizer sees; often the original one."""
    stand_in = STAND_INS.get(op.name)
    if op.custom or stand_in is None:
        return op.name
    return stand_in.op if activation_bits in stand_in.activation_bits else ""


def disguised(model: bytes, activation_bits: int) -> bytes:
    """Replaces operator codes by those of the stand-ins."""
    view = flatbuffer.read(model)
    for op in view.ops:
        name = of(op, activation_bits)
        if name not in ("", op.name):
            _set_code(view, op, name)
    return flatbuffer.write(view.raw)


def revealed(model: bytes, source: flatbuffer.Model) -> bytes:
    """Restores the original operator codes in the quantizer's file.

    Args:
      model: the quantizer's output for a file from `disguised`.
      source: the file before `disguised`. Operations are matched by the names
        of their outputs: the quantizer only inserts operations, and keeps
        these names.
    """
    view = flatbuffer.read(model)
    names = {source.tensors[op.outputs[0]].name: op.name for op in source.ops}
    for op in view.ops:
        own = names.get(view.tensors[op.outputs[0]].name)
        if own in STAND_INS:
            _set_code(view, op, own)
    _drop_unused_codes(view.raw)
    return flatbuffer.write(view.raw)


def _set_code(view: flatbuffer.Model, op: flatbuffer.Op, name: str) -> None:
    """Changes the operator code of an operation in place, nothing else."""
    operator = view.raw.subgraphs[0].operators[op.index]
    operator.opcodeIndex = flatbuffer.code_index(view.raw, name)


def _drop_unused_codes(raw: schema.ModelT) -> None:
    """Removes operator codes that no operation uses."""
    operators = raw.subgraphs[0].operators
    used = sorted({operator.opcodeIndex for operator in operators})
    raw.operatorCodes = [raw.operatorCodes[index] for index in used]
    for operator in operators:
        operator.opcodeIndex = used.index(operator.opcodeIndex)
