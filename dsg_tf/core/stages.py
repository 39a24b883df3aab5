"""The current stage of a command, and its run folder.

Errors and signals are reported with the stage in which they occurred. Native
code and callbacks may swallow the exception of a signal; it is raised again
when the current stage ends or the next one begins.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator

START = "start"
_ATTRIBUTE = "_dsg_tf_stage"


class Stopped(KeyboardInterrupt):
    """A signal has asked the process to end.

    Args:
      number: of the signal.
    """

    def __init__(self, number: int):
        super().__init__()
        self.number = number


class _UnderWay:
    """The stages of this process, outermost first, and its run's folder."""

    def __init__(self):
        self.stages: list[tuple[str, bool]] = []
        self.folder: pathlib.Path | None = None
        self.asked: int | None = None


_now = _UnderWay()


@contextlib.contextmanager
def within(name: str, *, idle: bool = False) -> Iterator[None]:
    """Names what a block does.

    Args:
      name: of the stage, as users read it.
      idle: nothing is under way that would have to be undone.

    Raises:
      Stopped: a signal has come before, and nobody has ended for it.

    Examples:
      >>> with within("load"):
      ...     current()
      'load'
      >>> with within("run"):
      ...     with within("load"):
      ...         pass
      ...     current()
      'after load'
      >>> try:
      ...     with within("load"):
      ...         raise ValueError("no model")
      ... except ValueError as error:
      ...     of(error)
      'load'
    """
    _now.stages.append((name, idle))
    try:
        check()
        yield
        check()
    except BaseException as error:
        if not hasattr(error, _ATTRIBUTE):
            # Not every exception takes attributes.
            with contextlib.suppress(AttributeError, TypeError):
                setattr(error, _ATTRIBUTE, name)
        raise
    else:
        # What comes between two stages is told by the first of them.
        if _now.stages[:-1]:
            _now.stages[-2] = (f"after {name}", _now.stages[-2][1])
    finally:
        _now.stages.pop()


def current() -> str:
    """The innermost stage under way."""
    return _now.stages[-1][0] if _now.stages else START


def idle() -> bool:
    """Whether the process can end here and now, and nothing is lost."""
    # Before the first stage a command reads its flags.
    return _now.stages[-1][1] if _now.stages else True


def of(error: BaseException) -> str:
    """The innermost stage that an exception has left."""
    return getattr(error, _ATTRIBUTE, None) or current()


def set_folder(folder: str | os.PathLike | None) -> None:
    """Says where the run keeps its files; the folder need not be there yet."""
    _now.folder = None if folder is None else pathlib.Path(folder)


def folder() -> pathlib.Path | None:
    """The folder of the run, if it is there."""
    found = _now.folder
    return found if found is not None and found.is_dir() else None


def ask(number: int | None) -> None:
    """Notes that a signal asks to end; None takes it back."""
    _now.asked = number


def asked() -> bool:
    """Whether a signal has asked to end."""
    return _now.asked is not None


def cause(error: BaseException) -> BaseException:
    """The signal that has asked to end, where there is one, or the error.

    What native code makes of `Stopped` is another error: pybind11 says
    ImportError where the signal came while it was importing.
    """
    if _now.asked is None or isinstance(error, KeyboardInterrupt):
        return error
    stopped = Stopped(_now.asked)
    setattr(stopped, _ATTRIBUTE, of(error))
    return stopped


def check() -> None:
    """Ends what is under way, where a signal has asked for it.

    Raises:
      Stopped: it has.
    """
    if _now.asked is not None:
        raise Stopped(_now.asked)
