"""A command that does what its flag says: how it ends is what is tested."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import pathlib
import sys
import threading
import time

from absl import flags

from dsg_tf.command_line import cli
from dsg_tf.core import errors, progress, quiet, stages

_FLAGS = flags.FlagValues()
flags.DEFINE_string("act", "", "What to do.", flag_values=_FLAGS)
flags.DEFINE_string("folder", "", "Of the run.", flag_values=_FLAGS)
flags.DEFINE_bool("resume", True, "Go on.", flag_values=_FLAGS)
flags.DEFINE_integer("number", 0, "Any.", flag_values=_FLAGS)
flags.DEFINE_float("share", 0.0, "Any.", flag_values=_FLAGS)
flags.DEFINE_list("names", [], "Any.", flag_values=_FLAGS)


def _ready() -> None:
    """Tells the test that it may send a signal."""
    print("ready", flush=True)


def _sleep() -> None:
    try:
        _ready()
        time.sleep(60)
    finally:
        print("closed", flush=True)


def _close_slowly() -> None:
    try:
        _ready()
        time.sleep(60)
    finally:
        print("closing", flush=True)
        time.sleep(1)
        print("closed", flush=True)


def _swallow() -> None:
    with contextlib.suppress(BaseException):
        _ready()
        time.sleep(60)
    with contextlib.suppress(ValueError):
        print("swallowed", flush=True)


def _swallow_in_steps() -> None:
    with progress.task("steps", 1000) as task:
        for _ in range(1000):
            with contextlib.suppress(BaseException):
                _ready()
                time.sleep(60)
            print("swallowed", flush=True)
            task.advance()


def _native() -> None:
    """Seconds of work without a single instruction of Python's."""
    _ready()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 200_000_000)


def _importing() -> None:
    with quiet.importing():
        with contextlib.suppress(BaseException):
            os.write(1, b"ready\n")
            time.sleep(60)
        os.write(1, b"swallowed\n")


def _fail_in_a_thread() -> None:
    def fail():
        raise ValueError("in the thread")

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()


class _Fails:
    def __del__(self):
        raise ValueError("while it is thrown away")


def _raise(error: BaseException) -> None:
    raise error


class _Wordless(Exception):
    def __str__(self):
        raise ValueError("no words")


# As TensorFlow names it.
class ResourceExhaustedError(Exception):
    pass


def _too_deep() -> None:
    _too_deep()


def _translate() -> None:
    """What pybind11 does to a signal that comes in an import of its own."""
    try:
        _sleep()
    except BaseException:
        raise ImportError("initialization failed") from None


def _end_slowly() -> None:
    """Native code sleeps when Python itself is gone, as TensorFlow's does."""
    library = ctypes.CDLL(None)
    library.__cxa_atexit(library.sleep, ctypes.c_void_p(2), None)
    print("ready", flush=True)


_ACTS = {
    "": lambda: None,
    "sleep": _sleep,
    "close_slowly": _close_slowly,
    "swallow": _swallow,
    "swallow_in_steps": _swallow_in_steps,
    "translate": _translate,
    "end_slowly": _end_slowly,
    "native": _native,
    "importing": _importing,
    "thread": _fail_in_a_thread,
    "del": lambda: _Fails() and None,
    "print": lambda: print("Maße\n" * 100_000),
    "user": lambda: _raise(errors.UserError("a", got="b", expected="c")),
    "value": lambda: _raise(ValueError("two\nlines")),
    "long": lambda: _raise(ValueError("x" * 10_000)),
    "wordless": lambda: _raise(_Wordless()),
    "exit": lambda: sys.exit(0),
    "exit_text": lambda: sys.exit("a library's words"),
    "memory": lambda: _raise(MemoryError("Unable to allocate 3 GiB")),
    "tensor_memory": lambda: _raise(ResourceExhaustedError("OOM when")),
    "recursion": _too_deep,
    "key": lambda: _raise(KeyError("k")),
    "warning": lambda: _raise(UserWarning("as an error")),
    "missing": lambda: os.stat("no such file"),
    "space": lambda: _raise(OSError(errno.ENOSPC, "No space left on device")),
    "bad_descriptor": lambda: os.fstat(999),
    "surrogate": lambda: pathlib.Path(os.devnull).write_text("\udcff", "utf-8"),
}


def main() -> int:
    if _FLAGS.folder:
        stages.set_folder(_FLAGS.folder)
    with stages.within("work"):
        _ACTS[_FLAGS.act]()
    print("done", flush=True)
    return 0


if __name__ == "__main__":
    cli.run(
        main,
        usage="Does what --act says.",
        groups={"Flags": tuple(_FLAGS)},
        values=_FLAGS,
        resumes=lambda: _FLAGS.resume,
    )
