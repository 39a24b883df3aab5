"""A strided convolution with a faster gradient for its input.

TensorFlow's input gradient of a network's first convolution (3 channels, stride
2) takes as long as those of the ten layers after it. Here it is computed as a
convolution of stride 1 with one set of output channels for each phase of the
stride, followed by a depth-to-space rearrangement.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from dsg_tf.graph import grouped_convolutions, ir, tapped

# Images, not feature maps: with more channels TensorFlow's gradient is as fast.
_MOST_CHANNELS = 4


def taps(graph: ir.Graph) -> list[tapped.Tap]:
    """Taps that compute the strided convolutions of a graph's images.

    Args:
      graph: the graph, batch size known.
    """
    found = []
    for node in graph:
        if node.op != "Conv2D" or grouped_convolutions.groups(graph, node) > 1:
            continue
        kernel, shape = (
            graph.literal(node.inputs[1]),
            graph.shape(node.inputs[0]),
        )
        strides = node.attr("strides")
        if (
            kernel is None
            or kernel.dtype != np.float32
            or kernel.shape[2] > _MOST_CHANNELS
            or node.attr("data_format", "NHWC") != "NHWC"
            or node.attr("padding") not in ("SAME", "VALID")
            or set(node.attr("dilations") or [1]) != {1}
            or strides[1] != strides[2]
            or strides[1] == 1
            or not shape
            or None in shape
            # Others may read the image: each replaces a tensor of its own.
            or len(graph.consumers(node.inputs[0])) > 1
        ):
            continue
        found.append(_tap(node, kernel))
    return found


def _tap(node: ir.Node, kernel: np.ndarray) -> tapped.Tap:
    def function(image: tf.Tensor) -> tf.Tensor:
        return convolution(
            image,
            kernel,
            stride=node.attr("strides")[1],
            padding=node.attr("padding"),
        )

    return tapped.Tap.of_each(node.inputs[0], node.output, function)


def convolution(
    image: tf.Tensor, kernel: np.ndarray, *, stride: int, padding: str
) -> tf.Tensor:
    """A convolution, float32, with a gradient by the image.

    Args:
      image: (B, H, W, C).
      kernel: (kh, kw, C, O).
      stride: of both axes, >= 2.
      padding: SAME or VALID.

    Returns:
      (B, H', W', O).

    Examples:
      >>> kernel = np.ones((3, 3, 1, 1), np.float32)
      >>> image = tf.ones((1, 4, 4, 1))
      >>> convolution(
      ...     image, kernel, stride=2, padding="SAME"
      ... ).numpy().ravel().tolist()
      [9.0, 6.0, 6.0, 4.0]
    """
    size = image.shape[1:3]

    @tf.custom_gradient
    def compute(values):
        result = tf.nn.conv2d(values, kernel, stride, padding)

        def gradient(upstream):
            return _gradient(upstream, kernel, stride, padding, size)

        return result, gradient

    return compute(image)


def _gradient(upstream, kernel, stride, padding, size):
    """The sum over outputs of upstream times kernel, by input position.

    Input position i, counted from the border, meets output o at the tap
    i - stride * o. With i = stride * q + r these are the taps r, r + stride,
    ..., for the outputs q, q - 1, ...: for each phase r a convolution of stride
    1 over the outputs.
    """
    taps_of = [-(-k // stride) for k in kernel.shape[:2]]
    phases = _phases(kernel, stride, taps_of)
    before, counts = [], []
    for axis in range(2):
        total = 0
        if padding == "SAME":
            outputs = -(-size[axis] // stride)
            total = max(
                (outputs - 1) * stride + kernel.shape[axis] - size[axis], 0
            )
        before.append(total // 2)
        counts.append(-(-(size[axis] + total // 2) // stride))
    borders = [[0, 0]]
    for axis in range(2):
        after = counts[axis] - upstream.shape[1 + axis]
        borders.append([taps_of[axis] - 1, max(after, 0)])
    padded = tf.pad(upstream, [*borders, [0, 0]])
    by_phase = tf.nn.conv2d(padded, phases, 1, "VALID")
    by_phase = by_phase[:, : counts[0], : counts[1]]
    whole = tf.nn.depth_to_space(by_phase, stride)
    return whole[
        :, before[0] : before[0] + size[0], before[1] : before[1] + size[1]
    ]


def _phases(kernel, stride, taps_of) -> np.ndarray:
    """The kernel by phase, float32 (th, tw, O, stride * stride * C)."""
    height, width, channels, outputs = kernel.shape
    rows, columns = (t * stride for t in taps_of)
    padded = np.zeros((rows, columns, channels, outputs), np.float32)
    padded[:height, :width] = kernel
    split = padded.reshape(
        taps_of[0], stride, taps_of[1], stride, channels, outputs
    )
    # A convolution looks ahead where the sum goes back.
    split = split[::-1, :, ::-1]
    moved = split.transpose(0, 2, 5, 1, 3, 4)
    return np.ascontiguousarray(moved).reshape(
        taps_of[0], taps_of[1], outputs, stride * stride * channels
    )
