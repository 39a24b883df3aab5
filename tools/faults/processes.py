"""Commands of dsg_tf as children of this process, each with its limits.

Importing TensorFlow takes seconds; so this process imports it once, and every
case is a fork. That is sound as long as this process has one thread and has
never run an operation: `warm` makes sure of both.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import gc
import os
import pathlib
import resource
import runpy
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence

_PAUSE_S = 0.01
_GRACE_S = 5.0
# Of resident memory; every original takes less than a quarter of it.
_MOST_BYTES = 4 << 30
# A backstop for what grows between two looks; TensorFlow maps a few GiB.
_MOST_ADDRESSES = 24 << 30
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a child ended.

    Attributes:
      code: exit code; of a signal its negative number.
      stopped: `time` or `memory` where it was killed for these.
      stdout, stderr: what it wrote, undecodable bytes replaced.
      seconds: wall.
      orphans: processes of its session that outlived it, killed by now.
    """

    code: int
    stopped: str = ""
    stdout: str = ""
    stderr: str = ""
    seconds: float = 0.0
    orphans: int = 0


class Child:
    """A forked child with a session of its own.

    Args:
      body: what it does; the return value is the exit code.
      folder: gets `stdout` and `stderr`, is HOME, and has TMPDIR.
    """

    def __init__(self, body: Callable[[], int], folder: pathlib.Path):
        self._folder = folder
        for name in ("work", "tmp", "home"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self._start = time.monotonic()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _become(body, folder)

    def poll(self) -> int | None:
        """Exit code, None while it runs."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None

    def send(self, number: int) -> None:
        """Sends a signal to the child alone."""
        os.kill(self.pid, number)

    def wait(self, limit_s: float) -> Ended:
        """Waits for its end; after `limit_s` seconds of its life kills it."""
        stopped = ""
        while (code := self.poll()) is None:
            if time.monotonic() - self._start > limit_s:
                stopped = stopped or "time"
            elif _resident_bytes(self.pid) > _MOST_BYTES:
                stopped = stopped or "memory"
            if stopped:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)
            time.sleep(_PAUSE_S)
        seconds = time.monotonic() - self._start
        return Ended(
            code,
            stopped,
            self._text("stdout"),
            self._text("stderr"),
            seconds,
            _end_session(self.pid),
        )

    def _text(self, name: str) -> str:
        try:
            content = (self._folder / name).read_bytes()
        except FileNotFoundError:
            return ""
        return content.decode("utf-8", "replace")


def warm() -> None:
    """Imports what commands import, and makes sure that forks are sound.

    Raises:
      RuntimeError: an import has started threads, or TensorFlow's runtime.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras  # noqa: F401
    import tf_keras  # noqa: F401
    from tensorflow.python.eager import context

    from dsg_tf import pipeline, report  # noqa: F401

    # The one that waits for signals only reads a pipe.
    own = [t for t in threading.enumerate() if t.name != "signals"]
    waiting = threading.active_count() - len(own)
    threads = len(os.listdir("/proc/self/task")) - waiting
    runs = context._context is not None and context._context._initialized
    if threads != 1 or runs:
        raise RuntimeError(
            f"{threads} threads, TensorFlow {'' if runs else 'not '}running:"
            " a fork would not be sound"
        )
    gc.collect()
    gc.freeze()  # Else the first collection of each child copies everything.


def call(
    body: Callable[[], None], folder: pathlib.Path, *, limit_s: float = 120.0
) -> None:
    """Runs a function in a child, so that it may use TensorFlow.

    Raises:
      RuntimeError: it failed; with what it wrote.
    """

    def whole() -> int:
        body()
        return 0

    ended = Child(whole, folder).wait(limit_s)
    if ended.code or ended.stopped:
        raise RuntimeError(
            f"{ended.stopped or ended.code}: {ended.stderr[-2000:]}"
        )


def command(
    module: str,
    argv: Sequence[str],
    *,
    folder: pathlib.Path,
    before: Callable[[], None] | None = None,
) -> Child:
    """Starts a command line of dsg_tf in `folder`/work.

    Args:
      module: `quantize` of `dsg_tf.quantize`.
      argv: its flags.
      folder: the case's.
      before: done in the child first.
    """

    def body() -> int:
        if before is not None:
            before()
        sys.argv = [f"dsg_tf.{module}", *argv]
        return _exit_code(f"dsg_tf.{module}")

    return Child(body, folder)


def _exit_code(module: str) -> int:
    """Runs a module as `python -m` does; returns the exit code."""
    # Where `python -m` begins to look for modules.
    sys.path.insert(0, os.getcwd())
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        print(stop.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _become(body: Callable[[], int], folder: pathlib.Path) -> None:
    """Makes the forked child ready, runs `body`, and never returns."""
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        most = (_MOST_ADDRESSES, _MOST_ADDRESSES)
        resource.setrlimit(resource.RLIMIT_AS, most)
        for number, name in ((1, "stdout"), (2, "stderr")):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
            os.dup2(os.open(folder / name, flags, 0o666), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        # Whatever this process has made of them: a test has its own.
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(
            2, "w", 1, errors="backslashreplace", closefd=False
        )
        os.environ["HOME"] = os.environ["KERAS_HOME"] = str(folder / "home")
        os.environ["TMPDIR"] = str(folder / "tmp")
        os.chdir(folder / "work")
        code = body()
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            # What a process does at its end; TensorFlow's own destructors
            # take seconds and are left out.
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code & 0xFF)


def _resident_bytes(pid: int) -> int:
    try:
        text = pathlib.Path(f"/proc/{pid}/statm").read_text()
        return int(text.split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return 0


def _end_session(session: int) -> int:
    """Kills what is left of a session; returns how many those were."""
    left = [pid for pid in processes() if _session(pid) == session]
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(left)


def processes() -> list[int]:
    """Ids of all processes."""
    return [int(n) for n in os.listdir("/proc") if n.isdigit()]


def is_stopped(pid: int) -> bool:
    """Whether a process stands still by SIGSTOP."""
    return _stat(pid)[:1] == ["T"]


def _session(pid: int) -> int | None:
    stat = _stat(pid)
    return int(stat[3]) if stat and stat[0] != "Z" else None


def _stat(pid: int) -> list[str]:
    """State, parent, group and session of a process; empty if it is gone."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    # The name in brackets may hold spaces.
    return stat.rpartition(")")[2].split()[:4]


def naming(text: str) -> list[int]:
    """Ids of processes, this one aside, with `text` in their command line."""
    found = []
    for pid in processes():
        with contextlib.suppress(OSError):
            line = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
            if pid != os.getpid() and text.encode() in line:
                found.append(pid)
    return found


def end(pid: int) -> None:
    """Kills a process."""
    os.kill(pid, signal.SIGKILL)
