"""Figures by command line: what it writes, and what it refuses in one line."""

from __future__ import annotations

import json
import re

import command_lines
import numpy as np
import pytest
import tiny_models

from dsg_tf import figures
from dsg_tf.diversity import diversity
from dsg_tf.graph.load import loading
from tools import digits

_MODEL = "examples/digits_saved_model"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Files of noise and of real digits."""
    folder = tmp_path_factory.mktemp("data")
    _, held_out = digits.load_split()
    np.savez(
        folder / "real.npz",
        images=held_out.images[:12],
        labels=held_out.labels[:12],
    )
    noise = np.random.default_rng(0).uniform(0, 16, (9, 8, 8, 1))
    np.save(folder / "noise.npy", noise.astype(np.float32))
    return folder


def _draw(data, folder, *argv):
    return command_lines.run(
        figures,
        f"--saved_model={_MODEL}",
        f"--samples=noise={data}/noise.npy,{data}/real.npz",
        f"--output_dir={folder}",
        *argv,
    )


def test_pictures_captions_and_numbers_are_written(data, tmp_path):
    out = tmp_path / "out"
    assert _draw(data, out, "--count=10") == 0
    assert sorted(p.name for p in out.iterdir()) == [
        "diversity.json",
        "moment_boxes.png",
        "moment_boxes.txt",
        "moment_histograms.png",
        "moment_histograms.txt",
    ]
    for picture in out.glob("*.png"):
        assert picture.read_bytes()[:4] == b"\x89PNG"
    boxes = (out / "moment_boxes.txt").read_text()
    assert "noise (9)" in boxes
    assert "real (10)" in boxes
    numbers = json.loads((out / "diversity.json").read_text())
    assert list(numbers) == ["noise", "real"]
    assert numbers["noise"]["real_samples"] == 10
    assert numbers["real"]["real_samples"] == 0
    graph = loading.load(_MODEL)
    (port,) = graph.inputs
    expected = diversity.of_graph(
        graph,
        {port.name: np.load(data / "noise.npy")},
        real={port.name: digits.load_split()[1].images[:10]},
    )
    # One machine, one order of sums.
    assert numbers["noise"] == json.loads(json.dumps(expected.to_dict()))


def test_layers_by_name_and_index_and_another_real_set(data, tmp_path):
    assert (
        _draw(
            data,
            tmp_path,
            "--layers=batch_normalization_3,0",
            "--channels=1,2",
            "--real=noise",
        )
        == 0
    )
    caption = (tmp_path / "moment_histograms.txt").read_text()
    rows = re.findall(r"^(\w+), channel (\d), m:", caption, re.M)
    third, first = "batch_normalization_3", "batch_normalization"
    assert rows == [(third, "1"), (third, "2"), (first, "1"), (first, "2")]
    numbers = json.loads((tmp_path / "diversity.json").read_text())
    assert numbers["real"]["real_samples"] == 9


def test_samples_far_out_of_the_domain_are_drawn(data, tmp_path):
    np.save(tmp_path / "far.npy", np.full((2, 8, 8, 1), 1e4, np.float32))
    argv = f"--samples=far={tmp_path}/far.npy"
    assert _draw(data, tmp_path / "out", argv) == 0


def test_samples_whose_moments_overflow_are_one_line(data, tmp_path, capfd):
    np.save(tmp_path / "vast.npy", np.full((2, 8, 8, 1), 1e38, np.float32))
    argv = f"--samples=vast={tmp_path}/vast.npy"
    assert _draw(data, tmp_path / "out", argv) == 1
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith("error: --samples, set 'vast': got values whose")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--saved_model=",), "--saved_model: got nothing"),
        (("--output_dir=",), "--output_dir: got nothing"),
        (("--samples=",), "--samples: got nothing"),
        (("--samples=a=x.npz,a=y.npz",), "--samples: got 'a' twice"),
        (("--samples==x.npz",), "--samples: got '=x.npz'"),
        (("--samples=a=absent.npz",), "absent.npz: got no such file"),
        (("--saved_model=absent",), "absent"),
        (("--real=dsg",), "--real: got 'dsg'; expected one of noise, real"),
        (("--channels=a",), "--channels: got 'a'"),
        (("--channels=99",), "channels: got 99; expected 0 to 15"),
        (("--layers=bn",), "--layers: got 'bn'; expected 0 to 12, or one of"),
        (("--layers=13",), "--layers: got '13'"),
        (("--output_dir=absent/out",), "--output_dir: .*No such file"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    data, tmp_path, capfd, argv, words
):
    out = tmp_path / "out"
    assert _draw(data, out, *argv) == 1
    # Last on stderr: what absl logs of a model that was loaded comes before.
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ")
    assert re.search(words, line), line
    assert not out.exists()


def test_a_model_without_batch_norm_is_one_line(tmp_path, capfd):
    model = tmp_path / "plain.keras"
    tiny_models.classifier(batch_norm=False).save(model)
    np.save(tmp_path / "x.npy", np.zeros((2, 8, 8, 3), np.float32))
    argv = (f"--saved_model={model}", f"--samples={tmp_path}/x.npy")
    assert _draw(tmp_path, tmp_path / "out", *argv) == 1
    err = capfd.readouterr().err
    assert "no BatchNormalization layer" in err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [0.5, 256.0, np.nan])
def test_values_that_an_integer_input_cannot_take_are_one_line(
    tmp_path, capfd, value
):
    model = tmp_path / "uint8.keras"
    tiny_models.uint8_classifier().save(model)
    np.save(tmp_path / "x.npy", np.full((2, 8, 8, 3), value, np.float32))
    argv = (f"--saved_model={model}", f"--samples={tmp_path}/x.npy")
    assert _draw(tmp_path, tmp_path / "out", *argv) == 1
    assert "x.npy: got" in capfd.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()
