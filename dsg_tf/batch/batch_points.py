"""The points of a batch's grid: the settings of each run of a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from absl import flags

from dsg_tf.batch import batch_flags, batch_models, grid
from dsg_tf.command_line import quantize_flags
from dsg_tf.config import needs, run_config
from dsg_tf.core import errors
from dsg_tf.samples import sample_sets

# Axes that nothing depends on: noise and images are not optimised.
_DROPPED = {"noise": ("steps",), batch_flags.REAL: ("steps",)}
# Axes that are no flags of dsg_tf.quantize where the samples are images.
_OF_IMAGES = ("num_samples", "method")


@dataclasses.dataclass(frozen=True)
class Point:
    """A point of the grid.

    Attributes:
      values: by axis, those that something depends on.
      lines: of a flagfile of dsg_tf.quantize.
      config: what these lines ask for.
    """

    values: Mapping[str, str]
    lines: tuple[str, ...]
    config: run_config.PipelineConfig

    @property
    def method(self) -> str:
        return self.values.get("method", self.config.synthesis.method)

    @property
    def real(self) -> bool:
        """Whether real images are the samples."""
        return self.method == batch_flags.REAL

    @property
    def num_images(self) -> int | None:
        """Real images to calibrate with; None for all that there are."""
        text = self.values.get("num_samples")
        return int(text) if text else None

    def without(self, axis: str) -> Point:
        """The same point with an axis at its default."""
        values = {n: value for n, value in self.values.items() if n != axis}
        lines = tuple(
            line for line in self.lines if not line.startswith(f"--{axis}=")
        )
        return Point(values, lines, _config(lines, real=self.real))


def points(model: batch_models.Model) -> list[Point]:
    """Every point of a model's grid.

    Raises:
      errors.UserError: a value, or a combination, is not valid.
    """
    axes = {name: model.values[name].value for name in batch_flags.AXES}
    axes["bits"] = [text.upper() for text in axes["bits"]]
    passed_on = _passed_on(model.values)
    found = []
    for values in map(batch_flags.widths_apart, grid.span(axes)):
        method = values.get("method", "")
        for name in _DROPPED.get(method, ()):
            values.pop(name, None)
        real = method == batch_flags.REAL
        if real:
            _check_images(model, values)
        lines = [
            f"--{name}={value}"
            for name, value in values.items()
            if not (real and name in _OF_IMAGES)
        ]
        lines += passed_on
        if not real:
            # Samples are made by a command that does not know the widths.
            lines += needs.lines(quantize_flags.parse(lines))
        config = _config(lines, real=real)
        found.append(Point(values, tuple(lines), config))
    return found


def _config(lines: Sequence[str], *, real: bool) -> run_config.PipelineConfig:
    """What a run is asked for, which is given its samples if they are `real`.

    Of samples that are given others are held out than of those that are made.
    """
    config = quantize_flags.parse(lines)
    if not real:
        return needs.complete(config)
    given = dataclasses.replace(config, samples=batch_flags.REAL)
    return dataclasses.replace(needs.complete(given), samples="")


def with_held_out(count: int, most: int) -> int:
    """How many samples to give so that `count` of them calibrate.

    Args:
      count: at least 1.
      most: `--verify_samples`.

    Examples:
      >>> with_held_out(32, 16), with_held_out(484, 16)
      (40, 500)
    """
    # One sample more holds out one more or none, so that no count is missed.
    return next(
        total
        for total in range(count + most, 0, -1)
        if total - sample_sets.held_out(total, most) == count
    )


def _passed_on(values: flags.FlagValues) -> list[str]:
    """Lines of a flagfile with what is not as by default."""
    lines = []
    for name in batch_flags.PASSED_ON:
        flag = values[name]
        if flag.value != flag.default:
            lines += flag.serialize().split("\n")
    return lines


def _check_images(model: batch_models.Model, values: Mapping[str, str]) -> None:
    if not model.values.calibration_data:
        raise errors.UserError(
            "--calibration_data",
            got=f"nothing for {model.name}",
            expected=f"images: --method={batch_flags.REAL} calibrates with"
            " them",
        )
    if int(values.get("num_samples", 1)) < 1:
        raise errors.UserError(
            "--num_samples",
            got=values["num_samples"],
            expected="an integer >= 1",
        )
