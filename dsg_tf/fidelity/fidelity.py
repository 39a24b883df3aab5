"""Compares a quantized model with the graph that it was made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterator, Sequence

import numpy as np
import tensorflow as tf

from dsg_tf.core import progress
from dsg_tf.fidelity import output_kinds, verify
from dsg_tf.graph import evaluation, frozen, ir, naming, tapped
from dsg_tf.samples import sample_sets
from dsg_tf.tflite import flatbuffer, interpreter


def compare_outputs(
    graph: ir.Graph, model: bytes | ir.Graph, held_out: sample_sets.SampleSet
) -> dict[str, verify.Fidelity]:
    """Each output of a quantized model against the float graph's.

    Args:
      graph: the frozen source graph.
      model: the integer .tflite, which the real interpreter runs, or the graph
        of a simulation.
      held_out: samples that were not used for calibration.

    Returns:
      Fidelity by output name, each measured by its kind.
    """
    kinds = output_kinds.find(graph)
    reference = _outputs(graph, held_out)
    if isinstance(model, ir.Graph):
        outputs, steps = _outputs(model, held_out), _graph_steps(model)
    else:
        outputs = interpreter.Interpreter(model).run(held_out.arrays)
        steps = _file_steps(flatbuffer.read(model))
    return {
        name: _compare(
            values,
            outputs[name],
            kind=kinds[name],
            step=steps.get(name, 0.0),
            samples=len(held_out),
        )
        for name, values in reference.items()
    }


def compare_graph_layers(
    graph: ir.Graph,
    simulated: ir.Graph,
    tensors: Sequence[str],
    held_out: sample_sets.SampleSet,
) -> list[dict]:
    """Tensors of a simulation against the float graph's, worst first.

    Args:
      graph: the float graph of the same structure.
      simulated: the simulation.
      tensors: what to compare, in both graphs.
      held_out: samples that were not used for calibration.

    Returns:
      Rows of `verify.LayerFidelity` with `layer`, the source model's name.
    """
    sums = {tensor: verify.LayerSums() for tensor in tensors}
    arrays = held_out.arrays
    for left, right in zip(
        evaluation.batches(graph, tensors, arrays),
        evaluation.batches(simulated, tensors, arrays),
        strict=True,
    ):
        for tensor, a, b in zip(tensors, left, right, strict=True):
            sums[tensor].update(a, b)
    names = naming.LayerNames(graph)
    order = {name: position for position, name in enumerate(graph.nodes)}
    rows = [
        dataclasses.replace(
            own.row(
                tensor,
                graph.producer(tensor).op,
                [sums[t] for t in _before(graph, tensor, sums)],
            ),
            position=order[graph.producer(tensor).name],
        )
        for tensor, own in sums.items()
    ]
    return [
        {"layer": names(r.tensor), **dataclasses.asdict(r)}
        for r in sorted(rows, key=lambda row: row.badness)
    ]


def compare_layers(
    graph: ir.Graph,
    float_tflite: bytes,
    model: bytes,
    held_out: sample_sets.SampleSet,
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


def _outputs(
    graph: ir.Graph, held_out: sample_sets.SampleSet
) -> dict[str, np.ndarray]:
    """All outputs of a graph by name, one sample at a time."""
    function = frozen.to_function(frozen.with_batch_size(graph, 1))
    collected: list[list[np.ndarray]] = [[] for _ in graph.outputs]
    for sample in held_out.one_by_one():
        feeds = [
            tf.constant(sample[port.name].astype(port.dtype.as_numpy_dtype))
            for port in graph.inputs
        ]
        with tapped.unoptimised():
            values = function(*feeds)
        for parts, value in zip(collected, values, strict=True):
            # Outputs without axes have one value a sample.
            parts.append(np.atleast_1d(value.numpy()))
    return {
        port.name: np.concatenate(parts)
        for port, parts in zip(graph.outputs, collected, strict=True)
    }


def _before(
    graph: ir.Graph, tensor: str, known: Container[str]
) -> Iterator[str]:
    """The nearest known tensors that a tensor is computed from."""
    queue = list(graph.producer(tensor).inputs)
    seen = set()
    while queue:
        source = queue.pop()
        if source in known:
            yield source
        elif source not in seen and not graph.is_constant(source):
            seen.add(source)
            queue += graph.producer(source).inputs


def _compare(
    reference: np.ndarray, output: np.ndarray, **known
) -> verify.Fidelity:
    if reference.shape != output.shape:
        return verify.incomparable(known["kind"], known["samples"])
    return verify.compare(reference, output, **known)


def _file_steps(view: flatbuffer.Model) -> dict[str, float]:
    """The step of each output's integer grid, where it has one, by name."""
    steps = {}
    for name, tensor in view.output_names().items():
        op = view.producers.get(tensor.index)
        if tensor.params is None and op and op.name == "DEQUANTIZE":
            tensor = view.tensors[op.inputs[0]]
        if tensor.params is not None:
            steps[name] = float(np.max(tensor.params.scale))
    return steps


def _graph_steps(graph: ir.Graph) -> dict[str, float]:
    """The same of a simulation, whose outputs FakeQuant rounds."""
    steps = {}
    for port in graph.outputs:
        node = graph.producer(port.tensor)
        if node.op == "FakeQuantWithMinMaxVars":
            low, high = (graph.literal(t) for t in node.inputs[1:])
            if low is not None and high is not None:
                codes = 2 ** node.attr("num_bits", 8) - 1
                steps[port.name] = float(high - low) / codes
    return steps
