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

# TensorFlow reads this when it is first imported, and by itself leaves its
# oneDNN kernels off on many processors: depthwise convolutions and their
# gradients then take several times as long. Whoever sets it, wins.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

__version__ = "0.1.0"

_MODULE_OF = {
    "ExportConfig": "dsg_tf.export_config",
    "PipelineConfig": "dsg_tf.config",
    "SynthesisConfig": "dsg_tf.synthesis_config",
    "UserError": "dsg_tf.errors",
    "quantize_model": "dsg_tf.pipeline",
    "representative_dataset": "dsg_tf.pipeline",
    "synthesize": "dsg_tf.pipeline",
}

__all__ = [
    "ExportConfig",
    "PipelineConfig",
    "SynthesisConfig",
    "UserError",
    "quantize_model",
    "representative_dataset",
    "synthesize",
]


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'dsg_tf' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
