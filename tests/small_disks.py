"""Disks that are full: a small one where root may mount, errors elsewhere."""

from __future__ import annotations

import contextlib
import os
import pathlib
import subprocess
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def mounted(folder: pathlib.Path, size: str) -> Iterator[pathlib.Path]:
    """A disk in memory of some size (`64k`), mounted at a new folder."""
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"no small disk can be mounted: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: pathlib.Path, *, leave: int = 0) -> None:
    """Writes a file that leaves so many bytes of a disk, in whole blocks."""
    stats = os.statvfs(folder)
    size = max(stats.f_bavail * stats.f_frsize - leave, 0)
    with (folder / "ballast").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(size, 1))


@contextlib.contextmanager
def bound(source: pathlib.Path, target: pathlib.Path) -> Iterator[None]:
    """A folder mounted a second time."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a folder twice")
    try:
        done = subprocess.run(
            ["mount", "--bind", source, target], capture_output=True, text=True
        )
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"a folder cannot be mounted twice: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", target], check=True)


def read_only(folder: pathlib.Path) -> None:
    """Makes a mounted disk one that can only be read."""
    command = ["mount", "-o", "remount,ro", folder]
    subprocess.run(command, check=True)
