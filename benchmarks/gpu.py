"""Synthesis on a GPU: the rate of the step, its share of the peak, a whole run.

    python -m benchmarks.gpu --saved_model=PATH [--peak_tflops=67]

For batches of 8, 32 and 128, operation by operation and compiled by XLA:
image-steps per second, and which share of the peak the products of a forward
pass and of the gradient by the images are. Then the seconds of a whole
`dsg_tf.quantize`, with default settings and with 64 samples of 300 steps, on
the GPU and on the CPU of the same machine. It needs a GPU that TensorFlow sees.
"""

from __future__ import annotations

import itertools
import os
import pathlib
import tempfile
from unittest import mock

from absl import app, flags

from benchmarks import command, steps

_SAVED_MODEL = flags.DEFINE_string("saved_model", None, "The model.")
_PEAK = flags.DEFINE_float(
    "peak_tflops", 67.0, "Of the device in float32; an H100 has 67."
)
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", "", "A folder for the .tflite files; deleted where not given."
)
_SECONDS = 3.0
_RUNS = {
    "default": (),
    "64 x 300": ("--num_samples=64", "--batch_size=32", "--steps=300"),
}
_DEVICES = {"GPU": {}, "CPU": {"CUDA_VISIBLE_DEVICES": "-1"}}


def main(argv: list[str]) -> None:
    del argv
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU"):
        raise app.UsageError(
            "got no GPU that TensorFlow sees; expected one; install"
            " tensorflow[and-cuda] for your driver"
        )
    print("| batch | compiled | image-steps/s | share of the peak % |")
    print("| --- | --- | --- | --- |", flush=True)
    # The views of each sample are operations of their own: a step of 512 takes
    # minutes to compile.
    for compiled, batch in itertools.product((False, True), (8, 32, 128)):
        step = steps.Step(_SAVED_MODEL.value, batch, compiled=compiled)
        step.make()
        found = steps.rate(step.make, amount=batch, seconds=_SECONDS)
        # A forward pass and the gradient by the images; two operations each.
        operations = 4 * steps.products(step.graph) / batch
        share = 100 * found * operations / (1e12 * _PEAK.value)
        word = "by XLA" if compiled else "no"
        print(f"| {batch} | {word} | {found:.0f} | {share:.1f} |", flush=True)
    print("\n| run | device | s |\n| --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(_OUTPUT_DIR.value or temporary)
        for name, arguments in _RUNS.items():
            for device, environment in _DEVICES.items():
                output = folder / f"{name.replace(' ', '_')}_{device}.tflite"
                with mock.patch.dict(os.environ, environment):
                    cost = command.quantize(
                        _SAVED_MODEL.value, output, *arguments
                    )
                print(f"| {name} | {device} | {cost.seconds:.1f} |", flush=True)


if __name__ == "__main__":
    flags.mark_flag_as_required("saved_model")
    app.run(main)
