"""Equal content, equal hash, wherever it lies; any change is seen."""

from __future__ import annotations

import os

import pytest

from dsg_tf.core import errors, fingerprints


def _folder(path, content: dict[str, str]):
    for name, text in content.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return path


_CONTENT = {"a.txt": "one", "inner/b.txt": "two"}


def test_place_and_time_do_not_count(tmp_path):
    first = _folder(tmp_path / "first", _CONTENT)
    second = _folder(tmp_path / "second", dict(reversed(_CONTENT.items())))
    os.utime(second / "a.txt", (1, 1))
    assert fingerprints.of_path(first) == fingerprints.of_path(second)


@pytest.mark.parametrize(
    "other",
    [
        {"a.txt": "one"},
        {"a.txt": "one", "inner/b.txt": "2"},
        {"a.txt": "one", "inner/c.txt": "two"},
        {"a.txt": "onet", "inner/b.txt": "wo"},
        {"a.txt": "oneinner/b.txttwo"},
    ],
)
def test_any_change_in_a_folder_is_seen(tmp_path, other):
    first = _folder(tmp_path / "first", _CONTENT)
    second = _folder(tmp_path / "second", other)
    assert fingerprints.of_path(first) != fingerprints.of_path(second)


def test_file_is_hashed_whole(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(bytes(3 << 20))
    before = fingerprints.of_path(file)
    file.write_bytes(bytes((3 << 20) - 1) + b"x")
    assert fingerprints.of_path(file) != before


def test_missing_file_is_an_error_of_the_user(tmp_path):
    with pytest.raises(errors.UserError, match=r"--eval_data: got .*absent"):
        fingerprints.of_path(tmp_path / "absent", subject="--eval_data")


def test_settings_are_told_apart_by_type_and_value():
    hashes = {
        fingerprints.of_settings(settings)
        for settings in ({"a": 1}, {"a": "1"}, {"a": 1.5}, {"b": 1}, {"a": [1]})
    }
    assert len(hashes) == 5


@pytest.mark.parametrize("subject", ["", "--models"])
def test_a_pipe_is_refused_before_it_is_opened(tmp_path, subject):
    os.mkfifo(tmp_path / "m")
    with pytest.raises(errors.UserError, match="a pipe"):
        fingerprints.of_path(tmp_path / "m", subject=subject)


@pytest.mark.parametrize("path", ["x" * 300, "a\0b"])
def test_a_path_that_cannot_be_is_an_error_of_the_user(path):
    with pytest.raises(errors.UserError):
        fingerprints.of_path(path)
