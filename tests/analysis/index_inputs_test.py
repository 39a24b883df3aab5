"""Inputs that index a table know their range, and are drawn from it."""

import numpy as np
import pytest
import tensorflow as tf

import dsg_tf
from dsg_tf.analysis import domain_recovery, index_inputs
from dsg_tf.config import run_config, synthesis_config
from dsg_tf.graph.load import loading


def _network(dtype, *, normalized=True):
    import keras

    layers = keras.layers
    keras.utils.set_random_seed(0)
    ids = keras.Input((6,), dtype=dtype, name="ids")
    value = layers.Embedding(7, 4)(ids)
    value = layers.Conv1D(8, 3, use_bias=False)(value)
    if normalized:
        value = layers.BatchNormalization()(value)
    value = layers.GlobalAveragePooling1D()(layers.ReLU()(value))
    return keras.Model(ids, layers.Dense(3, name="scores")(value))


@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_the_range_is_that_of_the_table(dtype):
    graph = loading.load(_network(dtype))
    assert index_inputs.table_size(graph, graph.inputs[0]) == 7
    domain = domain_recovery.recover(graph, "ids", layers=())
    assert (domain.minimum, domain.maximum, domain.integer) == (0, 6, True)
    assert domain.table == 7


def test_one_hot_is_a_table_too():
    @tf.function(input_signature=[tf.TensorSpec((None, 2), tf.int32, "x")])
    def letters(x):
        return tf.one_hot(x, 4) * 2.0

    graph = loading.load(letters)
    assert index_inputs.table_size(graph, graph.inputs[0]) == 4


def test_pixels_index_nothing():
    @tf.function(input_signature=[tf.TensorSpec((None, 2), tf.uint8, "x")])
    def doubled(x):
        return tf.cast(x, tf.float32) * 2.0

    graph = loading.load(doubled)
    assert index_inputs.table_size(graph, graph.inputs[0]) == 0


@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_a_model_of_ids_is_quantized(dtype, tmp_path):
    config = run_config.PipelineConfig(
        synthesis=synthesis_config.SynthesisConfig(num_samples=4, batch_size=4),
        verify_samples=4,
    )
    result = dsg_tf.quantize_model(
        _network(dtype), output=tmp_path / "net.tflite", config=config
    )
    with np.load(result.run_folder / "samples.npz") as arrays:
        ids = arrays["ids"]
    assert set(np.unique(ids)) <= set(range(7))
    assert len(np.unique(ids)) > 3
    assert result.report.outputs["scores"].sqnr_db > 15
