"""Learned rounding: on the grid, never worse than nearest, near the best."""

from __future__ import annotations

import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from dsg_tf.analysis import layer_rows
from dsg_tf.quant import qtypes, uniform
from dsg_tf.transforms import learned_rounding

_QUICK = learned_rounding.Config(steps=15)


def _open(*shape):
    return np.full(shape, -np.inf), np.full(shape, np.inf)


def _problem(seed, *, groups=1, taps=6, outputs=3, rows=64, correlation=0.0):
    """A kernel (G, K, O), and rows behind inputs that go together."""
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=(groups, taps, outputs))
    common = rng.normal(size=(groups, rows, 1))
    own = rng.normal(size=(groups, rows, taps))
    mixed = np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own
    inputs = (mixed + 0.5).astype(np.float32)
    wanted = inputs.astype(np.float64) @ kernel + rng.normal(
        size=(groups, 1, outputs)
    )
    return kernel, layer_rows.Rows(inputs, wanted.astype(np.float32))


def _grid(kernel, bits, *, per_channel=True):
    """A grid and its scale as (G, 1, O)."""
    bound = np.abs(kernel).max(axis=1, keepdims=True)
    if not per_channel:
        bound = np.full(bound.shape, bound.max())
    grid = uniform.symmetric_params(bound.reshape(-1), bits, axis=0)
    return grid, grid.scale.astype(np.float64).reshape(bound.shape)


def _learn(kernel, rows, grid, scale, *, bounds=None, config=_QUICK, seed=0):
    return learned_rounding.learn(
        kernel,
        scale,
        rows,
        grid=grid,
        bounds=bounds or _open(*scale.shape),
        config=config,
        seed=seed,
    )


def _errors(codes, rows, scale, bounds=None):
    """By channel, mean squared error behind a clip, and the bias: float64."""
    low, high = bounds or _open(*scale.shape)
    product = rows.inputs.astype(np.float64) @ (codes * scale)
    wanted = rows.outputs.astype(np.float64)
    bias = (wanted - product).mean(axis=1, keepdims=True)
    difference = np.clip(product + bias, low, high) - np.clip(wanted, low, high)
    return (difference**2).mean(axis=1, keepdims=True), bias


def _nearest(kernel, grid, scale):
    return np.clip(np.rint(kernel / scale), grid.qmin, grid.qmax)


class TestNeverWorseThanNearest:
    @hypothesis.settings(max_examples=25, deadline=None)
    @hypothesis.given(
        seed=strategies.integers(0, 2**20),
        bits=strategies.integers(2, 8),
        per_channel=strategies.booleans(),
        clipped=strategies.booleans(),
        groups=strategies.sampled_from([1, 4]),
    )
    def test_of_any_layer_and_any_channel(
        self, seed, bits, per_channel, clipped, groups
    ):
        kernel, rows = _problem(seed, groups=groups, correlation=0.7)
        grid, scale = _grid(kernel, bits, per_channel=per_channel)
        bounds = _open(*scale.shape)
        if clipped:
            bounds = np.zeros(scale.shape), np.full(scale.shape, 1.5)
        learned = _learn(kernel, rows, grid, scale, bounds=bounds, seed=seed)
        assert learned.codes.shape == kernel.shape
        np.testing.assert_array_equal(learned.codes, np.rint(learned.codes))
        assert (learned.codes >= grid.qmin).all()
        assert (learned.codes <= grid.qmax).all()
        # Down or up, or clipped: never further than a step.
        floor = np.floor(kernel / scale)
        down = np.clip(floor, grid.qmin, grid.qmax)
        up = np.clip(floor + 1, grid.qmin, grid.qmax)
        assert ((learned.codes == down) | (learned.codes == up)).all()

        error, bias = _errors(learned.codes, rows, scale, bounds)
        nearest, _ = _errors(_nearest(kernel, grid, scale), rows, scale, bounds)
        # The module's products are float32: sums of 6 terms of up to 20 are
        # off by 2e-5, and so are its errors by 2 x 2e-5 sqrt(error) + 4e-10.
        slack = 4e-5 * np.sqrt(nearest) + 1e-9
        assert (error <= nearest + slack).all()
        np.testing.assert_allclose(learned.bias, bias, atol=2e-5)
        total = 4e-5 * np.sqrt(nearest * 3 * groups).sum() + 1e-8
        assert abs(learned.error - error.sum()) <= total
        assert abs(learned.nearest_error - nearest.sum()) <= total
        assert learned.error <= learned.nearest_error

    def test_a_channel_that_learning_spoils_keeps_the_nearest_codes(self):
        """A learning rate that throws V about: the judge has the last word."""
        config = learned_rounding.Config(
            steps=3, learning_rate=50.0, batch_rows=1, warm_start=1.0
        )
        kernel, rows = _problem(3, outputs=24)
        grid, scale = _grid(kernel, 4)
        learned = _learn(kernel, rows, grid, scale, config=config)
        nearest = _nearest(kernel, grid, scale)
        kept = (learned.codes == nearest).all(axis=1)
        assert kept.any()
        error, _ = _errors(learned.codes, rows, scale)
        before, _ = _errors(nearest, rows, scale)
        assert (error <= before * (1 + 1e-4)).all()

    def test_no_steps_are_rounding_to_nearest(self):
        kernel, rows = _problem(4)
        grid, scale = _grid(kernel, 3)
        learned = _learn(
            kernel, rows, grid, scale, config=learned_rounding.Config(steps=0)
        )
        np.testing.assert_array_equal(
            learned.codes, _nearest(kernel, grid, scale)
        )
        assert learned.steps == 0
        assert learned.error == learned.nearest_error

    def test_weights_on_the_grid_already_stay_there(self):
        kernel, rows = _problem(5)
        grid, scale = _grid(kernel, 4)
        codes = _nearest(kernel, grid, scale)
        snapped = codes * scale
        wanted = rows.inputs.astype(np.float64) @ snapped
        rows = layer_rows.Rows(rows.inputs, wanted.astype(np.float32))
        learned = _learn(snapped, rows, grid, scale)
        np.testing.assert_array_equal(learned.codes, codes)


def _best(kernel, rows, grid, scale):
    """Least error of each channel over all ways to round, by brute force.

    With centred rows X and e the errors of the weights, the mean squared
    error with the best bias is e' (X'X / R) e: 2^K of them.
    """
    least = np.empty(scale.shape)
    for g, _, o in np.ndindex(scale.shape):
        x = rows.inputs[g].astype(np.float64)
        x = x - x.mean(axis=0)
        gram = x.T @ x / len(x)
        step, position = scale[g, 0, o], kernel[g, :, o] / scale[g, 0, o]
        choices = np.array(
            list(itertools.product([0, 1], repeat=len(position)))
        )
        codes = np.clip(np.floor(position) + choices, grid.qmin, grid.qmax)
        off = (codes - position) * step
        least[g, 0, o] = np.einsum("ni,ij,nj->n", off, gram, off).min()
    return least


class TestNearTheBest:
    def test_two_weights_that_go_together_round_apart(self):
        """x1 = x2 and 0.4, 0.45 of a step: nearest loses 0.85, apart 0.15."""
        x = np.random.default_rng(0).normal(size=(1, 256, 1))
        inputs = np.repeat(x, 2, axis=2).astype(np.float32)
        # A third weight, of an input of its own, gives the scale of 1.
        inputs = np.concatenate([inputs, inputs[:, ::-1, :1]], axis=2)
        kernel = np.array([[[0.4], [0.45], [7.0]]])
        wanted = (inputs.astype(np.float64) @ kernel).astype(np.float32)
        rows = layer_rows.Rows(inputs, wanted)
        grid, scale = _grid(kernel, 4)
        np.testing.assert_array_equal(scale, [[[1.0]]])
        learned = _learn(
            kernel,
            rows,
            grid,
            scale,
            config=learned_rounding.Config(steps=200),
        )
        assert sorted(learned.codes[0, :2, 0]) == [0, 1]
        assert learned.codes[0, 2, 0] == 7
        # By arithmetic on the same rows; float32 products of up to 20.
        np.testing.assert_allclose(
            learned.error / learned.nearest_error, (0.15 / 0.85) ** 2, rtol=1e-4
        )

    @pytest.mark.parametrize("bits", [3, 4])
    def test_the_error_is_close_to_that_of_the_best_of_all(self, bits):
        kernel, rows = _problem(6, taps=8, outputs=6, rows=512, correlation=0.8)
        grid, scale = _grid(kernel, bits)
        learned = _learn(
            kernel,
            rows,
            grid,
            scale,
            config=learned_rounding.Config(steps=600),
        )
        best = _best(kernel, rows, grid, scale).sum()
        nearest, _ = _errors(_nearest(kernel, grid, scale), rows, scale)
        error, _ = _errors(learned.codes, rows, scale)
        assert np.isfinite(learned.error)
        assert best <= error.sum() * (1 + 1e-6)
        # Measured: all but a few per cent of what there is to gain.
        assert error.sum() - best <= 0.05 * (nearest.sum() - best)
        assert nearest.sum() > 2 * best

    def test_groups_are_learned_apart(self):
        kernel, rows = _problem(7, groups=5, outputs=1, taps=6, correlation=0.8)
        grid, scale = _grid(kernel, 3)
        config = learned_rounding.Config(steps=400)
        learned = _learn(kernel, rows, grid, scale, config=config)
        best = _best(kernel, rows, grid, scale)
        nearest, _ = _errors(_nearest(kernel, grid, scale), rows, scale)
        error, _ = _errors(learned.codes, rows, scale)
        assert error.sum() - best.sum() <= 0.1 * (nearest - best).sum()

    def test_what_the_activation_cuts_off_does_not_count(self):
        """Two inputs are alike where the ReLU is on, opposite where it is off.

        On, rounding apart is right; off, where they are larger, together.
        """
        rng = np.random.default_rng(0)
        on, off = rng.normal(size=(64, 1)), 1.5 * rng.normal(size=(192, 1))
        inputs = np.concatenate(
            [
                np.hstack([on, on, np.ones_like(on)]),
                np.hstack([off, -off, -np.ones_like(off)]),
            ]
        )[np.newaxis].astype(np.float32)
        kernel = np.array([[[0.45], [0.4], [7.0]]])
        wanted = (inputs.astype(np.float64) @ kernel).astype(np.float32)
        assert (wanted[0, :64] > 0).all()
        assert (wanted[0, 64:] < 0).all()
        rows = layer_rows.Rows(inputs, wanted)
        grid, scale = _grid(kernel, 4)
        config = learned_rounding.Config(steps=200)
        relu = np.zeros(scale.shape), np.full(scale.shape, np.inf)
        aware = _learn(kernel, rows, grid, scale, bounds=relu, config=config)
        blind = _learn(kernel, rows, grid, scale, config=config)
        assert sorted(aware.codes[0, :2, 0]) == [0, 1]
        assert list(blind.codes[0, :2, 0]) == [0, 0]

    def test_a_layer_that_is_always_off_is_rounded_to_nearest(self):
        kernel, rows = _problem(8)
        rows = layer_rows.Rows(rows.inputs, rows.outputs - 1000)
        grid, scale = _grid(kernel, 3)
        relu = np.zeros(scale.shape), np.full(scale.shape, np.inf)
        learned = _learn(kernel, rows, grid, scale, bounds=relu)
        assert learned.nearest_error == learned.error == learned.steps == 0
        np.testing.assert_array_equal(
            learned.codes, _nearest(kernel, grid, scale)
        )


class TestRepeatable:
    def test_same_seed_same_codes_other_seed_other_batches(self):
        kernel, rows = _problem(9, taps=24, outputs=12, rows=256)
        grid, scale = _grid(kernel, 3)
        config = learned_rounding.Config(steps=15, batch_rows=8)
        found = [
            _learn(kernel, rows, grid, scale, config=config, seed=seed).codes
            for seed in (1, 1, 2)
        ]
        np.testing.assert_array_equal(found[0], found[1])
        assert not np.array_equal(found[0], found[2])

    def test_one_trace_serves_all_layers_of_a_shape(self):
        # A config of its own: others have traced theirs.
        config = learned_rounding.Config(steps=12, learning_rate=0.0501)
        for seed, bits in ((0, 2), (1, 4), (2, 8)):
            kernel, rows = _problem(seed)
            grid, scale = _grid(kernel, bits)
            bounds = np.zeros(scale.shape), np.full(scale.shape, seed + 1.0)
            _learn(
                kernel,
                rows,
                grid,
                scale,
                bounds=bounds,
                config=config,
                seed=seed,
            )
        run = learned_rounding._chunk(rows.inputs.shape[1], config)
        assert run.experimental_get_tracing_count() == 1
        # The last chunk is shorter: its length is an argument too.
        kernel, rows = _problem(3, taps=7)
        grid, scale = _grid(kernel, 3)
        _learn(kernel, rows, grid, scale, config=config)
        assert run.experimental_get_tracing_count() == 2


class TestSteps:
    def test_a_layer_that_has_settled_stops_early(self):
        # Every weight at the end of its step from the start.
        kernel, rows = _problem(10)
        grid, scale = _grid(kernel, 4)
        codes = _nearest(kernel, grid, scale)
        config = learned_rounding.Config(steps=2000, regularization=300.0)
        learned = _learn(
            (codes + 0.01) * scale, rows, grid, scale, config=config
        )
        # The second term starts after a fifth of the steps.
        assert 400 < learned.steps < 2000
        assert learned.steps % 50 == 0

    def test_nothing_stops_before_the_second_term_has_started(self):
        # Settled from the start, and too slow to leave from there.
        kernel, rows = _problem(10)
        grid, scale = _grid(kernel, 4)
        config = learned_rounding.Config(steps=1000, learning_rate=1e-6)
        codes = _nearest(kernel, grid, scale)
        learned = _learn(
            (codes + 0.01) * scale, rows, grid, scale, config=config
        )
        # 200 steps without it, and the next look 50 later.
        assert learned.steps == 250

    @pytest.mark.parametrize("steps", [1, 50, 65])
    def test_a_layer_that_has_not_takes_all_its_steps(self, steps):
        kernel, rows = _problem(11)
        grid, scale = _grid(kernel, 4)
        config = learned_rounding.Config(
            steps=steps, regularization=0.0, learning_rate=1e-4
        )
        learned = _learn(kernel, rows, grid, scale, config=config)
        assert learned.steps == steps


def test_bias_centres_the_error_whatever_the_layers_before_did():
    """Asymmetric: inputs are off, outputs are the float network's."""
    kernel, rows = _problem(12)
    grid, scale = _grid(kernel, 3)
    rows = layer_rows.Rows(rows.inputs + np.float32(3.0), rows.outputs)
    learned = _learn(kernel, rows, grid, scale)
    product = rows.inputs.astype(np.float64) @ (learned.codes * scale)
    difference = product + learned.bias - rows.outputs
    # Means of float32 products of 6 terms of up to 30.
    np.testing.assert_allclose(difference.mean(axis=1), 0, atol=2e-5)


def test_codes_outside_the_grid_are_clipped_and_learned_within():
    kernel, rows = _problem(13)
    _, scale = _grid(kernel, 3)
    grid = qtypes.QuantParams(scale.reshape(-1) / 2, np.zeros(3), -3, 3, axis=0)
    learned = _learn(kernel, rows, grid, scale / 2)
    assert np.abs(learned.codes).max() == 3
    error, _ = _errors(learned.codes, rows, scale / 2)
    nearest, _ = _errors(_nearest(kernel, grid, scale / 2), rows, scale / 2)
    assert (error <= nearest * (1 + 1e-4)).all()
