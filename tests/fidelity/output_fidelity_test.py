"""Each kind of output has a measure that a dead output fails."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dsg_tf.fidelity import output_fidelity, output_kinds, output_pair

_KIND = output_kinds.Kind
_STEP = 1 / 256


def _drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, 1.0, shape)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x)
    return powers / powers.sum(axis=-1, keepdims=True)


def _rounded(p: np.ndarray) -> np.ndarray:
    """On the grid of an int8 sigmoid or softmax."""
    return np.clip(np.round(p / _STEP), 0, 255) * _STEP


def _compare(r, q, kind, **known) -> output_fidelity.Fidelity:
    if kind in (_KIND.SIGMOIDS, _KIND.PROBABILITIES):
        known = {"step": _STEP, **known}
    return output_fidelity.compare(r, q, kind=kind, **known)


_OUTPUTS = {
    "softmax": (_softmax(3 * _drawn(16, 10)), _KIND.PROBABILITIES),
    "softmax map": (_softmax(3 * _drawn(8, 4, 4, 3)), _KIND.PROBABILITIES),
    "logits": (_drawn(16, 10), _KIND.LOGITS),
    "sigmoid": (_sigmoid(2 * _drawn(16, 1)), _KIND.SIGMOIDS),
    "sigmoid (N,)": (_sigmoid(2 * _drawn(16)), _KIND.SIGMOIDS),
    "tags": (_sigmoid(_drawn(16, 50)), _KIND.SIGMOIDS),
    "mask": (_sigmoid(2 * _drawn(8, 4, 4, 1)), _KIND.SIGMOIDS),
    "boxes": (50 + 9 * _drawn(16, 4), _KIND.VALUES),
    "embedding": (_drawn(16, 64), _KIND.VALUES),
    "image": (_drawn(8, 6, 6, 3), _KIND.VALUES),
}


@pytest.mark.parametrize("name", _OUTPUTS)
def test_an_output_near_its_reference_has_good_scores(name):
    r, kind = _OUTPUTS[name]
    small = _rounded(r) if r.min() >= 0 and r.max() <= 1 else r + 0.01
    found = _compare(r, small, kind)
    assert found.kind == kind.value
    assert found.agreement > 0.93
    assert found.sqnr_mean_db > 20
    assert (found.still, found.constant) == (False, False)
    assert found.dead_channels == ()


@pytest.mark.parametrize("name", _OUTPUTS)
def test_a_constant_output_is_seen_and_has_no_signal(name):
    r, kind = _OUTPUTS[name]
    found = _compare(r, np.broadcast_to(r.mean(axis=0), r.shape), kind)
    assert found.constant
    assert found.sqnr_mean_db <= 2  # A map's own pattern is signal, too.
    if kind in (_KIND.VALUES, _KIND.SIGMOIDS) and r.ndim < 3:
        assert found.agreement == 0
    if r.ndim > 2:
        assert found.movement_db == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", _OUTPUTS)
def test_nan_and_infinity_have_the_worst_scores(name):
    r, kind = _OUTPUTS[name]
    for bad in (np.nan, np.inf):
        q = r.copy()
        q[0] = bad
        found = _compare(r, q, kind)
        assert not found.finite
        assert found.sqnr_mean_db == -math.inf
        assert found.max_abs_error == math.inf
        assert found.agreement < 1


def test_a_reference_that_is_not_finite_is_told_and_left_out():
    r = _drawn(16, 4)
    q = r + 0.01
    r[0, 0] = -np.inf
    found = _compare(r, q, _KIND.VALUES)
    assert (found.float_finite, found.finite) == (False, True)
    assert found.sqnr_mean_db > 20


def test_one_sigmoid_is_judged_by_its_decision_and_by_its_logit():
    # Float says 0.97 to 1.0, and 8 bits say 0.9 whatever they see.
    r = np.linspace(0.97, 1.0, 16)[:, np.newaxis]
    dead = _compare(r, np.full_like(r, 0.9), _KIND.SIGMOIDS)
    assert (dead.same_decisions, dead.agreement) == (1, 0)
    assert dead.sqnr_mean_db < 0
    half = _compare(r, np.full_like(r, 0.5), _KIND.SIGMOIDS)
    assert (half.same_decisions, half.agreement) == (0, 0)
    # Cosine, by which they were judged, is blind to both.
    assert min(dead.cosine, half.cosine) > 0.9999
    right = _compare(r, _rounded(r), _KIND.SIGMOIDS)
    assert right.sqnr_of == "logit"
    assert right.sqnr_mean_db > 10
    assert right.agreement > 0.9


def test_what_a_sigmoid_hides_near_0_and_1_its_logit_shows():
    r = np.array([0.004, 0.02, 0.06, 0.94, 0.98, 0.996])[:, np.newaxis]
    q = np.where(r < 0.5, 0.02, 0.98)
    found = _compare(r, q, _KIND.SIGMOIDS)
    logit = np.log(r / (1 - r))
    expected = np.sum((logit - logit.mean()) ** 2) / np.sum(
        (logit - np.log(q / (1 - q))) ** 2
    )
    assert found.sqnr_mean_db == pytest.approx(10 * np.log10(expected))
    assert found.sqnr_db > found.sqnr_mean_db + 9


def test_a_softmax_is_judged_by_its_logarithms_as_far_as_the_grid_goes():
    r, kind = _OUTPUTS["softmax"]
    q = _softmax(np.log(r) + 0.3 * _drawn(16, 10, seed=1))
    found = _compare(r, q, kind)
    assert found.sqnr_of == "logarithm"
    a, b = (np.log(np.maximum(x, _STEP)) for x in (r, q))
    expected = np.sum((a - a.mean(axis=0)) ** 2) / np.sum((a - b) ** 2)
    assert found.sqnr_mean_db == pytest.approx(10 * np.log10(expected))
    # Those of a log-softmax are logarithms already.
    logarithms = _compare(np.log(r), np.log(q), kind)
    expected = np.log(r) - np.log(r).mean(axis=0)
    assert logarithms.sqnr_mean_db == pytest.approx(
        10 * np.log10(np.sum(expected**2) / np.sum(np.log(r / q) ** 2))
    )


def test_the_logit_ends_where_the_grid_does():
    r = np.array([[1e-9], [0.5], [1 - 1e-9]])
    q = np.array([[0.0], [0.5], [1 - _STEP]])
    pair = output_pair.Pair(r, q, 3, _STEP)
    assert pair.logits().noise.sum() == 0
    fine = output_pair.Pair(r, q, 3, 0.0)
    assert fine.logits().noise.sum() > 10


def test_a_decision_within_half_a_step_is_either():
    r, q = np.array([[0.5 + 0.4 * _STEP]]), np.array([[0.5]])
    assert _compare(r, q, _KIND.SIGMOIDS).same_decisions == 1
    assert _compare(r, q, _KIND.SIGMOIDS, step=0.0).same_decisions == 0


def test_tags_are_judged_one_by_one_and_never_by_the_best():
    rng = np.random.default_rng(0)
    bias = np.append(rng.uniform(-5, -2, 49), 0.8)
    r = _sigmoid(_drawn(16, 50) + bias)
    # The last tag is always the best, and nothing else is right.
    q = _sigmoid(_drawn(16, 50, seed=1) + bias)
    q[:, -1] = r[:, -1] = 0.9
    found = _compare(r, q, _KIND.SIGMOIDS)
    assert np.mean(r.argmax(1) == q.argmax(1)) == 1
    assert found.top1_agreement is None
    assert found.same_decisions > 0.95
    assert found.agreement == 0
    assert found.worst_channel_db < found.median_channel_db


@pytest.mark.parametrize("name", ["softmax", "logits", "tags", "boxes"])
def test_one_dead_channel_among_many_is_found(name):
    r, kind = _OUTPUTS[name]
    q = r.copy()
    q[:, 2] = r[:, 2].mean()
    found = _compare(r, q, kind)
    assert found.dead_channels == (2,)
    assert found.worst_channel == 2
    assert found.worst_channel_db == pytest.approx(0, abs=1e-6)


def test_a_channel_of_another_unit_counts_as_much_as_the_others():
    r = _drawn(16, 2) * [1000.0, 1.0]
    q = np.round(r / 8) * 8  # One scale for both: the second becomes zero.
    found = _compare(r, q, _KIND.VALUES)
    assert found.dead_channels == (1,)
    assert found.agreement == pytest.approx(0, abs=0.1)
    assert found.sqnr_mean_db < 1
    assert found.sqnr_db > 40


def test_channels_that_no_grid_could_show_are_not_called_dead():
    # Of 1000 classes, most are never seen.
    scores = np.zeros((16, 1000))
    scores[np.arange(16), np.arange(16)] = 8.0
    r = _softmax(scores + 0.5 * _drawn(16, 1000))
    assert _compare(r, _rounded(r), _KIND.PROBABILITIES).dead_channels == ()
    tags = _sigmoid(-8 + 0.3 * _drawn(16, 20))
    tags[:, 0] = _sigmoid(_drawn(16, seed=2))
    assert _compare(tags, _rounded(tags), _KIND.SIGMOIDS).dead_channels == ()


def test_logits_of_one_class_are_judged_as_values():
    r = np.add(_drawn(16, 4), [9.0, 0, 0, 0])
    q = r + [0.0, 0, 0, 1] * _drawn(16, 4, seed=1)
    found = _compare(r, q, _KIND.LOGITS)
    assert (found.top1_agreement, found.shown) == (1, 1)
    assert found.agreement < 0.6
    several = _compare(r - [9.0, 0, 0, 0], q - [9.0, 0, 0, 0], _KIND.LOGITS)
    assert several.shown > 1
    assert several.agreement == several.top1_agreement


def test_classes_of_maps_are_compared_position_by_position():
    r = _softmax(_drawn(4, 5, 5, 3))
    q = r.copy()
    q[0, 0, 0] = np.roll(r[0, 0, 0], 1)
    found = _compare(r, q, _KIND.PROBABILITIES)
    assert found.top1_agreement == found.agreement == 0.99


def test_values_that_are_shares_of_one_are_probabilities():
    r, _ = _OUTPUTS["softmax"]
    assert _compare(r, r, _KIND.VALUES).kind == "probabilities"
    assert _compare(2 * r, 2 * r, _KIND.VALUES).kind == "values"


def test_whole_numbers_are_equal_or_not():
    r, q = np.array([3, 5, 5, 999]), np.array([3, 5, 5, 0])
    found = _compare(r, q, _KIND.WHOLE)
    assert found.top1_agreement == found.agreement == 0.75
    assert found.commonest == 0.5


def test_a_single_sample_has_no_spread_and_is_judged_around_zero():
    r = np.array([[3.0, 4.0]])
    found = _compare(r, np.array([[3.0, 3.5]]), _KIND.VALUES)
    assert found.sqnr_mean_db == pytest.approx(20)
    assert found.agreement == pytest.approx(0.99)
    assert (found.still, found.constant) == (False, False)
    for kind in (_KIND.LOGITS, _KIND.PROBABILITIES, _KIND.SIGMOIDS):
        found = _compare(r, r - 0.1, kind)
        assert found.sqnr_mean_db == found.sqnr_db > 30
        assert found.agreement == 1


def test_an_output_without_inputs_is_judged_around_zero():
    r = np.repeat(_drawn(1, 4, 2), 3, axis=0)
    found = _compare(r, r + 0.01, _KIND.CONSTANT)
    assert found.agreement > 0.99
    assert found.sqnr_mean_db == found.sqnr_db


def test_equal_outputs_are_perfect():
    for r, kind in _OUTPUTS.values():
        found = _compare(r, r, kind)
        assert (found.agreement, found.sqnr_mean_db) == (1, math.inf)


def test_rows_that_are_no_samples_are_told_apart():
    # Two samples of three rows each.
    r = np.tile(_drawn(3, 2), (2, 1))
    found = _compare(r, r, _KIND.VALUES, samples=2)
    assert (found.samples, found.still) == (2, True)
    assert not _compare(r, r, _KIND.VALUES).still
