"""Histograms of the worst layers' activations and weights, and their grids."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dsg_tf.quant import uniform
from dsg_tf.samples import sample_sets
from dsg_tf.tflite import flatbuffer, interpreter

_BINS = 64
# A few samples show the shape of a distribution.
_MOST_SAMPLES = 4


@dataclasses.dataclass(frozen=True)
class Histogram:
    """Counts of the values of one tensor, and what its grid covers.

    Attributes:
      edges: of the bins, n + 1 of them, in the tensor's units.
      counts: values in each bin, n of them.
      low, high: the least and greatest value that the grid has; of several
        scales the widest. None for a tensor that stays float.
      codes: how many integers the grid has; 0 for a tensor that stays float.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    low: float | None
    high: float | None
    codes: int


@dataclasses.dataclass(frozen=True)
class LayerHistograms:
    """Of one layer.

    Attributes:
      layer: the source model's name.
      activations: the float model's, on samples that did not calibrate.
      weights: the quantized ones; None for an operation without weights.
    """

    layer: str
    activations: Histogram
    weights: Histogram | None


def of_worst(
    float_tflite: bytes,
    quantized_tflite: bytes,
    rows: Sequence[Mapping[str, Any]],
    held_out: sample_sets.SampleSet,
    *,
    most: int = 3,
) -> tuple[LayerHistograms, ...]:
    """Histograms of the first of some layers.

    Args:
      float_tflite: the file that was quantized.
      quantized_tflite: the file made of it.
      rows: of `fidelity.compare_layers`, worst first.
      held_out: samples that were not used for calibration.
      most: how many layers.
    """
    runs = interpreter.Interpreter(float_tflite, all_tensors=True)
    quantized = flatbuffer.read(quantized_tflite)
    chosen = [r for r in rows if r["op"] != "INPUT" and not r["zero"]][:most]
    values: dict[str, list[np.ndarray]] = {r["tensor"]: [] for r in chosen}
    samples = {n: a[:_MOST_SAMPLES] for n, a in held_out.arrays.items()}
    for sample in interpreter.iterate(runs.view, samples):
        runs.invoke(sample)
        for tensor, parts in values.items():
            parts.append(runs.tensor(runs.view.by_name[tensor]).reshape(-1))
    return tuple(
        LayerHistograms(
            row["layer"],
            _histogram(
                np.concatenate(values[row["tensor"]]),
                quantized.by_name[row["tensor"]],
            ),
            _of_weights(quantized, row["tensor"]),
        )
        for row in chosen
    )


def _of_weights(view: flatbuffer.Model, name: str) -> Histogram | None:
    """Of the constant kernel of the operation that makes a tensor."""
    op = view.producers.get(view.by_name[name].index)
    if op is None or len(op.inputs) < 2 or op.inputs[1] < 0:
        return None
    tensor = view.tensors[op.inputs[1]]
    if not tensor.constant or tensor.params is None:
        return None
    values = uniform.dequantize(view.constant(tensor), tensor.params)
    return _histogram(values.reshape(-1), tensor)


def _histogram(values: np.ndarray, tensor: flatbuffer.Tensor) -> Histogram:
    finite = np.asarray(values, np.float64)
    finite = finite[np.isfinite(finite)]
    counts, edges = np.histogram(finite, bins=_BINS)
    low = high = None
    codes = 0
    if (params := tensor.params) is not None:
        ends = [
            params.scale * (code - params.zero_point)
            for code in (params.qmin, params.qmax)
        ]
        low, high = float(np.min(ends[0])), float(np.max(ends[1]))
        codes = params.qmax - params.qmin + 1
    return Histogram(
        tuple(map(float, edges)), tuple(map(int, counts)), low, high, codes
    )
