"""From a float .tflite and real images to int8, beside TFLiteConverter.

    python -m benchmarks.float_tflite [--granularity=tensor]

Converts MobileNetV1 0.25 to a float .tflite by TFLiteConverter, quantizes that
file with the 100 calibration images, and evaluates it; and MLPerf's float
ResNet-8 .tflite with 100 training images. Prints top-1 for
docs/explanation/models.md.
"""

from __future__ import annotations

import contextlib
import pathlib
import sys
import tempfile

from absl import app, flags, logging

from benchmarks import command, keras_files
from dsg_tf.fidelity import classifiers
from dsg_tf.samples import labelled_images

_SHARED = flags.DEFINE_string("shared", "../shared", "Models and images.")
_GRANULARITY = flags.DEFINE_enum(
    "granularity", "channel", ("channel", "tensor"), "Of weight scales."
)
# Float .tflite, or the model to make it of; images to calibrate with and to
# evaluate on; preprocessing as a flag, and as (factor, shift).
_CASES = (
    (
        *("mobilenet_v1_025_224.keras", "imagenet_calib_100"),
        *("imagenet_eval_400", "symmetric", (1 / 127.5, -1.0)),
    ),
    (
        *("mlperf_tiny_resnet8/pretrainedResnet.tflite",),
        *("cifar10_train_1k.npz", "cifar10_test_1k.npz", "none", (1.0, 0.0)),
    ),
)


def measure(folder: pathlib.Path, case: tuple) -> float:
    """Top-1 of the int8 file, percent."""
    name, tuning, evaluation, preprocess, (factor, shift) = case
    shared = pathlib.Path(_SHARED.value)
    source = shared / "models" / name
    if source.suffix != ".tflite":
        import tensorflow as tf

        converter = tf.lite.TFLiteConverter.from_keras_model(
            keras_files.load(source)
        )
        with contextlib.redirect_stdout(sys.stderr):  # Keras lists variables.
            made = converter.convert()
        source = folder / f"{source.stem}.tflite"
        source.write_bytes(made)
    samples, output = folder / "images.npz", folder / "int8.tflite"
    command.run(
        [
            *(sys.executable, "-m", "dsg_tf.image_samples"),
            *(f"--data={shared / 'data' / tuning}", "--num_samples=100"),
            *(f"--preprocess={preprocess}", f"--output={samples}"),
        ]
    )
    command.quantize(
        source,
        output,
        f"--samples={samples}",
        f"--granularity={_GRANULARITY.value}",
    )
    images, labels = labelled_images.load(str(shared / "data" / evaluation))
    predict = classifiers.load_predictor(str(output))
    values = images.astype("float32") * factor + shift
    return classifiers.top1(predict, values, labels).percent


def main(argv: list[str]) -> None:
    """Prints top-1 of each case."""
    del argv
    for case in _CASES:
        with tempfile.TemporaryDirectory() as folder:
            top1 = measure(pathlib.Path(folder), case)
        print(f"{case[0]}, {_GRANULARITY.value}: {top1:.2f}", flush=True)


if __name__ == "__main__":
    logging.set_verbosity(logging.WARNING)
    app.run(main)
