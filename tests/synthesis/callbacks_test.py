"""Callbacks do what they say; their hooks are called by hand."""

from __future__ import annotations

import csv
import math
import types

import keras
import numpy as np
import pytest

from dsg_tf.core import progress
from dsg_tf.synthesis import callbacks


class _Model:
    """As much of a Synthesizer as callbacks look at."""

    def __init__(self, rate=0.5, layers=("first", "second")):
        self.optimizer = keras.optimizers.SGD(rate)
        self.batch_norms = [types.SimpleNamespace(name=n) for n in layers]
        self.distances = np.array([0.25, 4.0])
        self.distances_holder = self.distances
        self.stop_training = False
        self.batch_index = 0
        self.distances = types.SimpleNamespace(
            numpy=lambda: self.distances_holder
        )

    @property
    def rate(self):
        return float(self.optimizer.learning_rate.value)


def _attach(callback, model):
    callback.set_model(model)
    callback.on_train_begin()
    return callback


def _losses(callback, model, losses):
    """Runs steps with these losses; the rate after each."""
    rates = []
    for step, loss in enumerate(losses):
        callback.on_train_batch_begin(step)
        callback.on_train_batch_end(step, {"loss": loss})
        rates.append(model.rate)
    return rates


class TestChangeViews:
    def _views(self, *, seed=0, batch_index=0):
        model = _Model()
        model.config = types.SimpleNamespace(seed=seed)
        model.batch_index = batch_index
        views = []
        model.change_views = lambda rng: views.append(rng.integers(2**31))
        callback = _attach(callbacks.ChangeViews(), model)
        _losses(callback, model, [1.0] * 3)
        callback.on_train_begin()  # The same batch once more.
        _losses(callback, model, [1.0] * 3)
        return views

    def test_are_new_in_each_step_and_the_same_for_a_batch(self):
        views = self._views()
        assert len(set(views)) == 3
        assert views[:3] == views[3:]

    def test_differ_by_seed_and_batch(self):
        first = self._views()
        assert not set(first) & set(self._views(seed=1))
        assert not set(first) & set(self._views(batch_index=1))


class TestCosineAnneal:
    def test_follows_half_a_cosine_from_the_rate_to_zero(self):
        model = _Model(rate=9.0)
        callback = _attach(callbacks.CosineAnneal(0.4, 8), model)
        rates = _losses(callback, model, [1.0] * 8)
        wanted = [0.2 * (1 + math.cos(math.pi * k / 8)) for k in range(8)]
        np.testing.assert_allclose(rates, wanted, rtol=1e-6)

    def test_begins_again_with_each_batch(self):
        model = _Model()
        callback = _attach(callbacks.CosineAnneal(0.4, 8), model)
        _losses(callback, model, [1.0] * 5)
        callback.on_train_begin()
        assert _losses(callback, model, [1.0]) == pytest.approx([0.4])


class TestPlateauAnneal:
    def test_divides_by_ten_after_patience_steps_without_a_fall(self):
        model = _Model()
        callback = _attach(callbacks.PlateauAnneal(0.1, 2), model)
        rates = _losses(callback, model, [5, 4, 4, 4, 3, 3, 3, 3])
        wanted = [0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.001, 0.001]
        np.testing.assert_allclose(rates, wanted, rtol=1e-6)

    def test_stops_at_a_thousandth(self):
        model = _Model()
        callback = _attach(callbacks.PlateauAnneal(0.1, 1), model)
        rates = _losses(callback, model, [1.0] * 9)
        np.testing.assert_allclose(rates[4:], 1e-4, rtol=1e-6)

    def test_begins_again_with_each_batch(self):
        model = _Model()
        callback = _attach(callbacks.PlateauAnneal(0.1, 1), model)
        _losses(callback, model, [1.0] * 9)
        callback.on_train_begin()
        assert model.rate == pytest.approx(0.1)
        # The lowest loss of the batch before is no measure for this one.
        assert _losses(callback, model, [7.0]) == pytest.approx([0.1])


class TestStopWhenSettled:
    def _stops_at(self, losses, patience=3):
        model = _Model()
        callback = _attach(callbacks.StopWhenSettled(patience), model)
        for step, loss in enumerate(losses):
            callback.on_train_batch_end(step, {"loss": loss})
            if model.stop_training:
                return step
        return None

    def test_stops_after_patience_steps_without_a_fall(self):
        assert self._stops_at([5, 4, 3, 3, 3, 3, 3]) == 5

    def test_a_fall_below_one_percent_is_none(self):
        assert self._stops_at([100, 99.5, 99.4, 99.3]) == 3
        assert self._stops_at([100, 98.5, 97.0, 95.0]) is None

    def test_negative_losses_fall_as_well(self):
        # The spread loss is a logarithm.
        assert self._stops_at([-1, -1.1, -1.2, -1.3, -1.5, -1.7]) is None
        assert self._stops_at([-1, -1, -1, -1]) == 3


class TestDistanceLog:
    def _run(self, path, batches, finished=(), layers=("first", "second")):
        model = _Model(layers=layers)
        log = callbacks.DistanceLog(path, finished=finished)
        log.set_model(model)
        for batch in batches:
            model.batch_index = batch
            log.on_train_begin()
            for epoch in range(2):
                log.on_epoch_end(epoch, {"loss": 0.5 * batch})
        return list(csv.reader(path.open(newline="")))

    def test_has_one_row_per_batch_and_epoch(self, tmp_path):
        rows = self._run(tmp_path / "d.csv", [0, 1])
        assert rows[0] == ["batch", "epoch", "loss", "first", "second"]
        assert rows[1:] == [
            ["0", "0", "0", "0.25", "4"],
            ["0", "1", "0", "0.25", "4"],
            ["1", "0", "0.5", "0.25", "4"],
            ["1", "1", "0.5", "0.25", "4"],
        ]

    def test_resumed_keeps_the_rows_of_finished_batches_alone(self, tmp_path):
        whole = self._run(tmp_path / "whole.csv", [0, 1, 2])
        path = tmp_path / "d.csv"
        # Batch 1 was under way when the run was killed.
        self._run(path, [0, 1])
        assert self._run(path, [1, 2], finished=[0]) == whole

    def test_of_another_run_goes(self, tmp_path):
        path = tmp_path / "d.csv"
        self._run(path, [0, 1])
        assert self._run(path, [0]) == self._run(tmp_path / "new.csv", [0])

    def test_of_other_layers_goes(self, tmp_path):
        path = tmp_path / "d.csv"
        self._run(path, [0, 1], layers=("other", "layers"))
        rows = self._run(path, [1], finished=[0])
        assert [row[0] for row in rows] == ["batch", "1", "1"]


def test_progress_counts_a_batch_that_ended_early_as_whole():
    model = _Model()
    stage = progress.Task("synthesis", 20)
    callback = callbacks.ShowProgress(stage, 10)
    callback.set_model(model)
    for steps in (10, 4):
        callback.on_train_begin()
        for step in range(steps):
            callback.on_train_batch_end(step, {"loss": 1.0})
        callback.on_train_end()
    assert stage.done == 20
