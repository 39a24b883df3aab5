"""Runs of a command, each in a process of its own, with its time and memory."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Sequence

# A process counts as its own what its parent held when it was started, so that
# the parent is a small process, and not a benchmark with models and images.
_MEASURED = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[2:], stdout=subprocess.DEVNULL)
if str(done.returncode) not in sys.argv[1].split(","):
    sys.exit(1)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a command took.

    Attributes:
      seconds: wall.
      peak_bytes: the greatest resident memory of one process.
    """

    seconds: float
    peak_bytes: int


def run(command: Sequence[str], *, good: Sequence[int] = (0,)) -> Cost:
    """Runs a command; what it prints on stdout is dropped.

    Args:
      command: program and arguments.
      good: exit codes of success.

    Raises:
      subprocess.CalledProcessError: it failed.

    Example:
      >>> run([sys.executable, "-c", "pass"]).peak_bytes < 10**8
      True
    """
    start = time.monotonic()
    process = subprocess.run(
        [sys.executable, "-c", _MEASURED, ",".join(map(str, good)), *command],
        check=True,
        stdout=subprocess.PIPE,
    )
    seconds = time.monotonic() - start
    unit = 1 if sys.platform == "darwin" else 1024
    return Cost(seconds, int(process.stdout) * unit)


def quantize(
    model: str | os.PathLike, output: str | os.PathLike, *flags: str
) -> Cost:
    """Runs `dsg_tf.quantize`; a doubtful result is measured as any other."""
    command = [sys.executable, "-m", "dsg_tf.quantize"]
    return run(
        [*command, f"--saved_model={model}", f"--output={output}", *flags],
        good=(0, 2),
    )
