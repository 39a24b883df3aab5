"""Speed of the synthesis step, against the forward pass of the same graph.

    python -m benchmarks.synthesis_speed --saved_model=PATH [--batch_size=16]

Prints image-steps per second of the traced step (all terms of the loss, the
gradient by the images, Adam), images per second of the bare forward pass to
the BatchNorm inputs, measured in turns within the same minute, and their
ratio. The gradient by the images costs at least one forward pass; TensorFlow's
depthwise convolutions make it dearer on CPU. A ratio far above 5 would mean
that weight gradients or retracing are paid for.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from absl import app, flags

_SAVED_MODEL = flags.DEFINE_string("saved_model", None, "The model.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Images per step.", 1)
_SECONDS = flags.DEFINE_float("seconds", 3.0, "Per turn; there are 3 turns.")


def rate(work: Callable[[], object], *, images: int, seconds: float) -> float:
    """Images per second of repeated calls to `work`."""
    calls, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        work()
        calls += 1
    return calls * images / (time.perf_counter() - start)


def main(argv: list[str]) -> None:
    del argv
    import keras
    import tensorflow as tf

    from dsg_tf import config, source_model, synthesis_config
    from dsg_tf.graph import frozen
    from dsg_tf.synthesis import callbacks, run, synthesizer

    batch = _BATCH_SIZE.value
    settings = config.PipelineConfig(
        synthesis=synthesis_config.SynthesisConfig(batch_size=batch)
    )
    source = source_model.load(_SAVED_MODEL.value, settings)
    graph = run.with_float_inputs(source.graph)
    model = synthesizer.Synthesizer(
        graph,
        source.layers,
        domains=source.domains,
        head=source.head,
        config=settings.synthesis,
    )
    model.compile(optimizer=keras.optimizers.Adam(0.1), jit_compile=False)
    model.reset(0)
    targets = callbacks.BatchNormTargets()
    targets.set_model(model)
    targets.on_train_begin()
    # The step and the forward pass as fit runs them: traced, on fixed shapes.
    step = tf.function(lambda: model.train_step(None)["loss"])
    inputs = {n: tf.constant(v) for n, v in model.values().items()}
    # The inputs are arguments: captured, they would be folded away.
    traced = tf.function(lambda values: [m for m, _ in model.features(values)])

    def forward():
        return traced(inputs)

    with frozen.in_fixed_order():
        for work in (step, forward):
            work()
        rates = [
            (
                rate(
                    lambda: step().numpy(),
                    images=batch,
                    seconds=_SECONDS.value,
                ),
                rate(
                    lambda: forward()[-1].numpy(),
                    images=batch,
                    seconds=_SECONDS.value,
                ),
            )
            for _ in range(3)
        ]
    stepping, forwarding = np.median(rates, axis=0)
    print(
        f"{stepping:.0f} image-steps/s; forward pass {forwarding:.0f} images/s;"
        f" a step costs {forwarding / stepping:.2f} forward passes"
    )


if __name__ == "__main__":
    flags.mark_flag_as_required("saved_model")
    app.run(main)
