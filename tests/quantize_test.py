"""The command line: help, one-line errors, exit codes, being killed."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tiny_models
from absl import flags, logging
from absl.testing import flagsaver

from dsg_tf import quantize
from dsg_tf.command_line import cli, quantize_flags
from dsg_tf.config import export_config

_ROOT = pathlib.Path(__file__).absolute().parent.parent
_FEW = ("--num_samples=4", "--batch_size=2", "--steps=2", "--verify_samples=2")


# ---- in this process: main() with parsed flags


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> pathlib.Path:
    """A folder of SavedModels, each wrong in its way but `good`."""
    folder = tmp_path_factory.mktemp("models")
    good = tiny_models.classifier()
    good.export(str(folder / "good"), verbose=False)
    plain = tiny_models.classifier(batch_norm=False)
    plain.export(str(folder / "no_bn"), verbose=False)
    open_size = tiny_models.classifier(shape=(None, None, 3))
    open_size.export(str(folder / "open"), verbose=False)

    diverged = tiny_models.classifier()
    kernel = np.array(diverged.layers[-1].kernel)
    kernel[0, 0] = np.nan
    diverged.layers[-1].kernel.assign(kernel)
    diverged.export(str(folder / "nan"), verbose=False)

    wave = keras.Model(good.inputs, keras.ops.sin(good.outputs[0]))
    wave.export(str(folder / "sin"), verbose=False)
    good.save(folder / "good.keras")
    (folder / "text.txt").write_text("no model")
    (folder / "empty").mkdir()
    (folder / "broken.keras").write_text("no model")
    return folder


def _main(*argv: str) -> int:
    """Exit code of the command line, run in this process."""
    handler = logging.get_absl_handler().python_handler
    stream, level = handler.stream, logging.get_verbosity()
    try:
        with flagsaver.flagsaver():
            flags.FLAGS(["quantize", *argv])
            return cli.guarded(quantize.main)
    finally:
        handler.stream = stream
        logging.set_verbosity(level)


@pytest.fixture
def output(tmp_path) -> pathlib.Path:
    return tmp_path / "out.tflite"


def _save(folder: pathlib.Path, array) -> str:
    np.save(folder / "mine.npy", array)
    return f"--samples={folder / 'mine.npy'}"


_NOISE = np.random.default_rng(0).normal(size=(4, 8, 8, 3))
_BAD = {
    "missing model": ("absent", (), "absent: got no such"),
    "not a model": ("text.txt", (), r"text\.txt"),
    "empty folder": ("empty", (), "empty folder.*SavedModel"),
    "broken file": ("broken.keras", (), r"broken\.keras"),
    "wrong signature": (
        "good",
        ("--signature=train",),
        "--signature: got 'train'.*serving_default",
    ),
    "wrong tags": ("good", ("--tags=gpu",), "--tags"),
    "unknown dimension": ("open", (), "--input_shape="),
    "wrong shape flag": ("good", ("--input_shape=9,9,3",), "--input_shape"),
    "unknown input": ("good", ("--input_shape=x=8,8,3",), "--input_shape"),
    "no batch norm": ("no_bn", (), "BatchNorm.*--samples.*--method=noise"),
    "unsupported op": ("sin", ("--io_type=int8",), "SIN.*--float_edges"),
    "unsupported op, converter": (
        "sin",
        ("--exporter=tflite_converter",),
        "(?i)sin",
    ),
    "nan weights": ("nan", (), "NaN"),
    "io type for width": (
        "good",
        ("--activation_bits=16", "--io_type=int8"),
        "--io_type",
    ),
    "weight bits": ("good", ("--weight_bits=1",), "--weight_bits: got 1"),
    "activation bits": (
        "good",
        ("--activation_bits=12",),
        "--activation_bits: got 12.*4, 5, 6, 7, 8, 16, 32",
    ),
    "simulation as tflite": (
        "good",
        ("--activation_bits=6",),
        "--output.*6-bit.*folder.*SavedModel",
    ),
    "packed bytes": ("good", ("--packed",), "--packed.*weight_bits=2, 3"),
    "recipe": ("good", ("--recipe=turbo",), "balanced, best, fast"),
    "low bits, converter": (
        "good",
        ("--exporter=tflite_converter", "--weight_bits=4"),
        "--weight_bits.*tflite_converter.*exporter=litert",
    ),
    "method": ("good", ("--method=gan",), "--method: got 'gan'.*dsg, noise"),
    "count": ("good", ("--num_samples=0",), "--num_samples: got 0"),
    "range": ("good", ("--input_range=1,0",), "--input_range"),
    "range of one": ("good", ("--input_range=1",), "--input_range"),
    "shape text": ("good", ("--input_shape=8xy",), "--input_shape"),
    "field": ("good", ("--synthesis=rate=1",), "--synthesis.*learning_rate"),
    "field value": (
        "good",
        ("--synthesis=use_domain=maybe",),
        "--synthesis=use_domain: got 'maybe'; expected true or false",
    ),
    "agreement": ("good", ("--min_agreement=90",), "--min_agreement"),
    "samples missing": ("good", ("--samples=absent.npz",), "no such file"),
}


@pytest.mark.parametrize("case", _BAD)
def test_bad_input_is_one_line_and_leaves_no_file(models, output, capfd, case):
    name, argv, words = _BAD[case]
    code = _main(f"--saved_model={models / name}", f"--output={output}", *argv)
    out, err = capfd.readouterr()
    assert code == 1
    assert out == ""
    assert len(err.splitlines()) == 1, err
    assert err.startswith("error: ")
    assert re.search(words, err), err
    assert list(output.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (_NOISE[:, :4], r"shape \(4, 4, 8, 3\).*\(N, 8, 8, 3\)"),
        (_NOISE * np.nan, "not finite"),
        (_NOISE + 500, "expected values in"),
    ],
    ids=["shape", "nan", "domain"],
)
def test_unfit_samples_are_one_line(models, output, capfd, array, words):
    code = _main(
        f"--saved_model={models / 'good'}",
        f"--output={output}",
        "--input_range=-1,1",
        _save(output.parent, array),
    )
    err = capfd.readouterr().err
    assert code == 1
    assert len(err.splitlines()) == 1, err
    assert re.search(words, err), err
    assert [p.name for p in output.parent.iterdir()] == ["mine.npy"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("missing/out.tflite", "no folder.*make it first"),
        ("file/out.tflite", "no folder"),
        ("folder", "a folder"),
        ("/proc/out.tflite", "a writable folder"),
    ],
)
def test_unwritable_output_is_said_first(models, tmp_path, capfd, path, words):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    before = time.monotonic()
    code = _main(
        f"--saved_model={models / 'absent'}", f"--output={tmp_path / path}"
    )
    assert time.monotonic() - before < 5  # TensorFlow is loaded already.
    err = capfd.readouterr().err
    assert code == 1
    assert len(err.splitlines()) == 1, err
    assert "--output" in err
    assert re.search(words, err), err


def test_nothing_to_quantize_is_one_line(capfd):
    assert _main() == 1
    assert capfd.readouterr().err.startswith(
        "error: --saved_model: got nothing"
    )


def test_run_shows_a_table_and_ends_with_0(models, output, capfd):
    code = _main(
        f"--saved_model={models / 'good.keras'}", f"--output={output}", *_FEW
    )
    out, err = capfd.readouterr()
    assert code == 0, err
    assert output.is_file()
    for word in ("judged by", "top-1", "Worst layers", "out.tflite: "):
        assert word in out
    # What native libraries say is not for the user.
    for line in err.splitlines():
        assert line[0] == "I", line


def test_result_below_the_threshold_ends_with_2_and_names_a_layer(
    models, output, capfd, monkeypatch
):
    from dsg_tf.fidelity import fidelity, verify

    monkeypatch.setattr(
        fidelity,
        "compare_outputs",
        lambda *_: {
            "output_0": verify.Fidelity(
                20.0, 0.8, 0.5, 1.0, agreement=0.5, sqnr_mean_db=20.0
            )
        },
    )
    code = _main(
        f"--saved_model={models / 'good'}",
        f"--output={output}",
        "--min_agreement=0.9",
        *_FEW,
    )
    out = capfd.readouterr().out
    assert code == 2
    assert output.is_file()
    report = json.loads(
        (output.parent / "out.tflite.run/report.json").read_text()
    )
    worst = report["layers"][0]["layer"]
    assert f"below --min_agreement 0.9; look at layer {worst} first" in out


@pytest.mark.parametrize(
    ("model", "bits", "name"),
    [
        ("a/net.keras", (8, 8), "net_int8.tflite"),
        ("a/net.h5", (8, 8), "net_int8.tflite"),
        ("a/net_v1.0/", (8, 8), "net_v1.0_int8.tflite"),
        ("net", (8, 8), "net_int8.tflite"),
        ("net", (4, 8), "net_w4a8.tflite"),
        ("net", (8, 16), "net_w8a16.tflite"),
        ("net", (3, 32), "net_w3a32.tflite"),
        ("net.keras", (8, 6), "net_w8a6_simulated"),
    ],
)
def test_default_output_is_named_after_the_model_and_widths(model, bits, name):
    weight_bits, activation_bits = bits
    export = export_config.ExportConfig(
        weight_bits=weight_bits, activation_bits=activation_bits
    )
    assert quantize.default_output(model, export) == name


# ---- as a process


def _start(*argv: str, cwd: pathlib.Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "dsg_tf.quantize", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(_ROOT), *sys.path]),
        },
    )


def _finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_is_grouped_and_short(tmp_path, flag):
    code, out, err = _finish(_start(flag, cwd=tmp_path))
    assert (code, err) == (0, "")
    for title in quantize_flags.GROUPS:
        assert f"\n{title}:\n" in out
    assert "python -m dsg_tf.quantize --saved_model=PATH" in out
    assert len(out.splitlines()) < 100
    assert max(len(line) for line in out.splitlines()) < 80
    for name in ("saved_model", "output", "min_agreement"):
        assert f"--{name}" in out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--steps=many",), "steps"),
        (("--nonsense=1",), "nonsense"),
        (("model",), "'model'"),
        (("--io_type=int4", "--saved_model=x"), "--io_type: got 'int4'"),
    ],
)
def test_flag_that_cannot_be_parsed_is_one_line(tmp_path, argv, words):
    code, out, err = _finish(_start(*argv, cwd=tmp_path))
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1, err
    assert words in err
    assert list(tmp_path.iterdir()) == []


def test_missing_model_is_one_line_of_the_whole_process(tmp_path):
    # TensorFlow is loaded by then, and has a lot to say about the machine.
    code, out, err = _finish(_start("--saved_model=absent", cwd=tmp_path))
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1, err
    assert list(tmp_path.iterdir()) == []


def _batches(journal: pathlib.Path) -> int:
    try:
        return len(json.loads(journal.read_text())["done"])
    except (OSError, ValueError):
        return 0


def _stop(process: subprocess.Popen, journal, *, after: int, how) -> None:
    """Sends a signal once more than `after` batches are finished."""
    deadline = time.monotonic() + 100
    while _batches(journal) <= after:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(how)


def test_killed_runs_leave_no_tflite_and_the_next_goes_on(models, tmp_path):
    argv = (
        f"--saved_model={models / 'good'}",
        "--num_samples=46",
        "--batch_size=2",
        "--steps=80",
        "--verify_samples=2",
    )
    file = tmp_path / "good_int8.tflite"
    journal = tmp_path / "good_int8.tflite.run/samples.parts/journal.json"

    process = _start(*argv, cwd=tmp_path)
    _stop(process, journal, after=0, how=signal.SIGINT)
    code, _, err = _finish(process)
    assert code == 130
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("interrupted")
    assert not file.exists()
    first = _batches(journal)
    assert 0 < first < 24

    process = _start(*argv, cwd=tmp_path)
    _stop(process, journal, after=first, how=signal.SIGTERM)
    code, _, err = _finish(process)
    assert code == 143
    assert err.splitlines()[-1] == (
        "terminated in stage 'samples'; the same command goes on from there"
    )
    assert not file.exists()
    first = _batches(journal)
    assert 0 < first < 24

    process = _start(*argv, cwd=tmp_path)
    _stop(process, journal, after=first, how=signal.SIGKILL)
    code, _, err = _finish(process)
    assert code == -signal.SIGKILL
    assert f"resuming: {first} of 24 batches" in err
    assert not file.exists()
    second = _batches(journal)
    assert first < second < 24

    code, out, err = _finish(_start(*argv, cwd=tmp_path))
    assert code == 0, err
    assert f"resuming: {second} of 24 batches" in err
    assert "good_int8.tflite: " in out
    assert not list(tmp_path.glob("**/*.tmp"))
    assert not journal.parent.exists()

    # An undisturbed run, in this other process, writes the same bytes.
    clean = tmp_path / "clean" / file.name
    clean.parent.mkdir()
    assert _main(*argv, f"--output={clean}") == 0
    assert clean.read_bytes() == file.read_bytes()
    one, two = (
        path.with_name(path.name + ".run") / "samples.npz"
        for path in (clean, file)
    )
    assert one.read_bytes() == two.read_bytes()
