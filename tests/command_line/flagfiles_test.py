"""Flagfiles are read as absl reads them, and never hang or run away."""

from __future__ import annotations

import os
import pathlib
import socket

import pytest
from absl import flags

from dsg_tf.batch import __main__ as batch
from dsg_tf.command_line import flagfiles, quantize_flags
from dsg_tf.core import errors


def _refused(path: pathlib.Path, words: str) -> None:
    with pytest.raises(errors.UserError, match=words) as raised:
        flagfiles.expand([f"--flagfile={path}"])
    assert len(str(raised.value).splitlines()) == 1
    assert raised.value.subject


def test_lines_stand_where_the_file_was_named(tmp_path):
    inner = tmp_path / "inner.flags"
    inner.write_text("--b=2\n")
    outer = tmp_path / "outer.flags"
    outer.write_bytes(
        "\ufeff# a comment\r\n\r\n  --a=1  \r\n// another\r\n".encode()
        + f"--flagfile={inner}\r\n--names=x y\r\n".encode()
    )
    expanded = ["--a=1", "--b=2", "--names=x y"]
    assert flagfiles.expand(["--z", f"--flagfile={outer}", "--c"]) == [
        "--z",
        *expanded,
        "--c",
    ]
    assert flagfiles.expand(["-flagfile", str(outer)]) == expanded
    untouched = ["--", f"--flagfile={outer}"]
    assert flagfiles.expand(untouched) == untouched


def test_home_folder_is_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "net.flags").write_text("--a=1\n")
    assert flagfiles.expand(["--flagfile=~/net.flags"]) == ["--a=1"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"--a=\xff\xfe", "no UTF-8 .byte 4.*save it as UTF-8"),
        ("--a=1\n".encode("utf-16"), "no UTF-8"),
        (b"--a=\0", "a byte of value 0"),
        (b"--a=1\n" * 200_000, "more than 1000000 bytes"),
        (b"\n--flagfile=\n", "--flagfile: got no name"),
    ],
)
def test_file_that_is_no_text_of_flags_is_refused(tmp_path, content, words):
    path = tmp_path / "x.flags"
    path.write_bytes(content)
    _refused(path, words)


def test_file_of_a_gigabyte_is_not_read(tmp_path):
    path = tmp_path / "x.flags"
    with path.open("wb") as file:
        file.truncate(2**40)
    _refused(path, "more than")


def test_what_is_no_file_is_refused_before_it_is_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    _refused(tmp_path / "pipe", "got a pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        _refused(tmp_path / "socket", "got a socket")
    _refused(pathlib.Path("/dev/zero"), "got a device")
    _refused(tmp_path, "Is a directory")
    _refused(tmp_path / "absent", "No such file")
    _refused(tmp_path / ("x" * 300), "File name too long")
    nested = tmp_path / "nested.flags"
    nested.write_text(f"--flagfile={tmp_path / 'pipe'}\n")
    _refused(nested, "got a pipe")


def test_circles_and_avalanches_are_refused(tmp_path):
    one, two = tmp_path / "1.flags", tmp_path / "2.flags"
    one.write_text(f"--flagfile={two}\n")
    two.write_text(f"--flagfile={tmp_path}/../{tmp_path.name}/1.flags\n")
    _refused(one, "names itself")
    for index in range(40):
        (tmp_path / f"a{index}").write_text(
            f"--flagfile={tmp_path / f'a{index + 1}'}\n" * 2
        )
    (tmp_path / "a40").write_text("")
    _refused(tmp_path / "a0", "at most 100")


def test_absl_reads_the_same(tmp_path):
    path = tmp_path / "x.flags"
    path.write_text("--seed=3\n# x\n--input_shape=4,4\n--input_shape=a=2\n")
    ours, theirs = quantize_flags.own_values(), quantize_flags.own_values()
    ours(["", *flagfiles.expand([f"--flagfile={path}"])])
    theirs(["", f"--flagfile={path}"])
    assert ours.flag_values_dict() == theirs.flag_values_dict()


def test_batch_reads_flagfiles_of_models_with_the_same_care(tmp_path):
    from dsg_tf.batch import batch_models

    values = flags.FlagValues()
    batch.batch_flags.define(values)
    for name, content in (
        ("latin.flags", b"--saved_model=\xe4"),
        ("circle.flags", f"--flagfile={tmp_path}/circle.flags".encode()),
        ("nul.flags", b"--saved_model=a\0b"),
        ("seed.flags", b"--saved_model=.\n--seed=" + b"9" * 40),
        ("quotes.flags", b'--saved_model=.\n--seed="1,2'),
        ("near.flags", b"--saved_modl=."),
    ):
        (tmp_path / name).write_bytes(content)
        values(["", f"--models={tmp_path / name}"])
        with pytest.raises(errors.UserError) as raised:
            batch_models.models(values)
        assert len(str(raised.value).splitlines()) == 1
    os.mkfifo(tmp_path / "pipe.flags")
    values(["", f"--models={tmp_path / 'pipe.flags'}"])
    with pytest.raises(errors.UserError, match="a pipe"):
        batch_models.models(values)
