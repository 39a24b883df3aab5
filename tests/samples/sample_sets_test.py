"""Samples survive being killed, packed, read back; wrong ones are refused."""

from __future__ import annotations

import json
import zipfile
import zlib

import numpy as np
import pytest
import small_disks

from dsg_tf.core import disk_space, errors
from dsg_tf.samples import (
    sample_folder,
    sample_journal,
    sample_sets,
    sample_values,
)

_SHAPES = {"image": (4, 4, 3), "state": (5,)}
_DTYPES = {"image": np.dtype(np.uint8), "state": np.dtype(np.float32)}


def _values(start: int, size: int = 2) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(start)
    return {
        "image": rng.integers(0, 256, (size, 4, 4, 3)),
        "state": rng.normal(size=(size, 5)),
    }


def _folder(path, key="k", count=5, shapes=None) -> sample_folder.SampleFolder:
    shapes = shapes or _SHAPES
    return sample_folder.SampleFolder(
        path,
        shapes=shapes,
        dtypes={n: _DTYPES.get(n, np.dtype(np.float32)) for n in shapes},
        count=count,
        key=key,
    )


def _filled(path, **kwargs) -> sample_folder.SampleFolder:
    folder = _folder(path, **kwargs)
    for start in (0, 2, 4):
        folder.write(start, _values(start), np.array([start, start + 1]))
    return folder


def _read(path, **inputs):
    return sample_sets.read(path, inputs=inputs or {"image": (4, 4, 3)})


# ---- a folder under way


def test_batches_come_back_from_the_pack_as_they_were_written(tmp_path):
    packed = _filled(tmp_path / "parts").pack(tmp_path / "s.npz", {"a": 1})
    assert len(packed) == 5
    for start in (0, 2):
        for name, values in _values(start).items():
            np.testing.assert_array_equal(
                packed.arrays[name][start : start + 2],
                values.astype(_DTYPES[name]),
            )
    # Of the last batch there is room for one sample only.
    np.testing.assert_array_equal(
        packed.arrays["image"][4], _values(4)["image"][0]
    )
    assert packed.metadata == {"a": 1}
    with np.load(tmp_path / "s.npz") as archive:
        np.testing.assert_array_equal(archive["labels"], [0, 1, 2, 3, 4])


def test_new_folder_has_finished_nothing(tmp_path):
    assert _folder(tmp_path / "parts").finished == frozenset()


def test_killed_run_goes_on_where_it_was(tmp_path):
    first = _folder(tmp_path / "parts")
    first.write(2, _values(2), np.array([7, 8]))
    # Written, but killed before the journal knew: the batch does not count.
    first._maps["image"][0:2] = 9
    first._maps["image"].flush()
    del first

    second = _folder(tmp_path / "parts")
    assert second.finished == {2}
    for start in (0, 4):
        second.write(start, _values(start), np.array([1, 1]))
    resumed = second.pack(tmp_path / "resumed.npz", {})
    np.testing.assert_array_equal(
        resumed.arrays["image"][:4],
        np.concatenate([_values(0)["image"], _values(2)["image"]]),
    )
    with np.load(tmp_path / "resumed.npz") as archive:
        np.testing.assert_array_equal(archive["labels"], [1, 1, 7, 8, 1])


def test_resumed_run_packs_the_same_bytes(tmp_path):
    _filled(tmp_path / "a").pack(tmp_path / "a.npz", {"m": 1})
    _folder(tmp_path / "b").write(2, _values(2), np.array([2, 3]))
    resumed = _folder(tmp_path / "b")
    for start in (0, 4):
        resumed.write(start, _values(start), np.array([start, start + 1]))
    resumed.pack(tmp_path / "b.npz", {"m": 1})
    assert (tmp_path / "a.npz").read_bytes() == (
        tmp_path / "b.npz"
    ).read_bytes()


def test_another_key_begins_anew(tmp_path):
    _filled(tmp_path / "parts")
    other = _folder(tmp_path / "parts", key="other")
    assert other.finished == frozenset()
    assert not other._maps["image"].any()


@pytest.mark.parametrize(
    "journal",
    [
        "",
        '{"key": "k", "done": [[0, [0,',
        "[]",
        "null",
        '{"key": "k"}',
        '{"key": "k", "done": 3}',
        "\x00\x00",
    ],
)
def test_torn_journal_begins_anew(tmp_path, journal):
    _filled(tmp_path / "parts")
    (tmp_path / "parts" / "journal.json").write_text(journal)
    assert _folder(tmp_path / "parts").finished == frozenset()


def test_journal_that_cannot_be_written_leaves_no_temporary(tmp_path):
    (tmp_path / "parts" / "journal.json").mkdir(parents=True)
    with pytest.raises(errors.UserError):
        _filled(tmp_path / "parts")
    assert not (tmp_path / "parts" / "journal.tmp").exists()


def _journal(**changes) -> bytes:
    """A journal whose checksum holds, whatever it says."""
    whole = {"version": 2, "key": "k", "done": [], "notes": {}, **changes}
    whole["checksum"] = zlib.crc32(json.dumps(whole).encode())
    return json.dumps(whole).encode()


@pytest.mark.parametrize(
    "journal",
    [
        _journal(done=3),
        _journal(done=[[0, [1, 2]]]),
        _journal(done=[[0, 5, [1, 2]]]),
        _journal(done=[["0", [1, 2], [1, 2]]]),
        _journal(done=[[0.0, [1, 2], [1, 2]]]),
        _journal(done=[[None, [1, 2], [1, 2]]]),
        _journal(done=[[-2, [1, 2], [1, 2]]]),
        _journal(done=[[4, [1, 2], [1, 2]]]),
        _journal(done=[[0, [2**70, 2], [1, 2]]]),
        _journal(done=[[0, [1, 2], [1]]]),
        _journal(done=[[0, [1, 2], ["a", "b"]]]),
        _journal(notes=[1]),
        _journal(version=1),
        _journal(key=["k"]),
        b"{}",
        b"",
        b"\xff" * 50,
        b"[" * 90_000,
    ],
    ids=range(18),
)
def test_journal_that_holds_something_else_begins_anew(tmp_path, journal):
    _filled(tmp_path / "parts")
    (tmp_path / "parts" / "journal.json").write_bytes(journal)
    again = _folder(tmp_path / "parts")
    assert again.finished == frozenset()
    again.write(0, _values(0), np.array([0, 0]))
    assert _folder(tmp_path / "parts").finished == {0}


def test_every_flipped_byte_of_a_journal_is_found_and_said(tmp_path, caplog):
    _filled(tmp_path / "parts")
    path = tmp_path / "parts" / "journal.json"
    content = path.read_bytes()
    for at in range(0, len(content), 3):
        changed = bytearray(content)
        changed[at] ^= 4
        path.write_bytes(changed)
        with pytest.raises(ValueError, match="its journal"):
            sample_journal.read(path)
    assert _folder(tmp_path / "parts").finished == frozenset()
    assert "damaged" in caplog.text
    assert "begun anew" in caplog.text


@pytest.mark.parametrize(("file", "sample"), [("0.npy", 3), ("1.npy", 2)])
def test_flipped_bit_costs_its_batch_and_no_other(
    tmp_path, caplog, file, sample
):
    _filled(tmp_path / "parts")
    path = tmp_path / "parts" / file
    content = bytearray(path.read_bytes())
    values = np.load(path)
    offset = len(content) - values.nbytes
    content[offset + sample * values[0].nbytes] ^= 1
    path.write_bytes(content)
    again = _folder(tmp_path / "parts")
    assert again.finished == {0, 4}
    assert "samples 2 to 3 are damaged; made again" in caplog.text
    again.write(2, _values(2), np.array([2, 3]))
    _filled(tmp_path / "whole").pack(tmp_path / "whole.npz", {})
    again.pack(tmp_path / "again.npz", {})
    assert (tmp_path / "again.npz").read_bytes() == (
        tmp_path / "whole.npz"
    ).read_bytes()


def test_room_is_reserved_before_anything_is_written(tmp_path):
    """A full disk would end a process that writes through a memory map."""
    folder = _folder(tmp_path / "parts", count=50_000)
    for file in (tmp_path / "parts").glob("*.npy"):
        assert disk_space.allocated_bytes(file) >= file.stat().st_size
    folder.remove()
    with small_disks.mounted(tmp_path / "disk", "256k") as disk:
        with pytest.raises(errors.UserError, match="bytes needed"):
            _folder(disk / "parts", count=50_000)
        assert list(disk.iterdir()) == []


def test_pack_on_a_full_disk_keeps_what_it_was_made_of(tmp_path):
    with small_disks.mounted(tmp_path / "disk", "64k") as disk:
        folder = _filled(disk / "parts")
        (disk / "s.npz").write_bytes(b"old")
        small_disks.fill(disk)
        with pytest.raises(errors.UserError, match="0 bytes free"):
            folder.pack(disk / "s.npz", {})
        assert (disk / "s.npz").read_bytes() == b"old"
        assert sorted(p.name for p in disk.iterdir()) == [
            "ballast",
            "parts",
            "s.npz",
        ]
        (disk / "ballast").unlink()
        assert len(_folder(disk / "parts").pack(disk / "s.npz", {})) == 5


def test_remove_leaves_what_is_not_its_own(tmp_path):
    folder = _filled(tmp_path / "parts")
    (tmp_path / "parts" / "mine.txt").write_text("mine")
    folder.remove()
    assert [p.name for p in (tmp_path / "parts").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("damage", ["missing", "empty", "garbage", "shorter"])
def test_damaged_array_begins_anew(tmp_path, damage):
    _filled(tmp_path / "parts")
    file = tmp_path / "parts" / "1.npy"
    if damage == "missing":
        file.unlink()
    elif damage == "shorter":
        np.save(file, np.zeros((4, 5), np.float32))
    else:
        file.write_bytes(b"" if damage == "empty" else b"garbage" * 99)
    again = _folder(tmp_path / "parts")
    assert again.finished == frozenset()
    again.write(0, _values(0), np.array([0, 0]))


def test_journal_notes_batches_only_after_their_values(tmp_path, monkeypatch):
    folder = _folder(tmp_path / "parts")

    def killed(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(sample_folder.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        folder.write(0, _values(0), np.array([0, 0]))
    monkeypatch.undo()
    assert _folder(tmp_path / "parts").finished == frozenset()


def test_remove_leaves_no_folder(tmp_path):
    folder = _filled(tmp_path / "parts")
    # What a run that was killed inside of `write` leaves behind.
    (tmp_path / "parts" / "journal.tmp").write_text("{")
    folder.remove()
    assert not (tmp_path / "parts").exists()


def test_remove_leaves_nothing_of_an_earlier_model_with_more_inputs(tmp_path):
    _filled(tmp_path / "parts")
    folder = _folder(tmp_path / "parts", key="b", shapes={"image": (4, 4, 3)})
    folder.remove()
    assert not (tmp_path / "parts").exists()


# ---- the pack


def test_same_content_packs_to_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        _filled(tmp_path / name).pack(tmp_path / f"{name}.npz", {"m": [1]})
    one = (tmp_path / "a.npz").read_bytes()
    assert one == (tmp_path / "b.npz").read_bytes()
    _filled(tmp_path / "c").pack(tmp_path / "c.npz", {"m": [2]})
    assert one != (tmp_path / "c.npz").read_bytes()


def test_pack_holds_no_time_of_day(tmp_path):
    _filled(tmp_path / "a").pack(tmp_path / "a.npz", {})
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        times = {info.date_time for info in archive.infolist()}
    assert times == {(1980, 1, 1, 0, 0, 0)}


def test_pack_is_memory_mapped(tmp_path):
    packed = _filled(tmp_path / "parts").pack(tmp_path / "s.npz", {})
    for array in packed.arrays.values():
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable


def test_killed_pack_leaves_the_old_file(tmp_path, monkeypatch):
    folder = _filled(tmp_path / "parts")
    (tmp_path / "s.npz").write_bytes(b"old")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sample_folder.shutil, "copyfileobj", killed)
    with pytest.raises(KeyboardInterrupt):
        folder.pack(tmp_path / "s.npz", {})
    assert (tmp_path / "s.npz").read_bytes() == b"old"


def test_pack_of_an_input_called_labels_keeps_the_input(tmp_path):
    shapes = {"labels": (3,), "noise": (2,)}
    folder = _folder(tmp_path / "parts", shapes=shapes, count=2)
    values = {"labels": np.eye(2, 3), "noise": np.ones((2, 2))}
    folder.write(0, values, np.array([5, 6]))
    packed = folder.pack(tmp_path / "s.npz", {})
    np.testing.assert_array_equal(packed.arrays["labels"], np.eye(2, 3))
    np.testing.assert_array_equal(packed.arrays["noise"], np.ones((2, 2)))


def test_split_holds_out_the_last(tmp_path):
    packed = _filled(tmp_path / "parts").pack(tmp_path / "s.npz", {})
    first, last = packed.split(2)
    assert (len(first), len(last)) == (3, 2)
    np.testing.assert_array_equal(
        last.arrays["state"], packed.arrays["state"][3:]
    )


# ---- a user's own file

_IMAGES = np.arange(3 * 4 * 4 * 3, dtype=np.float32).reshape(3, 4, 4, 3)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    "arrays",
    [
        {"image": _IMAGES},
        {"x_test": _IMAGES},
        {"arr_0": _IMAGES, "labels": np.arange(3)},
        {"x": _IMAGES, "y": np.arange(3)},
        {"x": _IMAGES, "labels": np.eye(3)},
        {"image": _IMAGES, "other": _IMAGES + 1},
    ],
    ids=lambda arrays: "+".join(arrays),
)
def test_one_array_of_an_npz_serves_one_input(tmp_path, save, arrays):
    save(tmp_path / "a.npz", **arrays)
    read = _read(tmp_path / "a.npz")
    np.testing.assert_array_equal(read.arrays["image"], _IMAGES)
    assert read.metadata == {}


def test_npy_serves_one_input_and_is_memory_mapped(tmp_path):
    np.save(tmp_path / "a.npy", _IMAGES)
    read = _read(tmp_path / "a.npy")
    np.testing.assert_array_equal(read.arrays["image"], _IMAGES)
    assert isinstance(read.arrays["image"], np.memmap)


def test_uncompressed_npz_is_memory_mapped_in_either_order(tmp_path):
    np.savez(tmp_path / "a.npz", image=np.asfortranarray(_IMAGES))
    read = _read(tmp_path / "a.npz")
    assert isinstance(read.arrays["image"], np.memmap)
    np.testing.assert_array_equal(read.arrays["image"], _IMAGES)


def test_several_inputs_are_found_by_name(tmp_path):
    state = np.ones((3, 5))
    np.savez(tmp_path / "a.npz", state=state, image=_IMAGES, extra=[1])
    read = _read(tmp_path / "a.npz", **_SHAPES)
    assert list(read.arrays) == ["image", "state"]
    np.testing.assert_array_equal(read.arrays["state"], state)


def test_one_scalar_a_sample_serves_a_scalar_input(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(4.0))
    read = _read(tmp_path / "a.npy", x=())
    np.testing.assert_array_equal(read.arrays["x"], np.arange(4.0))


def _write(path, kind):
    if kind == "missing":
        return
    if kind == "folder":
        path.mkdir()
    elif kind == "garbage":
        path.write_bytes(b"no arrays here" * 10)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        np.savez(path, image=_IMAGES)
        path.write_bytes(path.read_bytes()[:-50])
    elif kind == "damaged":
        np.savez_compressed(path, image=_IMAGES)
        content = bytearray(path.read_bytes())
        content[150:160] = b"\xff" * 10
        path.write_bytes(content)
    elif kind == "other zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.txt", "text")
    elif kind == "broken metadata":
        np.savez(path, image=_IMAGES)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("metadata.json", "{")
    else:
        np.savez(path, **_CONTENT[kind])


_CONTENT = {
    "wrong shape": {"image": _IMAGES[:, :3]},
    "wrong rank": {"image": _IMAGES[0]},
    "no samples": {"image": _IMAGES[:0]},
    "text": {"image": np.full((3, 4, 4, 3), "a")},
    "booleans": {"image": np.ones((3, 4, 4, 3), bool)},
    "complex": {"image": _IMAGES + 1j},
    "objects": {"image": np.full((3, 4, 4, 3), None)},
    "two candidates": {"a": _IMAGES, "b": _IMAGES},
}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "no such file"),
        ("folder", "a folder"),
        ("garbage", "unreadable"),
        ("empty", "unreadable"),
        ("truncated", "unreadable"),
        ("damaged", "unreadable"),
        ("other zip", "no arrays"),
        ("broken metadata", "unreadable"),
        ("wrong shape", r"shape \(3, 3, 4, 3\).*\(N, 4, 4, 3\)"),
        ("wrong rank", r"shape \(4, 4, 3\)"),
        ("no samples", "no samples"),
        ("text", "numbers"),
        ("booleans", "numbers"),
        ("complex", "numbers"),
        ("objects", "Python objects"),
        ("two candidates", "arrays a, b.*for each input: image"),
    ],
)
def test_unusable_file_is_refused_in_one_line(tmp_path, kind, words):
    path = tmp_path / "a.npz"
    _write(path, kind)
    with pytest.raises(errors.UserError, match=words) as caught:
        _read(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_objects_in_an_npy_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([None, {}]), allow_pickle=True)
    with pytest.raises(errors.UserError, match="unreadable"):
        _read(tmp_path / "a.npy")


def test_missing_input_is_named_among_what_is_there(tmp_path):
    np.savez(tmp_path / "a.npz", image=_IMAGES)
    with pytest.raises(errors.UserError, match=r"got arrays image;.*state"):
        _read(tmp_path / "a.npz", **_SHAPES)


def test_npy_cannot_serve_two_inputs(tmp_path):
    np.save(tmp_path / "a.npy", _IMAGES)
    with pytest.raises(errors.UserError, match=r"without a name.*image, state"):
        _read(tmp_path / "a.npy", **_SHAPES)


def test_unequal_counts_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", image=_IMAGES, state=np.ones((2, 5)))
    with pytest.raises(errors.UserError, match="numbers of samples"):
        _read(tmp_path / "a.npz", **_SHAPES)


def test_metadata_is_strict_json(tmp_path):
    _filled(tmp_path / "p").pack(tmp_path / "s.npz", {"b": 1, "a": 2})
    with zipfile.ZipFile(tmp_path / "s.npz") as archive:
        text = archive.read("metadata.json").decode()
    assert text == json.dumps({"a": 2, "b": 1})


# ---- values and the domain


def _check(array, *, low=-1.0, high=1.0, deviation=0.5, integer=False):
    sample_values.check(
        "a.npz",
        "image",
        np.asarray(array),
        minimum=low,
        maximum=high,
        deviation=deviation,
        integer=integer,
    )


_PIXELS = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3))


@pytest.mark.parametrize(
    ("array", "domain"),
    [
        (_PIXELS / 127.5 - 1, {}),
        # The bounds of a float input are an estimate: 1.5 times is let pass.
        (_PIXELS / 127.5 * 1.4 - 1, {}),
        # [0, 1] in [-1, 1] cannot be told from dark pictures.
        (_PIXELS / 255, {}),
        (_PIXELS, {"low": 0, "high": 255, "deviation": 64, "integer": True}),
        (_PIXELS * 1.0, {"low": 0, "high": 255, "deviation": 64}),
        (1e6 * _PIXELS, {"low": -np.inf, "high": np.inf, "deviation": 1}),
        # Token ids: few of the many numbers that an int32 can hold.
        (
            [[1, 2], [3, 4]],
            {"low": -(2**31), "high": 2**31, "deviation": 1e9, "integer": True},
        ),
    ],
)
def test_values_of_the_domain_pass(array, domain):
    _check(array, **domain)


@pytest.mark.parametrize(
    ("array", "domain", "words"),
    [
        (_PIXELS, {}, r"in \[0, 255\]; expected values in \[-1, 1\]"),
        (
            _PIXELS / 255,
            {"low": 0, "high": 255, "deviation": 64},
            r"in \[0, 1\]; expected values in \[0, 255\]",
        ),
        (
            _PIXELS / 255,
            {"low": 0, "high": 255, "deviation": 64, "integer": True},
            "fractional.*whole numbers",
        ),
        (
            _PIXELS - 128,
            {"low": 0, "high": 255, "deviation": 64, "integer": True},
            r"expected values in \[0, 255\]",
        ),
        ([[0.5, np.nan]], {}, "not finite"),
        (
            [[0.5, np.inf]],
            {"low": -np.inf, "high": np.inf, "deviation": 1},
            "not finite",
        ),
    ],
)
def test_values_of_another_domain_are_refused(array, domain, words):
    with pytest.raises(errors.UserError, match=words) as caught:
        _check(array, **domain)
    assert len(str(caught.value).splitlines()) == 1


def test_last_of_many_samples_is_checked_too():
    array = np.zeros((200, 2))
    array[:, 1] = 1
    _check(array)
    array[-1, 0] = np.nan
    with pytest.raises(errors.UserError, match="not finite"):
        _check(array)
    array[-1, 0] = 255
    with pytest.raises(errors.UserError, match="255"):
        _check(array)
