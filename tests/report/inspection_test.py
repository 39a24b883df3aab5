"""An inspection finds what a run would, and writes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import dsg_tf
from dsg_tf.config import export_config, run_config
from dsg_tf.core import errors
from dsg_tf.report import inspection_table
from tests import tiny_models


def _saved(tmp_path):
    """A classifier with BN behind each convolution, in a file."""
    path = tmp_path / "net.keras"
    tiny_models.classifier().save(path)
    return path


def _config(**export):
    return run_config.PipelineConfig(
        export=export_config.ExportConfig(**export)
    )


class TestInspectModel:
    def test_it_finds_what_the_run_then_has(self, tmp_path):
        path = _saved(tmp_path)
        found = dsg_tf.inspect_model(path)
        result = dsg_tf.quantize_model(path, output=tmp_path / "out.tflite")
        assert found.refusal == ""
        assert found.fingerprint == result.report.model_fingerprint
        assert {o.name: o.kind for o in found.outputs} == {
            name: row.kind for name, row in result.report.outputs.items()
        }
        size = result.report.size_bytes
        assert found.float_bytes == size.float
        assert found.integer_bytes == pytest.approx(size.integer, rel=0.15)
        (folded,) = (
            p for p in result.report.passes if p.name == "fold_batch_norm"
        )
        assert len(found.batch_norms) == len(folded.rows)
        assert all("folded" in row.treatment for row in found.batch_norms)

    def test_the_expected_time_is_of_its_stages(self, tmp_path):
        found = dsg_tf.inspect_model(_saved(tmp_path))
        seconds = dict(found.cost.seconds)
        total = seconds.pop("total")
        assert total == pytest.approx(sum(seconds.values()), abs=0.1)
        assert min(seconds.values()) > 0
        assert found.cost.steps == 50
        assert 0.8 < found.cost.peak_gb < 2

    def test_few_bits_cost_more(self, tmp_path):
        path = _saved(tmp_path)
        few, many = (
            dsg_tf.inspect_model(path, config=c).cost
            for c in (_config(), _config(weight_bits=4))
        )
        assert many.steps > 10 * few.steps
        assert many.seconds["passes"] > few.seconds["passes"]

    def test_own_samples_cost_no_synthesis(self, tmp_path):
        config = run_config.PipelineConfig(samples="images.npz")
        found = dsg_tf.inspect_model(_saved(tmp_path), config=config)
        assert found.cost.steps == 0
        assert found.cost.seconds["samples"] == 0

    def test_packed_weights_are_half_as_large(self, tmp_path):
        path = _saved(tmp_path)
        whole, packed = (
            dsg_tf.inspect_model(
                path, config=_config(weight_bits=4, packed=flag)
            ).integer_bytes
            for flag in (False, True)
        )
        assert packed < whole

    def test_a_simulation_has_no_file(self, tmp_path):
        config = _config(activation_bits=4)
        found = dsg_tf.inspect_model(_saved(tmp_path), config=config)
        assert found.float_bytes is found.integer_bytes is None
        assert found.refusal == ""

    def test_what_is_refused_is_told_with_the_remedy(self):
        def net(x):
            inside = tf.math.cumsum(tf.nn.relu(x), 1)
            return tf.matmul(inside, np.eye(4, dtype=np.float32))

        model = tf.function(
            net, input_signature=[tf.TensorSpec((None, 4), name="x")]
        )
        config = run_config.PipelineConfig(samples="x.npz")
        found = dsg_tf.inspect_model(model, config=config)
        assert "CUMSUM" in found.refusal
        assert "--allow_float_ops" in found.refusal
        assert found.cost is None
        assert found.inputs[0].known is False
        assert "cannot be quantized" in inspection_table.lines(found)[-1]

    def test_a_model_without_moments_is_an_error(self, tmp_path):
        model = tf.function(
            tf.nn.relu, input_signature=[tf.TensorSpec((None, 4), name="x")]
        )
        with pytest.raises(errors.UserError, match="no BatchNormalization"):
            dsg_tf.inspect_model(model)

    def test_operations_that_stay_float_are_listed(self):
        def net(x):
            kernel = np.ones((4, 4), np.float32)
            return tf.math.cumsum(tf.nn.relu(tf.matmul(x, kernel)), 1)

        model = tf.function(
            net, input_signature=[tf.TensorSpec((None, 4), name="x")]
        )
        config = run_config.PipelineConfig(samples="x.npz")
        (row,) = dsg_tf.inspect_model(model, config=config).float_operations
        assert row.operation == "CUMSUM"
        assert "no integer form" in row.reason


def _command(folder, *argv):
    return subprocess.run(
        [sys.executable, "-m", *argv],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


class TestCommands:
    def test_json(self, tmp_path):
        path = _saved(tmp_path)
        ended = _command(
            tmp_path, "dsg_tf.inspect", f"--saved_model={path}", "--format=json"
        )
        assert ended.returncode == 0, ended.stderr
        told = json.loads(ended.stdout)
        assert told["model"] == str(path)
        assert told["outputs"][0]["covered_by"].startswith("a classification")
        assert os.listdir(tmp_path) == ["net.keras"]

    def test_a_dry_run_tells_and_writes_nothing(self, tmp_path):
        path = _saved(tmp_path)
        ended = _command(
            tmp_path, "dsg_tf.quantize", f"--saved_model={path}", "--dry_run"
        )
        assert ended.returncode == 0, ended.stderr
        assert "expected on this machine" in ended.stdout
        assert os.listdir(tmp_path) == ["net.keras"]

    def test_a_wrong_path_is_one_line(self, tmp_path):
        ended = _command(
            tmp_path, "dsg_tf.inspect", "--saved_model=nowhere.keras"
        )
        assert ended.returncode == 1
        assert ended.stderr.count("\n") == 1
        assert "no such file or folder" in ended.stderr
