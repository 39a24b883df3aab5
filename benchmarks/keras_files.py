"""Keras files as their users load them."""

from __future__ import annotations

import pathlib


def load(path: pathlib.Path):
    """The model, by Keras 3 or else by tf_keras."""
    import keras

    try:
        return keras.models.load_model(path, compile=False)
    except (TypeError, ValueError):
        import tf_keras

        return tf_keras.models.load_model(path, compile=False)
