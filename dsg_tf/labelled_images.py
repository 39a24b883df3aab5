"""Labelled images from files, in the units that a classifier takes.

Images are an .npz with `images` and `labels`; or a folder, either of
`<class index>.jpg`, one image a class, or of one folder a class. Folders named
by numbers are the class indices, others are numbered in alphabetical order.
"""

from __future__ import annotations

import pathlib
import zipfile
from collections.abc import Sequence
from typing import IO

import numpy as np

from dsg_tf import errors

# What `preprocess` can do; its docstring has the formulas.
PREPROCESSING = ("none", "unit", "symmetric", "standardize")

_SUFFIXES = (".jpg", ".jpeg", ".png")


def load(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads images and their labels.

    Args:
      path: an .npz or a folder, see the module.

    Returns:
      Images (N, H, W, C), uint8 from a folder and as stored from an .npz,
      and labels int64 (N,).

    Raises:
      errors.UserError: nothing readable is there, sizes differ, or labels are
        missing.
    """
    source = pathlib.Path(path)
    if source.is_dir():
        files, labels = _labelled_files(source)
        return _read_files(source, files), labels
    arrays = _read_npz(source)
    missing = {"images", "labels"} - set(arrays)
    if missing:
        raise errors.UserError(
            path,
            got=f"arrays {sorted(arrays)}",
            expected="arrays images and labels",
        )
    images, labels = arrays["images"], arrays["labels"]
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise errors.UserError(
            path,
            got=f"labels {labels.dtype} of shape {labels.shape}",
            expected=f"{len(images)} whole numbers, one an image",
        )
    return images, labels.astype(np.int64)


def load_unlabelled(path: str) -> np.ndarray:
    """Reads images alone: as `load`, but labels need not be there.

    Args:
      path: an .npz with `images`, or a folder with image files anywhere.

    Returns:
      Images (N, H, W, C), uint8 from a folder and as stored from an .npz.

    Raises:
      errors.UserError: nothing readable is there, or sizes differ.
    """
    source = pathlib.Path(path)
    if source.is_dir():
        return _read_files(source, _images_in(source, "**/*"))
    arrays = _read_npz(source)
    if "images" not in arrays:
        raise errors.UserError(
            path, got=f"arrays {sorted(arrays)}", expected="an array images"
        )
    return arrays["images"]


def count_unlabelled(path: str) -> int:
    """How many images `load_unlabelled` would read, without reading them.

    Raises:
      errors.UserError: nothing readable is there.
    """
    source = pathlib.Path(path)
    if source.is_dir():
        return len(_images_in(source, "**/*"))
    try:
        with (
            zipfile.ZipFile(source) as arrays,
            arrays.open("images.npy") as array,
        ):
            return _length(array)
    except (OSError, KeyError, EOFError, ValueError, zipfile.BadZipFile):
        # What reads the whole of it knows best what is wrong.
        return len(load_unlabelled(path))


def _length(array: IO[bytes]) -> int:
    """The first axis of an array in NumPy's format, from its header alone."""
    version = np.lib.format.read_magic(array)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"an array of NumPy's format {version}")
    shape, _, _ = read(array)
    return int(np.prod(shape[:1]))


def _read_npz(source: pathlib.Path) -> dict[str, np.ndarray]:
    expected = "an .npz file or a folder"
    if not source.is_file():
        raise errors.UserError(
            str(source), got="nothing there", expected=expected
        )
    try:
        with np.load(source) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile):
        # TypeError: an .npy, which is an array and no archive.
        raise errors.UserError(
            str(source), got="an unreadable file", expected=expected
        ) from None


def _images_in(folder: pathlib.Path, pattern: str) -> list[pathlib.Path]:
    return sorted(
        p for p in folder.glob(pattern) if p.suffix.lower() in _SUFFIXES
    )


def _labelled_files(
    folder: pathlib.Path,
) -> tuple[list[pathlib.Path], np.ndarray]:
    """Image files and labels int64 (N,), from either kind of folder."""
    files = [p for p in _images_in(folder, "*") if p.stem.isdigit()]
    if files:
        return files, np.array([int(p.stem) for p in files], np.int64)
    classes = sorted(p for p in folder.iterdir() if p.is_dir())
    numbered = all(p.name.isdigit() for p in classes)
    labels: list[int] = []
    for index, one_class in enumerate(classes):
        found = _images_in(one_class, "*")
        files += found
        labels += [int(one_class.name) if numbered else index] * len(found)
    if not files:
        raise errors.UserError(
            str(folder),
            got="no such image",
            expected="<class index>.jpg files, or a folder of images a class",
        )
    return files, np.array(labels, np.int64)


def _read_files(
    folder: pathlib.Path, files: Sequence[pathlib.Path]
) -> np.ndarray:
    """Images uint8 (N, H, W, 3); all must have one size."""
    try:
        import PIL.Image
    except ImportError:
        raise errors.UserError(
            str(folder),
            got="no Pillow, which reads image files",
            expected="it is installed",
            remedy="pip install pillow, or give an .npz",
        ) from None
    if not files:
        raise errors.UserError(
            str(folder), got="no images", expected=", ".join(_SUFFIXES)
        )
    images = []
    for path in files:
        try:
            with PIL.Image.open(path) as image:
                images.append(np.asarray(image.convert("RGB")))
        except OSError:
            raise errors.UserError(
                str(path), got="an unreadable file", expected="an image"
            ) from None
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        raise errors.UserError(
            str(folder),
            got=f"images of {len(shapes)} sizes, e.g. {sorted(shapes)[:2]}",
            expected="one size",
        )
    return np.stack(images)


def preprocess(
    images: np.ndarray,
    how: str,
    *,
    mean: np.ndarray | None = None,
    std: np.ndarray | None = None,
) -> np.ndarray:
    """From pixels 0..255 to model input units.

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

    Example:
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
