"""Every output of the model is in the file, or the run is refused."""

import numpy as np
import pytest
import tensorflow as tf

import dsg_tf
from dsg_tf.config import run_config, synthesis_config
from dsg_tf.core import errors
from dsg_tf.graph.load import loading
from dsg_tf.tflite import flatbuffer, interpreter

_SPEC = tf.TensorSpec((None, 8, 8, 1), tf.float32, name="image")
_KERNEL = np.random.default_rng(0).normal(0, 0.5, (3, 3, 1, 6))


def _scores(image):
    value = tf.nn.relu(tf.nn.conv2d(image, np.float32(_KERNEL), 1, "SAME"))
    return tf.nn.softmax(4.0 * tf.reduce_mean(value, [1, 2]))


@tf.function(input_signature=[_SPEC])
def _mixed(image):
    scores = _scores(image)
    return {
        "scores": scores,
        "best": tf.argmax(scores, -1),
        "sure": tf.reduce_max(scores, -1) > 0.2,
        "rank": tf.argsort(scores, direction="DESCENDING")[:, 0],
    }


@tf.function(input_signature=[_SPEC])
def _with_names(image):
    scores = _scores(image)
    return {"scores": scores, "names": tf.as_string(tf.argmax(scores, -1))}


def _config(**fields):
    return run_config.PipelineConfig(
        synthesis=synthesis_config.SynthesisConfig.of("noise", num_samples=8),
        verify_samples=8,
        **fields,
    )


def test_whole_numbers_and_truth_values_are_outputs_too(tmp_path):
    result = dsg_tf.quantize_model(
        _mixed, output=tmp_path / "net.tflite", config=_config()
    )
    found = flatbuffer.read(result.tflite).output_names()
    assert {name: t.dtype for name, t in found.items()} == {
        "best": "int64",
        "rank": "int32",
        "scores": "float32",
        "sure": "bool",
    }
    images = np.random.default_rng(1).normal(size=(16, 8, 8, 1))
    images = images.astype(np.float32)
    expected = _mixed(images)
    values = interpreter.Interpreter(result.tflite).run({"image": images})
    for name in ("best", "rank", "sure"):
        assert np.mean(values[name] == expected[name].numpy()) > 0.8
    assert set(result.report.outputs) == {"best", "rank", "scores", "sure"}


def test_outputs_that_are_no_numbers_are_refused_with_the_flag_that_helps():
    with pytest.raises(errors.UserError) as refused:
        loading.load(_with_names)
    assert refused.value.got == "outputs that are no numbers: names (string)"
    assert "--output_names=scores" in refused.value.remedy


def test_outputs_are_chosen_by_name(tmp_path):
    config = _config(output_names="scores")
    result = dsg_tf.quantize_model(
        _with_names, output=tmp_path / "net.tflite", config=config
    )
    view = flatbuffer.read(result.tflite)
    assert list(view.output_names()) == ["scores"]
    assert "ARG_MAX" not in [op.name for op in view.ops]


def test_an_output_that_is_not_there_is_named():
    with pytest.raises(errors.UserError) as refused:
        loading.load(_with_names, output_names=["score"])
    assert refused.value.got == "'score'"
    assert "names, scores" in refused.value.expected
