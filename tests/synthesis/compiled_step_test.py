"""What a GPU asks of the step: XLA compiles it once, and finds its variables.

XLA compiles for CPUs too, so that no GPU is needed here.
"""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tiny_classifier

from dsg_tf.config import synthesis_config
from dsg_tf.synthesis import callbacks, run


def _model(fill):
    config = synthesis_config.SynthesisConfig(
        num_samples=2, batch_size=2, steps=1, fill=fill, jitter=0.25
    )
    model = tiny_classifier.synthesizer_of(config)
    targets = callbacks.BatchNormTargets()
    targets.set_model(model)
    targets.on_train_begin()
    return model


def _show(model, views):
    for variable in model.views.values():
        variable.assign(np.asarray(views))


def _compiled(model, *, jit):
    return tf.function(
        lambda: model.train_step(None)["loss"], autograph=False, jit_compile=jit
    )


_VIEWS = [[[1, -2, 1], [0, 0, 0]], [[-2, 1, 0], [2, 2, 1]]]


@pytest.mark.parametrize("fill", ["wrap", "black"])
def test_step_is_compiled_once_for_all_views(fill):
    model = _model(fill)
    step = _compiled(model, jit=True)
    texts = []
    for views in _VIEWS:
        _show(model, views)
        texts.append(step.experimental_get_compiler_ir()(stage="hlo"))
    assert texts[0] == texts[1]


@pytest.mark.parametrize("fill", ["wrap", "black"])
def test_compiled_step_has_the_loss_of_the_plain_one(fill):
    losses = []
    for jit in (False, True):
        model = _model(fill)
        step = _compiled(model, jit=jit)
        found = []
        for views in _VIEWS:
            _show(model, views)
            found.append(float(step()))
        losses.append(found)
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    assert losses[0][0] != losses[0][1]


def test_variables_have_types_that_tensorflow_places_on_a_gpu():
    model = _model("wrap")
    # Not int32, which it keeps on the CPU.
    assert {v.dtype for v in model.variables} <= {"float32", "int64"}


@pytest.mark.parametrize(
    ("devices", "steps", "compiled"),
    [([], 3000, False), (["GPU:0"], 3000, True), (["GPU:0"], 50, False)],
)
def test_only_long_runs_on_a_gpu_are_worth_compiling(
    monkeypatch, devices, steps, compiled
):
    monkeypatch.setattr(
        tf.config, "list_logical_devices", lambda kind: list(devices)
    )
    assert run.worth_compiling(steps) is compiled
