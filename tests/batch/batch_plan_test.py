"""From flags to runs: which there are, in which folders, under which keys."""

from __future__ import annotations

import pathlib
import re

import numpy as np
import pytest
from absl import flags

from dsg_tf.batch import batch_flags, batch_plan
from dsg_tf.command_line import quantize_flags
from dsg_tf.core import errors, versions

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
    # Samples: of each model and seed; those of dsg as many as a width needs,
    # those of zeroq for both.
    assert len(_folders(runs, "samples")) == 8 + 4
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
    # A set for each model and width.
    assert len({run.needs for run in quantized}) == 4
    floats = {run.folder: run.key for run in runs if run.kind == "float"}
    evaluated = [run for run in runs if run.kind == "evaluate"]
    assert [run.needs for run in evaluated] == [
        (run.key, floats["b/float" if run.folder[0] == "b" else "a/float"])
        for run in quantized
    ]
    assert evaluated[0].floats == "a/float"


def test_evaluation_is_a_step_beside_what_it_evaluates(zoo):
    argv = ("--models=a.keras", "--preprocess=unit")
    (quantized,) = _quantized(*argv)
    runs = _runs(*argv, "--eval_data=val.npz")
    (run,) = [run for run in runs if run.kind == "evaluate"]
    assert quantized in runs
    assert run.folder == "a/dsg/W8A8/seed0/evaluation"
    assert run.artifact == f"{run.folder}/evaluation.json"
    assert run.config["quantized"] == quantized.key
    assert run.config["data"] == "val.npz"
    assert run.commands == [
        (
            "dsg_tf.evaluate",
            f"--model=/out/{quantized.artifact}",
            f"--data={zoo / 'val.npz'}",
            "--preprocess=unit",
            f"--output=/out/{run.artifact}",
        )
    ]


def test_other_data_is_evaluated_beside_the_first(zoo):
    def evaluation(*argv: str, taken=()):
        runs = _runs(
            "--models=a.keras", "--eval_data=val.npz", *argv, taken=taken
        )
        return [run for run in runs if run.kind in ("float", "evaluate")]

    first = evaluation()
    taken = {run.folder: run.key for run in first}
    assert evaluation("--jobs=3", taken=taken) == first
    np.savez(zoo / "val.npz", images=np.ones(1), labels=np.ones(1))
    other = evaluation(taken=taken)
    for run, one_before in zip(other, first, strict=True):
        assert run.key != one_before.key
        assert re.fullmatch(one_before.folder + "-[0-9a-f]{8}", run.folder)
        assert run.config["data"] == one_before.config["data"] == "val.npz"
        assert run.config["data_key"] != one_before.config["data_key"]
    assert other[1].floats == other[0].folder
    otherwise = evaluation("--preprocess=unit")
    assert otherwise[1].key not in (first[1].key, other[1].key)


def test_samples_are_those_of_the_outputs_that_are_chosen(zoo):
    argv = ("--models=b", "--eval_data=val.npz")
    whole = _runs(*argv)
    chosen = _runs(*argv, "--output_names=scores")
    assert _folders(whole, "samples") != _folders(chosen, "samples")
    assert "--output_names=scores" in chosen[0].commands[0]
    (samples,) = [run for run in chosen if run.kind == "samples"]
    assert "--output_names=scores" in samples.flagfile


def test_float_model_is_evaluated_by_its_signature(zoo):
    argv = ("--models=b", "--eval_data=val.npz")
    plain, signed = _runs(*argv)[0], _runs(*argv, "--signature=infer")[0]
    assert "--signature=infer" in signed.commands[0]
    assert "signature" not in " ".join(plain.commands[0])
    assert signed.key != plain.key
    evaluated = _runs(*argv, "--signature=infer")[-1]
    assert "signature" not in " ".join(evaluated.commands[0])


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
        # What 4 bits need, which the command does not know of.
        "--num_samples=64",
        "--batch_size=16",
        "--steps=300",
        "--synthesis=tolerance=0.0",
        "--synthesis=most_steps=300",
        "--verify_samples=16",
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
        "--weight_bits=4",  # With learned rounding, which a seed changes.
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


@pytest.fixture
def images(zoo) -> str:
    """The flag of twenty images."""
    np.savez(zoo / "twenty.npz", images=np.zeros((20, 2, 2, 1)))
    return "--calibration_data=twenty.npz"


def _real(images: str, *argv: str, kind: str = "quantize"):
    runs = _runs("--models=a.keras", "--method=real", images, *argv)
    return [run for run in runs if run.kind == kind]


def test_real_images_are_drawn_for_each_number_and_seed(images):
    argv = ("--num_samples=4,8", "--seed=1,2", "--verify_samples=2")
    samples = _real(images, *argv, kind="samples")
    # Two of ten are held out, one of five.
    assert [run.flagfile.splitlines()[-2:] for run in samples] == [
        ["--num_samples=5", "--seed=1"],
        ["--num_samples=5", "--seed=2"],
        ["--num_samples=10", "--seed=1"],
        ["--num_samples=10", "--seed=2"],
    ]
    assert len({run.key for run in samples}) == 4
    quantized = _real(images, *argv)
    assert [run.folder for run in quantized] == [
        f"a/real/W8A8-num_samples{count}/seed{seed}"
        for count in (4, 8)
        for seed in (1, 2)
    ]
    assert [run.config["num_samples"] for run in quantized] == [4, 4, 8, 8]
    assert [run.needs for run in quantized] == [(run.key,) for run in samples]


def test_all_images_are_prepared_once_and_the_seed_only_rounds(images):
    argv = ("--seed=1,2", "--weight_bits=8,4")
    (samples,) = _real(images, *argv, kind="samples")
    assert "--num_samples" not in samples.flagfile
    assert "--seed" not in samples.flagfile
    quantized = _real(images, *argv)
    assert [run.folder for run in quantized] == [
        "a/real/W8A8/seed0",
        "a/real/W4A8/seed1",
        "a/real/W4A8/seed2",
    ]
    # Sixteen calibrate, a fifth of the twenty is held out.
    assert {run.config["num_samples"] for run in quantized} == {16}
    # What all of them are is the same work, however many are asked for.
    assert _real(images, "--num_samples=16")[0].key == quantized[0].key
    (samples_again,) = _real(images, "--num_samples=99", kind="samples")
    assert samples_again.key == samples.key


def test_repeated_work_is_told_of_in_one_line(images, caplog):
    _real(images, "--seed=1,2,3", "--recipe=fast", "--range_method=minmax,mse")
    (told,) = caplog.messages
    assert told.startswith("a/real/W8A8-fast-minmax and 1 more: run once;")


def test_fewer_images_than_were_asked_for_are_told_of_once(images, caplog):
    _real(images, "--num_samples=99", "--weight_bits=4", "--seed=1,2")
    (told,) = caplog.messages
    assert "--num_samples=99, but" in told
    assert "20 images: 16 calibrate" in told


def _key(*argv: str) -> str:
    return _quantized("--models=a.keras", *argv)[-1].key


def test_key_is_of_what_a_run_depends_on_and_of_nothing_else(zoo):
    first = _key()
    assert _key("--weight_bits=8", "--jobs=2") == first
    assert _key("--eval_data=val.npz", "--preprocess=unit") == first
    others = {_key("--seed=1"), _key("--verify_samples=4")}
    (zoo / "a.keras").write_text("retrained")
    others.add(_key())
    (zoo / "a.keras").write_text("a")
    real = ("--method=real", "--calibration_data=val.npz")
    others |= {_key(*real), _key(*real, "--preprocess=unit")}
    # Images are not made.
    assert _key(*real, "--synthesis=label_weight=0") == _key(*real)
    np.savez(zoo / "val.npz", images=np.ones(1), labels=np.ones(1))
    others.add(_key(*real))
    assert len(others | {first}) == 7


def test_key_is_of_the_versions_of_what_computes(zoo, monkeypatch):
    first = _key()
    assert {"dsg_tf", "tensorflow"} < set(versions.computing())
    other = {**versions.computing(), "tensorflow": "9.9"}
    monkeypatch.setattr(versions, "computing", lambda: other)
    assert _key() != first


def test_samples_are_shared_by_all_that_does_not_bear_on_them(zoo):
    def samples(*argv: str) -> set[str]:
        runs = _runs("--models=a.keras", *argv)
        return {run.key for run in runs if run.kind == "samples"}

    (key,) = samples("--activation_bits=8,16")
    assert samples() == {key}
    # Lower widths need more, and all of them the same.
    (many,) = samples("--bits=W2A8,W4A8,W8A4", "--granularity=channel,tensor")
    assert many != key
    assert samples("--bits=W4A8,W8A8") == {key, many}
    assert samples("--bits=W4A8,W8A8", "--synthesis=tolerance=0") == samples(
        "--synthesis=tolerance=0"
    )
    assert len(samples("--synthesis=tolerance=0")) == 1
    assert key not in samples("--seed=1")
    assert key not in samples("--verify_samples=4")
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
