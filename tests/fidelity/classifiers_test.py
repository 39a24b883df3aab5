"""A classifier gives the same classes from whatever file it is read."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from dsg_tf.core import errors
from dsg_tf.fidelity import classifiers
from tools import digits

# Of the committed model: 588 of 597. Other kernels may turn a near tie.
_MODEL = "examples/digits_saved_model"
_CORRECT = 588


@pytest.fixture(scope="module")
def keras_model():
    import keras

    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, activation="relu")(image)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, keras.layers.Dense(5)(x))


@pytest.fixture(scope="module")
def files(keras_model, tmp_path_factory):
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("models")
    paths = [folder / name for name in ("m.keras", "m.h5", "m", "m.tflite")]
    keras_model.save(paths[0])
    keras_model.save(paths[1])
    keras_model.export(paths[2], verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(paths[2]))
    paths[3].write_bytes(converter.convert())
    return paths


def test_every_format_gives_the_scores_of_the_model(keras_model, files):
    # 7 images in batches of 3: the last batch is filled up, then cut.
    images = np.random.default_rng(0).normal(size=(7, 8, 8, 1))
    images = images.astype(np.float32)
    expected = keras_model.predict_on_batch(images)
    for path in files:
        scores = classifiers.load_predictor(str(path), batch=3)(images)
        assert scores.shape == (7, 5)
        # Sums of at most 36 products of order 1, summed in another order:
        # 36 * 2^-24 = 2.1e-6 a layer, two layers of weights below 1.
        np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-5)


def test_int8_input_and_output_are_real_numbers_outside(files, tmp_path):
    import tensorflow as tf

    images = np.random.default_rng(0).normal(size=(64, 8, 8, 1))
    images = images.astype(np.float32)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(files[2]))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([x[None]] for x in images)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    path = tmp_path / "int8.tflite"
    path.write_bytes(converter.convert())
    scores = classifiers.load_predictor(str(path))(images)
    expected = classifiers.load_predictor(str(files[0]))(images)
    # Four tensors are rounded to 8 bits; 5 % of the span is 13 steps, and a
    # missing scale or zero point is off by far more than the span.
    assert np.abs(scores - expected).max() <= 0.05 * np.ptp(expected)


def test_images_of_another_shape_are_refused(files):
    for path in files:
        predict = classifiers.load_predictor(str(path))
        with pytest.raises(errors.UserError, match=r"\(8, 9, 1\)"):
            predict(np.zeros((2, 8, 9, 1), np.float32))


def _save_signatures(path, *names: str) -> str:
    """A SavedModel of two classes, in which each signature favours another."""
    import tensorflow as tf

    module = tf.Module()
    module.signs = [tf.Variable([[1.0, -1.0]]), tf.Variable([[-1.0, 1.0]])]

    def serve(signs):
        @tf.function(input_signature=[tf.TensorSpec((None, 1), tf.float32)])
        def scores(x):
            return {"scores": x * signs}

        return scores

    signatures = {
        name: serve(signs)
        for name, signs in zip(names, module.signs, strict=False)
    }
    tf.saved_model.save(module, str(path), signatures)
    return str(path)


def test_signature_is_chosen_as_when_a_model_is_quantized(tmp_path):
    images = np.ones((3, 1), np.float32)

    def classes(path, signature=""):
        predict = classifiers.load_predictor(path, signature=signature)
        return classifiers.classify(predict, images).tolist()

    two = _save_signatures(tmp_path / "two", "infer", "serving_default")
    assert classes(two) == [1] * 3
    assert classes(two, "infer") == [0] * 3
    one = _save_signatures(tmp_path / "one", "infer")
    assert classes(one) == [0] * 3
    other = _save_signatures(tmp_path / "other", "second", "first")
    for path, signature, words in (
        (two, "predict", "got 'predict'.*: infer, serving_default$"),
        (other, "", "--signature: got nothing; .*: first, second$"),
    ):
        with pytest.raises(errors.UserError, match=words):
            classifiers.load_predictor(path, signature=signature)


def test_signature_of_a_file_without_any_is_refused(files):
    for path in files:
        if path.is_file():
            words = "--signature: got 'infer'.*expected a SavedModel"
            with pytest.raises(errors.UserError, match=words):
                classifiers.load_predictor(str(path), signature="infer")


def test_missing_model_is_refused(tmp_path):
    with pytest.raises(
        errors.UserError, match=r"no such file.*a Saved.*\.tflite file"
    ):
        classifiers.load_predictor(str(tmp_path / "none.tflite"))


def test_scores_must_be_finite_and_of_several_classes():
    images = np.zeros((3, 8, 8, 1), np.float32)
    with pytest.raises(errors.UserError, match="finite"):
        classifiers.classify(lambda x: np.full((len(x), 4), np.nan), images)
    with pytest.raises(errors.UserError, match="one a class"):
        classifiers.classify(lambda x: np.zeros((len(x), 1)), images)


def test_top1_counts_the_labels_with_the_highest_score():
    scores = np.eye(4, dtype=np.float32)
    score = classifiers.top1(
        lambda x: scores[: len(x)], np.zeros((4, 1)), np.array([0, 1, 2, 0])
    )
    assert (score.correct, score.count, score.percent) == (3, 4, 75.0)
    # sqrt(0.75 * 0.25 / 4), exact in binary up to the root's rounding.
    assert score.standard_error_percent == pytest.approx(21.650635, abs=1e-6)


def test_demo_model_reaches_its_documented_top1():
    _, held_out = digits.load_split()
    predict = classifiers.load_predictor(_MODEL)
    score = classifiers.top1(predict, held_out.images, held_out.labels)
    assert abs(score.correct - _CORRECT) <= 1


@pytest.mark.parametrize(
    ("model", "correct"),
    [
        ("mlperf_tiny_resnet8/pretrainedResnet.h5", 881),
        ("mlperf_tiny_resnet8/pretrainedResnet_quant.tflite", 878),
    ],
)
def test_published_top1_is_reproduced(shared, model, correct):
    from dsg_tf.samples import labelled_images

    pixels, labels = labelled_images.load(
        str(shared / "data" / "cifar10_test_1k.npz")
    )
    predict = classifiers.load_predictor(str(shared / "models" / model))
    images = labelled_images.preprocess(pixels, "none")
    score = classifiers.top1(predict, images, labels)
    # Another machine's kernels may turn one near tie.
    assert abs(score.correct - correct) <= 1


def test_one_output_of_several_is_chosen(tmp_path):
    @tf.function(input_signature=[tf.TensorSpec((None, 3), tf.float32, "x")])
    def call(x):
        return {"scores": 2.0 * x, "other": x}

    module = tf.Module()
    module.call = call
    path = str(tmp_path / "net")
    tf.saved_model.save(module, path, signatures=call.get_concrete_function())
    with pytest.raises(errors.UserError, match="2 outputs"):
        classifiers.load_predictor(path)
    predict = classifiers.load_predictor(path, output_names=["scores"])
    values = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(predict(values), 2.0 * values)
