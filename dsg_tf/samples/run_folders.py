"""The folder of a run: locked by one run, cleaned up after a failure."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator

from dsg_tf.core import (
    checkpoints,
    disk_space,
    errors,
    files,
    folder_lock,
    staging,
)
from dsg_tf.samples import sample_folder

SAMPLES = "samples.npz"
PARTS = "samples.parts"
# Finished layers of learned rounding, while it runs.
ROUNDING = "rounding.parts"
REPORT = "report.json"
PAGE = "report.html"
DISTANCES = "distances.csv"
_MEMBERS = (SAMPLES, PARTS, ROUNDING, REPORT, PAGE, DISTANCES)
_TRIES = 10


@contextlib.contextmanager
def claim(output: pathlib.Path) -> Iterator[pathlib.Path]:
    """Creates the run folder of an output and locks it.

    Temporary files of killed runs of this output are deleted. If the block
    fails by a user error, every file that it created in the folder is deleted;
    if it fails for another reason, only files from which no later run can
    resume. The folder is deleted if it was created here and is empty.

    Args:
      output: the file or folder that the run writes.

    Yields:
      The folder.

    Raises:
      errors.UserError: another run holds it, it cannot be made, or it holds
        links in the place of a run's files.

    Examples:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as place:
      ...     with claim(pathlib.Path(place) / "net.tflite") as folder:
      ...         folder.name
      ...     folder.exists()
      'net.tflite.run'
      False
    """
    folder = files.run_folder(output)
    with contextlib.ExitStack() as stack:
        made = _hold(folder, output, stack)
        _check_members(folder)
        for path in (output, *(folder / name for name in _MEMBERS)):
            staging.sweep(path)
        found = {n for n in _MEMBERS if os.path.lexists(folder / n)}
        try:
            yield folder
        except BaseException as error:
            if _comes_again(error):
                for name in set(_MEMBERS) - found:
                    _delete(folder, name)
            # An interrupted run is resumed, so its notes are kept.
            notes_count = not isinstance(error, Exception)
            _delete_idle(folder, made=made, notes_count=notes_count)
            raise


def forget(folder: pathlib.Path) -> None:
    """Deletes the state from which a run of this output would resume."""
    for name in (SAMPLES, PARTS, ROUNDING):
        _delete(folder, name)


def _comes_again(error: BaseException) -> bool:
    """Whether the same command would fail with the same error."""
    return isinstance(error, errors.UserError) and not isinstance(
        error, errors.ResourceError
    )


def _delete(folder: pathlib.Path, name: str) -> None:
    """Deletes a file or folder of a run by its name in the run folder."""
    if name == PARTS:
        sample_folder.remove_folder(folder / PARTS)
    elif name == ROUNDING:
        checkpoints.remove(folder / ROUNDING)
    else:
        (folder / name).unlink(missing_ok=True)


def _hold(
    folder: pathlib.Path, output: pathlib.Path, stack: contextlib.ExitStack
) -> bool:
    """Creates and locks the folder; returns whether it was created."""
    for _ in range(_TRIES):
        made = False
        with disk_space.reported(folder, every=True):
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                made = True
            if not folder.is_dir():
                raise NotADirectoryError(
                    20, "something that is no folder", str(folder)
                )
        inner = contextlib.ExitStack()
        inner.callback(_remove_if_empty, folder, made)
        try:
            inner.enter_context(
                folder_lock.hold(
                    folder, purpose=folder_lock.RUN, subject=str(output)
                )
            )
        except FileNotFoundError:  # Another run failed and deleted it.
            continue
        except BaseException:
            inner.close()
            raise
        stack.push(inner)
        return made
    raise errors.UserError(
        str(folder),
        got="a folder that others delete again and again",
        expected="one run at a time for an output",
    )


def _remove_if_empty(folder: pathlib.Path, made: bool) -> None:
    if made:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _check_members(folder: pathlib.Path) -> None:
    """Refuses symbolic links at the paths that the run will write."""
    for name in _MEMBERS:
        path = folder / name
        # samples.npz may be a link: if its key fits it is only read.
        if name != SAMPLES and path.is_symlink():
            raise errors.UserError(
                str(path),
                got="a symbolic link, which a run would write through",
                expected="a file of an earlier run, or nothing",
                remedy="remove the link",
            )
        files.refuse_special(path, expected="a file of an earlier run")


def _delete_idle(
    folder: pathlib.Path, *, made: bool, notes_count: bool
) -> None:
    """Deletes state from which no later run can resume."""
    with contextlib.suppress(OSError):
        begun = sample_folder.is_worth(folder / PARTS, notes_count=notes_count)
        if not begun:
            sample_folder.remove_folder(folder / PARTS)
        rounded = checkpoints.holds_any(folder / ROUNDING)
        if not rounded:
            checkpoints.remove(folder / ROUNDING)
        packed = os.path.lexists(folder / SAMPLES)
        if made and not (begun or rounded or packed):
            (folder / DISTANCES).unlink(missing_ok=True)
