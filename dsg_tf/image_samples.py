"""Samples from real images: what `dsg_tf.quantize --samples` takes.

  python -m dsg_tf.image_samples --data=calibration_images \\
      --preprocess=symmetric --output=samples.npz

For models with one input; calibration on real data is the comparison that every
method without data has to stand.
"""

from __future__ import annotations

import pathlib

import numpy as np
from absl import flags, logging

from dsg_tf.command_line import cli, image_flags
from dsg_tf.core import disk_space, files, stages, staging
from dsg_tf.samples import labelled_images

_USAGE = """
Real images as samples for dsg_tf.quantize.

  python -m dsg_tf.image_samples --data=FILE_OR_FOLDER --output=SAMPLES.npz
"""

GROUPS = {
    "Images": ("data", "num_samples", "seed", *image_flags.NAMES),
    "Output": ("output",),
}

_FLAGS = flags.FlagValues()


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "data",
        None,
        "An .npz with images, or a folder of image files; labels are not used.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "num_samples",
        None,
        "At most this many, drawn at random; default: all, as stored.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "seed", 0, "Seed of the draw.", lower_bound=0, flag_values=values
    )
    flags.DEFINE_string(
        "output", None, "The .npz to write.", flag_values=values
    )
    image_flags.define(values)


_define(_FLAGS)


def draw(images: np.ndarray, count: int | None, seed: int) -> np.ndarray:
    """Images drawn at random, without repetition.

    Args:
      images: (N, ...).
      count: how many; None, or N and more, takes all as they are stored.
      seed: of the draw; more images of one seed contain the fewer.

    Examples:
      >>> draw(np.arange(4), 2, 0).tolist()
      [2, 0]
    """
    if count is None or count >= len(images):
        return images
    return images[np.random.default_rng(seed).permutation(len(images))[:count]]


def write(output: pathlib.Path, images: np.ndarray) -> None:
    """Writes samples float32 (N, ...), all of them or none."""
    with (
        staging.file(output, tell=True) as temporary,
        disk_space.reported(output, bytes_needed=images.nbytes, every=True),
        temporary.open("wb") as file,
    ):
        # One array beside none: it serves an input of any name.
        np.savez(file, images=images)


def main() -> int:
    """Writes the samples that the flags ask for."""
    cli.require(_FLAGS, "data", "output")
    image_flags.check(_FLAGS)
    output = files.destination(_FLAGS.output, {"--data": _FLAGS.data})
    logging.set_verbosity(max(logging.get_verbosity(), logging.INFO))
    with stages.within("read images"):
        found = labelled_images.load_unlabelled(_FLAGS.data)
        images = draw(found, _FLAGS.num_samples, _FLAGS.seed)
    with stages.within("write"):
        write(output, image_flags.preprocess(_FLAGS, images))
    logging.info("%d of %d images: %s", len(images), len(found), output)
    return 0


if __name__ == "__main__":
    cli.run(main, usage=_USAGE, groups=GROUPS, values=_FLAGS)
