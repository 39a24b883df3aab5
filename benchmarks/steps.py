"""The step of synthesis by itself, and what it has to do at least."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np


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


class Step:
    """The step of a model as `fit` runs it: traced, on fixed shapes.

    Args:
      saved_model: path of the model.
      batch_size: images a step.
      compiled: whether by XLA.
    """

    def __init__(
        self, saved_model: str, batch_size: int, *, compiled: bool = False
    ):
        import tensorflow as tf

        from dsg_tf.analysis import source_model
        from dsg_tf.config import needs, run_config, synthesis_config
        from dsg_tf.synthesis import callbacks, run

        settings = needs.complete(
            run_config.PipelineConfig(
                synthesis=synthesis_config.SynthesisConfig(
                    batch_size=batch_size, fill="wrap"
                )
            )
        )
        source = source_model.load(saved_model, settings)
        self._model = run.build(
            run.with_float_inputs(source.graph),
            source.layers,
            domains=source.domains,
            config=settings.synthesis,
        )
        self._model.reset(0)
        targets = callbacks.BatchNormTargets()
        targets.set_model(self._model)
        targets.on_train_begin()
        self._step = tf.function(
            lambda: self._model.train_step(None)["loss"],
            autograph=False,
            jit_compile=compiled,
        )
        self._values = self._model.values()

    def make(self) -> None:
        """Makes a step, and waits for it."""
        self._step().numpy()

    def forward(self) -> None:
        """A forward pass to the BatchNorm moments."""
        self._model.features(self._values)

    @property
    def graph(self):
        """The graph that is measured, of the batch size."""
        return self._model.measured_graph
