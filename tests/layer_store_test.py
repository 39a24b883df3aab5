"""Finished layers survive; what is damaged or of another run does not."""

from __future__ import annotations

import numpy as np

from dsg_tf import layer_store


def test_what_was_put_is_there_for_the_same_key(tmp_path):
    folder = tmp_path / "layers"
    store = layer_store.LayerStore(folder, "key")
    store.put("a/b", {"kernel": np.arange(3.0), "steps": np.int64(7)})
    again = layer_store.LayerStore(folder, "key").get("a/b")
    np.testing.assert_array_equal(again["kernel"], [0, 1, 2])
    assert int(again["steps"]) == 7


def test_names_that_only_look_alike_are_different(tmp_path):
    store = layer_store.LayerStore(tmp_path / "layers", "key")
    store.put("a/b", {"x": np.zeros(1)})
    store.put("a%2Fb", {"x": np.ones(1)})
    assert store.get("a/b")["x"][0] == 0


def test_another_key_begins_anew(tmp_path):
    folder = tmp_path / "layers"
    layer_store.LayerStore(folder, "key").put("a", {"x": np.ones(1)})
    assert layer_store.LayerStore(folder, "other").get("a") is None
    assert layer_store.LayerStore(folder, "key").get("a") is None


def test_a_damaged_layer_is_as_none(tmp_path):
    folder = tmp_path / "layers"
    store = layer_store.LayerStore(folder, "key")
    store.put("a", {"x": np.ones(100)})
    (path,) = folder.glob("*.npz")
    path.write_bytes(path.read_bytes()[:60])
    assert store.get("a") is None


def test_remove_takes_the_folder_away(tmp_path):
    store = layer_store.LayerStore(tmp_path / "layers", "key")
    store.put("a", {"x": np.ones(1)})
    store.remove()
    assert list(tmp_path.iterdir()) == []
