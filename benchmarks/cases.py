"""The real models of ../shared, their images, and how these are prepared."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np

from dsg_tf import labelled_images


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
}


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
    path = case.tuning_data if tuning else case.data
    images, labels = labelled_images.load(str(shared / path))
    images = labelled_images.preprocess(
        images,
        case.preprocess,
        mean=None if case.mean is None else np.array(case.mean),
        std=None if case.std is None else np.array(case.std),
    )
    return images, labels
