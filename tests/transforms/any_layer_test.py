"""Every layer of Keras with weights: exact passes, an int8 file, read back."""

import hypothesis
import numpy as np

from dsg_tf.config import export_config
from dsg_tf.export import calibration, tflite_writer
from dsg_tf.graph import evaluation
from dsg_tf.graph.load import loading
from dsg_tf.tflite import export, interpreter, readback
from dsg_tf.transforms import passes
from tests import drawn_layers


def _values(graph, samples):
    tensors = [port.tensor for port in graph.outputs]
    (batch,) = evaluation.batches(graph, tensors, samples)
    return np.asarray(batch[0])


@hypothesis.settings(max_examples=12, derandomize=True)
@hypothesis.given(drawn_layers.models())
def test_what_the_converter_takes_it_takes_after_the_passes(drawn):
    graph = loading.load(drawn_layers.build(drawn))
    tflite_writer.to_float_tflite(graph)
    rng = np.random.default_rng(1)
    samples = {
        port.name: rng.normal(size=(4, *port.shape[1:])).astype(np.float32)
        for port in graph.inputs
    }
    expected = _values(graph, samples)
    config = export_config.ExportConfig(recipe="balanced")
    prepared = passes.run(graph, samples, config)
    scale = np.abs(expected).max() + 1e-6
    found = _values(prepared.reference, samples)
    np.testing.assert_allclose(found / scale, expected / scale, atol=1e-5)
    float_tflite = tflite_writer.to_float_tflite(prepared.graph)
    exported = export.export(
        float_tflite, calibration.calibrate(float_tflite, samples)
    )
    readback.check(exported.model, exported.requested)
    (int8,) = interpreter.Interpreter(exported.model).run(samples).values()
    noise = np.sum(np.square(int8 - expected)) + 1e-12
    assert np.sum(np.square(expected)) / noise > 10 ** (15 / 10)
