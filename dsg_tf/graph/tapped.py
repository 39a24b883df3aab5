"""Imports a graph into a trace and replaces some tensors by functions.

`frozen.splice` imports a graph unchanged. Here some tensors are passed to a
function, and their consumers read its result instead. A function with a custom
gradient can thus compute in one pass over memory what the graph does in
several, and intermediate values can be corrected.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf
from tensorflow.python.eager import context

from dsg_tf.graph import grouped_convolutions, ir


@dataclasses.dataclass(frozen=True, eq=False)
class Tap:
    """A tensor that is replaced while a graph is put into a trace.

    Attributes:
      source: the tensor that the function is given, `node:index`.
      replaced: the tensor whose readers get the function's result: `source`
        itself, or one that is computed from `source` alone, which the function
        then computes instead.
      function: from the source's values in all batches to the replacement's.
    """

    source: str
    replaced: str
    function: Callable[[Sequence[tf.Tensor]], Sequence[tf.Tensor]]

    @classmethod
    def of_each(
        cls,
        source: str,
        replaced: str,
        function: Callable[[tf.Tensor], tf.Tensor],
    ) -> Tap:
        """A tap whose function is applied to each batch separately."""
        return cls(source, replaced, lambda values: [*map(function, values)])


@tf.autograph.experimental.do_not_convert
def splice(
    graph: ir.Graph,
    batches: Sequence[Sequence[tf.Tensor]],
    outputs: Sequence[str],
    *,
    taps: Sequence[Tap] = (),
) -> list[list[tf.Tensor]]:
    """Imports a graph's operations into the function being traced.

    Grouped convolutions become plain ones, see `grouped_convolutions`.

    Args:
      graph: the graph.
      batches: the inputs of each batch, in the order of `graph.inputs`. All
        batches go through in step: a tap sees the values of all of them.
      outputs: tensors to compute, `node:index`.
      taps: at most one for a source, and for a replaced tensor. What one has
        replaced, another may be given.

    Returns:
      The outputs' tensors of each batch, replaced ones as the functions
      returned them.

    Examples:
      >>> from dsg_tf.graph.load import loading
      >>> graph = loading.load(
      ...     tf.function(
      ...         lambda x: 2.0 * tf.nn.relu(x),
      ...         input_signature=[tf.TensorSpec((None, 1), name="x")],
      ...     )
      ... )
      >>> tap = Tap.of_each("Relu:0", "Relu:0", lambda value: value + 1.0)
      >>> run = tf.function(
      ...     lambda x: splice(
      ...         graph, [[x]], [graph.outputs[0].tensor], taps=[tap]
      ...     )
      ... )
      >>> run(tf.constant([[3.0]]))[0][0].numpy().tolist()
      [[8.0]]
    """
    graph = grouped_convolutions.as_dense(graph)
    return _Splice(graph, batches, taps).compute(outputs)


@contextlib.contextmanager
def unoptimised() -> Iterator[None]:
    """Disables Grappler, for functions that are called only once.

    Optimizing a network takes Grappler longer than running it on a few samples.
    It also keeps the order of sums, see `frozen.in_fixed_order`.
    """
    eager = context.context()
    before = eager.function_call_options
    config = tf.compat.v1.ConfigProto.FromString(before.config_proto_serialized)
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    eager.function_call_options = context.FunctionCallOptions(
        executor_type=before.executor_type, config_proto=config
    )
    try:
        yield
    finally:
        eager.function_call_options = before


class _Splice:
    """Imports a graph piece by piece; a piece ends where a tap is read."""

    def __init__(self, graph, batches, taps):
        self._graph = graph
        fed = [port.tensor for port in graph.inputs]
        # Values in all batches, by tensor.
        self._known = dict(zip(fed, zip(*batches, strict=True), strict=True))
        self._taps = {tap.source: tap for tap in taps}
        # Computed by a function, and not by the graph.
        self._skipped = {
            ir.node_name(t.replaced) for t in taps if t.replaced != t.source
        }
        self._pending: list[ir.Node] = []

    def compute(self, outputs: Sequence[str]) -> list[list[tf.Tensor]]:
        graph = self._graph
        needed = {
            node.name
            for tensor in (*outputs, *self._taps)
            for node in graph.ancestors(tensor)
        }
        fed = {ir.node_name(tensor) for tensor in self._known}
        for tensor in list(self._known):
            self._tap(tensor)
        # Replaced tensors that the pending nodes are to compute.
        waiting: set[str] = set()
        for node in graph:
            if node.name not in needed or node.name in fed | self._skipped:
                continue
            if not waiting.isdisjoint(node.inputs):
                self._flush()
                waiting.clear()
            self._pending.append(node)
            for tensor in graph.output_tensors(node):
                waiting |= self._replaced(tensor)
        self._flush()
        count = len(next(iter(self._known.values())))
        return [[self._known[t][k] for t in outputs] for k in range(count)]

    def _flush(self) -> None:
        """Imports the pending nodes, then calls the taps on what they gave."""
        graph, pending = self._graph, self._pending
        self._pending = []
        if not pending:
            return
        own = {node.name for node in pending}
        read = {
            tensor
            for node in pending
            for tensor in node.inputs
            if ir.node_name(tensor) not in own
        }
        made = [t for node in pending for t in graph.output_tensors(node)]
        graph_def = tf.compat.v1.GraphDef()
        graph_def.versions.producer = tf.version.GRAPH_DEF_VERSION
        graph_def.node.extend(node.definition for node in pending)
        if graph.library is not None:
            graph_def.library.CopyFrom(graph.library)
        count = len(next(iter(self._known.values())))
        values = [
            tf.graph_util.import_graph_def(
                graph_def,
                input_map={tensor: self._known[tensor][k] for tensor in read},
                return_elements=made,
                name="frozen",
            )
            for k in range(count)
        ]
        self._known.update(zip(made, zip(*values, strict=True), strict=True))
        for tensor in made:
            self._tap(tensor)

    def _tap(self, tensor: str) -> None:
        tap = self._taps.get(tensor)
        if tap is None:
            return
        values = tuple(tap.function(self._known[tensor]))
        self._known[tap.replaced] = values
        if tap.replaced != tensor:
            # No node of the graph computes it, so `_flush` does not handle it.
            self._tap(tap.replaced)

    def _replaced(self, tensor: str) -> set[str]:
        """What is known once a tensor is and the taps from it were called."""
        found: set[str] = set()
        while tensor in self._taps and self._taps[tensor].replaced not in found:
            tensor = self._taps[tensor].replaced
            found.add(tensor)
        return found
