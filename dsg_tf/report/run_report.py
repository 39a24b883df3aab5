"""The report of a run as typed fields, and as report.json."""

from __future__ import annotations

import dataclasses
import math
import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import dsg_tf
from dsg_tf.analysis import source_model
from dsg_tf.command_line import quantize_flags
from dsg_tf.config import run_config
from dsg_tf.core import strict_json, versions
from dsg_tf.diversity import diversity
from dsg_tf.export import bn_ranges, export_result, simulation, writers
from dsg_tf.fidelity import layer_histograms, verify
from dsg_tf.fidelity import verdict as verdict_lib
from dsg_tf.quant import qtypes
from dsg_tf.transforms import pass_report, passes

# Treatment of a layer that no pass supports.
INSTEAD = "weights rounded to nearest by the exporter, on their own scales"


@dataclasses.dataclass(frozen=True)
class SampleCounts:
    """How many samples calibrated, and on how many others it was verified."""

    calibration: int
    verified: int


@dataclasses.dataclass(frozen=True)
class SizeBytes:
    """Sizes of the files; `float` is None where none was written."""

    float: int | None
    integer: int


@dataclasses.dataclass(frozen=True)
class UntreatedLayer:
    """A layer that no pass supports, and what was done instead."""

    layer: str
    operation: str
    instead: str = INSTEAD


@dataclasses.dataclass(frozen=True)
class FloatOperation:
    """An operation that computes in float; `reason` where one is known."""

    operation: str
    tensor: str
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class ActivationRange:
    """Ranges of an activation, in its own units.

    Attributes:
      samples: as the samples gave it.
      batch_norm: as BatchNorm's statistics give it; None where they say
        nothing about this tensor.
    """

    samples: qtypes.TensorRange
    batch_norm: qtypes.TensorRange | None = None

    @property
    def disagree(self) -> bool | None:
        """Whether the widths differ by more than a factor of 2."""
        if self.batch_norm is None:
            return None
        return bn_ranges.widths_disagree(self.samples, self.batch_norm)

    def to_dict(self) -> dict[str, Any]:
        """`samples`, and where known `batch_norm` and `disagree`."""
        row: dict[str, Any] = {"samples": [self.samples.min, self.samples.max]}
        if self.batch_norm is not None:
            row["batch_norm"] = [self.batch_norm.min, self.batch_norm.max]
            row["disagree"] = self.disagree
        return row


@dataclasses.dataclass(frozen=True)
class Machine:
    """Where the run ran."""

    platform: str
    cpus: int | None
    python: str
    versions: Mapping[str, str]

    @classmethod
    def this(cls) -> Machine:
        """The machine of this process."""
        return cls(
            platform.platform(),
            os.cpu_count(),
            platform.python_version(),
            versions.computing(),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class RunReport:
    """Everything that is known of a run; `to_json` gives report.json.

    Attributes:
      dsg_tf: version that wrote it.
      model: the model's path, or the type of a live model.
      live_model: whether it was given as an object, and not as a path.
      model_fingerprint: of the frozen graph and its weights.
      output: the .tflite's path, or the SavedModel's of a simulation.
      config: what was asked for, with what needs have filled in.
      inputs: recovered domain and its evidence, by input name.
      batch_norm_layers: how many BN layers were found.
      cover_behind_last_batch_norm: how the synthesis covered tensors that no
        BN describes.
      samples: numbers of samples.
      edges: what the edge trial of the synthesis found; None without one.
      rounds: by batch: `steps`, `settled`, `bits_off`, `label_share`; None
        where nothing was synthesised.
      diversity: of the samples that calibrate; None without BN layers.
      simulated: why there is no .tflite; None where there is one.
      passes: reports of the passes, in their order.
      untreated_layers: layers that no pass supports.
      ranges: of activations, by tensor.
      size_bytes: sizes of the files.
      read_back: what was compared after reading the file back; None where the
        exporter chooses its own scales.
      float_operations: operations that compute in float.
      verdict: whether the result is good enough, and why not.
      outputs: how near each output comes to the float model's, by name.
      layers: rows of `fidelity`, worst first.
      flags: of dsg_tf.quantize that ask for the config, the fewest.
      latency_ms: of the `float` and the `integer` file, by number of threads;
        empty for a simulation. Only the ratio of two in one report says much.
      histograms: of the worst layers; empty for a simulation.
      seconds: wall seconds by stage.
      machine: where it ran, with the versions of what computed.

    Examples:
      ```python
      result = dsg_tf.quantize_model("net", output="net_int8.tflite")
      if not result.report.passed:
          print(result.report.verdict.doubts)
      ```
    """

    dsg_tf: str
    model: str
    live_model: bool
    model_fingerprint: str
    output: str
    config: run_config.PipelineConfig
    inputs: Mapping[str, str]
    batch_norm_layers: int
    cover_behind_last_batch_norm: str
    samples: SampleCounts
    edges: Mapping[str, Any] | None
    rounds: Mapping[str, Mapping[str, Any]] | None
    diversity: diversity.Diversity | None
    simulated: str | None
    passes: tuple[pass_report.PassReport, ...]
    untreated_layers: tuple[UntreatedLayer, ...]
    ranges: Mapping[str, ActivationRange]
    size_bytes: SizeBytes
    read_back: Mapping[str, Any] | None
    float_operations: tuple[FloatOperation, ...]
    verdict: verdict_lib.Verdict
    outputs: Mapping[str, verify.Fidelity]
    layers: tuple[Mapping[str, Any], ...]
    flags: tuple[str, ...]
    latency_ms: Mapping[str, Mapping[str, float]]
    histograms: tuple[layer_histograms.LayerHistograms, ...]
    seconds: Mapping[str, float]
    machine: Machine

    @property
    def agreement(self) -> float:
        """The least of the outputs, 0..1."""
        return self.verdict.agreement

    @property
    def passed(self) -> bool:
        """Whether nothing is doubtful and what was asked for is reached."""
        return self.verdict.passed

    @property
    def total_seconds(self) -> float:
        """Wall seconds of all stages."""
        return round(sum(self.seconds.values()), 2)

    def to_dict(self) -> dict[str, Any]:
        """The report as in report.json, of plain values."""
        plain = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
        }
        return {
            **plain,
            "config": dataclasses.asdict(self.config),
            "samples": dataclasses.asdict(self.samples),
            "diversity": self.diversity and self.diversity.to_dict(),
            "passes": [_pass(report) for report in self.passes],
            "untreated_layers": _plain(self.untreated_layers),
            "ranges": {k: row.to_dict() for k, row in self.ranges.items()},
            "size_bytes": dataclasses.asdict(self.size_bytes),
            "float_operations": _plain(self.float_operations),
            "agreement": self.agreement,
            "passed": self.passed,
            "verdict": dataclasses.asdict(self.verdict),
            "outputs": {
                k: dataclasses.asdict(row) for k, row in self.outputs.items()
            },
            "layers": [dict(row) for row in self.layers],
            "flags": list(self.flags),
            "histograms": _plain(self.histograms),
            "seconds": {**self.seconds, "total": self.total_seconds},
            "machine": dataclasses.asdict(self.machine),
        }

    def to_json(self) -> str:
        """Strict JSON; numbers that are not finite become null."""
        return strict_json.dumps(self.to_dict())


def build(
    *,
    source: source_model.SourceModel,
    config: run_config.PipelineConfig,
    model: object,
    output: str | os.PathLike,
    samples: SampleCounts,
    sample_metadata: Mapping[str, Any],
    diverse: diversity.Diversity,
    prepared: passes.PreparedGraph,
    written: export_result.ExportResult,
    outputs: Mapping[str, verify.Fidelity],
    layers: Sequence[Mapping],
    measurements: writers.FileMeasurements,
    seconds: Mapping[str, float],
) -> RunReport:
    """Gathers the facts of a run, and judges it.

    Args:
      source: the loaded model (`source_model.SourceModel`).
      config: what was asked for.
      model: the model's path, or a live model.
      output: the .tflite's path.
      samples: numbers of samples.
      sample_metadata: what the samples tell of themselves: `synthesis`, the
        fields they were made with; `edges`; `rounds`. Empty for a user's own.
      diverse: of those that calibrate.
      prepared: what the passes made (`passes.PreparedGraph`).
      written: what was written (`export_result.ExportResult`).
      outputs: by output name.
      layers: rows of `fidelity`, worst first.
      measurements: what else was measured of the files.
      seconds: wall seconds by stage.
    """
    rounds = sample_metadata.get("rounds")
    verdict = verdict_lib.judge(
        outputs,
        layers,
        min_agreement=config.min_agreement,
        min_sqnr_db=config.min_sqnr_db,
        # Whoever says where inputs lie knows better than BN's statistics.
        bits_off=0.0 if config.input_range else _unsettled(rounds),
        cosine=diverse.median["cosine"] if rounds else None,
    )
    reference = written.reference
    untreated = [UntreatedLayer(name, op) for name, op in prepared.untreated]
    untreated += [UntreatedLayer(name, "") for name in written.unmatched]
    return RunReport(
        dsg_tf=dsg_tf.__version__,
        model=_model_name(model),
        live_model=not isinstance(model, str | os.PathLike),
        model_fingerprint=source.fingerprint,
        output=os.fspath(output),
        config=config,
        inputs={k: domain.describe() for k, domain in source.domains.items()},
        batch_norm_layers=len(source.layers),
        cover_behind_last_batch_norm=_cover(
            source, sample_metadata.get("synthesis")
        ),
        samples=samples,
        edges=sample_metadata.get("edges"),
        rounds=rounds,
        diversity=diverse if diverse.layers else None,
        simulated=simulation.REASON if config.export.simulated else None,
        passes=tuple(prepared.reports),
        untreated_layers=tuple(untreated),
        ranges={
            k: ActivationRange(*pair) for k, pair in written.ranges.items()
        },
        size_bytes=SizeBytes(
            None if reference is None else len(reference), written.size_bytes
        ),
        read_back=written.readback,
        float_operations=tuple(
            FloatOperation(op, tensor, written.float_reasons.get(tensor, ""))
            for op, tensor in written.float_ops
        ),
        verdict=verdict,
        outputs=dict(outputs),
        layers=tuple(layers),
        flags=tuple(quantize_flags.shortest(config)),
        latency_ms=measurements.latency_ms,
        histograms=measurements.histograms,
        seconds=dict(seconds),
        machine=Machine.this(),
    )


def _model_name(model: object) -> str:
    """A model's path; of a live model its type."""
    if isinstance(model, str | os.PathLike):
        return os.fspath(model)
    return type(model).__name__


def number(value: float | None) -> float:
    """A number of a report; None stands for infinity, which JSON lacks."""
    return math.inf if value is None else value


def _unsettled(rounds: Mapping[str, Mapping] | None) -> float:
    """How far ranges are off, in bits, where batches were to settle."""
    return max(
        (
            number(row["bits_off"])
            for row in (rounds or {}).values()
            if row["settled"] is False
        ),
        default=0.0,
    )


def _pass(report: pass_report.PassReport) -> dict[str, Any]:
    return {
        "pass": report.name,
        "summary": report.summary(),
        "measured": dict(report.measured),
        "rows": [
            {
                "layer": row.node,
                "applied": row.applied,
                "reason": row.reason,
                **row.measured,
            }
            for row in report.rows
        ],
    }


def _plain(rows: Sequence) -> list[dict[str, Any]]:
    return [dataclasses.asdict(row) for row in rows]


def _cover(
    source: source_model.SourceModel,
    made_with: Mapping[str, Any] | None,
) -> str:
    """How the synthesis covered tensors behind the last BN.

    Args:
      source: the loaded model.
      made_with: fields of the synthesis that made the samples; None where
        nothing is known of it.
    """
    if not made_with:
        return "the user's samples"
    if made_with["steps"] == 0:
        return "none: noise"
    cover = []
    if source.head is not None and made_with["label_weight"]:
        cover.append(f"labels of {source.head.num_classes} classes")
    others = len(source.graph.outputs) - (source.head is not None)
    if others and made_with["spread_weight"]:
        cover.append("output spread")
    return ", ".join(cover) or "none"
