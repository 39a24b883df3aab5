"""Mutators change something, and by one seed the same."""

from __future__ import annotations

import io
import json
import zipfile

import h5py
import numpy as np
import pytest
from tensorflow.core.protobuf import saved_model_pb2

from tools.faults import (
    archive_mutators,
    byte_mutators,
    cases,
    hdf5_mutators,
    json_mutators,
    proto_mutators,
)

_CONTENT = bytes(range(256)) * 4


def _rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("name", byte_mutators.NAMES)
def test_a_mutator_of_bytes_repeats_by_its_seed_and_changes_the_content(name):
    mutator = byte_mutators.MUTATORS[name]
    changed = [mutator(_CONTENT, _rng(seed)) for seed in range(20)]
    assert changed == [mutator(_CONTENT, _rng(seed)) for seed in range(20)]
    assert sum(content != _CONTENT for content in changed) > 15
    assert len(set(changed)) > 10


@pytest.mark.parametrize("name", ["bits", "zeroed", "length", "head", "tail"])
def test_damage_in_place_keeps_the_length(name):
    mutator = byte_mutators.MUTATORS[name]
    for seed in range(20):
        assert len(mutator(_CONTENT, _rng(seed))) == len(_CONTENT)


def test_head_and_tail_stay_where_they_are():
    head = byte_mutators.corrupt_head(_CONTENT, _rng())
    tail = byte_mutators.corrupt_tail(_CONTENT, _rng())
    assert head[64:] == _CONTENT[64:]
    assert tail[:-64] == _CONTENT[:-64]


def test_json_stays_json_and_the_document_as_it_was():
    document = {"class_name": "Functional", "config": {"layers": [1, 2, "x"]}}
    before = json.dumps(document)
    texts = [json_mutators.mutate(document, _rng(seed)) for seed in range(50)]
    assert json.dumps(document) == before
    assert texts == [
        json_mutators.mutate(document, _rng(seed)) for seed in range(50)
    ]
    for text in texts:
        json.loads(text)
        assert text != before


def test_messages_still_parse():
    model = saved_model_pb2.SavedModel(saved_model_schema_version=1)
    meta_graph = model.meta_graphs.add()
    meta_graph.meta_info_def.tags.append("serve")
    meta_graph.graph_def.node.add(name="x", op="Const").attr["T"].type = 1
    meta_graph.signature_def["serving_default"].inputs["x"].name = "x:0"
    content = model.SerializeToString(deterministic=True)
    found = set()
    for seed in range(60):
        for _ in range(2):
            changed = saved_model_pb2.SavedModel.FromString(content)
            proto_mutators.mutate(changed, _rng(seed))
            text = changed.SerializeToString(deterministic=True)
            saved_model_pb2.SavedModel.FromString(text)
            found.add((seed, text))
    assert len(found) == 60, "one seed, two results"
    assert len({text for _, text in found} - {content}) > 20


@pytest.mark.parametrize("name", archive_mutators.STRUCTURE)
def test_an_archive_is_another_one(name):
    members = {"a.npy": b"a" * 50, "b.json": b"{}"}
    mutator = archive_mutators.STRUCTURE[name]
    whole = archive_mutators.archive(members)
    changed = [mutator(members, _rng(seed)) for seed in range(12)]
    assert changed == [mutator(members, _rng(seed)) for seed in range(12)]
    assert all(content != whole for content in changed)


def test_a_wrong_checksum_is_one():
    members = {"a.npy": b"a" * 50, "b.json": b"{}"}
    content = archive_mutators.STRUCTURE["crc"](members, _rng())
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is not None


def test_headers_of_arrays_are_wrong():
    array = np.ones((12, 8, 8, 3), np.float32)
    right = io.BytesIO()
    np.save(right, array)
    refused = 0
    for seed in range(60):
        content = archive_mutators.with_header(array, _rng(seed))
        assert content.startswith(np.lib.format.MAGIC_PREFIX)
        assert content == archive_mutators.with_header(array, _rng(seed))
        try:
            found = np.load(io.BytesIO(content))
        except Exception:
            refused += 1
        else:
            same = found.shape == array.shape and found.dtype == array.dtype
            assert not same or content != right.getvalue()
    assert refused > 30


@pytest.mark.parametrize("name", hdf5_mutators.MUTATORS)
def test_hdf5_files_open_and_hold_something_else(name, tmp_path):
    def make(path):
        with h5py.File(path, "w") as file:
            file.attrs["model_config"] = "{}"
            file["layers/conv/kernel"] = np.ones((3, 3), np.float32)
            file["layers/conv"].attrs["names"] = ["kernel"]
        return path

    def told(path):
        with h5py.File(path) as file:
            found = [sorted(file.attrs.items(), key=str)]
            file.visititems(
                lambda n, item: found.append(
                    (n, type(item), sorted(map(str, item.attrs.items())))
                )
            )
            try:
                kernel = file.get("layers/conv/kernel")
            except RuntimeError:  # A link to itself.
                kernel = None
            if isinstance(kernel, h5py.Dataset):
                few = kernel.size and kernel.size < 1000
                found.append((kernel.shape, kernel.dtype))
                found.append(repr(kernel[()]) if few else "")
        return repr(found)

    whole = told(make(tmp_path / "whole.h5"))
    different = 0
    for seed in range(6):
        path = make(tmp_path / f"{seed}.h5")
        hdf5_mutators.mutate(path, name, _rng(seed))
        different += told(path) != whole
    assert different >= 4


def test_a_case_more_changes_no_other():
    first = cases.rng_of(7, "malformed/a").integers(1 << 30)
    assert first == cases.rng_of(7, "malformed/a").integers(1 << 30)
    assert first != cases.rng_of(7, "malformed/b").integers(1 << 30)
    assert first != cases.rng_of(8, "malformed/a").integers(1 << 30)
