"""Synthesis on a GPU: the rate of the step, its share of the peak, a whole run.

    python -m benchmarks.gpu --saved_model=PATH [--peak_tflops=67]

For batches of 8, 32, 128, ... until memory ends, or what the step gains does:
image-steps per second, and which share of the peak the products of a forward
pass and of the gradient by the images are. Then the seconds of a whole
`dsg_tf.quantize` with default settings. It needs a GPU that TensorFlow sees.
"""

from __future__ import annotations

import os
import tempfile

from absl import app, flags

from benchmarks import command, steps

_SAVED_MODEL = flags.DEFINE_string("saved_model", None, "The model.")
_PEAK = flags.DEFINE_float(
    "peak_tflops", 67.0, "Of the device in float32; an H100 has 67."
)
_SECONDS = 3.0
_LEAST_GAIN = 1.1


def main(argv: list[str]) -> None:
    del argv
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
        raise app.UsageError(
            "got no GPU that TensorFlow sees; expected one; install"
            " tensorflow[and-cuda] for your driver"
        )
    print("| batch | image-steps/s | share of the peak % |")
    print("| --- | --- | --- |", flush=True)
    best, batch = 0.0, 8
    while True:
        try:
            step = steps.Step(_SAVED_MODEL.value, batch)
            step.make()
            found = steps.rate(step.make, amount=batch, seconds=_SECONDS)
        except tf.errors.ResourceExhaustedError:
            break
        # A forward pass and the gradient by the images; two operations each.
        operations = 4 * steps.products(step.graph) / batch
        share = 100 * found * operations / (1e12 * _PEAK.value)
        print(f"| {batch} | {found:.0f} | {share:.1f} |", flush=True)
        if found < _LEAST_GAIN * best:
            break
        best, batch = found, 4 * batch
    with tempfile.TemporaryDirectory() as folder:
        output = os.path.join(folder, "model.tflite")
        seconds = command.quantize(_SAVED_MODEL.value, output).seconds
    print(f"\ndsg_tf.quantize: {seconds:.1f} s")


if __name__ == "__main__":
    flags.mark_flag_as_required("saved_model")
    app.run(main)
