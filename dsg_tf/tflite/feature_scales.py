"""Features of unlike scale, brought to one scale before they are quantized.

Sensors and tables have columns in unlike units. One int8 scale for all of them
leaves nothing of the small ones. Where the first layer with weights reads such
columns, they are centred and divided by their deviations in float, and the
layer's weights and bias make up for it: in float the network is the same. It is
done on the float file, because the converter would fold the division into the
layer again.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dsg_tf.tflite import flatbuffer, op_writer, weights

# Columns whose reaches differ less lose two bits at most.
_GREATEST_RATIO = 4.0
_DEVIATIONS = 3.0
# Operations behind which the columns are still those of the input.
_COLUMNS_STAY = frozenset(
    {"EXPAND_DIMS", "RESHAPE", "SELECT", "SELECT_V2", "SQUEEZE"}
)


def unlike(mean: np.ndarray, deviation: np.ndarray) -> bool:
    """Whether one scale would cost some column more than two bits.

    Args:
      mean, deviation: of each column, (C,).

    Examples:
      >>> unlike(np.zeros(2), np.array([1.0, 100.0]))
      True
    """
    return unlike_reaches(np.abs(mean) + _DEVIATIONS * deviation)


def unlike_reaches(reach: np.ndarray) -> bool:
    """The same of the columns' distances from zero, (C,)."""
    return bool(reach.size > 1 and reach.max() > _GREATEST_RATIO * reach.min())


def equalized(
    float_tflite: bytes, columns: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> bytes:
    """The file with columns of unlike scale brought to deviation 1.

    Args:
      float_tflite: by `convert.to_float`.
      columns: mean and deviation of each column, float (C,), by input name.

    Returns:
      The bytes; the same ones where no layer reads such columns.
    """
    view = flatbuffer.read(float_tflite)
    names = {t.index: name for name, t in view.input_names().items()}
    writer = op_writer.OpWriter(view)
    changed = False
    for op in view.ops:
        source = _input_of(view, op)
        moments = columns.get(names.get(source, ""))
        if moments is not None and _fits(view, op, moments):
            _rescale(writer, op, *moments)
            changed = True
        writer.keep(op)
    return writer.finish() if changed else float_tflite


def _input_of(view: flatbuffer.Model, op: flatbuffer.Op) -> int | None:
    """The input whose columns a matrix product reads; None for others."""
    if op.name != "FULLY_CONNECTED" or weights.operand(view, op) is None:
        return None
    index = op.inputs[0]
    while (maker := view.producers.get(index)) is not None:
        if maker.name not in _COLUMNS_STAY:
            return None
        # A mask selects between the columns and a constant.
        read = [
            i
            for i in maker.inputs
            if not view.tensors[i].constant
            and view.tensors[i].dtype == "float32"
        ]
        if len(read) != 1:
            return None
        shapes = [view.tensors[i].shape[-1:] for i in (index, *read)]
        if shapes[0] != shapes[1]:
            return None
        (index,) = read
    return index


def _fits(
    view: flatbuffer.Model,
    op: flatbuffer.Op,
    moments: tuple[np.ndarray, np.ndarray],
) -> bool:
    mean, deviation = moments
    tensor = weights.operand(view, op)
    users = view.consumers[tensor.index]
    return (
        tensor.shape[1] == mean.size == deviation.size
        and len(users) == 1
        and unlike(mean, deviation)
    )


def _rescale(
    writer: op_writer.OpWriter,
    op: flatbuffer.Op,
    mean: np.ndarray,
    deviation: np.ndarray,
) -> None:
    """Puts the operations before a layer, in place."""
    view = writer.view
    operator = view.raw.subgraphs[0].operators[op.index]
    tensor = weights.operand(view, op)
    kernel = view.constant(tensor)
    bias = weights.bias_operand(view, op)
    old = np.zeros(len(kernel)) if bias is None else view.constant(bias)
    centred = writer.add("SUB", [op.inputs[0], writer.constant(mean)])
    even = writer.add("MUL", [centred, writer.constant(1.0 / deviation)])
    wide = kernel.astype(np.float64)
    shifted = writer.constant(old + wide @ mean)
    writer.fix(tensor.index, wide * deviation)
    operator.inputs = [even, tensor.index, shifted]
