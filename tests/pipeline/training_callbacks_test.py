"""A model is quantized while it trains, and the training does not notice."""

from __future__ import annotations

import random

import keras
import numpy as np
import pytest

import dsg_tf
from dsg_tf.core import errors
from dsg_tf.fidelity import classifiers
from dsg_tf.pipeline import callbacks
from tests import tiny_models

_EPOCHS = 2


def _data():
    rng = np.random.default_rng(0)
    shape = tiny_models.classifier().inputs[0].shape[1:]
    classes = tiny_models.classifier().outputs[0].shape[-1]
    images = rng.normal(size=(48, *shape)).astype(np.float32)
    return images, rng.integers(0, classes, 48)


def _fit(*found, epochs=_EPOCHS, traces=None):
    keras.utils.set_random_seed(3)
    model = tiny_models.classifier()

    def loss(labels, scores):
        # Python runs it when a function is traced, and then no more.
        if traces is not None:
            traces.append(labels)
        return keras.losses.sparse_categorical_crossentropy(labels, scores)

    model.compile("adam", loss)
    history = model.fit(
        *_data(), epochs=epochs, verbose=0, callbacks=list(found)
    )
    return model, history.history


def test_history_has_what_the_file_does(tmp_path):
    images, labels = _data()
    path = str(tmp_path / "net_{epoch}.tflite")
    quantize = callbacks.QuantizeDataFree(
        path, validation_data=(images, labels)
    )
    _, history = _fit(quantize)
    for epoch in range(1, _EPOCHS + 1):
        predict = classifiers.load_predictor(path.format(epoch=epoch))
        by_hand = np.mean(classifiers.classify(predict, images) == labels)
        assert history["val_int8_accuracy"][epoch - 1] == by_hand
        told = quantize.results[epoch].report.agreement
        assert history["int8_agreement"][epoch - 1] == told
    assert set(quantize.seconds) == {1, 2}
    assert (tmp_path / "net_1.tflite").read_bytes() != (
        tmp_path / "net_2.tflite"
    ).read_bytes()


def test_the_training_is_undisturbed(tmp_path):
    quantize = callbacks.QuantizeDataFree(tmp_path / "net.tflite")
    counts = []

    def drawn():
        """A number of every generator that a training may draw from."""
        own = np.random.get_state()[1]  # noqa: NPY002
        return random.random(), list(own), float(keras.random.uniform(()))

    results = []
    for used in ([], [quantize]):
        traces: list = []
        model, history = _fit(*used, traces=traces)
        counts.append(len(traces))
        variables = [
            np.array(v) for v in (*model.variables, *model.optimizer.variables)
        ]
        results.append((variables, history["loss"], drawn()))
    (plain, loss, state), (quantized, same_loss, same_state) = results
    for a, b in zip(plain, quantized, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (loss, state) == (same_loss, same_state)
    assert counts[0] == counts[1] > 0


def test_it_measures_every_so_many_epochs(tmp_path):
    quantize = callbacks.QuantizeDataFree(
        tmp_path / "net.tflite", every_n_epochs=2
    )
    _, history = _fit(quantize, epochs=3)
    assert set(quantize.results) == {2}
    assert len(history["int8_agreement"]) == 1


def test_a_callback_behind_it_sees_its_numbers(tmp_path):
    seen = []
    quantize = callbacks.QuantizeDataFree(tmp_path / "net.tflite")
    behind = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(logs["int8_agreement"])
    )
    _fit(quantize, behind)
    assert seen == [r.report.agreement for r in quantize.results.values()]


def test_an_epoch_that_cannot_be_quantized_is_a_warning(tmp_path, caplog):
    class Diverge(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            kernel = self.model.layers[1].kernel
            kernel.assign(np.full(kernel.shape, np.nan))

    quantize = callbacks.QuantizeDataFree(tmp_path / "net.tflite")
    _, history = _fit(Diverge(), quantize, epochs=1)
    assert quantize.results == {}
    assert "int8_agreement" not in history
    assert "epoch 1 is not quantized" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"every_n_epochs": 0}, "every_n_epochs"),
        ({"validation_data": np.zeros(3)}, "validation_data"),
        ({"validation_data": (np.zeros(3), np.zeros(2))}, "validation_data"),
    ],
)
def test_wrong_arguments_are_told_at_once(arguments, said):
    with pytest.raises(errors.UserError, match=said):
        callbacks.QuantizeDataFree("net.tflite", **arguments)


def test_a_model_without_moments_is_told_before_the_first_epoch(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    quantize = callbacks.QuantizeDataFree(tmp_path / "net.tflite")
    with pytest.raises(errors.UserError, match="without BatchNormalization"):
        model.fit(
            np.ones((4, 4)), np.ones((4, 2)), verbose=0, callbacks=[quantize]
        )


def test_moments_are_recorded_with_their_drift():
    moments = dsg_tf.callbacks.BatchNormMoments()
    model, history = _fit(moments, epochs=3)
    layers = [
        x
        for x in model.layers
        if isinstance(x, keras.layers.BatchNormalization)
    ]
    assert [len(row) for row in moments.history] == [len(layers)] * 3
    (first, second, third) = (row[layers[0].path] for row in moments.history)
    np.testing.assert_array_equal(third.mean, layers[0].moving_mean)
    assert np.isnan(first.drift)
    epsilon = layers[0].epsilon
    old, new = (np.sqrt(r.variance + epsilon) for r in (first, second))
    expected = np.mean(
        np.square((second.mean - first.mean) / old)
        + np.square(np.log(new / old))
    )
    assert second.drift == pytest.approx(np.sqrt(expected), rel=1e-4)
    worst = [max(r.drift for r in row.values()) for row in moments.history[1:]]
    assert history["bn_drift"] == pytest.approx(worst)
