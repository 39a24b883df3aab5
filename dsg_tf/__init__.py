"""dsg_tf: from a TensorFlow model to a verified integer .tflite, without data.

  >>> import dsg_tf
  >>> result = dsg_tf.quantize_model(
  ...     "path/to/saved_model", output="model_int8.tflite"
  ... )  # doctest: +SKIP

Names are loaded when they are first used, so that importing the package takes
no time and `--help` answers at once. Import it before TensorFlow: it turns on
the faster kernels.
"""

from __future__ import annotations

import importlib
import os
import sys

# TensorFlow reads this when it is first imported, and by itself leaves its
# oneDNN kernels off on many processors: depthwise convolutions and their
# gradients then take several times as long. Whoever sets it, wins.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

__version__ = "0.1.0"


def _is_command() -> bool:
    """Whether this process is one of dsg_tf's commands, about to start."""
    name = os.path.basename(sys.argv[0]) if sys.argv else ""
    if name != "-m":  # So it is while `python -m` looks for the module.
        return name in ("dsg-quantize", "dsg-batch", "dsg-inspect")
    at = sys.orig_argv.index("-m") if "-m" in sys.orig_argv else -1
    return sys.orig_argv[at + 1].startswith("dsg_tf.")


if _is_command():
    # Before all else: what is imported next takes a while, and Ctrl-C in it
    # would be a traceback.
    from dsg_tf.core import signals

    signals.install()

_MODULE_OF = {
    "ExportConfig": "dsg_tf.config.export_config",
    "PipelineConfig": "dsg_tf.config.run_config",
    "SynthesisConfig": "dsg_tf.config.synthesis_config",
    "Result": "dsg_tf.pipeline",
    "SampleSet": "dsg_tf.samples.sample_sets",
    "UserError": "dsg_tf.core.errors",
    "Inspection": "dsg_tf.report.inspection",
    "inspect_model": "dsg_tf.report.inspection",
    "load": "dsg_tf.graph.load.loading",
    "quantize_model": "dsg_tf.pipeline",
    "representative_dataset": "dsg_tf.pipeline",
    "synthesize": "dsg_tf.pipeline",
}

# Whole modules: Keras callbacks of syntheses and trainings; the transforms.
_MODULES = {
    "callbacks": "dsg_tf.pipeline.callbacks",
    "transforms": "dsg_tf.transforms",
}

__all__ = [
    "ExportConfig",
    "Inspection",
    "PipelineConfig",
    "Result",
    "SampleSet",
    "SynthesisConfig",
    "UserError",
    "callbacks",
    "inspect_model",
    "load",
    "quantize_model",
    "representative_dataset",
    "synthesize",
    "transforms",
]


def __getattr__(name: str):
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'dsg_tf' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
