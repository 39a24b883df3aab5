"""A graph put into a trace, with functions of ours at some of its tensors.

`frozen.splice` imports a graph as it is. Here some tensors are handed to a
function, and whoever reads them gets what the function returns: a function with
a gradient of its own can so do in one pass over memory what the graph does in
several, and a value can be corrected on its way through the network.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import tensorflow as tf

from dsg_tf.graph import grouped_convolutions, ir


@dataclasses.dataclass(frozen=True, eq=False)
class Tap:
    """A tensor that is replaced while a graph is put into a trace.

    Attributes:
      source: the tensor that the function is given, `node:index`.
      replaced: the tensor whose readers get the function's result: `source`
        itself, or one that is computed from `source` alone, which the function
        then computes instead.
      function: from the source's value to the replacement's.
    """

    source: str
    replaced: str
    function: Callable[[tf.Tensor], tf.Tensor]


def splice(
    graph: ir.Graph,
    inputs: Sequence[tf.Tensor],
    outputs: Sequence[str],
    *,
    taps: Sequence[Tap] = (),
) -> list[tf.Tensor]:
    """Puts a graph's operations into the function that is being traced.

    Grouped convolutions become plain ones, see `grouped_convolutions`.

    Args:
      graph: the graph.
      inputs: its inputs, in the order of `graph.inputs`.
      outputs: tensors to compute, `node:index`.
      taps: at most one for a source, and for a replaced tensor.

    Returns:
      The outputs' tensors, replaced ones as the functions returned them.

    Example:
      >>> from dsg_tf.graph import loading
      >>> graph = loading.load(
      ...     tf.function(
      ...         lambda x: 2.0 * tf.nn.relu(x),
      ...         input_signature=[tf.TensorSpec((None, 1), name="x")],
      ...     )
      ... )
      >>> tap = Tap("Relu:0", "Relu:0", lambda value: value + 1.0)
      >>> run = tf.function(
      ...     lambda x: splice(
      ...         graph, [x], [graph.outputs[0].tensor], taps=[tap]
      ...     )
      ... )
      >>> run(tf.constant([[3.0]]))[0].numpy().tolist()
      [[8.0]]
    """
    graph = grouped_convolutions.as_dense(graph)
    return _Splice(graph, inputs, taps).compute(outputs)


class _Splice:
    """Imports a graph piece by piece; a piece ends where a tap is read."""

    def __init__(self, graph, inputs, taps):
        self._graph = graph
        self._known = {
            port.tensor: tensor
            for port, tensor in zip(graph.inputs, inputs, strict=True)
        }
        self._taps = {tap.source: tap for tap in taps}
        # Computed by a function, and not by the graph.
        self._skipped = {
            ir.node_name(t.replaced) for t in taps if t.replaced != t.source
        }
        self._pending: list[ir.Node] = []

    def compute(self, outputs: Sequence[str]) -> list[tf.Tensor]:
        graph = self._graph
        needed = {n.name for t in outputs for n in graph.ancestors(t)}
        needed |= {
            n.name
            for source in self._taps
            if source not in self._known
            for n in graph.ancestors(source)
        }
        fed = {ir.node_name(t) for t in self._known}
        for source, tap in self._taps.items():
            if source in self._known:
                self._known[tap.replaced] = tap.function(self._known[source])
        # Replaced tensors that the pending nodes are to compute.
        waiting: set[str] = set()
        for node in graph:
            if node.name not in needed or node.name in fed | self._skipped:
                continue
            if not waiting.isdisjoint(node.inputs):
                self._flush()
                waiting.clear()
            self._pending.append(node)
            waiting |= {
                self._taps[t].replaced
                for t in graph.output_tensors(node)
                if t in self._taps
            }
        self._flush()
        return [self._known[t] for t in outputs]

    def _flush(self) -> None:
        """Imports the pending nodes, then calls the taps on what they gave."""
        graph, pending = self._graph, self._pending
        self._pending = []
        if not pending:
            return
        own = {node.name for node in pending}
        read = {
            t: self._known[t]
            for node in pending
            for t in node.inputs
            if ir.node_name(t) not in own
        }
        made = [t for node in pending for t in graph.output_tensors(node)]
        graph_def = tf.compat.v1.GraphDef()
        graph_def.versions.producer = tf.version.GRAPH_DEF_VERSION
        graph_def.node.extend(node.definition for node in pending)
        if graph.library is not None:
            graph_def.library.CopyFrom(graph.library)
        values = tf.graph_util.import_graph_def(
            graph_def, input_map=read, return_elements=made, name="frozen"
        )
        self._known.update(zip(made, values, strict=True))
        for tensor in made:
            tap = self._taps.get(tensor)
            if tap is not None:
                self._known[tap.replaced] = tap.function(self._known[tensor])
