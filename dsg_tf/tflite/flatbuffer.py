"""A typed, read-only view of a .tflite: tensors, operations, constants.

The generated schema classes use integers (tensor 17 has type 9 and is computed
by operator code 3); this view uses names. It covers one subgraph only: `read`
rejects a file with control flow, which has several.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from dsg_tf.core import errors
from dsg_tf.quant import qtypes


def _names(enum_class) -> dict[int, str]:
    """Name by value of a generated enum."""
    return {
        value: name
        for name, value in vars(enum_class).items()
        if isinstance(value, int)
    }


_DTYPE_NAMES = {
    code: name.lower() for code, name in _names(schema.TensorType).items()
}
_OP_NAMES = _names(schema.BuiltinOperator)

# Codes of each integer type that a quantized tensor can have.
_CODES = {
    "int4": (-8, 7),
    "int8": (-128, 127),
    "uint8": (0, 255),
    "int16": (-32768, 32767),
    "int32": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of the file.

    Attributes:
      index: its position, which the interpreter uses too.
      name: its name; fused tensors have "a;b;c" of source names.
      shape: dimensions; unknown ones are 1 here (see `dynamic`).
      dtype: type in the file, "float32", "int8", "int4" ...
      params: scale and zero point; None where not quantized. qmin and qmax are
        those of the type: a file does not store a narrower range.
      constant: whether the file holds its values.
      dynamic: whether a dimension is unknown.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    params: qtypes.QuantParams | None
    constant: bool
    dynamic: bool


@dataclasses.dataclass(frozen=True)
class Op:
    """One operation of the file.

    Attributes:
      index: its position in execution order.
      name: builtin name, "CONV_2D"; for a custom operation its own name.
      inputs: tensor indices; -1 for an omitted optional input.
      outputs: tensor indices.
      custom: whether it is a custom operation; Flex operations are.
    """

    index: int
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    custom: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A .tflite file, read.

    Attributes:
      tensors: by index.
      ops: in execution order.
      inputs: tensor indices of the inputs.
      outputs: tensor indices of the outputs.
      signature_inputs: tensor index by signature name; empty without one.
      signature_outputs: likewise.
      raw: the generated object that this view was read from.
    """

    tensors: tuple[Tensor, ...]
    ops: tuple[Op, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    signature_inputs: Mapping[str, int]
    signature_outputs: Mapping[str, int]
    raw: schema.ModelT

    def input_names(self) -> Mapping[str, Tensor]:
        """Input tensor by public name, in the order of the inputs."""
        return self._named(self.inputs, self.signature_inputs)

    def output_names(self) -> Mapping[str, Tensor]:
        """Output tensor by public name, in the order of the outputs."""
        return self._named(self.outputs, self.signature_outputs)

    def _named(
        self, indices: tuple[int, ...], signature: Mapping[str, int]
    ) -> dict[str, Tensor]:
        if not signature:
            return {
                self.tensors[i].name.removesuffix(":0"): self.tensors[i]
                for i in indices
            }
        if tuple(signature.values()) == indices:
            names = list(signature)
        else:  # Another exporter's file may list them in any order.
            order = {index: rank for rank, index in enumerate(indices)}
            names = sorted(signature, key=lambda name: order[signature[name]])
        return {name: self.tensors[signature[name]] for name in names}

    @functools.cached_property
    def by_name(self) -> Mapping[str, Tensor]:
        """Tensor by name."""
        return {t.name: t for t in self.tensors}

    @functools.cached_property
    def producers(self) -> Mapping[int, Op]:
        """The operation that computes a tensor, by tensor index."""
        return {t: op for op in self.ops for t in op.outputs}

    @functools.cached_property
    def consumers(self) -> Mapping[int, tuple[Op, ...]]:
        """The operations that read a tensor, by tensor index."""
        table: dict[int, list[Op]] = {t.index: [] for t in self.tensors}
        for op in self.ops:
            for index in dict.fromkeys(op.inputs):
                if index >= 0:
                    table[index].append(op)
        return {index: tuple(ops) for index, ops in table.items()}

    def constant(self, tensor: Tensor) -> np.ndarray:
        """The values that the file holds for a constant tensor.

        Args:
          tensor: a constant tensor of this model.

        Returns:
          Its values, read-only; int4 codes unpacked to int8.
        """
        data = self.raw.buffers[
            self.raw.subgraphs[0].tensors[tensor.index].buffer
        ].data
        if not tensor.constant or data is None:
            raise ValueError(f"{tensor.name}: no constant")
        raw = np.frombuffer(memoryview(data), np.uint8)
        if tensor.dtype == "int4":
            return _unpacked_int4(raw, tensor.shape)
        return raw.view(tensor.dtype).reshape(tensor.shape)

    def float_activations(self) -> tuple[Tensor, ...]:
        """Float32 inputs and computed float32 tensors, in file order."""
        used = set(self.inputs)
        for op in self.ops:
            used.update(op.inputs, op.outputs)
        return tuple(
            t
            for t in self.tensors
            if t.index in used and not t.constant and t.dtype == "float32"
        )


def read(model: bytes) -> Model:
    """Reads a .tflite file.

    Args:
      model: the file's bytes.

    Returns:
      The view.

    Raises:
      UserError: the bytes are not a .tflite file, or the file has control
        flow (several subgraphs).
    """
    if bytes(model[4:8]) != b"TFL3":
        raise errors.UserError(
            ".tflite model",
            got=f"{len(model)} bytes without the mark TFL3",
            expected="the bytes of a .tflite file",
        )
    return view_of(flatbuffer_utils.read_model_from_bytearray(bytes(model)))


def view_of(raw: schema.ModelT) -> Model:
    """The view of a generated model object; see `read`."""
    if len(raw.subgraphs) != 1:
        raise errors.UserError(
            ".tflite model",
            got=f"{len(raw.subgraphs)} subgraphs (control flow: If, While)",
            expected="one subgraph",
            remedy="export the model without loops and conditions",
        )
    graph = raw.subgraphs[0]
    inputs, outputs = _signature(raw)
    return Model(
        tensors=tuple(
            _tensor(i, t, raw.buffers) for i, t in enumerate(graph.tensors)
        ),
        ops=tuple(_op(i, op, raw) for i, op in enumerate(graph.operators)),
        inputs=tuple(int(i) for i in graph.inputs),
        outputs=tuple(int(i) for i in graph.outputs),
        signature_inputs=inputs,
        signature_outputs=outputs,
        raw=raw,
    )


def write(raw: schema.ModelT) -> bytes:
    """The bytes of an (edited) generated model object."""
    for buffer in raw.buffers:
        # The generated code copies an array at once, but any other sequence
        # byte by byte.
        if buffer.data is not None and type(buffer.data) is not np.ndarray:
            buffer.data = np.frombuffer(bytes(buffer.data), np.uint8)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(raw))


def code_index(raw: schema.ModelT, name: str) -> int:
    """Index of a builtin operation's code; adds the code if it is missing."""
    builtin = getattr(schema.BuiltinOperator, name)
    codes = raw.operatorCodes
    known = [
        flatbuffer_utils.get_builtin_code_from_operator_code(code)
        for code in codes
    ]
    if builtin not in known:
        code = schema.OperatorCodeT()
        code.builtinCode, code.version = builtin, 1
        # Readers of the old schema read this field; 127: see builtin_code.
        code.deprecatedBuiltinCode = min(builtin, 127)
        codes.append(code)
        known.append(builtin)
    return known.index(builtin)


def set_interface(
    raw: schema.ModelT,
    inputs: Sequence[tuple[str, int]],
    outputs: Sequence[tuple[str, int]],
) -> None:
    """Sets inputs, outputs and the one signature of a model object.

    Args:
      raw: the object, changed in place.
      inputs: (public name, tensor index), in order.
      outputs: likewise; a tensor may occur twice.
    """
    graph = raw.subgraphs[0]
    graph.inputs = [index for _, index in inputs]
    graph.outputs = [index for _, index in outputs]
    signature = schema.SignatureDefT()
    signature.signatureKey = "serving_default"
    signature.subgraphIndex = 0
    signature.inputs = [_tensor_map(*entry) for entry in inputs]
    signature.outputs = [_tensor_map(*entry) for entry in outputs]
    raw.signatureDefs = [signature]


def _tensor_map(name: str, index: int) -> schema.TensorMapT:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name, index
    return entry


def _tensor(index: int, raw: schema.TensorT, buffers: list) -> Tensor:
    dtype = _DTYPE_NAMES[raw.type]
    shape = () if raw.shape is None else tuple(int(d) for d in raw.shape)
    signature = raw.shapeSignature
    data = buffers[raw.buffer].data
    return Tensor(
        index=index,
        name=raw.name.decode("utf-8") if raw.name else "",
        shape=shape,
        dtype=dtype,
        params=_params(raw, dtype),
        constant=data is not None and len(data) > 0,
        dynamic=signature is not None and any(d < 0 for d in signature),
    )


def _params(raw: schema.TensorT, dtype: str) -> qtypes.QuantParams | None:
    quantization = raw.quantization
    if quantization is None or quantization.scale is None:
        return None
    scale = np.atleast_1d(np.asarray(quantization.scale, np.float32))
    if not scale.size or dtype not in _CODES:
        return None
    zero_point = quantization.zeroPoint
    if zero_point is None or not len(np.atleast_1d(zero_point)):
        zero_point = np.zeros(scale.shape, np.int64)
    zero_point = np.broadcast_to(
        np.asarray(zero_point, np.int64).reshape(-1), scale.shape
    )
    qmin, qmax = _CODES[dtype]
    # Files store axis 0 for per-tensor scales too.
    axis = None if scale.size == 1 else int(quantization.quantizedDimension)
    return qtypes.QuantParams(scale, zero_point, qmin, qmax, axis)


def _op(index: int, raw: schema.OperatorT, model: schema.ModelT) -> Op:
    code = model.operatorCodes[raw.opcodeIndex]
    builtin = flatbuffer_utils.get_builtin_code_from_operator_code(code)
    custom = builtin == schema.BuiltinOperator.CUSTOM
    return Op(
        index=index,
        name=(
            code.customCode.decode("utf-8")
            if custom and code.customCode
            else _OP_NAMES[builtin]
        ),
        inputs=tuple(int(i) for i in _ints(raw.inputs)),
        outputs=tuple(int(i) for i in _ints(raw.outputs)),
        custom=custom,
    )


def _ints(values) -> list:
    return [] if values is None else list(values)


def _signature(raw: schema.ModelT) -> tuple[dict[str, int], dict[str, int]]:
    """Tensor index by name of the first signature's inputs and outputs."""
    if not raw.signatureDefs:
        return {}, {}
    signature = raw.signatureDefs[0]
    inputs, outputs = (
        {m.name.decode("utf-8"): int(m.tensorIndex) for m in maps or []}
        for maps in (signature.inputs, signature.outputs)
    )
    return inputs, outputs


def _unpacked_int4(raw: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Unpacks two int4 codes per byte, low nibble first, to int8."""
    nibbles = np.stack([raw & 0xF, raw >> 4], axis=1).reshape(-1)
    codes = ((nibbles.astype(np.int8) + 8) % 16) - 8
    return codes[: int(np.prod(shape))].reshape(shape)
