"""New kernels and biases for the layers of a graph."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from dsg_tf.analysis import linear_layers
from dsg_tf.graph import ir, memo
from dsg_tf.quant import qtypes


class Edit:
    """New kernels and biases for some layers of a graph, collected.

    Every tensor that other nodes or the caller read keeps its name. Layers
    that read one kernel together get kernels of their own.

    Args:
      graph: the graph that the layers were found in.

    Examples:
      >>> from dsg_tf.graph.load import loading
      >>> graph = loading.load("examples/digits_saved_model")
      >>> layer = linear_layers.find(graph)[0]
      >>> edit = Edit(graph)
      >>> edit.set(layer, 2 * layer.kernel, np.ones(layer.out_channels))
      >>> linear_layers.find(edit.graph())[0].bias.max()
      np.float32(1.0)
    """

    def __init__(self, graph: ir.Graph):
        self._graph = graph
        self._taken = set(graph.nodes)
        self._nodes: dict[str, ir.Node] = {}
        self._grids = dict(graph.weight_grids)

    def set(
        self,
        layer: linear_layers.LinearLayer,
        kernel: np.ndarray,
        bias: np.ndarray | None = None,
        *,
        grid: qtypes.QuantParams | None = None,
        source: str | None = None,
        output: str | None = None,
    ) -> None:
        """Gives a layer another kernel, and another bias.

        Args:
          layer: one of the graph's layers.
          kernel: in the layer's layout; stored as float32.
          bias: (O,); None leaves it as it is.
          grid: the grid that the kernel lies on; None for none.
          source: the tensor to add the bias to; by default the layer's
            `linear_output`.
          output: the tensor that shall be the sum; by default the layer's
            own. A layer without a bias moves over for it: its operation gets
            another name.
        """
        value = self._constant(layer, layer.kernel_tensor, "kernel", kernel)
        self._grids.pop(value.output, None)
        if grid is not None:
            self._grids[value.output] = grid
        operation = self._graph[layer.node]
        inputs = list(operation.inputs)
        inputs[layer.kernel_operand] = value.output
        operation = operation.with_inputs(inputs)
        self._add(operation)
        if bias is not None:
            self._set_bias(layer, bias, operation, source, output)

    def replace(self, *nodes: ir.Node) -> None:
        """Puts other nodes into the graph too."""
        self._add(*nodes)

    def free_name(self, wanted: str) -> str:
        """A name that no node has, now taken."""
        name = ir.free_name(wanted, self._taken)
        self._taken.add(name)
        return name

    def graph(
        self, *, moments: Mapping[str, ir.Moments] | None = None
    ) -> ir.Graph:
        """The edited graph.

        Args:
          moments: all that hold in it; by default those of the old graph.
        """
        return self._graph.replace_nodes(
            self._nodes, moments=moments, weight_grids=self._grids
        )

    def _set_bias(self, layer, bias, operation, source, output) -> None:
        graph = self._graph
        source = source or layer.linear_output
        target = ir.node_name(output or layer.output)
        value = self._constant(layer, layer.bias_tensor, "bias", bias)
        first = linear_layers.channels_first(operation)
        last = ir.node_name(source)
        if last == target:
            moved = operation if last == layer.node else graph[last]
            # In the scope that names the layer.
            name = self.free_name(f"{last}{'_' if '/' in last else '/'}linear")
            moved = moved.with_inputs(moved.inputs, name=name)
            self._add(moved)
            source = moved.output
        inputs = [source, value.output]
        if layer.groups > 1 and not first:
            # Grappler would fuse a BiasAdd with the convolution, into one that
            # takes no groups on a CPU; a SavedModel that we write is run as it
            # is, without `grouped_convolutions`.
            total = ir.Node.of(target, "AddV2", inputs, T=tf.float32)
        else:
            data_format = "NCHW" if first else "NHWC"
            total = ir.Node.of(
                target, "BiasAdd", inputs, T=tf.float32, data_format=data_format
            )
        self._add(total)

    def _constant(self, layer, old: str | None, what: str, values) -> ir.Node:
        """A float32 constant in place of another, or beside the kernel.

        It takes the place, and the name, of a constant that nothing else
        reads: the names of a converted file's tensors hold it.
        """
        graph = self._graph
        alone = (
            old is not None
            and graph.producer(old).op == "Const"
            and len(graph.consumers(old)) == 1
            and old not in {port.tensor for port in graph.outputs}
        )
        if alone:
            name = ir.node_name(old)
        else:
            constants = [
                node
                for node in graph.ancestors(layer.kernel_tensor)
                if node.op == "Const" and "/" in node.name
            ]
            name = constants[0].name if constants else f"{layer.node}/kernel"
            name = self.free_name(f"{name.rpartition('/')[0]}/{what}")
        node = ir.Node.constant(name, np.asarray(values, np.float32))
        self._add(node)
        return node

    def _add(self, *nodes: ir.Node) -> None:
        for node in nodes:
            self._nodes[node.name] = node
            self._taken.add(node.name)


@memo.per_graph
def with_own_constants(graph: ir.Graph) -> ir.Graph:
    """The graph with a kernel and a bias of its own, Const, for each layer."""
    edit = Edit(graph)
    for layer in linear_layers.find(graph):
        bias = layer.bias
        if bias is None:
            bias = np.zeros(layer.out_channels, np.float32)
        grid = graph.weight_grids.get(layer.kernel_tensor)
        edit.set(layer, layer.kernel, bias, grid=grid)
    return edit.graph()
