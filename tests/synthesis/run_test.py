"""Batches are independent, resumable, deterministic, and within the domain."""

from __future__ import annotations

import contextlib
import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_classifier
import tiny_graphs

from dsg_tf.analysis import bn_statistics, domain_recovery, input_domain
from dsg_tf.config import synthesis_config
from dsg_tf.core import progress
from dsg_tf.synthesis import run, synthesizer

_CONFIG = synthesis_config.SynthesisConfig(
    batch_size=2, steps=4, schedule="cosine", seed=3, slack_probes=4
)
_COUNT = 5


def _synthesize(
    folder, *user, parts=None, domain=None, count=_COUNT, **changes
):
    graph, layers, _ = parts or tiny_classifier.parts()
    return run.synthesize(
        graph,
        dataclasses.replace(_CONFIG, **changes),
        layers=layers,
        domains={"x": domain or tiny_classifier.domain()},
        count=count,
        folder=folder,
        key="key",
        callbacks=user,
    )


def _array(store, folder, name="x"):
    packed = store.pack(folder / "samples.npz", {})
    return np.array(packed.arrays[name])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run: its folder, samples and log."""
    folder = tmp_path_factory.mktemp("whole")
    x = _array(_synthesize(folder), folder)
    return folder, x, (folder / "distances.csv").read_text()


def test_samples_are_all_there_finite_and_in_the_domain(whole):
    _, x, _ = whole
    assert x.shape == (_COUNT, 8, 8, 3)
    assert x.dtype == np.float32
    assert np.isfinite(x).all()
    assert np.abs(x).max() <= 1
    assert len({sample.tobytes() for sample in x}) == _COUNT


def test_same_seed_same_bytes(whole, tmp_path):
    again = _array(_synthesize(tmp_path), tmp_path)
    assert again.tobytes() == whole[1].tobytes()
    first, second = (
        (f / "samples.npz").read_bytes() for f in (whole[0], tmp_path)
    )
    assert first == second


def test_another_seed_gives_other_samples(whole, tmp_path):
    other = _array(_synthesize(tmp_path, seed=4), tmp_path)
    assert not np.isclose(other, whole[1]).all(axis=(1, 2, 3)).any()


def _exchanging(x):
    """Branches that add each other up, as HRNet's do.

    The gradient of a sum goes to all its addends as one buffer, so that what a
    branch adds up is free, or not, for the others' sake.
    """
    rng = np.random.default_rng(0)
    branches = [x, x, x]
    for _ in range(3):
        kernels = rng.normal(0, 0.3, (2, 3, 3, 3, 3, 3)).astype(np.float32)
        a, b, c = (
            tf.tanh(tf.nn.conv2d(y, k, 1, "SAME"))
            for y, k in zip(branches, kernels[0], strict=True)
        )
        own = [tf.sin(y) for y in (a, b, c)]
        sums = [a + (b + c), b + (a + c), c + (a + b)]
        branches = [
            y + tf.tanh(tf.nn.conv2d(z, k, 1, "SAME"))
            for y, z, k in zip(own, sums, kernels[1], strict=True)
        ]
    y = tf.concat(branches, -1)
    return tiny_graphs.batch_norm(y, np.zeros(9), np.ones(9))


def test_same_seed_same_bytes_where_branches_meet(tmp_path):
    graph = tiny_graphs.freeze(_exchanging, (None, 8, 8, 3))
    parts = graph, bn_statistics.find(graph), None
    runs = {
        _array(
            _synthesize(tmp_path / name, parts=parts, count=2, steps=100),
            tmp_path / name,
        ).tobytes()
        for name in "abc"
    }
    assert len(runs) == 1


class _Killed(Exception):
    pass


class _KillIn(keras.callbacks.Callback):
    def __init__(self, batch):
        super().__init__()
        self._batch = batch

    def on_train_batch_end(self, batch, logs=None):
        if self.model.batch_index == self._batch and batch == 2:
            raise _Killed


def test_killed_run_goes_on_to_the_same_bytes(whole, tmp_path):
    with pytest.raises(_Killed):
        _synthesize(tmp_path, _KillIn(1))
    batches = []
    watch = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: batches.append(watch.model.batch_index)
    )
    store = _synthesize(tmp_path, watch)
    assert batches == [1, 2]
    assert _array(store, tmp_path).tobytes() == whole[1].tobytes()
    assert (tmp_path / "distances.csv").read_text() == whole[2]


def test_finished_run_is_not_run_again(whole):
    def refuse(*_):
        raise AssertionError("a step was run")

    store = _synthesize(
        whole[0], keras.callbacks.LambdaCallback(on_train_begin=refuse)
    )
    assert store.finished == {0, 2, 4}
    assert (whole[0] / "distances.csv").read_text() == whole[2]


def test_distance_log_has_one_row_per_batch_and_epoch(whole):
    rows = [line.split(",") for line in whole[2].splitlines()]
    assert [row[:2] for row in rows[1:]] == [["0", "0"], ["1", "0"], ["2", "0"]]
    assert len(rows[0]) == 3 + 3


def test_users_callbacks_see_every_step_and_every_term(tmp_path):
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(dict(logs))
    )
    csv_logger = keras.callbacks.CSVLogger(tmp_path / "log.csv", append=True)
    _synthesize(
        tmp_path,
        watch,
        csv_logger,
        steps=20,
        label_weight=1.0,
        prior_weight=1.0,
    )
    assert len(seen) == 3 * 20
    terms = {"bns", "label", "prior"}
    assert terms <= set(seen[0])
    for logs in seen:
        parts = sum(float(v) for k, v in logs.items() if k != "loss")
        assert float(logs["loss"]) == pytest.approx(parts, rel=1e-5)
    # Two epochs of ten steps for each of three batches, and the header.
    rows = (tmp_path / "log.csv").read_text().splitlines()
    assert len(rows) == 1 + 3 * 2


@pytest.mark.parametrize(
    ("schedule", "share"), [("cosine", 0.5), ("constant", 1.0)]
)
def test_schedule_sets_the_rate(tmp_path, schedule, share):
    rates = []
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: rates.append(
            float(watch.model.optimizer.learning_rate.value)
        )
    )
    _synthesize(tmp_path, watch, schedule=schedule, count=2, learning_rate=0.2)
    assert len(rates) == 4
    assert rates[0] == pytest.approx(0.2)
    assert rates[2] == pytest.approx(0.2 * share)


def test_settled_batches_end_early_and_the_next_begins(tmp_path):
    steps = []
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: steps.append(
            watch.model.batch_index
        )
    )
    # A rate that changes nothing, and views that are all alike: no step falls
    # by 1 %.
    store = _synthesize(
        tmp_path,
        watch,
        steps=20,
        patience=2,
        learning_rate=1e-9,
        count=4,
        jitter=0.0,
        mirror=False,
    )
    assert steps == [0, 0, 0, 1, 1, 1]
    assert store.finished == {0, 2}


def test_samples_stay_on_disk(whole):
    store = _synthesize(whole[0])
    assert all(isinstance(m, np.memmap) for m in store._maps.values())


def test_integer_inputs_come_out_whole_and_in_range(tmp_path):
    parts = tiny_classifier.parts(
        dtype=tf.uint8,
        before=lambda x: tf.cast(x, tf.float32) / 127.5 - 1.0,
    )
    graph, layers, _ = parts
    domain = domain_recovery.recover(graph, "x", layers=layers)
    store = _synthesize(
        tmp_path,
        parts=parts,
        domain=domain,
        learning_rate=2.0,
        keep_domain=False,
        count=2,
    )
    x = _array(store, tmp_path)
    assert x.dtype == np.uint8
    # Clipped and not wrapped: what went beyond the range is at its ends.
    # Wrapped values would fill the range evenly, with 1 in 128 at the ends.
    assert np.mean((x == 0) | (x == 255)) > 0.05


def test_fixed_batch_size_of_the_model_is_kept(tmp_path):
    def function(x):
        y = tf.reshape(
            tf.nn.conv2d(x, tiny_classifier.WEIGHTS["k1"], 1, "SAME"),
            (3, 8, 8, 4),
        )
        return tiny_graphs.batch_norm(y, np.zeros(4), np.ones(4))

    graph = tiny_graphs.freeze(function, (3, 8, 8, 3))
    parts = graph, bn_statistics.find(graph), None
    store = _synthesize(tmp_path, parts=parts, count=4)
    assert store.finished == {0, 3}
    assert np.isfinite(_array(store, tmp_path)).all()


def test_two_inputs_are_stored_by_name(tmp_path):
    kernel = np.random.default_rng(0).normal(0, 1, (6, 3)).astype("f")
    graph = tiny_graphs.freeze(
        lambda x, y: tiny_graphs.batch_norm(
            x + (y @ kernel)[:, None, None], np.zeros(3), np.ones(3)
        ),
        (None, 8, 8, 3),
        (None, 6),
    )
    store = run.synthesize(
        graph,
        _CONFIG,
        layers=bn_statistics.find(graph),
        domains={
            "x": tiny_classifier.domain(),
            "y": input_domain.standard_normal(6),
        },
        count=2,
        folder=tmp_path,
        key="key",
    )
    assert _array(store, tmp_path, "x").shape == (2, 8, 8, 3)
    assert _array(store, tmp_path, "y").shape == (2, 6)


class TestNoise:
    def _noise(self, folder, count=64, **changes):
        changes = {"method": "noise", "steps": 0, "batch_size": 16, **changes}
        return _array(_synthesize(folder, count=count, **changes), folder)

    def test_has_the_moments_of_the_domain(self, tmp_path):
        x = self._noise(tmp_path, keep_domain=False)
        domain = tiny_classifier.domain()
        # 4,096 values per channel: five standard errors.
        error = 5 * domain.deviation / np.sqrt(4096)
        assert (np.abs(x.mean((0, 1, 2)) - domain.mean) < error).all()
        assert (np.abs(x.std((0, 1, 2)) - domain.deviation) < error).all()
        assert np.abs(x).max() > 1

    def test_keeps_to_the_domain_if_asked(self, tmp_path):
        x = self._noise(tmp_path, keep_domain=True)
        assert np.abs(x).max() == 1

    def test_is_of_the_standard_normal_without_the_domain(self, tmp_path):
        x = self._noise(tmp_path, keep_domain=False, use_domain=False)
        assert x.std() == pytest.approx(1, abs=5 / np.sqrt(x.size))

    def test_batches_differ_and_repeat_with_the_seed(self, tmp_path):
        first, second = (
            self._noise(tmp_path / n, count=20, seed=1) for n in "ab"
        )
        assert first.tobytes() == second.tobytes()
        assert len({sample.tobytes() for sample in first}) == 20


# Neither batch settles: each has rounds of 4, 4, 8 and 4 steps.
_HARD = {"tolerance": 1e-6, "most_steps": 20, "count": 4}


class _Counting(keras.callbacks.Callback):
    """Steps of each round, and the rate of each step, by batch."""

    def __init__(self):
        super().__init__()
        self.rounds, self.rates = {}, {}

    def on_train_begin(self, logs=None):
        self.rounds.setdefault(self.model.batch_index, []).append(0)

    def on_train_batch_end(self, batch, logs=None):
        index = self.model.batch_index
        self.rounds[index][-1] += 1
        rate = float(self.model.optimizer.learning_rate.value)
        self.rates.setdefault(index, []).append(rate)


class TestRounds:
    @pytest.fixture(scope="class")
    def hard(self, tmp_path_factory):
        """A run that misses its tolerance: its folder, store and steps."""
        folder = tmp_path_factory.mktemp("hard")
        counting = _Counting()
        return folder, _synthesize(folder, counting, **_HARD), counting

    def test_go_on_up_to_the_most_while_ranges_are_off(self, hard):
        _, _, counting = hard
        assert counting.rounds == {0: [4, 4, 8, 4], 1: [4, 4, 8, 4]}

    def test_have_a_schedule_each(self, hard):
        _, _, counting = hard
        for rates in counting.rates.values():
            peaks = [rates[start] for start in (0, 4, 8, 16)]
            assert peaks == pytest.approx([_CONFIG.learning_rate] * 4)
            assert rates[3] < rates[2] < rates[1] < rates[0]
            assert rates[19] < rates[18] < rates[16]

    def test_are_noted_with_what_they_reached(self, hard):
        _, store, _ = hard
        assert list(store.notes["rounds"]) == ["0", "1"]
        for told in store.notes["rounds"].values():
            assert told.keys() == {
                *("steps", "settled", "bits_off", "label_share")
            }
            assert told["steps"] == 20
            assert told["settled"] is False
            assert 1e-6 < told["bits_off"] < 10
            assert 0 < told["label_share"] < 10

    def test_are_told_in_the_metadata_of_the_samples(self, hard):
        folder, store, _ = hard
        packed = store.pack(folder / "samples.npz", {})
        assert packed.metadata["rounds"] == store.notes["rounds"]

    def test_continue_on_the_samples_as_they_are(self, tmp_path):
        """The distance falls over rounds, and does not begin anew."""
        seen = []
        watch = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: seen.append(
                float(np.sum(watch.model.distances.numpy()))
            )
        )
        _synthesize(
            tmp_path,
            watch,
            **{**_HARD, "most_steps": 60, "count": 2},
            jitter=0.0,
            mirror=False,
        )
        assert len(seen) == 60
        # The first steps of the later rounds: 4, 8, 16 and 32.
        assert max(seen[n] for n in (4, 8, 16, 32)) < 0.9 * seen[0]

    def test_same_seed_same_bytes(self, hard, tmp_path):
        folder, store, _ = hard
        again = _synthesize(tmp_path, **_HARD)
        assert (
            _array(again, tmp_path).tobytes() == _array(store, folder).tobytes()
        )
        assert again.notes == store.notes
        first, second = (
            (f / "samples.npz").read_bytes() for f in (folder, tmp_path)
        )
        assert first == second

    @pytest.mark.parametrize("batch", [0, 1])
    def test_killed_run_goes_on_to_the_same_bytes(self, hard, tmp_path, batch):
        folder, store, _ = hard

        class Kill(_Counting):
            def on_train_batch_end(self, step, logs=None):
                super().on_train_batch_end(step, logs)
                # In the second round, of four.
                if self.rounds.get(batch) == [4, 3]:
                    raise _Killed

        with pytest.raises(_Killed):
            _synthesize(tmp_path, Kill(), **_HARD)
        counting = _Counting()
        again = _synthesize(tmp_path, counting, **_HARD)
        assert counting.rounds == {n: [4, 4, 8, 4] for n in range(batch, 2)}
        assert (
            _array(again, tmp_path).tobytes() == _array(store, folder).tobytes()
        )
        assert again.notes == store.notes
        logs = [(f / "distances.csv").read_text() for f in (folder, tmp_path)]
        assert logs[0] == logs[1]

    def test_end_where_ranges_are_within_the_tolerance(self, tmp_path):
        counting = _Counting()
        # Without labels none can be missed.
        store = _synthesize(
            tmp_path,
            counting,
            **{**_HARD, "tolerance": 50.0},
            label_weight=0.0,
        )
        assert counting.rounds == {0: [4], 1: [4]}
        assert [r["steps"] for r in store.notes["rounds"].values()] == [4, 4]
        assert {r["label_share"] for r in store.notes["rounds"].values()} == {0}

    def test_end_at_the_first_round_that_is_within(self, tmp_path):
        # The tolerance lies between the distances after 4 and after 8 steps.
        config = {**_HARD, "label_weight": 0.0, "jitter": 0.0, "mirror": False}
        offs = []
        for most in (4, 8):
            folder = tmp_path / str(most)
            made = _synthesize(folder, **{**config, "most_steps": most})
            offs.append(made.notes["rounds"]["0"]["bits_off"])
        assert offs[1] < offs[0]
        between = (offs[0] + offs[1]) / 2
        counting = _Counting()
        folder = tmp_path / "between"
        made = _synthesize(folder, counting, **{**config, "tolerance": between})
        assert counting.rounds[0] == [4, 4]
        assert made.notes["rounds"]["0"]["steps"] == 8
        assert made.notes["rounds"]["0"]["bits_off"] == offs[1]

    def test_go_on_while_classes_are_missed(self, tmp_path):
        counting = _Counting()
        store = _synthesize(
            tmp_path,
            counting,
            **{**_HARD, "tolerance": 50.0},
            # Nothing moves.
            learning_rate=1e-9,
        )
        assert counting.rounds == {0: [4, 4, 8, 4], 1: [4, 4, 8, 4]}
        shares = [r["label_share"] for r in store.notes["rounds"].values()]
        assert min(shares) > 0.5

    @pytest.mark.parametrize(
        "changes",
        [{"tolerance": 0.0}, {"tolerance": None}, {"most_steps": None}],
    )
    def test_are_one_without_a_tolerance_or_a_most(self, tmp_path, changes):
        counting = _Counting()
        store = _synthesize(tmp_path, counting, **{**_HARD, **changes})
        assert counting.rounds == {0: [4], 1: [4]}
        assert [r["steps"] for r in store.notes["rounds"].values()] == [4, 4]

    def test_of_ranges_that_are_no_number_go_on_and_are_json(
        self, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(
            synthesizer.settling, "bits_off", lambda *_, **__: float("inf")
        )
        counting = _Counting()
        store = _synthesize(tmp_path, counting, **{**_HARD, "count": 2})
        assert counting.rounds == {0: [4, 4, 8, 4]}
        assert store.notes["rounds"]["0"]["bits_off"] is None
        json.dumps(store.notes, allow_nan=False)

    @pytest.mark.parametrize(
        ("changes", "made"),
        [
            ({}, 40),
            ({"tolerance": 0.0}, 8),
            # Fewer than a round has otherwise.
            ({"most_steps": 3}, 6),
        ],
    )
    def test_count_as_work_once_they_are_begun(
        self, tmp_path, monkeypatch, changes, made
    ):
        tasks = []

        @contextlib.contextmanager
        def task(name, total, *, unit=""):
            tasks.append(progress.Task(name, total, unit=unit))
            yield tasks[-1]

        monkeypatch.setattr(run.progress, "task", task)
        store = _synthesize(tmp_path, **{**_HARD, **changes})
        (stage,) = tasks
        assert stage.line() == f"synthesis {made}/{made} steps (100 %)"
        taken = [told["steps"] for told in store.notes["rounds"].values()]
        assert taken == [made // 2] * 2


class TestFill:
    """A trial of edges is for samples that take longer than it does."""

    @pytest.mark.parametrize(
        ("steps", "tried"), [(4, False), (99, False), (100, True)]
    )
    def test_is_tried_where_there_are_steps_enough(
        self, tmp_path, monkeypatch, steps, tried
    ):
        fills = []

        def candidates(ports, domains, config):
            fills.append(config.fill)
            return ("wrap",)

        monkeypatch.setattr(run.padding_trial, "candidates", candidates)
        _synthesize(tmp_path, fill="auto", count=2, steps=steps)
        assert fills == ["auto" if tried else "wrap"]

    def test_of_few_steps_is_neither_tried_nor_noted(self, tmp_path):
        notes = {
            steps: _synthesize(
                tmp_path / str(steps), fill="auto", count=2, steps=steps
            ).notes
            for steps in (4, 100)
        }
        assert "edges" not in notes[4]
        # The same images, where a trial is worth it.
        assert notes[100]["edges"]["distances"].keys() == {"wrap", "black"}

    def test_that_is_asked_for_is_taken_whatever_the_steps(self, tmp_path):
        seen = []
        watch = keras.callbacks.LambdaCallback(
            on_train_begin=lambda logs: seen.append(watch.model.config.fill)
        )
        _synthesize(tmp_path, watch, fill="black", count=2)
        assert seen == ["black"]


def test_loss_that_is_not_finite_is_an_error_and_no_sample(tmp_path):
    class Poison(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 3:
                samples = self.model.samples["x"]
                samples.assign(samples * np.nan)

    with pytest.raises(FloatingPointError, match="batch 0"):
        _synthesize(tmp_path, Poison())
    assert _synthesize(tmp_path, steps=0).finished == {0, 2, 4}
