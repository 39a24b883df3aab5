"""Reads labelled images and preprocesses them for a classifier.

The images are an .npz with `images` and `labels`, or a folder. The folder has
either files `<class index>.jpg`, one image per class, or one subfolder per
class. Subfolders named by numbers are class indices; others are numbered in
alphabetical order.
"""

from __future__ import annotations

import importlib.util
import pathlib
import warnings
from collections.abc import Sequence

import numpy as np

from dsg_tf.core import errors, files, memory
from dsg_tf.samples import image_archives

# Methods of `preprocess`; its docstring has the formulas.
PREPROCESSING = ("none", "unit", "symmetric", "standardize")

# More would be no classes; fewer bits than any integer of NumPy has.
_MOST_CLASSES = 2**31 - 1
_SUFFIXES = (".jpg", ".jpeg", ".png")


def load(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads images and their labels.

    Args:
      path: an .npz or a folder, see the module.

    Returns:
      Images (N, H, W, C), uint8 from a folder and as stored from an .npz,
      and labels int64 (N,).

    Raises:
      errors.UserError: nothing readable is there, it does not fit into memory,
        sizes differ, pixels are not finite, or labels are missing or no
        indices.
    """
    source = _source(path)
    if source.is_dir():
        found, labels = _labelled_files(source)
        return _read_files(source, found), labels
    arrays = image_archives.read(path, ("images", "labels"))
    images, labels = arrays["images"], arrays["labels"]
    _check_labels(path, labels, len(images))
    return images, labels.astype(np.int64)


def load_unlabelled(path: str) -> np.ndarray:
    """Reads images without labels; otherwise as `load`.

    Args:
      path: an .npz with `images`, or a folder with image files anywhere.

    Returns:
      Images (N, H, W, C), uint8 from a folder and as stored from an .npz.

    Raises:
      errors.UserError: as `load`, but for labels.
    """
    source = _source(path)
    if source.is_dir():
        return _read_files(source, _images_in(source, "**/*"))
    return image_archives.read(path, ("images",))["images"]


def count_unlabelled(path: str) -> int:
    """How many images `load_unlabelled` would read, without reading them.

    Raises:
      errors.UserError: nothing readable is there.
    """
    source = _source(path)
    if source.is_dir():
        return len(_images_in(source, "**/*"))
    return image_archives.count(path)


def _source(path: str) -> pathlib.Path:
    """The path, if it is an accessible file or folder."""
    expected = "an .npz file or a folder"
    files.refuse_special(path, expected=expected)
    source = pathlib.Path(path)
    try:
        source.stat()
        if source.is_dir():
            next(source.iterdir(), None)
    except (OSError, ValueError) as error:
        got = getattr(error, "strerror", None) or str(error)
        if isinstance(error, FileNotFoundError):
            got = "nothing there"
        raise errors.UserError(path, got=got, expected=expected) from None
    return source


def _check_labels(path: str, labels: np.ndarray, count: int) -> None:
    """Refuses labels that are not one class index per image."""
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise errors.UserError(
            path,
            got=f"labels {labels.dtype} of shape {labels.shape}",
            expected=f"{count} whole numbers, one an image",
        )
    if labels.min() < 0 or labels.max() > _MOST_CLASSES:
        raise errors.UserError(
            path,
            got=f"labels from {labels.min()} to {labels.max()}",
            expected="indices of classes, from 0",
        )


def _images_in(folder: pathlib.Path, pattern: str) -> list[pathlib.Path]:
    return sorted(
        p for p in folder.glob(pattern) if p.suffix.lower() in _SUFFIXES
    )


def _labelled_files(
    folder: pathlib.Path,
) -> tuple[list[pathlib.Path], np.ndarray]:
    """Image files and labels int64 (N,), from either kind of folder."""
    # Not `isdigit`, which accepts superscripts; `int` rejects them.
    paths = [p for p in _images_in(folder, "*") if p.stem.isdecimal()]
    labels = [int(p.stem) for p in paths]
    if not paths:
        classes = sorted(p for p in folder.iterdir() if p.is_dir())
        numbered = all(p.name.isdecimal() for p in classes)
        for index, one_class in enumerate(classes):
            found = _images_in(one_class, "*")
            paths += found
            labels += [int(one_class.name) if numbered else index] * len(found)
    if not paths:
        raise errors.UserError(
            str(folder),
            got="no such image",
            expected="<class index>.jpg files, or a folder of images a class",
        )
    if max(labels) > _MOST_CLASSES:
        raise errors.UserError(
            str(folder),
            got=f"a name of {len(str(max(labels)))} digits",
            expected="indices of classes",
        )
    return paths, np.array(labels, np.int64)


def _read_files(
    folder: pathlib.Path, paths: Sequence[pathlib.Path]
) -> np.ndarray:
    """Images uint8 (N, H, W, 3); all must have one size."""
    if importlib.util.find_spec("PIL") is None:
        raise errors.UserError(
            str(folder),
            got="no Pillow, which reads image files",
            expected="it is installed",
            remedy="pip install pillow, or give an .npz",
        )
    if not paths:
        raise errors.UserError(
            str(folder), got="no images", expected=", ".join(_SUFFIXES)
        )
    first = _read_file(paths[0])
    memory.require(first.nbytes * len(paths), str(folder), what="its images")
    images = np.empty((len(paths), *first.shape), np.uint8)
    for index, path in enumerate(paths):
        image = _read_file(path) if index else first
        if image.shape != first.shape:
            raise errors.UserError(
                str(folder),
                got=f"{paths[0].name} of {_size(first)} pixels, and {path.name}"
                f" of {_size(image)}",
                expected="images of one size",
            )
        images[index] = image
    return images


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


def _read_file(path: pathlib.Path) -> np.ndarray:
    """An image file as uint8 (H, W, 3)."""
    import PIL.Image

    files.refuse_special(path, expected="an image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # A file of a few bytes can decode to gigabytes of pixels.
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
            with PIL.Image.open(path) as image:
                return np.asarray(image.convert("RGB"))
    except MemoryError:
        raise
    except Exception as error:  # Decoders raise many kinds of exceptions.
        kind = type(error).__name__
        raise errors.UserError(
            str(path),
            got="an image of too many pixels"
            if kind.startswith("DecompressionBomb")
            else f"an unreadable file ({kind})",
            expected="an image",
        ) from None


def preprocess(
    images: np.ndarray,
    how: str,
    *,
    mean: np.ndarray | None = None,
    std: np.ndarray | None = None,
) -> np.ndarray:
    """Converts pixels 0..255 to model input units.

    Args:
      images: (N, H, W, C), grey levels 0..255.
      how: `none`, `unit` (x/255), `symmetric` (x/127.5 - 1) or `standardize`
        ((x/255 - mean) / std).
      mean: float (C,), for `standardize`.
      std: float (C,), for `standardize`.

    Returns:
      float32 (N, H, W, C).

    Raises:
      errors.UserError: mean or std are missing, not needed, or of another
        length.

    Examples:
      >>> pixels = np.array([0, 255], np.uint8).reshape(1, 1, 2, 1)
      >>> preprocess(pixels, "symmetric").ravel().tolist()
      [-1.0, 1.0]
    """
    given = [value is not None for value in (mean, std)]
    if how == "standardize" and not all(given):
        raise errors.UserError(
            "--preprocess=standardize",
            got="no --mean or no --std",
            expected="both",
        )
    if how != "standardize" and any(given):
        raise errors.UserError(
            f"--preprocess={how}",
            got="--mean or --std",
            expected="neither",
            remedy="did you mean --preprocess=standardize?",
        )
    x = images.astype(np.float32)
    if how == "none":
        return x
    if how == "unit":
        return x / 255.0
    if how == "symmetric":
        return x / 127.5 - 1.0
    for flag, value in (("--mean", mean), ("--std", std)):
        if value.shape not in ((1,), (images.shape[-1],)):
            raise errors.UserError(
                flag,
                got=f"{value.size} numbers",
                expected=f"one, or {images.shape[-1]}: one a channel",
            )
    return ((x / 255.0 - mean) / std).astype(np.float32)
