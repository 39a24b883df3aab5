"""What a run will cost: seconds by stage, memory, bytes of the file.

A cost model with one measurement: a forward pass of the folded graph is timed
on this machine, and all else follows from it and from the counts of operations
and weights, by rates that were measured on two cores of an AMD EPYC over the
models of docs/explanation/performance.md. `python -m benchmarks.estimates`
compares it with real runs.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from dsg_tf.analysis import linear_layers, source_model
from dsg_tf.config import run_config
from dsg_tf.graph import frozen, ir
from dsg_tf.quant import qtypes
from dsg_tf.synthesis import padding_trial
from dsg_tf.tflite import flatbuffer, float_edges, weights

# Imports, parsing and drawing the page.
_START_S = 5.5
# Tracing and compiling a step, for each operation of the folded graph.
_TRACE_S = 0.015
# A call of a function; a step beyond its passes.
_CALL_S, _STEP_S = 0.002, 0.004
# Forward, backward and update, in forward passes.
_PASSES = 6.0
# For each million weights: bias correction, writing the file, converting.
_PASSES_S, _EXPORT_S, _CONVERT_S = 0.3, 0.35, 0.35
# Learned rounding of a layer: fixed, and for each thousand operands.
_ROUND_S, _ROUND_KILO_S = 0.3, 0.02
# Verification of a sample, in forward passes of one.
_VERIFIED = 20.0
# A process with TensorFlow; bytes for each weight, and for each value of the
# feature maps of a batch.
_PROCESS_BYTES, _WEIGHT_BYTES, _VALUE_BYTES = 0.85e9, 250.0, 12.0
# A scale and a zero point; an activation with both, a name and a shape.
_SCALE_BYTES, _TENSOR_BYTES = 12, 60


@dataclasses.dataclass(frozen=True)
class Cost:
    """The expected cost of a run on this machine.

    Attributes:
      seconds: wall time by stage, and `total`.
      peak_gb: memory.
      steps: of the optimiser; more are made where the samples do not settle.
      forward_ms: of a batch, as measured; 0 where nothing is synthesised.
    """

    seconds: Mapping[str, float]
    peak_gb: float
    steps: int
    forward_ms: float

    def in_one_line(self) -> str:
        """For instance `12 s (load 1, samples 4), 1.1 GB of memory`."""
        stages = ", ".join(
            f"{stage} {seconds:.0f}"
            for stage, seconds in self.seconds.items()
            if stage != "total" and seconds >= 1
        )
        return (
            f"{self.seconds['total']:.0f} s ({stages}), {self.peak_gb:.1f} GB"
            f" of memory, {self.steps} steps"
        )


def estimate(
    source: source_model.SourceModel,
    folded: ir.Graph,
    config: run_config.PipelineConfig,
    *,
    load_s: float,
) -> Cost:
    """Estimates a run.

    Args:
      source: the model.
      folded: its graph with BN folded.
      config: complete, see `config.needs`.
      load_s: what loading it took, seconds.
    """
    layers = linear_layers.find(folded)
    millions = sum(layer.kernel.size for layer in layers) / 1e6
    synthesis = config.synthesis
    batch = synthesis.batch_size
    forward_s = _forward_s(folded, batch)
    count = synthesis.num_samples + config.verify_samples
    samples_s, steps = 0.0, 0
    if config.needs_moments:
        batches = math.ceil(count / batch)
        steps, builds = batches * synthesis.steps, 1
        if synthesis.fill == "auto" and (
            synthesis.steps >= 2 * padding_trial.STEPS
        ):
            steps, builds = steps + 2 * padding_trial.STEPS, 2
        step_s = _STEP_S + _PASSES * max(forward_s - _CALL_S, 0.0)
        samples_s = builds * _TRACE_S * len(folded.nodes) + steps * step_s
    rounding_s = 0.0
    if config.export.weight_rounding == "adaround":
        rounding_s = sum(_rounding_s(layer) for layer in layers)
    seconds = {
        "start": _START_S,
        "load": load_s + _CONVERT_S * millions,
        "samples": samples_s,
        "passes": 0.2 + _PASSES_S * millions + rounding_s,
        "export": 0.3 + _EXPORT_S * millions,
        "verify": 0.15
        + _VERIFIED * config.verify_samples * forward_s / max(batch, 1),
    }
    seconds["total"] = sum(seconds.values())
    values = sum(_size(folded, layer) for layer in layers) * batch
    peak = _PROCESS_BYTES + _WEIGHT_BYTES * millions * 1e6
    return Cost(
        {stage: round(s, 2) for stage, s in seconds.items()},
        round((peak + _VALUE_BYTES * values) / 1e9, 2),
        steps,
        round(1e3 * forward_s, 2),
    )


def integer_bytes(
    float_tflite: bytes, config: run_config.PipelineConfig
) -> int:
    """About how large the integer file will be.

    Args:
      float_tflite: the float file.
      config: whose export counts.
    """
    export = config.export
    view = flatbuffer.read(float_tflite)
    total = len(float_tflite)
    bias_bytes = 8 if export.activation_bits == 16 else 4
    channelwise = qtypes.Granularity(export.granularity)
    edges = float_edges.FloatEdges()
    if export.float_edges:
        edges = float_edges.find(view, activation_bits=export.activation_bits)
    for op in view.ops:
        tensor = weights.operand(view, op)
        if tensor is None or op.index in edges.ops:
            continue
        count = int(np.prod(tensor.shape))
        bits = 4 if export.packed and op.name in weights.PACKABLE else 8
        total -= 4 * count - count * bits // 8
        channels = view.tensors[op.outputs[0]].shape[-1]
        if channelwise is qtypes.Granularity.CHANNEL:
            # Of the weights and of the bias.
            total += 2 * channels * _SCALE_BYTES
        total += (bias_bytes - 4) * channels
    return total + _TENSOR_BYTES * len(view.float_activations())


def _forward_s(graph: ir.Graph, batch: int) -> float:
    """Seconds of a forward pass of a batch, the best of three."""
    function = frozen.to_function(graph)
    feeds = []
    for port in graph.inputs:
        size = port.shape[0] or batch
        # Zeros are indices too.
        feeds.append(tf.zeros((size, *port.shape[1:]), port.dtype))
    times = []
    for _ in range(4):
        start = time.monotonic()
        function(*feeds)
        times.append(time.monotonic() - start)
    fixed = graph.inputs[0].shape[0]
    return min(times[1:]) * (batch / fixed if fixed else 1)


def _rounding_s(layer: linear_layers.LinearLayer) -> float:
    """Seconds that learning the rounding of a layer takes."""
    channels, operands = layer.rows().shape
    return _ROUND_S + _ROUND_KILO_S * channels * operands / 1e3


def _size(graph: ir.Graph, layer: linear_layers.LinearLayer) -> int:
    """Values that a layer makes of one sample."""
    shape = graph.shape(layer.output) or ()
    return int(np.prod([size or 1 for size in shape[1:]]))
