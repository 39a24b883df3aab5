"""What lies at the path of a model is looked at before it is opened."""

from __future__ import annotations

import os
import pathlib
import shutil
import socket

import pytest

from dsg_tf.core import errors
from dsg_tf.fidelity import classifiers
from dsg_tf.graph.load import formats, model_files

_MODEL = pathlib.Path("examples/digits_saved_model").absolute()


def _refused(path) -> str:
    with pytest.raises(errors.UserError) as caught:
        formats.identify(pathlib.Path(path))
    text = str(caught.value)
    assert "\n" not in text
    assert text.isprintable()
    assert len(text) < 900
    return text


def _socket(path: pathlib.Path) -> None:
    # The path of a socket has at most 107 bytes.
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (os.mkfifo, "got a pipe"),
        (_socket, "got a socket"),
        (lambda path: path.symlink_to("/dev/zero"), "got a device"),
        (lambda path: path.symlink_to("/dev/null"), "got a device"),
    ],
)
@pytest.mark.parametrize("name", ["m", "m.keras", "m.h5", "m.tflite"])
def test_special_files_are_refused_before_they_are_opened(
    tmp_path, make, words, name
):
    make(tmp_path / name)
    assert words in _refused(tmp_path / name)
    with pytest.raises(errors.UserError, match=words):
        classifiers.load_predictor(str(tmp_path / name))


@pytest.mark.parametrize(
    "inside",
    [
        "saved_model.pb",
        "saved_model.pbtxt",
        "variables/variables.index",
        "variables/variables.data-00000-of-00001",
        "assets/words.txt",
        "debug/saved_model_debug_info.pb",
        "fingerprint.pb",
        "keras_metadata.pb",
    ],
)
def test_a_pipe_inside_a_folder_is_refused(tmp_path, inside):
    path = tmp_path / "m"
    shutil.copytree(_MODEL, path)
    target = path / inside
    target.parent.mkdir(exist_ok=True)
    target.unlink(missing_ok=True)
    os.mkfifo(target)
    text = _refused(path)
    assert "a pipe" in text
    assert inside in text


@pytest.mark.parametrize("inside", ["config.json", "model.weights.h5"])
def test_a_pipe_in_an_unpacked_keras_file_is_refused(tmp_path, inside):
    for name in ("config.json", "model.weights.h5"):
        (tmp_path / name).touch()
    (tmp_path / inside).unlink()
    os.mkfifo(tmp_path / inside)
    assert "a pipe" in _refused(tmp_path)


def test_links_to_files_are_files(tmp_path):
    shutil.copytree(_MODEL, tmp_path / "m")
    variables = tmp_path / "m" / "variables"
    shutil.move(variables, tmp_path / "elsewhere")
    variables.symlink_to(tmp_path / "elsewhere")
    assert formats.identify(tmp_path / "m") is formats.Format.SAVED_MODEL


@pytest.mark.parametrize(
    "path", ["x" * 256, "a/" * 3000, "y" * 5000 + ".keras", "m\0.keras", "\n"]
)
def test_paths_that_cannot_be_are_one_line(path):
    _refused(path)


def test_a_loop_of_links_is_one_line(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert "symbolic links" in _refused(tmp_path / "a")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_read_is_one_line(tmp_path):
    shutil.copytree(_MODEL, tmp_path / "m")
    (tmp_path / "m" / "variables").chmod(0)
    try:
        assert "Permission denied" in _refused(tmp_path / "m")
    finally:
        (tmp_path / "m" / "variables").chmod(0o700)


def test_a_folder_of_a_million_files_is_not_walked(tmp_path, monkeypatch):
    monkeypatch.setattr(model_files, "_MAX_ENTRIES", 3)
    for i in range(4):
        (tmp_path / f"{i}.pb").touch()
    assert "more than 3 files" in _refused(tmp_path)


class TestUnchanged:
    def test_a_model_that_stays_passes(self, tmp_path):
        (tmp_path / "m").write_text("a")
        with model_files.unchanged(tmp_path):
            (tmp_path / "m").read_text()

    @pytest.mark.parametrize("inside", [False, True])
    def test_one_that_is_written_does_not(self, tmp_path, inside):
        file = tmp_path / "m"
        file.write_text("a")
        with (
            pytest.raises(errors.UserError, match="changed while"),
            model_files.unchanged(tmp_path if inside else file),
        ):
            file.write_text("bb")

    def test_one_that_is_replaced_does_not(self, tmp_path):
        for name in "ab":
            (tmp_path / name).write_text("same")
        with (
            pytest.raises(errors.UserError, match="changed while"),
            model_files.unchanged(tmp_path / "a"),
        ):
            os.replace(tmp_path / "b", tmp_path / "a")
