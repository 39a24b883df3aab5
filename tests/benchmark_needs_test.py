"""What a file lost is told by agreement, top-1, SQNR and how it settled."""

from __future__ import annotations

import importlib
import json
import math
import zipfile

import numpy as np
import pytest
from absl import flags

from benchmarks import cases
from dsg_tf.fidelity import classifiers

_FLAGS = ("shared", "models", "seeds", "amounts", "flag", "images")


@pytest.fixture(scope="module", autouse=True)
def needs():
    """The benchmark; its flags are others' too, which tests import as well."""
    before = {n: flags.FLAGS[n] for n in _FLAGS if n in flags.FLAGS}
    for name in before:
        delattr(flags.FLAGS, name)
    yield importlib.import_module("benchmarks.needs")
    for name in _FLAGS:
        delattr(flags.FLAGS, name)
    for name, flag in before.items():
        flags.FLAGS[name] = flag


# Four images of three classes.
_FLOAT = np.array([[4, 1, 0], [0, 3, 1], [1, 0, 2], [5, 2, 2]], np.float64)
_LABELS = np.array([0, 1, 2, 1])


@pytest.fixture
def judge(needs, monkeypatch, tmp_path):
    """Makes a judge of a case, before files of these scores."""
    scores = {}

    def load_images(case, shared, *, tuning):
        # Defaults are chosen here, and not judged.
        assert tuning
        return np.zeros((4, 2, 2, 3), np.float32), _LABELS

    def load_predictor(path):
        return lambda images: scores[path][: len(images)]

    monkeypatch.setattr(cases, "load_images", load_images)
    monkeypatch.setattr(classifiers, "load_predictor", load_predictor)

    def make(name="mobilenet", **files):
        scores[str(tmp_path / cases.CASES[name].model)] = _FLOAT
        scores.update(files)
        return needs.Judge(name, tmp_path)

    return make


class TestJudge:
    def test_counts_classes_that_are_the_float_model_s(self, judge):
        other = _FLOAT.copy()
        other[3] = [0, 9, 0]
        agreement, top1, _ = judge(file=other).of("file")
        assert agreement == 75.0
        # The last label is 1, which the float model misses.
        assert top1 == 100.0

    def test_knows_no_top1_without_labels(self, judge):
        agreement, top1, _ = judge("xception", file=_FLOAT).of("file")
        assert agreement == 100.0
        assert math.isnan(top1)

    def test_tells_noise_beside_what_varies(self, judge):
        noise = 0.01 * np.random.default_rng(0).normal(size=_FLOAT.shape)
        _, _, sqnr = judge(file=_FLOAT + noise).of("file")
        power = np.sum((_FLOAT - _FLOAT.mean(0)) ** 2)
        wanted = 10 * np.log10(power / np.sum(noise**2))
        assert sqnr == pytest.approx(wanted, abs=1e-9)

    def test_of_no_noise_is_finite(self, judge):
        _, _, sqnr = judge(file=_FLOAT).of("file")
        assert 100 < sqnr < math.inf

    def test_takes_at_most_so_many_images(self, judge, monkeypatch):
        monkeypatch.setattr(flags.FLAGS["images"], "_value", 3)
        made = judge(file=np.roll(_FLOAT, 1, axis=1))
        assert len(made.reference) == 3
        agreement, _, _ = made.of("file")
        assert agreement == 0.0

    def test_looks_at_rows_of_any_shape(self, judge):
        made = judge(file=_FLOAT[:, np.newaxis, np.newaxis])
        assert made.of("file")[0] == 100.0


class TestSettling:
    def _samples(self, tmp_path, *rounds):
        path = tmp_path / "samples.npz"
        told = {str(n): fields for n, fields in enumerate(rounds)}
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("metadata.json", json.dumps({"rounds": told}))
        return path

    def test_is_the_mean_over_batches(self, needs, tmp_path):
        path = self._samples(
            tmp_path,
            {"steps": 4, "bits_off": 0.5, "label_share": 0.2},
            {"steps": 8, "bits_off": 1.5, "label_share": 0.0},
        )
        assert needs._settling(path) == pytest.approx((1.0, 0.1))

    def test_is_not_known_where_one_had_no_number(self, needs, tmp_path):
        """JSON has no infinity: what is infinitely far off is null."""
        path = self._samples(
            tmp_path,
            {"steps": 4, "bits_off": None, "label_share": 0.2},
            {"steps": 8, "bits_off": 1.5, "label_share": 0.2},
        )
        off, share = needs._settling(path)
        assert math.isnan(off)
        assert share == pytest.approx(0.2)


def test_table_has_means_and_deviations_over_seeds(needs, monkeypatch, capsys):
    asked = []

    def measure(model, judge, samples, steps):
        asked.append((model, samples, steps))
        return [
            (90.0, math.nan, 20.0, 0.5, 0.25, 7.0),
            (94.0, math.nan, 22.0, 1.5, 0.25, 9.0),
        ]

    monkeypatch.setattr(needs, "measure", measure)
    monkeypatch.setattr(needs, "Judge", lambda name, shared: name)
    for name, value in {
        "models": ["xception"],
        "amounts": ["8x25", "16x1000"],
        "shared": "folder",
    }.items():
        monkeypatch.setattr(flags.FLAGS[name], "_value", value)
    needs.main([])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert cells == [
        *("xception", "8 x 25", "200", "92.0 ± 2.0", "-", "21.0 ± 1.0"),
        *("1.00 ± 0.50", "0.25 ± 0.00", "8 ± 1"),
    ]
    assert "16,000" in lines[3]
    path = f"folder/{cases.CASES['xception'].model}"
    assert asked == [(path, 8, 25), (path, 16, 1000)]
