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

import time
from collections.abc import Callable

import numpy as np
from absl import app, flags

_SAVED_MODEL = flags.DEFINE_string("saved_model", None, "The model.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Images per step.", 1)
_SECONDS = flags.DEFINE_float("seconds", 3.0, "Per turn; there are 3 turns.")

_MATRIX = 1024
_COPIED_BYTES = 256_000_000


def rate(work: Callable[[], object], *, amount: float, seconds: float) -> float:
    """Amount per second of repeated calls to `work`."""
    calls, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        work()
        calls += 1
    return calls * amount / (time.perf_counter() - start)


def products(graph) -> float:
    """Multiplications of all layers for the graph's batch.

    Args:
      graph: a frozen graph of a known batch size.
    """
    from dsg_tf.analysis import linear_layers

    total = 0.0
    for layer in linear_layers.find(graph):
        outputs = np.prod(graph.shape(graph[layer.node].output))
        total += float(outputs) * layer.rows().shape[1]
    return total


def feature_bytes(graph) -> float:
    """Bytes of all feature maps that layers and activations write, float32."""
    activations = ("Relu", "Relu6", "Sigmoid", "AddV2", "Mul")
    nodes = {
        node.name
        for node in graph
        if node.op in activations and not graph.is_constant(node.output)
    }
    from dsg_tf.analysis import linear_layers

    nodes |= {layer.node for layer in linear_layers.find(graph)}
    shapes = [graph.shape(graph[name].output) for name in nodes]
    return 4.0 * sum(float(np.prod(s)) for s in shapes if s and None not in s)


def main(argv: list[str]) -> None:
    del argv
    import tensorflow as tf

    from dsg_tf.analysis import source_model
    from dsg_tf.config import needs, run_config, synthesis_config
    from dsg_tf.graph import frozen
    from dsg_tf.synthesis import callbacks, run

    batch = _BATCH_SIZE.value
    settings = needs.complete(
        run_config.PipelineConfig(
            synthesis=synthesis_config.SynthesisConfig(
                batch_size=batch, fill="wrap"
            )
        )
    )
    source = source_model.load(_SAVED_MODEL.value, settings)
    graph = run.with_float_inputs(source.graph)
    model = run.build(
        graph,
        source.layers,
        domains=source.domains,
        config=settings.synthesis,
    )
    model.reset(0)
    targets = callbacks.BatchNormTargets()
    targets.set_model(model)
    targets.on_train_begin()
    # The step as fit runs it: traced, on fixed shapes.
    step = tf.function(lambda: model.train_step(None)["loss"], autograph=False)
    values = model.values()
    left = tf.random.normal((_MATRIX, _MATRIX))
    multiply = tf.function(lambda m: tf.matmul(m, m))
    source_bytes = np.ones(_COPIED_BYTES // 4, np.float32)
    copy = np.empty_like(source_bytes)
    works = (
        (lambda: step().numpy(), batch),
        (lambda: model.features(values), batch),
        (lambda: multiply(left).numpy(), float(_MATRIX) ** 3),
        (lambda: np.copyto(copy, source_bytes), 2.0 * _COPIED_BYTES),
    )
    with frozen.in_fixed_order():
        for work, _ in works:
            work()
        rates = [
            [
                rate(work, amount=amount, seconds=_SECONDS.value)
                for work, amount in works
            ]
            for _ in range(3)
        ]
    stepping, forwarding, multiplying, copying = np.median(rates, axis=0)
    known = model.measured_graph
    least_s = (
        2 * products(known) / multiplying + 4 * feature_bytes(known) / copying
    )
    print(
        f"{stepping:.0f} image-steps/s; forward pass {forwarding:.0f} images/s;"
        f" floor {batch / least_s:.0f} image-steps/s"
        f" ({2e-9 * multiplying:.0f} GFLOP/s, {1e-9 * copying:.1f} GB/s)"
    )


if __name__ == "__main__":
    flags.mark_flag_as_required("saved_model")
    app.run(main)
