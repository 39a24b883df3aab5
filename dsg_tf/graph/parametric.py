"""A graph whose kernels and biases are arguments.

Layer-by-layer techniques run the same network many times, each time with
other weights in some layers. Instead of a new graph for each, the weights are
fed: the network is imported once, and only what a tensor depends on runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from dsg_tf.graph import evaluation, frozen, grouped_convolutions, ir


class Parametric:
    """Runs a graph with values of some constants given anew.

    Args:
      graph: the graph.
      constants: tensors of Const nodes that shall change.
      batch_size: samples at a time, where the graph's batch is open.
    """

    def __init__(
        self,
        graph: ir.Graph,
        constants: Iterable[str],
        *,
        batch_size: int = 16,
    ):
        self._inputs = graph.inputs
        self._batch_size = batch_size
        values = evaluation.evaluate(graph, list(constants))
        # Variables and not arguments: TensorFlow prints each argument into an
        # error message, which it then throws away, at every call.
        self._variables = {t: tf.Variable(v) for t, v in values.items()}
        graph_def = grouped_convolutions.as_dense(graph).to_graph_def()

        def imported():
            read = {t: v.read_value() for t, v in self._variables.items()}
            tf.graph_util.import_graph_def(graph_def, input_map=read, name="")

        self._wrapped = tf.compat.v1.wrap_function(imported, [])

    @property
    def batch_size(self) -> int:
        """Samples that go through at a time."""
        return evaluation.batch_size(self._inputs, self._batch_size)

    def function(self, tensors: Sequence[str]) -> Callable:
        """What computes tensors, `node:index`, from the graph's inputs."""
        element = self._wrapped.graph.as_graph_element
        return self._wrapped.prune(
            [element(port.tensor) for port in self._inputs],
            [element(tensor) for tensor in tensors],
        )

    def values(
        self,
        function: Callable,
        samples: Mapping[str, np.ndarray],
        constants: Mapping[str, np.ndarray],
    ) -> Iterator[list[np.ndarray]]:
        """Values of tensors over samples, a batch at a time.

        Args:
          function: by `function`.
          samples: (N, ...) by input name, model input units.
          constants: value by tensor.

        Yields:
          The tensors' values for the samples of one batch, in order.
        """
        for feeds, keep in evaluation.fed(
            self._inputs, samples, self._batch_size
        ):
            # In each round: others may have changed them in between.
            for tensor, value in constants.items():
                self._variables[tensor].assign(value)
            with frozen.in_fixed_order():
                values = function(*feeds)
            yield [value.numpy()[keep] for value in values]
