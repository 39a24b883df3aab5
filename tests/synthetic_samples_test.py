"""Samples alone are those that dsg_tf.quantize makes."""

from __future__ import annotations

import command_lines
import numpy as np
import pytest
import tiny_models

import dsg_tf
from dsg_tf import synthetic_samples
from dsg_tf.command_line import quantize_flags
from dsg_tf.config import needs, run_config, synthesis_config
from dsg_tf.core import files
from dsg_tf.samples import sample_sets

_FEW = ("--num_samples=3", "--batch_size=2", "--steps=2", "--verify_samples=2")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "net.keras"
    tiny_models.classifier().save(path)
    return path


def test_quantize_takes_the_samples_as_its_own(model, tmp_path):
    made = tmp_path / "samples.npz"
    argv = (f"--saved_model={model}", f"--output={made}", *_FEW)
    assert command_lines.run(synthetic_samples, *argv) == 0
    before = made.read_bytes()
    assert len(sample_sets.read(made, inputs={}).metadata) > 0

    output = tmp_path / "net.tflite"
    folder = files.run_folder(output)
    folder.mkdir()
    (folder / "samples.npz").write_bytes(before)
    inode = (folder / "samples.npz").stat().st_ino
    dsg_tf.quantize_model(
        str(model), output=output, config=quantize_flags.parse(_FEW)
    )
    # The very file, not one of equal bytes: nothing was made anew.
    assert (folder / "samples.npz").stat().st_ino == inode

    # And they are what it makes without them.
    alone = tmp_path / "alone.tflite"
    dsg_tf.quantize_model(
        str(model), output=alone, config=quantize_flags.parse(_FEW)
    )
    assert (files.run_folder(alone) / "samples.npz").read_bytes() == before
    assert alone.read_bytes() == output.read_bytes()


def test_those_that_verify_are_made_too_where_nothing_says_how_many(
    model, tmp_path
):
    made = tmp_path / "samples.npz"
    argv = ("--num_samples=3", "--batch_size=4", "--steps=1")
    assert (
        command_lines.run(
            synthetic_samples,
            f"--saved_model={model}",
            f"--output={made}",
            *argv,
        )
        == 0
    )
    config = needs.complete(quantize_flags.parse(argv))
    assert config.verify_samples > 0
    found = sample_sets.read(made, inputs={"image": None})
    assert len(found) == 3 + config.verify_samples


def test_python_makes_as_many_as_asked_for(model, tmp_path):
    few = synthesis_config.SynthesisConfig(num_samples=3, batch_size=2, steps=1)
    for further, count in ((0, 3), (2, 5)):
        made = dsg_tf.synthesize(
            str(model),
            output=tmp_path / f"{count}.npz",
            config=run_config.PipelineConfig(synthesis=few),
            further=further,
        )
        assert len(made) == count
        assert all(np.isfinite(a).all() for a in made.arrays.values())


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ((), "--saved_model: got nothing"),
        (("--saved_model=absent",), "absent: got no such"),
        (("--saved_model=absent", "--method=gan"), "--method: got 'gan'"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, capfd, argv, words):
    monkeypatch.chdir(tmp_path)
    assert command_lines.run(synthetic_samples, *argv) == 1
    err = capfd.readouterr().err
    assert len(err.splitlines()) == 1
    assert words in err
    assert list(tmp_path.iterdir()) == []
