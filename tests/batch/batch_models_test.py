"""Which models a batch has, and what is refused before any is looked into."""

from __future__ import annotations

import os
import pathlib

import pytest
from absl import flags

from dsg_tf.batch import batch_flags, batch_models
from dsg_tf.core import errors


@pytest.fixture(autouse=True)
def zoo(tmp_path, monkeypatch) -> pathlib.Path:
    """Files that stand for models."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.keras").write_text("a")
    (tmp_path / "b.v2").mkdir()
    return tmp_path


def _models(*argv: str) -> list[batch_models.Model]:
    values = flags.FlagValues()
    batch_flags.define(values)
    values(["", *argv])
    return batch_models.models(values)


def test_models_are_named_after_their_files_or_as_asked_for(zoo):
    found = _models(f"--models=a.keras,b.v2,c={zoo / 'a.keras'}")
    assert [model.name for model in found] == ["a", "b.v2", "c"]
    assert found[2].path == str(zoo / "a.keras")


def test_flags_of_a_flagfile_hold_for_its_model_alone(zoo):
    (zoo / "b.flags").write_text("--saved_model=b.v2\n--seed=3\n")
    first, second = _models("--models=a.keras,b.flags", "--seed=1,2")
    assert (first.values.seed, second.values.seed) == (["1", "2"], ["3"])
    assert (second.name, second.path) == ("b", "b.v2")


def test_flagfile_may_take_widths_back_that_hold_for_the_others(zoo):
    (zoo / "b.flags").write_text(
        "--saved_model=b.v2\n--bits=\n--weight_bits=8\n"
    )
    first, second = _models("--models=a.keras,b.flags", "--bits=W4A8")
    assert (first.values.bits, second.values.bits) == (["W4A8"], [])


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ("absent", "--models: got 'absent'"),
        ("x" * 300, "--models: got 'xxx.*which is not there"),
        ("pipe.flags", "--models: got pipe.flags, a pipe"),
        ("pipe.keras", "--models: got pipe.keras, a pipe"),
        ("*.h5", r"--models: got '\*.h5'"),
        ("a.keras,a=b.v2", "two models of the name 'a'"),
        ("a/b=b.v2", "the name 'a/b'"),
        ("samples=b.v2", "the name 'samples'"),
    ],
)
def test_models_that_cannot_be_are_refused(models, words):
    os.mkfifo("pipe.flags")
    os.mkfifo("pipe.keras")
    with pytest.raises(errors.UserError, match=words):
        _models(f"--models={models}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("--seed=1\n", "x.flags: got no model"),
        ("--saved_model=absent\n", "x.flags: .*absent"),
        ("--saved_model=b.v2\n--nonsense=1\n", "x.flags: .*nonsense"),
        ("--saved_model=b.v2\n--jobs=3\n", "x.flags: got --jobs"),
        ("--saved_model=b.v2\n--seed=one\n", "--seed: got 'one'"),
        ("--saved_model=b.v2\n--bits=W9A8\n", "--bits: got 'W9A8'"),
        ("--saved_model=b.v2\nloose\n", "x.flags: got 'loose'"),
    ],
)
def test_flagfile_of_a_model_that_is_wrong_is_named(zoo, text, words):
    (zoo / "x.flags").write_text(text)
    with pytest.raises(errors.UserError, match=words):
        _models("--models=x.flags")


def test_the_file_of_a_saved_model_stands_for_its_folder(zoo):
    file = zoo / "b.v2" / "saved_model.pb"
    file.write_bytes(b"\x08\x01\x12\x03")
    (zoo / "one.flags").write_text("--saved_model=b.v2/saved_model.pb\n")
    found = _models(f"--models={file},one.flags")
    assert [(m.name, m.path) for m in found] == [
        ("b.v2", str(zoo / "b.v2")),
        ("one", str(zoo / "b.v2")),
    ]
