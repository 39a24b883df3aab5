"""Corrects biases for what the rounding of the weights does to the mean.

Rounded weights shift the mean of every output channel, by E[x] times the sum
of rounding errors: inputs behind a ReLU are not centred. For a layer that is
linear up to its activation function, with W~ the rounded weights,

    b' = b + E[W x] - E[W~ x] = b + (W - W~) * E[x],

where * is the layer's own convolution, averaged over positions, and E[x] is
taken over samples. (DFQ section 4.2, empirical; the shift in the layers before
is corrected there.)

References:
  Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
  Correction", ICCV 2019.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from dsg_tf import uniform
from dsg_tf.tflite import flatbuffer, interpreter, policy, weights


def input_means(
    float_tflite: bytes,
    samples: Mapping[str, np.ndarray],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, np.ndarray]:
    """Means over samples of the inputs of all layers with weights.

    Args:
      float_tflite: by `convert.to_float`, batch 1.
      samples: (N, ...) by input name, model input units.
      progress: called with (samples done, samples) after each.

    Returns:
      float64 (1, ...) by tensor name, spatial positions kept apart.
    """
    runner = interpreter.Interpreter(float_tflite, all_tensors=True)
    view = runner.view
    watched = {
        view.tensors[op.inputs[policy.WEIGHTS[op.name].data]]
        for op in view.ops
        if weights.operand(view, op) is not None
    }
    watched = sorted(watched, key=lambda tensor: tensor.index)
    total = interpreter.num_samples(view, samples)
    sums = {tensor.name: np.zeros(tensor.shape) for tensor in watched}
    for done, sample in enumerate(interpreter.iterate(view, samples), start=1):
        runner.invoke(sample)
        for tensor in watched:
            sums[tensor.name] += runner.tensor(tensor)
        if progress is not None:
            progress(done, total)
    return {name: value / total for name, value in sums.items()}


def corrected(
    view: flatbuffer.Model,
    quantized: Mapping[str, weights.Quantized],
    means: Mapping[str, np.ndarray],
) -> flatbuffer.Model:
    """The float file with corrected biases.

    Args:
      view: the float file; no bias is shared.
      quantized: integers of the weights, by tensor name.
      means: by `input_means`, by name of the layers' inputs.

    Returns:
      A copy with other biases; a layer without one gets one.
    """
    raw = copy.deepcopy(view.raw)
    for op in view.ops:
        tensor = weights.operand(view, op)
        if tensor is None or tensor.name not in quantized:
            continue
        target = quantized[tensor.name]
        rounding = view.constant(tensor) - uniform.dequantize(
            target.codes, target.params
        )
        where = policy.WEIGHTS[op.name]
        mean = means[view.tensors[op.inputs[where.data]].name]
        _add_to_bias(raw, view, op, output_shift(view, op, rounding, mean))
    return flatbuffer.view_of(raw)


def output_shift(
    view: flatbuffer.Model,
    op: flatbuffer.Op,
    kernel: np.ndarray,
    mean: np.ndarray,
) -> np.ndarray:
    """Mean over output positions of a layer with another kernel, no bias.

    Args:
      view: the file.
      op: a layer with weights.
      kernel: float64, shaped like the layer's weights.
      mean: its input, (1, H, W, C) or, for FULLY_CONNECTED, (..., K).

    Returns:
      (output channels,), float64.
    """
    if op.name == "FULLY_CONNECTED":
        rows = mean.reshape(-1, kernel.shape[1])
        return kernel @ rows.mean(axis=0)
    taps = _tap_means(view, op, kernel.shape[1:3], mean)
    if op.name == "DEPTHWISE_CONV_2D":
        multiplier = kernel.shape[3] // taps.shape[2]
        return (kernel[0] * np.repeat(taps, multiplier, axis=2)).sum((0, 1))
    groups = taps.shape[2] // kernel.shape[3]
    kernels = kernel.reshape(groups, -1, *kernel.shape[1:])
    grouped = taps.reshape(*taps.shape[:2], groups, -1)
    return np.einsum("gohwc,hwgc->go", kernels, grouped).reshape(-1)


def _tap_means(
    view: flatbuffer.Model,
    op: flatbuffer.Op,
    kernel_size: tuple[int, ...],
    mean: np.ndarray,
) -> np.ndarray:
    """What each tap of a kernel sees, averaged over output positions.

    Returns:
      (kernel height, kernel width, C); zero padding counts as zero.
    """
    options = view.raw.subgraphs[0].operators[op.index].builtinOptions
    output = view.tensors[op.outputs[0]].shape
    strides = (options.strideH, options.strideW)
    dilations = (
        getattr(options, "dilationHFactor", 1),
        getattr(options, "dilationWFactor", 1),
    )
    transposed = op.name == "TRANSPOSE_CONV"
    same = options.padding == schema.Padding.SAME
    rows, columns = (
        _reach(
            mean.shape[1 + i],
            output[1 + i],
            kernel_size[i],
            stride=strides[i],
            dilation=dilations[i],
            same=same,
            transposed=transposed,
        )
        for i in range(2)
    )
    sums = np.einsum("ky,lx,yxc->klc", rows, columns, mean[0])
    return sums / (output[1] * output[2])


def _reach(
    inputs: int,
    outputs: int,
    taps: int,
    *,
    stride: int,
    dilation: int,
    same: bool,
    transposed: bool,
) -> np.ndarray:
    """How often each tap meets each input position, along one axis.

    A convolution's tap k at output o meets input o * stride + k * dilation -
    padding; a transposed one's tap k at input i lands on output
    i * stride + k - padding.

    Returns:
      (taps, inputs), float64 counts.
    """
    large, small = (outputs, inputs) if transposed else (inputs, outputs)
    padding = 0
    if same:
        extent = (taps - 1) * dilation + 1
        padding = max((small - 1) * stride + extent - large, 0) // 2
    counts = np.zeros((taps, inputs))
    for tap in range(taps):
        met = np.arange(small) * stride + tap * dilation - padding
        valid = (met >= 0) & (met < large)
        if transposed:
            counts[tap] = valid
        else:
            counts[tap] = np.bincount(met[valid], minlength=inputs)
    return counts


def _add_to_bias(
    raw: schema.ModelT,
    view: flatbuffer.Model,
    op: flatbuffer.Op,
    shift: np.ndarray,
) -> None:
    """Adds to the bias of an operation, in place."""
    graph = raw.subgraphs[0]
    bias = weights.bias_operand(view, op)
    values = shift if bias is None else view.constant(bias) + shift
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(values.astype(np.float32).tobytes(), np.uint8)
    if bias is not None:
        raw.buffers[graph.tensors[bias.index].buffer] = buffer
        return
    slot = policy.WEIGHTS[op.name].bias
    inputs = graph.operators[op.index].inputs
    if slot < len(inputs) and inputs[slot] >= 0:
        return  # A bias that is computed: nothing to add to.
    tensor = schema.TensorT()
    tensor.name = f"{view.tensors[op.outputs[0]].name}#bias".encode()
    tensor.shape, tensor.type = [len(shift)], schema.TensorType.FLOAT32
    tensor.buffer = len(raw.buffers)
    raw.buffers.append(buffer)
    inputs[slot:] = [len(graph.tensors)]
    graph.tensors.append(tensor)
