"""All get their names or none does; nobody else's file is touched."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import subprocess
import sys
import time

import pytest
import small_disks

from dsg_tf.core import errors, staging

_ROOT = pathlib.Path(__file__).absolute().parent.parent.parent
# Begins to write and never ends.
_WRITER = """
import pathlib, sys, time
from dsg_tf.core import staging
with staging.file(pathlib.Path(sys.argv[1])):
    print("writing", flush=True)
    time.sleep(60)
"""


def _names(folder: pathlib.Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_nothing_has_its_name_before_all_have(tmp_path):
    with staging.Staging() as staged:
        staged.add(tmp_path / "a", b"1")
        fresh = staged.add_folder(tmp_path / "b")
        (fresh / "inner").write_text("2")
        assert not (tmp_path / "a").exists()
        assert not (tmp_path / "b").exists()
        staged.place()
    assert _names(tmp_path) == ["a", "b"]
    assert (tmp_path / "a").read_bytes() == b"1"
    assert (tmp_path / "b" / "inner").read_text() == "2"


def test_what_is_not_placed_leaves_nothing(tmp_path):
    (tmp_path / "a").write_text("old")
    with contextlib.suppress(KeyError), staging.Staging() as staged:
        staged.add(tmp_path / "a", b"new")
        staged.add_folder(tmp_path / "b")
        raise KeyError
    assert _names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_failed_check_leaves_nothing(tmp_path):
    def check(content):
        raise ValueError(content)

    with pytest.raises(ValueError, match="new"), staging.Staging() as staged:
        staged.add(tmp_path / "a", b"new", check=check)
    assert _names(tmp_path) == []


@pytest.mark.parametrize("old", [False, True])
def test_those_placed_before_a_failure_are_as_they_were(tmp_path, old):
    if old:
        (tmp_path / "a").write_text("old a")
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "inner").write_text("old b")
    before = _names(tmp_path)
    (tmp_path / "c").mkdir()  # No file can take its place.
    with staging.Staging() as staged:
        staged.add(tmp_path / "c", b"new")
        staged.add(tmp_path / "a", b"new")
        fresh = staged.add_folder(tmp_path / "b")
        (fresh / "inner").write_text("new")
        with pytest.raises(errors.UserError, match="directory"):
            staged.place(last=tmp_path / "c")
    (tmp_path / "c").rmdir()
    assert _names(tmp_path) == before
    if old:
        assert (tmp_path / "a").read_text() == "old a"
        assert (tmp_path / "b" / "inner").read_text() == "old b"


def test_last_is_placed_last(tmp_path, monkeypatch):
    placed = []
    replace = os.replace

    def spy(source, target):
        placed.append(pathlib.Path(target).name)
        replace(source, target)

    monkeypatch.setattr(staging.os, "replace", spy)
    with staging.Staging() as staged:
        staged.add(tmp_path / "a", b"")
        staged.add(tmp_path / "b", b"")
        staged.place(last=tmp_path / "a")
    assert placed == ["b", "a"]


def test_a_users_temporary_file_is_not_touched(tmp_path):
    others = ("a.tmp", ".a.tmp", ".a.notes.dsg_tf.tmp", ".a.0123abcd.tmp")
    for name in others:
        (tmp_path / name).write_text("mine")
    with staging.file(tmp_path / "a") as temporary:
        temporary.write_text("content")
    assert _names(tmp_path) == sorted((*others, "a"))
    assert {(tmp_path / n).read_text() for n in others} == {"mine"}


def _start(path: pathlib.Path) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(_ROOT), *sys.path]),
        },
    )
    assert process.stdout.readline() == "writing\n"
    return process


def test_temporaries_of_the_dead_go_and_of_the_living_stay(tmp_path):
    process = _start(tmp_path / "a")
    try:
        (left,) = _names(tmp_path)
        staging.sweep(tmp_path / "a")
        assert _names(tmp_path) == [left]
    finally:
        process.kill()
        process.wait()
    assert _names(tmp_path) == [left]
    staging.sweep(tmp_path / "b")  # Not its own.
    assert _names(tmp_path) == [left]
    staging.sweep(tmp_path / "a")
    assert _names(tmp_path) == []


def test_links_are_never_replaced(tmp_path):
    (tmp_path / "mine").write_text("mine")
    for target in ("mine", "nowhere"):
        (tmp_path / "a").symlink_to(target)
        with (
            pytest.raises(errors.UserError, match="symbolic link"),
            staging.Staging() as staged,
        ):
            staged.add(tmp_path / "a", b"new")
        assert os.readlink(tmp_path / "a") == target
        (tmp_path / "a").unlink()
    assert _names(tmp_path) == ["mine"]


def test_a_folder_that_cannot_be_put_back_is_not_deleted(
    tmp_path, monkeypatch, caplog
):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine").write_text("mine")
    rename = os.rename

    def only_away(source, target):
        if pathlib.Path(target) == tmp_path / "a":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(source, target)

    with monkeypatch.context() as patch, staging.Staging() as staged:
        patch.setattr(staging.os, "rename", only_away)
        staged.add_folder(tmp_path / "a")
        with pytest.raises(errors.UserError):
            staged.place()
        staged.__exit__()
    (kept,) = tmp_path.rglob("mine")
    assert kept.read_text() == "mine"
    assert f"{kept.parent} is what was at {tmp_path / 'a'}" in caplog.text
    staging.sweep(tmp_path / "a")
    assert _names(tmp_path) == ["a"]
    assert _names(tmp_path / "a") == ["mine"]


@pytest.mark.parametrize("name", ["ä" * 120, "n" * 250, "a b\nc", "-x", "*[a]"])
def test_any_name_that_a_disk_takes_can_be_written(tmp_path, name):
    for content in ("one", "two"):
        with staging.file(tmp_path / name) as temporary:
            temporary.write_text(content)
    assert _names(tmp_path) == [name]
    assert (tmp_path / name).read_text() == "two"


def test_long_names_that_begin_alike_have_temporaries_apart(tmp_path):
    with staging.file(tmp_path / ("n" * 249 + "1")) as temporary:
        temporary.write_text("one")
        staging.sweep(tmp_path / ("n" * 249 + "2"))
        assert temporary.exists()


def test_log_says_what_was_replaced(tmp_path, caplog):
    caplog.set_level("INFO", logger="absl")
    path = tmp_path / "a"
    for content in (b"12345", b"new"):
        with staging.Staging() as staged:
            staged.add(path, content, tell=True)
            staged.place()
    year = time.strftime("%Y")
    assert f"replaced {path} (5 bytes, {year}-" in caplog.text
    assert caplog.text.count("replaced") == 1


def test_files_can_be_read_by_whom_the_umask_lets(tmp_path):
    with staging.Staging() as staged:
        staged.add(tmp_path / "a", b"")
        staged.place()
    (tmp_path / "plain").touch()
    modes = {(tmp_path / name).stat().st_mode for name in ("a", "plain")}
    assert len(modes) == 1


def test_full_disk_is_one_line_and_the_old_file_stays(tmp_path):
    with small_disks.mounted(tmp_path / "disk", "256k") as disk:
        (disk / "a").write_text("old")
        small_disks.fill(disk, leave=8192)
        before = _names(disk)
        with (
            pytest.raises(errors.UserError, match="100,000 bytes needed"),
            staging.Staging() as staged,
        ):
            staged.add(disk / "a", b"x" * 100_000)
        assert (disk / "a").read_text() == "old"
        assert _names(disk) == before


def _add_both(staged: staging.Staging, folder: pathlib.Path) -> None:
    staged.add(folder / "a", b"new")
    staged.add(folder / "b", b"new")
    staged.place()


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO]
)
@pytest.mark.parametrize("place", ["open", "fsync", "replace"])
def test_every_error_of_writing_is_one_line(
    tmp_path, monkeypatch, number, place
):
    (tmp_path / "a").write_text("old")
    whole = getattr(os, place)

    def fail(*arguments, **options):
        # Not of pytest's own.
        if place == "fsync" or str(tmp_path) in str(arguments[0]):
            raise OSError(number, os.strerror(number))
        return whole(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(staging.os, place, fail)
        with pytest.raises(errors.UserError), staging.Staging() as staged:
            _add_both(staged, tmp_path)
    assert (tmp_path / "a").read_text() == "old"
    assert _names(tmp_path) == ["a"]
