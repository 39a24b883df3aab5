"""Simulated quantization for widths that .tflite does not support.

The weights are already on their grids. Here every activation gets a grid from
samples (or BatchNorm), and the graph rounds where an integer .tflite would.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from dsg_tf.analysis import quantization_points as points_lib
from dsg_tf.export import bn_ranges, calibration
from dsg_tf.graph import ir
from dsg_tf.quant import qtypes, uniform
from dsg_tf.tflite import op_support
from dsg_tf.transforms import insert_fake_quant, pass_report

REASON = (
    ".tflite has activations of 8 and 16 bits only: this is a SavedModel that"
    " simulates them with fake quantization"
)


def activation_spec(bits: int) -> qtypes.QuantSpec:
    """The grid of simulated activations: as in a .tflite where it has one."""
    if bits in (8, 16):
        return op_support.activation_spec(bits)
    return qtypes.QuantSpec(bits, symmetric=False)


def ranges_of(
    graph: ir.Graph,
    samples: Mapping[str, np.ndarray],
    *,
    bits: int,
    range_method: str = "minmax",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, qtypes.TensorRange]:
    """Range of every activation that has a grid of its own.

    Args:
      graph: a frozen graph, weights on their grids.
      samples: (N, ...) by input name, model input units.
      bits: of the activations.
      range_method: as `calibration.calibrate_graph`, or `bn`.
      progress: called with (samples done, samples).

    Returns:
      Range by tensor.
    """
    own = [
        place.tensor
        for place in points_lib.find(graph).places.values()
        if place.kind is points_lib.Kind.OWN
    ]
    ranges = calibration.calibrate_graph(
        graph,
        own,
        samples,
        range_method="minmax" if range_method == "bn" else range_method,
        spec=activation_spec(bits),
        progress=progress,
    )
    if range_method == "bn":
        known = bn_ranges.of_graph(graph)
        ranges |= {t: known[t] for t in own if t in known}
    return ranges


def simulate(
    graph: ir.Graph, ranges: Mapping[str, qtypes.TensorRange], *, bits: int
) -> tuple[ir.Graph, pass_report.PassReport]:
    """The graph with every activation on a grid of some bits.

    Args:
      graph: a frozen graph, weights on their grids.
      ranges: by `ranges_of`.
      bits: of the activations, 2 to 16.
    """
    spec = activation_spec(bits)
    grids = {
        tensor: uniform.affine_params(
            bounds.with_zero(), spec.bits, spec.symmetric
        )
        for tensor, bounds in ranges.items()
    }
    return insert_fake_quant.insert(graph, grids)
