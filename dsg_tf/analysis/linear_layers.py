"""Layers with weights: convolutions and matrix products of a frozen graph.

What every quantization technique works on is a linear operation, the bias that
is added to it, and the channels between them, whatever framework wrote them
down and in whatever layout the kernel is. This module finds the layers and
hides the layouts; transforms see kernels as rows, one for each output channel.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from dsg_tf.graph import evaluation, grouped_convolutions, ir, memo, naming, ops

# Operand of the data and of the kernel, and the axes of the kernel's output
# channels and input channels. MatMul depends on its attributes.
_OPERANDS = {
    "Conv2D": (0, 1),
    "Conv2DBackpropInput": (2, 1),
    "DepthwiseConv2dNative": (0, 1),
    "MatMul": (0, 1),
}

# Linear operations with weights that no transform treats.
UNTREATED_OPS = frozenset(
    {
        "BatchMatMul",
        "BatchMatMulV2",
        "BatchMatMulV3",
        "Conv3D",
        "Conv3DBackpropInputV2",
        "Einsum",
    }
)


@dataclasses.dataclass(frozen=True, eq=False)
class LinearLayer:
    """One linear operation with a constant kernel, and its bias.

    Attributes:
      name: the layer's name as the model's owner knows it.
      node: name of the operation's node.
      op: TensorFlow's operation: Conv2D, DepthwiseConv2dNative, MatMul or
        Conv2DBackpropInput.
      input: the tensor of activations that it reads.
      kernel_tensor: the tensor that it reads the kernel from.
      kernel: float32, in TensorFlow's layout: (H, W, C / groups, O), depthwise
        (H, W, C, M), MatMul (C, O) or, transposed, (O, C), transposed
        convolution (H, W, O, C).
      transposed: whether a MatMul's kernel is (O, C).
      groups: of a Conv2D; 1 for all others.
      bias: float32 (O,), None where nothing is added.
      bias_tensor: the tensor that is added, None likewise.
      output: the tensor behind the bias; without one `linear_output`.
      linear_output: the tensor that the bias is added to, or could be: of the
        operation, or of the shape operations behind it.
      channel_axis: the axis of `output` that its channels run along.
    """

    name: str
    node: str
    op: str
    input: str
    kernel_tensor: str
    kernel: np.ndarray
    transposed: bool
    groups: int
    bias: np.ndarray | None
    bias_tensor: str | None
    output: str
    linear_output: str
    channel_axis: int

    @property
    def out_channels(self) -> int:
        """Number of output channels."""
        return self.rows().shape[0]

    @property
    def in_channels(self) -> int:
        """Number of channels of `input`."""
        if self.op == "DepthwiseConv2dNative":
            return self.kernel.shape[2]
        if self.op == "Conv2D":
            return self.kernel.shape[2] * self.groups
        return self.kernel.size // self.out_channels // self._positions

    @property
    def kernel_operand(self) -> int:
        """Which input of the operation is the kernel."""
        return _OPERANDS[self.op][1]

    @property
    def kernel_size(self) -> tuple[int, int]:
        """Height and width of the kernel; (1, 1) for a MatMul."""
        return (1, 1) if self.op == "MatMul" else self.kernel.shape[:2]

    @property
    def _positions(self) -> int:
        return self.kernel_size[0] * self.kernel_size[1]

    def rows(self, kernel: np.ndarray | None = None) -> np.ndarray:
        """A kernel of this layer's layout as one row an output channel.

        Args:
          kernel: by default the layer's own.

        Returns:
          (O, K): K = H * W * C / groups, in this order; depthwise H * W.
        """
        kernel = self.kernel if kernel is None else kernel
        if self.op == "DepthwiseConv2dNative":
            height, width, channels, multiplier = kernel.shape
            return kernel.reshape(height * width, channels * multiplier).T
        axis = self._out_axis
        return np.moveaxis(kernel, axis, 0).reshape(kernel.shape[axis], -1)

    def from_rows(self, rows: np.ndarray) -> np.ndarray:
        """The inverse of `rows`: a kernel of this layer's layout."""
        if self.op == "DepthwiseConv2dNative":
            return np.ascontiguousarray(rows.T).reshape(self.kernel.shape)
        axis = self._out_axis
        moved = np.moveaxis(self.kernel, axis, 0).shape
        return np.ascontiguousarray(np.moveaxis(rows.reshape(moved), 0, axis))

    def with_scaled_outputs(
        self, kernel: np.ndarray, scale: np.ndarray
    ) -> np.ndarray:
        """The kernel whose output channels are `scale` (O,) times as large."""
        return self.from_rows(self.rows(kernel) * scale[:, np.newaxis])

    def with_scaled_inputs(
        self, kernel: np.ndarray, scale: np.ndarray
    ) -> np.ndarray:
        """The kernel that sees its input channels `scale` (C,) as large."""
        return kernel * self._along_inputs(scale)

    def input_ranges(self, kernel: np.ndarray) -> np.ndarray:
        """Largest absolute weight that reads each input channel, (C,)."""
        magnitude = np.abs(kernel)
        if self.op == "DepthwiseConv2dNative":
            return magnitude.max(axis=(0, 1, 3))
        if self.op == "MatMul":
            return magnitude.max(axis=0 if self.transposed else 1)
        if self.op == "Conv2DBackpropInput":
            return magnitude.max(axis=(0, 1, 2))
        # Output channels of one group stand together.
        by_group = magnitude.reshape(*kernel.shape[:3], self.groups, -1)
        return by_group.max(axis=(0, 1, 4)).T.reshape(-1)

    def respond(self, kernel: np.ndarray, inputs: np.ndarray) -> np.ndarray:
        """Output of a constant input without borders, no bias, (O,).

        Args:
          kernel: in this layer's layout.
          inputs: (C,), the value of each input channel, the same everywhere.
        """
        scaled = self.with_scaled_inputs(kernel, inputs)
        return self.rows(scaled).sum(axis=1)

    def _along_inputs(self, values: np.ndarray) -> np.ndarray:
        """(C,) shaped so that it multiplies a kernel by input channel."""
        if self.op == "DepthwiseConv2dNative":
            return values[:, np.newaxis]
        if self.op == "MatMul":
            return values if self.transposed else values[:, np.newaxis]
        if self.op == "Conv2DBackpropInput":
            return values
        by_group = values.reshape(self.groups, -1).T
        per_group = self.kernel.shape[3] // self.groups
        return np.repeat(by_group, per_group, axis=1)

    @property
    def _out_axis(self) -> int:
        if self.op == "MatMul":
            return 0 if self.transposed else 1
        return 2 if self.op == "Conv2DBackpropInput" else 3


@memo.per_graph
def find(graph: ir.Graph) -> tuple[LinearLayer, ...]:
    """All layers with float32 weights, in topological order.

    Args:
      graph: a frozen graph, BN folded or not.

    Returns:
      The layers; operations whose kernel depends on the input are none.
    """
    nodes = [node for node in graph if _is_linear(graph, node)]
    biases = {node.name: _bias_of(graph, node) for node in nodes}
    wanted = [_kernel_tensor(node) for node in nodes]
    wanted += [b.tensor for b in biases.values() if b is not None]
    values = evaluation.evaluate(graph, wanted)
    names = naming.LayerNames(graph)
    return tuple(
        _layer(graph, node, biases[node.name], values, names(node.output))
        for node in nodes
    )


def untreated(graph: ir.Graph) -> tuple[tuple[str, str], ...]:
    """(layer, operation) of linear layers with weights that `find` omits."""
    names = naming.LayerNames(graph)
    return tuple(
        (names(node.output), node.op)
        for node in graph
        if node.op in UNTREATED_OPS | set(_OPERANDS)
        and not graph.is_constant(node.output)
        and not _is_linear(graph, node)
        and any(_is_weight(graph, t) for t in node.inputs)
    )


def channels_first(node: ir.Node) -> bool:
    """Whether a node's data has its channels before its positions."""
    return node.attr("data_format", "NHWC").startswith("NC")


@dataclasses.dataclass(frozen=True)
class _Bias:
    """A constant that is added to an operation's output."""

    node: str
    tensor: str
    before: str


def _is_linear(graph: ir.Graph, node: ir.Node) -> bool:
    if node.op not in _OPERANDS or graph.is_constant(node.output):
        return False
    if node.op == "MatMul" and node.attr("transpose_a", False):
        return False
    return (
        _is_weight(graph, _kernel_tensor(node))
        and not graph.is_constant(node.inputs[_OPERANDS[node.op][0]])
        and graph.shape(node.output) is not None
    )


def _is_weight(graph: ir.Graph, tensor: str) -> bool:
    return graph.is_constant(tensor) and graph.dtype(tensor) == tf.float32


def _kernel_tensor(node: ir.Node) -> str:
    return node.inputs[_OPERANDS[node.op][1]]


def _layer(
    graph: ir.Graph,
    node: ir.Node,
    bias: _Bias | None,
    values: Mapping[str, np.ndarray],
    name: str,
) -> LinearLayer:
    data, _ = _OPERANDS[node.op]
    kernel = np.asarray(values[_kernel_tensor(node)], np.float32)
    transposed = node.op == "MatMul" and node.attr("transpose_b", False)
    before = bias.before if bias else _behind_blocks(graph, node)
    output = f"{bias.node}:0" if bias else before
    layer = LinearLayer(
        name=name,
        node=node.name,
        op=node.op,
        input=node.inputs[data],
        kernel_tensor=_kernel_tensor(node),
        kernel=kernel,
        transposed=transposed,
        groups=grouped_convolutions.groups(graph, node),
        bias=None,
        bias_tensor=None,
        output=output,
        linear_output=before,
        channel_axis=(
            1 if channels_first(node) else len(graph.shape(before)) - 1
        ),
    )
    if bias is None:
        return layer
    value = np.asarray(values[bias.tensor], np.float32).reshape(-1)
    value = np.broadcast_to(value, (layer.out_channels,)).copy()
    return dataclasses.replace(layer, bias=value, bias_tensor=bias.tensor)


def _bias_of(graph: ir.Graph, node: ir.Node) -> _Bias | None:
    """What is added to an operation's output before anybody else reads it."""
    tensor = node.output
    outputs = {port.tensor for port in graph.outputs}
    first = channels_first(node)
    channels = graph.shape(tensor)[1 if first else -1]
    while tensor not in outputs and len(graph.consumers(tensor)) == 1:
        (reader,) = graph.consumers(tensor)
        shape = graph.shape(reader.output)
        if reader.op in ops.BEHIND_LAYERS and reader.inputs[0] == tensor:
            if first or not shape or shape[-1] != channels:
                return None
            tensor = reader.output
            continue
        axis = 1 if first else len(graph.shape(tensor)) - 1
        added = _added_vector(graph, reader, tensor, axis)
        return _Bias(reader.name, added, tensor) if added else None
    return None


def _behind_blocks(graph: ir.Graph, node: ir.Node) -> str:
    """Where a bias may be added to an operation that has none.

    A dilated convolution is SpaceToBatchND, convolution, BatchToSpaceND. The
    converter knows these three by their order, with nothing in between.
    """
    tensor, found = node.output, node.output
    outputs = {port.tensor for port in graph.outputs}
    while tensor not in outputs and len(graph.consumers(tensor)) == 1:
        (reader,) = graph.consumers(tensor)
        if reader.op not in ops.BEHIND_LAYERS or reader.inputs[0] != tensor:
            break
        tensor = reader.output
        if reader.op == "BatchToSpaceND":
            found = tensor
    return found


def _added_vector(
    graph: ir.Graph, reader: ir.Node, tensor: str, axis: int
) -> str | None:
    """The constant, one number a channel, that a node adds to a tensor."""
    if reader.op not in ops.BIAS_ADDITIONS:
        return None
    others = [t for t in reader.inputs if t != tensor]
    if len(others) != 1 or not _is_weight(graph, others[0]):
        return None
    shape, whole = graph.shape(others[0]), graph.shape(tensor)
    if shape is None or graph.shape(reader.output) != whole:
        return None
    if reader.op == "BiasAdd":
        return others[0]
    # (C,), (1, 1, C) and the like, or one number for all.
    padded = (1,) * (len(whole) - len(shape)) + shape
    along = [i for i, n in enumerate(padded) if n != 1]
    return others[0] if set(along) <= {axis} else None


def activation_bounds(
    graph: ir.Graph, layer: LinearLayer
) -> tuple[np.ndarray, np.ndarray]:
    """Bounds (low, high) of the activation that a layer alone feeds.

    Args:
      graph: the layer's graph.
      layer: one of its layers.

    Returns:
      float64 (O,) each: (0, inf) for Relu, (0, 6) for Relu6, the bound by
      channel for a Minimum behind a Relu, (-inf, inf) for anything else.
    """
    low = np.full(layer.out_channels, -np.inf)
    high = np.full(layer.out_channels, np.inf)
    outputs = {port.tensor for port in graph.outputs}
    tensor = layer.output
    while tensor not in outputs and len(graph.consumers(tensor)) == 1:
        (reader,) = graph.consumers(tensor)
        if reader.op in ("Relu", "Relu6"):
            low = np.maximum(low, 0.0)
            if reader.op == "Relu6":
                high = np.minimum(high, 6.0)
        elif reader.op == "Minimum":
            others = [t for t in reader.inputs if t != tensor]
            bound = graph.literal(others[0]) if others else None
            if bound is None or bound.size not in (1, layer.out_channels):
                break
            high = np.minimum(high, bound.astype(np.float64).reshape(-1))
        else:
            break
        tensor = reader.output
    return low, high
