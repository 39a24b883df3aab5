"""Every number of a diversity is the float64 oracle's, or not there at all."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import tiny_classifier
import tiny_graphs
import tiny_models

from dsg_tf.analysis import bn_statistics
from dsg_tf.core import strict_json
from dsg_tf.diversity import diversity, sample_moments
from dsg_tf.graph.load import loading

# float64 sums of at most a hundred terms.
_RTOL = 1e-12


def _layer(mean, variance, *, name="bn", epsilon=1e-3):
    channels = len(mean)
    return bn_statistics.BatchNorm(
        name=name,
        input="x:0",
        output="y:0",
        channel_axis=3,
        mean=np.asarray(mean, np.float32),
        variance=np.asarray(variance, np.float32),
        epsilon=epsilon,
        gamma=np.ones(channels, np.float32),
        beta=np.zeros(channels, np.float32),
        producer="Conv2D",
    )


def _moments(count, *, seed=0, channels=5, spread=1.0, dead=(), name="bn"):
    """Drawn moments; dead channels hold what would spoil every median."""
    rng = np.random.default_rng(seed)
    drawn = np.random.default_rng(99)
    variance = drawn.uniform(0.5, 2.0, channels)
    mean = drawn.normal(size=channels)
    variance[list(dead)] = 1e-25
    layer = _layer(mean, variance, name=name)
    m = mean + spread * rng.normal(size=(count, channels))
    s = np.abs(1 + 0.3 * spread * rng.normal(size=(count, channels)))
    m[:, list(dead)] = 1e9 * rng.normal(size=(count, len(dead)))
    s[:, list(dead)] = 1e9
    return sample_moments.SampleMoments(layer, m, s)


def _cosine(features):
    pairs = [
        float(a @ b / np.sqrt((a @ a) * (b @ b)))
        for a, b in itertools.combinations(features, 2)
    ]
    return sum(pairs) / len(pairs)


def _scatter(x, scale):
    center = x.sum(0) / len(x)
    return np.sqrt(((x - center) ** 2).sum(0) / (len(x) - 1)) / scale


def _coverage(x, real):
    shares = []
    for own, other in zip(x.T, real.T, strict=True):
        overlap = min(max(own), max(other)) - max(min(own), min(other))
        shares.append(overlap / (max(other) - min(other)) >= 0.99)
    return sum(shares) / len(shares)


@pytest.mark.parametrize("dead", [(), (1, 3)])
def test_every_number_is_the_oracle_s(dead):
    own = _moments(7, dead=dead)
    real = _moments(9, seed=1, spread=0.4, dead=dead)
    (found,) = diversity.measure([own], [real]).layers
    alive = [c for c in range(5) if c not in dead]
    mu = np.float64(own.layer.mean)[alive]
    sigma = np.sqrt(np.float64(own.layer.variance)[alive] + 1e-3)
    m, s = own.mean[:, alive], own.deviation[:, alive]
    rm, rs = real.mean[:, alive], real.deviation[:, alive]
    expected = {
        "mean_dispersion": np.median(_scatter(m, sigma)),
        "deviation_dispersion": np.median(_scatter(s, sigma)),
        "mean_offset": np.median(np.abs(m.mean(0) - mu) / sigma),
        "deviation_offset": np.median(np.abs(s.mean(0) - sigma) / sigma),
        "cosine": _cosine((m - mu) / sigma),
        "mean_dispersion_to_real": np.median(_scatter(m, 1) / _scatter(rm, 1)),
        "deviation_dispersion_to_real": np.median(
            _scatter(s, 1) / _scatter(rs, 1)
        ),
        "mean_coverage": _coverage(m, rm[:7]),
        "deviation_coverage": _coverage(s, rs[:7]),
    }
    assert (found.channels, found.dead_channels) == (5, len(dead))
    assert set(expected) == set(diversity.MEASURES)
    for name, value in expected.items():
        assert np.isfinite(value)
        np.testing.assert_allclose(
            getattr(found, name), value, rtol=_RTOL, err_msg=name
        )


def test_coverage_compares_as_many_samples_of_each():
    """The 8th real sample lies far out; seven of ours cannot be blamed."""
    own = _moments(7)
    mean = np.concatenate([own.mean, own.mean[:1] + 100])
    real = sample_moments.SampleMoments(own.layer, mean, None)
    (found,) = diversity.measure([own], [real]).layers
    assert found.mean_coverage == 1.0
    (found,) = diversity.measure([real], [own]).layers
    assert found.mean_coverage == 1.0


@pytest.mark.parametrize(
    ("ends", "share"),
    [
        ((0, 100), 1.0),
        ((-5, 105), 1.0),
        ((1, 100), 0.99),
        ((1.5, 100), 0.985),
        ((50, 170), 0.5),
        ((101, 200), 0.0),
    ],
)
def test_covered_is_the_overlap_over_the_real_length(ends, share):
    values, real = np.array([ends]).T, np.array([[0, 40, 100]]).T
    np.testing.assert_allclose(diversity.covered(values, real), [share])


@pytest.mark.parametrize(
    ("low", "share"), [(0.0, 1.0), (1.0, 1.0), (1.1, 0.5), (5.0, 0.5)]
)
def test_a_channel_counts_as_covered_from_99_percent_on(low, share):
    layer = _layer([0.0, 0.0], [1.0, 1.0])
    real = np.array([[0.0, 0.0], [100.0, 100.0]])
    own = np.array([[low, 0.0], [100.0, 100.0]])
    (found,) = diversity.measure(
        [sample_moments.SampleMoments(layer, own, None)],
        [sample_moments.SampleMoments(layer, real, None)],
    ).layers
    assert found.mean_coverage == share


def test_a_real_channel_that_is_a_point_does_not_count():
    own, real = _moments(4), _moments(4, seed=1)
    still = real.mean.copy()
    still[:, 0] = 1.0
    with_still = sample_moments.SampleMoments(real.layer, still, real.deviation)
    (found,) = diversity.measure([own], [with_still]).layers
    ratio = _scatter(own.mean, 1)[1:] / _scatter(real.mean, 1)[1:]
    assert found.mean_dispersion_to_real == pytest.approx(np.median(ratio))
    share = _coverage(own.mean[:, 1:], real.mean[:, 1:])
    assert found.mean_coverage == pytest.approx(share)


def test_cosine_tells_alike_from_unlike():
    rng = np.random.default_rng(0)
    unlike = rng.normal(size=(50, 400))
    # 1225 pairs, each of deviation 1 / sqrt(400).
    assert abs(diversity.pairwise_cosine(unlike)) < 5 * 0.05 / 35
    assert diversity.pairwise_cosine(unlike[:1].repeat(9, 0)) == pytest.approx(
        1
    )
    assert diversity.pairwise_cosine(unlike + 100) > 0.99
    assert diversity.pairwise_cosine(
        np.array([[1.0], [-1.0]])
    ) == pytest.approx(-1)


def test_features_that_are_zero_have_no_direction():
    features = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    assert diversity.pairwise_cosine(features) == pytest.approx(0.5**0.5)
    assert diversity.pairwise_cosine(features[:2]) is None


def test_one_sample_has_an_offset_and_no_dispersion():
    (found,) = diversity.measure([_moments(1)], [_moments(6, seed=1)]).layers
    assert found.mean_offset > 0
    assert found.mean_dispersion is None
    assert found.deviation_dispersion is None
    assert found.cosine is None
    assert found.mean_dispersion_to_real is None


def test_dead_channels_alone_leave_nothing():
    found = diversity.measure([_moments(4, dead=range(5))])
    assert found.layers[0].dead_channels == 5
    assert set(found.median.values()) == {None}
    assert diversity.in_words(found.median)


def test_layers_with_one_position_have_no_deviation():
    own = _moments(4)
    flat = sample_moments.SampleMoments(own.layer, own.mean, None)
    found = diversity.measure([flat], [flat])
    (row,) = found.layers
    assert row.deviation_dispersion is None
    assert row.deviation_offset is None
    assert row.deviation_coverage is None
    assert row.mean_dispersion_to_real == pytest.approx(1)
    both = diversity.measure([flat, own])
    assert both.median["deviation_offset"] == (both.layers[1].deviation_offset)


def test_summary_is_the_median_over_layers():
    sides = [_moments(6, seed=k, name=f"bn{k}") for k in range(4)]
    found = diversity.measure(sides)
    for name in ("mean_dispersion", "cosine", "deviation_offset"):
        values = [getattr(row, name) for row in found.layers]
        assert found.median[name] == pytest.approx(np.median(values))
        assert len(set(values)) == 4


def test_other_layers_of_the_real_ones_are_refused():
    with pytest.raises(ValueError, match="layers of real"):
        diversity.measure([_moments(2)], [_moments(2, name="other")])


def test_json_is_strict_and_whole():
    own = _moments(6, dead=(0,))
    found = diversity.measure([own], [_moments(3, seed=1, dead=(0,))])
    read = json.loads(strict_json.dumps(found.to_dict()))
    assert read["samples"] == 6
    assert read["real_samples"] == 3
    assert read["layers"][0]["dead_channels"] == 1
    assert read["median"]["cosine"] == found.layers[0].cosine
    assert set(read["median"]) == set(diversity.MEASURES)


def test_a_graph_s_diversity_is_that_of_its_moments():
    graph, layers, _ = tiny_classifier.parts()
    rng = np.random.default_rng(0)
    images = rng.normal(size=(6, 8, 8, 3)).astype(np.float32)
    found = diversity.of_graph(graph, {"x": images}, real={"x": images[:4]})
    moments = sample_moments.of_graph(graph, {"x": images}, layers=layers)
    features, _ = tiny_classifier.forward(images.astype(np.float64))
    assert [row.layer for row in found.layers] == [x.name for x in layers]
    assert (found.samples, found.real_samples) == (6, 4)
    mu, variance = tiny_classifier.bn_moments()[1]
    m = features[1].mean((1, 2))
    sigma = np.sqrt(variance.astype(np.float64) + tiny_classifier.EPSILON)
    # float32 features, relative to their scatter.
    np.testing.assert_allclose(
        [found.layers[1].mean_dispersion, found.layers[1].cosine],
        [np.median(_scatter(m, sigma)), _cosine((m - mu) / sigma)],
        rtol=1e-4,
    )
    assert diversity.measure(moments).layers[1].cosine == pytest.approx(
        found.layers[1].cosine
    )


def test_a_decomposed_layer_whose_epsilon_is_known_has_its_dead_channels():
    def function(x):
        return tiny_graphs.batch_norm(x, [0.0, 0.0], [1.0, 1e-20])

    graph = tiny_graphs.freeze(function, (None, 4, 4, 2))
    x = np.random.default_rng(0).normal(size=(5, 4, 4, 2)).astype(np.float32)
    (row,) = diversity.of_graph(graph, {"x": x}).layers
    assert row.dead_channels == 1
    sigma = np.sqrt(1 + 1e-3)
    expected = _scatter(x[..., 0].astype(np.float64).mean((1, 2)), sigma)
    assert row.mean_dispersion == pytest.approx(expected, rel=1e-5)


def test_without_batch_norm_nothing_is_measured():
    graph = loading.load(tiny_models.classifier(batch_norm=False))
    images = {"image": np.zeros((2, 8, 8, 3), np.float32)}
    found = diversity.of_graph(graph, images, real=images)
    assert found.layers == ()
    assert set(found.median.values()) == {None}
