"""Range estimators against float64 NumPy on all values at once."""

from __future__ import annotations

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies
from hypothesis.extra import numpy as arrays

from dsg_tf.core import errors
from dsg_tf.quant import qtypes, range_estimators, uniform

_METHODS = ("ema", "minmax", "mse", "percentile")
_VALUES = arrays.arrays(
    np.float32,
    strategies.tuples(strategies.integers(1, 6), strategies.integers(1, 9)),
    elements=strategies.floats(
        -(2.0**20), 2.0**20, width=32, allow_subnormal=False
    ),
)


def _observed(observer, batches):
    for batch in batches:
        observer.update(batch)
    return observer


def _relu_like(seed=0, shape=(40, 500)):
    return np.maximum(np.random.default_rng(seed).normal(0.2, 1, shape), 0)


@hypothesis.given(_VALUES)
def test_minmax_is_the_extremes_of_all(values):
    found = _observed(
        range_estimators.create("minmax", "t"), values[:, None]
    ).range()
    assert found.min == min(values.min(), 0)
    assert found.max == max(values.max(), 0)


def test_ema_is_the_mean_of_each_samples_extremes():
    values = np.random.default_rng(0).normal(0, 1, (7, 3, 5))
    found = _observed(
        range_estimators.create("ema", "t"), [values[:2], values[2:]]
    ).range()
    # Seven sums in another order: a few units in the last place.
    assert found.min == pytest.approx(values.min((1, 2)).mean(), rel=1e-14)
    assert found.max == pytest.approx(values.max((1, 2)).mean(), rel=1e-14)


@hypothesis.given(_VALUES, strategies.randoms(use_true_random=False))
def test_a_histogram_does_not_depend_on_order_or_batching(values, random):
    whole = _observed(range_estimators.Percentile("t"), [values])
    rows = list(values[:, None])
    random.shuffle(rows)
    parts = _observed(range_estimators.Percentile("t"), rows)
    assert whole._zeros == parts._zeros
    if whole._exponent is None:
        assert parts._exponent is None
        return
    assert whole._exponent == parts._exponent
    np.testing.assert_array_equal(whole._edges(), parts._edges())
    np.testing.assert_array_equal(whole._counts, parts._counts)


@hypothesis.given(_VALUES)
def test_a_histogram_counts_every_value_in_its_bin(values):
    observer = _observed(range_estimators.Percentile("t"), values[:, None])
    kept = values[values != 0].astype(np.float64)
    assert observer._zeros == values.size - kept.size
    if not kept.size:
        return
    edges = observer._edges()
    assert observer._counts.size <= range_estimators.NUM_BINS
    expected, _ = np.histogram(kept, edges)
    # numpy.histogram closes the last bin; ours are all half-open, and the
    # greatest value never lies on the last edge.
    assert kept.max() < edges[-1]
    np.testing.assert_array_equal(observer._counts, expected)


@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.9])
@pytest.mark.parametrize("seed", [0, 1])
def test_percentile_is_the_quantile_to_one_bin(percentile, seed):
    values = np.random.default_rng(seed).standard_t(3, (50, 400))
    observer = _observed(
        range_estimators.create("percentile", "t", percentile=percentile),
        np.split(values, 10),
    )
    found = observer.range()
    width = 2.0**observer._exponent
    q = percentile / 100
    # "inverted_cdf" takes a value of the data, as counting does.
    low, high = np.quantile(values, [1 - q, q], method="inverted_cdf")
    assert low - width <= found.min <= low
    assert high <= found.max <= high + width


def test_percentile_100_is_minmax():
    values = np.random.default_rng(3).normal(0, 1, (20, 100))
    found = _observed(
        range_estimators.create("percentile", "t", percentile=100.0), [values]
    ).range()
    assert (found.min, found.max) == (values.min(), values.max())


def test_percentile_counts_zeros():
    # 98 % zeros: 1.5 values of a thousand lie outside, so one is cut off.
    # Among the twenty others it would be none.
    values = np.zeros((1, 1000))
    values[0, :20] = np.arange(1, 21)
    found = _observed(
        range_estimators.create("percentile", "t", percentile=99.85), [values]
    ).range()
    assert found.min == 0
    assert 19 <= found.max < 20


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_mse_is_near_the_best_clip_of_a_fine_search(bits):
    values = _relu_like()
    observer = range_estimators.create(
        "mse", "t", spec=qtypes.QuantSpec(bits, symmetric=False)
    )
    found = _observed(observer, np.split(values, 8)).range()

    def cost(high):
        params = uniform.affine_params(
            qtypes.TensorRange(0, high), bits, symmetric=False
        )
        return np.mean((uniform.fake_quantize(values, params) - values) ** 2)

    best = min(cost(clip) for clip in values.max() * np.linspace(0.2, 1, 400))
    # The histogram's bins are 1/16 to 1/8 of an 8-bit step wide: centres
    # misjudge costs by (1/8)^2 of the step's own error at the most.
    assert found.min == 0
    assert cost(found.max) <= best * 1.02
    if bits < 8:
        assert found.max < 0.95 * values.max()


def test_mse_clips_either_side_on_its_own():
    rng = np.random.default_rng(1)
    values = rng.normal(0, 1, (4, 5000))
    values[0, 0] = -40.0
    observer = range_estimators.create(
        "mse", "t", spec=qtypes.QuantSpec(4, symmetric=False)
    )
    found = _observed(observer, [values]).range()
    assert found.min > -5
    assert 1 < found.max <= values.max()


@pytest.mark.parametrize("method", _METHODS)
def test_zero_is_always_inside(method):
    for values in (np.full((2, 3), 5.0), np.full((2, 3), -5.0)):
        found = _observed(
            range_estimators.create(method, "t"), [values]
        ).range()
        assert found.min <= 0 <= found.max


@pytest.mark.parametrize("method", _METHODS)
def test_a_tensor_of_zeros_has_an_empty_range(method):
    found = _observed(
        range_estimators.create(method, "t"), [np.zeros((3, 4))]
    ).range()
    assert (found.min, found.max) == (0, 0)


@pytest.mark.parametrize("method", _METHODS)
def test_scaling_by_a_power_of_two_scales_the_range(method):
    values = np.random.default_rng(2).normal(0, 1, (5, 200))
    ranges = [
        _observed(range_estimators.create(method, "t"), [values * s]).range()
        for s in (1, 2.0**-60, 2.0**60)
    ]
    for found, scale in zip(ranges[1:], (2.0**-60, 2.0**60), strict=True):
        if method == "mse" and scale < 1:
            continue  # uniform.MIN_SCALE is no power of the data's.
        assert found.min == ranges[0].min * scale
        assert found.max == ranges[0].max * scale


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("method", _METHODS)
def test_values_that_are_not_finite_are_an_error_with_the_name(method, bad):
    observer = range_estimators.create(method, "block1/relu")
    observer.update(np.ones((2, 3)))
    values = np.ones((2, 3))
    values[1, 2] = bad
    with pytest.raises(errors.UserError, match="block1/relu"):
        observer.update(values)


@pytest.mark.parametrize("method", ["mse", "percentile"])
def test_memory_does_not_grow_with_the_samples(method):
    observer = range_estimators.create(method, "t")
    rng = np.random.default_rng(0)
    for step in range(20):
        observer.update(rng.normal(0, 4.0**step, (2, 50)))
        assert observer._counts.size <= range_estimators.NUM_BINS
    assert observer._counts.sum() == 20 * 2 * 50


def test_an_unknown_method_lists_the_known_ones():
    with pytest.raises(errors.UserError, match="ema, minmax, mse, percentile"):
        range_estimators.create("max", "t")


@pytest.mark.parametrize("percentile", [50.0, 100.1, -1.0, np.nan])
def test_an_impossible_percentile_is_refused(percentile):
    with pytest.raises(errors.UserError, match="percentile"):
        range_estimators.create("percentile", "t", percentile=percentile)


@pytest.mark.parametrize("method", _METHODS)
def test_no_samples_are_an_error(method):
    with pytest.raises(ValueError, match="no samples"):
        range_estimators.create(method, "t").range()
    with pytest.raises(ValueError, match="no values"):
        range_estimators.create(method, "t").update(np.zeros((0, 3)))
