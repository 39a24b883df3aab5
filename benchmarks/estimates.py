"""What `dsg_tf.inspect` expects of a run, beside what the run takes.

    python -m benchmarks.estimates [--models=a.keras,b.h5] [--flag=...]

Each model is inspected and then quantized, in processes of their own. Prints a
Markdown table; docs/how_to/inspect.md holds its output.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import tempfile
import time

from absl import app, flags, logging

from benchmarks import command

_SHARED = flags.DEFINE_string("shared", "../shared", "Models.")
_MODELS = flags.DEFINE_list(
    "models",
    [
        "mlperf_tiny_resnet8/pretrainedResnet.h5",
        "resnet20_cifar10.keras",
        "mobilenet_v1_025_224.keras",
        "vgg16bn_cifar10.keras",
        "zoo/mobilenet_v2_tv/mobilenet_v2_tv.keras",
        "zoo/effnet_lite0/effnet_lite0.keras",
        "zoo/aizoo_facemask/aizoo_facemask.h5",
        "zoo/crepe_tiny/crepe_tiny.h5",
    ],
    "Below the folder of models.",
)
_FLAGS = flags.DEFINE_multi_string(
    "flag", [], "A further flag, for both commands."
)
_HEADINGS = (
    *("model", "inspected in, s", "expected s", "s", "expected GB", "GB"),
    *("expected kB", "kB"),
)


def measure(path: pathlib.Path) -> list[str]:
    """A row of the table."""
    start = time.monotonic()
    told = subprocess.run(
        [
            *(sys.executable, "-m", "dsg_tf.inspect", "--format=json"),
            *(f"--saved_model={path}", *_FLAGS.value),
        ],
        check=True,
        stdout=subprocess.PIPE,
    ).stdout
    inspected_s = time.monotonic() - start
    expected = json.loads(told)
    with tempfile.TemporaryDirectory() as folder:
        output = pathlib.Path(folder) / "net.tflite"
        taken = command.quantize(path, output, *_FLAGS.value)
        size = output.stat().st_size
    return [
        path.name,
        f"{inspected_s:.0f}",
        f"{expected['cost']['seconds']['total']:.0f}",
        f"{taken.seconds:.0f}",
        f"{expected['cost']['peak_gb']:.1f}",
        f"{taken.peak_bytes / 1e9:.1f}",
        f"{expected['integer_bytes'] / 1e3:.0f}",
        f"{size / 1e3:.0f}",
    ]


def main(argv: list[str]) -> None:
    """Prints the table."""
    del argv
    print(f"| {' | '.join(_HEADINGS)} |")
    print(f"|{' --- |' * len(_HEADINGS)}")
    for name in _MODELS.value:
        row = measure(pathlib.Path(_SHARED.value) / "models" / name)
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    logging.set_verbosity(logging.WARNING)
    app.run(main)
