"""Speed of the synthesis step, beside what the machine could do at best.

    python -m benchmarks.synthesis_speed --saved_model=PATH [--batch_size=8]

Prints, measured in turns within the same minute:

* image-steps per second of the step as `fit` runs it: all terms of the loss,
  the gradient by the images, Adam;
* images per second of a forward pass to the BatchNorm moments;
* the floor: the products of a forward pass and of the gradient by the images at
  the rate of one large matrix product, plus every feature map written and read
  once forward and once backward, at the rate of a copy. No step can beat it
  without keeping feature maps in the cache.
"""

from __future__ import annotations

import numpy as np
from absl import app, flags

from benchmarks import steps

_SAVED_MODEL = flags.DEFINE_string("saved_model", None, "The model.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Images per step.", 1)
_SECONDS = flags.DEFINE_float("seconds", 3.0, "Per turn; there are 3 turns.")

_MATRIX = 1024
_COPIED_BYTES = 256_000_000


def main(argv: list[str]) -> None:
    del argv
    import tensorflow as tf

    from dsg_tf.graph import frozen

    batch = _BATCH_SIZE.value
    step = steps.Step(_SAVED_MODEL.value, batch)
    left = tf.random.normal((_MATRIX, _MATRIX))
    multiply = tf.function(lambda m: tf.matmul(m, m))
    source_bytes = np.ones(_COPIED_BYTES // 4, np.float32)
    copy = np.empty_like(source_bytes)
    works = (
        (step.make, batch),
        (step.forward, batch),
        (lambda: multiply(left).numpy(), float(_MATRIX) ** 3),
        (lambda: np.copyto(copy, source_bytes), 2.0 * _COPIED_BYTES),
    )
    with frozen.in_fixed_order():
        for work, _ in works:
            work()
        rates = [
            [
                steps.rate(work, amount=amount, seconds=_SECONDS.value)
                for work, amount in works
            ]
            for _ in range(3)
        ]
    stepping, forwarding, multiplying, copying = np.median(rates, axis=0)
    size = steps.feature_bytes(step.graph)
    least_s = 2 * steps.products(step.graph) / multiplying + 4 * size / copying
    print(
        f"{stepping:.0f} image-steps/s; forward pass {forwarding:.0f} images/s;"
        f" floor {batch / least_s:.0f} image-steps/s"
        f" ({2e-9 * multiplying:.0f} GFLOP/s, {1e-9 * copying:.1f} GB/s);"
        f" feature maps of a batch {1e-6 * size:.0f} MB"
    )


if __name__ == "__main__":
    flags.mark_flag_as_required("saved_model")
    app.run(main)
