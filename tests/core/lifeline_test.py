"""A process that follows its stdin ends with it; others do not care."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from dsg_tf.core import lifeline

_ROOT = pathlib.Path(__file__).absolute().parent.parent.parent
_CODE = """
import os, time
from dsg_tf.core import lifeline
lifeline.follow()
print(lifeline.ENVIRONMENT in os.environ, flush=True)
time.sleep(30)
"""


def _start(environment: dict) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", _CODE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(_ROOT), *sys.path]),
            **environment,
        },
    )
    # It does not hand the wish on to processes of its own.
    assert process.stdout.readline() == "False\n"
    return process


def test_process_ends_with_its_stdin():
    process = _start({lifeline.ENVIRONMENT: "1"})
    process.stdin.close()
    assert process.wait(10) == -signal.SIGKILL


def test_process_that_was_not_asked_to_goes_on():
    process = _start({})
    process.stdin.close()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.kill()
    process.wait()
