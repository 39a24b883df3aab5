"""SIGINT, SIGTERM and SIGHUP: a command reports its stage and ends.

The first signal raises `stages.Stopped` in the main thread, so that open files
and locks are released as for any error; if no work has started, the process
ends at once. A second SIGINT ends the process immediately.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

from dsg_tf.core import quiet, stages

INTERRUPTED = 130
TERMINATED = 143
# SIGHUP: the terminal is gone. Not every system has it.
_NUMBERS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if hasattr(signal, name)
)
# One Ctrl-C may come twice: from the terminal, and from who passes it on.
_ONE_S = 0.25


class _Process:
    """Whether the work is `over`, and a thread `watched` for signals."""

    def __init__(self):
        self.over = False
        self.watched = False


_process = _Process()


def exit_code(number: int) -> int:
    """130 for SIGINT, 143 for the others.

    Examples:
      >>> exit_code(signal.SIGINT), exit_code(signal.SIGTERM)
      (130, 143)
    """
    return INTERRUPTED if number == signal.SIGINT else TERMINATED


def told(number: int, where: str) -> str:
    """What is said of a signal.

    Examples:
      >>> told(signal.SIGTERM, "load")
      "terminated in stage 'load'"
    """
    word = "interrupted" if number == signal.SIGINT else "terminated"
    return f"{word} in stage {where!r}"


def install() -> None:
    """Handles the signals from now on; those that are ignored stay so.

    `nohup` ignores SIGHUP, and a shell SIGINT of what it runs in the
    background.
    """
    for number in _NUMBERS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """Handles the signals while a block runs; nothing where threads may not."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _NUMBERS}
    _process.over = False
    install()
    try:
        yield
    finally:
        stages.ask(None)
        for number, handler in before.items():
            # None: not set from Python, so that it cannot be set back.
            if handler is not None:
                signal.signal(number, handler)


def finish() -> None:
    """From here on a signal changes nothing: the work has come to its end."""
    _process.over = True


def ignore() -> None:
    """Ignores the signals from now on, also while the interpreter ends.

    Python gives back its own handlers before it destroys TensorFlow's objects,
    which takes a second: a signal would then end a finished run with the exit
    code of a failure.
    """
    for number in _NUMBERS:
        signal.signal(number, signal.SIG_IGN)


def _handle(number: int, frame) -> None:
    del frame
    if _process.over or stages.asked():
        return  # Of a second SIGINT `_watch` knows.
    stages.ask(number)
    if stages.idle():
        line = told(number, stages.current())
        quiet.say(f"{line}; nothing was written")
        os._exit(exit_code(number))
    raise stages.Stopped(number)


def watch() -> None:
    """Ends the process at a second SIGINT, also while native code runs.

    Python runs its handlers between two of its own instructions; a thread
    that reads the signals' numbers from a pipe need not wait for that.
    """
    if _process.watched:
        return
    _process.watched = True
    source, sink = os.pipe()
    os.set_blocking(sink, False)
    signal.set_wakeup_fd(sink, warn_on_full_buffer=False)
    # A copy of this process has signals of its own.
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
    threading.Thread(
        target=_watch, args=(source,), name="signals", daemon=True
    ).start()


def _watch(source: int) -> None:
    first: float | None = None
    while numbers := os.read(source, 64):
        for number in numbers:
            if number not in _NUMBERS:
                continue
            now = time.monotonic()
            if first is None:
                first = now
            elif number == signal.SIGINT and now - first > _ONE_S:
                quiet.say("interrupted again: ended at once")
                os._exit(INTERRUPTED)
