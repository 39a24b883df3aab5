"""Converts TensorFlow graphs to .tflite with TFLiteConverter.

`to_float` is the first half of our own export: no optimizations, float
weights, fused operations. `by_converter` is TFLiteConverter's own post-training
quantization with the samples as `representative_dataset`. The converter changes
the names and the order of inputs and outputs; both functions restore them.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import tensorflow as tf
from absl import logging
from ai_edge_litert import schema_py_generated as schema
from tensorflow.lite.python import convert_phase

from dsg_tf.core import errors, quiet
from dsg_tf.quant import qtypes
from dsg_tf.tflite import flatbuffer, op_support

_IO_DTYPES = {
    "float32": tf.float32,
    "int8": tf.int8,
    "uint8": tf.uint8,
    "int16": tf.int16,
}
# Operations that the converter names because a culprit reads them.
_CARRIERS = frozenset({"Const", "Identity", "NoOp", "pseudo_const"})
# Of the converter's own words in an error.
_CAUSE_CHARACTERS = 160


def to_float(
    function: tf.types.experimental.ConcreteFunction,
    *,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> bytes:
    """Converts a frozen function to a float .tflite.

    Args:
      function: variables frozen, batch dimension 1.
      input_names: public names in the order of `function.inputs`; by default
        the placeholders' names.
      output_names: likewise for the outputs; by default `output_<i>`.

    Returns:
      The file's bytes, with one signature, `serving_default`.

    Raises:
      UserError: listing the operations that have no TFLite kernel.
    """
    return _named(
        _convert(_converter(function)), function, input_names, output_names
    )


def by_converter(
    function: tf.types.experimental.ConcreteFunction,
    representative_dataset: Callable[[], Iterable[Mapping[str, np.ndarray]]],
    *,
    io_type: str = "float32",
    activation_bits: int = 8,
    granularity: qtypes.Granularity = qtypes.Granularity.CHANNEL,
    allow_float_ops: bool = False,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> bytes:
    """Quantizes by TFLiteConverter with a representative dataset.

    Args:
      function: variables frozen, batch dimension 1.
      representative_dataset: makes an iterable of samples; a sample is
        (1, ...) by public input name.
      io_type: type of inputs and outputs; see `check_io_type`.
      activation_bits: 8 or 16.
      granularity: of weight scales.
      allow_float_ops: let operations without an integer kernel stay float.
      input_names: as for `to_float`.
      output_names: as for `to_float`.

    Returns:
      The file's bytes.

    Raises:
      UserError: operations that cannot be converted or quantized, listed;
        32-bit activations, which TFLiteConverter does not support here.
    """
    check_io_type(io_type, activation_bits)
    if activation_bits == op_support.FLOAT_BITS:
        raise errors.UserError(
            "--exporter=tflite_converter",
            got="--activation_bits=32 (integer weights, float activations)",
            expected="--activation_bits=8 or 16",
            remedy="--exporter=litert knows all three",
        )
    names = list(input_names or _placeholders(function))
    # The converter feeds a list in the order of the file's inputs, which is
    # known only after a conversion.
    view = flatbuffer.read(_convert(_converter(function)))
    indices = _input_indices(view, function)
    order = [indices.index(index) for index in view.inputs]
    converter = _converter(function)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: (
        [np.asarray(sample[names[i]]) for i in order]
        for sample in representative_dataset()
    )
    ops = tf.lite.OpsSet
    converter.target_spec.supported_ops = [
        ops.TFLITE_BUILTINS_INT8
        if activation_bits == 8
        else ops.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
    ]
    if allow_float_ops:
        converter.target_spec.supported_ops.append(ops.TFLITE_BUILTINS)
    converter.inference_input_type = _IO_DTYPES[io_type]
    converter.inference_output_type = _IO_DTYPES[io_type]
    converter._experimental_disable_per_channel = (
        granularity is qtypes.Granularity.TENSOR
    )
    model = _named(_convert(converter), function, input_names, output_names)
    # Asked for integers only, it still leaves some operations float.
    found = [] if allow_float_ops else op_support.float_ops(model)
    if found:
        raise errors.UserError(
            f"integer export with {activation_bits}-bit activations",
            got="operations that stay float: "
            + ", ".join(f"{f.op} ({f.tensor})" for f in found[:5]),
            expected="operations with an integer form",
            remedy="--allow_float_ops accepts a file that is float in places",
        )
    return model


def check_io_type(io_type: str, activation_bits: int) -> None:
    """Refuses types of inputs and outputs that the activations do not fit.

    8-bit activations allow float32, int8 and uint8; 16-bit activations allow
    float32 and int16, because an int8 input would lose half of the requested
    bits. 32-bit activations are float32, and so are the inputs and outputs.

    Raises:
      UserError: `io_type` does not fit `activation_bits`.
    """
    fitting = {
        8: ("float32", "int8", "uint8"),
        16: ("float32", "int16"),
        op_support.FLOAT_BITS: ("float32",),
    }
    if activation_bits not in fitting:
        raise errors.UserError(
            "--activation_bits",
            got=repr(activation_bits),
            expected="8, 16 or 32",
        )
    if io_type not in fitting[activation_bits]:
        raise errors.UserError(
            f"--io_type with {activation_bits}-bit activations",
            got=repr(io_type),
            expected=" or ".join(fitting[activation_bits]),
            remedy="--io_type=float32 goes with every width",
        )


def _converter(function) -> tf.lite.TFLiteConverter:
    # Without the second argument the converter uses a deprecated code path
    # that writes no signature.
    return tf.lite.TFLiteConverter.from_concrete_functions(
        [function], tf.Module()
    )


def _convert(converter: tf.lite.TFLiteConverter) -> bytes:
    """Runs the converter; its output is logged at debug level only."""
    with quiet.captured_stderr() as chatter:
        try:
            return bytes(converter.convert())
        except convert_phase.ConverterError as error:
            failure: Exception = error
        except (ValueError, RuntimeError) as error:
            # TFLiteConverter's quantizer raises this.
            failure = error
    logging.debug("TFLiteConverter: %s\n%s", failure, "".join(chatter))
    raise _user_error(failure) from failure


def _user_error(failure: Exception) -> errors.UserError:
    """Summarizes the converter's long error message in one line."""
    ops: dict[str, None] = {}
    for record in getattr(failure, "errors", []):
        if record.operator.name.startswith(("tf.", "tfl.")):
            ops[record.operator.name.split(".", 1)[1]] = None
    if not ops:
        ops = dict.fromkeys(re.findall(r"'tfl?\.(\w+)' op ", str(failure)))
    culprits = sorted(ops.keys() - _CARRIERS)
    if culprits:
        return errors.UserError(
            "model",
            got="operations that TFLite cannot take: " + ", ".join(culprits),
            expected="TFLite builtin operations",
            remedy="replace them, or end the model before them",
        )
    lines = [line for line in str(failure).splitlines() if line.strip()]
    said = lines[0].strip() if lines else repr(failure)
    if len(said) > _CAUSE_CHARACTERS:
        said = said[: _CAUSE_CHARACTERS - 3] + "..."
    return errors.UserError(
        "model",
        got=f"TFLiteConverter's refusal: {said}",
        expected="a graph that TFLiteConverter takes",
        remedy="--verbosity=1 prints its whole message",
    )


def _placeholders(function) -> list[str]:
    return [t.op.name for t in function.inputs]


def _named(
    model: bytes,
    function,
    input_names: Sequence[str] | None,
    output_names: Sequence[str] | None,
) -> bytes:
    """Restores the public names and the function's order of inputs and outputs.

    Args:
      model: the converter's bytes.
      function: what was converted.
      input_names: public names in the order of `function.inputs`.
      output_names: public names in the order of `function.outputs`.
    """
    view = flatbuffer.read(model)
    inputs = _input_indices(view, function)
    outputs = _output_indices(view, function)
    flatbuffer.set_interface(
        view.raw,
        list(zip(input_names or _placeholders(function), inputs, strict=True)),
        list(
            zip(
                output_names or [f"output_{i}" for i in range(len(outputs))],
                outputs,
                strict=True,
            )
        ),
    )
    _make_names_unique(view.raw.subgraphs[0].tensors)
    _widen_biases(view)
    return flatbuffer.write(view.raw)


def _input_indices(view: flatbuffer.Model, function) -> list[int]:
    """Tensor indices in the order of the function's inputs."""
    # The converter names signature inputs after the placeholders; graphs with
    # IdentityN come out without a signature and keep the tensors' names.
    by_name = view.signature_inputs or {
        view.tensors[i].name.removesuffix(":0"): i for i in view.inputs
    }
    names = _placeholders(function)
    if set(by_name) != set(names):
        raise RuntimeError(
            f"converted inputs: got {sorted(by_name)}; expected {sorted(names)}"
        )
    return [by_name[name] for name in names]


def _output_indices(view: flatbuffer.Model, function) -> list[int]:
    """Tensor indices in the order of the function's outputs."""
    named = view.signature_outputs
    numbered = [f"output_{i}" for i in range(len(function.outputs))]
    if not named:
        indices = list(view.outputs)
    elif set(named) == set(numbered):
        indices = [named[name] for name in numbered]
    else:  # A function that returns a dict: TensorFlow flattens by key.
        indices = [named[name] for name in sorted(named)]
    for index, tensor in zip(indices, function.outputs, strict=True):
        # The type may differ: the caller may have requested integer outputs.
        if not tensor.shape.is_compatible_with(view.tensors[index].shape):
            raise RuntimeError(
                f"converted output {tensor.name}: got shape"
                f" {view.tensors[index].shape}; expected {tensor.shape}"
            )
    return indices


def _widen_biases(view: flatbuffer.Model) -> None:
    """Gives each bias as many numbers as its layer has channels.

    The converter makes the bias of a transposed convolution of an addition
    that follows, be it of one number, and the kernel then reads whatever lies
    behind it in memory.
    """
    raw = view.raw
    for op, bias, channels in op_support.short_biases(view):
        values = np.repeat(view.constant(bias), channels)
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        raw.buffers.append(buffer)
        wide = copy.copy(raw.subgraphs[0].tensors[bias.index])
        wide.shape, wide.buffer = [channels], len(raw.buffers) - 1
        wide.name = (wide.name or b"bias") + b"#%d" % op.index
        raw.subgraphs[0].tensors.append(wide)
        operator = raw.subgraphs[0].operators[op.index]
        operator.inputs = list(operator.inputs)
        operator.inputs[op_support.WEIGHTS[op.name].bias] = (
            len(raw.subgraphs[0].tensors) - 1
        )


def _make_names_unique(tensors: list[schema.TensorT]) -> None:
    """Ranges, the quantizer and reports identify tensors by name."""
    seen: set[bytes] = set()
    for index, tensor in enumerate(tensors):
        name = tensor.name or b"tensor"
        if name in seen:
            name += b"#%d" % index
        tensor.name = name
        seen.add(name)
