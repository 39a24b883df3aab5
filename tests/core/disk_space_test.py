"""A full disk is one line with the bytes; other errors stay what they are."""

from __future__ import annotations

import errno
import os
import sqlite3

import pytest
import small_disks

from dsg_tf.core import disk_space, errors


def _raise(error: Exception, cause: Exception | None = None):
    raise error from cause


_FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (_FULL, None),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), None),
        (sqlite3.OperationalError("database or disk is full"), None),
        (OSError("Can't write data (errno = 28, error message = '')"), None),
        (RuntimeError("a.pb; No space left on device"), None),
        (RuntimeError("a callback failed"), _FULL),
    ],
    ids=["full", "quota", "sqlite", "hdf5", "tensorflow", "cause"],
)
def test_no_room_is_one_line_with_bytes_needed_and_free(tmp_path, error, cause):
    with (
        pytest.raises(errors.UserError) as caught,
        disk_space.reported(tmp_path / "file", bytes_needed=12345),
    ):
        _raise(error, cause)
    line = str(caught.value)
    assert line.startswith(f"{tmp_path / 'file'}: got a disk with no room left")
    assert "12,345 bytes needed" in line
    assert f"{disk_space.free_bytes(tmp_path):,}"[:3] in line
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EFBIG, "File too large"), "ulimit -f"),
        (OSError(errno.EROFS, "Read-only file system"), "read-only disk"),
        (
            sqlite3.OperationalError("attempt to write a readonly database"),
            "read-only disk",
        ),
    ],
)
def test_limits_and_read_only_disks_are_one_line(tmp_path, error, words):
    with (
        pytest.raises(errors.UserError, match=words),
        disk_space.reported(tmp_path),
    ):
        _raise(error)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("28 things"),
        OSError(errno.EACCES, "Permission denied"),
        sqlite3.OperationalError("no such table: runs"),
        KeyError("errno"),
    ],
)
def test_other_errors_stay_what_they_are(tmp_path, error):
    with pytest.raises(type(error)) as caught, disk_space.reported(tmp_path):
        _raise(error)
    assert caught.value is error


def test_around_writing_every_oserror_is_a_line(tmp_path):
    with (
        pytest.raises(errors.UserError, match="Permission denied"),
        disk_space.reported(tmp_path, every=True),
    ):
        _raise(OSError(errno.EACCES, "Permission denied"))


def test_what_does_not_fit_is_refused_before_it_is_written(tmp_path):
    free = disk_space.free_bytes(tmp_path)
    disk_space.require([(tmp_path, 1), (tmp_path / "not" / "there", 1)])
    with pytest.raises(errors.UserError, match="no room"):
        # Each would fit alone: they go to one disk.
        disk_space.require([(tmp_path, free // 2), (tmp_path, free)])


@pytest.mark.parametrize("reserving", ["kernel", "by hand", "not there"])
def test_reserving_gives_blocks_and_keeps_what_is_there(
    tmp_path, monkeypatch, reserving
):
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.write(b"head")
        file.seek(3_000_000)
        file.write(b"tail")
    before = path.read_bytes()
    assert disk_space.allocated_bytes(path) < 1_000_000

    def unsupported(*_):
        raise OSError(errno.EOPNOTSUPP, "not supported")

    if reserving == "by hand":
        monkeypatch.setattr(os, "posix_fallocate", unsupported)
    elif reserving == "not there":
        monkeypatch.delattr(os, "posix_fallocate")
    disk_space.reserve(path, len(before))
    assert path.read_bytes() == before
    assert disk_space.allocated_bytes(path) >= 3_000_000


@pytest.mark.parametrize("by_hand", [False, True])
def test_reserving_on_a_small_disk_is_refused(tmp_path, monkeypatch, by_hand):
    if by_hand:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    with small_disks.mounted(tmp_path / "disk", "64k") as disk:
        (disk / "file").write_bytes(b"")
        os.truncate(disk / "file", 1_000_000)
        with pytest.raises(errors.UserError, match="1,000,000 bytes needed"):
            disk_space.reserve(disk / "file", 1_000_000)
