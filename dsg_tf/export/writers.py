"""Writers of the result: an integer .tflite or a simulated SavedModel.

A writer checks before the long work that it can write the model, writes it at
the end, and compares the result with the float model. There is one for integer
.tflite files and one for simulations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from dsg_tf.analysis import source_model
from dsg_tf.config import export_config
from dsg_tf.export import (
    export_result,
    simulation_writer,
    tflite_writer,
)
from dsg_tf.fidelity import fidelity, latency, layer_histograms
from dsg_tf.graph import ir
from dsg_tf.samples import sample_sets
from dsg_tf.transforms import passes


@dataclasses.dataclass(frozen=True)
class FileMeasurements:
    """Measurements of the files for the report.

    Attributes:
      latency_ms: of `float` and `integer`, by number of threads.
      histograms: of the worst layers.
    """

    latency_ms: Mapping[str, Mapping[str, float]]
    histograms: tuple[layer_histograms.LayerHistograms, ...]


def of(config: export_config.ExportConfig) -> export_result.Writer:
    """The writer for a config."""
    if config.simulated:
        return simulation_writer.SimulationWriter(config)
    return tflite_writer.TFLiteWriter(config)


def verify(
    source: source_model.SourceModel,
    prepared: passes.PreparedGraph,
    written: export_result.ExportResult,
    held_out: sample_sets.SampleSet,
) -> tuple[dict, list[dict]]:
    """Fidelity of the result by output, and by layer, worst first."""
    model = written.model
    if isinstance(model, ir.Graph):
        layers = fidelity.compare_graph_layers(
            prepared.reference, model, tuple(written.ranges), held_out
        )
    else:
        layers = fidelity.compare_layers(
            source.graph, written.reference, model, held_out
        )
    return fidelity.compare_outputs(source.graph, model, held_out), layers


def measure(
    written: export_result.ExportResult,
    layers: Sequence[Mapping[str, Any]],
    held_out: sample_sets.SampleSet,
) -> FileMeasurements:
    """What the report shows beside the fidelity; empty for a simulation."""
    model = written.model
    if isinstance(model, ir.Graph) or written.reference is None:
        return FileMeasurements({}, ())
    sample = {name: a[0] for name, a in held_out.arrays.items()}
    return FileMeasurements(
        {
            "float": latency.measure(written.reference, sample),
            "integer": latency.measure(model, sample),
        },
        layer_histograms.of_worst(written.reference, model, layers, held_out),
    )
