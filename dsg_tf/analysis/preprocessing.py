"""What a graph does with an input before its first layer.

Rescaling, normalization, mean subtraction, a swap of channels: whatever the
operations, together they are `x[channel] * scale + offset` or they are of no
use here, so they are measured and not matched.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from dsg_tf.analysis import domain_fit
from dsg_tf.graph import evaluation, ir, ops

# Operations that change the shape of an input and not what its values mean.
_SHAPE_OPS = ops.RESHAPES | ops.PADS | {"Cast", "SpaceToBatchND"}


@dataclasses.dataclass(frozen=True, eq=False)
class Affine:
    """A tensor whose channel k is `x[channel[k]] * scale[k] + offset[k]`.

    Attributes:
      tensor: the tensor that the input has become.
      scale, offset: float64 (K,).
      channel: int (K,), the input's channel.
      num_channels: C, of the input.
    """

    tensor: str
    scale: np.ndarray
    offset: np.ndarray
    channel: np.ndarray
    num_channels: int

    @property
    def identity(self) -> bool:
        """Whether values mean the same; channels may stand elsewhere."""
        return bool(
            np.allclose(self.scale, 1.0, rtol=1e-6, atol=0)
            and np.allclose(self.offset, 0.0, atol=1e-6)
        )

    def to_input(self, values: np.ndarray) -> np.ndarray:
        """Sorts values per channel of the tensor by the input's channels.

        Returns:
          (C,); or (1,), the average, where some channel has no value.
        """
        count = np.bincount(self.channel, minlength=self.num_channels)
        if len(values) != len(self.channel) or (count == 0).any():
            return np.mean(values, keepdims=True)
        return np.bincount(self.channel, weights=values) / count


def first_layers(
    graph: ir.Graph, port: ir.Port
) -> Iterator[tuple[ir.Node, Affine]]:
    """Layers that see the input through per-channel affine operations alone.

    Yields:
      The layer's node and the `Affine` between the input and the layer.
    """
    for node in graph.descendants(port.tensor):
        if node.op not in domain_fit.LAYER_OPS:
            continue
        tensor = node.inputs[0]
        if any(n.op in domain_fit.LAYER_OPS for n in graph.ancestors(tensor)):
            continue
        while (step := graph.producer(tensor)).op in _SHAPE_OPS:
            tensor = step.inputs[0]
        affine = _measure_affine(graph, port, tensor)
        if affine is not None:
            yield node, affine


def is_input(graph: ir.Graph, port: ir.Port, tensor: str) -> bool:
    """Whether a tensor holds an input's values, channel by channel.

    A Masking layer between them changes no value but those it masks.
    """
    if tensor == port.tensor:
        return True
    if any(n.op in domain_fit.LAYER_OPS for n in graph.ancestors(tensor)):
        return False
    affine = _measure_affine(graph, port, tensor)
    return (
        affine is not None
        and affine.identity
        and np.array_equal(affine.channel, np.arange(affine.num_channels))
    )


def _measure_affine(
    graph: ir.Graph, port: ir.Port, tensor: str
) -> Affine | None:
    """How `tensor` follows from the input; None where that is not affine."""
    ahead = {n.name for n in graph.ancestors(tensor)}
    if {n.name for n in graph if n.op == "Placeholder"} & ahead != {
        ir.node_name(port.tensor)
    }:
        return None
    channels = num_channels(port)
    shape = [1 if d is None else d for d in port.shape]

    def respond(levels) -> np.ndarray:
        """The tensor's channels in the middle of an input of constants."""
        values = np.broadcast_to(levels, shape).astype(
            port.dtype.as_numpy_dtype
        )
        value = evaluation.evaluate(graph, [tensor], {port.tensor: values})[
            tensor
        ]
        middle = tuple(slice(s // 2, s // 2 + 1) for s in value.shape[1:-1])
        return value[(slice(0, 1), *middle)].ravel().astype(np.float64)

    zero, one, two = (respond(level) for level in (0, 1, 2))
    scale = one - zero
    linear = np.allclose(two - one, scale, rtol=1e-3, atol=1e-6)
    if not linear or not np.isfinite(scale).all() or (scale == 0).any():
        return None
    # Whoever reads a single channel answers a ramp with that channel's level,
    # and its square with the square; a mixture of channels cannot do both.
    ramp = np.arange(1, channels + 1)
    channel = np.rint((respond(ramp) - zero) / scale).astype(int) - 1
    if (channel < 0).any() or (channel >= channels).any():
        return None
    expected = scale * ramp[channel] ** 2 + zero
    if not np.allclose(respond(ramp**2), expected, rtol=1e-3):
        return None
    return Affine(tensor, scale, zero, channel, channels)


def num_channels(port: ir.Port) -> int:
    """The size of an input's last axis; 1 where it has none but the batch."""
    channels = port.shape[-1] if port.shape and len(port.shape) > 1 else 1
    return channels or 1
