"""BN that no layer takes becomes a depthwise convolution of size 1 x 1."""

import numpy as np
import pytest

import dsg_tf
from dsg_tf.analysis import bn_statistics
from dsg_tf.config import run_config, synthesis_config
from dsg_tf.graph import evaluation
from dsg_tf.graph.load import loading
from dsg_tf.transforms import depthwise_batch_norm, fold_batch_norm


def _batch_norm(layers, channels, *, nearly_dead=False):
    rng = np.random.default_rng(channels)
    variance = rng.uniform(0.5, 2.0, channels)
    if nearly_dead:
        variance[0] = 1e-12
    layer = layers.BatchNormalization(epsilon=1e-6)
    layer.build((None, None, None, channels))
    layer.set_weights(
        [
            rng.uniform(0.5, 1.5, channels),
            rng.normal(size=channels),
            rng.uniform(0.1, 0.4, channels) * (variance > 1e-6),
            variance,
        ]
    )
    return layer


def _behind_relu(layers, image):
    value = layers.Conv2D(8, 3, padding="same", activation="relu")(image)
    return _batch_norm(layers, 8)(value)


def _nearly_dead(layers, image):
    """A channel that is always zero has a factor of a million."""
    import keras

    bias = np.zeros(8)
    bias[0] = -100.0
    value = layers.Conv2D(
        8,
        3,
        padding="same",
        activation="relu",
        bias_initializer=keras.initializers.Constant(0.0),
    )
    found = value(image)
    kernel, _ = value.get_weights()
    value.set_weights([kernel, bias])
    return _batch_norm(layers, 8, nearly_dead=True)(found)


def _dense_net(layers, image):
    value = layers.Conv2D(8, 3, padding="same")(image)
    for _ in range(2):
        grown = layers.ReLU()(_batch_norm(layers, value.shape[-1])(value))
        grown = layers.Conv2D(4, 3, padding="same", use_bias=False)(grown)
        value = layers.Concatenate()([value, grown])
    return layers.ReLU()(_batch_norm(layers, value.shape[-1])(value))


_NETS = [_behind_relu, _nearly_dead, _dense_net]


def _model(net):
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    image = keras.Input((10, 10, 3), name="image")
    value = net(layers, image)
    value = layers.Conv2D(6, 3, strides=2)(value)
    return keras.Model(image, layers.GlobalAveragePooling2D()(value))


@pytest.mark.parametrize("net", _NETS, ids=lambda net: net.__name__[1:])
def test_nothing_changes_in_float(net):
    graph, _ = fold_batch_norm.fold_batch_norm(loading.load(_model(net)))
    count = len(bn_statistics.find(graph))
    assert count
    written, report = depthwise_batch_norm.depthwise_batch_norm(graph)
    assert len(report.rows) == count
    assert not report.skipped
    assert not bn_statistics.find(written)
    images = np.random.default_rng(0).normal(size=(4, 10, 10, 3))
    samples = {"image": images.astype(np.float32)}
    tensors = [graph.outputs[0].tensor]
    ((expected,),) = evaluation.batches(graph, tensors, samples)
    ((found,),) = evaluation.batches(written, tensors, samples)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("net", _NETS, ids=lambda net: net.__name__[1:])
def test_each_channel_keeps_its_resolution_in_integers(net, tmp_path):
    config = run_config.PipelineConfig(
        synthesis=synthesis_config.SynthesisConfig.of("noise", num_samples=16),
        verify_samples=16,
    )
    result = dsg_tf.quantize_model(
        _model(net), output=tmp_path / "net.tflite", config=config
    )
    (output,) = result.report.outputs.values()
    # As MUL and ADD, the nearly dead channel leaves 2 dB of the others.
    assert output.sqnr_db > 25


def test_a_graph_without_such_layers_stays_the_same_object():
    import keras

    layers = keras.layers
    image = keras.Input((8, 8, 3))
    value = layers.BatchNormalization()(layers.Conv2D(4, 3)(image))
    graph = loading.load(keras.Model(image, value))
    folded, _ = fold_batch_norm.fold_batch_norm(graph)
    assert depthwise_batch_norm.depthwise_batch_norm(folded)[0] is folded
