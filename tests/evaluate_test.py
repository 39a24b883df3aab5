"""Top-1 by command line: what it prints, what it writes, what it refuses."""

from __future__ import annotations

import json
import re

import command_lines
import numpy as np
import pytest

from dsg_tf import evaluate
from dsg_tf.fidelity import classifiers
from tools import digits

_MODEL = "examples/digits_saved_model"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """300 labelled digits: more than one chunk, and no whole number of them."""
    _, held_out = digits.load_split()
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    np.savez(path, images=held_out.images[:300], labels=held_out.labels[:300])
    return path


def test_numbers_are_printed_and_written(data, tmp_path, capfd):
    output = tmp_path / "top1.json"
    code = command_lines.run(
        evaluate,
        f"--model={_MODEL}",
        f"--reference={_MODEL}",
        f"--data={data}",
        f"--output={output}",
    )
    assert code == 0
    with np.load(data) as arrays:
        score = classifiers.top1(
            classifiers.load_predictor(_MODEL),
            arrays["images"],
            arrays["labels"],
        )
        labels = arrays["labels"]
    out = capfd.readouterr().out
    assert f"top-1 {score.percent:.2f} %" in out
    assert "agreement 100.00 % (300 of 300)" in out
    found = json.loads(output.read_text())
    assert found["correct"] == score.correct
    assert found["same_class_percent"] == 100.0
    assert sum(np.array(found["classes"]) == labels) == score.correct


@pytest.mark.parametrize(
    ("model", "reference", "asked"),
    [
        ("net", "", ["infer"]),
        ("net", "x.tflite", ["infer", ""]),
        ("x.tflite", "net", ["", "infer"]),
        ("net", "net", ["infer", "infer"]),
        ("x.tflite", "", ["infer"]),  # Which load_predictor refuses.
        ("x.tflite", "x.tflite", ["infer", "infer"]),
    ],
)
def test_signature_is_for_the_saved_models(
    tmp_path, monkeypatch, model, reference, asked
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net").mkdir()
    np.savez("x.npz", images=np.zeros((2, 1)), labels=np.zeros(2, np.int64))
    seen = []

    def load(path, *, signature="", tags=(), **rest):
        assert rest["allow_unsafe_ops"] is False
        assert rest["image_shape"] == (1,)
        assert list(tags) == (["gpu"] if signature else [])
        seen.append(signature)
        return lambda images: np.zeros((len(images), 2))

    monkeypatch.setattr(classifiers, "load_predictor", load)
    argv = (f"--model={model}", f"--reference={reference}", "--data=x.npz")
    assert (
        command_lines.run(evaluate, *argv, "--signature=infer", "--tags=gpu")
        == 0
    )
    assert seen == asked


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ((), "--model: got nothing"),
        (("--model=x.tflite",), "--data: got nothing"),
        (("--model=x.tflite", "--data=x.npz"), "x.npz: got nothing there"),
        (
            ("--model=x", "--data=x.npz", "--output=absent/x.json"),
            "--output.*make it first",
        ),
        (("--model=x", "--data=x.npz", "--mean=1"), "--preprocess"),
    ],
)
def test_bad_input_is_one_line(capfd, argv, words):
    assert command_lines.run(evaluate, *argv) == 1
    err = capfd.readouterr().err
    assert len(err.splitlines()) == 1
    assert re.search(words, err), err


def test_images_of_another_shape_are_one_line(tmp_path, capfd):
    np.savez(
        tmp_path / "x.npz",
        images=np.zeros((2, 9, 9, 1), np.float32),
        labels=np.zeros(2, np.int64),
    )
    argv = (f"--model={_MODEL}", f"--data={tmp_path / 'x.npz'}")
    assert command_lines.run(evaluate, *argv) == 1
    err = capfd.readouterr().err
    assert "(9, 9, 1)" in err.splitlines()[-1]


def test_labels_beyond_the_models_classes_are_one_line(
    tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(
        classifiers,
        "load_predictor",
        lambda *_, **__: lambda images: np.zeros((len(images), 3)),
    )
    for last, code in ((2, 0), (3, 1)):
        labels = np.array([0, last])
        np.savez(tmp_path / "x.npz", images=np.zeros((2, 1)), labels=labels)
        argv = ("--model=net", f"--data={tmp_path / 'x.npz'}")
        assert command_lines.run(evaluate, *argv) == code
    err = capfd.readouterr().err
    assert (
        err
        == "error: --data: got label 3; expected 0 to 2, the classes of net\n"
    )
