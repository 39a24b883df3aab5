"""Trains the model of the demo and exports it as a SavedModel.

    python -m tools.train_demo_model

A small MobileNet-like classifier (Conv + BatchNormalization + ReLU6,
depthwise, inverted residuals; 21,410 parameters) on the 1,200 training
digits of tools/digits.py: 30 epochs, about 20 s on two CPU cores. The model in
examples/digits_saved_model reaches 98.49 % top-1 on the 597 held-out digits.
"""

from __future__ import annotations

from absl import app, flags, logging

from tools import digits

_OUTPUT = flags.DEFINE_string(
    "output",
    "examples/digits_saved_model",
    "Folder to write the SavedModel to.",
)
_EPOCHS = flags.DEFINE_integer("epochs", 30, "Passes over the training set.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of weights and shuffling.")

_BATCH_SIZE = 32
_LEARNING_RATE = 3e-3


def _batch_norm_relu6(x):
    from keras import layers

    return layers.ReLU(max_value=6.0)(layers.BatchNormalization()(x))


def _convolution(x, filters: int, kernel: int):
    from keras import layers

    return layers.Conv2D(filters, kernel, padding="same", use_bias=False)(x)


def _separable(x, filters: int, strides: int = 1):
    """Depthwise 3x3, then pointwise, each with BN and ReLU6."""
    from keras import layers

    x = layers.DepthwiseConv2D(
        3, strides=strides, padding="same", use_bias=False
    )(x)
    return _batch_norm_relu6(_convolution(_batch_norm_relu6(x), filters, 1))


def _inverted_residual(x):
    """Expand by 2, depthwise 3x3, project linearly, add the input."""
    from keras import layers

    filters = x.shape[-1]
    y = _batch_norm_relu6(_convolution(x, 2 * filters, 1))
    y = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(y)
    y = _convolution(_batch_norm_relu6(y), filters, 1)
    return layers.Add()([x, layers.BatchNormalization()(y)])


def build_model():
    """Returns the untrained classifier: (N, 8, 8, 1) -> (N, 10) softmax."""
    import keras
    from keras import layers

    image = keras.Input((8, 8, 1), name="image")
    x = _batch_norm_relu6(_convolution(image, 16, 3))
    x = _separable(x, 24)
    x = _inverted_residual(x)
    x = _separable(x, 48, strides=2)
    x = _inverted_residual(x)
    x = _separable(x, 64)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(
        image, layers.Dense(10, activation="softmax", name="probabilities")(x)
    )


def train(train_digits: digits.Digits, *, epochs: int, seed: int):
    """Returns `build_model()` trained with Adam and a cosine schedule."""
    import keras

    keras.utils.set_random_seed(seed)
    model = build_model()
    steps = -(-len(train_digits.images) // _BATCH_SIZE) * epochs
    model.compile(
        optimizer=keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(_LEARNING_RATE, steps)
        ),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(
        train_digits.images,
        train_digits.labels,
        batch_size=_BATCH_SIZE,
        epochs=epochs,
        verbose=2,
    )
    return model


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]!r}")
    import tensorflow as tf

    tf.config.experimental.enable_op_determinism()
    train_digits, held_out = digits.load_split()
    model = train(train_digits, epochs=_EPOCHS.value, seed=_SEED.value)
    predicted = model.predict(held_out.images, verbose=0).argmax(axis=-1)
    logging.info(
        "top-1 on %d held-out digits: %.2f %%",
        len(held_out.labels),
        100.0 * (predicted == held_out.labels).mean(),
    )
    model.export(_OUTPUT.value, format="tf_saved_model", verbose=False)
    logging.info("wrote %s", _OUTPUT.value)


if __name__ == "__main__":
    app.run(main)
