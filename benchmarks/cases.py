"""The real models of ../shared, their images, and how these are prepared."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np

from dsg_tf.samples import labelled_images


@dataclasses.dataclass(frozen=True)
class Case:
    """A model and how to evaluate it.

    Attributes:
      title: for the table.
      model: path below the shared folder.
      data: labelled images below the shared folder, for evaluation alone;
        empty where there are none.
      tuning_data: others, on which defaults may be chosen.
      preprocess: what turns raw pixels into the model's input; see
        `labelled_images.preprocess`.
      mean, std: for `standardize`.
    """

    title: str
    model: str
    data: str = ""
    tuning_data: str = ""
    preprocess: str = "none"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


CASES = {
    "resnet8": Case(
        "MLPerf Tiny ResNet-8 (.h5)",
        "models/mlperf_tiny_resnet8/pretrainedResnet.h5",
        "data/cifar10_test_1k.npz",
        "data/cifar10_train_1k.npz",
    ),
    "resnet20": Case(
        "ResNet-20 (SavedModel)",
        "models/resnet20_cifar10_saved_model",
        "data/cifar10_test_1k.npz",
        "data/cifar10_train_1k.npz",
        "standardize",
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
    ),
    "mobilenet": Case(
        "MobileNetV1 0.25 (SavedModel)",
        "models/mobilenet_v1_025_224_saved_model",
        "data/imagenet_eval_400",
        "data/imagenet_calib_100",
        "symmetric",
    ),
    "kws": Case(
        "MLPerf Tiny keywords (SavedModel)",
        "models/mlperf_tiny_kws_saved_model",
    ),
    "vgg16": Case(
        "VGG16-bn (.keras)",
        "models/vgg16bn_cifar10.keras",
        "data/cifar10_jpeg_test_2k.npz",
        "data/cifar10_jpeg_train_1k.npz",
        "standardize",
        (0.4914, 0.4822, 0.4465),
        (0.2470, 0.2435, 0.2616),
    ),
    "mobilenet_v2": Case(
        "MobileNetV2 1.0 (.keras)",
        "models/zoo/mobilenet_v2_tv/mobilenet_v2_tv.keras",
        "data/imagenet_eval_400",
        "data/imagenet_calib_100",
        "standardize",
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
    ),
    "effnet_lite0": Case(
        "EfficientNet-Lite0 (.keras)",
        "models/zoo/effnet_lite0/effnet_lite0.keras",
        "data/imagenet_eval_400",
        "data/imagenet_calib_100",
        "symmetric",
    ),
    "xception": Case(
        "mini Xception (.hdf5)",
        "models/zoo/fer_mini_xception/emotion_model.hdf5",
        "data/imagenet_eval_400",
        "data/imagenet_calib_100",
        "grey",
    ),
    "crepe": Case(
        "CREPE tiny (.h5)",
        "models/zoo/crepe_tiny/crepe_tiny.h5",
        preprocess="tones",
    ),
}

# Of these the labels are another model's, or there are none.
UNLABELLED = frozenset({"kws", "xception", "crepe"})


def load_images(
    case: Case, shared: pathlib.Path, *, tuning: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Images in the model's input units, float32, and labels.

    Args:
      case: the model.
      shared: the folder of models and data.
      tuning: the images on which defaults may be chosen, not those on which
        the result is judged.
    """
    if case.preprocess == "tones":
        tones = _tones(200, seed=int(tuning))
        return tones, np.zeros(len(tones), np.int64)
    path = case.tuning_data if tuning else case.data
    images, labels = labelled_images.load(str(shared / path))
    if case.preprocess == "grey":
        return _grey_crops(images), labels
    images = labelled_images.preprocess(
        images,
        case.preprocess,
        mean=None if case.mean is None else np.array(case.mean),
        std=None if case.std is None else np.array(case.std),
    )
    return images, labels


def _grey_crops(images: np.ndarray) -> np.ndarray:
    """Centre crops as 64x64 grey ones in [-1, 1], float32 (N, 64, 64, 1)."""
    from PIL import Image

    small = [
        np.asarray(Image.fromarray(image).convert("L").resize((64, 64)))
        for image in images
    ]
    return (np.stack(small)[..., np.newaxis] / 127.5 - 1).astype(np.float32)


def _tones(count: int, *, seed: int) -> np.ndarray:
    """Frames of 1,024 samples at 16 kHz, mean 0 and deviation 1, (N, 1024).

    Harmonic tones of 50 to 2,000 Hz, some gliding, with a little noise.
    """
    rng = np.random.default_rng(seed)
    time = np.arange(1024) / 16_000
    frames = []
    for _ in range(count):
        pitch = np.exp(rng.uniform(np.log(50), np.log(2_000)))
        glide = rng.normal(0, 2) * (rng.random() < 0.5)
        phase = 2 * np.pi * pitch * (time + glide * time**2)
        harmonics = rng.integers(1, 8)
        frame = sum(
            rng.random() / k * np.sin(k * phase + rng.uniform(0, 2 * np.pi))
            for k in range(1, harmonics + 1)
        )
        frame = frame + 0.01 * rng.normal(size=1024)
        frames.append((frame - frame.mean()) / frame.std())
    return np.stack(frames).astype(np.float32)
