"""The result of an export, and the interface of the writers."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Protocol

from dsg_tf.analysis import source_model
from dsg_tf.core import staging
from dsg_tf.graph import ir
from dsg_tf.quant import qtypes
from dsg_tf.samples import sample_sets
from dsg_tf.transforms import passes


@dataclasses.dataclass(frozen=True, eq=False)
class ExportResult:
    """A written model, checked against the plan.

    Attributes:
      model: the .tflite's bytes, or the graph of a simulation.
      reference: the float .tflite of the same structure; None for a
        simulation.
      size_bytes: size of the file or graph.
      readback: what was compared after reading the file back; None if the
        exporter chooses its own scales, and for a simulation.
      float_ops: (operation, tensor) of those that compute in float, although
        activations are integers.
      float_reasons: why one of these stays float, by tensor, where it is at
        an end of the model.
      ranges: of activations: (from samples, from BN or None) by tensor.
      unmatched: layers whose weights the converter changed, so that they were
        rounded anew.
    """

    model: bytes | ir.Graph
    size_bytes: int
    reference: bytes | None = None
    readback: Mapping | None = None
    float_ops: tuple[tuple[str, str], ...] = ()
    ranges: Mapping[
        str, tuple[qtypes.TensorRange, qtypes.TensorRange | None]
    ] = dataclasses.field(default_factory=dict)
    unmatched: tuple[str, ...] = ()
    float_reasons: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Writer(Protocol):
    """Writes one kind of model."""

    def destination(
        self, output: pathlib.Path, inputs: Mapping[str, object]
    ) -> pathlib.Path:
        """Where it goes; refuses a place where it cannot be written.

        Args:
          output: the place that was asked for.
          inputs: what the run reads; see `overlaps.refuse`.
        """

    def check_model(self, source: source_model.SourceModel) -> frozenset[str]:
        """Refuses, before the long work, what cannot be written.

        Returns:
          Outputs of the layers whose weights stay float.
        """

    @property
    def float_tflite(self) -> bytes | None:
        """The float file that `check_model` made; None where there is none."""

    def write(
        self,
        prepared: passes.PreparedGraph,
        calibrating: sample_sets.SampleSet,
        output: pathlib.Path,
        staged: staging.Staging,
    ) -> ExportResult:
        """Takes ranges of activations from samples and writes.

        The output gets its name when all that is staged does.
        """
