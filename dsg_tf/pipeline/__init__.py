"""The order of the stages, from a model to a verified .tflite.

load -> BN moments, input domain -> float .tflite (a model that cannot be
exported is refused here, before the long work) -> samples -> passes (BN folded,
weights on their grids) -> ranges -> integer .tflite, read back; or a simulated
SavedModel if .tflite has no such widths -> compare with the float graph ->
report
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from absl import logging

import dsg_tf
from dsg_tf.analysis import source_model
from dsg_tf.config import needs, run_config
from dsg_tf.core import (
    checkpoints,
    disk_space,
    errors,
    files,
    progress,
    randomness,
    stages,
    staging,
)
from dsg_tf.diversity import diversity
from dsg_tf.export import export_result, writers
from dsg_tf.graph import ir
from dsg_tf.report import cost, page, run_report
from dsg_tf.samples import run_folders, sample_sets
from dsg_tf.synthesis import sampling
from dsg_tf.transforms import passes


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """The result of a run: files, report and verdict.

    Attributes:
      output: the integer .tflite, or the SavedModel of a simulation. Without an
        `output` asked for it lies in a temporary folder, which is deleted with
        this object.
      run_folder: samples.npz, report.json, report.html and what else the run
        wrote.
      report: the report; `report.to_json()` is the text of report.json.
      passed: whether nothing is doubtful and the config's `min_agreement` and
        `min_sqnr_db` are reached; the report's `verdict` says why not.
    """

    output: pathlib.Path
    run_folder: pathlib.Path
    report: run_report.RunReport
    passed: bool
    _temporary: tempfile.TemporaryDirectory | None = dataclasses.field(
        default=None, repr=False
    )

    @property
    def tflite(self) -> bytes:
        """The bytes of the .tflite.

        Raises:
          errors.UserError: the result is a simulation, a SavedModel.
        """
        if self.output.is_dir():
            raise errors.UserError(
                "Result.tflite",
                got="a simulation, which no .tflite holds",
                expected="a result with activations of 8, 16 or 32 bits",
                remedy=f"its SavedModel is {self.output}",
            )
        return self.output.read_bytes()

    def evaluate(self, inputs: np.ndarray, labels: np.ndarray) -> float:
        """Top-1 of the result on labelled inputs, 0..1.

        Args:
          inputs: (N, ...), in model input units.
          labels: class indices, (N,).

        Raises:
          errors.UserError: the model is no classifier with one input, or there
            are other numbers of inputs and labels.
        """
        from dsg_tf.fidelity import classifiers

        labels = np.asarray(labels)
        if labels.shape != (len(inputs),):
            raise errors.UserError(
                "labels",
                got=f"the shape {labels.shape}",
                expected=f"({len(inputs)},), a class for each input",
            )
        predict = classifiers.load_predictor(str(self.output))
        classes = classifiers.classify(predict, np.asarray(inputs))
        return float(np.mean(classes == labels))


def quantize_model(
    model: object,
    *,
    output: str | os.PathLike | None = None,
    config: run_config.PipelineConfig | None = None,
    samples: object = None,
    callbacks: Sequence = (),
    real: str | os.PathLike = "",
) -> Result:
    """Quantizes a model and verifies what is written.

    Args:
      model: path of a SavedModel, .keras or .h5; or a live Keras model,
        tf.Module or concrete function.
      output: the .tflite to write, or where activations of 4 to 7 bits are
        simulated the folder of a SavedModel. All else goes to `<output>.run/`.
        None: into a temporary folder that lives as long as the result.
      config: what to do; by default int8 per channel by DSG samples.
      samples: the user's own, or those of an earlier run, in place of the
        config's: a path (.npz, .npy), an array (N, ...), arrays by input name,
        or a SampleSet.
      callbacks: Keras callbacks to run during synthesis.
      real: real samples, a file as the config's `samples`, to which the report
        compares the diversity of those that calibrate; for nothing else.

    Returns:
      The result; see `Result`.

    Raises:
      errors.UserError: the model, the config, the samples or the output folder
        are not usable; nothing is written then.

    Examples:
      ```python
      result = dsg_tf.quantize_model("net", output="net_int8.tflite")
      result.report.outputs["output_0"].top1_agreement
      ```
    """
    config = config or run_config.PipelineConfig()
    if samples is not None:
        path = run_config.IN_MEMORY
        if isinstance(samples, str | os.PathLike):
            path = os.fspath(samples)
        config = dataclasses.replace(config, samples=path)
    else:
        samples = config.samples
    temporary = None
    if output is None:
        temporary = tempfile.TemporaryDirectory(prefix="dsg_tf-")
        name = "model" if config.export.simulated else "model.tflite"
        output = pathlib.Path(temporary.name) / name
    config = needs.complete(config)
    writer = writers.of(config.export)
    read = {"the model": model, "real": real}
    if config.samples != run_config.IN_MEMORY:
        read["--samples"] = config.samples
    output = writer.destination(pathlib.Path(output), read)
    with (
        run_folders.claim(output) as folder,
        disk_space.reported(folder),
        randomness.kept(),
    ):
        result = _run(
            model,
            output=output,
            run_folder=folder,
            writer=writer,
            config=config,
            samples=samples,
            callbacks=callbacks,
            real=real,
        )
    return dataclasses.replace(result, _temporary=temporary)


def _run(
    model,
    *,
    output: pathlib.Path,
    run_folder: pathlib.Path,
    writer: export_result.Writer,
    config: run_config.PipelineConfig,
    samples: object,
    callbacks: Sequence,
    real: str | os.PathLike,
) -> Result:
    """Runs the stages in a locked run folder."""
    clock = _Clock()
    with clock.stage("load"):
        source = source_model.load(model, config)
        stay_float = writer.check_model(source)
        own = None
        if config.samples:
            own = sampling.given(source, samples)
        else:
            sampling.check(source, config.synthesis)
        others = sampling.given(source, os.fspath(real)) if real else None
    with clock.stage("estimate"):
        expected = cost.estimate(
            source,
            passes.folded(source.graph),
            config,
            load_s=clock.seconds["load"],
        )
    # Logged only after the model and the samples were accepted.
    source.log()
    logging.info("expected: %s", expected.in_one_line())
    if not config.resume:
        run_folders.forget(run_folder)
    with clock.stage("samples"):
        sample_set = own
        if own is None:
            sample_set = sampling.make(
                source,
                config.synthesis,
                folder=run_folder,
                output=run_folder / run_folders.SAMPLES,
                count=config.synthesis.num_samples + config.verify_samples,
                callbacks=callbacks,
            )
    calibrating, held_out = sampling.split(sample_set, config)
    with clock.stage("diversity"):
        diverse = diversity.of_graph(
            source.graph,
            calibrating.arrays,
            real=others.arrays if others else None,
            layers=source.layers,
        )
    with clock.stage("passes"):
        prepared = _prepare(source, calibrating, config, run_folder, stay_float)
    with staging.Staging() as staged:
        with clock.stage("export"):
            written = writer.write(prepared, calibrating, output, staged)
        with clock.stage("verify"):
            outputs, layers = writers.verify(
                source, prepared, written, held_out
            )
            measurements = writers.measure(written, layers, held_out)
        report = run_report.build(
            source=source,
            config=config,
            model=model,
            output=output,
            samples=run_report.SampleCounts(len(calibrating), len(held_out)),
            sample_metadata=sample_set.metadata,
            diverse=diverse,
            prepared=prepared,
            written=written,
            outputs=outputs,
            layers=layers,
            measurements=measurements,
            seconds=clock.seconds,
        )
        _stage_report(report, calibrating, run_folder, staged)
        # Everything is written and checked; the output is renamed last.
        staged.place(last=output)
    # Deleted only now: a run killed before this line resumes from it.
    checkpoints.remove(run_folder / run_folders.ROUNDING)
    return Result(output, run_folder, report, report.passed)


def synthesize(
    model: object,
    *,
    output: str | os.PathLike,
    config: run_config.PipelineConfig | None = None,
    further: int = 0,
    callbacks: Sequence = (),
) -> sample_sets.SampleSet:
    """Makes samples for a model, without quantizing it.

    Args:
      model: as for `quantize_model`.
      output: the samples.npz to write. `distances.csv`, and samples under way,
        go to `<output>.run/`.
      config: only its model and synthesis fields are used.
      further: how many more than the config's `num_samples`. With the config's
        `verify_samples`, these are the samples of `quantize_model`, which
        takes the file as its own where it finds it in its run folder.
      callbacks: Keras callbacks to run during synthesis.

    Returns:
      The samples, memory-mapped from `output`.

    Raises:
      errors.UserError: as `quantize_model`.
    """
    config = needs.complete(config or run_config.PipelineConfig())
    # `config.samples` is ignored: this function always synthesises.
    config = dataclasses.replace(config, samples="")
    output = files.run_destination(output, {"the model": model})
    with (
        run_folders.claim(output) as folder,
        disk_space.reported(folder),
        randomness.kept(),
    ):
        source = source_model.load(model, config)
        sampling.check(source, config.synthesis)
        return sampling.make(
            source,
            config.synthesis,
            folder=folder,
            output=output,
            count=config.synthesis.num_samples + further,
            callbacks=callbacks,
            tell=True,
        )


def representative_dataset(
    model: object,
    *,
    config: run_config.PipelineConfig | None = None,
    callbacks: Sequence = (),
) -> Callable[[], Iterator[list[np.ndarray] | dict[str, np.ndarray]]]:
    """A representative dataset for any TFLiteConverter, without data.

    Args:
      model: as for `quantize_model`.
      config: only its model and synthesis fields are used.
      callbacks: Keras callbacks to run during synthesis.

    Returns:
      A function without arguments that yields one sample at a time: a list
      with one (1, ...) array; for a model with several inputs, since the
      converter's order of them is its own, a dict by input name.

    Examples:
      ```python
      converter = tf.lite.TFLiteConverter.from_saved_model(path)
      converter.optimizations = [tf.lite.Optimize.DEFAULT]
      converter.representative_dataset = dsg_tf.representative_dataset(path)
      ```
    """
    with tempfile.TemporaryDirectory() as folder:
        made = synthesize(
            model,
            output=pathlib.Path(folder) / "samples.npz",
            config=config,
            callbacks=callbacks,
        )
        in_memory = sample_sets.SampleSet(
            {name: np.array(array) for name, array in made.arrays.items()}
        )

    def dataset() -> Iterator[list[np.ndarray] | dict[str, np.ndarray]]:
        for sample in in_memory.one_by_one():
            yield sample if len(sample) > 1 else list(sample.values())

    return dataset


def _stage_report(
    report: run_report.RunReport,
    calibrating: sample_sets.SampleSet,
    run_folder: pathlib.Path,
    staged: staging.Staging,
) -> None:
    """Stages report.json, and the page that is made of it."""
    text = report.to_json()
    staged.add(run_folder / run_folders.REPORT, text)
    with stages.within("report"):
        shown = page.render(
            json.loads(text),
            samples=calibrating.arrays,
            distances=page.distances_of(run_folder),
        )
    staged.add(run_folder / run_folders.PAGE, shown)


class _Clock:
    """Wall seconds by stage."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        with stages.within(name), progress.alive(name):
            yield
        self.seconds[name] = round(time.monotonic() - start, 2)


def _prepare(
    source: source_model.SourceModel,
    calibrating: sample_sets.SampleSet,
    config: run_config.PipelineConfig,
    run_folder: pathlib.Path,
    stay_float: frozenset[str],
) -> passes.PreparedGraph:
    """Runs the passes; saves each layer of learned rounding for resuming."""
    arrays = {name: np.asarray(a) for name, a in calibrating.arrays.items()}

    def store(graph: ir.Graph) -> checkpoints.LayerStore:
        digest = hashlib.sha256()
        for name, array in sorted(arrays.items()):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(array))
        key = (
            source_model.fingerprint(graph),
            digest.hexdigest(),
            dataclasses.asdict(config.export),
            config.synthesis.seed,
            dsg_tf.__version__,
        )
        return checkpoints.LayerStore(
            run_folder / run_folders.ROUNDING, repr(key)
        )

    return passes.run(
        source.graph,
        arrays,
        config.export,
        seed=config.synthesis.seed,
        store=store,
        stay_float=stay_float,
    )
