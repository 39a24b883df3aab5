"""Quantizes a float .tflite with LiteRT Quantizer, using our own grids.

The quantizer gets a range for every activation *and* every weight, so that
each scale, zero point and integer in its output is the one that `plan` has
chosen. Its own calibration (a moving average that the first sample dominates)
is not used. `readback.check` compares the result with the plan.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Mapping, Sequence

import numpy as np
from absl import logging
from ai_edge_litert import schema_py_generated as schema
from litert_quantizer import algorithm_manager, quantizer

from dsg_tf.core import errors, quiet
from dsg_tf.quant import qtypes, uniform
from dsg_tf.tflite import (
    convert,
    flatbuffer,
    op_aliases,
    op_support,
    plan,
    recipe,
    shared_outputs,
    unshare,
    weights,
)
from dsg_tf.tflite import float_edges as edges_lib


@dataclasses.dataclass(frozen=True, eq=False)
class Requested:
    """What was asked for, for `readback.check`.

    Attributes:
      tensors: grid (and integers, for constants) by tensor name.
      float_ops: (operation, first output's name) of those that stay float.
      inputs: public names of the inputs, in order.
      outputs: public names of the outputs, in order.
      io_type: type of inputs and outputs.
    """

    tensors: Mapping[str, weights.Quantized]
    float_ops: tuple[tuple[str, str], ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    io_type: str


@dataclasses.dataclass(frozen=True, eq=False)
class Exported:
    """An integer .tflite and what it should hold.

    Attributes:
      model: the file's bytes.
      requested: every grid and integer that was asked for.
      unmatched: names of given weight grids whose weights are not in the file
        (see `weights.WeightGrids`); those weights were quantized again.
      reasons: why an operation stays float, by its first output's name.
    """

    model: bytes
    requested: Requested
    unmatched: tuple[str, ...] = ()
    reasons: Mapping[str, str] = dataclasses.field(default_factory=dict)


def export(
    float_tflite: bytes,
    ranges: Mapping[str, qtypes.TensorRange],
    *,
    activation_bits: int = 8,
    io_type: str = "float32",
    options: weights.Options | None = None,
    allow_float_ops: bool = False,
    float_edges: bool = False,
    even: Container[str] = (),
) -> Exported:
    """Quantizes a float .tflite on our own ranges.

    Args:
      float_tflite: by `convert.to_float`.
      ranges: by name of every activation (`calibration.calibrate`); none are
        needed where activations stay float.
      activation_bits: 8, 16, or 32: weights of convolutions and matrix
        products become integers, and everything else stays float.
      io_type: type of inputs and outputs; see `convert.check_io_type`.
      options: how weights are quantized; by default 8 bits, per channel,
        min-max.
      allow_float_ops: whether operations without an integer form may stay
        float, between a DEQUANTIZE and a QUANTIZE.
      float_edges: whether operations next to the model's inputs and outputs
        may stay float; see the module `float_edges`.
      even: see `float_edges.find`.

    Returns:
      The integer file and what was asked for.

    Raises:
      UserError: operations without an integer form, missing ranges, a pair of
        `io_type` and `activation_bits` that does not fit.
    """
    convert.check_io_type(io_type, activation_bits)
    options = options or weights.Options()
    if not allow_float_ops:
        refuse_float_ops(
            float_tflite,
            activation_bits=activation_bits,
            float_edges=float_edges,
        )
    view = unshare.separated(flatbuffer.read(float_tflite))
    chosen = weights.choose(view, options)
    edges = edges_lib.FloatEdges()
    if float_edges and activation_bits != op_support.FLOAT_BITS:
        edges = edges_lib.find(
            view, activation_bits=activation_bits, ranges=ranges, even=even
        )
    planned = plan.make(
        view,
        ranges,
        chosen=chosen,
        activation_bits=activation_bits,
        stay_float=edges.ops,
    )
    _put_weights_on_grid(view, planned)
    model = _quantize(
        op_aliases.disguised(shared_outputs.without(view), activation_bits),
        recipe.rules(
            view, planned, activation_bits=activation_bits, io_type=io_type
        ),
        recipe.statistics(view, planned),
    )
    model = _restored(
        op_aliases.revealed(model, view), view, planned, io_type=io_type
    )
    tensors = {
        name: weights.Quantized(params)
        for name, params in planned.activations.items()
    }
    requested = Requested(
        tensors=tensors | planned.constants,
        float_ops=planned.float_ops,
        inputs=tuple(view.input_names()),
        outputs=tuple(view.output_names()),
        io_type=io_type,
    )
    reasons = {
        view.tensors[view.ops[index].outputs[0]].name: reason
        for index, reason in {**edges.head, **edges.tail}.items()
    }
    return Exported(model, requested, chosen.unmatched, reasons)


def refuse_float_ops(
    float_tflite: bytes,
    *,
    activation_bits: int = 8,
    float_edges: bool = False,
) -> None:
    """Raises where the export would leave operations in float.

    Args:
      float_tflite: the float file.
      activation_bits: 8, 16 or 32.
      float_edges: whether operations next to the model's inputs and outputs
        may stay float.

    Raises:
      UserError: listing these operations.
    """
    found = op_support.unsupported_ops(
        float_tflite, activation_bits=activation_bits
    )
    if not found:
        return
    view = flatbuffer.read(float_tflite)
    edges = edges_lib.find(view, activation_bits=activation_bits)
    at_ends = {
        view.tensors[view.ops[index].outputs[0]].name for index in edges.ops
    }
    inside = [op for op in found if op.tensor not in at_ends]
    if float_edges:
        found = inside
    if found:
        listed = ", ".join(f"{f.op} ({f.tensor})" for f in found[:5])
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        raise errors.UserError(
            f"integer export with {activation_bits}-bit activations",
            got=f"operations that would stay float: {listed}{more}",
            expected="operations with an integer form",
            remedy=(
                "--allow_float_ops accepts a file that is float in places"
                if inside
                else "--float_edges leaves them float, at the model's ends,"
                " with --io_type=float32"
            ),
        )


def _restored(
    model: bytes,
    source: flatbuffer.Model,
    planned: plan.Plan,
    *,
    io_type: str,
) -> bytes:
    """Restores what LiteRT Quantizer loses.

    The quantizer leaves operation outputs that nothing reads (a part of a
    SPLIT) in float32; they are quantized here. Model outputs that operations
    also read were hidden from it (see `shared_outputs`); they are added here.

    The quantizer keeps the order of inputs and outputs, but it mixes up their
    names where one tensor is two outputs, and the tensor where an input is
    also an output.
    """
    view = flatbuffer.read(model)
    raw = view.raw
    graph = raw.subgraphs[0]
    passed = dict(zip(source.inputs, graph.inputs, strict=True))
    for op in view.ops:
        for index in op.outputs:
            _quantize_unused(view, index, planned)
    shared = {}
    for index in sorted(shared_outputs.find(source)):
        name = source.tensors[index].name
        shared[index] = shared_outputs.converted(
            raw,
            view.by_name[name].index,
            io_type=io_type,
            params=planned.activations.get(name),
        )
    told = iter(graph.outputs)
    outputs = [
        shared[old] if old in shared else passed.get(old, int(next(told)))
        for old in source.outputs
    ]
    flatbuffer.set_interface(
        raw,
        list(zip(source.input_names(), graph.inputs, strict=True)),
        list(zip(source.output_names(), outputs, strict=True)),
    )
    return flatbuffer.write(raw)


def _quantize_unused(
    view: flatbuffer.Model, index: int, planned: plan.Plan
) -> None:
    """Quantizes an output that nothing reads, in place."""
    tensor = view.tensors[index]
    read = view.consumers[index] or index in view.outputs
    producer = view.producers[index]
    stays = (producer.name, view.tensors[producer.outputs[0]].name)
    if (
        read
        or tensor.dtype != "float32"
        or tensor.name not in planned.activations
        or stays in planned.float_ops
    ):
        return
    params = planned.activations[tensor.name]
    raw = view.raw.subgraphs[0].tensors[index]
    types = schema.TensorType
    raw.type = types.INT8 if params.qmax <= 127 else types.INT16
    raw.quantization = schema.QuantizationParametersT()
    raw.quantization.scale = [float(params.scale[0])]
    raw.quantization.zeroPoint = [int(params.zero_point[0])]


def _put_weights_on_grid(view: flatbuffer.Model, planned: plan.Plan) -> None:
    """Replaces the float weights by planned integer * scale.

    The quantizer then computes our integers for any bit width, clipping or
    rounding: each float32 value is within 2^-17 steps of its integer.
    """
    for name, target in planned.weights.items():
        values = uniform.dequantize(target.codes, target.params)
        tensor = view.raw.subgraphs[0].tensors[view.by_name[name].index]
        view.raw.buffers[tensor.buffer].data = np.frombuffer(
            values.astype(np.float32).tobytes(), np.uint8
        )


def _quantize(
    float_tflite: bytes,
    rules: Sequence[recipe.Rule],
    statistics: dict[str, dict[str, np.ndarray]],
) -> bytes:
    """Runs LiteRT Quantizer."""
    if not rules:  # The quantizer raises an error if there are no rules.
        return float_tflite
    work = _Quantizer(bytearray(float_tflite))
    none = algorithm_manager.AlgorithmName.NO_QUANTIZE
    for rule in rules:
        work.update_quantization_recipe(
            rule.scope,
            rule.op,
            rule.config,
            none if rule.config is None else op_support.ALGORITHM,
        )
    verbosity = logging.get_verbosity()
    # It logs every tensor that it touches.
    logging.set_verbosity(min(verbosity, logging.WARNING))
    try:
        # It always prints its own progress bar.
        with quiet.captured_stderr(show_on_error=True):
            result = work.quantize(
                statistics,
                enable_progress_report=False,
                enable_progress_bar=False,
            )
    finally:
        logging.set_verbosity(verbosity)
    return bytes(result.quantized_model)


class _Quantizer(quantizer.Quantizer):
    """LiteRT Quantizer without its check for missing statistics.

    That check starts an interpreter, which rejects operations whose code
    `op_aliases` has replaced. Our statistics are always complete.
    """

    def _ensure_model_qsv_sufficient(self, calibration_result):
        del calibration_result
