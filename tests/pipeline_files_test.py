"""Whole runs and the files of the user: refused, locked, whole or not there."""

from __future__ import annotations

import errno
import os
import pathlib
import shutil
import stat

import keras
import numpy as np
import pytest
import small_disks
import tiny_models

import dsg_tf
from dsg_tf import pipeline
from dsg_tf.config import export_config, run_config, synthesis_config
from dsg_tf.core import errors, files, staging
from dsg_tf.export import tflite_writer, writers
from dsg_tf.report import run_report
from dsg_tf.samples import sample_sets

_TINY = synthesis_config.SynthesisConfig(num_samples=6, batch_size=4, steps=4)


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return tiny_models.classifier()


@pytest.fixture(scope="module")
def made(model, tmp_path_factory) -> pathlib.Path:
    """The samples of `_config`, for runs that need not make them."""
    path = tmp_path_factory.mktemp("made") / "s.npz"
    dsg_tf.synthesize(model, output=path, config=_config(), further=3)
    return path


@pytest.fixture(scope="module")
def stored(model, tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("stored")
    model.save(folder / "net.keras")
    model.export(str(folder / "net"), verbose=False)
    return folder


def _config(**changes) -> run_config.PipelineConfig:
    bits = changes.pop("activation_bits", 8)
    return run_config.PipelineConfig(
        synthesis=_TINY,
        export=export_config.ExportConfig(
            activation_bits=bits, bias_correction="none"
        ),
        **{"verify_samples": 3, **changes},
    )


def _quantize(model, output, **changes) -> pipeline.Result:
    return dsg_tf.quantize_model(
        model, output=output, config=_config(**changes)
    )


def _content(folder: pathlib.Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith("ballast")
    }


def _names(folder: pathlib.Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# ---- what is read is never written


@pytest.mark.parametrize(
    ("given", "output"),
    [
        ("net.keras", "net.keras"),
        ("net.keras", "./net/../net.keras"),
        ("net.keras", "file_link"),
        ("net.keras", "second_name"),
        ("net", "net"),
        ("net", "net/int8.tflite"),
        ("net", "net/saved_model.pb"),
        ("net", "net/variables/variables.index"),
        ("net", "folder_link/int8.tflite"),
        ("net", "second_pb"),
    ],
)
@pytest.mark.parametrize("bits", [8, 6])
def test_an_output_over_or_in_the_model_is_refused(
    stored, tmp_path, monkeypatch, given, output, bits
):
    monkeypatch.chdir(stored)
    for name, target in (("file_link", "net.keras"), ("folder_link", "net")):
        if not os.path.lexists(name):
            os.symlink(target, name)
    for name, target in (
        ("second_name", "net.keras"),
        ("second_pb", "net/saved_model.pb"),
    ):
        if not os.path.lexists(name):
            os.link(target, name)
    before = _content(stored)
    with pytest.raises(errors.UserError, match="--output"):
        _quantize(given, output, activation_bits=bits)
    if bits == 8:
        with pytest.raises(errors.UserError, match="--output"):
            dsg_tf.synthesize(given, output=output, config=_config())
    assert _content(stored) == before


@pytest.mark.parametrize("where", ["samples", "run folder", "real"])
def test_an_output_over_the_samples_is_refused(model, made, tmp_path, where):
    own = tmp_path / "a.tflite.run" / "samples.npz"
    own.parent.mkdir()
    own.write_bytes(made.read_bytes())
    given = {} if where == "real" else {"samples": str(own)}
    with pytest.raises(errors.UserError, match="--output"):
        dsg_tf.quantize_model(
            model,
            output=tmp_path / "a.tflite" if where == "run folder" else own,
            config=_config(**given),
            real=own if where == "real" else "",
        )
    assert own.read_bytes() == made.read_bytes()
    assert _names(tmp_path) == ["a.tflite.run"]


def test_a_model_in_the_run_folder_is_refused(stored, tmp_path):
    place = tmp_path / "a.tflite.run"
    place.mkdir()
    inner = place / "net.keras"
    inner.write_bytes((stored / "net.keras").read_bytes())
    with pytest.raises(errors.UserError, match="holds the model"):
        _quantize(str(inner), tmp_path / "a.tflite")
    assert _names(place) == ["net.keras"]


def test_another_trained_model_is_not_replaced(stored, model, tmp_path):
    other = tmp_path / "other.keras"
    other.write_bytes((stored / "net.keras").read_bytes())
    model.save(tmp_path / "other.h5")
    shutil.copytree(stored / "net", tmp_path / "net")
    before = _content(tmp_path)
    inner = [name for name in before if name.startswith("net/")]
    assert {"net/saved_model.pb", "net/variables/variables.index"} <= {*inner}
    for name in (
        "other.keras",
        "other.h5",
        "net/saved_model.pb",
        "net/variables/variables.index",
    ):
        with pytest.raises(errors.UserError, match="a trained model"):
            _quantize(model, tmp_path / name)
    assert _content(tmp_path) == before


# ---- links, pipes, devices, names


def test_a_link_is_followed_and_stays(model, made, tmp_path):
    (tmp_path / "far").mkdir()
    for name, old in (("old.tflite", b"old"), ("new.tflite", None)):
        target = tmp_path / "far" / name
        if old:
            target.write_bytes(old)
        link = tmp_path / name
        link.symlink_to(f"far/{name}")
        result = _quantize(model, link, samples=str(made))
        assert os.readlink(link) == f"far/{name}"
        assert target.read_bytes()[4:8] == b"TFL3"
        assert result.output == target
        assert (tmp_path / "far" / f"{name}.run" / "report.json").is_file()


@pytest.mark.parametrize("bits", [8, 6])
@pytest.mark.parametrize("target", ["link", "no/where", ".", "pipe"])
def test_a_link_that_leads_nowhere_is_refused(model, tmp_path, target, bits):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(errors.UserError):
        _quantize(model, tmp_path / "link", activation_bits=bits)
    assert os.readlink(tmp_path / "link") == target
    assert _names(tmp_path) == ["link", "pipe"]


@pytest.mark.parametrize("bits", [8, 6])
def test_pipes_and_devices_are_refused_and_stay(
    model, tmp_path, monkeypatch, bits
):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").write_text("")
    look = os.stat

    def as_device(path, *arguments, **options):
        found = look(path, *arguments, **options)
        if str(path).endswith("device"):
            fields = list(found)
            fields[0] = stat.S_IFCHR | 0o666
            return os.stat_result(fields)
        return found

    monkeypatch.setattr(os, "stat", as_device)
    for name in ("pipe", "device"):
        with pytest.raises(errors.UserError):
            _quantize(model, tmp_path / name, activation_bits=bits)
        with pytest.raises(errors.UserError, match=r"a (pipe|device)"):
            files.destination(tmp_path / name, {})
    monkeypatch.undo()
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert _names(tmp_path) == ["device", "pipe"]


@pytest.mark.parametrize("bits", [8, 6])
@pytest.mark.parametrize(
    "name",
    ["n" * 252, "n" * 300, "ä" * 127, "a\0b", "file/x", "none/x", "p/" * 2000],
    ids=range(7),
)
def test_names_that_cannot_be_are_one_line(model, tmp_path, name, bits):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(errors.UserError) as caught:
        _quantize(model, f"{tmp_path}/{name}", activation_bits=bits)
    assert len(str(caught.value).splitlines()) == 1
    assert _names(tmp_path) == ["file"]


@pytest.mark.parametrize("output", ["", ".", "..", "/"])
def test_a_path_without_a_name_is_refused(model, output):
    with pytest.raises(errors.UserError):
        _quantize(model, output)


def test_a_read_only_disk_is_one_line(model, tmp_path):
    with small_disks.mounted(tmp_path / "disk", "64k") as disk:
        small_disks.read_only(disk)
        with pytest.raises(errors.UserError, match=r"[Rr]ead-only"):
            _quantize(model, disk / "a.tflite")


# ---- two runs, and what was there


class _Again(keras.callbacks.Callback):
    """Starts a second run on an output while the first one is at work."""

    def __init__(self, start):
        super().__init__()
        self._start = start
        self.errors: list[str] = []

    def on_train_begin(self, logs=None):
        with pytest.raises(errors.UserError) as caught:
            self._start()
        self.errors.append(str(caught.value))


@pytest.mark.parametrize("how", ["quantize", "synthesize"])
def test_a_second_run_on_an_output_is_refused(model, tmp_path, how):
    output = tmp_path / "out"
    start = {
        "quantize": lambda **more: dsg_tf.quantize_model(
            model, output=output, config=_config(), **more
        ),
        "synthesize": lambda **more: dsg_tf.synthesize(
            model, output=output, config=_config(), **more
        ),
    }
    second = _Again(start["synthesize"])
    start[how](callbacks=[second])
    assert len(set(second.errors)) == 1
    assert f"{output}: got an output that another run" in second.errors[0]
    assert output.is_file()
    assert ".lock" not in _names(tmp_path / "out.run")


def test_an_old_output_is_replaced_and_the_log_says_so(
    model, made, tmp_path, monkeypatch
):
    # What absl shows is set and restored on the way.
    told = []
    monkeypatch.setattr(
        staging.logging, "info", lambda text, *args: told.append(text % args)
    )
    mine = (tmp_path / "a.tflite.tmp", tmp_path / ".a.tflite.tmp")
    for path in mine:
        path.write_text("mine")
    output = tmp_path / "a.tflite"
    output.write_bytes(b"old")
    _quantize(model, output, samples=str(made))
    assert output.read_bytes()[4:8] == b"TFL3"
    assert any(f"replaced {output} (3 bytes, " in line for line in told)
    assert {path.read_text() for path in mine} == {"mine"}


# ---- exit code 1 leaves nothing

_PLACES = {
    "report": (run_report.RunReport, "to_json"),
    "build": (run_report, "build"),
    "verify": (writers, "verify"),
    "readback": (tflite_writer.readback, "check"),
    "place": (staging.os, "replace"),
}


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("place", _PLACES)
def test_a_run_that_fails_at_its_end_leaves_all_as_it_was(
    model, made, tmp_path, monkeypatch, place, old
):
    output = tmp_path / "a.tflite"
    if old:
        output.write_bytes(b"old")
        (tmp_path / "a.tflite.run").mkdir()
        (tmp_path / "a.tflite.run" / "report.json").write_text("old")
    before = _content(tmp_path)
    whole = getattr(*_PLACES[place])

    def fail(*arguments, **options):
        # Of names alone that of the output, which is the last one.
        if place != "place" or pathlib.Path(arguments[1]) == output:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return whole(*arguments, **options)

    monkeypatch.setattr(*_PLACES[place], fail)
    with pytest.raises(errors.UserError, match=r"bytes needed, .* free"):
        _quantize(model, output, samples=str(made))
    monkeypatch.undo()
    assert _content(tmp_path) == before
    assert len(list(tmp_path.iterdir())) == (2 if old else 0)


def test_a_simulation_that_fails_at_its_end_leaves_all_as_it_was(
    model, made, tmp_path, monkeypatch
):
    output = tmp_path / "simulated"
    _quantize(model, output, samples=str(made), activation_bits=6)
    before = _content(tmp_path)

    def fail(*_):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    places = ((run_report.RunReport, "to_json"), (staging.os, "rename"))
    for module, name in places:
        with monkeypatch.context() as patch:
            patch.setattr(module, name, fail)
            with pytest.raises(errors.UserError, match="bytes needed"):
                _quantize(model, output, samples=str(made), activation_bits=5)
        assert _content(tmp_path) == before


class _Full(keras.callbacks.Callback):
    """As a logger of the user's on a full disk."""

    def on_train_batch_end(self, batch, logs=None):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "loss.csv")


@pytest.mark.parametrize("how", ["quantize", "synthesize"])
def test_a_full_disk_under_a_callback_is_one_line(model, tmp_path, how):
    make = {"quantize": dsg_tf.quantize_model, "synthesize": dsg_tf.synthesize}
    with pytest.raises(errors.UserError, match=r"loss\.csv: .*bytes needed"):
        make[how](
            model,
            output=tmp_path / "out",
            config=_config(),
            callbacks=[_Full()],
        )
    assert _names(tmp_path) == []


# Bytes that are free: for nothing, for the folder of the run, for samples under
# way, but in no case for their pack too. They are 9 * 8 * 8 * 3 * 4 = 6912.
@pytest.mark.parametrize("leave", [0, 4096, 8192, 12288])
def test_a_small_disk_is_one_line_and_keeps_what_was_there(
    model, tmp_path, leave
):
    with small_disks.mounted(tmp_path / "disk", "256k") as disk:
        (disk / "a.tflite").write_bytes(b"old")
        small_disks.fill(disk, leave=leave)
        before = _content(disk)
        with pytest.raises(errors.UserError, match=r"bytes needed, .* free"):
            _quantize(model, disk / "a.tflite")
        assert _content(disk) == before
        assert _names(disk) == ["a.tflite", "ballast"]


def test_a_disk_that_fills_up_later_keeps_the_samples(
    model, made, tmp_path, monkeypatch
):
    """The samples are made; then there is no room for the .tflite."""
    whole = tflite_writer.TFLiteWriter.write

    with small_disks.mounted(tmp_path / "disk", "256k") as disk:

        def write(*arguments, **options):
            small_disks.fill(disk)
            return whole(*arguments, **options)

        monkeypatch.setattr(tflite_writer.TFLiteWriter, "write", write)
        with pytest.raises(errors.UserError, match=r"bytes needed, 0 bytes"):
            _quantize(model, disk / "a.tflite")
        monkeypatch.undo()
        assert _names(disk) == ["a.tflite.run", "ballast"]
        assert _names(disk / "a.tflite.run") == ["distances.csv", "samples.npz"]
        (disk / "ballast").unlink()
        stamp = (disk / "a.tflite.run" / "samples.npz").stat().st_mtime_ns
        _quantize(model, disk / "a.tflite")
        again = (disk / "a.tflite.run" / "samples.npz").stat().st_mtime_ns
        assert again == stamp
        assert (
            disk / "a.tflite.run" / "samples.npz"
        ).read_bytes() == made.read_bytes()


# ---- damaged state of an earlier run


@pytest.mark.parametrize("damage", ["bit", "shorter", "garbage", "text"])
def test_damaged_samples_of_an_earlier_run_are_made_anew(
    model, made, tmp_path, caplog, damage
):
    place = tmp_path / "a.tflite.run"
    place.mkdir()
    content = bytearray(made.read_bytes())
    if damage == "bit":
        content[len(content) // 3] ^= 1
    (place / "samples.npz").write_bytes(
        {
            "bit": content,
            "shorter": content[:-100],
            "garbage": b"PK\x03\x04" * 99,
            "text": b"",
        }[damage]
    )
    _quantize(model, tmp_path / "a.tflite")
    assert "samples are made anew" in caplog.text
    assert (place / "samples.npz").read_bytes() == made.read_bytes()


def test_a_users_damaged_samples_are_refused_in_one_line(model, made, tmp_path):
    content = bytearray(made.read_bytes())
    content[len(content) // 3] ^= 1
    (tmp_path / "own.npz").write_bytes(content)
    with pytest.raises(errors.UserError, match=r"own\.npz: got an unreadable"):
        _quantize(
            model, tmp_path / "a.tflite", samples=str(tmp_path / "own.npz")
        )
    assert _names(tmp_path) == ["own.npz"]


def test_a_flipped_bit_in_a_finished_batch_is_made_again(
    model, made, tmp_path, caplog
):
    begun = []

    def begin(logs):
        begun.append(1)
        if len(begun) == 3:
            raise KeyboardInterrupt

    stop = keras.callbacks.LambdaCallback(on_train_begin=begin)
    output = tmp_path / "s.npz"
    make = {"output": output, "config": _config(), "further": 3}
    with pytest.raises(KeyboardInterrupt):
        dsg_tf.synthesize(model, **make, callbacks=[stop])
    parts = tmp_path / "s.npz.run" / "samples.parts" / "0.npy"
    content = bytearray(parts.read_bytes())
    content[200] ^= 1  # In the first sample.
    parts.write_bytes(content)
    dsg_tf.synthesize(model, **make, callbacks=[stop])
    # Two batches and half of a third; then the first and the third.
    assert len(begun) == 5
    assert "samples 0 to 3 are damaged; made again" in caplog.text
    assert output.read_bytes() == made.read_bytes()


def test_samples_that_serve_may_be_a_link_and_others_are_refused(
    model, made, tmp_path
):
    place = tmp_path / "a.tflite.run"
    place.mkdir()
    (place / "samples.npz").symlink_to(made)
    _quantize(model, tmp_path / "a.tflite")
    (place / "samples.npz").unlink()
    np.save(tmp_path / "mine.npy", np.zeros((3, 8, 8, 3), np.float32))
    (place / "samples.npz").symlink_to(tmp_path / "mine.npy")
    with pytest.raises(errors.UserError, match="symbolic link"):
        _quantize(model, tmp_path / "a.tflite")
    assert (place / "samples.npz").is_symlink()
    found = sample_sets.read(tmp_path / "mine.npy", inputs={"image": (8, 8, 3)})
    assert len(found) == 3
