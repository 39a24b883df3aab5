"""Convolutions and pools over volumes as ones over images.

TFLite has no integer convolution of three dimensions, and no pool at all. A
volume is a stack of images:

* A pool over depth, height and width is one over height and width, and then one
  over depth. The maximum of maxima is the maximum; so is the mean of means, as
  the numbers of values that count (without padding) multiply.
* A convolution sums over the slices that its kernel covers in depth: their
  channels side by side are the channels of an ordinary convolution.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from dsg_tf.graph import evaluation, ir

_POOLS = {"AvgPool3D": "AvgPool", "MaxPool3D": "MaxPool"}


def as_images(graph: ir.Graph) -> ir.Graph:
    """The graph with operations on volumes written as ones on images.

    Args:
      graph: a frozen graph.

    Returns:
      The graph, which computes the same. Operations whose shape is not known,
      with channels first, or with a kernel that depends on the input stay.
    """
    nodes: dict[str, ir.Node] = {}
    taken = set(graph.nodes)
    for node in graph:
        if node.op not in (*_POOLS, "Conv3D") or not _is_plain(graph, node):
            continue
        builder = _Builder(node, taken)
        if node.op == "Conv3D":
            _convolution(builder, graph, node)
        else:
            _pool(builder, graph, node)
        for made in builder.nodes:
            nodes[made.name] = made
            taken.add(made.name)
    return graph.replace_nodes(nodes) if nodes else graph


def _is_plain(graph: ir.Graph, node: ir.Node) -> bool:
    shapes = graph.shape(node.inputs[0]), graph.shape(node.output)
    return (
        node.attr("data_format", "NDHWC") == "NDHWC"
        and all(s is not None and None not in s[1:] for s in shapes)
        and node.attr("padding") in ("SAME", "VALID")
        and graph.dtype(node.output) == tf.float32
        and (node.op != "Conv3D" or graph.is_constant(node.inputs[1]))
    )


class _Builder:
    """Makes the operations that replace one, the last under its name."""

    def __init__(self, node: ir.Node, taken: set[str]):
        self._node, self._taken = node, set(taken)
        self.nodes: list[ir.Node] = []

    def constant(self, what: str, value) -> str:
        """Adds a constant; returns its tensor."""
        return self._add(ir.Node.constant(self._name(what), value))

    def add(
        self,
        op: str,
        inputs: Sequence[str],
        *,
        last: bool = False,
        lists: dict[str, Sequence[int]] | None = None,
        **attributes,
    ) -> str:
        """Adds an operation; returns its output."""
        name = self._node.name if last else self._name(op.lower())
        made = ir.Node.of(name, op, inputs, T=tf.float32, **attributes)
        for key, values in (lists or {}).items():
            made.definition.attr[key].list.i.extend(values)
        return self._add(made)

    def reshape(
        self, tensor: str, shape: Sequence[int], *, last: bool = False
    ) -> str:
        """Adds a Reshape to (-1, *shape)."""
        target = self.constant("shape", np.array([-1, *shape], np.int32))
        return self.add("Reshape", [tensor, target], last=last, Tshape=tf.int32)

    def _add(self, made: ir.Node) -> str:
        self.nodes.append(made)
        self._taken.add(made.name)
        return made.output

    def _name(self, what: str) -> str:
        return ir.free_name(f"{self._node.name}/{what}", self._taken)


def _pool(builder: _Builder, graph: ir.Graph, node: ir.Node) -> None:
    _, depth, height, width, channels = graph.shape(node.inputs[0])
    _, new_depth, new_height, new_width, _ = graph.shape(node.output)
    size, stride = node.attr("ksize"), node.attr("strides")
    pool = _POOLS[node.op]

    def pooled(tensor: str, sizes, strides) -> str:
        return builder.add(
            pool,
            [tensor],
            lists={"ksize": [1, *sizes, 1], "strides": [1, *strides, 1]},
            padding=node.attr("padding"),
            data_format="NHWC",
        )

    images = builder.reshape(node.inputs[0], [height, width, channels])
    images = pooled(images, size[2:4], stride[2:4])
    columns = builder.reshape(images, [depth, new_height * new_width, channels])
    columns = pooled(columns, [size[1], 1], [stride[1], 1])
    builder.reshape(
        columns, [new_depth, new_height, new_width, channels], last=True
    )


def _convolution(builder: _Builder, graph: ir.Graph, node: ir.Node) -> None:
    _, _, height, width, channels = graph.shape(node.inputs[0])
    _, new_depth, new_height, new_width, filters = graph.shape(node.output)
    kernel = evaluation.evaluate(graph, [node.inputs[1]])[node.inputs[1]]
    stride = node.attr("strides")
    dilation = node.attr("dilations") or [1] * 5
    padded = _padded(builder, graph, node, kernel.shape[0])
    slices = list(
        _slices(
            builder,
            padded,
            range(0, kernel.shape[0] * dilation[1], dilation[1]),
            count=new_depth,
            stride=stride[1],
        )
    )
    joined = slices[0]
    if len(slices) > 1:
        axis = builder.constant("axis", np.int32(4))
        joined = builder.add(
            "ConcatV2", [*slices, axis], N=len(slices), Tidx=tf.int32
        )
    images = builder.reshape(joined, [height, width, len(slices) * channels])
    flat = np.moveaxis(kernel, 0, 2)
    flat = flat.reshape(*flat.shape[:2], -1, filters)
    images = builder.add(
        "Conv2D",
        [images, builder.constant("kernel", flat.astype(np.float32))],
        lists={
            "strides": [1, *stride[2:4], 1],
            "dilations": [1, *dilation[2:4], 1],
        },
        padding=node.attr("padding"),
        data_format="NHWC",
    )
    builder.reshape(
        images, [new_depth, new_height, new_width, filters], last=True
    )


def _padded(
    builder: _Builder, graph: ir.Graph, node: ir.Node, size: int
) -> str:
    """The input with the zeros that SAME padding puts around its depth."""
    depth = graph.shape(node.inputs[0])[1]
    count = graph.shape(node.output)[1]
    stride = node.attr("strides")[1]
    dilation = (node.attr("dilations") or [1] * 5)[1]
    reach = (size - 1) * dilation + 1
    missing = max((count - 1) * stride + reach - depth, 0)
    if node.attr("padding") == "VALID" or not missing:
        return node.inputs[0]
    before = missing // 2
    around = np.zeros((5, 2), np.int32)
    around[1] = before, missing - before
    return builder.add(
        "Pad",
        [node.inputs[0], builder.constant("paddings", around)],
        Tpaddings=tf.int32,
    )


def _slices(
    builder: _Builder,
    tensor: str,
    starts: Sequence[int],
    *,
    count: int,
    stride: int,
) -> Iterator[str]:
    """For each start the images that a kernel meets at one of its depths."""
    for start in starts:
        begin = builder.constant("begin", np.array([0, start], np.int32))
        end = builder.constant(
            "end", np.array([0, start + (count - 1) * stride + 1], np.int32)
        )
        steps = builder.constant("steps", np.array([1, stride], np.int32))
        yield builder.add(
            "StridedSlice",
            [tensor, begin, end, steps],
            Index=tf.int32,
            begin_mask=1,
            end_mask=1,
            ellipsis_mask=0,
            new_axis_mask=0,
            shrink_axis_mask=0,
        )
