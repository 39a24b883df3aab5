"""Writes an integer .tflite, by LiteRT Quantizer or TFLiteConverter."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf
from absl import logging

from dsg_tf.analysis import linear_layers, source_model
from dsg_tf.config import export_config
from dsg_tf.core import files, progress, staging
from dsg_tf.export import bn_ranges, calibration, export_result
from dsg_tf.graph import frozen, ir
from dsg_tf.graph.load import open_shapes
from dsg_tf.quant import qtypes
from dsg_tf.samples import sample_sets
from dsg_tf.tflite import (
    convert,
    export,
    feature_scales,
    flatbuffer,
    float_edges,
    lowering,
    op_support,
    output_scales,
    readback,
    weight_grids,
    weights,
)
from dsg_tf.transforms import passes


class TFLiteWriter:
    """Writes an integer .tflite, by either exporter.

    Args:
      config: what to write.
    """

    def __init__(self, config: export_config.ExportConfig):
        self._config = config
        # What `check_model` has converted: the graph that it was made of.
        self._converted: tuple[ir.Graph, bytes] | None = None
        # Mean and deviation of columns of unlike scale, by input.
        self._columns: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def destination(
        self, output: pathlib.Path, inputs: Mapping[str, object]
    ) -> pathlib.Path:
        """Refuses a place where no file can be written; follows a link."""
        return files.run_destination(output, inputs)

    def check_model(self, source: source_model.SourceModel) -> frozenset[str]:
        """Refuses, before the long work, what the exporter cannot do.

        Returns:
          Outputs of the layers that stay float, at the ends of the model.
        """
        config = self._config
        convert.check_io_type(config.io_type, config.activation_bits)
        graph = passes.folded(source.graph)
        self._columns = _unlike_columns(source)
        if self._columns and not config.float_edges:
            logging.warning(
                "input %s: features of unlike scale share one integer scale;"
                " with float32 inputs they would not",
                ", ".join(self._columns),
            )
        float_tflite = self._to_float(graph)
        self._converted = graph, float_tflite
        if config.exporter == "tflite_converter":
            # Which operations it refuses it says only when it meets them.
            self._convert(source.graph, _any_sample(source))
        elif not config.allow_float_ops:
            export.refuse_float_ops(
                float_tflite,
                activation_bits=config.activation_bits,
                float_edges=bool(config.float_edges),
            )
        return self._float_layers(graph, float_tflite)

    @property
    def float_tflite(self) -> bytes | None:
        """The float file that `check_model` made; None before."""
        return None if self._converted is None else self._converted[1]

    def write(
        self,
        prepared: passes.PreparedGraph,
        calibrating: sample_sets.SampleSet,
        output: pathlib.Path,
        staged: staging.Staging,
    ) -> export_result.ExportResult:
        """Writes the file; it is checked before it gets its name."""
        config = self._config
        reference = self._reference(prepared.reference)
        if config.exporter == "tflite_converter":
            model = self._convert(prepared.graph, calibrating)
            staged.add(output, model, tell=True)
            return export_result.ExportResult(
                model,
                len(model),
                reference,
                float_ops=tuple(
                    (op.op, op.tensor) for op in op_support.float_ops(model)
                ),
            )
        float_tflite, uneven = self._with_even_outputs(
            prepared.graph, reference, calibrating
        )
        ranges = self._ranges(prepared.graph, float_tflite, calibrating)
        for layer in uneven:
            ranges[layer.even] = layer.range(ranges[layer.even][0]), None
        exported = export.export(
            float_tflite,
            {t: self._chosen(*pair) for t, pair in ranges.items()},
            activation_bits=config.activation_bits,
            io_type=config.io_type,
            options=self._options(prepared.graph, uneven),
            allow_float_ops=config.allow_float_ops,
            float_edges=bool(config.float_edges),
            even={layer.even for layer in uneven},
        )
        for name in exported.unmatched:
            logging.warning(
                "layer %s: the converter changed its weights; they were"
                " rounded to nearest anew",
                name,
            )
        checks: list[readback.ReadBack] = []
        staged.add(
            output,
            exported.model,
            tell=True,
            check=lambda content: checks.append(
                readback.check(content, exported.requested)
            ),
        )
        weight_only = config.activation_bits == export_config.FLOAT_BITS
        return export_result.ExportResult(
            exported.model,
            len(exported.model),
            reference,
            readback=dataclasses.asdict(checks[0]),
            # Of a weight-only file, all of them.
            float_ops=() if weight_only else exported.requested.float_ops,
            ranges=ranges,
            unmatched=exported.unmatched,
            float_reasons=exported.reasons,
        )

    def _float_layers(
        self, graph: ir.Graph, float_tflite: bytes
    ) -> frozenset[str]:
        """Outputs of layers whose weights a float operation reads."""
        if not self._config.float_edges:
            return frozenset()
        view = flatbuffer.read(float_tflite)
        edges = float_edges.find(
            view, activation_bits=self._config.activation_bits
        )
        kernels = []
        for index in edges.ops:
            tensor = weights.operand(view, view.ops[index])
            if tensor is not None:
                axis = op_support.WEIGHTS[view.ops[index].name].axis
                kernels.append(weight_grids.rows(view.constant(tensor), axis))
        return frozenset(
            layer.output
            for layer in linear_layers.find(graph)
            if any(np.array_equal(layer.rows(), rows) for rows in kernels)
        )

    def _reference(self, graph: ir.Graph) -> bytes:
        """The float .tflite of the graph that was rounded."""
        if self._converted is not None and self._converted[0] is graph:
            return self._converted[1]
        return self._to_float(graph)

    def _to_float(self, graph: ir.Graph) -> bytes:
        """The graph in float, as integers want it."""
        model = lowering.lowered(
            to_float_tflite(graph), self._config.activation_bits
        )
        if self._config.float_edges and self._columns:
            model = feature_scales.equalized(model, self._columns)
        return model

    def _with_even_outputs(
        self,
        graph: ir.Graph,
        reference: bytes,
        calibrating: sample_sets.SampleSet,
    ) -> tuple[bytes, tuple[output_scales.Layer, ...]]:
        """The file with channels of unlike scale, at its end, kept apart."""
        config = self._config
        float_tflite = self._to_float(graph)
        if (
            not config.float_edges
            or config.activation_bits == export_config.FLOAT_BITS
        ):
            return float_tflite, ()
        model, uneven = output_scales.equalized(
            float_tflite,
            calibrating.arrays,
            activation_bits=config.activation_bits,
            reference=reference,
            granularity=qtypes.Granularity(config.granularity),
        )
        for changed in uneven:
            name = next(
                (
                    layer.name
                    for layer in linear_layers.find(graph)
                    if np.array_equal(layer.rows(), changed.rows)
                ),
                changed.even,
            )
            logging.info(
                "layer %s: its channels differ %.0f-fold; they are quantized"
                " at one scale, and spread in float behind it",
                name,
                changed.factors.max() / changed.factors.min(),
            )
        return model, uneven

    def _ranges(
        self,
        graph: ir.Graph,
        float_tflite: bytes,
        calibrating: sample_sets.SampleSet,
    ) -> dict[str, tuple[qtypes.TensorRange, qtypes.TensorRange | None]]:
        """(from samples, from BN or None) of every activation."""
        config = self._config
        if config.activation_bits == export_config.FLOAT_BITS:
            return {}
        method = config.range_method
        with progress.task(
            "calibration", len(calibrating), unit="samples"
        ) as stage:
            ranges = calibration.calibrate(
                float_tflite,
                calibrating.arrays,
                range_method="minmax" if method == "bn" else method,
                spec=op_support.activation_spec(config.activation_bits),
                progress=stage.reach,
            )
        sample = next(calibrating.one_by_one())
        trained = bn_ranges.matched(graph, float_tflite, sample, graph.ranges)
        if trained:
            logging.info("ranges of FakeQuant: %d tensors", len(trained))
            ranges |= trained
        known = bn_ranges.of_tflite(graph, float_tflite, sample)
        return {t: (r, known.get(t)) for t, r in ranges.items()}

    def _chosen(
        self, observed: qtypes.TensorRange, known: qtypes.TensorRange | None
    ) -> qtypes.TensorRange:
        use_known = self._config.range_method == "bn" and known is not None
        return known if use_known else observed

    def _options(
        self, graph: ir.Graph, uneven: Sequence[output_scales.Layer]
    ) -> weights.Options:
        """The grids of a graph's weights, as the exporter wants them."""
        config = self._config
        grids = [
            weight_grids.WeightGrid(
                np.ascontiguousarray(layer.rows()),
                graph.weight_grids[layer.kernel_tensor],
                layer.name,
            )
            for layer in linear_layers.find(graph)
            if layer.kernel_tensor in graph.weight_grids
        ]
        for changed in uneven:
            grids = [
                kept
                for grid in grids
                if (kept := _rescaled(grid, changed)) is not None
            ]
        return weights.Options(
            bits=config.weight_bits,
            granularity=qtypes.Granularity(config.granularity),
            range_method=export_config.weight_range_method(config.weight_bits),
            grids=grids,
            packed=config.packed,
        )

    def _convert(
        self, graph: ir.Graph, sample_set: sample_sets.SampleSet
    ) -> bytes:
        """The classic road: TFLiteConverter, a representative dataset."""
        config = self._config

        def dataset() -> Iterator[dict[str, np.ndarray]]:
            for sample in sample_set.one_by_one():
                yield {
                    port.name: sample[port.name].astype(
                        port.dtype.as_numpy_dtype
                    )
                    for port in graph.inputs
                }

        return convert.by_converter(
            frozen.to_function(
                frozen.with_batch_size(graph, 1), as_written=True
            ),
            dataset,
            io_type=config.io_type,
            activation_bits=config.activation_bits,
            granularity=qtypes.Granularity(config.granularity),
            allow_float_ops=config.allow_float_ops,
            input_names=[port.name for port in graph.inputs],
            output_names=[port.name for port in graph.outputs],
        )


def _rescaled(
    grid: weight_grids.WeightGrid, changed: output_scales.Layer
) -> weight_grids.WeightGrid | None:
    """A grid, as a layer's output channels are now; None where it is gone."""
    if grid.matches(changed.rows, 0):
        return changed.scaled(grid)
    return grid


def _unlike_columns(
    source: source_model.SourceModel,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean and deviation of each column of inputs with unlike ones."""
    found = {}
    for port in source.graph.inputs:
        domain = source.domains[port.name]
        mean, deviation = (
            np.asarray(m, np.float64) for m in (domain.mean, domain.deviation)
        )
        if (
            port.dtype == tf.float32
            and mean.shape == deviation.shape == (port.shape[-1],)
            and feature_scales.unlike(mean, deviation)
        ):
            found[port.name] = mean, deviation
    return found


def to_float_tflite(graph: ir.Graph) -> bytes:
    """The graph as a float .tflite of batch size 1.

    Raises:
      errors.UserError: the batch size is fixed to another number, or an
        operation has no TFLite kernel.
    """
    return convert.to_float(
        frozen.to_function(open_shapes.of_one_sample(graph), as_written=True),
        input_names=[port.name for port in graph.inputs],
        output_names=[port.name for port in graph.outputs],
    )


def _any_sample(source: source_model.SourceModel) -> sample_sets.SampleSet:
    """One sample that the model runs on; what is in it does not matter."""
    rng = np.random.default_rng(0)
    arrays = {}
    for port in source.graph.inputs:
        shape = (1, *port.shape[1:])
        domain = source.domains[port.name]
        if port.dtype.is_integer and port.dtype.size > 1:
            # Indices, perhaps, of which only the lowest are there.
            arrays[port.name] = np.zeros(shape)
        else:
            noise = rng.normal(size=shape)
            arrays[port.name] = domain.finish(
                noise * domain.deviation + domain.mean
            )
    return sample_sets.SampleSet(arrays)
