"""Every command line: what it reads is never what it writes.

Nothing here loads a model: what is wrong with an output is said before.
"""

from __future__ import annotations

import errno
import os
import pathlib

import command_lines
import numpy as np
import pytest
import small_disks

from dsg_tf import evaluate, figures, image_samples
from dsg_tf.batch import __main__ as batch
from dsg_tf.batch import run_table

_PIXELS = np.arange(3 * 8 * 8 * 3, dtype=np.uint8).reshape(3, 8, 8, 3)


@pytest.fixture
def here(tmp_path, monkeypatch) -> pathlib.Path:
    """A place with a model of each kind, images, and links to them."""
    monkeypatch.chdir(tmp_path)
    for path in (
        "net/saved_model.pb",
        "net/variables/index",
        "net.keras",
        "other.tflite",
        "images/0.jpg",
        "images/1.jpg",
        "zoo/dsg/saved_model.pb",
    ):
        pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(path).write_text(f"content of {path}")
    np.savez("x.npz", images=_PIXELS, labels=np.arange(3))
    os.symlink("net", "net_link")
    os.symlink("x.npz", "x_link")
    os.link("x.npz", "x_twin")
    os.mkfifo("pipe")
    os.symlink("nowhere/at/all", "dangling")
    return tmp_path


def _content(folder: pathlib.Path) -> dict[str, bytes | str]:
    return {
        str(path.relative_to(folder)): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else ""
        for path in folder.rglob("*")
    }


def _refused(here, capfd, module, *argv: str) -> str:
    before = _content(here)
    assert command_lines.run(module, *argv) == 1
    if module is batch:
        batch._fingerprint.cache_clear()
    err = capfd.readouterr().err
    assert len(err.splitlines()) == 1, err
    assert err.startswith("error: ")
    assert _content(here) == before
    return err


_SPECIAL = ["pipe", "dangling", "images", "n" * 252, "absent/x.json"]


@pytest.mark.parametrize(
    "output",
    [
        "net.keras",
        "other.tflite",
        "./net/../net.keras",
        "x.npz",
        "x_link",
        "x_twin",
        *_SPECIAL,
    ],
)
def test_evaluate_never_writes_over_what_it_reads(here, capfd, output):
    argv = ("--model=net.keras", "--reference=other.tflite", "--data=x.npz")
    err = _refused(here, capfd, evaluate, *argv, f"--output={output}")
    assert "--output: got " in err


@pytest.mark.parametrize("output", ["net/x.json", "net_link/x.json"])
def test_evaluate_never_writes_into_a_model(here, capfd, output):
    argv = ("--model=net", "--data=x.npz", f"--output={output}")
    err = _refused(here, capfd, evaluate, *argv)
    assert "which lies inside of --model, net;" in err


@pytest.mark.parametrize("output", ["images/1.jpg", "images/new.json"])
def test_evaluate_never_writes_into_its_images(here, capfd, output):
    argv = ("--model=net", "--data=images", f"--output={output}")
    assert "--data" in _refused(here, capfd, evaluate, *argv)


@pytest.mark.parametrize("output", ["x.npz", "x_link", "x_twin", *_SPECIAL])
def test_image_samples_never_writes_over_images(here, capfd, output):
    argv = ("--data=x.npz", f"--output={output}")
    assert "--output: got " in _refused(here, capfd, image_samples, *argv)


def test_image_samples_on_a_full_disk_keep_what_was_there(here, capfd):
    with small_disks.mounted(here / "disk", "64k") as disk:
        (disk / "s.npz").write_text("old")
        small_disks.fill(disk)
        argv = ("--data=x.npz", "--output=disk/s.npz")
        err = _refused(here, capfd, image_samples, *argv)
    assert f"{_PIXELS.nbytes * 4:,} bytes needed, 0 bytes free" in err


def test_image_samples_leave_a_users_temporary_file(here):
    pathlib.Path("s.npz.tmp").write_text("mine")
    argv = ("--data=x.npz", "--output=s.npz")
    assert command_lines.run(image_samples, *argv) == 0
    assert pathlib.Path("s.npz.tmp").read_text() == "mine"


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("net", "which is --saved_model"),
        ("net/figures", "which lies inside of --saved_model"),
        ("net_link", "which is --saved_model"),
        ("images", "which holds|which is|moment_boxes.png"),
    ],
)
def test_figures_never_write_into_what_they_read(here, capfd, folder, words):
    np.save("images/moment_boxes.npy", np.zeros(3))
    os.rename("images/moment_boxes.npy", "images/moment_boxes.png")
    argv = (
        "--saved_model=net",
        "--samples=a=images/moment_boxes.png",
        f"--output_dir={folder}",
    )
    err = _refused(here, capfd, figures, *argv)
    assert "--output_dir: got " in err
    assert any(part in err for part in words.split("|"))


def test_figures_are_written_all_or_none(here, monkeypatch):
    contents = dict.fromkeys(figures.NAMES, b"new")
    replace = os.replace

    def fail_late(source, target):
        if pathlib.Path(target).name == figures.NUMBERS:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    for old in (False, True):
        folder = here / f"figures{old}"
        if old:
            folder.mkdir()
            (folder / figures.NAMES[0]).write_text("old")
        before = _content(here)
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", fail_late)
            with pytest.raises(ValueError, match="bytes needed"):
                figures._write(folder, contents)
        assert _content(here) == before
    figures._write(folder, contents)
    assert sorted(p.name for p in folder.iterdir()) == sorted(figures.NAMES)


@pytest.mark.parametrize(
    ("folder", "argv"),
    [
        ("net", ()),
        ("net/out", ()),
        ("net_link/out", ()),
        ("images", ("--eval_data=images", "--preprocess=unit")),
        ("images/out", ("--eval_data=images", "--preprocess=unit")),
        ("images/out", ("--calibration_data=images", "--method=real")),
        ("x.npz", ("--eval_data=x.npz",)),
        # The folder of its runs is the model's own.
        (".", ()),
    ],
)
def test_a_batch_never_writes_into_what_it_reads(here, capfd, folder, argv):
    for more in ((), ("--dry_run",)):
        err = _refused(
            here,
            capfd,
            batch,
            "--models=net",
            f"--output_dir={folder}",
            *argv,
            *more,
        )
        assert "--output_dir: got " in err


def test_a_batch_may_write_beside_its_models(here, capfd):
    argv = ("--models=m=net,net.keras", "--output_dir=.", "--dry_run")
    (here / "net").rename(here / "other")
    os.unlink("net_link")
    argv = ("--models=m=other", "--output_dir=.", "--dry_run")
    before = _content(here)
    assert command_lines.run(batch, *argv) == 0
    batch._fingerprint.cache_clear()
    assert "to do  m/dsg" in capfd.readouterr().out
    assert _content(here) == before


@pytest.mark.parametrize(
    "table", ["images/runs.csv", "net/runs.md", "pipe.csv", "linked.csv"]
)
def test_a_table_is_never_written_over_what_is_read(here, capfd, table):
    os.mkfifo("pipe.csv")
    os.symlink("nowhere/runs.csv", "linked.csv")
    argv = (
        "--models=net",
        "--eval_data=images",
        "--output_dir=out",
        f"--export={table}",
    )
    err = _refused(here, capfd, batch, *argv)
    assert "--export: got " in err


def test_a_table_follows_a_link(here):
    (here / "far.csv").write_text("old")
    os.symlink("far.csv", "near.csv")
    run_table.check("near.csv")
    os.unlink("near.csv")
    os.symlink("x.npz", "near.csv")
    with pytest.raises(ValueError, match="is the images"):
        run_table.check("near.csv", {"the images": "x.npz"})
