"""The loss of the Synthesizer is its formula; steps do what they promise."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_classifier
import tiny_graphs

from dsg_tf.analysis import bn_statistics, input_domain
from dsg_tf.config import synthesis_config
from dsg_tf.graph import ir
from dsg_tf.synthesis import callbacks, sample_space, synthesizer

# Every ingredient, with numbers that no two of are alike; nothing here
# depends on the defaults.
_ALL = synthesis_config.SynthesisConfig(
    method="dsg",
    num_samples=4,
    batch_size=4,
    steps=20,
    patience=0,
    learning_rate=0.1,
    schedule="constant",
    seed=5,
    initializer="natural",
    basis="pixels",
    scatter=False,
    use_domain=True,
    keep_domain=True,
    jitter=0.25,
    fill="wrap",
    mirror=True,
    normalize_loss=True,
    sample_weight=0.7,
    batch_weight=0.9,
    slack_percentile=0.4,
    slack_probes=6,
    slack_source="gaussian",
    layerwise_enhancement=True,
    input_weight=0.3,
    label_weight=0.6,
    label_temperature=1.5,
    spread_weight=0.2,
    prior_weight=0.1,
)
# Float32 forward passes of some hundred terms, squared distances of which are
# differences of like numbers.
_RTOL = 2e-3


_make = tiny_classifier.synthesizer_of


class _Record(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.logs, self.rates = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.logs.append({k: float(v) for k, v in logs.items()})
        self.rates.append(float(self.model.optimizer.learning_rate.value))


def _fit(model, steps, *extra):
    record = _Record()
    model.fit(
        tf.data.Dataset.from_tensors(0).repeat(),
        steps_per_epoch=steps,
        verbose=0,
        shuffle=False,
        callbacks=[callbacks.BatchNormTargets(), *extra, record],
    )
    return record


def _step(model):
    """The terms of one step, run without a trace."""
    targets = callbacks.BatchNormTargets()
    targets.set_model(model)
    targets.on_train_begin()
    return {k: float(v) for k, v in model.train_step(None).items()}


# --- The oracle: NumPy, float64, from the papers' formulas.


def _moments(h, epsilon):
    over = tuple(range(1, h.ndim - 1))
    if not over:
        return h, None
    return h.mean(over), np.sqrt(h.var(over) + epsilon)


def _units(config):
    domain = tiny_classifier.domain()
    if config.use_domain:
        return domain.mean.astype(float), domain.deviation.astype(float)
    return np.zeros(3), np.ones(3)


def _to_model(config, x):
    mean, deviation = _units(config)
    return x * deviation + mean


def _shown(config, x, views):
    """Samples in deviations, each shifted and mirrored as its view says."""
    mean, deviation = _units(config)
    black = (-1 - mean) / deviation
    seen = []
    for image, (down, right, mirrored) in zip(x, views, strict=True):
        if config.fill == "black":
            shifted = np.empty_like(image)
            for row, column in np.ndindex(8, 8):
                at = row - down, column - right
                inside = min(at) >= 0 and max(at) < 8
                shifted[row, column] = image[at] if inside else black
        else:
            shifted = np.roll(image, (down, right), (0, 1))
        seen.append(shifted[:, ::-1] if mirrored else shifted)
    return np.stack(seen)


def _draw_views(config, rng):
    """How 8 x 8 images are seen, in the order in which it is drawn."""
    most, batch = int(config.jitter * 8), config.batch_size
    down = rng.integers(-most, most, batch, endpoint=True)
    right = rng.integers(-most, most, batch, endpoint=True)
    mirrored = rng.integers(2, size=batch) * config.mirror
    return np.stack([down, right, mirrored], axis=1)


def _oracle_margins(config, targets, scales):
    """DSG 3.2: percentiles over samples and channels of noise probes."""
    rng = np.random.default_rng([config.seed, 2**31])
    distances = [([], []) for _ in targets]
    for _ in range(-(-config.slack_probes // config.batch_size)):
        noise = rng.standard_normal((config.batch_size, 8, 8, 3), np.float32)
        noise = _shown(config, noise.astype(float), _draw_views(config, rng))
        inputs = _to_model(config, noise)
        if config.keep_domain:
            inputs = np.clip(inputs, -1, 1)
        features, _ = tiny_classifier.forward(inputs)
        for k, h in enumerate(features[: len(targets)]):
            if h.ndim == 2:
                continue
            m, s = _moments(h, tiny_classifier.EPSILON)
            mu, sigma = targets[k]
            distances[k][0].append(np.abs(m - mu) / scales[k])
            distances[k][1].append(np.abs(s - sigma) / scales[k])
    percent = 100 * config.slack_percentile
    return [
        tuple(np.percentile(d, percent) if d else 0.0 for d in pair)
        for pair in distances
    ]


def _oracle(config, x, labels, *, index=0, head=True):
    """Every term of the loss for samples x in deviations."""
    x = x.astype(np.float64)
    eps = tiny_classifier.EPSILON
    features, logits = tiny_classifier.forward(_to_model(config, x))
    targets = [
        (mean.astype(float), np.sqrt(variance.astype(float) + eps))
        for mean, variance in tiny_classifier.bn_moments()
    ]
    if not head:
        targets = targets[:2]
    scales = [s if config.normalize_loss else 1.0 for _, s in targets]
    margins = [(0.0, 0.0)] * len(targets)
    if config.slack_percentile:
        margins = _oracle_margins(config, targets, scales)
    number = len(targets)
    bns = 0.0
    for k, (mu, sigma) in enumerate(targets):
        h, c = features[k], len(mu) if config.normalize_loss else 1
        over = tuple(range(h.ndim - 1))
        off_mean = (h.mean(over) - mu) / scales[k]
        off_sigma = (np.sqrt(h.var(over) + eps) - sigma) / scales[k]
        batch = ((off_mean**2).sum() + (off_sigma**2).sum()) / c
        if h.ndim == 2:
            bns += (config.batch_weight or config.sample_weight) * batch
            continue
        m, s = _moments(h, eps)
        excess = [
            np.maximum(np.abs(a - b) / scales[k] - margin, 0) ** 2
            for a, b, margin in zip(
                (m, s), (mu, sigma), margins[k], strict=True
            )
        ]
        per_sample = (excess[0] + excess[1]).sum(-1) / c
        weights = np.ones(len(x))
        if config.layerwise_enhancement:
            own = (index * config.batch_size + np.arange(len(x))) % number
            weights = weights + (own == k)
        bns += config.sample_weight * (weights * per_sample).mean()
        bns += config.batch_weight * batch
    terms = {"bns": bns}
    if config.input_weight:
        m, s = _moments(x, 0.0)
        own = (m**2).sum(-1) + ((s - 1) ** 2).sum(-1)
        terms["input"] = config.input_weight * own.mean()
    if head and config.label_weight:
        scaled = logits / config.label_temperature
        scaled -= scaled.max(-1, keepdims=True)
        log_p = scaled - np.log(np.exp(scaled).sum(-1, keepdims=True))
        chosen = log_p[np.arange(len(x)), labels]
        terms["label"] = -config.label_weight * chosen.mean()
    if not head and config.spread_weight:
        w = tiny_classifier.WEIGHTS["k3"].astype(float)
        mean, variance = tiny_classifier.bn_moments()[1]
        z = np.maximum((features[1] - mean) / np.sqrt(variance + eps), 0)
        z = z.mean((1, 2)) @ w
        z /= np.linalg.norm(z, axis=-1, keepdims=True)
        terms["spread"] = -config.spread_weight * np.mean(
            0.5 * np.log(z.var(0) + 1e-8)
        )
    if config.prior_weight:
        steps = (np.diff(x, axis=a) ** 2 for a in (1, 2))
        terms["prior"] = config.prior_weight * sum(d.mean() for d in steps)
    return terms


_CHANGES = [
    {},
    {"sample_weight": 0.0},
    {"batch_weight": 0.0},
    {"normalize_loss": False},
    {"slack_percentile": 0.0},
    {"slack_percentile": 0.9, "slack_probes": 9},
    {"fill": "black"},
    {"jitter": 0.0, "mirror": False},
    {"layerwise_enhancement": False},
    {"input_weight": 0.0},
    {"label_weight": 0.0},
    {"label_temperature": 4.0},
    {"spread_weight": 0.0},
    {"prior_weight": 0.0},
    {"use_domain": False},
    {"keep_domain": False},
    {"initializer": "gaussian"},
    {"seed": 6},
]


class TestLoss:
    @pytest.mark.parametrize(
        "changes", _CHANGES, ids=lambda c: ",".join(c) or "all"
    )
    def test_is_the_oracles_in_every_term(self, changes):
        config = dataclasses.replace(_ALL, **changes)
        model = _make(config, index=1)
        before, labels = model.samples["x"].numpy(), model.labels.numpy()
        logs = _step(model)
        wanted = _oracle(config, before, labels, index=1)
        assert set(logs) == {"loss", *wanted}
        for name, value in wanted.items():
            assert logs[name] == pytest.approx(value, rel=_RTOL), name
        assert logs["loss"] == pytest.approx(sum(wanted.values()), rel=_RTOL)

    @pytest.mark.parametrize("fill", ["wrap", "black"])
    def test_is_of_the_samples_as_their_views_show_them(self, fill):
        config = dataclasses.replace(
            _ALL, input_weight=0.0, prior_weight=0.0, fill=fill
        )
        model = _make(config)
        views = np.array(
            [(2, 0, 0), (0, -1, 0), (1, -2, 1), (0, 0, 1)], np.int64
        )
        model.views["x"].assign(views)
        x, labels = model.samples["x"].numpy(), model.labels.numpy()
        logs = _step(model)
        wanted = _oracle(config, _shown(config, x, views), labels)
        assert wanted["bns"] != pytest.approx(
            _oracle(config, x, labels)["bns"], rel=5 * _RTOL
        )
        for name, value in wanted.items():
            assert logs[name] == pytest.approx(value, rel=_RTOL), name

    def test_of_every_kind_falls_in_twenty_steps(self):
        config = dataclasses.replace(_ALL, initializer="gaussian")
        logs = _fit(_make(config), 20).logs
        for name, share in {"bns": 0.5, "label": 0.9, "prior": 0.9}.items():
            values = [row[name] for row in logs]
            assert np.isfinite(values).all()
            assert values[-1] < share * values[0], name


class TestViews:
    def _seen(self, **changes):
        model = _make(dataclasses.replace(_ALL, **changes))
        rng = np.random.default_rng(0)
        views = []
        for _ in range(200):
            model.change_views(rng)
            views.append(model.views["x"].numpy())
        return np.array(views)

    def test_reach_as_far_as_the_jitter_and_no_farther(self):
        views = self._seen()
        for axis in (0, 1):
            # A quarter of 8 positions.
            assert set(views[..., axis].flat) == {-2, -1, 0, 1, 2}
        assert 0.3 < views[..., 2].mean() < 0.7

    def test_are_each_samples_own(self):
        views = self._seen()
        assert len({tuple(view) for view in views[0]}) > 1

    @pytest.mark.parametrize(
        ("changes", "columns"),
        [({"jitter": 0.0}, (0, 1)), ({"mirror": False}, (2,))],
        ids=["jitter", "mirror"],
    )
    def test_are_off_where_the_config_says_so(self, changes, columns):
        views = self._seen(**changes)
        still = [k for k in range(3) if not views[..., k].any()]
        assert tuple(still) == columns

    def test_do_not_change_what_the_samples_are(self):
        model = _make(_ALL)
        before = model.values()["x"]
        model.change_views(np.random.default_rng(3))
        np.testing.assert_array_equal(model.values()["x"], before)

    @pytest.mark.parametrize(
        ("shape", "moves", "turns"),
        [
            ((4, 8, 8, 3), True, True),
            ((4, 8, 8, 1), True, False),
            ((4, 49, 10, 1), False, False),
            ((4, 24), False, False),
        ],
        ids=str,
    )
    def test_are_of_images_and_mirrored_ones_of_colour(
        self, shape, moves, turns
    ):
        port = ir.Port("x", "x:0", tf.float32, shape)
        one = np.ones(1, np.float32)
        domain = input_domain.InputDomain(-one, one, 0 * one, one)
        space = sample_space.InputSpace.of(port, domain, _ALL)
        rng = np.random.default_rng(1)
        views = np.array([space.views(rng) for _ in range(50)])
        assert views[..., :2].any() == moves
        assert views[..., 2].any() == turns
        assert views.dtype == np.int64
        values = rng.normal(size=shape).astype(np.float32)
        moved = np.roll(values, (1, -2), (1, 2)) if moves else values
        for mirrored in (0, 1):
            views = tf.constant([[1, -2, mirrored]] * 4)
            seen = space.seen(tf.constant(values), views)
            wanted = moved[:, :, ::-1] if turns and mirrored else moved
            np.testing.assert_array_equal(seen, wanted)


def _live_ops(function):
    """Operations that the results of a function depend on, calls included."""
    graph_def = function.graph.as_graph_def()
    library = {f.signature.name: f for f in graph_def.library.function}
    pending = [(graph_def.node, [t.op.name for t in function.outputs])]
    seen, ops = set(), []
    while pending:
        nodes, stack = pending.pop()
        by_name = {n.name: n for n in nodes}
        done = set()
        while stack:
            name = stack.pop().lstrip("^").split(":")[0]
            if name in done or name not in by_name:
                continue
            done.add(name)
            node = by_name[name]
            ops.append(node.op)
            stack += list(node.input)
            for attribute in node.attr.values():
                called = attribute.func.name
                if called in library and called not in seen:
                    seen.add(called)
                    body = library[called]
                    roots = [*body.ret.values(), *body.control_ret.values()]
                    pending.append((body.node_def, roots))
    return ops


class TestStep:
    def test_computes_no_gradient_of_any_weight(self):
        model = _make(_ALL)
        model.optimizer.build(model.trainable_variables)

        @tf.function
        def step():
            logs = model.train_step(None)
            return [logs["loss"], *(v.value + 0 for v in model.variables)]

        ops = _live_ops(step.get_concrete_function())
        assert "Conv2DBackpropInput" in ops
        assert not [o for o in ops if "BackpropFilter" in o]

    def test_check_of_weight_gradients_can_fail(self):
        kernel = tf.Variable(tiny_classifier.WEIGHTS["k1"])

        @tf.function
        def step(x):
            with tf.GradientTape() as tape:
                y = tf.reduce_sum(tf.nn.conv2d(x, kernel, 1, "SAME"))
            return tape.gradient(y, kernel)

        concrete = step.get_concrete_function(tf.TensorSpec((1, 8, 8, 3)))
        assert "Conv2DBackpropFilter" in _live_ops(concrete)

    def test_moves_the_samples_and_nothing_else(self):
        model = _make(_ALL)
        assert [v.path for v in model.trainable_variables] == [
            model.samples["x"].path
        ]
        before = model.samples["x"].numpy()
        kept = (model.labels.numpy(), model.enhancement.numpy())
        _fit(model, 1)
        assert np.abs(model.samples["x"].numpy() - before).max() > 0.01
        np.testing.assert_array_equal(model.labels.numpy(), kept[0])
        np.testing.assert_array_equal(model.enhancement.numpy(), kept[1])

    def test_is_traced_once_for_all_batches(self, monkeypatch):
        traces = []
        terms = synthesizer.Synthesizer._terms

        def counted(self):
            traces.append(tf.executing_eagerly())
            return terms(self)

        monkeypatch.setattr(synthesizer.Synthesizer, "_terms", counted)
        model = _make(_ALL)
        for index in range(3):
            model.reset(index)
            _fit(model, 2)
        assert traces == [False]

    @pytest.mark.parametrize(
        "function",
        [tiny_classifier.classifier, tiny_classifier.classifier_and_features],
    )
    def test_adds_up_in_pairs(self, function):
        """Of more addends TensorFlow would choose the order by chance."""
        model = _make(_ALL, function)
        graph = model._descent.get_concrete_function().graph
        sums = [o for o in graph.get_operations() if o.type == "AddN"]
        assert sums
        assert {len(o.inputs) for o in sums} == {2}

    def test_has_the_batch_size_baked_in(self):
        model = _make(_ALL)
        assert model.samples["x"].shape == (4, 8, 8, 3)
        graph = model._measured.graph
        assert [port.shape[0] for port in graph.inputs] == [4]


class TestDomain:
    def test_is_kept_after_each_step(self):
        seen = []
        peek = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: seen.append(
                tiny_classifier.domain().mean
                + tiny_classifier.domain().deviation
                * model.samples["x"].numpy()
            )
        )
        config = dataclasses.replace(_ALL, learning_rate=2.0)
        model = _make(config)
        _fit(model, 3, peek)
        # Float32 rounding of (bound - mean) / deviation and back.
        assert np.abs(seen).max() <= 1 + 1e-6
        assert np.abs(seen).max() == pytest.approx(1, abs=1e-6)
        assert np.abs(model.values()["x"]).max() <= 1

    def test_may_be_left_where_it_is_not_kept(self):
        config = dataclasses.replace(_ALL, learning_rate=2.0, keep_domain=False)
        model = _make(config)
        _fit(model, 3)
        assert np.abs(model.values()["x"]).max() > 1

    def test_samples_start_inside(self):
        domain = tiny_classifier.domain()
        x = _make(_ALL).samples["x"].numpy() * domain.deviation + domain.mean
        # Float32 rounding of (bound - mean) / deviation and back.
        assert np.abs(x).max() == pytest.approx(1, abs=1e-6)

    def test_not_used_means_units_of_the_model(self):
        model = _make(dataclasses.replace(_ALL, use_domain=False))
        np.testing.assert_array_equal(
            model.values()["x"], model.samples["x"].numpy()
        )


class TestReset:
    def test_is_a_function_of_seed_and_index(self):
        def start(seed, index):
            model = _make(dataclasses.replace(_ALL, seed=seed), index=index)
            return model.samples["x"].numpy().tobytes()

        assert start(0, 1) == start(0, 1)
        assert len({start(0, 0), start(0, 1), start(1, 0)}) == 3

    def test_forgets_the_batches_before(self):
        config = dataclasses.replace(_ALL, learning_rate=0.05)
        used, fresh = (
            _make(config),
            _make(config, index=1),
        )
        _fit(used, 2, callbacks.PlateauAnneal(0.05, 1))
        used.optimizer.learning_rate.assign(1e-9)
        used.reset(1)
        rates = [float(m.optimizer.learning_rate.value) for m in (used, fresh)]
        assert rates == pytest.approx([0.05, 0.05])
        logs = [_fit(m, 3).logs for m in (used, fresh)]
        assert logs[0] == logs[1]
        assert used.values()["x"].tobytes() == fresh.values()["x"].tobytes()

    def test_labels_cover_as_many_classes_as_they_can(self):
        config = dataclasses.replace(_ALL, batch_size=7)
        labels = _make(config).labels.numpy()
        counts = np.bincount(labels, minlength=tiny_classifier.CLASSES)
        assert counts.sum() == 7
        assert set(counts) == {1, 2}


class TestShapes:
    """Inputs and layers of any rank."""

    def _run(self, function, *shapes, batch=4, domains=None):
        graph = tiny_graphs.freeze(function, *shapes)
        layers = bn_statistics.find(graph)
        assert layers
        model = synthesizer.Synthesizer(
            graph,
            layers,
            domains=domains
            or {
                p.name: input_domain.standard_normal(p.shape[-1])
                for p in graph.inputs
            },
            head=None,
            config=dataclasses.replace(_ALL, batch_size=batch),
        )
        model.compile(optimizer=keras.optimizers.Adam(0.1))
        model.reset(0)
        logs = _fit(model, 8).logs
        assert np.isfinite([row["loss"] for row in logs]).all()
        assert logs[-1]["loss"] < logs[0]["loss"]
        return model, logs

    def _bn(self, x):
        channels = x.shape[-1]
        return tiny_graphs.batch_norm(
            x, np.full(channels, 0.3), np.full(channels, 2.0)
        )

    def test_dense_layers_are_matched_over_the_batch(self):
        model, logs = self._run(
            lambda x: self._bn(x @ np.eye(6, dtype="f")), (None, 6)
        )
        assert "prior" not in logs[0]
        x = model.samples["x"].numpy()
        assert model.features({"x": x})[0][0].shape == (4, 6)

    def test_flat_inputs_have_moments_over_the_batch_alone(self):
        model, _ = self._run(
            lambda x: self._bn(x @ np.eye(6, dtype="f")), (None, 6)
        )
        x = model.samples["x"].numpy().astype(np.float64)
        own = (x.mean(0) ** 2).sum() + ((x.std(0) - 1) ** 2).sum()
        term = tf.function(model._terms)()["input"].numpy()
        assert term == pytest.approx(0.3 * own, rel=_RTOL)

    def test_pooled_features_have_no_positions(self):
        def pooled(x):
            return self._bn(tf.reduce_mean(x, [1, 2], keepdims=True))

        model, _ = self._run(pooled, (None, 8, 8, 3))
        assert model._measured.has_positions == (False,)
        mean, deviation = model.features({"x": model.samples["x"].numpy()})[0]
        assert mean.shape == deviation.shape == (4, 3)
        # Without positions nothing but epsilon.
        epsilon = model.batch_norms[0].epsilon
        np.testing.assert_allclose(deviation, np.sqrt(epsilon), rtol=1e-6)

    def test_conv1d(self):
        kernel = np.random.default_rng(0).normal(0, 1, (3, 2, 4)).astype("f")
        self._run(
            lambda x: self._bn(tf.nn.conv1d(x, kernel, 1, "SAME")),
            (None, 16, 2),
        )

    def test_two_inputs_go_where_they_belong(self):
        kernel = np.random.default_rng(0).normal(0, 1, (6, 3)).astype("f")
        model, _ = self._run(
            lambda x, y: self._bn(x + (y @ kernel)[:, None, None]),
            (None, 8, 8, 3),
            (None, 6),
        )
        assert {n: v.shape for n, v in model.values().items()} == {
            "x": (4, 8, 8, 3),
            "y": (4, 6),
        }

    def test_batch_of_one(self):
        self._run(
            lambda x: self._bn(
                tf.nn.conv2d(x, tiny_classifier.WEIGHTS["k1"], 1, "SAME")
            ),
            (None, 8, 8, 3),
            batch=1,
        )

    def test_dead_channels_leave_the_gradient_finite(self):
        """A ReLU before BN that a whole image does not pass; epsilon 0."""

        def dead(x):
            y = tf.nn.relu(x - np.float32([100.0, 0.0, 0.0]))
            return tiny_graphs.batch_norm(y, [0, 1, 1], [1, 1, 1], epsilon=0.0)

        self._run(dead, (None, 8, 8, 3))


class TestSpectrum:
    """Images that are optimised as coefficients of white noise."""

    _CONFIG = dataclasses.replace(_ALL, basis="spectrum", scatter=True)

    def _images(self, model):
        space = model._spaces["x"]
        return space.deviations(model.samples["x"].value).numpy()

    def test_loss_is_that_of_the_images(self):
        model = _make(self._CONFIG)
        x, labels = self._images(model), model.labels.numpy()
        logs = _step(model)
        for name, value in _oracle(self._CONFIG, x, labels).items():
            assert logs[name] == pytest.approx(value, rel=_RTOL), name

    def test_a_step_moves_the_coefficients(self):
        model = _make(self._CONFIG)
        before = model.samples["x"].numpy()
        assert before.shape == (4, 3, 8, 5, 2)
        _fit(model, 1)
        moved = np.abs(model.samples["x"].numpy() - before)
        # Adam's first step is the rate; imaginary parts of frequencies that
        # have none, and what the bounds cut, stay.
        assert np.mean(moved > 0.09) > 0.7

    def test_falls_in_twenty_steps(self):
        logs = _fit(_make(self._CONFIG), 20).logs
        assert logs[-1]["bns"] < 0.5 * logs[0]["bns"]

    def test_images_stay_in_the_domain(self):
        config = dataclasses.replace(self._CONFIG, learning_rate=2.0)
        model = _make(config)
        _fit(model, 3)
        domain = tiny_classifier.domain()
        x = self._images(model) * domain.deviation + domain.mean
        # Float32 rounding of (bound - mean) / deviation and back.
        assert np.abs(x).max() == pytest.approx(1, abs=1e-6)
        assert np.abs(model.values()["x"]).max() <= 1

    def test_start_is_that_of_pixels(self):
        pixels = dataclasses.replace(self._CONFIG, basis="pixels")
        low, high = _make(pixels)._spaces["x"].bounds
        np.testing.assert_allclose(
            _make(pixels).samples["x"].numpy(),
            np.clip(
                self._images(_make(self._CONFIG)),
                low,
                high,
            ),
            atol=1e-5,
        )

    def test_scatter_gives_each_image_a_brightness(self):
        def spread(scatter):
            config = dataclasses.replace(
                self._CONFIG, scatter=scatter, keep_domain=False, batch_size=256
            )
            return self._images(_make(config)).mean((1, 2)).std()

        assert spread(False) < 1e-6
        # The root of the share; 256 values: 4 %.
        assert spread(True) == pytest.approx(0.5, rel=0.2)

    def test_bounds_let_pass_what_leads_back(self):
        values = tf.constant([-3.0, -3.0, 0.5, 3.0, 3.0])
        pull = tf.constant([1.0, -1.0, 1.0, 1.0, -1.0])
        with tf.GradientTape() as tape:
            tape.watch(values)
            bounded = sample_space._bounded(values, -1.0, 2.0)
            loss = tf.reduce_sum(pull * bounded)
        np.testing.assert_array_equal(bounded, [-1, -1, 0.5, 2, 2])
        # A step goes against the gradient: down from 3, up from -3.
        np.testing.assert_array_equal(
            tape.gradient(loss, values), [0, -1, 1, 1, 0]
        )


class TestSlackSources:
    def _margins(self, source, percentile=0.6):
        config = dataclasses.replace(
            _ALL,
            initializer="natural",
            basis="spectrum",
            scatter=True,
            slack_source=source,
            slack_percentile=percentile,
            slack_probes=32,
        )
        model = _make(config)
        targets = callbacks.BatchNormTargets()
        targets.set_model(model)
        targets.on_train_begin()
        rng = np.random.default_rng([config.seed, 2**31])
        found = [model.features(model.probe(rng))[0] for _ in range(8)]
        mean, deviation = (np.concatenate(v) for v in zip(*found, strict=True))
        (layer, *_), targets = model.batch_norms, model.targets
        margins = [
            float(m.numpy()[0])
            for m in (targets.mean_margin, targets.sigma_margin)
        ]
        return margins, layer, mean, deviation

    def test_natural_noise_gives_percentiles_of_its_distances(self):
        margins, layer, mean, deviation = self._margins("natural")
        for margin, actual, wanted in zip(
            margins,
            (mean, deviation),
            (layer.mean, layer.sigma),
            strict=True,
        ):
            distances = np.abs(actual - wanted) / layer.sigma
            assert margin == pytest.approx(
                np.percentile(distances, 60), rel=1e-5
            )

    def test_differs_from_white_noise(self):
        natural = self._margins("natural")[0]
        white = self._margins("gaussian")[0]
        assert natural[0] != pytest.approx(white[0], rel=0.05)

    def test_share_gives_what_lies_between_samples(self):
        margins, _, mean, deviation = self._margins("share", percentile=0.9)
        between = mean.var(0)
        share = np.median(between / (between + (deviation**2).mean(0)))
        # 1.645: 90 % of a normal variable.
        assert margins[0] == pytest.approx(1.645 * np.sqrt(share), rel=1e-3)
        assert margins[1] == pytest.approx(1 - np.sqrt(1 - share), rel=1e-3)


class TestRounds:
    def test_a_restart_keeps_the_samples_and_forgets_the_optimizer(self):
        model = _make(_ALL)
        _fit(model, 3)
        before = model.samples["x"].numpy()
        model.restart()
        np.testing.assert_array_equal(model.samples["x"].numpy(), before)
        for variable in model.optimizer.variables:
            if "learning_rate" not in variable.path:
                assert not np.any(variable.numpy())

    def test_moments_are_those_of_the_last_step(self):
        config = dataclasses.replace(_ALL, jitter=0.0, mirror=False)
        model = _make(config)
        before = model.values()
        _fit(model, 1)
        wanted = np.concatenate([m for m, _ in model.features(before)], 1)
        np.testing.assert_allclose(
            model.moments[0].numpy(), wanted, rtol=1e-4, atol=1e-5
        )

    def test_settling_is_that_of_the_moments(self):
        model = _make(_ALL)
        _fit(model, 1)
        model.moments[0].assign(np.tile(model.targets.mean.numpy(), (4, 1)))
        model.moments[1].assign(np.tile(model.targets.sigma.numpy(), (4, 1)))
        assert model.settling().bits_off == pytest.approx(0, abs=1e-5)
