"""Values of a graph's tensors: once, or over samples a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from dsg_tf.graph import frozen, ir


def evaluate(
    graph: ir.Graph,
    tensors: Sequence[str],
    feeds: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Computes tensors once; constants need no feeds.

    Args:
      graph: the graph.
      tensors: what to compute.
      feeds: value by tensor, for the inputs that `tensors` depend on.

    Returns:
      Value by tensor.
    """
    tensors = list(dict.fromkeys(tensors))
    if not tensors:
        return {}
    tf_graph = graph.tf_graph
    with tf.compat.v1.Session(graph=tf_graph) as session:
        return session.run({t: t for t in tensors}, feed_dict=feeds or {})


def batches(
    graph: ir.Graph,
    tensors: Sequence[str],
    samples: Mapping[str, np.ndarray],
    *,
    size: int = 16,
) -> Iterator[list[np.ndarray]]:
    """Values of tensors over samples, a batch at a time.

    Args:
      graph: the graph.
      tensors: what to compute, `node:index`.
      samples: (N, ...) by input name, model input units.
      size: samples at a time, where the graph's batch is open; otherwise its
        own batch size, the last batch filled up with the last sample.

    Yields:
      The tensors' values for the samples of one batch, in order.
    """
    function = frozen.to_function(graph, tensors)
    for feeds, keep in fed(graph.inputs, samples, size):
        with frozen.in_fixed_order():
            values = function(*feeds)
        yield [value.numpy()[keep] for value in values]


def batch_size(inputs: Sequence[ir.Port], size: int) -> int:
    """Samples that go through at a time: `size` where the batch is open."""
    fixed = _fixed(inputs)
    return size if fixed is None else fixed


def fed(
    inputs: Sequence[ir.Port], samples: Mapping[str, np.ndarray], size: int
) -> Iterator[tuple[list[tf.Tensor], slice]]:
    """Samples as batches of a graph's inputs.

    Args:
      inputs: the graph's inputs.
      samples: (N, ...) by input name.
      size: samples at a time, where the inputs' batch is open.

    Yields:
      A tensor for each input, and which of its rows to keep: a fixed batch
      that the samples do not fill holds the last one again.
    """
    fixed = _fixed(inputs)
    size = batch_size(inputs, size)
    total = len(samples[inputs[0].name])
    for start in range(0, total, size):
        count = min(size, total - start)
        filled = fixed is not None and count < size
        feeds = []
        for port in inputs:
            part = np.asarray(samples[port.name][start : start + count])
            if filled:
                rest = np.repeat(part[-1:], size - count, axis=0)
                part = np.concatenate([part, rest])
            feeds.append(tf.constant(part, port.dtype))
        # All, not `count`: a tensor's rows need not be samples.
        yield feeds, slice(count if filled else None)


def relative_change(
    graph: ir.Graph, other: ir.Graph, samples: Mapping[str, np.ndarray]
) -> float:
    """The largest change of an output over samples, relative to its size.

    max |a - b| / max |a|, over samples and positions, the worst output.

    Args:
      graph: the reference.
      other: a graph with the same inputs and outputs.
      samples: (N, ...) by input name, model input units.
    """
    worst = np.zeros(len(graph.outputs))
    size = np.zeros(len(graph.outputs))
    ends = [[port.tensor for port in g.outputs] for g in (graph, other)]
    for left, right in zip(
        batches(graph, ends[0], samples),
        batches(other, ends[1], samples),
        strict=True,
    ):
        for k, (a, b) in enumerate(zip(left, right, strict=True)):
            difference = np.abs(a.astype(np.float64) - b)
            # np.maximum keeps NaN, where max() would hide it.
            worst[k] = np.maximum(worst[k], difference.max(initial=0.0))
            size[k] = np.maximum(size[k], np.abs(a).max(initial=0.0))
    return float(np.max(worst / np.maximum(size, 1e-30), initial=0.0))


def _fixed(inputs: Sequence[ir.Port]) -> int | None:
    """The batch size that a model was exported with, if it was."""
    sizes = {port.shape[0] for port in inputs if port.shape} - {None}
    return next(iter(sizes), None)
