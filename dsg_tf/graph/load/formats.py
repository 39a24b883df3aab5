"""Identifies the format of a model; explains unsupported formats.

The format is detected from the content, not from the name: files get renamed,
and a failed download may still be named `.h5`.
"""

from __future__ import annotations

import enum
import os
import pathlib
import re
import zipfile

from dsg_tf.core import errors, files
from dsg_tf.graph.load import model_files

EXPECTED = model_files.EXPECTED

SAVED_MODEL_FILES = (
    "saved_model.pb",
    "saved_model.pbtxt",
    "saved_model.cpb",
)
# Folders below a path that are searched for a model.
_MAX_DEPTH = 3
_SHOWN = 3
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
# The text form of a GraphDef begins with one of its fields.
_TEXT_GRAPH = re.compile(rb"\s*(#.*\s+)?(node|versions|library)\s*:?\s*\{")
_WHOLE_MODEL = "save the whole model: model.export(path)"
_LOAD_WEIGHTS = (
    "build the model in Python, model.load_weights(path), then"
    " model.save('model.keras')"
)
_CONVERT = "convert it to a SavedModel first"

# Description and remedy of unsupported files, by suffix.
_OTHER_FILES = {
    ".onnx": ("an ONNX model", f"{_CONVERT}, for instance with onnx2tf"),
    ".pt": ("a PyTorch model", _CONVERT),
    ".pth": ("a PyTorch model", _CONVERT),
    ".safetensors": ("weights without a graph", _CONVERT),
    ".mlmodel": ("a Core ML model", _CONVERT),
    ".weights.h5": ("weights without an architecture", _LOAD_WEIGHTS),
    ".index": ("a checkpoint, weights without a graph", _WHOLE_MODEL),
    ".ckpt": ("a checkpoint, weights without a graph", _WHOLE_MODEL),
    ".data-00000-of-00001": (
        "a checkpoint, weights without a graph",
        _WHOLE_MODEL,
    ),
    ".pbtxt": (
        "a GraphDef as text",
        "import it in a tf.function and tf.saved_model.save that",
    ),
    ".json": ("a JSON file, no weights", _WHOLE_MODEL),
    ".zip": ("an archive", "unpack it and pass the folder"),
    ".tar": ("an archive", "unpack it and pass the folder"),
    ".gz": ("an archive", "unpack it and pass the folder"),
    ".tgz": ("an archive", "unpack it and pass the folder"),
}


class Format(enum.Enum):
    """A kind of model that can be loaded."""

    SAVED_MODEL = "SavedModel"
    KERAS = ".keras"
    HDF5 = ".h5"
    GRAPH_DEF = "GraphDef"
    TFLITE = ".tflite"


def located(path: pathlib.Path) -> pathlib.Path:
    """The model at a path, or the only one in the folders below it.

    Args:
      path: a file or folder.

    Returns:
      The path itself, unless it is a folder that is no model, or the
      saved_model.pb of a SavedModel, whose folder it is then.

    Raises:
      errors.UserError: several models lie below the folder.
    """
    path = files.saved_model_folder(path)
    if not path.is_dir() or _is_model(path):
        return path
    model_files.check(path)
    found: list[pathlib.Path] = []
    for folder, folders, names in os.walk(path):
        place = pathlib.Path(folder)
        if place != path and _is_model(place):
            found.append(place)
            folders.clear()
            continue
        found += [
            place / name
            for name in names
            if name.endswith((".keras", ".h5", ".hdf5"))
            and not name.endswith(".weights.h5")
        ]
        if len(place.relative_to(path).parts) >= _MAX_DEPTH:
            folders.clear()
    if len(found) > 1:
        found.sort()
        shown = ", ".join(map(str, found[:_SHOWN]))
        raise _unknown(
            path,
            f"a folder with {len(found)} models",
            f"pass one of them: {shown}",
        )
    return found[0] if found else path


def _is_model(folder: pathlib.Path) -> bool:
    names = {entry.name for entry in folder.iterdir()}
    return bool(
        names & set(SAVED_MODEL_FILES)
        or {"config.json", "model.weights.h5"} <= names
    )


def find(
    path: pathlib.Path, *, needs_moments: bool = False
) -> tuple[pathlib.Path, Format]:
    """The model at or below a path, and its format.

    Args:
      path: a file or folder.
      needs_moments: refuse a format that keeps no BatchNormalization moments.

    Raises:
      errors.UserError: as `located` and `identify`; a .tflite, where moments
        are needed.
    """
    path = located(path)
    kind = identify(path)
    if needs_moments and kind is Format.TFLITE:
        raise errors.UserError(
            str(path),
            got="a .tflite, in which BatchNormalization is folded: no moments"
            " are left to synthesise samples from",
            expected="the SavedModel or Keras model that it was made from",
            remedy="or pass your own samples: --samples=images.npz",
        )
    return path, kind


def identify(path: pathlib.Path) -> Format:
    """The format of the model at `path`.

    Args:
      path: a file or folder.

    Raises:
      errors.UserError: nothing is there, or something that cannot be loaded,
        a pipe or device for instance; says what it is and what to do with it.
    """
    if "://" in str(path) or ":/" in str(path)[2:]:
        raise _unknown(path, "an address", "download it, and pass the folder")
    model_files.check(path)
    if path.is_dir():
        return _identify_folder(path)
    return _identify_file(path)


def _identify_folder(path: pathlib.Path) -> Format:
    names = {entry.name for entry in path.iterdir()}
    if names & set(SAVED_MODEL_FILES):
        return Format.SAVED_MODEL
    if {"config.json", "model.weights.h5"} <= names:
        return Format.KERAS
    if not names:
        raise _unknown(path, "an empty folder", "")
    if "checkpoint" in names or any(n.endswith(".index") for n in names):
        raise _unknown(
            path, "a checkpoint, weights without a graph", _WHOLE_MODEL
        )
    if "model.json" in names:
        raise _unknown(
            path,
            "a TensorFlow.js model",
            "pass the model that it was made from",
        )
    raise _unknown(path, "a folder without saved_model.pb", "")


def _identify_file(path: pathlib.Path) -> Format:
    head = _head(path)
    if path.name in SAVED_MODEL_FILES:
        raise _unknown(
            path, "a file of a SavedModel", f"pass its folder: {path.parent}"
        )
    suffix = path.suffix.lower()
    if path.name.endswith(".weights.h5"):
        suffix = ".weights.h5"
    if suffix in _OTHER_FILES:
        raise _unknown(path, *_OTHER_FILES[suffix])
    if head.startswith(files.SAVED_MODEL_MAGIC) and suffix in (".pb", ""):
        raise _unknown(
            path,
            "the graph of a SavedModel under another name",
            "name it saved_model.pb, and pass its folder with variables/",
        )
    if suffix == ".pb" and _TEXT_GRAPH.match(head):
        raise _unknown(path, *_OTHER_FILES[".pbtxt"])
    if suffix == ".pb":
        return Format.GRAPH_DEF
    if head[4:8] == b"TFL3":
        return Format.TFLITE
    if head.startswith(_HDF5_MAGIC):
        if suffix not in (".h5", ".hdf5"):
            raise _unknown(
                path, f"an HDF5 file named {suffix}", "rename it to .h5"
            )
        return Format.HDF5
    if head.startswith(b"PK"):
        return _identify_archive(path, suffix)
    if suffix in (".keras", ".h5", ".hdf5", ".tflite"):
        size = path.stat().st_size
        raise _unknown(
            path,
            f"a damaged {suffix} file ({size} bytes that begin with"
            f" {head[:4]!r})",
            "download or save it again",
        )
    kind = f"a {suffix} file" if suffix else "a file of no known kind"
    raise _unknown(path, kind, "")


def _head(path: pathlib.Path) -> bytes:
    """The first bytes of a file, which tell its format."""
    try:
        with path.open("rb") as file:
            return file.read(64)
    except OSError as error:
        raise _unknown(
            path, f"a file that cannot be read ({error.strerror})", ""
        ) from error


def _identify_archive(path: pathlib.Path, suffix: str) -> Format:
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
    except Exception as error:  # BadZipFile, NotImplementedError, ValueError
        raise _unknown(
            path, f"a damaged archive ({error})", "download or save it again"
        ) from error
    if {"config.json", "model.weights.h5"} <= names:
        if suffix != ".keras":
            raise _unknown(
                path,
                f"a .keras archive named {suffix or 'otherwise'}",
                "rename it to .keras",
            )
        return Format.KERAS
    if any(name.endswith("data.pkl") for name in names):
        raise _unknown(path, *_OTHER_FILES[".pt"])
    raise _unknown(path, *_OTHER_FILES[".zip"])


def _unknown(path: pathlib.Path, got: str, remedy: str) -> errors.UserError:
    return errors.UserError(
        str(path), got=got, expected=EXPECTED, remedy=remedy
    )
