"""The images of the benchmarks, as their models take them."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import cases
from dsg_tf.samples import labelled_images


def _load(name, path, *, tuning=False):
    return cases.load_images(cases.CASES[name], path, tuning=tuning)


def test_tones_are_standardised_frames_that_repeat(tmp_path):
    frames, labels = _load("crepe", tmp_path)
    again, _ = _load("crepe", tmp_path)
    assert frames.shape == (200, 1024)
    assert frames.dtype == np.float32
    assert labels.shape == (200,)
    np.testing.assert_array_equal(frames, again)
    np.testing.assert_allclose(frames.mean(1), 0, atol=1e-6)
    np.testing.assert_allclose(frames.std(1), 1, atol=1e-5)


def test_tones_to_choose_by_are_not_those_to_judge_by(tmp_path):
    judged, tuning = (
        _load("crepe", tmp_path, tuning=t)[0] for t in (False, True)
    )
    # Nor are any two within a set one.
    frames = {frame.tobytes() for frame in (*judged, *tuning)}
    assert len(frames) == len(judged) + len(tuning)


def test_tones_have_pitches_of_all_kinds(tmp_path):
    frames, _ = _load("crepe", tmp_path)
    spectra = np.abs(np.fft.rfft(frames, axis=1))
    # Of 16 kHz, 1,024 of them: 15.6 Hz a bin.
    strongest = spectra.argmax(1) * 16_000 / 1024
    assert (strongest > 30).all()
    assert np.mean(strongest < 300) > 0.05
    assert np.mean(strongest > 1000) > 0.05


@pytest.mark.parametrize("tuning", [False, True])
def test_grey_crops_are_small_and_within_bounds(monkeypatch, tmp_path, tuning):
    pixels = np.zeros((3, 224, 224, 3), np.uint8)
    pixels[1] = 255
    pixels[2] = (255, 0, 0)
    paths = []

    def load(path):
        paths.append(path)
        return pixels, np.arange(3)

    monkeypatch.setattr(labelled_images, "load", load)
    images, labels = _load("xception", tmp_path, tuning=tuning)
    assert images.shape == (3, 64, 64, 1)
    assert images.dtype == np.float32
    np.testing.assert_array_equal(images[0], np.full((64, 64, 1), -1.0))
    np.testing.assert_array_equal(images[1], np.full((64, 64, 1), 1.0))
    # Red is 0.299 of grey.
    np.testing.assert_allclose(images[2], 2 * 0.299 - 1, atol=1 / 127)
    np.testing.assert_array_equal(labels, np.arange(3))
    case = cases.CASES["xception"]
    assert paths == [
        str(tmp_path / (case.tuning_data if tuning else case.data))
    ]


def test_images_to_choose_by_are_never_those_to_judge_by():
    for case in cases.CASES.values():
        assert not case.data or case.data != case.tuning_data


def test_cases_without_labels_are_cases():
    assert set(cases.CASES) > cases.UNLABELLED


@pytest.mark.parametrize("name", cases.CASES)
def test_models_and_images_are_there(name, shared):
    case = cases.CASES[name]
    for path in (case.model, case.data, case.tuning_data):
        assert (shared / path).exists()
