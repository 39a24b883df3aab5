"""Exit code and final line of a command, derived from its exception.

Errors that the user can fix have exit code 1. Unexpected exceptions have exit
code 70, and their traceback is written to a file in the run folder, or in the
folder of temporary files if the run folder is missing or not writable.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import platform
import signal
import sys
import tempfile
import traceback
from typing import NamedTuple

from dsg_tf.core import errors, quiet, signals, stages

MENDABLE = 1
DEFECT = 70
# Shows tracebacks, and those of crashed native code, on standard error.
ENVIRONMENT = "DSG_TF_TRACEBACK"
LOG = "error.log"
_LINE_CHARACTERS = 2_000
_CAUSE_CHARACTERS = 300

# What the user's machine may answer; any other number is a defect of ours.
_MENDABLE_ERRNOS = {
    getattr(errno, name)
    for name in (
        *("EACCES", "EPERM", "EROFS", "ENOENT", "EISDIR", "ENOTDIR"),
        *("ENOSPC", "EDQUOT", "EFBIG", "EIO", "ENAMETOOLONG", "ELOOP"),
        *("EMFILE", "ENFILE", "ENOMEM", "EAGAIN", "EBUSY", "ETXTBSY"),
        *("ESTALE", "EEXIST", "ENOTEMPTY", "EXDEV", "EOPNOTSUPP", "ENXIO"),
    )
    if hasattr(errno, name)
}


class Ending(NamedTuple):
    """What a command ends with."""

    code: int
    line: str


def of(error: BaseException, *, resumes: bool = False) -> Ending:
    """The ending for an exception; writes the log of a defect.

    Args:
      error: what has left the command's work.
      resumes: whether the same command goes on with what was under way.

    Examples:
      >>> of(errors.UserError("--seed", got="-1", expected="an integer >= 0"))
      Ending(code=1, line='error: --seed: got -1; expected an integer >= 0')
      >>> with stages.within("samples"):
      ...     of(KeyboardInterrupt(), resumes=True)
      Ending(code=130, line="interrupted in stage 'samples'; the same command \
goes on from there")
    """
    if isinstance(error, KeyboardInterrupt):
        return _stopped(error, resumes)
    known = error if isinstance(error, errors.UserError) else _known(error)
    if known is not None:
        return Ending(MENDABLE, line(str(known)))
    return Ending(DEFECT, line(_defect(error)))


def shows_tracebacks() -> bool:
    """Whether the user wants to see them on standard error."""
    return os.environ.get(ENVIRONMENT, "") not in ("", "0")


def line(message: str) -> str:
    """An error in one line, of a message of several, or a very long one.

    Examples:
      >>> line("--steps: got\\n'many'")
      "error: --steps: got 'many'"
    """
    text = " ".join(message.split())
    if len(text) > _LINE_CHARACTERS:
        half = _LINE_CHARACTERS // 2
        text = f"{text[:half]} ... {text[-half:]}"
    return f"error: {text}"


def _stopped(error: KeyboardInterrupt, resumes: bool) -> Ending:
    number = getattr(error, "number", signal.SIGINT)
    told = signals.told(number, stages.of(error))
    if resumes:
        told += "; the same command goes on from there"
    return Ending(signals.exit_code(number), told)


def _known(error: BaseException) -> errors.UserError | None:
    """The same as a user's error, where the machine is what has to change."""
    stage = f"stage {stages.of(error)!r}"
    # TensorFlow's is known by name: it need not have been imported.
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, MemoryError) or "ResourceExhaustedError" in kinds:
        return errors.UserError(
            stage,
            got=f"too little memory ({_cause(error)})",
            expected="memory for what it works on",
            remedy="fewer samples, a smaller --batch_size, or a machine that"
            " has more",
        )
    if isinstance(error, UnicodeEncodeError):
        return errors.UserError(
            stage,
            got=f"the name {error.object[:100]!a}",
            expected="names of files and folders in UTF-8",
        )
    if isinstance(error, OSError) and error.errno in _MENDABLE_ERRNOS:
        return errors.UserError(
            str(error.filename) if error.filename else stage,
            got=f"{error.strerror}"
            + (f" in {stage}" if error.filename else ""),
            expected="files and folders that can be read and written",
        )
    return None


def _cause(error: BaseException) -> str:
    """An exception's kind and the beginning of what it says."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # Whoever wrote it: it must not hide the first error.
        text = ""
    if len(text) > _CAUSE_CHARACTERS:
        text = text[:_CAUSE_CHARACTERS] + " ..."
    name = type(error).__name__
    return f"{name}: {text}" if text else name


def _defect(error: BaseException) -> str:
    text = _traceback(error)
    if shows_tracebacks():
        sys.stderr.write(text)
    log = _write(text)
    report = (
        f"with {log}, which has the traceback"
        if log
        else f"with what {ENVIRONMENT}=1 shows"
    )
    return (
        f"unexpected {_cause(error)}; in stage {stages.of(error)!r}; this is a"
        f" defect of dsg_tf: please report it to its maintainers {report}"
    )


def _traceback(error: BaseException) -> str:
    """What a report needs: the command, versions, where it came from."""
    try:
        lines = traceback.format_exception(error)
    except Exception as another:  # An error that cannot be formatted.
        lines = [f"{type(error).__name__} ({type(another).__name__})\n"]
    head = [
        f"command: {' '.join(sys.argv)}\n",
        f"stage: {stages.of(error)}\n",
        f"Python {platform.python_version()}, {platform.platform()}\n",
    ]
    for name in ("dsg_tf", "tensorflow", "keras", "numpy"):
        version = getattr(sys.modules.get(name), "__version__", None)
        if version:
            head.append(f"{name} {version}\n")
    said = quiet.kept()
    tail = ["what libraries said:\n", said] if said else []
    return "".join([*head, *lines, *tail])


def _write(text: str) -> str:
    """Writes the log; returns its path, empty where no disk takes it."""
    content = text.encode("utf-8", "backslashreplace")
    folder = stages.folder()
    if folder is not None:
        with contextlib.suppress(OSError):
            # Not over what is there: it may be a link to somebody's file.
            made = _new_file(content, folder, prefix=f".{LOG}.", suffix=".tmp")
            os.replace(made, folder / LOG)
            return str(folder / LOG)
    with contextlib.suppress(OSError):
        return str(_new_file(content, None, prefix="dsg_tf-", suffix=".log"))
    return ""


def _new_file(
    content: bytes, folder: pathlib.Path | None, *, prefix: str, suffix: str
) -> pathlib.Path:
    """Writes a file that was not there before; none is left if that fails."""
    descriptor, name = tempfile.mkstemp(suffix, prefix, folder)
    path = pathlib.Path(name)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return path
