"""Operations on volumes become ones on images, and compute the same."""

import itertools

import numpy as np
import pytest

import dsg_tf
from dsg_tf.config import run_config, synthesis_config
from dsg_tf.graph import evaluation
from dsg_tf.graph.load import loading

_KINDS = ("Conv3D", "MaxPooling3D", "AveragePooling3D")


def _layer(kind, padding, stride, dilation=1):
    import keras

    layers = keras.layers
    keras.utils.set_random_seed(0)
    if kind == "Conv3D":
        return layers.Conv3D(
            5,
            (3, 2, 3),
            padding=padding,
            strides=stride,
            dilation_rate=dilation,
            bias_initializer="normal",
        )
    return getattr(layers, kind)((2, 3, 2), strides=stride, padding=padding)


@pytest.mark.parametrize(
    ("kind", "padding", "stride", "dilation"),
    [
        *(
            (*case, 1)
            for case in itertools.product(_KINDS, ("same", "valid"), (1, 2))
        ),
        ("Conv3D", "same", 1, 2),
        ("Conv3D", "valid", 1, 2),
    ],
)
def test_it_computes_the_same(kind, padding, stride, dilation):
    import keras

    volume = keras.Input((6, 7, 8, 3), name="volume")
    value = _layer(kind, padding, stride, dilation)(volume)
    model = keras.Model(volume, value)
    graph = loading.load(model)
    assert not any("3D" in node.op for node in graph)
    values = np.random.default_rng(0).normal(size=(2, 6, 7, 8, 3))
    values = values.astype(np.float32)
    ((found,),) = evaluation.batches(
        graph, [graph.outputs[0].tensor], {"volume": values}
    )
    np.testing.assert_allclose(found, np.asarray(model(values)), atol=1e-5)


def test_a_network_of_volumes_is_quantized(tmp_path):
    import keras

    layers = keras.layers
    keras.utils.set_random_seed(0)
    volume = keras.Input((8, 8, 8, 2), name="volume")
    value = layers.Conv3D(8, 3, padding="same", use_bias=False)(volume)
    value = layers.ReLU()(layers.BatchNormalization()(value))
    value = layers.MaxPooling3D()(value)
    value = layers.Conv3D(8, 3)(value)
    value = layers.GlobalAveragePooling3D()(layers.ReLU()(value))
    model = keras.Model(volume, layers.Dense(4)(value))
    config = run_config.PipelineConfig(
        synthesis=synthesis_config.SynthesisConfig.of("noise", num_samples=8),
        verify_samples=8,
    )
    result = dsg_tf.quantize_model(
        model, output=tmp_path / "net.tflite", config=config
    )
    report = result.report
    assert report.float_operations == ()
    fold = next(p for p in report.passes if p.name == "fold_batch_norm")
    assert [row.applied for row in fold.rows] == [True]
    (output,) = report.outputs.values()
    assert output.sqnr_db > 20
