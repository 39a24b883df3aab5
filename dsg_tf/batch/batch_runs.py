"""The runs of one model of a batch: keys, folders, commands."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dsg_tf.batch import (
    batch_flags,
    batch_models,
    batch_points,
    grid,
    run_metrics,
    schedule,
)
from dsg_tf.command_line import image_flags, quantize_flags
from dsg_tf.config import options, run_config
from dsg_tf.core import fingerprints, versions
from dsg_tf.samples import labelled_images, sample_sets

# Of samples, in the names of their files; as many as no batch confuses.
_SHORT = 16
# What samples depend on, of a config; see `sampling.make`.
_OF_THE_MODEL = tuple(
    name
    for name, entry in options.declared(run_config.PipelineConfig).items()
    if entry.option.group == run_config.MODEL and name != "allow_unsafe_ops"
)
# What a float model is evaluated by.
_CHOICES = ("signature", "tags", "input_names", "output_names")


@dataclasses.dataclass(frozen=True)
class _RealImages:
    """The images that a run calibrates with.

    Attributes:
      settings: what they depend on.
      calibrating: how many, without those that verify.
      drawn: how many, with those; None for all in the order they are stored.
    """

    settings: Mapping[str, Any]
    calibrating: int
    drawn: int | None = None


def _without_idle_seed(point: batch_points.Point) -> batch_points.Point:
    """The point without its seed, where the samples do not depend on it.

    Of what comes after the samples, learned rounding alone is random.
    """
    learned = point.config.export.weight_rounding == "adaround"
    return point if learned else point.without("seed")


class Maker:
    """Makes the runs of one model.

    Args:
      model: the model.
      output_dir: the output folder, absolute.
      folder_of: from a run's key, and the folder that it wants, to its folder.
      fingerprint: see `fingerprints.of_path`.

    Attributes:
      notes: what a user should know of the runs that were made.
    """

    def __init__(
        self,
        model: batch_models.Model,
        output_dir: pathlib.Path,
        folder_of: Callable[[str, str], str],
        fingerprint: Callable[..., str],
    ):
        self.notes: list[str] = []
        self._model = model
        self._values = model.values
        self._output_dir = output_dir
        self._folder_of = folder_of
        self._fingerprint = fingerprint
        self._model_hash = fingerprint(model.path)
        self._preprocess = {
            name: model.values[name].value for name in image_flags.NAMES
        }

    def runs(self, points: Sequence[batch_points.Point]) -> list[schedule.Run]:
        """Of each point of the grid; what a run needs stands before it."""
        floats = self._floats() if self._values.eval_data else None
        made = [floats] if floats else []
        for point in points:
            if point.real:
                images = self._real_images(point)
                if not images.drawn:
                    point = _without_idle_seed(point)
                samples = self._real_samples(images)
            else:
                images, samples = None, self._samples(point)
            quantized = self._quantized(point, samples, images)
            made += [samples, quantized]
            if floats:
                made.append(self._evaluated(quantized, floats))
        return made

    @functools.cached_property
    def _image_count(self) -> int:
        return labelled_images.count_unlabelled(self._values.calibration_data)

    def _real_images(self, point: batch_points.Point) -> _RealImages:
        settings = self._images("calibration_data")
        total, most = self._image_count, point.config.verify_samples
        asked = point.num_images
        drawn = batch_points.with_held_out(asked, most) if asked else total
        if drawn < total:
            seed = point.config.synthesis.seed
            settings |= {"num_samples": drawn, "seed": seed}
            return _RealImages(settings, asked, drawn)
        calibrating = total - sample_sets.held_out(total, most)
        if asked and calibrating < asked:
            self.notes.append(
                f"{self._model.name}: --num_samples={asked}, but --calibration"
                f"_data has {total} images: {calibrating} calibrate, the others"
                " verify"
            )
        return _RealImages(settings, calibrating)

    def _key(self, kind: str, settings: Mapping) -> str:
        return fingerprints.of_settings(
            {
                "kind": kind,
                "model": self._model_hash,
                "versions": versions.computing(),
                **settings,
            }
        )

    def _images(self, name: str) -> dict:
        """What images depend on; empty where the flag is not given."""
        path = self._values[name].value
        if not path:
            return {}
        return {
            "content": self._fingerprint(path, subject=f"--{name}"),
            **self._preprocess,
        }

    def _image_lines(self, name: str) -> list[str]:
        lines = [f"--data={_absolute(self._values[name].value)}"]
        for flag, value in self._preprocess.items():
            if value:
                text = value if isinstance(value, str) else ",".join(value)
                lines.append(f"--{flag}={text}")
        return lines

    def _evaluation(self, model: str, artifact: str, *lines: str) -> tuple:
        return (
            "dsg_tf.evaluate",
            f"--model={model}",
            *lines,
            *self._image_lines("eval_data"),
            f"--output={self._output_dir / artifact}",
        )

    def _data_columns(self) -> dict:
        """The data set of an evaluation, for its row."""
        images = self._images("eval_data")
        return {
            "data": pathlib.Path(_absolute(self._values.eval_data)).name,
            "data_key": fingerprints.of_settings(images)[:8],
            "images": images,
        }

    def _floats(self) -> schedule.Run:
        settings = {"data": self._images("eval_data")}
        lines = []
        for name in _CHOICES:
            value = self._values[name].value
            if value:
                settings[name] = value
                text = value if isinstance(value, str) else ",".join(value)
                lines.append(f"--{name}={text}")
        if self._values.allow_unsafe_ops:
            lines.append("--allow_unsafe_ops")
        key = self._key("float", settings)
        folder = self._folder_of(key, f"{self._model.name}/float")
        artifact = f"{folder}/{run_metrics.EVALUATION}"
        command = self._evaluation(
            _absolute(self._model.path),
            artifact,
            *lines,
        )
        return schedule.Run(
            key,
            "float",
            folder,
            {
                "model": self._model.name,
                "label": "float",
                **self._data_columns(),
            },
            artifact,
            commands=[command],
        )

    def _evaluated(
        self, quantized: schedule.Run, floats: schedule.Run
    ) -> schedule.Run:
        key = fingerprints.of_settings(
            {
                "kind": "evaluate",
                "quantized": quantized.key,
                "data": self._images("eval_data"),
            }
        )
        folder = self._folder_of(key, f"{quantized.folder}/evaluation")
        artifact = f"{folder}/{run_metrics.EVALUATION}"
        model = str(self._output_dir / quantized.artifact)
        shown = ("model", "method", "label", "seed")
        return schedule.Run(
            key,
            "evaluate",
            folder,
            {
                **{name: quantized.config[name] for name in shown},
                "quantized": quantized.key,
                **self._data_columns(),
            },
            artifact,
            commands=[self._evaluation(model, artifact)],
            needs=(quantized.key, floats.key),
            floats=floats.folder,
        )

    def _samples(self, point: batch_points.Point) -> schedule.Run:
        whole = dataclasses.asdict(point.config)
        settings = {name: whole[name] for name in _OF_THE_MODEL}
        settings["synthesis"] = whole["synthesis"]
        settings["verify_samples"] = whole["verify_samples"]
        key = self._key("samples", settings)
        artifact = f"{batch_models.SAMPLES}/{key[:_SHORT]}.npz"
        folder = f"{artifact}.run"
        lines = [
            f"--saved_model={_absolute(self._model.path)}",
            f"--output={self._output_dir / artifact}",
            *(line for line in point.lines if _is_for_samples(line)),
        ]
        return schedule.Run(
            key,
            "samples",
            folder,
            {
                "model": self._model.name,
                "method": point.method,
                "seed": point.config.synthesis.seed,
                **settings,
            },
            artifact,
            commands=[self._by_flagfile("dsg_tf.synthetic_samples", folder)],
            flagfile=_flagfile("dsg_tf.synthetic_samples", lines),
        )

    def _real_samples(self, images: _RealImages) -> schedule.Run:
        settings = {"data": images.settings}
        # The model does not count: another of the same input shares them.
        key = fingerprints.of_settings({"kind": batch_flags.REAL, **settings})
        artifact = f"{batch_models.SAMPLES}/{key[:_SHORT]}.npz"
        folder = f"{artifact}.run"
        lines = [
            *self._image_lines("calibration_data"),
            f"--output={self._output_dir / artifact}",
        ]
        if images.drawn:
            lines += [
                f"--num_samples={images.drawn}",
                f"--seed={images.settings['seed']}",
            ]
        return schedule.Run(
            key,
            "samples",
            folder,
            {"method": batch_flags.REAL, **settings},
            artifact,
            commands=[self._by_flagfile("dsg_tf.image_samples", folder)],
            flagfile=_flagfile("dsg_tf.image_samples", lines),
        )

    def _quantized(
        self,
        point: batch_points.Point,
        samples: schedule.Run,
        images: _RealImages | None,
    ) -> schedule.Run:
        config, export = point.config, point.config.export
        whole = dataclasses.asdict(config)
        # None of these changes what is made.
        del whole["resume"], whole["samples"], whole["min_sqnr_db"]
        del whole["export"]["recipe"]
        if images:
            # How samples would be made is nothing to images.
            whole["synthesis"] = {"seed": config.synthesis.seed}
        settings = {
            "config": whole,
            "calibration": images.settings if images else {},
        }
        key = self._key("quantize", settings)
        label = grid.label(
            point.values,
            weight_bits=export.weight_bits,
            activation_bits=export.activation_bits,
        )
        folder = self._folder_of(
            key,
            f"{self._model.name}/{point.method}/{label}"
            f"/seed{config.synthesis.seed}",
        )
        artifact = f"{folder}/" + (
            "simulated" if export.simulated else "model.tflite"
        )
        output = self._output_dir / artifact
        lines = [
            f"--saved_model={_absolute(self._model.path)}",
            f"--output={output}",
            *point.lines,
            f"--samples={self._output_dir / samples.artifact}",
        ]
        columns = {
            **dataclasses.asdict(export),
            "num_samples": config.synthesis.num_samples,
            "steps": config.synthesis.steps,
            "seed": config.synthesis.seed,
        }
        if images:
            columns["num_samples"] = images.calibrating
            del columns["steps"]
        return schedule.Run(
            key,
            "quantize",
            folder,
            {
                **columns,
                "model": self._model.name,
                "method": point.method,
                "label": label,
                **settings,
            },
            artifact,
            commands=[self._by_flagfile("dsg_tf.quantize", folder)],
            flagfile=_flagfile("dsg_tf.quantize", lines),
            needs=(samples.key,),
        )

    def _by_flagfile(self, module: str, folder: str) -> tuple[str, str]:
        return module, f"--flagfile={self._output_dir / folder / 'run.flags'}"


_FOR_SAMPLES = {
    name
    for group in ("Model", "Samples")
    for name in quantize_flags.GROUPS[group]
} | {"verify_samples"}


def _is_for_samples(line: str) -> bool:
    """Whether a flagfile's line is a flag of dsg_tf.synthetic_samples."""
    name = line.removeprefix("--").partition("=")[0]
    return name in _FOR_SAMPLES or name.removeprefix("no") in _FOR_SAMPLES


def _absolute(path: str) -> str:
    return str(pathlib.Path(path).absolute())


def _flagfile(module: str, lines: Sequence[str]) -> str:
    """Text of a flagfile that says at its head how it is replayed."""
    return f"# python -m {module} --flagfile=run.flags\n" + "".join(
        f"{line}\n" for line in lines
    )
