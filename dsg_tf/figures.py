"""Pictures of how diverse samples are: DSG's Figures 1 and 2, of any model.

  python -m dsg_tf.figures --saved_model=path/to/saved_model \\
      --samples=zeroq=a.npz,dsg=b.npz,real=c.npz --output_dir=figures

References:
  Zhang, Qin et al., "Diversifying Sample Generation for Accurate Data-Free
  Quantization" (DSG), CVPR 2021, Figures 1 and 2.
"""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from absl import flags, logging

from dsg_tf.command_line import cli, quantize_flags
from dsg_tf.config import run_config
from dsg_tf.core import (
    disk_space,
    errors,
    files,
    overlaps,
    quiet,
    stages,
    staging,
    strict_json,
)
from dsg_tf.samples import sample_sets, sample_values

_USAGE = """
Draws how samples scatter at the BatchNorm layers of a model.

  python -m dsg_tf.figures --saved_model=PATH \\
      --samples=NAME=FILE,... --output_dir=FOLDER
"""

GROUPS = {
    "Model": (
        "saved_model",
        "signature",
        "tags",
        "input_shape",
        "allow_unsafe_ops",
    ),
    "Samples": ("samples", "count", "real"),
    "Figures": ("layers", "channels"),
    "Output": ("output_dir",),
}

# What of the folder a run writes: pictures, their captions, the numbers.
HISTOGRAMS = "moment_histograms"
BOXES = "moment_boxes"
NUMBERS = "diversity.json"
NAMES = (
    *(
        f"{name}.{kind}"
        for name in (HISTOGRAMS, BOXES)
        for kind in ("png", "txt")
    ),
    NUMBERS,
)

# Of an index: Python refuses to read thousands of digits.
_DIGITS = 9

_FLAGS = flags.FlagValues()


def _define(values: flags.FlagValues) -> None:
    whole = quantize_flags.own_values()
    for name in GROUPS["Model"]:
        values[name] = whole[name]
    flags.DEFINE_list(
        "samples",
        [],
        "Sets of samples as NAME=FILE (.npz, .npy), in the order of the"
        " legend; without NAME= a set is called after its file.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "count",
        256,
        "Samples of each set at most, the first ones.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_string(
        "real",
        "",
        "The set to compare the others with; default: the one called real,"
        " if there is one.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "layers",
        [],
        "BatchNorm layers of the histograms, by name or index from 0; default:"
        " first, middle and last.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "channels",
        [],
        "Channels of each such layer, by index from 0; default: a typical one.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "output_dir",
        None,
        "Folder for the pictures, their captions and diversity.json.",
        flag_values=values,
    )


_define(_FLAGS)


def parse_sets(texts: Sequence[str]) -> dict[str, str]:
    """File by name of the set.

    Raises:
      errors.UserError: no set, an empty name or file, or a name twice.

    Examples:
      >>> parse_sets(["dsg=out/a.npz", "images/real.npz"])
      {'dsg': 'out/a.npz', 'real': 'images/real.npz'}
    """
    sets: dict[str, str] = {}
    for text in texts:
        name, separator, path = text.partition("=")
        if not separator:
            name, path = pathlib.Path(text).stem, text
        if not name or not path or name in sets:
            raise errors.UserError(
                "--samples",
                got=f"{name!r} twice" if name and path else repr(text),
                expected="NAME=FILE, each with another name",
            )
        sets[name] = path
    if not sets:
        raise errors.UserError(
            "--samples",
            got="nothing",
            expected="sets of samples as NAME=FILE, separated by commas",
            remedy="--help lists all flags",
        )
    return sets


def choose_layers(texts: Sequence[str], names: Sequence[str]) -> list[int]:
    """Indices of layers that are given by name or by index.

    Raises:
      errors.UserError: there is no such layer.

    Examples:
      >>> choose_layers(["bn_b", "0"], ["bn_a", "bn_b"])
      [1, 0]
    """
    chosen = []
    for text in texts:
        if text in names:
            chosen.append(names.index(text))
        elif _is_index(text) and int(text) < len(names):
            chosen.append(int(text))
        else:
            raise errors.UserError(
                "--layers",
                got=repr(text),
                expected=f"0 to {len(names) - 1}, or one of "
                + ", ".join(sorted(names)),
            )
    return chosen


def _is_index(text: str) -> bool:
    """Whether a text is a whole number from 0, of a size that layers have."""
    return text.isdecimal() and len(text) <= _DIGITS


def parse_channels(texts: Sequence[str]) -> list[int]:
    """Channels' indices.

    Raises:
      errors.UserError: not whole numbers from 0.
    """
    for text in texts:
        if not _is_index(text):
            raise errors.UserError(
                "--channels", got=repr(text), expected="whole numbers from 0"
            )
    return [int(text) for text in texts]


def main() -> int:
    """Draws what the flags ask for; writes all of it or nothing."""
    cli.require(_FLAGS, "saved_model", "output_dir")
    paths = parse_sets(_FLAGS.samples)
    real = _real(paths)
    channels = parse_channels(_FLAGS.channels) or None
    folder = pathlib.Path(_FLAGS.output_dir)
    _check_folder(folder, paths)
    logging.set_verbosity(max(logging.get_verbosity(), logging.INFO))
    stages.set_folder(folder)
    contents = _contents(paths, real, channels)
    with stages.within("write"):
        _write(folder, contents)
    return 0


def _check_folder(folder: pathlib.Path, paths: Mapping[str, str]) -> None:
    """Refuses a folder that cannot be written, or in what is read."""
    flag = "--output_dir"
    inputs = {"--saved_model": _FLAGS.saved_model}
    inputs |= {f"the set {name}": path for name, path in paths.items()}
    members = [folder / name for name in NAMES]
    files.check_name(folder.absolute(), subject=flag)
    overlaps.refuse([folder, *members], inputs, subject=flag, holds=False)
    for member in members:
        files.refuse_special(member, expected="a picture of an earlier run")
    files.check_place(
        folder if folder.exists() else folder.absolute().parent, subject=flag
    )


def _write(folder: pathlib.Path, contents: Mapping[str, bytes | str]) -> None:
    """Writes all files, or none and no folder."""
    made = not folder.exists()
    with disk_space.reported(folder, every=True):
        folder.mkdir(exist_ok=True)
    try:
        with staging.Staging() as staged:
            for name, content in contents.items():
                staged.add(folder / name, content, tell=True)
            staged.place()
    except BaseException:
        if made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise
    for name in contents:
        logging.info("%s", folder / name)


def _check_finite(name: str, moments: Sequence) -> None:
    """Refuses samples whose moments are no numbers: there is no drawing them.

    Args:
      name: of the set.
      moments: `sample_moments.SampleMoments` of each layer.
    """
    for found in moments:
        sides = [x for x in (found.mean, found.deviation) if x is not None]
        if not np.isfinite(sides).all():
            raise errors.UserError(
                f"--samples, set {name!r}",
                got="values whose moments overflow in layer"
                f" {found.layer.name!r}",
                expected="samples in the range of the model's input",
            )


def _contents(
    paths: dict[str, str], real: str, channels: list[int] | None
) -> dict[str, bytes | str]:
    """Everything that is to be written, by file name."""
    with quiet.importing():
        from dsg_tf.analysis import source_model
        from dsg_tf.diversity import (
            diversity,
            moment_boxes,
            moment_histograms,
            sample_moments,
        )

    with stages.within("load"):
        source = source_model.load(
            _FLAGS.saved_model,
            run_config.PipelineConfig(
                **quantize_flags.model_fields(_FLAGS),
                samples=next(iter(paths.values())),
            ),
        )
        if not source.layers:
            raise errors.UserError(
                _FLAGS.saved_model,
                got="no BatchNormalization layer",
                expected="at least one, whose moments samples are held against",
                remedy="export the model before BN is folded",
            )
        # All sets are read before any is run: what is wrong is said at once.
        inputs = source.graph.inputs
        sets = {name: _read(path, inputs) for name, path in paths.items()}
    moments = {}
    for name, arrays in sets.items():
        with stages.within("moments"):
            moments[name] = sample_moments.of_graph(
                source.graph, arrays, layers=source.layers
            )
        _check_finite(name, moments[name])
    names = [x.layer.name for x in next(iter(moments.values()))]
    drawings = {
        HISTOGRAMS: moment_histograms.draw(
            moments,
            layers=choose_layers(_FLAGS.layers, names) or None,
            channels=channels,
        ),
        BOXES: moment_boxes.draw(moments, real=real),
    }
    numbers = {
        name: diversity.measure(
            side, moments[real] if real and name != real else ()
        )
        for name, side in moments.items()
    }
    for name, found in numbers.items():
        logging.info("%s: %s", name, diversity.in_words(found.median))
    contents: dict[str, bytes | str] = {}
    for name, drawn in drawings.items():
        contents[f"{name}.png"] = drawn.png()
        contents[f"{name}.txt"] = drawn.caption
    contents[NUMBERS] = strict_json.dumps(
        {name: found.to_dict() for name, found in numbers.items()}
    )
    return contents


def _real(paths: dict[str, str]) -> str:
    """The set to compare with; empty where there is none."""
    if not _FLAGS.real:
        return "real" if "real" in paths else ""
    if _FLAGS.real not in paths:
        raise errors.UserError(
            "--real",
            got=repr(_FLAGS.real),
            expected="one of " + ", ".join(sorted(paths)),
        )
    return _FLAGS.real


def _read(path: str, ports) -> dict[str, np.ndarray]:
    """The first samples of a file, checked, by input name.

    Their range is not checked: that samples lie far outside of it may be just
    what the figures are to show.
    """
    whole = sample_sets.read(path, inputs={p.name: p.shape[1:] for p in ports})
    arrays = {n: a[: _FLAGS.count] for n, a in whole.arrays.items()}
    for port in ports:
        integer = port.dtype.is_integer
        sample_values.check(
            path,
            port.name,
            arrays[port.name],
            minimum=float(port.dtype.min) if integer else -np.inf,
            maximum=float(port.dtype.max) if integer else np.inf,
            deviation=1.0,
            integer=integer,
        )
    return arrays


if __name__ == "__main__":
    cli.run(main, usage=_USAGE, groups=GROUPS, values=_FLAGS)
