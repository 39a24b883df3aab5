"""From flags to runs: which there are, in which folders, under which keys."""

from __future__ import annotations

import pathlib
import re

import numpy as np
import pytest
from absl import flags

from dsg_tf import batch_flags, batch_plan, errors, quantize_flags

_OUT = pathlib.Path("/out")


@pytest.fixture
def zoo(tmp_path, monkeypatch) -> pathlib.Path:
    """Files that stand for models: a plan does not look into them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.keras").write_text("a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/saved_model.pb").write_text("b")
    np.savez(tmp_path / "val.npz", images=np.zeros(1), labels=np.zeros(1))
    return tmp_path


def _runs(*argv: str, taken=()):
    values = flags.FlagValues()
    batch_flags.define(values)
    values(["", *argv])
    return batch_plan.runs(values, _OUT, taken=dict(taken))


def _quantized(*argv: str):
    return [run for run in _runs(*argv) if run.kind == "quantize"]


def _folders(runs, kind: str = "quantize") -> list[str]:
    return [run.folder for run in runs if run.kind == kind]


def test_grid_of_models_methods_widths_and_seeds(zoo):
    runs = _runs(
        "--models=a.keras,second=b",
        "--method=dsg,zeroq",
        "--weight_bits=4,8",
        "--seed=0,1",
    )
    assert _folders(runs) == [
        f"{model}/{method}/W{bits}A8/seed{seed}"
        for model in ("a", "second")
        for method in ("dsg", "zeroq")
        for bits in (4, 8)
        for seed in (0, 1)
    ]
    # Samples: of each model, method and seed, for both widths.
    assert len(_folders(runs, "samples")) == 8
    assert _folders(runs, "float") == []


def test_what_a_run_needs_stands_before_it(zoo):
    runs = _runs(
        "--models=a.keras,b", "--weight_bits=4,8", "--eval_data=val.npz"
    )
    seen = set()
    for run in runs:
        assert set(run.needs) <= seen
        seen.add(run.key)
    assert _folders(runs, "float") == ["a/float", "b/float"]
    quantized = [run for run in runs if run.kind == "quantize"]
    assert len({run.needs for run in quantized}) == 2  # One set a model.
    assert quantized[0].floats == "a/float"


def test_flagfile_gives_the_config_of_its_run(zoo):
    (run,) = [
        run
        for run in _runs(
            "--models=a.keras",
            "--weight_bits=4",
            "--seed=3",
            "--input_range=-1,1",
            "--synthesis=slack_percentile=0.5",
            "--input_shape=x=8,8,3",
            "--input_shape=y=2",
            "--noequalize",
            "--packed",
        )
        if run.kind == "quantize"
    ]
    config = quantize_flags.parse(run.flagfile.splitlines()[1:])
    assert config.export.weight_bits == 4
    assert config.export.packed
    assert config.synthesis.seed == 3
    assert config.synthesis.slack_percentile == 0.5
    assert config.input_range == (-1.0, 1.0)
    assert config.input_shapes == (("x", (8, 8, 3)), ("y", (2,)))
    assert f"--saved_model={zoo / 'a.keras'}\n" in run.flagfile
    assert f"--output=/out/{run.folder}/model.tflite\n" in run.flagfile
    assert run.commands == [
        ("dsg_tf.quantize", f"--flagfile=/out/{run.folder}/run.flags")
    ]


def test_samples_are_made_with_the_flags_that_bear_on_them(zoo):
    (run,) = [
        run
        for run in _runs(
            "--models=a.keras", "--weight_bits=4", "--seed=3", "--packed"
        )
        if run.kind == "samples"
    ]
    assert run.flagfile.splitlines()[1:] == [
        f"--saved_model={zoo / 'a.keras'}",
        f"--output=/out/{run.artifact}",
        "--seed=3",
    ]


def test_settings_that_come_to_the_same_are_one_run_and_said_so(zoo, caplog):
    argv = ("--models=a.keras", "--recipe=fast,balanced")
    # At 8 bits a channel, balanced does what fast does; at 4 it does not.
    assert len(_folders(_runs(*argv, "--weight_bits=4"))) == 2
    assert caplog.messages == []
    assert len(_folders(_runs(*argv))) == 1
    (told,) = caplog.messages
    assert told.startswith("a/dsg/W8A8-balanced is a/dsg/W8A8-fast: ")


def test_agreement_that_is_asked_for_is_no_setting_of_a_run(zoo):
    (first,) = _quantized("--models=a.keras")
    (same,) = _quantized("--models=a.keras", "--min_agreement=0.9")
    assert same == first


def test_steps_are_left_out_where_nothing_is_optimised(zoo):
    runs = _runs(
        "--models=a.keras",
        "--method=dsg,noise,real",
        "--steps=10,20",
        "--calibration_data=val.npz",
    )
    assert _folders(runs) == [
        "a/dsg/W8A8-steps10/seed0",
        "a/dsg/W8A8-steps20/seed0",
        "a/noise/W8A8/seed0",
        "a/real/W8A8/seed0",
    ]


def test_real_images_are_prepared_once_for_all_models(zoo):
    runs = _runs(
        "--models=a.keras,b",
        "--method=real",
        "--seed=0,1",
        "--calibration_data=val.npz",
        "--preprocess=standardize",
        "--mean=0.5",
        "--std=0.25",
    )
    (samples,) = [run for run in runs if run.kind == "samples"]
    assert f"--data={zoo / 'val.npz'}\n" in samples.flagfile
    for line in ("--preprocess=standardize", "--mean=0.5", "--std=0.25"):
        assert f"{line}\n" in samples.flagfile
    quantized = [run for run in runs if run.kind == "quantize"]
    assert len(quantized) == 4
    for run in quantized:
        assert f"--samples=/out/{samples.artifact}\n" in run.flagfile
        assert "--method" not in run.flagfile


def _key(*argv: str) -> str:
    return _runs("--models=a.keras", *argv)[-1].key


def test_key_is_of_what_a_run_depends_on_and_of_nothing_else(zoo):
    first = _key("--eval_data=val.npz")
    assert _key("--eval_data=val.npz", "--weight_bits=8", "--jobs=2") == first
    others = {
        _key(),
        _key("--eval_data=val.npz", "--preprocess=unit"),
        _key("--eval_data=val.npz", "--seed=1"),
        _key("--eval_data=val.npz", "--verify_samples=8"),
    }
    (zoo / "a.keras").write_text("retrained")
    others.add(_key("--eval_data=val.npz"))
    (zoo / "a.keras").write_text("a")
    np.savez(zoo / "val.npz", images=np.ones(1), labels=np.ones(1))
    others.add(_key("--eval_data=val.npz"))
    assert len(others | {first}) == 7


def test_key_is_of_the_versions_of_what_computes(zoo, monkeypatch):
    first = _key()
    assert {"dsg_tf", "tensorflow"} < set(batch_plan._versions())
    other = {**batch_plan._versions(), "tensorflow": "9.9"}
    monkeypatch.setattr(batch_plan, "_versions", lambda: other)
    assert _key() != first


def test_samples_are_shared_by_all_that_does_not_bear_on_them(zoo):
    def samples(*argv: str) -> set[str]:
        runs = _runs("--models=a.keras", *argv)
        return {run.key for run in runs if run.kind == "samples"}

    (key,) = samples("--weight_bits=2,4,8", "--granularity=channel,tensor")
    assert samples() == {key}
    assert key not in samples("--seed=1")
    assert key not in samples("--verify_samples=8")
    assert key not in samples("--input_range=-1,1")


def test_run_of_the_same_name_gets_a_folder_beside(zoo):
    (first,) = _folders(_runs("--models=a.keras"))
    (other,) = _folders(_runs("--models=a.keras", taken={first: "another"}))
    assert re.fullmatch(re.escape(first) + r"-[0-9a-f]{8}", other)
    key = _key()
    (same,) = _folders(_runs("--models=a.keras", taken={"kept": key}))
    assert same == "kept"


def test_flags_of_a_model_hold_for_it_alone(zoo):
    (zoo / "b.flags").write_text(
        "# the second\n--saved_model=b\n--input_range=0,1\n--weight_bits=8\n"
        "--synthesis=prior_weight=0.5\n"
    )
    runs = _runs(
        "--models=a.keras,b.flags",
        "--weight_bits=2,4",
        "--synthesis=input_weight=1",
    )
    assert _folders(runs) == [
        "a/dsg/W2A8/seed0",
        "a/dsg/W4A8/seed0",
        "b/dsg/W8A8/seed0",
    ]
    a, b = runs[1].flagfile, runs[-1].flagfile
    assert "input_range" not in a
    assert "--input_range=0,1\n" in b
    assert "prior_weight" not in a
    assert "--synthesis=input_weight=1\n--synthesis=prior_weight=0.5\n" in b


def test_models_are_found_by_a_pattern(zoo):
    for name in "dc":
        (zoo / f"{name}.flags").write_text(
            "--saved_model=b\n--seed=" + {"c": "1", "d": "2"}[name]
        )
    assert _folders(_runs("--models=?.flags")) == [
        "c/dsg/W8A8/seed1",
        "d/dsg/W8A8/seed2",
    ]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--models=absent"], "--models: got 'absent'"),
        (["--models=*.h5"], r"--models: got '\*.h5'"),
        (["--models=a.keras,a=b"], "two models of the name 'a'"),
        (["--models=a/b=b"], "the name 'a/b'"),
        (["--models=samples=b"], "the name 'samples'"),
        (["--weight_bits=4,9"], "--weight_bits: got 9"),
        (["--method=dsg,gan"], "--method: got 'gan'"),
        (["--seed=1,1"], "--seed: got '1,1'"),
        (["--method=real"], "--calibration_data: got nothing for a"),
        (["--eval_data=absent.npz"], "--eval_data.*absent.npz"),
        (["--preprocess=half"], "--preprocess: got 'half'"),
        (["--mean=0.5"], "--preprocess=none"),
        (["--weight_bits=4", "--exporter=tflite_converter"], "--weight_bits"),
        (["--synthesis=rate=1"], "--synthesis"),
    ],
)
def test_what_cannot_be_is_said_before_anything_runs(zoo, argv, words):
    with pytest.raises(errors.UserError, match=words):
        _runs("--models=a.keras", *argv)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("--seed=1\n", "x.flags: got no model"),
        ("--saved_model=absent\n", "x.flags: .*absent"),
        ("--saved_model=b\n--nonsense=1\n", "x.flags: .*nonsense"),
        ("--saved_model=b\n--jobs=3\n", "x.flags: got --jobs"),
        ("--saved_model=b\n--seed=one\n", "--seed: got 'one'"),
        ("--saved_model=b\nloose\n", "x.flags: got 'loose'"),
    ],
)
def test_flagfile_of_a_model_that_is_wrong_is_named(zoo, text, words):
    (zoo / "x.flags").write_text(text)
    with pytest.raises(errors.UserError, match=words):
        _runs("--models=x.flags")
