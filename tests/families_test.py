"""Small networks of the families that people bring, through the front door."""

import numpy as np
import pytest

import dsg_tf
from dsg_tf.config import run_config, synthesis_config
from dsg_tf.graph import evaluation
from dsg_tf.graph.load import loading
from dsg_tf.tflite import interpreter


def _conv(layers, value, filters, **options):
    options = {"padding": "same", "use_bias": False, **options}
    value = layers.Conv2D(filters, 3, **options)(value)
    return layers.BatchNormalization(momentum=0.7)(value)


def _squeeze_and_excite(layers, value):
    """MobileNetV3: hard-swish, squeeze and excite."""
    value = layers.Activation("hard_swish")(_conv(layers, value, 8, strides=2))
    gate = layers.GlobalAveragePooling2D(keepdims=True)(value)
    gate = layers.Conv2D(4, 1, activation="relu")(gate)
    gate = layers.Conv2D(8, 1, activation="hard_sigmoid")(gate)
    return _conv(layers, layers.Multiply()([value, gate]), 8)


def _swish(layers, value):
    """EfficientNet: swish between an expansion and a projection."""
    value = layers.Activation("silu")(_conv(layers, value, 12))
    value = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(value)
    value = layers.BatchNormalization(momentum=0.7)(value)
    return _conv(layers, layers.Activation("silu")(value), 8, strides=2)


def _inception(layers, value):
    """Branches of unlike depth, joined."""
    branches = [
        layers.ReLU()(_conv(layers, value, 4)),
        layers.ReLU()(_conv(layers, layers.ReLU()(_conv(layers, value, 4)), 6)),
        layers.MaxPooling2D(3, strides=1, padding="same")(value),
    ]
    return _conv(layers, layers.Concatenate()(branches), 8)


def _u_net(layers, value):
    """Down, up by a transposed convolution, and joined with what was."""
    wide = layers.ReLU()(_conv(layers, value, 6))
    low = layers.ReLU()(_conv(layers, wide, 8, strides=2))
    up = layers.Conv2DTranspose(6, 3, strides=2, padding="same")(low)
    up = layers.ReLU()(layers.BatchNormalization(momentum=0.7)(up))
    return _conv(layers, layers.Concatenate()([wide, up]), 6)


def _xception(layers, value):
    """Separable convolutions with a residual."""
    kept = layers.ReLU()(_conv(layers, value, 8))
    value = layers.SeparableConv2D(8, 3, padding="same", use_bias=False)(kept)
    value = layers.BatchNormalization(momentum=0.7)(value)
    return layers.Add()([kept, value])


def _super_resolution(layers, value):
    """PReLU, and depth to space at the end."""
    value = layers.PReLU(shared_axes=[1, 2])(_conv(layers, value, 12))
    return _conv(layers, layers.UpSampling2D()(value), 3, activation=None)


def _dense_net(layers, value):
    """BN and activation in front of each convolution."""
    value = layers.Conv2D(8, 3, padding="same")(value)
    for _ in range(2):
        grown = layers.BatchNormalization(momentum=0.7)(value)
        grown = layers.Conv2D(4, 3, padding="same")(layers.ReLU()(grown))
        value = layers.Concatenate()([value, grown])
    return layers.BatchNormalization(momentum=0.7)(value)


def _channels_of_audio(layers, value):
    """Convolutions over time, of an image taken for frames."""
    value = layers.Reshape((16 * 16, 3))(value)
    for filters in (8, 12):
        value = layers.Conv1D(filters, 5, strides=2, use_bias=False)(value)
        value = layers.BatchNormalization(momentum=0.7)(value)
        value = layers.LeakyReLU()(value)
    return layers.Reshape((1, -1, 12))(value)


def _normalized(layers, value):
    """ConvNeXt: layer normalization and GELU beside a BN."""
    value = layers.ReLU()(_conv(layers, value, 8))
    kept = value
    value = layers.DepthwiseConv2D(5, padding="same")(value)
    value = layers.LayerNormalization()(value)
    value = layers.Dense(16, activation="gelu")(value)
    return layers.Add()([kept, layers.Dense(8)(value)])


_FAMILIES = [
    *(_squeeze_and_excite, _swish, _inception, _u_net, _xception),
    *(_super_resolution, _dense_net, _channels_of_audio, _normalized),
]


def _images(count, seed):
    """Smooth images around 0.4, as a network was trained on."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 1, (count, 4, 4, 3))
    fine = coarse.repeat(4, 1).repeat(4, 2)
    return (fine + rng.normal(0, 0.05, fine.shape)).astype(np.float32)


def _trained(family):
    """A network whose BN has seen images."""
    import keras

    layers = keras.layers
    keras.utils.set_random_seed(0)
    image = keras.Input((16, 16, 3), name="image")
    value = layers.GlobalAveragePooling2D()(family(layers, image))
    model = keras.Model(image, layers.Dense(5, name="scores")(value))
    images = _images(64, seed=1)
    for _ in range(12):
        model(images, training=True)
    return model


@pytest.mark.parametrize("family", _FAMILIES, ids=lambda f: f.__name__[1:])
def test_a_family_is_quantized(family, tmp_path):
    model = _trained(family)
    config = run_config.PipelineConfig(
        synthesis=synthesis_config.SynthesisConfig(
            num_samples=8, batch_size=8, steps=20
        ),
        verify_samples=8,
    )
    result = dsg_tf.quantize_model(
        model, output=tmp_path / "net.tflite", config=config
    )
    assert result.report.float_operations == ()
    graph = loading.load(model)
    samples = {"image": _images(32, seed=2)}
    found = interpreter.Interpreter(result.tflite).run(samples)["scores"]
    expected = np.concatenate(
        [
            batch[0]
            for batch in evaluation.batches(
                graph, [graph.outputs[0].tensor], samples
            )
        ]
    )
    signal = np.sum(np.square(expected - expected.mean(0)))
    noise = np.sum(np.square(found - expected))
    # Means over a feature map of images that are much alike: about 20 dB; a
    # part that is lost leaves single digits.
    assert signal > 10 * noise
