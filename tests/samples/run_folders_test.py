"""One run at a time on an output; what is idle goes, what resumes stays."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from dsg_tf.core import checkpoints, errors
from dsg_tf.samples import run_folders, sample_folder

_ROOT = pathlib.Path(__file__).absolute().parent.parent.parent
_HOLDER = """
import pathlib, sys, time
from dsg_tf.samples import run_folders
with run_folders.claim(pathlib.Path(sys.argv[1])):
    print("at work", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def output(tmp_path) -> pathlib.Path:
    return tmp_path / "net.tflite"


def _names(folder: pathlib.Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def _begun(folder: pathlib.Path, *, batches: int, note: bool = False) -> None:
    """Samples under way, with so many batches finished."""
    store = sample_folder.SampleFolder(
        folder / run_folders.PARTS,
        shapes={"x": (3,)},
        dtypes={"x": np.dtype(np.float32)},
        count=4,
        key="k",
    )
    if note:
        store.note("edges", {"fill": "wrap"})
    for start in range(batches):
        store.write(start, {"x": np.ones((1, 3))}, np.array([1]))


def _fail(output: pathlib.Path, error: BaseException, work=None) -> None:
    with (
        contextlib.suppress(type(error)),
        run_folders.claim(output) as folder,
    ):
        if work is not None:
            work(folder)
        (folder / run_folders.DISTANCES).write_text("batch,epoch\n")
        raise error


@pytest.mark.parametrize("error", [errors.UserError, KeyboardInterrupt])
def test_a_run_that_fails_at_once_leaves_nothing(tmp_path, output, error):
    if error is errors.UserError:
        error = errors.UserError("a", got="b", expected="c")
    else:
        error = error()
    _fail(output, error)
    assert _names(tmp_path) == []


@pytest.mark.parametrize(
    ("error", "batches", "note", "stays"),
    [
        (ValueError(), 0, False, False),
        (ValueError(), 0, True, False),
        (ValueError(), 1, False, True),
        (KeyboardInterrupt(), 0, False, False),
        (KeyboardInterrupt(), 0, True, True),
        (KeyboardInterrupt(), 1, False, True),
    ],
)
def test_samples_stay_where_a_run_can_go_on(
    tmp_path, output, error, batches, note, stays
):
    _fail(output, error, lambda f: _begun(f, batches=batches, note=note))
    folder = tmp_path / "net.tflite.run"
    assert folder.exists() == stays
    if stays:
        assert _names(folder) == ["distances.csv", "samples.parts"]


@pytest.mark.parametrize("layers", [0, 1])
def test_rounding_stays_where_a_layer_is_finished(tmp_path, output, layers):
    def work(folder):
        store = checkpoints.LayerStore(folder / run_folders.ROUNDING, "k")
        for number in range(layers):
            store.put(str(number), {"a": np.ones(1)})

    _fail(output, ValueError(), work)
    assert (tmp_path / "net.tflite.run").exists() == bool(layers)


def _whole(folder):
    _begun(folder, batches=2)
    (folder / "samples.npz").write_text("whole")
    store = checkpoints.LayerStore(folder / run_folders.ROUNDING, "k")
    store.put("conv", {"a": np.ones(1)})


def test_of_what_a_users_error_ends_nothing_is_left(tmp_path, output):
    error = errors.UserError("model", got="NaN", expected="numbers")
    _fail(output, error, _whole)
    assert _names(tmp_path) == []


def test_a_users_error_leaves_what_an_earlier_run_has_made(tmp_path, output):
    _fail(output, KeyboardInterrupt(), _whole)
    folder = tmp_path / "net.tflite.run"
    (folder / run_folders.ROUNDING).rename(tmp_path / "aside")
    before = _names(folder)
    error = errors.UserError("model", got="NaN", expected="numbers")
    _fail(output, error, lambda f: None)
    assert _names(folder) == before


@pytest.mark.parametrize(
    "error",
    [
        errors.ResourceError("disk", got="no room", expected="room"),
        MemoryError(),
        RuntimeError("a defect"),
        KeyboardInterrupt(),
    ],
)
def test_what_the_machine_ends_goes_on_from_what_is_finished(
    tmp_path, output, error
):
    _fail(output, error, _whole)
    assert "samples.npz" in _names(tmp_path / "net.tflite.run")
    assert "rounding.parts" in _names(tmp_path / "net.tflite.run")


def test_a_folder_that_was_there_stays_with_what_is_in_it(tmp_path, output):
    folder = tmp_path / "net.tflite.run"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    (folder / "report.json").write_text("{}")
    _fail(output, ValueError(), lambda f: _begun(f, batches=0))
    assert _names(folder) == ["distances.csv", "notes.txt", "report.json"]


def test_files_of_others_in_a_new_folder_stay(tmp_path, output):
    def work(folder):
        _begun(folder, batches=0)
        (folder / run_folders.PARTS / "mine.txt").write_text("mine")
        (folder / "loss.csv").write_text("a callback's")

    _fail(output, ValueError(), work)
    folder = tmp_path / "net.tflite.run"
    assert _names(folder) == ["loss.csv", "samples.parts"]
    assert _names(folder / "samples.parts") == ["mine.txt"]


def test_second_run_on_an_output_is_refused_in_one_line(tmp_path, output):
    with run_folders.claim(output) as folder:
        (folder / "report.json").write_text("{}")
        with (
            pytest.raises(errors.UserError) as caught,
            run_folders.claim(output),
        ):
            pass
        assert str(caught.value) == (
            f"{output}: got an output that another run is at work on (process"
            f" {os.getpid()}); expected one run at a time for an output; wait"
            " for it, or take another --output"
        )
        with run_folders.claim(output.with_name("other.tflite")):
            pass
    assert _names(tmp_path / "net.tflite.run") == ["report.json"]


def test_lock_of_a_killed_run_is_no_lock(tmp_path, output):
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(output)],
        stdout=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(_ROOT), *sys.path]),
        },
    )
    try:
        assert process.stdout.readline() == "at work\n"
        with pytest.raises(errors.UserError), run_folders.claim(output):
            pass
    finally:
        process.kill()
        process.wait()
    assert _names(tmp_path / "net.tflite.run") == [".lock"]
    with run_folders.claim(output) as folder:
        assert folder.is_dir()
    assert _names(tmp_path / "net.tflite.run") == []


def test_temporaries_of_killed_runs_go_and_others_stay(tmp_path, output):
    folder = tmp_path / "net.tflite.run"
    folder.mkdir()
    ours = (
        tmp_path / ".net.tflite.0123abcd.dsg_tf.tmp",
        folder / ".samples.npz.0123abcd.dsg_tf.tmp",
        folder / ".report.json.89abcdef.dsg_tf.tmp",
    )
    others = (
        tmp_path / "net.tflite.tmp",
        tmp_path / ".net.tflite.tmp",
        tmp_path / ".net.tflite.mine.dsg_tf.tmp",
        tmp_path / ".other.tflite.0123abcd.dsg_tf.tmp",
        folder / "samples.npz.tmp",
        folder / "journal.tmp",
    )
    for path in (*ours, *others):
        path.write_text("mine")
    with run_folders.claim(output):
        assert not any(path.exists() for path in ours)
    assert {path.read_text() for path in others} == {"mine"}


@pytest.mark.parametrize(
    "name", ["report.json", "distances.csv", "samples.parts", ".lock"]
)
def test_links_in_a_runs_place_are_refused(tmp_path, output, name):
    folder = tmp_path / "net.tflite.run"
    folder.mkdir()
    (tmp_path / "mine").write_text("mine")
    (folder / name).symlink_to(tmp_path / "mine")
    with (
        pytest.raises(errors.UserError, match=r"link"),
        run_folders.claim(output),
    ):
        pass
    assert (tmp_path / "mine").read_text() == "mine"
    assert (folder / name).is_symlink()


def test_a_file_of_others_called_lock_is_not_written(tmp_path, output):
    folder = tmp_path / "net.tflite.run"
    folder.mkdir()
    (folder / ".lock").write_text("another program's")
    with (
        pytest.raises(errors.UserError, match="no lock of dsg_tf"),
        run_folders.claim(output),
    ):
        pass
    assert (folder / ".lock").read_text() == "another program's"


def test_a_pipe_in_a_runs_place_is_refused_unopened(tmp_path, output):
    folder = tmp_path / "net.tflite.run"
    folder.mkdir()
    for name in ("report.json", ".lock"):
        os.mkfifo(folder / name)
        with pytest.raises(errors.UserError), run_folders.claim(output):
            pass
        (folder / name).unlink()


def test_forgetting_deletes_a_runs_own_files_alone(tmp_path, output):
    with run_folders.claim(output) as folder:
        _begun(folder, batches=2)
        (folder / "samples.npz").write_text("old")
        checkpoints.LayerStore(folder / run_folders.ROUNDING, "k")
        (folder / "notes.json").write_text(json.dumps({}))
        run_folders.forget(folder)
        assert _names(folder) == [".lock", "notes.json"]
