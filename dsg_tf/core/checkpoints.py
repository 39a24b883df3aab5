"""Finished layers of long layer-by-layer work, kept on disk.

A killed run resumes from the finished layers if model, samples and settings are
the same; otherwise it starts again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import zipfile
from collections.abc import Mapping

import numpy as np
from absl import logging

from dsg_tf.core import array_files, disk_space

_KEY = "key.txt"
_SUFFIX = ".npz"
_TEMPORARY = ".tmp"
_NAME_BYTES = 200


class LayerStore:
    """Arrays by layer in a folder.

    Args:
      folder: made if need be.
      key: text that identifies what the layers belong to. What was kept under
        another key is thrown away.

    Examples:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     store = LayerStore(pathlib.Path(folder) / "layers", "a key")
      ...     store.put("conv/1", {"kernel": np.ones(2)})
      ...     store.get("conv/1")["kernel"].tolist(), store.get("conv/2")
      ([1.0, 1.0], None)
    """

    def __init__(self, folder: str | os.PathLike, key: str):
        self._folder = pathlib.Path(folder)
        self._key = key.encode("utf-8", "surrogateescape")
        marker = self._folder / _KEY
        with disk_space.reported(self._folder, every=True):
            if not _holds(marker, self._key):
                if holds_any(self._folder):
                    logging.info(
                        "%s: of another model or config; begun anew",
                        self._folder,
                    )
                remove(self._folder)
                self._folder.mkdir(exist_ok=True)
                marker.write_bytes(self._key)

    def get(self, name: str) -> dict[str, np.ndarray] | None:
        """The arrays stored under a name; None if there are none."""
        path = self._path(name)
        if not os.path.lexists(path):
            return None
        try:
            arrays, metadata = array_files.read(path)
            if metadata.get("of") != self._mark(name, arrays):
                raise array_files.UnreadableError("it is of something else")
            return {n: np.array(entry.load()) for n, entry in arrays.items()}
        except (OSError, array_files.UnreadableError) as error:
            logging.warning(
                "layer %s: what an earlier run kept is damaged (%s); it is"
                " computed again",
                name,
                str(error)[:200],
            )
            return None

    def put(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Stores arrays under a name, atomically.

        Raises:
          errors.UserError: there is no room for them.
        """
        path = self._path(name)
        temporary = path.with_suffix(_TEMPORARY)
        size = sum(np.asarray(array).nbytes for array in arrays.values())
        with disk_space.reported(path, bytes_needed=size, every=True):
            try:
                with temporary.open("w+b") as file:
                    np.savez(file, **arrays)  # type: ignore[arg-type]
                    with zipfile.ZipFile(file, "a") as archive:
                        archive.writestr(
                            "metadata.json",
                            f'{{"of": "{self._mark(name, arrays)}"}}',
                        )
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)

    def remove(self) -> None:
        """Deletes all layers and the folder."""
        remove(self._folder)

    def _mark(self, name: str, arrays: Mapping[str, object]) -> str:
        """Checksum that ties a file to its layer and key."""
        digest = hashlib.sha256(self._key)
        digest.update(repr((name, sorted(arrays))).encode())
        return digest.hexdigest()

    def _path(self, name: str) -> pathlib.Path:
        # Node names contain slashes.
        plain = name.replace("%", "%25").replace("/", "%2F")
        if len(os.fsencode(plain)) > _NAME_BYTES:
            plain = hashlib.sha256(os.fsencode(plain)).hexdigest()
        return self._folder / (plain + _SUFFIX)


def holds_any(folder: pathlib.Path) -> bool:
    """Whether a folder holds a finished layer."""
    return folder.is_dir() and any(folder.glob("*" + _SUFFIX))


def remove(folder: pathlib.Path) -> None:
    """Deletes the files of a store, and the folder if nothing else is in it."""
    if folder.is_symlink() or not folder.is_dir():
        return
    with contextlib.suppress(OSError):
        for suffix in (_SUFFIX, _TEMPORARY):
            for file in folder.glob("*" + suffix):
                file.unlink(missing_ok=True)
        (folder / _KEY).unlink(missing_ok=True)
        folder.rmdir()


def _holds(path: pathlib.Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except OSError:
        return False
