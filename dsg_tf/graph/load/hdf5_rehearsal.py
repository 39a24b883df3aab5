"""Reads an HDF5 file in a child first: libhdf5 may crash or hang on damage.

Python exceptions in the child are ignored: `keras_files` reads the same file
afterwards and raises a more precise error.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import sys
import zipfile
from typing import IO

from dsg_tf.core import child_process, errors

_SECONDS = 20.0
# A slow disk, and zlib.
_BYTES_PER_S = 20e6
_WEIGHTS = "model.weights.h5"


def require_readable(path: pathlib.Path) -> None:
    """Refuses a file that crashes or blocks the process that reads it.

    Args:
      path: an .h5 file, a .keras archive, or the folder of one.

    Raises:
      errors.UserError: the reader crashed, or exceeded the time limit.
    """
    file = path / _WEIGHTS if path.is_dir() else path
    if not file.is_file() or not sys.executable:
        return
    limit_s = _SECONDS + file.stat().st_size / _BYTES_PER_S
    ended = child_process.run(__name__, [str(file)], limit_s=limit_s)
    if ended.fault:
        raise errors.UserError(
            str(path),
            got=f"a damaged file, on which its reader ends ({ended.fault})",
            expected="a whole Keras model",
            remedy="download or save it again",
        )


def read_all(path: str) -> None:
    """Reads every attribute and every dataset of a file; keeps nothing.

    Raises:
      Exception: what h5py and zipfile raise.
    """
    import h5py

    from dsg_tf.graph.load import hdf5_files

    with contextlib.ExitStack() as stack:
        source: IO[bytes] | str = path
        size = os.path.getsize(path)
        if zipfile.is_zipfile(path):
            archive = stack.enter_context(zipfile.ZipFile(path))
            size = archive.getinfo(_WEIGHTS).file_size
            source = stack.enter_context(archive.open(_WEIGHTS))
        file = stack.enter_context(hdf5_files.open_member(source))
        _read_attributes(file)
        hdf5_files.check(file, path, size=size)

        def read(name: str, item) -> None:
            del name
            _read_attributes(item)
            if isinstance(item, h5py.Dataset):
                item[()]

        file.visititems(read)


def _read_attributes(item) -> None:
    for name in item.attrs:
        item.attrs[name]


if __name__ == "__main__":
    with contextlib.suppress(Exception):
        read_all(sys.argv[1])
