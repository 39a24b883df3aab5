"""Runs a module of dsg_tf in a process that may crash or hang.

Native readers trust their input, so a damaged file can crash or block one. The
file is read in a child process first; if the child dies, the parent raises an
error of one line.
"""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

import dsg_tf


class Ended(NamedTuple):
    """How a child has ended.

    Attributes:
      code: exit code; negative, the number of a signal.
      fault: the name of the signal, or that the time limit was exceeded; empty
        if the child exited by itself.
      said: the last line of its standard output.
    """

    code: int
    fault: str
    said: str


def run(module: str, argv: Sequence[str], *, limit_s: float) -> Ended:
    """Runs `python -m module` on the same import path and waits for it.

    Args:
      module: `dsg_tf.tflite.rehearsal` for instance.
      argv: its arguments.
      limit_s: seconds after which it is killed.

    Raises:
      OSError: no process can be started.

    Examples:
      >>> run("dsg_tf.graph.load.hdf5_rehearsal", ["absent.h5"], limit_s=60)
      Ended(code=0, fault='', said='')
    """
    package = pathlib.Path(dsg_tf.__file__).absolute().parent.parent
    search = [str(package), *filter(None, sys.path)]
    try:
        done = subprocess.run(
            [sys.executable, "-m", module, *argv],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=limit_s,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(search)},
        )
    except subprocess.TimeoutExpired:
        return Ended(-signal.SIGKILL, f"not done after {limit_s:.0f} s", "")
    said = done.stdout.decode(errors="replace").strip().splitlines()
    fault = ""
    if done.returncode < 0:
        fault = signal.Signals(-done.returncode).name
    return Ended(done.returncode, fault, said[-1] if said else "")
