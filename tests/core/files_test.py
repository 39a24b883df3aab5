"""What may be read and written, and what is refused before it is opened."""

from __future__ import annotations

import os
import socket

import pytest

from dsg_tf.core import errors, files


def test_pipes_sockets_and_devices_are_refused_unopened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    address = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        for path, kind in (
            (tmp_path / "pipe", "a pipe"),
            (address, "a socket"),
            ("/dev/zero", "a device"),
        ):
            with pytest.raises(errors.UserError, match=f"got {kind}"):
                files.refuse_special(path, expected="a file")


def test_an_error_names_its_subject_and_the_path(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(
        errors.UserError, match=r"--samples: got .*pipe, a pipe"
    ):
        files.refuse_special(
            tmp_path / "pipe", subject="--samples", expected="a file"
        )


def test_files_folders_and_what_is_not_there_pass(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path, tmp_path / "none", "a\0b"):
        files.refuse_special(path, expected="a file")
