"""From a trained TensorFlow model to a verified integer .tflite, without data.

  python -m dsg_tf.quantize --saved_model=path/to/saved_model

This module only turns flags into a `PipelineConfig`; `dsg_tf.pipeline` works.
"""

from __future__ import annotations

import pathlib

from absl import flags, logging

from dsg_tf.command_line import cli, quantize_flags
from dsg_tf.config import export_config
from dsg_tf.core import files, quiet, stages
from dsg_tf.graph.load import formats

_USAGE = """
Quantizes a trained TensorFlow model to an integer .tflite, without data.

  python -m dsg_tf.quantize --saved_model=PATH [--output=OUT.tflite] [flags]
"""

quantize_flags.define(flags.FLAGS)
flags.DEFINE_bool(
    "dry_run",
    False,
    "Inspect the model, tell what a run would find and cost, and stop.",
)
GROUPS = {
    title: (*names, "dry_run") if title == "Output" else names
    for title, names in quantize_flags.GROUPS.items()
}


def default_output(model: str, export: export_config.ExportConfig) -> str:
    """A name in this folder, after a model's path and the widths.

    Examples:
      >>> int8 = export_config.ExportConfig()
      >>> default_output("zoo/mobilenet.keras", int8)
      'mobilenet_int8.tflite'
      >>> w4a6 = export_config.ExportConfig(weight_bits=4, activation_bits=6)
      >>> default_output("zoo/net/", w4a6)
      'net_w4a6_simulated'
    """
    path = pathlib.Path(model).absolute()
    stem = (
        path.stem
        if path.suffix in (".keras", ".h5", ".hdf5", ".pb", ".tflite")
        else path.name
    )
    bits = export.weight_bits, export.activation_bits
    if bits == (8, 8):
        return f"{stem}_int8.tflite"
    ending = "_simulated" if export.simulated else ".tflite"
    return "{}_w{}a{}{}".format(stem, *bits, ending)


def main() -> int:
    """Runs the pipeline that the flags ask for; returns the exit code."""
    cli.require(flags.FLAGS, "saved_model")
    config = quantize_flags.pipeline_config(flags.FLAGS)
    source = files.saved_model_folder(pathlib.Path(flags.FLAGS.saved_model))
    model = str(source)
    output = flags.FLAGS.output or default_output(model, config.export)
    logging.set_verbosity(max(logging.get_verbosity(), logging.INFO))
    # Wrong paths are told before TensorFlow is imported.
    if not config.export.simulated:
        files.run_destination(pathlib.Path(output), {"the model": model})
    formats.find(source, needs_moments=config.needs_moments)
    if flags.FLAGS.dry_run:
        with quiet.importing():
            from dsg_tf.report import inspection_table
        return inspection_table.run(model, config)
    stages.set_folder(files.run_folder(pathlib.Path(output)))
    with quiet.importing():
        from dsg_tf import pipeline
        from dsg_tf.report import terminal

    result = pipeline.quantize_model(model, output=output, config=config)
    with stages.within("report"):
        terminal.show(result.report)
    return 0 if result.passed else 2


if __name__ == "__main__":
    cli.run(
        main,
        usage=_USAGE,
        groups=GROUPS,
        resumes=lambda: flags.FLAGS.resume,
    )
