"""Ranges of all activations, from samples through the float .tflite.

The file that is going to be quantized is the one that is run, so that every
tensor has its own name and nothing has to be matched to the source graph.
Samples go through one by one and each tensor is observed and forgotten:
memory does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from dsg_tf import observers, qtypes
from dsg_tf.tflite import interpreter


def calibrate(
    float_tflite: bytes,
    samples: Mapping[str, np.ndarray],
    *,
    range_method: str = "minmax",
    spec: qtypes.QuantSpec | None = None,
    percentile: float = 99.99,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, qtypes.TensorRange]:
    """Observes every activation of a float .tflite.

    Args:
      float_tflite: by `tflite.convert.to_float`, batch 1.
      samples: (N, ...) by input name, model input units.
      range_method: an observer, see `observers.create`.
      spec: the grid that the ranges are for, which `mse` needs; by default 8
        bits, asymmetric.
      percentile: for `percentile`, in percent.
      progress: called with (samples done, samples) after each.

    Returns:
      Range by tensor name, zero included, for every float activation.

    Raises:
      UserError: unknown method, samples that do not fit the inputs, NaN or
        infinity in a tensor (named).
    """
    # Without delegates: XNNPACK leaves tensors inside its own graph unset.
    runner = interpreter.Interpreter(float_tflite, all_tensors=True)
    watched = [
        (
            tensor,
            observers.create(
                range_method, tensor.name, spec=spec, percentile=percentile
            ),
        )
        for tensor in runner.view.float_activations()
    ]
    total = interpreter.num_samples(runner.view, samples)
    for done, sample in enumerate(
        interpreter.iterate(runner.view, samples), start=1
    ):
        runner.invoke(sample)
        for tensor, observer in watched:
            observer.update(runner.tensor(tensor))
        if progress is not None:
            progress(done, total)
    return {tensor.name: observer.range() for tensor, observer in watched}
