"""Inputs and outputs of a layer at single positions, as rows of products.

A convolution at one output position is a product of its kernel with a patch
of its input. Rows of patches from random positions of many samples stand for
the whole layer, whatever its stride, padding or grouping: one arithmetic
serves convolutions, depthwise convolutions and matrix products alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np

from dsg_tf.analysis import linear_layers
from dsg_tf.graph import ir, ops

_OPS = ops.CONVOLUTIONS | {"MatMul"}


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """Inputs and wanted outputs of a layer at R positions.

    Output channels stand in G groups that see different inputs: one for
    ordinary convolutions and matrix products, one for each input channel of a
    depthwise convolution.

    Attributes:
      inputs: float32 (G, R, K).
      outputs: float32 (G, R, O / G), bias included.
    """

    inputs: np.ndarray
    outputs: np.ndarray


def reason_against(layer: linear_layers.LinearLayer) -> str:
    """Why a layer has no rows; empty where it has."""
    if layer.op not in _OPS:
        return f"{layer.op} is no product of rows"
    if layer.op != "MatMul" and layer.channel_axis == 1:
        return "channels stand first"
    return ""


def grouped(layer: linear_layers.LinearLayer, kernel: np.ndarray) -> np.ndarray:
    """A kernel in the form that multiplies rows: (G, K, O / G)."""
    rows = layer.rows(kernel)
    by_group = rows.reshape(_groups(layer), -1, rows.shape[1])
    return np.ascontiguousarray(by_group.transpose(0, 2, 1))


def ungrouped(
    layer: linear_layers.LinearLayer, kernel: np.ndarray
) -> np.ndarray:
    """The inverse of `grouped`."""
    rows = kernel.transpose(0, 2, 1)
    return layer.from_rows(rows.reshape(-1, rows.shape[2]))


def by_group(
    layer: linear_layers.LinearLayer, values: np.ndarray
) -> np.ndarray:
    """Values by output channel, (O,), as (G, 1, O / G)."""
    return values.reshape(_groups(layer), 1, -1)


def collect(
    graph: ir.Graph,
    layer: linear_layers.LinearLayer,
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    *,
    share: float,
    rng: np.random.Generator,
) -> Rows:
    """Rows of a layer from random positions.

    Args:
      graph: the layer's graph, for its strides and padding.
      layer: one that `reason_against` says nothing against.
      batches: (values of `layer.input`, wanted outputs of the operation,
        bias added), a batch of samples at a time. Not of `layer.output`: what
        stands before the bias may move positions (BatchToSpaceND).
      share: of all positions, 0..1; the same of each batch.
      rng: chooses the positions.

    Returns:
      The rows.
    """
    inputs, outputs = [], []
    for x, y in batches:
        flat = y.reshape(-1, y.shape[-1])
        count = min(len(flat), max(1, round(share * len(flat))))
        chosen = np.sort(rng.choice(len(flat), count, replace=False))
        inputs.append(_patches(graph[layer.node], layer, x, chosen))
        outputs.append(flat[chosen])
    wanted = np.concatenate(outputs)
    groups = _groups(layer)
    return Rows(
        np.concatenate(inputs, axis=1),
        np.ascontiguousarray(
            wanted.reshape(len(wanted), groups, -1).transpose(1, 0, 2)
        ),
    )


def size(layer: linear_layers.LinearLayer) -> int:
    """Numbers in the inputs of one row: G * K."""
    kernel = layer.rows()
    return _groups(layer) * kernel.shape[1]


def _groups(layer: linear_layers.LinearLayer) -> int:
    if layer.op == "DepthwiseConv2dNative":
        return layer.in_channels
    return layer.groups


def _patches(
    node: ir.Node,
    layer: linear_layers.LinearLayer,
    x: np.ndarray,
    chosen: np.ndarray,
) -> np.ndarray:
    """What the kernel meets at some output positions, (G, R, K)."""
    if layer.op == "MatMul":
        return x.reshape(-1, x.shape[-1])[np.newaxis, chosen]
    strides = node.attr("strides")[1:3]
    dilations = (node.attr("dilations") or [1, 1, 1, 1])[1:3]
    windows = [
        _window(
            node,
            x.shape[1 + i],
            layer.kernel_size[i],
            i,
            strides[i],
            dilations[i],
        )
        for i in range(2)
    ]
    (before_h, after_h, height), (before_w, after_w, width) = windows
    padded = np.pad(
        x, ((0, 0), (before_h, after_h), (before_w, after_w), (0, 0))
    )
    sample, position = np.divmod(chosen, height * width)
    top, left = np.divmod(position, width)
    h = (
        top[:, None] * strides[0]
        + np.arange(layer.kernel_size[0]) * dilations[0]
    )
    w = (
        left[:, None] * strides[1]
        + np.arange(layer.kernel_size[1]) * dilations[1]
    )
    found = padded[sample[:, None, None], h[:, :, None], w[:, None, :]]
    taps = layer.kernel_size[0] * layer.kernel_size[1]
    by_group = found.reshape(len(chosen), taps, _groups(layer), -1)
    moved = by_group.transpose(2, 0, 1, 3)
    return np.ascontiguousarray(moved).reshape(*moved.shape[:2], -1)


def _window(node, length, taps, axis, stride, dilation) -> tuple[int, int, int]:
    """Padding before, padding after, and number of positions of an axis."""
    extent = (taps - 1) * dilation + 1
    padding = node.attr("padding")
    if padding == "EXPLICIT":
        before, after = node.attr("explicit_paddings")[2 + 2 * axis :][:2]
    elif padding == "SAME":
        positions = -(-length // stride)
        total = max((positions - 1) * stride + extent - length, 0)
        before, after = total // 2, total - total // 2
    else:
        before = after = 0
    return before, after, (length + before + after - extent) // stride + 1
