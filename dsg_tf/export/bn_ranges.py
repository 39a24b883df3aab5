"""Ranges of activations from BatchNorm statistics, without samples.

A channel behind a BN is assumed normal with mean beta and deviation |gamma|;
its range is beta -+ n |gamma|, through the activation, and a tensor's range
holds those of all its channels (DFQ section 4.2 and 5: n = 6).

References:
  Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
  Correction", ICCV 2019.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from dsg_tf.analysis import channel_statistics
from dsg_tf.fidelity import verify
from dsg_tf.graph import evaluation, ir, tapped
from dsg_tf.quant import qtypes
from dsg_tf.tflite import interpreter

DEVIATIONS = 6.0
# Two tensors are one where they differ by less than this share of the largest
# value: far above float32 rounding, far below another tensor.
_SAME = 1e-3


def of_graph(
    graph: ir.Graph, *, deviations: float = DEVIATIONS
) -> dict[str, qtypes.TensorRange]:
    """Range of every tensor that BN says something of.

    Args:
      graph: a frozen graph, BN folded, with `moments`.
      deviations: n.

    Returns:
      Range by tensor, zero included.
    """
    ranges = {}
    for tensor, known in channel_statistics.find(graph).items():
        low, high = known.interval(deviations)
        ranges[tensor] = qtypes.TensorRange(
            float(low.min()), float(high.max())
        ).with_zero()
    return ranges


def of_tflite(
    graph: ir.Graph,
    float_tflite: bytes,
    sample: Mapping[str, np.ndarray],
    *,
    deviations: float = DEVIATIONS,
) -> dict[str, qtypes.TensorRange]:
    """The same by tensor of the float .tflite that was made of a graph.

    The converter's names say which tensors may be the same, and their values
    for one sample whether they are.

    Args:
      graph: as for `of_graph`.
      float_tflite: by TFLiteConverter from this graph.
      sample: one sample by input name, with the batch axis.
      deviations: n.

    Returns:
      Range by name of the file's tensor.
    """
    return matched(
        graph, float_tflite, sample, of_graph(graph, deviations=deviations)
    )


def matched(
    graph: ir.Graph,
    float_tflite: bytes,
    sample: Mapping[str, np.ndarray],
    known: Mapping[str, qtypes.TensorRange],
) -> dict[str, qtypes.TensorRange]:
    """Ranges of a graph's tensors, by tensor of the float .tflite.

    Args:
      graph: the graph.
      float_tflite: by TFLiteConverter from this graph.
      sample: one sample by input name, with the batch axis.
      known: range by tensor of the graph.

    Returns:
      Range by name of the file's tensor.
    """
    if not known:
        return {}
    runner = interpreter.Interpreter(float_tflite, all_tensors=True)
    runner.invoke({name: values[0] for name, values in sample.items()})
    order = {name: index for index, name in enumerate(graph.nodes)}
    view = runner.view
    # Inputs and outputs have the names of the signature.
    ports = {
        tensors[port.name].index: port.tensor
        for tensors, own in (
            (view.output_names(), graph.outputs),
            (view.input_names(), graph.inputs),
        )
        for port in own
        if port.name in tensors
    }
    pairs = {
        tensor: ports.get(tensor.index)
        or f"{verify.source_layer_name(tensor.name, order)}:0"
        for tensor in view.float_activations()
    }
    pairs = {t: name for t, name in pairs.items() if name in known}
    values = _values(graph, pairs.values(), sample)
    return {
        tensor.name: known[name]
        for tensor, name in pairs.items()
        if _are_same(runner.tensor(tensor), values[name])
    }


def widths_disagree(
    a: qtypes.TensorRange, b: qtypes.TensorRange, *, factor: float = 2.0
) -> bool:
    """Whether one range is more than `factor` times as wide as the other."""
    small, large = sorted((a.width, b.width))
    return large > factor * small


def _values(
    graph: ir.Graph, tensors: Iterable[str], sample: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    tensors = list(dict.fromkeys(tensors))
    if not tensors:
        return {}
    with tapped.unoptimised():
        (values,) = evaluation.batches(graph, tensors, sample)
    return dict(zip(tensors, values, strict=True))


def _are_same(a: np.ndarray, b: np.ndarray) -> bool:
    if a.size != b.size:
        return False
    a, b = a.reshape(-1), b.reshape(-1)
    unit = max(float(np.abs(b).max()), 1e-30)
    return bool(np.all(np.abs(a - b) <= _SAME * unit))
