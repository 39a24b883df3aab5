"""A call of the library leaves the process as it was."""

import logging as python_logging
import os
import random
import signal
import sys
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import logging
from tensorflow.python.eager import context

import dsg_tf
from dsg_tf.config import run_config, synthesis_config
from tests import tiny_models


def _state():
    """What a library may change and should not."""
    loggers = [
        python_logging.getLogger(),
        python_logging.getLogger("tensorflow"),
        logging.get_absl_logger(),
    ]
    options = context.context().function_call_options
    return {
        "descriptors": [os.fstat(number).st_ino for number in (0, 1, 2)],
        "streams": (sys.stdout, sys.stderr),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "signals": {
            number: signal.getsignal(number)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        },
        "verbosity": logging.get_verbosity(),
        "levels": [logger.level for logger in loggers],
        "filters": [list(logger.filters) for logger in loggers],
        "handlers": [list(logger.handlers) for logger in loggers],
        "warnings": list(warnings.filters),
        "random": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "eager": tf.executing_eagerly(),
        "run eagerly": tf.config.functions_run_eagerly(),
        "options": options.config_proto_serialized,
        "threads": (
            tf.config.threading.get_intra_op_parallelism_threads(),
            tf.config.threading.get_inter_op_parallelism_threads(),
        ),
        "soft placement": tf.config.get_soft_device_placement(),
        "floatx": keras.config.floatx(),
        "policy": keras.mixed_precision.global_policy().name,
        "image format": keras.config.image_data_format(),
        "float errors": np.geterr(),
        "seed": context.global_seed(),
    }


def _differences(before, after):
    return {key for key in before if before[key] != after[key]}


def _config(**fields):
    synthesis = synthesis_config.SynthesisConfig(
        num_samples=2, batch_size=2, steps=2
    )
    return run_config.PipelineConfig(
        synthesis=synthesis, verify_samples=2, **fields
    )


@pytest.fixture(scope="module")
def model():
    return tiny_models.classifier()


def test_quantizing_changes_nothing(model, tmp_path):
    config = _config()
    # TensorFlow starts its own things at its first call.
    dsg_tf.quantize_model(model, output=tmp_path / "first", config=config)
    before = _state()
    dsg_tf.quantize_model(model, output=tmp_path / "second", config=config)
    assert _differences(before, _state()) == set()


def test_an_error_changes_nothing(model, tmp_path):
    before = _state()
    with pytest.raises(dsg_tf.UserError):
        dsg_tf.quantize_model(
            model, output=tmp_path / "out", config=_config(signature="none")
        )
    assert _differences(before, _state()) == set()


def test_making_samples_changes_nothing(model, tmp_path):
    before = _state()
    dsg_tf.synthesize(model, output=tmp_path / "s.npz", config=_config())
    dsg_tf.representative_dataset(model, config=_config())
    assert _differences(before, _state()) == set()


def test_a_change_would_be_seen():
    before = _state()
    logging.set_verbosity(logging.get_verbosity() + 1)
    try:
        assert _differences(before, _state()) >= {"verbosity"}
    finally:
        logging.set_verbosity(logging.get_verbosity() - 1)
