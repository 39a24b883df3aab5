"""What a benchmark says that a command took is the command's own."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from benchmarks import command


def test_memory_is_not_that_of_the_process_that_measures():
    held = np.ones(2**26)
    cost = command.run([sys.executable, "-c", "held = b'x' * 2**27"])
    assert 2**27 < cost.peak_bytes < held.nbytes
    assert cost.seconds > 0


def test_a_command_that_fails_is_no_measurement():
    with pytest.raises(subprocess.CalledProcessError):
        command.run([sys.executable, "-c", "raise SystemExit(3)"])
    two = [sys.executable, "-c", "raise SystemExit(2)"]
    with pytest.raises(subprocess.CalledProcessError):
        command.run(two)
    assert command.run(two, good=(0, 2)).seconds > 0
