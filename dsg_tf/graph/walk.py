"""Evaluates a graph on samples once, from the inputs to the outputs.

Layer-by-layer techniques need the input and output of one layer after the
other, while earlier layers get new weights. A walk keeps the latest values and
computes the next ones from them instead of from the inputs, so that the time is
linear in the depth of the network, not quadratic.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from dsg_tf.graph import evaluation, frozen, grouped_convolutions, ir, tapped


class Walk:
    """Values of some tensors over samples, in topological order.

    Args:
      graph: the graph.
      targets: the tensors to be requested, `node:index`, in the order of the
        requests; a tensor that is requested twice is listed twice.
      samples: (N, ...) by input name, model input units.
      batch_size: samples at a time, where the graph's batch is open.

    Examples:
      >>> from dsg_tf.graph.load import loading
      >>> graph = loading.load(
      ...     tf.function(
      ...         lambda x: 2.0 * tf.nn.relu(x),
      ...         input_signature=[tf.TensorSpec((None, 1), name="x")],
      ...     )
      ... )
      >>> output = graph.outputs[0].tensor
      >>> walk = Walk(graph, ["Relu:0", output], {"x": np.float32([[-1], [3]])})
      >>> [v.tolist() for (v,) in walk.to(["Relu:0"])]
      [[[0.0], [3.0]]]
      >>> [v.tolist() for (v,) in walk.to([output])]
      [[[0.0], [6.0]]]
    """

    def __init__(
        self,
        graph: ir.Graph,
        targets: Iterable[str],
        samples: Mapping[str, np.ndarray],
        *,
        batch_size: int = 16,
    ):
        self._graph = frozen.with_sums_in_pairs(
            grouped_convolutions.as_dense(graph)
        )
        self._targets = list(targets)
        fed = [port.tensor for port in graph.inputs]
        self._keep: list[slice] = []
        # Computed values that are still needed: by tensor, one per batch.
        self._live: list[dict[str, tf.Tensor]] = []
        for feeds, keep in evaluation.fed(graph.inputs, samples, batch_size):
            self._live.append(dict(zip(fed, feeds, strict=True)))
            self._keep.append(keep)
        self._changed: dict[str, ir.Node] = {}

    def set_constant(self, tensor: str, value: np.ndarray) -> None:
        """Gives a Const node another value, for what has not been computed."""
        name = ir.node_name(tensor)
        self._changed[name] = ir.Node.constant(name, value)

    def to(self, tensors: Sequence[str]) -> Iterator[list[np.ndarray]]:
        """Computes some of the remaining targets.

        Args:
          tensors: some of the remaining targets. Targets that come before them
            cannot be requested afterwards.

        Yields:
          Their values for the samples of one batch, in order.
        """
        tensors = list(tensors)
        missing = [t for t in dict.fromkeys(tensors) if t not in self._live[0]]
        if missing:
            self._compute(missing)
        # Targets that come before these cannot be requested any more.
        last = max(self._targets.index(tensor) for tensor in tensors)
        self._targets = self._targets[last + 1 :]
        for values, keep in zip(self._live, self._keep, strict=True):
            yield [values[t].numpy()[keep] for t in tensors]
        self._forget()

    def _compute(self, tensors: Sequence[str]) -> None:
        """Values of tensors, from the nearest that are known."""
        nodes, sources = self._between(tensors)
        graph_def = tf.compat.v1.GraphDef()
        graph_def.versions.producer = tf.version.GRAPH_DEF_VERSION
        for node in self._graph:
            if node.name in nodes:
                changed = self._changed.get(node.name, node)
                graph_def.node.append(changed.definition)
        if self._graph.library is not None:
            graph_def.library.CopyFrom(self._graph.library)
        specs = [
            tf.TensorSpec(
                self._graph.shape(source), self._live[0][source].dtype
            )
            for source in sources
        ]

        def imported(*values):
            return tf.graph_util.import_graph_def(
                graph_def,
                input_map=dict(zip(sources, values, strict=True)),
                return_elements=list(tensors),
                name="",
            )

        function = tf.function(imported, input_signature=specs, autograph=False)
        for known in self._live:
            with tapped.unoptimised():
                values = function(*(known[source] for source in sources))
            known.update(zip(tensors, values, strict=True))

    def _between(self, tensors: Iterable[str]) -> tuple[set[str], list[str]]:
        """Nodes to run for tensors, and the known ones that these read."""
        nodes: set[str] = set()
        sources: dict[str, None] = {}
        stack = list(tensors)
        while stack:
            tensor = stack.pop()
            if tensor in self._live[0]:
                sources[tensor] = None
                continue
            name = ir.node_name(tensor)
            if name not in nodes:
                nodes.add(name)
                stack += self._graph[name].inputs
        return nodes, list(sources)

    def _forget(self) -> None:
        """Drops values that no remaining target depends on."""
        _, needed = self._between(self._targets)
        for known in self._live:
            for tensor in set(known) - set(needed) - set(self._targets):
                del known[tensor]
