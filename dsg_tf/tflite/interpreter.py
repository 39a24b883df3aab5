"""Runs .tflite files on real values and returns real values.

A thin wrapper over the LiteRT interpreter. Arrays are passed by public name;
integer inputs and outputs are converted with the file's own scales. Samples run
one at a time (exported models have batch 1). Intermediate tensors are available
on request.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping

import numpy as np
from ai_edge_litert import interpreter as litert

from dsg_tf.core import errors, quiet
from dsg_tf.quant import uniform
from dsg_tf.tflite import flatbuffer


class Interpreter:
    """A .tflite file, ready to run.

    Args:
      model: the file's bytes.
      delegates: whether XNNPACK runs the operations that it supports, as on a
        device. False runs the builtin kernels: slower, and integer results may
        differ by one.
      all_tensors: keep every tensor for `tensor`. This disables delegates,
        because XNNPACK does not fill the tensors inside its partitions.
      num_threads: threads of the kernels.

    Attributes:
      view: the file, read.

    Raises:
      UserError: not a .tflite file, or one that the kernels reject.
    """

    def __init__(
        self,
        model: bytes,
        *,
        delegates: bool = True,
        all_tensors: bool = False,
        num_threads: int = 2,
    ):
        self.view = flatbuffer.read(model)
        plain = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        default = litert.OpResolverType.AUTO
        try:
            # XNNPACK writes a message to standard error when it starts.
            with warnings.catch_warnings(), quiet.captured_stderr():
                # It warns about the memory of `all_tensors`, which is intended.
                warnings.simplefilter("ignore", UserWarning)
                self._interpreter = litert.Interpreter(
                    model_content=bytes(model),
                    experimental_op_resolver_type=(
                        default if delegates and not all_tensors else plain
                    ),
                    experimental_preserve_all_tensors=all_tensors,
                    num_threads=num_threads,
                )
                self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise errors.UserError(
                ".tflite model",
                got=f"the interpreter's refusal: {error}",
                expected="a file that the LiteRT interpreter runs",
            ) from error

    def invoke(self, sample: Mapping[str, np.ndarray]) -> None:
        """Runs one sample.

        Args:
          sample: by input name, without the batch axis; real values, which
            are quantized for integer inputs.
        """
        for name, tensor in self.view.input_names().items():
            values = np.asarray(sample[name])[np.newaxis]
            if tensor.params is not None:
                values = uniform.quantize(values, tensor.params)
            self._interpreter.set_tensor(
                tensor.index, values.astype(tensor.dtype)
            )
        self._interpreter.invoke()

    def invoke_again(self) -> None:
        """Runs on what `invoke` has set, for timing."""
        self._interpreter.invoke()

    def tensor(self, tensor: flatbuffer.Tensor) -> np.ndarray:
        """A copy of a tensor's value after `invoke`, in the file's type.

        Args:
          tensor: an output, or any tensor with `all_tensors`.
        """
        return self._interpreter.get_tensor(tensor.index)

    def real(self, tensor: flatbuffer.Tensor) -> np.ndarray:
        """A tensor's real value after `invoke`: dequantized where integer."""
        values = self.tensor(tensor)
        if tensor.params is None:
            return values
        return uniform.dequantize(values, tensor.params).astype(np.float32)

    def run(self, samples: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs samples one by one.

        Args:
          samples: (N, ...) by input name, real values in model input units.

        Returns:
          (N, ...) by output name: float32 real values, or the file's type for
          outputs that are not quantized.

        Raises:
          UserError: missing or unknown names, wrong shapes, unequal N, N = 0.
        """
        collected: dict[str, list[np.ndarray]] = {
            name: [] for name in self.view.output_names()
        }
        for sample in iterate(self.view, samples):
            self.invoke(sample)
            for name, tensor in self.view.output_names().items():
                # A scalar output gives one value per sample.
                collected[name].append(np.atleast_1d(self.real(tensor)))
        return {
            name: np.concatenate(values) for name, values in collected.items()
        }


def iterate(
    view: flatbuffer.Model, samples: Mapping[str, np.ndarray]
) -> Iterator[dict[str, np.ndarray]]:
    """Samples one by one, checked against a model's inputs.

    Args:
      view: the model.
      samples: (N, ...) by input name.

    Returns:
      An iterator of N samples by input name, without the batch axis.

    Raises:
      UserError: missing or unknown names, wrong shapes, unequal N, N = 0.
    """
    count = num_samples(view, samples)
    names = list(view.input_names())
    return ({name: samples[name][i] for name in names} for i in range(count))


def num_samples(
    view: flatbuffer.Model, samples: Mapping[str, np.ndarray]
) -> int:
    """Checks samples against the inputs and returns their number."""
    inputs = view.input_names()
    if set(samples) != set(inputs):
        raise errors.UserError(
            "samples",
            got="inputs " + ", ".join(sorted(samples)),
            expected="inputs " + ", ".join(sorted(inputs)),
        )
    counts = set()
    for name, tensor in inputs.items():
        shape = np.shape(samples[name])
        known = shape[1:] == tensor.shape[1:] or (
            tensor.dynamic and len(shape) == len(tensor.shape)
        )
        if not shape or not known:
            raise errors.UserError(
                f"samples of input {name!r}",
                got=f"shape {shape}",
                expected=f"(N, {', '.join(map(str, tensor.shape[1:]))})",
            )
        counts.add(shape[0])
    if len(counts) != 1 or 0 in counts:
        raise errors.UserError(
            "samples",
            got="counts " + ", ".join(map(str, sorted(counts))),
            expected="one count above 0 for all inputs",
        )
    return counts.pop()
