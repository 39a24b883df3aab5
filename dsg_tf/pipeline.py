"""The order of the stages, from a model to a verified .tflite.

load -> BN moments, input domain -> float .tflite (what cannot be exported is
said here, before the long work) -> samples -> ranges -> integer .tflite ->
read back -> compare with the float graph -> report
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from dsg_tf import (
    calibration,
    errors,
    fidelity,
    files,
    progress,
    qtypes,
    sampling,
    source_model,
)
from dsg_tf import config as config_lib
from dsg_tf import report as report_lib
from dsg_tf import samples as samples_lib
from dsg_tf.graph import frozen, ir
from dsg_tf.tflite import (
    bias_correction,
    convert,
    export,
    flatbuffer,
    policy,
    readback,
    weights,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """What a run leaves behind.

    Attributes:
      output: the integer .tflite.
      run_folder: samples.npz, report.json and what else the run wrote.
      report: the report, as in report.json.
      passed: whether the agreement reaches the config's `min_agreement`.
    """

    output: pathlib.Path
    run_folder: pathlib.Path
    report: dict
    passed: bool


def quantize_model(
    model,
    *,
    output: str | os.PathLike,
    config: config_lib.PipelineConfig | None = None,
    callbacks: Sequence = (),
) -> Result:
    """Quantizes a model to an integer .tflite and verifies the file.

    Args:
      model: path of a SavedModel, .keras or .h5; or a live Keras model,
        tf.Module or concrete function.
      output: the .tflite to write. All else goes to `<output>.run/`.
      config: what to do; by default int8 per channel by DSG samples.
      callbacks: Keras callbacks to run during synthesis.

    Returns:
      The result; see `Result`.

    Raises:
      errors.UserError: what the user can mend: the model, the config, the
        samples, the output folder. Nothing is written then.

    Example:
      result = dsg_tf.quantize_model("net", output="net_int8.tflite")
      result.report["outputs"]["output_0"]["top1_agreement"]
    """
    config = config or config_lib.PipelineConfig()
    output = pathlib.Path(output)
    clock = _Clock()
    files.check_writable(output)
    with clock.stage("load"):
        source = source_model.load(model, config)
        float_tflite = to_float_tflite(source.graph)
        _check_exportable(source, float_tflite, config.export)
        own = sampling.given(source, config.samples) if config.samples else None
    # Not before: where the model or the samples are refused, that is all.
    source.log()
    run_folder = files.run_folder(output)
    run_folder.mkdir(exist_ok=True)
    with clock.stage("samples"):
        sample_set = own
        if own is None:
            sample_set = sampling.make(
                source,
                config.synthesis,
                folder=run_folder,
                output=run_folder / "samples.npz",
                count=config.synthesis.num_samples + config.verify_samples,
                callbacks=callbacks,
            )
    calibrating, held_out = sampling.split(sample_set, config)
    with clock.stage("export"):
        written = _export(
            source.graph, float_tflite, calibrating, config.export, output
        )
    with clock.stage("verify"):
        outputs = fidelity.compare_outputs(
            source.graph, written.model, held_out
        )
        layers = fidelity.compare_layers(
            source.graph, float_tflite, written.model, held_out
        )
    report = report_lib.build(
        source=source,
        config=config,
        model=model,
        output=output,
        calibrated_with=len(calibrating),
        verified_on=len(held_out),
        float_size_bytes=len(float_tflite),
        size_bytes=len(written.model),
        readback=written.readback,
        float_ops=written.float_ops,
        outputs=outputs,
        layers=layers,
        seconds=clock.seconds,
    )
    files.write_atomically(
        run_folder / "report.json", report_lib.to_json(report)
    )
    return Result(output, run_folder, report, report["passed"])


def synthesize(
    model,
    *,
    output: str | os.PathLike,
    config: config_lib.PipelineConfig | None = None,
    callbacks: Sequence = (),
) -> samples_lib.SampleSet:
    """Makes samples for a model, without quantizing it.

    Args:
      model: as for `quantize_model`.
      output: the samples.npz to write. `distances.csv`, and samples under way,
        go to `<output>.run/`.
      config: only its model and synthesis fields are used.
      callbacks: Keras callbacks to run during synthesis.

    Returns:
      The samples, memory-mapped from `output`.

    Raises:
      errors.UserError: as `quantize_model`.
    """
    config = config or config_lib.PipelineConfig()
    # Samples that are given are for quantize_model; these are to be made.
    config = dataclasses.replace(config, samples="")
    output = pathlib.Path(output)
    files.check_writable(output)
    source = source_model.load(model, config)
    return sampling.make(
        source,
        config.synthesis,
        folder=files.run_folder(output),
        output=output,
        count=config.synthesis.num_samples,
        callbacks=callbacks,
    )


def representative_dataset(
    model,
    *,
    config: config_lib.PipelineConfig | None = None,
    callbacks: Sequence = (),
) -> Callable[[], Iterator[list[np.ndarray]]]:
    """A representative dataset for any TFLiteConverter, without data.

    Args:
      model: as for `quantize_model`.
      config: only its model and synthesis fields are used.
      callbacks: Keras callbacks to run during synthesis.

    Returns:
      A function without arguments that yields one sample at a time: a list
      with one (1, ...) array; for a model with several inputs, since the
      converter's order of them is its own, a dict by input name.

    Example:
      converter = tf.lite.TFLiteConverter.from_saved_model(path)
      converter.optimizations = [tf.lite.Optimize.DEFAULT]
      converter.representative_dataset = dsg_tf.representative_dataset(path)
    """
    with tempfile.TemporaryDirectory() as folder:
        made = synthesize(
            model,
            output=pathlib.Path(folder) / "samples.npz",
            config=config,
            callbacks=callbacks,
        )
        in_memory = samples_lib.SampleSet(
            {name: np.array(array) for name, array in made.arrays.items()}
        )

    def dataset() -> Iterator[list[np.ndarray] | dict[str, np.ndarray]]:
        for sample in in_memory.one_by_one():
            yield sample if len(sample) > 1 else list(sample.values())

    return dataset


def to_float_tflite(graph: ir.Graph) -> bytes:
    """The graph as a float .tflite of batch size 1.

    Raises:
      errors.UserError: the batch size is fixed to another number, or an
        operation has no TFLite kernel.
    """
    fixed = {port.shape[0] for port in graph.inputs} - {None, 1}
    if fixed and not frozen.accepts_batch_size(graph, 1):
        raise errors.UserError(
            "model",
            got=f"a batch size fixed to {fixed.pop()}",
            expected="an open batch size, or 1",
            remedy="export the model with batch size None",
        )
    single = frozen.with_batch_size(graph, 1)
    return convert.to_float(
        frozen.to_function(single),
        input_names=[port.name for port in graph.inputs],
        output_names=[port.name for port in graph.outputs],
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Written:
    """An exported model, checked against what was asked for."""

    model: bytes
    readback: dict | None
    float_ops: tuple[tuple[str, str], ...]


class _Clock:
    """Wall seconds by stage."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - start, 2)


def _check_exportable(
    source: source_model.SourceModel,
    float_tflite: bytes,
    config: config_lib.ExportConfig,
) -> None:
    """Refuses, before the long work, what the exporter cannot do."""
    convert.check_io_type(config.io_type, config.activation_bits)
    if config.exporter == "tflite_converter":
        # Which operations it refuses it says only when it meets them.
        _by_converter(source.graph, _any_sample(source), config)
    elif not config.allow_float_ops:
        export.refuse_float_ops(
            float_tflite, activation_bits=config.activation_bits
        )


def _any_sample(source: source_model.SourceModel) -> samples_lib.SampleSet:
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
    return samples_lib.SampleSet(arrays)


def _export(
    graph: ir.Graph,
    float_tflite: bytes,
    calibrating: samples_lib.SampleSet,
    config: config_lib.ExportConfig,
    output: pathlib.Path,
) -> _Written:
    """Writes the integer .tflite, checked before it gets its name."""
    if config.exporter == "tflite_converter":
        model = _by_converter(graph, calibrating, config)
        files.write_atomically(output, model)
        return _Written(model, None, _float_ops(model))
    correction = config.bias_correction == "empirical"
    passes = 2 if correction else 1
    with progress.task(
        "calibration", passes * len(calibrating), unit="samples"
    ) as stage:
        ranges = calibration.calibrate(
            float_tflite,
            calibrating.arrays,
            range_method=config.range_method,
            spec=policy.activation_spec(config.activation_bits),
            progress=stage.reach,
        )
        means = None
        if correction:
            means = bias_correction.input_means(
                float_tflite,
                calibrating.arrays,
                progress=lambda done, total: stage.reach(total + done),
            )
    exported = export.export(
        float_tflite,
        ranges,
        activation_bits=config.activation_bits,
        io_type=config.io_type,
        options=weights.Options(
            granularity=qtypes.Granularity(config.granularity)
        ),
        input_means=means,
        allow_float_ops=config.allow_float_ops,
    )
    checks: list[readback.ReadBack] = []
    files.write_atomically(
        output,
        exported.model,
        check=lambda content: checks.append(
            readback.check(content, exported.requested)
        ),
    )
    return _Written(
        exported.model,
        dataclasses.asdict(checks[0]),
        exported.requested.float_ops,
    )


def _by_converter(
    graph: ir.Graph,
    sample_set: samples_lib.SampleSet,
    config: config_lib.ExportConfig,
) -> bytes:
    """The classic road: TFLiteConverter with a representative dataset."""

    def dataset() -> Iterator[dict[str, np.ndarray]]:
        for sample in sample_set.one_by_one():
            yield {
                port.name: sample[port.name].astype(port.dtype.as_numpy_dtype)
                for port in graph.inputs
            }

    return convert.by_converter(
        frozen.to_function(frozen.with_batch_size(graph, 1)),
        dataset,
        io_type=config.io_type,
        activation_bits=config.activation_bits,
        granularity=qtypes.Granularity(config.granularity),
        allow_float_ops=config.allow_float_ops,
        input_names=[port.name for port in graph.inputs],
        output_names=[port.name for port in graph.outputs],
    )


def _float_ops(model: bytes) -> tuple[tuple[str, str], ...]:
    """(operation, first output) of what a converted file computes in float."""
    view = flatbuffer.read(model)
    return tuple(
        (op.name, view.tensors[op.outputs[0]].name)
        for op in view.ops
        if op.name not in ("QUANTIZE", "DEQUANTIZE")
        and policy.touches_float(view, op)
    )
