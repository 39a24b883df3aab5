"""What libhdf5 crashes or hangs on does so in a child."""

from __future__ import annotations

import h5py
import keras
import numpy as np
import pytest

from dsg_tf.core import child_process, errors
from dsg_tf.graph.load import hdf5_rehearsal, loading


@pytest.fixture(params=[".keras", ".h5"])
def path(request, tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.save(tmp_path / f"net{request.param}")
    return tmp_path / f"net{request.param}"


def _reader(monkeypatch, tmp_path, script: str) -> None:
    reader = tmp_path / "reader"
    reader.write_text(f"#!/bin/sh\n{script}\n")
    reader.chmod(0o700)
    monkeypatch.setattr(child_process.sys, "executable", str(reader))


@pytest.mark.parametrize(
    ("script", "told"),
    [("kill -SEGV $$", "(SIGSEGV)"), ("exec sleep 30", "(not done after 0 s)")],
)
def test_file_that_ends_or_holds_up_its_reader_is_one_line(
    path, tmp_path, monkeypatch, script, told
):
    monkeypatch.setattr(hdf5_rehearsal, "_SECONDS", 0.2)
    _reader(monkeypatch, tmp_path, script)
    with pytest.raises(errors.UserError) as caught:
        loading.load(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: got a damaged file")
    assert told in text


def test_what_python_says_of_a_file_is_left_to_others(
    path, tmp_path, monkeypatch
):
    _reader(monkeypatch, tmp_path, "exit 1")
    hdf5_rehearsal.require_readable(path)
    monkeypatch.undo()
    path.write_bytes(path.read_bytes()[:200])
    hdf5_rehearsal.require_readable(path)
    monkeypatch.setattr(child_process.sys, "executable", "")
    hdf5_rehearsal.require_readable(path)  # Python inside of a program.


def test_the_child_reads_all_of_a_file(tmp_path, monkeypatch):
    read = []
    get = h5py.AttributeManager.__getitem__
    monkeypatch.setattr(
        h5py.AttributeManager,
        "__getitem__",
        lambda self, name: read.append(name) or get(self, name),
    )
    get_numbers = h5py.Dataset.__getitem__
    monkeypatch.setattr(
        h5py.Dataset,
        "__getitem__",
        lambda self, at: read.append(self.name) or get_numbers(self, at),
    )
    path = tmp_path / "net.h5"
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = "{}"
        file.create_group("a").attrs["names"] = "x"
        file["a/x"] = np.zeros(3)
    hdf5_rehearsal.read_all(str(path))
    assert sorted(read) == ["/a/x", "model_config", "names"]
