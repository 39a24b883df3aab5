"""From the flags of a batch to its runs: pure but for the hashes of files."""

from __future__ import annotations

import copy
import dataclasses
import functools
import glob
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata

from absl import flags, logging

import dsg_tf
from dsg_tf import (
    batch_flags,
    errors,
    fingerprints,
    grid,
    image_flags,
    quantize_flags,
    run_metrics,
    schedule,
)
from dsg_tf import config as config_lib

SAMPLES = "samples"
# Of samples, in the names of their files; as many as no batch confuses.
_SHORT = 16
_COMPUTING = (
    *("tensorflow", "keras", "numpy"),
    *("litert-quantizer", "ai-edge-litert"),
)
_MODEL_FILES = (".keras", ".h5", ".hdf5")
_FLAGFILE = ".flags"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
# What samples depend on, of a config; see `sampling.make`.
_OF_THE_MODEL = ("signature", "tags", "input_shapes", "input_range")


@dataclasses.dataclass(frozen=True)
class Model:
    """A model of the batch.

    Attributes:
      name: of its folder and in tables.
      path: of the SavedModel, .keras or .h5.
      values: the flags that hold for it.
    """

    name: str
    path: str
    values: flags.FlagValues


def models(values: flags.FlagValues) -> list[Model]:
    """The models of `--models`, each with its own flags.

    Raises:
      errors.UserError: a path is not there, a flagfile is not valid, or two
        models have one name.
    """
    found: list[Model] = []
    for item in values.models:
        name, separator, pattern = item.rpartition("=")
        paths = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else []
        for path in paths or [pattern]:
            found.append(_model(values, name if separator else "", path))
    names = [model.name for model in found]
    for name in names:
        if not _NAME.fullmatch(name) or name == SAMPLES:
            raise errors.UserError(
                "--models",
                got=f"the name {name!r}",
                expected="letters, digits, dots, dashes; and not 'samples'",
                remedy="name it: --models=NAME=PATH",
            )
        if names.count(name) > 1:
            raise errors.UserError(
                "--models",
                got=f"two models of the name {name!r}",
                expected="a name each",
                remedy="name them: --models=NAME=PATH,NAME=PATH",
            )
    return found


def _model(values: flags.FlagValues, name: str, path: str) -> Model:
    source = pathlib.Path(path)
    if not source.exists():
        raise errors.UserError(
            "--models", got=f"{path!r}, which is not there", expected="a model"
        )
    if source.suffix != _FLAGFILE:
        stem = source.absolute()
        is_file = stem.suffix in _MODEL_FILES
        return Model(
            name or (stem.stem if is_file else stem.name), path, values
        )
    own = copy.deepcopy(values)
    own["saved_model"].unparse()
    try:
        rest = own(["", f"--flagfile={path}"])
    except flags.Error as error:
        raise errors.UserError(
            path, got=str(error), expected="flags of dsg_tf.batch, one a line"
        ) from None
    for flag in batch_flags.GROUPS["Batch"]:
        if own[flag].value != values[flag].value:
            raise errors.UserError(
                path,
                got=f"--{flag}",
                expected="flags of one model; this one is the whole batch's",
            )
    batch_flags.check_axes(own)
    if len(rest) > 1 or not own.saved_model:
        raise errors.UserError(
            path,
            got=repr(rest[1]) if len(rest) > 1 else "no model",
            expected="flags, one a line, and --saved_model=PATH among them",
        )
    if not pathlib.Path(own.saved_model).exists():
        raise errors.UserError(
            path,
            got=f"--saved_model={own.saved_model}, which is not there",
            expected="the path of a model, from the folder of the command",
        )
    return Model(name or source.stem, own.saved_model, own)


def runs(
    values: flags.FlagValues,
    output_dir: pathlib.Path,
    *,
    taken: Mapping[str, str],
    fingerprint: Callable[..., str] = fingerprints.of_path,
) -> list[schedule.Run]:
    """Every run that the flags ask for; what a run needs stands before it.

    Args:
      values: the batch's.
      output_dir: the output folder, absolute.
      taken: keys by folder, of the runs that are done. A run keeps its folder;
        another run of the same name gets a folder beside.
      fingerprint: `fingerprints.of_path`, or what remembers its results.

    Raises:
      errors.UserError: a flag, or a combination of the grid, is not valid.
    """
    chosen = models(values)
    for model in chosen:
        image_flags.check(model.values)
    # All of the grid is checked before the first byte of a model is hashed.
    points = {model.name: _points(model) for model in chosen}
    planned: dict[str, schedule.Run] = {}
    folders = _Folders(taken)
    for model in chosen:
        maker = _Maker(model, output_dir, folders, fingerprint)
        for run in maker.runs(points[model.name]):
            first = planned.setdefault(run.key, run)
            if run.kind == "quantize" and first is not run:
                logging.warning(
                    "%s is %s: the same settings, run once and named so",
                    run.told,
                    first.told,
                )
    return list(planned.values())


@dataclasses.dataclass(frozen=True)
class _Point:
    """A point of the grid: its values, flags and config."""

    values: Mapping[str, str]
    lines: tuple[str, ...]
    config: config_lib.PipelineConfig

    @property
    def method(self) -> str:
        return self.values.get("method", self.config.synthesis.method)


def _points(model: Model) -> list[_Point]:
    values = model.values
    axes = {name: values[name].value for name in batch_flags.AXES}
    points = []
    for point in grid.span(axes):
        # Noise and images are not optimised, images not counted out.
        dropped = {
            "noise": ("steps",),
            batch_flags.REAL: ("steps", "num_samples", "method"),
        }.get(point.get("method", ""), ())
        lines = [
            f"--{name}={value}"
            for name, value in point.items()
            if name not in dropped
        ]
        lines += _passed_on(values)
        kept = {
            name: value
            for name, value in point.items()
            if name == "method" or name not in dropped
        }
        points.append(_Point(kept, tuple(lines), quantize_flags.parse(lines)))
        if point.get("method") == batch_flags.REAL:
            _require_images(model)
    return points


def _passed_on(values: flags.FlagValues) -> list[str]:
    """Lines of a flagfile with what is not as by default."""
    lines = []
    for name in batch_flags.PASSED_ON:
        flag = values[name]
        if flag.value != flag.default:
            lines += flag.serialize().split("\n")
    return lines


def _require_images(model: Model) -> None:
    if not model.values.calibration_data:
        raise errors.UserError(
            "--calibration_data",
            got=f"nothing for {model.name}",
            expected=f"images: --method={batch_flags.REAL} calibrates with"
            " them",
        )


class _Folders:
    """Gives every key a folder of its own, the same one at every start."""

    def __init__(self, taken: Mapping[str, str]):
        self._keys = dict(taken)
        self._folders = {key: folder for folder, key in taken.items()}

    def of(self, key: str, wanted: str) -> str:
        if key not in self._folders:
            free = self._keys.get(wanted, key) == key
            folder = wanted if free else f"{wanted}-{key[:8]}"
            self._keys[folder], self._folders[key] = key, folder
        return self._folders[key]


class _Maker:
    """Makes the runs of one model."""

    def __init__(
        self, model: Model, output_dir, folders: _Folders, fingerprint
    ):
        self._model = model
        self._values = model.values
        self._output_dir = output_dir
        self._folders = folders
        self._fingerprint = fingerprint
        self._model_hash = fingerprint(model.path)
        self._preprocess = {
            name: model.values[name].value for name in image_flags.NAMES
        }

    def runs(self, points: Sequence[_Point]) -> list[schedule.Run]:
        made = [self._floats()] if self._values.eval_data else []
        floats = made[0] if made else None
        for point in points:
            samples = (
                self._real_samples()
                if point.method == batch_flags.REAL
                else self._samples(point)
            )
            made += [samples, self._quantized(point, samples, floats)]
        return made

    def _key(self, kind: str, settings: Mapping) -> str:
        return fingerprints.of_settings(
            {
                "kind": kind,
                "model": self._model_hash,
                "versions": _versions(),
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

    def _evaluation(self, model: pathlib.Path | str, folder: str) -> tuple:
        output = self._output_dir / folder / run_metrics.EVALUATION
        return (
            "dsg_tf.evaluate",
            f"--model={model}",
            *self._image_lines("eval_data"),
            f"--output={output}",
        )

    def _floats(self) -> schedule.Run:
        key = self._key("float", {"data": self._images("eval_data")})
        folder = self._folders.of(key, f"{self._model.name}/float")
        return schedule.Run(
            key,
            "float",
            folder,
            {"model": self._model.name, "label": "float"},
            artifact=f"{folder}/{run_metrics.EVALUATION}",
            commands=[self._evaluation(_absolute(self._model.path), folder)],
        )

    def _samples(self, point: _Point) -> schedule.Run:
        whole = dataclasses.asdict(point.config)
        settings = {name: whole[name] for name in _OF_THE_MODEL}
        settings["synthesis"] = whole["synthesis"]
        settings["verify_samples"] = whole["verify_samples"]
        key = self._key("samples", settings)
        artifact = f"{SAMPLES}/{key[:_SHORT]}.npz"
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

    def _real_samples(self) -> schedule.Run:
        settings = {"data": self._images("calibration_data")}
        # The model does not count: another of the same input shares them.
        key = fingerprints.of_settings({"kind": batch_flags.REAL, **settings})
        artifact = f"{SAMPLES}/{key[:_SHORT]}.npz"
        folder = f"{artifact}.run"
        lines = [
            *self._image_lines("calibration_data"),
            f"--output={self._output_dir / artifact}",
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
        point: _Point,
        samples: schedule.Run,
        floats: schedule.Run | None,
    ) -> schedule.Run:
        config, export = point.config, point.config.export
        real = point.method == batch_flags.REAL
        whole = dataclasses.asdict(config)
        del whole["resume"], whole["samples"]
        settings = {
            "config": whole,
            "data": self._images("eval_data"),
            "calibration": self._images("calibration_data") if real else {},
        }
        key = self._key("quantize", settings)
        label = grid.label(
            point.values,
            weight_bits=export.weight_bits,
            activation_bits=export.activation_bits,
        )
        folder = self._folders.of(
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
        ]
        if real:
            lines.append(f"--samples={self._output_dir / samples.artifact}")
        commands = [self._by_flagfile("dsg_tf.quantize", folder)]
        if floats is not None:
            commands.append(self._evaluation(output, folder))
        columns = {
            **dataclasses.asdict(export),
            "num_samples": config.synthesis.num_samples,
            "steps": config.synthesis.steps,
            "seed": config.synthesis.seed,
        }
        if real:
            del columns["num_samples"], columns["steps"]
        return schedule.Run(
            key,
            "quantize",
            folder,
            {
                **columns,
                "model": self._model.name,
                "method": point.method,
                "recipe": point.values.get("recipe", "balanced"),
                "label": label,
                **settings,
            },
            artifact,
            commands,
            flagfile=_flagfile("dsg_tf.quantize", lines),
            needs=(samples.key, *([floats.key] if floats else [])),
            samples="" if real else samples.artifact,
            floats=floats.folder if floats else "",
        )

    def _by_flagfile(self, module: str, folder: str) -> tuple[str, str]:
        return module, f"--flagfile={self._output_dir / folder / 'run.flags'}"


@functools.cache
def _versions() -> dict[str, str]:
    """Versions of what computes: with another, results may be others."""
    versions = {name: metadata.version(name) for name in _COMPUTING}
    # Bazel runs it without having it installed.
    return {"dsg_tf": dsg_tf.__version__, **versions}


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
