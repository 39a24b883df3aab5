"""Whole tiny runs: every kind of model, every option, files and numbers."""

from __future__ import annotations

import csv
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import tiny_models

import dsg_tf
from dsg_tf import pipeline
from dsg_tf.analysis import source_model
from dsg_tf.config import export_config, run_config, synthesis_config
from dsg_tf.core import errors
from dsg_tf.diversity import diversity
from dsg_tf.export import tflite_writer
from dsg_tf.fidelity import fidelity
from dsg_tf.graph.load import loading
from dsg_tf.report import run_report
from dsg_tf.samples import sample_sets
from dsg_tf.tflite import flatbuffer, interpreter
from dsg_tf.transforms import learned_rounding

_TINY = synthesis_config.SynthesisConfig(num_samples=6, batch_size=4, steps=4)


def _config(*, synthesis=None, **changes) -> run_config.PipelineConfig:
    export = {
        name: changes.pop(name)
        for name in list(changes)
        if name in export_config.ExportConfig.__dataclass_fields__
    }
    return run_config.PipelineConfig(
        synthesis=synthesis or _TINY,
        export=export_config.ExportConfig(**export),
        **{"verify_samples": 3, **changes},
    )


def _quantize(model, folder, *, callbacks=(), **changes) -> pipeline.Result:
    return dsg_tf.quantize_model(
        model,
        output=folder / "model.tflite",
        config=_config(**changes),
        callbacks=callbacks,
    )


def _check(result: pipeline.Result, *, least_sqnr_db: float) -> None:
    """What holds for every run."""
    report = json.loads((result.run_folder / "report.json").read_text())
    assert report["outputs"].keys() == result.report.outputs.keys()
    assert report["size_bytes"]["integer"] == result.output.stat().st_size
    for fidelity_row in report["outputs"].values():
        assert np.isfinite(fidelity_row["cosine"])
        # Of equal outputs SQNR is infinite, which JSON has as null.
        sqnr_db = fidelity_row["sqnr_db"]
        assert sqnr_db is None or sqnr_db > least_sqnr_db
    assert report["layers"]
    assert not list(result.output.parent.glob("**/*.tmp"))


# Least SQNR of a sound 8-bit file, dB. A uniform 8-bit grid over 8 deviations
# gives 6.02 * 8 - 10 log10(8**2 / 12) = 41 dB; a dozen roundings of tensors and
# weights in a row cost 11 dB. The outputs' range is set by the largest of few
# samples: where the one that is looked at is a tenth of it, 20 dB more are
# gone. A wrong scale or zero point leaves less than 6 dB.
_LEAST_8_BIT_DB = 10.0
# 16-bit activations leave only the roundings of the weights, relative to each
# weight's channel: the same 41 dB, three of them, at any size of the output.
_LEAST_16_BIT_DB = 30.0


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return tiny_models.classifier()


@pytest.fixture(scope="module")
def default_run(model, tmp_path_factory) -> pipeline.Result:
    return _quantize(model, tmp_path_factory.mktemp("default"))


# ---- what a run leaves behind


def test_default_run_agrees_with_the_model(default_run):
    _check(default_run, least_sqnr_db=_LEAST_8_BIT_DB)
    assert default_run.passed
    assert default_run.report.batch_norm_layers == 2
    assert default_run.report.samples == run_report.SampleCounts(6, 3)
    # With so few steps nobody asks what lies beyond the edges.
    assert default_run.report.edges is None
    assert all(row["steps"] >= 1 for row in default_run.report.rounds.values())


def test_report_has_the_diversity_of_what_calibrates(default_run, model):
    packed = sample_sets.read(
        default_run.run_folder / "samples.npz", inputs={"image": (8, 8, 3)}
    )
    expected = diversity.of_graph(
        loading.load(model), {"image": packed.arrays["image"][:6]}
    )
    found = default_run.report.diversity
    assert (found.samples, found.real_samples) == (6, 0)
    assert [row.layer for row in found.layers] == [
        row.layer for row in expected.layers
    ]
    # float32 features, batched otherwise.
    assert found.median["cosine"] == pytest.approx(
        expected.median["cosine"], abs=1e-3
    )


def test_real_samples_are_compared_with_and_change_nothing_else(
    default_run, model, tmp_path
):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "real.npy", rng.normal(size=(5, 8, 8, 3)))
    result = dsg_tf.quantize_model(
        model,
        output=tmp_path / "model.tflite",
        config=_config(),
        real=tmp_path / "real.npy",
    )
    found = result.report.diversity
    assert found.real_samples == 5
    assert found.median["mean_dispersion_to_real"] > 0
    assert 0 <= found.median["mean_coverage"] <= 1
    assert result.output.read_bytes() == default_run.output.read_bytes()


def test_real_samples_of_another_shape_are_refused_at_once(model, tmp_path):
    np.save(tmp_path / "real.npy", np.zeros((5, 9, 9, 3), np.float32))
    with pytest.raises(dsg_tf.UserError, match=r"real\.npy"):
        dsg_tf.quantize_model(
            model,
            output=tmp_path / "model.tflite",
            config=_config(),
            real=tmp_path / "real.npy",
        )
    assert not (tmp_path / "model.tflite.run").exists()


def test_default_run_leaves_these_files_and_no_others(default_run):
    folder = default_run.output.parent
    assert sorted(p.name for p in folder.iterdir()) == [
        "model.tflite",
        "model.tflite.run",
    ]
    assert sorted(p.name for p in default_run.run_folder.iterdir()) == [
        "distances.csv",
        "report.html",
        "report.json",
        "samples.npz",
    ]


def test_default_file_is_integer_inside(default_run):
    view = flatbuffer.read(default_run.output.read_bytes())
    ops = {op.name for op in view.ops}
    assert ops >= {"CONV_2D", "QUANTIZE", "DEQUANTIZE"}
    for op in view.ops:
        if op.name not in ("QUANTIZE", "DEQUANTIZE"):
            for index in (*op.inputs, *op.outputs):
                assert view.tensors[index].dtype in ("int8", "int32")
    assert default_run.report.float_operations == ()


def test_report_numbers_are_those_of_the_file(default_run, model):
    packed = sample_sets.read(
        default_run.run_folder / "samples.npz", inputs={"image": (8, 8, 3)}
    )
    held_out = packed.arrays["image"][6:]
    assert len(held_out) == 3
    expected = model(held_out, training=False).numpy()
    runner = interpreter.Interpreter(default_run.output.read_bytes())
    (got,) = runner.run({"image": held_out}).values()
    error = np.float64(expected) - got
    sqnr_db = 10 * np.log10(
        np.sum(np.float64(expected) ** 2) / np.sum(error**2)
    )
    (row,) = default_run.report.outputs.values()
    # The frozen graph may sum in another order than Keras: float32 noise lies
    # at 1e-7, 100 dB below the quantization's 1e-2.
    assert row.sqnr_db == pytest.approx(sqnr_db, abs=1e-2)
    assert row.max_abs_error == pytest.approx(np.abs(error).max(), rel=1e-3)
    agreement = np.mean(expected.argmax(1) == got.argmax(1))
    assert row.top1_agreement == agreement
    # Of one class only, top-1 tells nothing: the variance explained does.
    assert row.shown == 1
    spread = np.sum((expected - expected.mean(axis=0)) ** 2)
    assert default_run.report.agreement == pytest.approx(
        1 - np.sum(error**2) / spread, abs=1e-4
    )


def test_samples_tell_where_they_come_from(default_run):
    packed = sample_sets.read(
        default_run.run_folder / "samples.npz", inputs={"image": None}
    )
    assert packed.metadata["synthesis"]["seed"] == 0
    assert packed.metadata["model"] == default_run.report.model_fingerprint
    assert "image" in packed.metadata["domains"]
    assert packed.metadata["count"] == 9


def test_same_run_writes_the_same_bytes(default_run, model, tmp_path):
    again = _quantize(model, tmp_path)
    for name in ("model.tflite", "model.tflite.run/samples.npz"):
        assert (tmp_path / name).read_bytes() == (
            default_run.output.parent / name
        ).read_bytes()
    assert again.report.outputs == default_run.report.outputs


def test_another_seed_makes_other_samples(default_run, model, tmp_path):
    synthesis = synthesis_config.SynthesisConfig(
        num_samples=6, batch_size=4, steps=4, seed=1
    )
    other = _quantize(model, tmp_path, synthesis=synthesis)
    one, two = (
        sample_sets.read(run.run_folder / "samples.npz", inputs={"image": None})
        for run in (default_run, other)
    )
    assert not np.array_equal(one.arrays["image"], two.arrays["image"])


def test_rerun_reuses_its_samples(model, tmp_path):
    calls = []
    count = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: calls.append(1)
    )
    _quantize(model, tmp_path, callbacks=[count])
    made = (tmp_path / "model.tflite.run" / "samples.npz").stat().st_mtime_ns
    batches = len(calls)
    assert batches == 3  # 9 samples in batches of 4.
    _quantize(model, tmp_path, callbacks=[count], io_type="int8")
    assert len(calls) == batches
    file = tmp_path / "model.tflite.run" / "samples.npz"
    assert file.stat().st_mtime_ns == made


def test_killed_run_resumes_where_it_was(default_run, model, tmp_path):
    class Killed(BaseException):
        pass

    begun = []

    def begin(logs):
        begun.append(1)
        if len(begun) == 2:
            raise Killed

    with pytest.raises(Killed):
        _quantize(
            model,
            tmp_path,
            callbacks=[keras.callbacks.LambdaCallback(on_train_begin=begin)],
        )
    assert not (tmp_path / "model.tflite").exists()
    _quantize(
        model,
        tmp_path,
        callbacks=[keras.callbacks.LambdaCallback(on_train_begin=begin)],
    )
    # Batch 0, batch 1 killed; then only batches 1 and 2.
    assert len(begun) == 4
    assert (tmp_path / "model.tflite").read_bytes() == (
        default_run.output.read_bytes()
    )


# ---- options of the export


@pytest.mark.parametrize(
    ("io_type", "exporter"),
    [
        ("int8", "litert"),
        ("uint8", "litert"),
        ("float32", "tflite_converter"),
        ("int8", "tflite_converter"),
    ],
)
def test_8_bit_file_has_the_io_type(
    model, default_run, tmp_path, io_type, exporter
):
    result = _quantize(
        model,
        tmp_path,
        io_type=io_type,
        exporter=exporter,
        samples=str(default_run.run_folder / "samples.npz"),
    )
    _check(result, least_sqnr_db=_LEAST_8_BIT_DB)
    view = flatbuffer.read(result.output.read_bytes())
    for tensors in (view.input_names(), view.output_names()):
        assert [t.dtype for t in tensors.values()] == [io_type]
    assert result.report.float_operations == ()


@pytest.mark.parametrize(
    ("io_type", "exporter"),
    [
        ("float32", "litert"),
        ("int16", "litert"),
        ("int16", "tflite_converter"),
    ],
)
def test_16_bit_activations(model, default_run, tmp_path, io_type, exporter):
    result = _quantize(
        model,
        tmp_path,
        io_type=io_type,
        activation_bits=16,
        exporter=exporter,
        samples=str(default_run.run_folder / "samples.npz"),
    )
    _check(result, least_sqnr_db=_LEAST_16_BIT_DB)
    view = flatbuffer.read(result.output.read_bytes())
    (tensor,) = view.input_names().values()
    assert tensor.dtype == io_type
    (conv, *_) = [op for op in view.ops if op.name == "CONV_2D"]
    assert view.tensors[conv.outputs[0]].dtype == "int16"


@pytest.mark.parametrize("exporter", export_config.EXPORTERS)
def test_16_bit_activations_and_8_bit_io_are_refused_first(
    model, tmp_path, exporter
):
    with pytest.raises(errors.UserError, match="--io_type"):
        _quantize(
            model,
            tmp_path,
            io_type="int8",
            activation_bits=16,
            exporter=exporter,
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("exporter", export_config.EXPORTERS)
@pytest.mark.parametrize("granularity", export_config.GRANULARITIES)
def test_granularity_is_that_of_the_weights(
    model, default_run, tmp_path, granularity, exporter
):
    result = _quantize(
        model,
        tmp_path,
        granularity=granularity,
        exporter=exporter,
        samples=str(default_run.run_folder / "samples.npz"),
    )
    _check(result, least_sqnr_db=_LEAST_8_BIT_DB)
    view = flatbuffer.read(result.output.read_bytes())
    (first, *_) = [op for op in view.ops if op.name == "CONV_2D"]
    scales = np.size(view.tensors[first.inputs[1]].params.scale)
    assert scales == {"channel": 6, "tensor": 1}[granularity]


@pytest.mark.parametrize("range_method", ["ema", "mse", "percentile"])
def test_every_range_method_gives_a_sound_file(
    model, default_run, tmp_path, range_method
):
    result = _quantize(
        model,
        tmp_path,
        range_method=range_method,
        samples=str(default_run.run_folder / "samples.npz"),
    )
    # All three clip on purpose, and ema, which forgets, does so by far.
    _check(result, least_sqnr_db=6.0)


def test_bias_correction_can_be_turned_off(model, default_run, tmp_path):
    result = _quantize(model, tmp_path, bias_correction="none")
    _check(result, least_sqnr_db=_LEAST_8_BIT_DB)
    assert result.output.read_bytes() != default_run.output.read_bytes()


# ---- widths, rounding, equalization


def _weight_tensors(view: flatbuffer.Model) -> list[flatbuffer.Tensor]:
    """The integers; in a weight-only file a DEQUANTIZE reads them."""
    indices = [
        op.inputs[1]
        for op in view.ops
        if op.name in ("CONV_2D", "FULLY_CONNECTED")
    ]
    producers = [view.producers.get(index) for index in indices]
    return [
        view.tensors[producer.inputs[0] if producer else index]
        for index, producer in zip(indices, producers, strict=True)
    ]


def _weight_codes(result: pipeline.Result) -> list[np.ndarray]:
    view = flatbuffer.read(result.output.read_bytes())
    return [view.constant(t).astype(int) for t in _weight_tensors(view)]


@pytest.mark.parametrize(
    ("weight_bits", "activation_bits", "packed", "dtype"),
    [
        (4, 8, False, "int8"),
        (4, 8, True, "int4"),
        (3, 16, True, "int4"),
        (6, 8, False, "int8"),
        (2, 32, False, "int8"),
    ],
)
def test_widths_are_written_bit_exactly(
    model, default_run, tmp_path, weight_bits, activation_bits, packed, dtype
):
    result = _quantize(
        model,
        tmp_path,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        packed=packed,
        samples=str(default_run.run_folder / "samples.npz"),
    )
    assert result.report.read_back["integers"] > 500
    assert result.report.untreated_layers == ()
    qmax = 2 ** (weight_bits - 1) - 1
    for codes in _weight_codes(result):
        assert np.abs(codes).max() == qmax
    view = flatbuffer.read(result.output.read_bytes())
    assert {t.dtype for t in _weight_tensors(view)} == {dtype}


def test_first_and_last_layer_can_keep_8_bits(model, default_run, tmp_path):
    result = _quantize(
        model,
        tmp_path,
        weight_bits=3,
        keep_first_last_8bit=True,
        samples=str(default_run.run_folder / "samples.npz"),
    )
    found = [np.abs(codes).max() for codes in _weight_codes(result)]
    assert found == [127, 3, 127]


def test_learned_rounding_is_no_worse_in_any_layer(
    model, default_run, tmp_path
):
    result = _quantize(
        model,
        tmp_path,
        weight_bits=3,
        weight_rounding="adaround",
        samples=str(default_run.run_folder / "samples.npz"),
    )
    (rows,) = [p.rows for p in result.report.passes if p.name == "adaround"]
    assert len(rows) == 3
    for row in rows:
        assert 0 <= row.measured["error"] <= row.measured["nearest_error"]
    assert (
        sum(
            row.measured["error"] < row.measured["nearest_error"]
            for row in rows
        )
        >= 2
    )
    assert sorted(p.name for p in result.run_folder.iterdir()) == [
        "report.html",
        "report.json",
    ]


@pytest.mark.parametrize("bias_correction", ["analytic", "auto"])
def test_dfq_without_samples_of_its_own(
    model, default_run, tmp_path, bias_correction
):
    result = _quantize(
        model,
        tmp_path,
        granularity="tensor",
        equalize=True,
        absorb_bias=True,
        range_method="bn",
        bias_correction=bias_correction,
        samples=str(default_run.run_folder / "samples.npz"),
    )
    _check(result, least_sqnr_db=10.0)
    passes = [p.name for p in result.report.passes]
    assert passes == [
        "fold_batch_norm",
        "cross_layer_equalization",
        "bias_absorption",
        "round_weights",
        "bias_correction",
    ]
    ranges = result.report.ranges.values()
    # Two layers, each merged with its ReLU, and the mean of the second.
    assert sum(row.batch_norm is not None for row in ranges) == 3


def test_other_activation_widths_are_simulated(model, default_run, tmp_path):
    found = {}
    for bits in (4, 7):
        output = tmp_path / f"simulated{bits}"
        result = dsg_tf.quantize_model(
            model,
            output=output,
            config=_config(
                activation_bits=bits,
                samples=str(default_run.run_folder / "samples.npz"),
            ),
        )
        assert "8 and 16 bits" in result.report.simulated
        found[bits] = min(row.sqnr_db for row in result.report.outputs.values())
        loaded = tf.saved_model.load(str(output))
        ops = {
            op.type
            for op in loaded.signatures[
                "serving_default"
            ].graph.get_operations()
        }
        assert "FakeQuantWithMinMaxVars" in ops
    # A bit of activations is 6 dB; the rounding of the weights, alike in both,
    # and the softmax of three images leave less of three bits.
    assert found[7] > found[4] + 3


class _Kill(Exception):
    pass


def test_a_killed_rounding_goes_on(model, default_run, tmp_path, monkeypatch):
    settings = {
        "weight_bits": 3,
        "weight_rounding": "adaround",
        "samples": str(default_run.run_folder / "samples.npz"),
    }
    learned = []
    whole = learned_rounding.learn

    def learn(*arguments, **options):
        if len(learned) == 2:
            raise _Kill
        learned.append(arguments[0].shape)
        return whole(*arguments, **options)

    monkeypatch.setattr(learned_rounding, "learn", learn)
    with pytest.raises(_Kill):
        _quantize(model, tmp_path, **settings)
    assert not (tmp_path / "model.tflite").exists()
    learned[:] = learned[:1]
    result = _quantize(model, tmp_path, **settings)
    assert len(learned) == 2  # The third layer alone.
    monkeypatch.undo()
    other = tmp_path / "other"
    other.mkdir()
    again = _quantize(model, other, **settings)
    assert result.output.read_bytes() == again.output.read_bytes()


def test_noresume_begins_anew(model, tmp_path):
    _quantize(model, tmp_path)
    packed = tmp_path / "model.tflite.run" / "samples.npz"
    before = packed.stat().st_mtime_ns
    _quantize(model, tmp_path)
    assert packed.stat().st_mtime_ns == before
    _quantize(model, tmp_path, resume=False)
    assert packed.stat().st_mtime_ns > before


# ---- options of the samples


def test_samples_of_an_earlier_run_serve(default_run, model, tmp_path):
    path = default_run.run_folder / "samples.npz"
    result = _quantize(model, tmp_path, samples=str(path))
    _check(result, least_sqnr_db=_LEAST_8_BIT_DB)
    assert result.report.samples == run_report.SampleCounts(6, 3)
    assert sorted(p.name for p in result.run_folder.iterdir()) == [
        "report.html",
        "report.json",
    ]


@pytest.mark.parametrize(
    ("dtype", "exporter"),
    [(np.int16, "litert"), (np.float64, "tflite_converter")],
)
def test_users_samples_may_have_any_number_type(
    model, tmp_path, dtype, exporter
):
    rng = np.random.default_rng(0)
    path = tmp_path / "mine.npy"
    np.save(path, rng.uniform(-1.9, 1.9, (10, 8, 8, 3)).astype(dtype))
    folder = tmp_path / "out"
    folder.mkdir()
    result = _quantize(model, folder, samples=str(path), exporter=exporter)
    _check(result, least_sqnr_db=_LEAST_8_BIT_DB)
    assert result.report.samples == run_report.SampleCounts(8, 2)
    assert result.report.cover_behind_last_batch_norm == "the user's samples"


def test_single_sample_is_verified_on_itself(model, tmp_path):
    path = tmp_path / "mine.npy"
    np.save(path, np.random.default_rng(0).normal(size=(1, 8, 8, 3)))
    result = _quantize(model, tmp_path, samples=str(path))
    assert result.report.samples == run_report.SampleCounts(1, 1)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 8, 8, 1)),
        np.zeros((4, 9, 9, 3)),
        np.full((4, 8, 8, 3), np.nan),
    ],
    ids=["channels", "size", "nan"],
)
def test_unfit_samples_leave_no_file(model, tmp_path, array):
    path = tmp_path / "mine.npy"
    np.save(path, array)
    with pytest.raises(errors.UserError, match=r"mine\.npy"):
        _quantize(model, tmp_path, samples=str(path))
    assert [p.name for p in tmp_path.iterdir()] == ["mine.npy"]


@pytest.mark.parametrize("method", ["zeroq", "noise"])
def test_other_methods(model, tmp_path, method):
    changes = {} if method == "noise" else {"steps": 4}
    synthesis = synthesis_config.SynthesisConfig.of(
        method, num_samples=6, batch_size=4, **changes
    )
    result = _quantize(model, tmp_path, synthesis=synthesis)
    _check(result, least_sqnr_db=_LEAST_8_BIT_DB)
    assert result.report.config.synthesis.method == method


def test_noise_serves_a_model_without_batch_norm(tmp_path):
    model = tiny_models.classifier(batch_norm=False)
    with pytest.raises(errors.UserError, match="--method=noise"):
        _quantize(model, tmp_path)
    assert list(tmp_path.iterdir()) == []
    result = _quantize(
        model,
        tmp_path,
        synthesis=synthesis_config.SynthesisConfig.of("noise", num_samples=6),
    )
    _check(result, least_sqnr_db=_LEAST_8_BIT_DB)
    assert result.report.cover_behind_last_batch_norm == "none: noise"
    assert result.report.batch_norm_layers == 0


def test_users_callbacks_are_called(model, tmp_path):
    log = tmp_path / "log.csv"
    _quantize(
        model,
        tmp_path,
        callbacks=[keras.callbacks.CSVLogger(str(log), append=True)],
    )
    with log.open() as file:
        rows = list(csv.DictReader(file))
    # 3 batches of 4 steps in one epoch each.
    assert len(rows) == 3
    assert all(np.isfinite(float(row["loss"])) for row in rows)
    assert "bns" in rows[0]


def test_diverged_synthesis_is_a_users_error(model, tmp_path):
    synthesis = synthesis_config.SynthesisConfig(
        num_samples=2,
        batch_size=2,
        steps=4,
        learning_rate=1e30,
        keep_domain=False,
    )
    with pytest.raises(errors.UserError, match="learning_rate"):
        _quantize(model, tmp_path, synthesis=synthesis)
    assert not (tmp_path / "model.tflite").exists()


# ---- kinds of models


_KINDS = {
    "uint8": tiny_models.uint8_classifier,
    "vector": tiny_models.vector_classifier,
    "two inputs": tiny_models.two_inputs,
    "regressor": tiny_models.regressor,
    "conv1d": lambda: tiny_models.classifier(shape=(16, 3)),
    "batch size 1": lambda: tiny_models.classifier(batch_size=1),
    "batch size 3": lambda: tiny_models.classifier(batch_size=3),
}


@pytest.mark.parametrize(
    ("kind", "exporter"),
    [
        *((kind, "litert") for kind in _KINDS),
        ("uint8", "tflite_converter"),
        ("two inputs", "tflite_converter"),
    ],
)
def test_every_kind_of_model(kind, exporter, tmp_path):
    made = _KINDS[kind]()
    result = _quantize(made, tmp_path, exporter=exporter)
    _check(result, least_sqnr_db=_LEAST_8_BIT_DB)
    view = flatbuffer.read(result.output.read_bytes())
    assert list(view.input_names()) == [t.name for t in made.inputs]
    packed = sample_sets.read(
        result.run_folder / "samples.npz",
        inputs={t.name: tuple(t.shape[1:]) for t in made.inputs},
    )
    for tensor in made.inputs:
        assert packed.arrays[tensor.name].dtype == tensor.dtype
    if len(made.outputs[0].shape) == 4:
        assert result.report.cover_behind_last_batch_norm == "output spread"
    else:
        cover = result.report.cover_behind_last_batch_norm
        assert cover == f"labels of {made.outputs[0].shape[-1]} classes"


@pytest.mark.parametrize("use_bias", [False, True])
def test_grouped_convolutions_go_through_every_stage(use_bias, tmp_path):
    """Keras 2: a BiasAdd and a FusedBatchNorm that Grappler would fuse."""
    layers = tf_keras.layers
    model = tf_keras.Sequential([layers.Input((8, 8, 4))])
    for groups in (1, 4):
        model.add(
            layers.Conv2D(
                8, 3, padding="same", groups=groups, use_bias=use_bias
            )
        )
        model.add(layers.BatchNormalization())
        model.add(layers.ReLU())
    model.add(layers.GlobalAveragePooling2D())
    model.add(layers.Dense(3))
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            # What a trained one has: samples that fit it are not all zero.
            layer.moving_mean.assign(rng.normal(0, 0.3, 8))
    tf.saved_model.save(model, str(tmp_path / "source"))
    result = _quantize(
        str(tmp_path / "source"),
        tmp_path,
        weight_rounding="adaround",
        equalize=True,
    )
    _check(result, least_sqnr_db=_LEAST_8_BIT_DB)
    assert result.report.batch_norm_layers == 2
    view = flatbuffer.read(result.output.read_bytes())
    kernels = [
        view.tensors[op.inputs[1]].shape
        for op in view.ops
        if op.name == "CONV_2D"
    ]
    # The file's is grouped still.
    assert [tuple(shape) for shape in kernels] == [(8, 3, 3, 4), (8, 3, 3, 2)]


def test_whole_number_output_is_compared_by_equality(tmp_path):
    scores = tiny_models.classifier()

    # Keras's own argmax flips bits, for which TFLite has no operation.
    @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 3), name="image")])
    def classify(image):
        return tf.argmax(scores(image, training=False), axis=-1)

    result = _quantize(classify.get_concrete_function(), tmp_path)
    (row,) = result.report.outputs.values()
    assert row.top1_agreement is not None
    assert result.report.agreement == row.top1_agreement


def test_saved_model_gives_the_same_file_as_the_live_one(
    default_run, model, tmp_path
):
    model.export(str(tmp_path / "saved"), verbose=False)
    result = _quantize(tmp_path / "saved", tmp_path)
    _check(result, least_sqnr_db=_LEAST_8_BIT_DB)
    (one,), (two,) = (r.report.outputs.values() for r in (default_run, result))
    assert one.sqnr_db == pytest.approx(two.sqnr_db, abs=0.5)


# ---- the output


def test_output_folder_must_be_there(model, tmp_path):
    with pytest.raises(errors.UserError, match="no folder"):
        _quantize(model, tmp_path / "missing")


def test_output_must_not_be_a_folder(model, tmp_path):
    (tmp_path / "model.tflite").mkdir()
    with pytest.raises(errors.UserError, match="a folder"):
        _quantize(model, tmp_path)


def test_run_folder_must_not_be_a_file(model, tmp_path):
    (tmp_path / "model.tflite.run").write_text("mine")
    with pytest.raises(errors.UserError, match="which is a file"):
        _quantize(model, tmp_path)
    assert (tmp_path / "model.tflite.run").read_text() == "mine"


def test_file_that_fails_its_read_back_is_not_left_there(
    model, default_run, tmp_path, monkeypatch
):
    def fail(content, requested):
        raise ValueError("scale 3 is not what was asked for")

    monkeypatch.setattr(tflite_writer.readback, "check", fail)
    with pytest.raises(ValueError, match="scale 3"):
        _quantize(
            model,
            tmp_path,
            samples=str(default_run.run_folder / "samples.npz"),
        )
    assert not list(tmp_path.glob("**/*.tflite*"))[1:]
    assert not (tmp_path / "model.tflite").exists()


def test_file_of_another_model_is_told_by_its_outputs(
    model, default_run, tmp_path
):
    other = tiny_models.classifier()
    for weight in other.weights:
        if "kernel" in weight.path:
            weight.assign(-np.asarray(weight))
    path = default_run.run_folder / "samples.npz"
    wrong = _quantize(other, tmp_path, samples=str(path))
    held_out = sample_sets.read(path, inputs={"image": None})
    graph = source_model.load(model, _config()).graph
    (row,) = fidelity.compare_outputs(
        graph, wrong.output.read_bytes(), held_out
    ).values()
    # Noise as large as the signal is 0 dB; 3 dB are half of its power.
    assert row.sqnr_db < 3


# ---- samples alone


def test_synthesize_writes_samples_that_quantize_takes(model, tmp_path):
    made = dsg_tf.synthesize(model, output=tmp_path / "s.npz", config=_config())
    assert made.arrays["image"].shape == (6, 8, 8, 3)
    assert made.arrays["image"].dtype == np.float32
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "s.npz",
        "s.npz.run",
    ]
    result = _quantize(model, tmp_path, samples=str(tmp_path / "s.npz"))
    _check(result, least_sqnr_db=_LEAST_8_BIT_DB)


def _converted(converter, dataset) -> bytes:
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = dataset
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    return converter.convert()


@pytest.mark.parametrize(
    "make",
    [tiny_models.classifier, tiny_models.two_inputs],
    ids=["one", "two"],
)
def test_representative_dataset_serves_a_users_converter(make, tmp_path):
    made = make()
    path = str(tmp_path / "saved")
    made.export(path, verbose=False)
    dataset = dsg_tf.representative_dataset(path, config=_config())
    assert len(list(dataset())) == 6
    # It can be gone through again, as converters do.
    assert len(list(dataset())) == 6
    converter = tf.lite.TFLiteConverter.from_saved_model(path)
    written = _converted(converter, dataset)
    view = flatbuffer.read(written)
    dtypes = {view.tensors[op.outputs[0]].dtype for op in view.ops}
    assert "int8" in dtypes
    rng = np.random.default_rng(0)
    inputs = {
        t.name: rng.normal(size=(4, *t.shape[1:])).astype(np.float32)
        for t in made.inputs
    }
    expected = made([inputs[t.name] for t in made.inputs]).numpy()
    (got,) = interpreter.Interpreter(written).run(inputs).values()
    # A wrong order of inputs or ranges of noise would leave nothing of it.
    assert np.corrcoef(expected.ravel(), got.ravel())[0, 1] > 0.95


# ---- from Python


def _arrays(count: int = 10) -> np.ndarray:
    shape = (count, *tiny_models.classifier().input_shape[1:])
    return np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)


def test_samples_are_a_value(model, tmp_path):
    array = _arrays()
    name = "image"
    np.savez(tmp_path / "own.npz", **{name: array})
    config = _config(verify_samples=2)
    made = {
        dsg_tf.quantize_model(
            model,
            output=tmp_path / f"{number}.tflite",
            config=config,
            samples=samples,
        ).tflite
        for number, samples in enumerate(
            (
                tmp_path / "own.npz",
                array,
                {name: array},
                sample_sets.SampleSet({name: array}),
            )
        )
    }
    assert len(made) == 1
    report = (tmp_path / "1.tflite.run" / "report.json").read_text()
    assert json.loads(report)["config"]["samples"] == "(in memory)"


@pytest.mark.parametrize(
    "samples", [np.zeros((4, 3)), [[1.0], [2.0, 3.0]], {}, _arrays(0)]
)
def test_samples_in_memory_that_do_not_fit_are_one_line(
    model, tmp_path, samples
):
    with pytest.raises(errors.UserError) as caught:
        dsg_tf.quantize_model(
            model, output=tmp_path / "m.tflite", samples=samples
        )
    assert str(caught.value).startswith("samples: got")
    assert list(tmp_path.iterdir()) == []


def test_samples_of_a_run_are_parted_as_they_were_made(default_run, model):
    again = dsg_tf.quantize_model(
        model, config=_config(), samples=default_run.run_folder / "samples.npz"
    )
    assert again.report.samples == default_run.report.samples
    assert again.tflite == default_run.tflite


def test_without_an_output_the_result_has_its_bytes_for_as_long_as_it_lives(
    model,
):
    result = dsg_tf.quantize_model(model, config=_config())
    folder = result.output.parent
    assert result.tflite[4:8] == b"TFL3"
    assert (result.run_folder / "report.json").is_file()
    del result
    assert not folder.exists()


def test_a_failure_without_an_output_leaves_no_folder(model, monkeypatch):
    made = []
    make = pipeline.tempfile.TemporaryDirectory
    monkeypatch.setattr(
        pipeline.tempfile,
        "TemporaryDirectory",
        lambda **kwargs: made.append(make(**kwargs)) or made[-1],
    )
    with pytest.raises(errors.UserError):
        dsg_tf.quantize_model(model, samples=np.zeros((4, 3)))
    (temporary,) = made
    path = temporary.name
    made.clear()
    del temporary
    assert not pipeline.os.path.exists(path)


def test_result_evaluates_labelled_inputs(default_run, model):
    array = _arrays(32)
    classes = model.predict(array, verbose=0).argmax(1)
    top1 = default_run.evaluate(array, classes)
    assert 0.0 < top1 <= 1.0
    assert default_run.evaluate(array, (classes + 1) % 3) < top1
    with pytest.raises(errors.UserError, match="labels"):
        default_run.evaluate(array, classes[:-1])


def test_a_simulation_has_no_bytes_of_a_tflite(model):
    result = dsg_tf.quantize_model(model, config=_config(activation_bits=6))
    with pytest.raises(errors.UserError, match="simulation"):
        _ = result.tflite
