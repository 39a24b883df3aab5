"""Time of one inference of a .tflite on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping

import numpy as np

from dsg_tf.tflite import interpreter

THREADS = (1, 2)
# Enough runs for a median, and no noticeable part of a conversion.
_SECONDS, _MOST_RUNS = 0.15, 50


def measure(model: bytes, sample: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Milliseconds of an inference, the median, by number of threads.

    Quantizing the input and reading the outputs are not in it. Other work on
    the machine is: numbers of one report can be compared with each other.

    Args:
      model: the file's bytes.
      sample: real values by input name, without the batch axis.

    Returns:
      `{"1": ms, "2": ms}`.
    """
    found = {}
    for threads in THREADS:
        runs = interpreter.Interpreter(model, num_threads=threads)
        runs.invoke(sample)  # The first one allocates.
        seconds: list[float] = []
        while sum(seconds) < _SECONDS and len(seconds) < _MOST_RUNS:
            start = time.perf_counter()
            runs.invoke_again()
            seconds.append(time.perf_counter() - start)
        found[str(threads)] = round(1000 * statistics.median(seconds), 3)
    return found
