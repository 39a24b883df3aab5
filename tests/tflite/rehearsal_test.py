"""A .tflite that would end the process ends another one."""

from __future__ import annotations

import random

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from dsg_tf.core import errors
from dsg_tf.fidelity import classifiers
from dsg_tf.tflite import rehearsal


@pytest.fixture(scope="module")
def content() -> bytes:
    import tensorflow as tf

    weights = tf.constant(np.ones((3, 4), np.float32))

    @tf.function(input_signature=[tf.TensorSpec((1, 3), tf.float32, name="x")])
    def call(x):
        return tf.nn.relu(x @ weights)

    concrete = call.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete])
    return converter.convert()


def _refused(path) -> str:
    with pytest.raises(errors.UserError) as caught:
        classifiers.load_predictor(str(path))
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    assert len(text) < 800
    return text


def test_a_good_file_passes_and_runs(content, tmp_path):
    path = tmp_path / "m.tflite"
    path.write_bytes(content)
    rehearsal.require_runs(path)
    scores = classifiers.load_predictor(str(path))(np.ones((2, 3), np.float32))
    np.testing.assert_array_equal(scores, np.full((2, 4), 3.0))


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"\0" * 8,
        b"\x1c\0\0\0TFL3",
        b"\x1c\0\0\0TFL3" + b"\xff" * 4000,
        b"\xff\xff\xff\xffTFL3" + bytes(range(256)),
        b"\x08\0\0\0TFL3" + b"\0" * 4000,
    ],
)
def test_bytes_that_are_no_model_are_one_line(tmp_path, damaged):
    (tmp_path / "m.tflite").write_bytes(damaged)
    _refused(tmp_path / "m.tflite")


def _with_shapes(content: bytes, *dims: int) -> bytes:
    model = flatbuffer_utils.read_model_from_bytearray(bytes(content))
    for tensor in model.subgraphs[0].tensors:
        if tensor.type == schema.TensorType.FLOAT32:
            tensor.shape = np.array(dims, np.int32)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


@pytest.mark.parametrize(
    "dims", [(1, 2**31 - 1), (2**31 - 1, 2**31 - 1), (-5, -7)]
)
def test_shapes_that_cannot_be_are_one_line(content, tmp_path, dims):
    (tmp_path / "m.tflite").write_bytes(_with_shapes(content, *dims))
    _refused(tmp_path / "m.tflite")


@pytest.mark.parametrize("seed", range(12))
def test_a_damaged_file_is_one_line_or_runs(content, tmp_path, seed):
    chance = random.Random(seed)
    damaged = bytearray(content)
    for _ in range(chance.choice((1, 4, 16))):
        damaged[chance.randrange(8, len(damaged))] = chance.randrange(256)
    path = tmp_path / "m.tflite"
    path.write_bytes(damaged)
    try:
        rehearsal.require_runs(path)
    except errors.UserError as error:
        assert "\n" not in str(error)  # noqa: PT017


def test_a_file_beyond_all_offsets_is_not_read(content, tmp_path):
    path = tmp_path / "m.tflite"
    path.write_bytes(content)
    with path.open("r+b") as file:
        file.truncate(1 << 40)
    assert "a file of 1,099,511,627,776 bytes" in _refused(path)


def test_a_process_that_dies_is_one_line(content, tmp_path, monkeypatch):
    path = tmp_path / "m.tflite"
    path.write_bytes(content)
    monkeypatch.setattr(rehearsal.sys, "executable", str(tmp_path / "dies"))
    (tmp_path / "dies").write_text("#!/bin/sh\nkill -SEGV $$\n")
    (tmp_path / "dies").chmod(0o700)
    assert "SIGSEGV" in _refused(path)


def test_a_process_that_does_not_end_is_one_line(
    content, tmp_path, monkeypatch
):
    path = tmp_path / "m.tflite"
    path.write_bytes(content)
    monkeypatch.setattr(rehearsal, "_SECONDS", 0.2)
    monkeypatch.setattr(rehearsal.sys, "executable", str(tmp_path / "waits"))
    (tmp_path / "waits").write_text("#!/bin/sh\nexec sleep 30\n")
    (tmp_path / "waits").chmod(0o700)
    assert "not done after 0 s" in _refused(path)
