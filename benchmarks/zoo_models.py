"""Other people's trained models, and real inputs to compare them on.

Inputs for calibration and for evaluation are disjoint: other images, other
tones, other features.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping

import numpy as np

from benchmarks import cases
from dsg_tf.analysis import bn_statistics
from dsg_tf.graph.load import loading
from dsg_tf.samples import labelled_images

Arrays = Mapping[str, np.ndarray]
_IMAGENET = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@dataclasses.dataclass(frozen=True)
class ZooModel:
    """A model.

    Attributes:
      path: below the folder of the zoo.
      what: for the table.
      inputs: makes real inputs by input name from the shared folder; of the
        evaluation, or with `tuning` of the calibration.
      flags: what dsg_tf.quantize needs beside the path.
      labelled: whether `labels` fit.
    """

    path: str
    what: str
    inputs: Callable[[pathlib.Path, bool], Arrays]
    flags: tuple[str, ...] = ()
    labelled: bool = False


def photos(shared: pathlib.Path, tuning: bool) -> np.ndarray:
    """uint8 (N, 224, 224, 3): 100 to calibrate with, or 400 others."""
    name = "imagenet_calib_100" if tuning else "imagenet_eval_400"
    return labelled_images.load(str(shared / "data" / name))[0]


def labels(shared: pathlib.Path) -> np.ndarray:
    """Classes of the evaluation's photos, (400,)."""
    path = shared / "data" / "imagenet_eval_400"
    return labelled_images.load(str(path))[1]


def _standardized(shared: pathlib.Path, tuning: bool) -> np.ndarray:
    mean, deviation = _IMAGENET
    values = (photos(shared, tuning) / 255.0 - mean) / deviation
    return values.astype(np.float32)


def _symmetric(shared: pathlib.Path, tuning: bool) -> np.ndarray:
    return (photos(shared, tuning) / 127.5 - 1).astype(np.float32)


def _resized(shared: pathlib.Path, tuning: bool, size: int) -> np.ndarray:
    """Photos of another size in 0..1, 100 at most."""
    from PIL import Image

    return np.stack(
        [
            np.asarray(Image.fromarray(image).resize((size, size)))
            for image in photos(shared, tuning)[:100]
        ]
    ).astype(np.float32) / np.float32(255.0)


def _crops(shared: pathlib.Path, tuning: bool) -> np.ndarray:
    """(100, 32, 32, 3) crops of photos, shrunk to a half, in 0..1."""
    halves = _resized(shared, tuning, 112)
    rng = np.random.default_rng(int(tuning))
    corners = rng.integers(0, 80, (len(halves), 2))
    return np.stack(
        [
            image[y : y + 32, x : x + 32]
            for image, (y, x) in zip(halves, corners, strict=True)
        ]
    )


def _grey(shared: pathlib.Path, tuning: bool) -> np.ndarray:
    images, _ = cases.load_images(
        cases.CASES["xception"], shared, tuning=tuning
    )
    return images


def _frames(shared: pathlib.Path, tuning: bool) -> np.ndarray:
    images, _ = cases.load_images(cases.CASES["crepe"], shared, tuning=tuning)
    return images


def _music(shared: pathlib.Path, tuning: bool) -> np.ndarray:
    """(20, 43844, 1): two seconds at 22,050 Hz of notes and chords."""
    del shared
    rng = np.random.default_rng(100 + tuning)
    time = np.arange(43_844) / 22_050
    found = []
    for _ in range(20):
        wave = 0.002 * rng.normal(size=time.shape)
        for _ in range(rng.integers(1, 7)):
            pitch = 27.5 * 2 ** (rng.integers(12, 72) / 12)
            start, length = rng.uniform(0, 1.5), rng.uniform(0.2, 1.0)
            after = time - start
            shape = (after > 0) * (after < length) * np.exp(-3 * after)
            for k in range(1, rng.integers(3, 8)):
                wave += shape * np.sin(2 * np.pi * k * pitch * time) / k
        found.append(wave / np.abs(wave).max() * rng.uniform(0.2, 0.9))
    return np.stack(found).astype(np.float32)[..., np.newaxis]


def _characters(shared: pathlib.Path, tuning: bool) -> Arrays:
    """Ids of 21 neighbouring characters and of their types."""
    del shared
    rng = np.random.default_rng(200 + tuning)
    # A type for each character, as the two tables of the package have it.
    types = np.random.default_rng(7).integers(0, 12, 200)
    ids = rng.integers(0, 90, (300, 21))
    return {
        "input_3": ids.astype(np.float32),
        "input_4": types[ids].astype(np.float32),
    }


def _sleep(shared: pathlib.Path, tuning: bool) -> np.ndarray:
    """(40, 21, 36): features that change slowly, of the moments they had.

    The model's first layer normalizes them, and so knows their units.
    """
    path = shared / "models" / "zoo" / "sleepecg_gru" / "classifier.keras"
    graph = loading.load(str(path), input_shapes=(21, 36))
    (norm,) = bn_statistics.find(graph)
    rng = np.random.default_rng(300 + tuning)
    steps = rng.normal(size=(40, 21, 36))
    for t in range(1, 21):
        steps[:, t] = 0.9 * steps[:, t - 1] + 0.19**0.5 * steps[:, t]
    return (norm.mean + np.sqrt(norm.variance) * steps).astype(np.float32)


def _mel(shared: pathlib.Path, tuning: bool) -> np.ndarray:
    """(60, 187, 96): noise shaped as log10(1 + 10,000 mel), 0 to about 6."""
    del shared
    rng = np.random.default_rng(400 + tuning)
    found = []
    for _ in range(60):
        tilt = np.linspace(0.0, -3.0, 96) + rng.uniform(-1.5, -0.5)
        beat = np.abs(np.sin(np.arange(187) * rng.uniform(0.05, 0.4)))
        level = tilt + np.log10(0.03 + beat)[:, np.newaxis]
        power = 10.0**level * rng.gamma(2.0, 0.5, (187, 96))
        found.append(np.log10(1 + 10_000 * power))
    return np.stack(found).astype(np.float32)


def _of(name: str, make: Callable) -> Callable[[pathlib.Path, bool], Arrays]:
    return lambda shared, tuning: {name: make(shared, tuning)}


MODELS = {
    "mobilenet_v2": ZooModel(
        "mobilenet_v2_tv/mobilenet_v2_tv.keras",
        "MobileNetV2 1.0, ImageNet",
        _of("", _standardized),
        labelled=True,
    ),
    "effnet_lite0": ZooModel(
        "effnet_lite0/effnet_lite0.keras",
        "EfficientNet-Lite0, ImageNet",
        _of("", _symmetric),
        labelled=True,
    ),
    "effnet_b0": ZooModel(
        "effnet_b0_nude2d3d/effnet_b0_nude2d3d.keras",
        "EfficientNet-B0, photo or drawing",
        _of("", _standardized),
    ),
    "xception": ZooModel(
        "fer_mini_xception/emotion_model.hdf5",
        "mini Xception, emotions",
        _of("", _grey),
    ),
    "crepe": ZooModel(
        "crepe_tiny/crepe_tiny.h5", "CREPE, pitch", _of("", _frames)
    ),
    "deepcut": ZooModel(
        "deepcut/deepcut.h5", "deepcut, Thai words", _characters
    ),
    "basic_pitch": ZooModel(
        "basic_pitch/nmp", "basic-pitch, notes", _of("", _music)
    ),
    "sleepecg": ZooModel(
        "sleepecg_gru/classifier.keras",
        "sleepecg, two GRUs",
        _of("", _sleep),
        ("--input_shape=21,36",),
    ),
    "srgan": ZooModel(
        "fast_srgan/generator.h5",
        "Fast-SRGAN, super-resolution",
        _of("", _crops),
        ("--input_shape=32,32,3",),
    ),
    "facemask": ZooModel(
        "aizoo_facemask/aizoo_facemask.h5",
        "SSD, face masks",
        _of("", lambda shared, tuning: _resized(shared, tuning, 260)),
    ),
    "musicnn": ZooModel(
        "musicnn_MTT_vgg/musicnn_MTT_vgg",
        "musicnn, 50 tags",
        _of("", _mel),
    ),
    "slimnet": ZooModel(
        "slimnet_seg/slim_reshape.h5",
        "portrait segmentation, BN folded",
        _of("", lambda shared, tuning: _resized(shared, tuning, 512)),
    ),
}
