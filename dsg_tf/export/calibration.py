"""Ranges of activations, observed on samples in the float model.

For an integer .tflite the float .tflite is run, so tensors have the names of
the file and need not be matched to the source graph; for a simulation, the
graph is run. Samples are processed one by one or in small batches and only the
observers keep state: memory does not grow with the number of samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import tensorflow as tf

from dsg_tf.core import errors
from dsg_tf.graph import frozen, ir
from dsg_tf.graph.load import open_shapes
from dsg_tf.quant import qtypes, range_estimators
from dsg_tf.tflite import interpreter

# Samples of an open batch that run at a time: enough to keep a few cores
# busy, and few enough for all activations of a large network to be in memory.
_BATCH_SIZE = 8


def calibrate(
    float_tflite: bytes,
    samples: Mapping[str, np.ndarray],
    *,
    range_method: str = "minmax",
    spec: qtypes.QuantSpec | None = None,
    percentile: float = 99.99,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, qtypes.TensorRange]:
    """Observes every activation of a float .tflite.

    Args:
      float_tflite: by `tflite.convert.to_float`, batch 1.
      samples: (N, ...) by input name, model input units.
      range_method: an observer, see `range_estimators.create`.
      spec: the grid that the ranges are for, which `mse` needs; by default 8
        bits, asymmetric.
      percentile: for `percentile`, in percent.
      progress: called with (samples done, samples) after each.

    Returns:
      Range by tensor name, zero included, for every float activation.

    Raises:
      UserError: unknown method, samples that do not fit the inputs, NaN or
        infinity in a tensor (named).
    """
    # Without delegates: XNNPACK leaves tensors inside its own graph unset.
    runner = interpreter.Interpreter(float_tflite, all_tensors=True)
    tensors = {t.name: t for t in runner.view.float_activations()}
    watched = _observers(tensors, range_method, spec, percentile)
    total = interpreter.num_samples(runner.view, samples)
    for done, sample in enumerate(
        interpreter.iterate(runner.view, samples), start=1
    ):
        runner.invoke(sample)
        for name, observer in watched.items():
            observer.update(runner.tensor(tensors[name]))
        if progress is not None:
            progress(done, total)
    return {name: observer.range() for name, observer in watched.items()}


def calibrate_graph(
    graph: ir.Graph,
    tensors: Iterable[str],
    samples: Mapping[str, np.ndarray],
    *,
    range_method: str = "minmax",
    spec: qtypes.QuantSpec | None = None,
    percentile: float = 99.99,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, qtypes.TensorRange]:
    """Observes tensors of a frozen graph.

    Args:
      graph: the graph.
      tensors: float tensors of it, `node:index`.
      samples: (N, ...) by input name, model input units.
      range_method: an observer, see `range_estimators.create`.
      spec: the grid that the ranges are for, which `mse` needs; by default 8
        bits, asymmetric.
      percentile: for `percentile`, in percent.
      progress: called with (samples done, samples) after each batch.

    Returns:
      Range by tensor, zero included.

    Raises:
      UserError: unknown method, samples that do not fit the inputs, a batch
        size that is fixed to more than 1, NaN or infinity in a tensor (named).

    Examples:
      >>> from dsg_tf.graph.load import loading
      >>> double = tf.function(
      ...     lambda x: 2.0 * x,
      ...     input_signature=[tf.TensorSpec((None, 2), name="x")],
      ... )
      >>> samples = {"x": np.float32([[1, 2], [3, -4]])}
      >>> calibrate_graph(loading.load(double), ["mul:0"], samples)
      {'mul:0': TensorRange(min=-8.0, max=6.0)}
    """
    watched = _observers(tensors, range_method, spec, percentile)
    total = _num_samples(graph, samples)
    graph, batch_size = _with_batch_size(graph)
    if range_method == "ema":
        # It averages samples' extremes, and in the middle of a graph the
        # first axis need not be that of the samples.
        batch_size = 1
    function = frozen.to_function(graph, watched)
    for start in range(0, total, batch_size):
        stop = min(start + batch_size, total)
        batch = [
            np.asarray(samples[port.name][start:stop]).astype(
                port.dtype.as_numpy_dtype
            )
            for port in graph.inputs
        ]
        values = function(*map(tf.constant, batch))
        for observer, value in zip(watched.values(), values, strict=True):
            observer.update(value.numpy()[np.newaxis])
        if progress is not None:
            progress(stop, total)
    return {name: observer.range() for name, observer in watched.items()}


def _observers(
    tensors: Iterable[str],
    range_method: str,
    spec: qtypes.QuantSpec | None,
    percentile: float,
) -> dict[str, range_estimators.Observer]:
    """A fresh observer by tensor."""
    return {
        name: range_estimators.create(
            range_method, name, spec=spec, percentile=percentile
        )
        for name in tensors
    }


def _with_batch_size(graph: ir.Graph) -> tuple[ir.Graph, int]:
    """The graph, and how many samples it takes at a time."""
    sizes = {port.shape[0] for port in graph.inputs}
    if sizes == {None} and frozen.accepts_batch_size(graph, _BATCH_SIZE):
        return graph, _BATCH_SIZE
    if not sizes <= {None, 1}:
        graph = open_shapes.of_one_sample(graph)
    return graph, 1


def _num_samples(graph: ir.Graph, samples: Mapping[str, np.ndarray]) -> int:
    """How many samples there are, after checking them against the inputs."""
    shapes = {port.name: port.shape[1:] for port in graph.inputs}
    if set(samples) != set(shapes):
        raise errors.UserError(
            "samples",
            got="inputs " + ", ".join(sorted(samples)),
            expected="inputs " + ", ".join(sorted(shapes)),
        )
    for name, shape in shapes.items():
        found = np.shape(samples[name])
        if not found or found[1:] != shape:
            raise errors.UserError(
                f"samples of input {name!r}",
                got=f"shape {found}",
                expected=f"(N, {', '.join(map(str, shape))})",
            )
    counts = {np.shape(samples[name])[0] for name in shapes}
    if len(counts) != 1 or 0 in counts:
        raise errors.UserError(
            "samples",
            got="counts " + ", ".join(map(str, sorted(counts))),
            expected="one count above 0 for all inputs",
        )
    return counts.pop()
