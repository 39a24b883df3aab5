"""Samples for a model, without quantizing it.

  python -m dsg_tf.synthetic_samples --saved_model=path/to/saved_model

The same samples that `dsg_tf.quantize` makes with these flags: laid into its
run folder as samples.npz, they serve it.
"""

from __future__ import annotations

import pathlib

from absl import flags, logging

from dsg_tf.command_line import cli, quantize_flags
from dsg_tf.config import needs
from dsg_tf.core import files, quiet, stages
from dsg_tf.graph.load import formats

_USAGE = """
Synthesises samples for a model, without data and without quantizing it.

  python -m dsg_tf.synthetic_samples --saved_model=PATH [--output=OUT.npz]
"""

GROUPS = {
    "Model": quantize_flags.GROUPS["Model"],
    "Samples": (
        *(n for n in quantize_flags.GROUPS["Samples"] if n != "samples"),
        "verify_samples",
    ),
    "Output": ("output",),
}

_FLAGS = flags.FlagValues()


def _define(values: flags.FlagValues) -> None:
    whole = quantize_flags.own_values()
    for names in GROUPS.values():
        for name in names:
            values[name] = whole[name]
    values[
        "output"
    ].help = "The samples.npz to write; default: samples.npz in this folder."


_define(_FLAGS)


def main() -> int:
    """Makes the samples that the flags ask for."""
    cli.require(_FLAGS, "saved_model")
    config = needs.complete(quantize_flags.model_and_samples_config(_FLAGS))
    output = pathlib.Path(_FLAGS.output or "samples.npz")
    logging.set_verbosity(max(logging.get_verbosity(), logging.INFO))
    # Wrong paths are told before TensorFlow is imported.
    formats.find(
        pathlib.Path(_FLAGS.saved_model), needs_moments=config.needs_moments
    )
    stages.set_folder(files.run_folder(output))
    with quiet.importing():
        from dsg_tf import pipeline

    with stages.within("samples"):
        made = pipeline.synthesize(
            _FLAGS.saved_model,
            output=output,
            config=config,
            further=config.verify_samples,
        )
    logging.info("%d samples: %s", len(made), output)
    return 0


if __name__ == "__main__":
    cli.run(
        main,
        usage=_USAGE,
        groups=GROUPS,
        values=_FLAGS,
        resumes=lambda: True,
    )
