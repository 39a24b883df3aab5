"""An output over, in or around an input is refused, by whatever name."""

from __future__ import annotations

import os
import pathlib

import pytest
import small_disks

from dsg_tf.core import errors, overlaps


@pytest.fixture
def here(tmp_path, monkeypatch) -> pathlib.Path:
    monkeypatch.chdir(tmp_path)
    for path in ("net/variables/index", "net/saved_model.pb", "net.keras"):
        pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(path).write_text("trained")
    pathlib.Path("elsewhere/deeper").mkdir(parents=True)
    pathlib.Path("elsewhere/weights").write_text("trained")
    pathlib.Path("net/linked").symlink_to("../elsewhere/weights")
    pathlib.Path("net/deep").symlink_to("../elsewhere/deeper")
    pathlib.Path("alias").symlink_to("net")
    pathlib.Path("file_alias").symlink_to("net.keras")
    os.link("net.keras", "second_name")
    os.link("net/saved_model.pb", "second_pb")
    return tmp_path


def _refuse(output: str, source: str, **options) -> None:
    overlaps.refuse([output], {"the model": source}, **options)


@pytest.mark.parametrize(
    ("output", "source", "how"),
    [
        ("net.keras", "net.keras", "is"),
        ("./elsewhere/../net.keras", "net.keras", "is"),
        ("file_alias", "net.keras", "is"),
        ("net.keras", "file_alias", "is"),
        ("second_name", "net.keras", "is"),
        ("net", "net", "is"),
        ("net/", "net", "is"),
        ("alias", "net", "is"),
        ("net", "alias", "is"),
        ("net/out.tflite", "net", "lies inside of"),
        ("net/variables/new/out", "net", "lies inside of"),
        ("alias/out.tflite", "net", "lies inside of"),
        ("net/saved_model.pb", "net", "lies inside of"),
        ("net/out.tflite", "alias", "lies inside of"),
        ("second_pb", "net", "is a part of"),
        ("elsewhere/weights", "net", "is a part of"),
        ("elsewhere/deeper/out", "net", "is a part of"),
        ("elsewhere/deeper", "net", "is a part of"),
        (".", "net", "holds"),
        ("elsewhere", "elsewhere/weights", "holds"),
        ("alias", "net/saved_model.pb", "holds"),
    ],
)
def test_overlap_is_refused_in_one_line(here, output, source, how):
    for prefix in ("", f"{here}/"):
        with pytest.raises(errors.UserError) as caught:
            _refuse(prefix + output, source)
        line = str(caught.value)
        assert f"which {how} the model, {source}; expected" in line
        assert len(line.splitlines()) == 1


@pytest.mark.parametrize(
    ("output", "source"),
    [
        ("net.tflite", "net.keras"),
        ("net2", "net"),
        ("network/out", "net"),
        ("elsewhere/out.tflite", "net"),
        ("elsewhere/out.tflite", "net.keras"),
        ("net.keras", "missing"),
        ("net.keras", "a\0b"),
        ("a\0b", "net.keras"),
    ],
)
def test_places_apart_pass(here, output, source):
    _refuse(output, source)


def test_what_is_no_path_and_what_is_empty_pass(here):
    given = {"a": object(), "b": "", "c": None, "d": here / "missing"}
    overlaps.refuse(["net.keras"], given)


def test_a_folder_may_hold_inputs_where_files_are_written_into_it(here):
    _refuse(".", "net", holds=False)
    with pytest.raises(errors.UserError):
        _refuse("net/x", "net", holds=False)


def test_links_in_a_circle_end(here):
    pathlib.Path("net/circle").symlink_to(".")
    pathlib.Path("round").symlink_to("round")
    _refuse("elsewhere/out.tflite", "net")
    _refuse("round", "net")


def test_a_folder_that_is_mounted_twice_is_one(here):
    pathlib.Path("mount").mkdir()
    with small_disks.bound(here / "net", here / "mount"):
        for output in ("mount", "mount/out", "mount/variables/out"):
            with pytest.raises(errors.UserError):
                _refuse(output, "net")


def test_letters_do_not_count_where_the_disk_says_so(here, monkeypatch):
    """As on a disk that takes NET.KERAS for net.keras."""
    stat = os.stat

    def any_case(path, *arguments, **options):
        name = os.path.basename(os.fspath(path))
        if isinstance(name, str) and name == "NET.KERAS":
            path = os.path.join(os.path.dirname(path), "net.keras")
        return stat(path, *arguments, **options)

    monkeypatch.setattr(overlaps.os, "stat", any_case)
    with pytest.raises(errors.UserError, match="is the model"):
        _refuse("NET.KERAS", "net.keras")
