"""An integer .tflite against the graph that it was made of."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from dsg_tf import progress, samples, verify
from dsg_tf.graph import frozen, ir
from dsg_tf.tflite import flatbuffer, interpreter


def compare_outputs(
    graph: ir.Graph, model: bytes, held_out: samples.SampleSet
) -> dict[str, verify.Fidelity]:
    """Each output of the real interpreter against the float graph's.

    Args:
      graph: the frozen source graph.
      model: the integer .tflite.
      held_out: samples that were not used for calibration.

    Returns:
      Fidelity by output name. Of whole-number outputs, which are classes,
      `top1_agreement` is the share that is equal.
    """
    function = frozen.to_function(frozen.with_batch_size(graph, 1))
    reference: list[list[np.ndarray]] = [[] for _ in graph.outputs]
    for sample in held_out.one_by_one():
        values = function(
            *(
                tf.constant(sample[port.name].astype(port.dtype.as_numpy_dtype))
                for port in graph.inputs
            )
        )
        for collected, value in zip(reference, values, strict=True):
            collected.append(value.numpy())
    outputs = interpreter.Interpreter(model).run(held_out.arrays)
    return {
        port.name: _compare(np.concatenate(collected), outputs[port.name])
        for port, collected in zip(graph.outputs, reference, strict=True)
    }


def compare_layers(
    graph: ir.Graph,
    float_tflite: bytes,
    model: bytes,
    held_out: samples.SampleSet,
) -> list[dict]:
    """Each tensor of the .tflite against the float .tflite's, worst first.

    Returns:
      Rows of `verify.LayerFidelity` with `layer`, the source model's name.
    """
    order = {name: index for index, name in enumerate(graph.nodes)}
    names = verify.readable_names(flatbuffer.read(float_tflite), order)
    with progress.task("verification", len(held_out), unit="samples") as stage:
        rows = verify.per_layer(
            float_tflite, model, held_out.arrays, progress=stage.reach
        )
    return [
        {"layer": names.get(r.tensor, r.tensor), **dataclasses.asdict(r)}
        for r in rows
    ]


def _compare(reference: np.ndarray, output: np.ndarray) -> verify.Fidelity:
    measured = verify.compare(reference, output)
    if reference.dtype.kind == "f":
        return measured
    equal = float(np.mean(reference == output))
    return dataclasses.replace(measured, top1_agreement=equal)
