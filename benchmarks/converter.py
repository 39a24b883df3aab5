"""What users would do instead: TFLiteConverter with real images.

    python -m benchmarks.converter --case=mobilenet --output=model.tflite

Calibrates with the first 100 images that are set aside for it, int8 with float
inputs and outputs, as `dsg_tf.quantize` writes by default.
"""

from __future__ import annotations

import pathlib

from absl import app, flags

from benchmarks import cases, keras_files

_CASE = flags.DEFINE_string("case", None, "A key of `cases.CASES`.")
_SHARED = flags.DEFINE_string("shared", "../shared", "Models and images.")
_OUTPUT = flags.DEFINE_string("output", None, "The .tflite to write.")
_IMAGES = flags.DEFINE_integer("images", 100, "Images to calibrate with.", 1)


def main(argv: list[str]) -> None:
    del argv
    import tensorflow as tf

    shared = pathlib.Path(_SHARED.value)
    case = cases.CASES[_CASE.value]
    images, _ = cases.load_images(case, shared, tuning=True)
    path = shared / case.model
    if path.is_dir():
        converter = tf.lite.TFLiteConverter.from_saved_model(str(path))
    else:
        converter = tf.lite.TFLiteConverter.from_keras_model(
            keras_files.load(path)
        )
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.representative_dataset = lambda: (
        [image[None]] for image in images[: _IMAGES.value]
    )
    pathlib.Path(_OUTPUT.value).write_bytes(converter.convert())


if __name__ == "__main__":
    flags.mark_flags_as_required(["case", "output"])
    app.run(main)
