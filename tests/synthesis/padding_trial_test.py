"""Which edges training's images had can be told from BN's moments."""

from __future__ import annotations

import dataclasses
import types

import numpy as np
import pytest
import tensorflow as tf
import tiny_graphs

from dsg_tf import pipeline
from dsg_tf.analysis import bn_statistics, input_domain, source_model
from dsg_tf.config import run_config, synthesis_config
from dsg_tf.core import errors
from dsg_tf.graph import ir
from dsg_tf.synthesis import natural_images, padding_trial, run

_SIDE, _REACH = 16, 2
# Steps enough for a trial, few of which are made behind it.
_CONFIG = synthesis_config.SynthesisConfig(
    batch_size=16,
    steps=2 * padding_trial.STEPS,
    patience=1,
    seed=3,
    slack_probes=32,
    num_samples=16,
)
_KERNELS = [
    np.random.default_rng(5).normal(0, 0.3, shape).astype(np.float32)
    for shape in ((3, 3, 3, 8), (3, 3, 8, 8))
]


def _whole_images(count=256):
    """Natural images in [-1, 1], of mean -0.1 and deviation 0.5."""
    rng = np.random.default_rng(1)
    shape = (count, _SIDE, _SIDE, 3)
    natural = natural_images.NaturalImages.of(
        shape[1:], exponent_deviation=natural_images.EXPONENT_DEVIATION
    )
    noise = natural.coefficients(natural_images.white(rng, shape))
    images = natural(natural.scattered(rng, noise)).numpy()
    return np.clip(images * 0.5 - 0.1, -1, 1).astype(np.float32)


def _shifted(images, fill):
    rng = np.random.default_rng(2)
    seen = []
    for image in images:
        down, right = rng.integers(-_REACH, _REACH, 2, endpoint=True)
        border = [(_REACH, _REACH), (_REACH, _REACH), (0, 0)]
        padded = (
            np.pad(image, border, constant_values=-1)
            if fill == "black"
            else np.pad(image, border, mode="wrap")
        )
        top, left = _REACH - down, _REACH - right
        seen.append(padded[top : top + _SIDE, left : left + _SIDE])
    return np.stack(seen)


def _trained_on(images):
    """A graph whose BN moments are those of these images, and its domain."""
    moments = []

    def network(x):
        for k, kernel in enumerate(_KERNELS):
            x = tf.nn.conv2d(x, kernel, 1, "SAME")
            if len(moments) == k:
                values = x.numpy()
                moments.append((values.mean((0, 1, 2)), values.var((0, 1, 2))))
            x = tf.nn.relu(tiny_graphs.batch_norm(x, *moments[k]))
        return x

    network(tf.constant(images))
    graph = tiny_graphs.freeze(network, (None, _SIDE, _SIDE, 3))
    domain = input_domain.InputDomain(
        minimum=np.float32(-1),
        maximum=np.float32(1),
        mean=images.mean((0, 1, 2)),
        deviation=images.std((0, 1, 2)),
        moments_seen=True,
    )
    return graph, domain


def _synthesize(folder, graph, domain, **changes):
    return run.synthesize(
        graph,
        dataclasses.replace(_CONFIG, **changes),
        layers=bn_statistics.find(graph),
        domains={"x": domain},
        count=16,
        folder=folder,
        key="key",
    )


def test_borders_are_not_seen_where_training_had_none(tmp_path):
    graph, domain = _trained_on(_shifted(_whole_images(), "wrap"))
    store = _synthesize(tmp_path, graph, domain)
    found = store.notes["edges"]
    assert found["fill"] == "wrap"
    assert found["distances"]["wrap"] < found["distances"]["black"]


@pytest.mark.parametrize(
    ("model", "fill"),
    [
        # Random crops of images padded with black.
        ("resnet20_cifar10_saved_model", "black"),
        # Shifts that repeat the edge.
        ("mlperf_tiny_resnet8/pretrainedResnet.h5", "wrap"),
    ],
)
def test_the_edges_of_real_models_are_told(model, fill, shared, tmp_path):
    source = source_model.load(
        str(shared / "models" / model), run_config.PipelineConfig()
    )
    store = run.synthesize(
        source.graph,
        dataclasses.replace(_CONFIG, slack_probes=256),
        layers=source.layers,
        domains=source.domains,
        count=16,
        folder=tmp_path,
        key="key",
    )
    assert store.notes["edges"]["fill"] == fill


def test_samples_are_whole_images_where_borders_are_black(tmp_path):
    images = _whole_images()
    graph, domain = _trained_on(_shifted(images, "black"))
    store = _synthesize(tmp_path, graph, domain, fill="black", patience=0)
    made = store.pack(tmp_path / "samples.npz", {}).arrays["x"]
    # Borders take 0.1 off the mean: that of BN is not the images'.
    assert domain.mean.mean() < images.mean() - 0.07
    assert abs(np.mean(made) - images.mean()) < 0.05


@pytest.mark.parametrize(
    ("wrap", "black", "wanted"),
    [(1.0, 0.5, "black"), (1.0, 0.95, "wrap"), (0.5, 1.0, "wrap")],
)
def test_borders_have_to_be_clearly_closer(wrap, black, wanted):
    distances = {"wrap": wrap, "black": black}

    def optimise(model, callbacks, steps):
        (watch,) = callbacks
        watch.set_model(model)
        watch.on_train_begin()
        for step in range(steps):
            # Far at first; a layer is half of the sum.
            far = 10.0 if step < steps // 2 else distances[model.name] / 2
            model.distances = tf.constant([far, far])
            watch.on_train_batch_end(step)

    fill, model, found = padding_trial.decide(
        ("wrap", "black"),
        build=lambda fill: types.SimpleNamespace(name=fill),
        optimise=optimise,
    )
    assert fill == model.name == wanted
    assert found == pytest.approx(distances)


def test_a_resumed_run_does_not_try_again(tmp_path, monkeypatch):
    graph, domain = _trained_on(_whole_images(32))
    tried = []
    decide = padding_trial.decide

    def counting(fills, **options):
        tried.append(fills)
        return decide(fills, **options)

    monkeypatch.setattr(padding_trial, "decide", counting)

    class Killed(Exception):
        pass

    def kill(*_):
        raise Killed

    with monkeypatch.context() as context:
        context.setattr(run.sample_folder.SampleFolder, "write", kill)
        with pytest.raises(Killed):
            _synthesize(tmp_path, graph, domain)
    assert tried == [("wrap", "black")]
    _synthesize(tmp_path, graph, domain)
    assert len(tried) == 1


def test_where_every_trial_diverges_the_first_stays():
    def diverge(model, callbacks, steps):
        raise FloatingPointError

    fill, model, distances = padding_trial.decide(
        ("wrap", "black"), build=lambda fill: fill, optimise=diverge
    )
    assert fill == model == "wrap"
    assert distances == {"wrap": np.inf, "black": np.inf}


class TestCandidates:
    _DOMAIN = input_domain.natural_range(0, 1, channels=3, source="a flag")

    def _of(self, shape=(None, 16, 16, 3), domain=_DOMAIN, **changes):
        port = ir.Port("x", "x:0", tf.float32, shape)
        config = dataclasses.replace(_CONFIG, **changes)
        return padding_trial.candidates([port], {"x": domain}, config)

    def test_are_both_of_images_that_are_shifted(self):
        assert self._of() == ("wrap", "black")

    @pytest.mark.parametrize(
        "what",
        [
            {"jitter": 0.0},
            # Less than one position.
            {"jitter": 0.05},
            {"shape": (None, 24)},
            {"domain": input_domain.standard_normal(3)},
        ],
        ids=lambda what: next(iter(what)),
    )
    def test_are_one_where_there_is_no_question(self, what):
        assert self._of(**what) == ("wrap",)

    @pytest.mark.parametrize("fill", ["wrap", "black"])
    def test_are_what_the_user_says(self, fill):
        assert self._of(fill=fill) == (fill,)


def _unbounded(x):
    """A layer without BN behind it: nothing tells where the input lives."""
    x = tf.nn.conv2d(tf.tanh(x), _KERNELS[0], 1, "SAME")
    return tiny_graphs.batch_norm(x, np.zeros(8), np.ones(8))


@pytest.mark.parametrize("command", ["quantize_model", "synthesize"])
def test_black_borders_without_bounds_leave_nothing_behind(command, tmp_path):
    module = tf.Module()
    module.function = tf.function(
        _unbounded,
        input_signature=[tf.TensorSpec((None, 16, 16, 3), name="x")],
    )
    config = run_config.PipelineConfig(
        synthesis=dataclasses.replace(_CONFIG, fill="black")
    )
    with pytest.raises(errors.UserError, match=r"--synthesis=fill.*'x'"):
        getattr(pipeline, command)(
            module.function.get_concrete_function(),
            output=tmp_path / "out.npz",
            config=config,
        )
    assert not list(tmp_path.iterdir())


class TestDomainWithoutBorders:
    _SHARE = 0.13

    def _seen(self, black, mean, deviation, **fields):
        p = self._SHARE
        values = (1 - p) * mean + p * black
        second = (1 - p) * (deviation**2 + mean**2) + p * black**2
        return input_domain.InputDomain(
            minimum=np.float32(black),
            maximum=np.float32(black + 5),
            mean=np.float32([values]),
            deviation=np.float32([np.sqrt(second - values**2)]),
            **fields,
        )

    def test_has_the_images_moments_where_black_is_known(self):
        seen = self._seen(-2.0, 0.3, 0.9, moments_seen=True)
        whole = seen.without_borders(self._SHARE)
        np.testing.assert_allclose(whole.mean, 0.3, rtol=1e-5)
        np.testing.assert_allclose(whole.deviation, 0.9, rtol=1e-5)
        assert whole.minimum == seen.minimum
        assert "without black borders" in whole.describe()

    def test_has_the_images_bounds_where_these_follow(self):
        # Of [0, 1] with natural moments.
        seen = self._seen(
            0.0, 0.45, 0.25, moments_seen=True, bounds_follow=True
        )
        whole = seen.without_borders(self._SHARE)
        np.testing.assert_allclose(whole.mean, 0.45, rtol=1e-5)
        np.testing.assert_allclose(whole.deviation, 0.25, rtol=1e-5)
        np.testing.assert_allclose(whole.minimum, 0.0, atol=1e-6)
        np.testing.assert_allclose(whole.maximum, 1.0, rtol=1e-5)

    def test_is_itself_where_its_moments_are_of_whole_images(self):
        domain = input_domain.natural_range(0, 1, channels=3, source="a flag")
        assert domain.without_borders(self._SHARE) is domain

    def test_is_none_where_borders_would_have_all_the_variance(self):
        seen = self._seen(-2.0, 0.3, 0.01, moments_seen=True)
        assert seen.without_borders(self._SHARE) is None
