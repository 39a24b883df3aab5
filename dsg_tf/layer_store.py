"""Finished layers of long layer-by-layer work, kept on disk.

A killed run goes on with what it had finished, if model, samples and settings
are the same; otherwise it begins anew.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import zipfile
from collections.abc import Mapping

import numpy as np

_KEY = "key.txt"


class LayerStore:
    """Arrays by layer in a folder.

    Args:
      folder: made if need be.
      key: text that identifies what the layers belong to. What was kept under
        another key is thrown away.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     store = LayerStore(pathlib.Path(folder) / "layers", "a key")
      ...     store.put("conv/1", {"kernel": np.ones(2)})
      ...     store.get("conv/1")["kernel"].tolist(), store.get("conv/2")
      ([1.0, 1.0], None)
    """

    def __init__(self, folder: str | os.PathLike, key: str):
        self._folder = pathlib.Path(folder)
        marker = self._folder / _KEY
        if not marker.exists() or marker.read_text() != key:
            self.remove()
            self._folder.mkdir()
            marker.write_text(key)

    def get(self, name: str) -> dict[str, np.ndarray] | None:
        """What was put under a name, None where nothing was."""
        try:
            with np.load(self._path(name)) as arrays:
                return dict(arrays)
        except (OSError, ValueError, zipfile.BadZipFile):
            # Not there, or damaged: it is computed again.
            return None

    def put(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Keeps arrays under a name: all of them, or none."""
        path = self._path(name)
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)

    def remove(self) -> None:
        """Throws everything away, the folder too."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, name: str) -> pathlib.Path:
        # A node's name is a path of its own.
        return self._folder / (
            name.replace("%", "%25").replace("/", "%2F") + ".npz"
        )
