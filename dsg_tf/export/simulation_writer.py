"""Writes a simulated quantized model as a SavedModel."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

from absl import logging

from dsg_tf.analysis import source_model
from dsg_tf.config import export_config
from dsg_tf.core import errors, files, overlaps, progress, staging
from dsg_tf.export import bn_ranges, export_result, simulation
from dsg_tf.graph import writing
from dsg_tf.samples import sample_sets
from dsg_tf.transforms import passes


class SimulationWriter:
    """Writes a SavedModel that simulates quantized activations.

    Args:
      config: what to write.
    """

    def __init__(self, config: export_config.ExportConfig):
        self._config = config

    def destination(
        self, output: pathlib.Path, inputs: Mapping[str, object]
    ) -> pathlib.Path:
        """Refuses a place where no SavedModel can be written."""
        files.check_name(output)
        overlaps.refuse([output], inputs)
        if output.suffix == ".tflite":
            raise errors.UserError(
                "--output",
                got=f"{output} with {self._config.activation_bits}-bit"
                " activations",
                expected="a folder's name: .tflite has 8, 16 and float"
                " activations only, others are simulated in a SavedModel",
                remedy=f"for instance --output={output.stem}_simulated",
            )
        writing.check(output)
        files.check_parent(output)
        files.check_run_folder(output, inputs)
        return output

    def check_model(self, source: source_model.SourceModel) -> frozenset[str]:
        """Refuses nothing: TensorFlow evaluates any operation."""
        del source
        return frozenset()

    @property
    def float_tflite(self) -> None:
        """A simulation has none."""
        return None

    def write(
        self,
        prepared: passes.PreparedGraph,
        calibrating: sample_sets.SampleSet,
        output: pathlib.Path,
        staged: staging.Staging,
    ) -> export_result.ExportResult:
        """Takes ranges, inserts fake quantization and writes."""
        config, graph = self._config, prepared.graph
        with progress.task(
            "calibration", len(calibrating), unit="samples"
        ) as stage:
            ranges = simulation.ranges_of(
                graph,
                calibrating.arrays,
                bits=config.activation_bits,
                range_method=config.range_method,
                progress=stage.reach,
            )
        simulated, report = simulation.simulate(
            graph, ranges, bits=config.activation_bits
        )
        logging.info("%s", report.summary())
        size_bytes = writing.stage(simulated, output, staged, tell=True)
        known = bn_ranges.of_graph(graph)
        return export_result.ExportResult(
            simulated,
            size_bytes,
            ranges={t: (r, known.get(t)) for t, r in ranges.items()},
        )
