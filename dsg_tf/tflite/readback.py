"""Reads an exported .tflite back and compares it with what was asked for.

Every scale, zero point and integer of the file must be one that was requested;
every requested one must be in the file; and only the operations listed as float
may be float. Any difference is a defect of the export (or of LiteRT Quantizer)
and an error.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from dsg_tf.quant import qtypes
from dsg_tf.tflite import export, flatbuffer, op_support, weights

# One unit in the last place of float32; so far, all scales were exact.
_SCALE_TOLERANCE = 2.0**-23
_INT32_MAX = 2**31 - 1


class ReadBackError(RuntimeError):
    """A file that does not hold what was asked for."""

    def __init__(self, tensor: str, *, got: str, expected: str):
        super().__init__(
            f"read-back of {tensor!r}: got {got}; expected {expected}"
        )


@dataclasses.dataclass(frozen=True)
class ReadBack:
    """What was compared.

    Attributes:
      activations: activations compared, including outputs of QUANTIZE.
      constants: weights, biases and other constants compared.
      integers: integers compared.
      max_scale_error: greatest relative difference of a scale.
      float_ops: operations that are float, all of them allowed.
      size_bytes: size of the file.
    """

    activations: int
    constants: int
    integers: int
    max_scale_error: float
    float_ops: int
    size_bytes: int


def check(model: bytes, requested: export.Requested) -> ReadBack:
    """Compares a file with what was asked for.

    Args:
      model: the file's bytes, preferably read from disk.
      requested: by `export.export`.

    Returns:
      What was compared.

    Raises:
      ReadBackError: naming the first tensor that differs.
    """
    view = flatbuffer.read(model)
    _check_interface(view, requested)
    float_ops = _check_float_ops(view, requested)
    scale_error, integers = 0.0, 0
    seen: set[str] = set()
    counts = {True: 0, False: 0}
    for tensor in view.tensors:
        if not _is_used(view, tensor):
            continue
        name, target = _target(view, tensor, requested)
        seen.add(name)
        if target is None:
            continue
        counts[tensor.constant] += 1
        scale_error = max(scale_error, _compare_grid(tensor, target))
        if target.codes is not None:
            integers += _compare_codes(view, tensor, target)
    for name in requested.tensors:
        if name not in seen:
            raise ReadBackError(name, got="no such tensor", expected="one")
    return ReadBack(
        activations=counts[False],
        constants=counts[True],
        integers=integers,
        max_scale_error=scale_error,
        float_ops=float_ops,
        size_bytes=len(model),
    )


def _check_interface(
    view: flatbuffer.Model, requested: export.Requested
) -> None:
    """Names and types of inputs and outputs."""
    for kind, found, expected in (
        ("inputs", view.input_names(), requested.inputs),
        ("outputs", view.output_names(), requested.outputs),
    ):
        if tuple(found) != expected:
            raise ReadBackError(
                kind, got=", ".join(found), expected=", ".join(expected)
            )
        for name, tensor in found.items():
            # Integers without a scale are the original model's type.
            real = tensor.dtype == "float32" or tensor.params is not None
            if real and tensor.dtype != requested.io_type:
                raise ReadBackError(
                    name, got=tensor.dtype, expected=requested.io_type
                )


def _check_float_ops(
    view: flatbuffer.Model, requested: export.Requested
) -> int:
    """Checks that only the allowed operations are float; returns how many."""
    allowed = set(requested.float_ops)
    count = 0
    for op in view.ops:
        if op.name in op_support.CONVERSIONS or not op_support.touches_float(
            view, op
        ):
            continue
        name = view.tensors[op.outputs[0]].name
        if (op.name, name) not in allowed:
            raise ReadBackError(
                name, got=f"a float {op.name}", expected="an integer one"
            )
        count += 1
    return count


def _is_used(view: flatbuffer.Model, tensor: flatbuffer.Tensor) -> bool:
    return (
        tensor.index in view.producers
        or bool(view.consumers[tensor.index])
        or tensor.index in view.inputs
    )


def _target(
    view: flatbuffer.Model,
    tensor: flatbuffer.Tensor,
    requested: export.Requested,
) -> tuple[str, weights.Quantized | None]:
    """The requested tensor that a tensor corresponds to: name and grid.

    Outputs of QUANTIZE have new names. If the operation that reads such a
    tensor needs the same scale for inputs and output, the tensor must have the
    grid of that output; otherwise the grid requested for the QUANTIZE's input.
    """
    name = tensor.name
    producer = view.producers.get(tensor.index)
    made = producer is not None and producer.name == "QUANTIZE"
    if made and name not in requested.tensors:
        name = view.tensors[producer.inputs[0]].name
        for reader in view.consumers[tensor.index]:
            if op_support.scales(reader) is op_support.Scales.AS_OUTPUT:
                name = view.tensors[reader.outputs[0]].name
    target = requested.tensors.get(name)
    if target is not None and tensor.dtype == "float32":
        # An activation at the model's ends or behind an operation that stays
        # float; where integers are needed QUANTIZE makes another tensor.
        if tensor.constant:
            raise ReadBackError(name, got="float32", expected="integers")
        return name, None
    if target is None and tensor.params is not None:
        raise ReadBackError(
            tensor.name, got="a quantized tensor", expected="none by this name"
        )
    if target is not None and tensor.dtype == "uint8":
        target = weights.Quantized(_shifted(target.params))
    return name, target


def _shifted(params: qtypes.QuantParams) -> qtypes.QuantParams:
    """The same grid in uint8."""
    return qtypes.QuantParams(params.scale, params.zero_point + 128, 0, 255)


def _compare_grid(
    tensor: flatbuffer.Tensor, target: weights.Quantized
) -> float:
    """Compares type, scales and zero points; returns the scales' error."""
    expected = target.params
    dtype = _dtype(target)
    if tensor.dtype not in dtype:
        raise ReadBackError(
            tensor.name, got=tensor.dtype, expected=" or ".join(dtype)
        )
    params = tensor.params
    if params is None:
        raise ReadBackError(tensor.name, got="no scale", expected="a scale")
    one = params.scale.size == expected.scale.size == 1
    if params.scale.shape != expected.scale.shape or (
        params.axis != expected.axis and not one
    ):
        raise ReadBackError(
            tensor.name,
            got=f"{params.scale.size} scales on axis {params.axis}",
            expected=f"{expected.scale.size} on axis {expected.axis}",
        )
    if not np.array_equal(params.zero_point, expected.zero_point):
        raise ReadBackError(
            tensor.name,
            got=f"zero points {params.zero_point[:4]}",
            expected=f"{expected.zero_point[:4]}",
        )
    exact = expected.scale.astype(np.float64)
    difference = np.abs(params.scale.astype(np.float64) - exact) / exact
    worst = int(np.argmax(difference))
    if difference[worst] > _SCALE_TOLERANCE:
        raise ReadBackError(
            tensor.name,
            got=f"scale {params.scale[worst]:.9g} at {worst}",
            expected=f"{expected.scale[worst]:.9g}",
        )
    return float(difference[worst])


def _dtype(target: weights.Quantized) -> tuple[str, ...]:
    """Types that can store the requested integers."""
    params = target.params
    if target.packed:
        return ("int4",)
    if params.qmin == 0:
        return ("uint8",)
    if params.qmax <= 127:
        return ("int8",)
    if params.qmax <= 32767:
        return ("int16",)
    # A bias: 32 bits with 8-bit activations, 64 with 16.
    return ("int32", "int64")


def _compare_codes(
    view: flatbuffer.Model,
    tensor: flatbuffer.Tensor,
    target: weights.Quantized,
) -> int:
    """Compares integers; returns how many."""
    # int64 first: abs() of int32's least value stays negative.
    codes = view.constant(tensor).astype(np.int64)
    if tensor.dtype in ("int32", "int64") and codes.size:
        largest = int(np.abs(codes).max())
        if largest >= _INT32_MAX:
            raise ReadBackError(
                tensor.name,
                got=f"a bias of {largest} steps",
                expected=f"less than {_INT32_MAX}, which int32 can hold",
            )
    expected = np.asarray(target.codes, np.int64)
    if codes.shape != expected.shape:
        raise ReadBackError(
            tensor.name,
            got=f"shape {codes.shape}",
            expected=f"shape {expected.shape}",
        )
    different = np.argwhere(codes != expected)
    if different.size:
        place = tuple(int(i) for i in different[0])
        raise ReadBackError(
            tensor.name,
            got=f"{codes[place]} at {place} and {len(different)} differences",
            expected=f"{expected[place]}",
        )
    return codes.size
