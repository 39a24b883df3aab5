"""Labelled images from files, in the units that a classifier takes."""

from __future__ import annotations

import pathlib

import numpy as np

from dsg_tf import errors

# What `preprocess` can do; its docstring has the formulas.
PREPROCESSING = ("none", "unit", "symmetric", "standardize")


def load(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads labelled images.

    Args:
      path: an .npz with `images` and `labels`, or a folder of
        `<class index>.jpg`, one image a class.

    Returns:
      Images (N, H, W, C), uint8 from a folder and as stored from an .npz,
      and labels int64 (N,).

    Raises:
      errors.UserError: nothing readable is there, or sizes differ.
    """
    source = pathlib.Path(path)
    if source.is_dir():
        return _read_folder(source)
    if not source.is_file():
        raise errors.UserError(
            path, got="nothing there", expected="an .npz file or a folder"
        )
    with np.load(source) as arrays:
        missing = {"images", "labels"} - set(arrays.files)
        if missing:
            raise errors.UserError(
                path,
                got=f"arrays {sorted(arrays.files)}",
                expected="arrays images and labels",
            )
        return arrays["images"], arrays["labels"].astype(np.int64)


def _read_folder(folder: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    from PIL import Image

    files = sorted(p for p in folder.glob("*.jpg") if p.stem.isdigit())
    if not files:
        raise errors.UserError(
            str(folder), got="no such image", expected="<class index>.jpg files"
        )
    images = [np.asarray(Image.open(p).convert("RGB")) for p in files]
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        raise errors.UserError(
            str(folder),
            got=f"images of {len(shapes)} sizes, e.g. {sorted(shapes)[:2]}",
            expected="one size",
        )
    return np.stack(images), np.array([int(p.stem) for p in files], np.int64)


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
