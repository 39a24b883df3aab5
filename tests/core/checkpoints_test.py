"""Finished layers survive; what is damaged or of another run does not."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest

from dsg_tf.core import checkpoints, errors


def test_what_was_put_is_there_for_the_same_key(tmp_path):
    folder = tmp_path / "layers"
    store = checkpoints.LayerStore(folder, "key")
    store.put("a/b", {"kernel": np.arange(3.0), "steps": np.int64(7)})
    again = checkpoints.LayerStore(folder, "key").get("a/b")
    np.testing.assert_array_equal(again["kernel"], [0, 1, 2])
    assert int(again["steps"]) == 7


def test_names_that_only_look_alike_are_different(tmp_path):
    store = checkpoints.LayerStore(tmp_path / "layers", "key")
    store.put("a/b", {"x": np.zeros(1)})
    store.put("a%2Fb", {"x": np.ones(1)})
    assert store.get("a/b")["x"][0] == 0


def test_another_key_begins_anew(tmp_path):
    folder = tmp_path / "layers"
    checkpoints.LayerStore(folder, "key").put("a", {"x": np.ones(1)})
    assert checkpoints.LayerStore(folder, "other").get("a") is None
    assert checkpoints.LayerStore(folder, "key").get("a") is None


def test_a_damaged_layer_is_as_none(tmp_path):
    folder = tmp_path / "layers"
    store = checkpoints.LayerStore(folder, "key")
    store.put("a", {"x": np.ones(100)})
    (path,) = folder.glob("*.npz")
    path.write_bytes(path.read_bytes()[:60])
    assert store.get("a") is None


def test_remove_takes_the_folder_away(tmp_path):
    store = checkpoints.LayerStore(tmp_path / "layers", "key")
    store.put("a", {"x": np.ones(1)})
    store.remove()
    assert list(tmp_path.iterdir()) == []


def test_every_flipped_bit_and_truncation_is_as_none(tmp_path, caplog):
    folder = tmp_path / "layers"
    store = checkpoints.LayerStore(folder, "key")
    store.put("a", {"x": np.arange(5.0)})
    (path,) = folder.glob("*.npz")
    content = path.read_bytes()
    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= 0x10
        path.write_bytes(changed)
        found = store.get("a")
        if found is not None:  # Times and the like.
            np.testing.assert_array_equal(found["x"], np.arange(5.0))
        path.write_bytes(content[:at])
        assert store.get("a") is None
    assert "layer a: what an earlier run kept is damaged" in caplog.text


def test_a_layer_under_another_name_or_key_is_as_none(tmp_path):
    store = checkpoints.LayerStore(tmp_path / "layers", "key")
    store.put("a", {"x": np.ones(1)})
    (path,) = (tmp_path / "layers").glob("*.npz")
    path.with_name("b.npz").write_bytes(path.read_bytes())
    assert store.get("b") is None
    other = checkpoints.LayerStore(tmp_path / "other", "other key")
    (tmp_path / "other" / "a.npz").write_bytes(path.read_bytes())
    assert other.get("a") is None


def test_a_layer_that_lacks_an_array_is_as_none(tmp_path):
    store = checkpoints.LayerStore(tmp_path / "layers", "key")
    np.savez(tmp_path / "layers" / "a.npz", other=np.ones(1))
    assert store.get("a") is None


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"another"])
def test_a_damaged_key_begins_anew(tmp_path, content):
    folder = tmp_path / "layers"
    checkpoints.LayerStore(folder, "key").put("a", {"x": np.ones(1)})
    (folder / "key.txt").write_bytes(content)
    assert checkpoints.LayerStore(folder, "key").get("a") is None


def test_files_of_others_stay(tmp_path):
    folder = tmp_path / "layers"
    store = checkpoints.LayerStore(folder, "key")
    (folder / "notes.txt").write_text("mine")
    store.remove()
    assert [p.name for p in folder.iterdir()] == ["notes.txt"]
    checkpoints.LayerStore(folder, "other")
    assert (folder / "notes.txt").read_text() == "mine"


def test_long_names_are_kept_apart(tmp_path):
    store = checkpoints.LayerStore(tmp_path / "layers", "key")
    names = ["n/" * 200 + end for end in "ab"]
    for number, name in enumerate(names):
        store.put(name, {"x": np.full(1, number)})
    assert [int(store.get(name)["x"][0]) for name in names] == [0, 1]


def test_a_full_disk_is_one_line_and_leaves_no_half(tmp_path, monkeypatch):
    store = checkpoints.LayerStore(tmp_path / "layers", "key")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoints.os, "fsync", full)
    with pytest.raises(errors.UserError, match="80 bytes needed"):
        store.put("a", {"x": np.ones(10)})
    assert [p.name for p in (tmp_path / "layers").iterdir()] == ["key.txt"]
