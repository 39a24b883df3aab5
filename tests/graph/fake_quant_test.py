"""FakeQuant goes, its ranges stay."""

import numpy as np
import pytest
import tensorflow as tf

import dsg_tf
from dsg_tf.analysis import source_model
from dsg_tf.config import run_config, synthesis_config
from dsg_tf.core import errors
from dsg_tf.graph import evaluation, fake_quant
from dsg_tf.graph.load import loading
from dsg_tf.tflite import flatbuffer

_KERNEL = np.random.default_rng(0).normal(0, 0.5, (3, 3, 2, 6))
_DENSE = np.random.default_rng(1).normal(0, 0.5, (6, 4))
_SPEC = tf.TensorSpec((None, 8, 8, 2), tf.float32, name="image")


def _by_args(value, low, high):
    return tf.quantization.fake_quant_with_min_max_args(value, low, high)


def _by_vars(value, low, high):
    return tf.quantization.fake_quant_with_min_max_vars(value, low, high)


def _by_rounding(value, low, high):
    return tf.quantization.quantize_and_dequantize_v2(
        value, low, high, range_given=True
    )


_FORMS = [_by_args, _by_vars, _by_rounding]


def _network(form):
    @tf.function(input_signature=[_SPEC])
    def call(image):
        value = form(image, -3.0, 3.0)
        kernel = tf.quantization.fake_quant_with_min_max_vars_per_channel(
            np.float32(_KERNEL), [-2.0] * 6, [2.0] * 6, narrow_range=True
        )
        value = tf.nn.relu(tf.nn.conv2d(value, kernel, 1, "SAME"))
        value = tf.reduce_mean(form(value, 0.0, 7.0), [1, 2])
        return form(value @ np.float32(_DENSE), -20.0, 20.0)

    return call


def _fakes(graph):
    return [n.op for n in graph if "FakeQuant" in n.op or "Dequant" in n.op]


@pytest.mark.parametrize("form", _FORMS, ids=lambda form: form.__name__[1:])
def test_the_operations_go_and_the_ranges_stay(form):
    call = _network(form)
    graph = fake_quant.without(loading.load(call))
    assert _fakes(graph) == []
    bounds = sorted((r.min, r.max) for r in graph.ranges.values())
    assert bounds == [(-20.0, 20.0), (-3.0, 3.0), (0.0, 7.0)]
    image = np.random.default_rng(2).normal(size=(4, 8, 8, 2))
    image = np.clip(image, -2.9, 2.9).astype(np.float32)
    ((found,),) = evaluation.batches(
        graph, [graph.outputs[0].tensor], {"image": image}
    )
    np.testing.assert_allclose(found, call(image), atol=0.2)


def test_the_file_has_the_ranges_that_training_had(tmp_path):
    config = run_config.PipelineConfig(
        synthesis=synthesis_config.SynthesisConfig.of("noise", num_samples=4),
        verify_samples=4,
    )
    result = dsg_tf.quantize_model(
        _network(_by_args), output=tmp_path / "net.tflite", config=config
    )
    widths = {
        round(float(t.params.scale[0]) * 255, 3)
        for t in flatbuffer.read(result.tflite).tensors
        if t.params is not None and t.params.scale.size == 1
    }
    assert {6.0, 7.0, 40.0} <= widths


def test_a_model_that_is_quantized_already_is_named():
    @tf.function(input_signature=[tf.TensorSpec((None, 3), tf.float32, "x")])
    def call(x):
        codes = tf.quantization.quantize(x, -1.0, 1.0, tf.quint8)
        return tf.quantization.dequantize(codes.output, -1.0, 1.0)

    with pytest.raises(errors.UserError, match="quantized already"):
        source_model.load(call, run_config.PipelineConfig())


def test_a_graph_without_them_knows_no_ranges():
    @tf.function(input_signature=[tf.TensorSpec((None, 3), tf.float32, "x")])
    def call(x):
        return tf.nn.relu(x)

    graph = loading.load(call)
    assert fake_quant.without(graph) is graph
