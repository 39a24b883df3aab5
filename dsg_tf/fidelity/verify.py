"""Compares a quantized .tflite with the float model, tensor by tensor.

Signal to quantization noise, sqnr_db = 10 log10(sum r^2 / sum (r - q)^2) with
reference r and quantized q, cosine similarity, agreement of the best class:
of outputs, and tensor by tensor to find where a network breaks. NaN or
infinity in the quantized model's values is the worst score there is.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from dsg_tf.fidelity import output_fidelity, output_spread
from dsg_tf.tflite import flatbuffer, interpreter

# Beside its inputs, a tensor this small is what float32 rounds: the mean of
# what is centered, say.
_ROUNDING = 1e-5
# A constant that comes nearer than this is as good as what it stands for.
_DEAD_DB = 10.0

# The door to all comparisons.
Fidelity = output_fidelity.Fidelity
Moments = output_spread.Moments
compare = output_fidelity.compare
incomparable = output_fidelity.incomparable


@dataclasses.dataclass(frozen=True)
class LayerFidelity:
    """How near one tensor inside the model comes to its reference.

    Attributes:
      tensor: its name in both files.
      op: the operation that makes it.
      sqnr_db: as in `Fidelity`; errors of the layers before are in it.
      input_sqnr_db: the least of the operation's inputs: where it is high and
        `sqnr_db` low, the loss happens here.
      cosine: as in `Fidelity`.
      zero: whether the float values are all zero, or rounding beside the
        operation's inputs: what is left of them then does not matter.
      dead: whether the quantized values are the same for all samples and far
        from the float ones, which are not.
      position: in the order of the network, from 0.
    """

    tensor: str
    op: str
    sqnr_db: float
    input_sqnr_db: float
    cosine: float
    zero: bool = False
    dead: bool = False
    position: int = 0

    @property
    def badness(self) -> float:
        """The key by which the worst layer comes first, dB."""
        if self.zero:
            return math.inf
        return min(self.sqnr_db, 0.0) if self.dead else self.sqnr_db


class LayerSums:
    """What a `LayerFidelity` follows from; fed part by part.

    Attributes:
      moments: of all values.
    """

    def __init__(self):
        self.moments = output_spread.Moments()
        self._seen: tuple[set[int], set[int]] = (set(), set())

    def update(self, reference: np.ndarray, output: np.ndarray) -> None:
        """Takes in samples of both, (n, ...), of one shape."""
        self.moments.update(reference, output)
        for values, seen in zip((reference, output), self._seen, strict=True):
            # Checksums: values would be as large as all activations.
            if len(seen) < 2:
                seen.update(
                    zlib.crc32(np.ascontiguousarray(row)) for row in values
                )

    def row(
        self, tensor: str, op: str, inputs: Iterable[LayerSums]
    ) -> LayerFidelity:
        """The row of a tensor, made by `op` from the inputs."""
        before = [sums.moments for sums in inputs]
        own, (moved, followed) = self.moments, map(len, self._seen)
        size = max((m.reference_size for m in before), default=0.0)
        return LayerFidelity(
            tensor=tensor,
            op=op,
            sqnr_db=own.sqnr_db,
            input_sqnr_db=min((m.sqnr_db for m in before), default=math.inf),
            cosine=own.cosine,
            zero=own.reference_size <= _ROUNDING * size,
            dead=followed == 1 < moved and own.sqnr_db < _DEAD_DB,
        )


def per_layer(
    float_tflite: bytes,
    quantized_tflite: bytes,
    samples: Mapping[str, np.ndarray],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> list[LayerFidelity]:
    """Compares tensor by tensor, matched by name, over samples.

    Both files run on their own, so that a tensor's error holds what came
    before it. Sums alone are kept: memory does not grow with the samples.

    Args:
      float_tflite: the file that was quantized.
      quantized_tflite: the integer file made of it.
      samples: (N, ...) by input name, model input units.
      progress: called with (samples done, samples) after each.

    Returns:
      One row for each tensor that both files compute, worst SQNR first.
    """
    reference = interpreter.Interpreter(float_tflite, all_tensors=True)
    quantized = interpreter.Interpreter(quantized_tflite, all_tensors=True)
    pairs = _pairs(reference.view, quantized.view)
    sums = {name: LayerSums() for name in pairs}
    total = interpreter.num_samples(reference.view, samples)
    for done, sample in enumerate(
        interpreter.iterate(reference.view, samples), start=1
    ):
        reference.invoke(sample)
        quantized.invoke(sample)
        for name, (left, right) in pairs.items():
            r, q = reference.tensor(left), quantized.real(right)
            sums[name].update(r[np.newaxis], q[np.newaxis])
        if progress is not None:
            progress(done, total)
    rows = _rows(reference.view, sums)
    return sorted(rows, key=lambda row: row.badness)


def _pairs(
    reference: flatbuffer.Model, quantized: flatbuffer.Model
) -> dict[str, tuple[flatbuffer.Tensor, flatbuffer.Tensor]]:
    """Float and integer tensor of each name that both files have."""
    made_of = {
        quantized.tensors[op.inputs[0]].name: quantized.tensors[op.outputs[0]]
        for op in quantized.ops
        if op.name == "QUANTIZE"
        and quantized.tensors[op.inputs[0]].dtype == "float32"
    }
    pairs = {}
    for tensor in reference.float_activations():
        other = quantized.by_name.get(tensor.name)
        if other is not None and other.dtype == "float32":
            # The model's float input, say: what QUANTIZE made of it counts.
            other = made_of.get(tensor.name, other)
        if other is not None and other.shape == tensor.shape:
            pairs[tensor.name] = (tensor, other)
    return pairs


def _rows(
    view: flatbuffer.Model, sums: Mapping[str, LayerSums]
) -> list[LayerFidelity]:
    rows = []
    for name, own in sums.items():
        op = view.producers.get(view.by_name[name].index)
        before = [
            sums[view.tensors[i].name]
            for i in (op.inputs if op else ())
            if i >= 0 and view.tensors[i].name in sums
        ]
        row = own.row(name, op.name if op else "INPUT", before)
        position = op.index + 1 if op else 0
        rows.append(dataclasses.replace(row, position=position))
    return rows


def source_layer_name(
    tensor: str, order: Mapping[str, int] | None = None
) -> str:
    """The most telling source name of a (fused) .tflite tensor.

    The converter joins names of what it fused, "relu;batchnorm;conv", not in
    a reliable order, and adds call wrappers and digits.

    Args:
      tensor: the tensor's name in the file.
      order: position by node name of the source graph; the last node of the
        group is chosen. Without it, the first name of the group.

    Returns:
      A node's name; without `order`, freed of the wrappers.

    Examples:
      >>> source_layer_name("PartitionedCall/m/relu/Relu;;m/conv/Conv2D")
      'm/relu/Relu'
      >>> source_layer_name("f/m/c/Conv2D1;f/m/b/Add", {"m/c/Conv2D": 3})
      'm/c/Conv2D'
    """
    parts = [part for part in tensor.removesuffix(":0").split(";") if part]
    if order:
        known = [node for part in parts if (node := _known(part, order))]
        if known:
            return max(known, key=lambda node: order[node])
    named = [part for part in parts if not part.isdigit()]
    return _unwrapped(named[0]) if named else tensor


def readable_names(
    view: flatbuffer.Model, order: Mapping[str, int] | None = None
) -> dict[str, str]:
    """Source name of every computed float tensor, for people to read.

    An output of the model, which the converter renames, is named after the
    weights of its operation; what all names begin with is left out.

    Args:
      view: the float file.
      order: as for `source_layer_name`.

    Returns:
      Readable name by tensor name.
    """
    public = {t.name: name for name, t in view.output_names().items()}
    names = {}
    for op in view.ops:
        for index in op.outputs:
            name = view.tensors[index].name
            candidates = [name] + [
                view.tensors[i].name
                for i in op.inputs
                if i >= 0 and view.tensors[i].constant
            ]
            best = next(
                (c for c in candidates if order and _any_known(c, order)),
                next((c for c in candidates if "/" in c), ""),
            )
            names[name] = (
                source_layer_name(best, order)
                if best
                else public.get(name, source_layer_name(name))
            )
    prefix = _common_prefix(list(names.values()))
    return {name: text.removeprefix(prefix) for name, text in names.items()}


def _any_known(tensor: str, order: Mapping[str, int]) -> bool:
    return any(_known(part, order) for part in tensor.split(";"))


def _known(part: str, order: Mapping[str, int]) -> str:
    """The node of the source graph that a part of a name means, or ""."""
    for text in (part, part[:-1]) if part[-1:].isdigit() else (part,):
        while text:
            if text in order:
                return text
            text = text.partition("/")[2]
    return ""


def _unwrapped(name: str) -> str:
    name = name.removeprefix("serving_default_")
    while name.partition("/")[0].endswith("PartitionedCall") and "/" in name:
        name = name.partition("/")[2]
    return name


def _common_prefix(names: list[str]) -> str:
    """The leading path components that all names with a path share."""
    paths = [name.split("/")[:-1] for name in names if "/" in name]
    if len(paths) < 2:
        return ""
    shared = []
    for level in zip(*paths, strict=False):
        if len(set(level)) != 1:
            break
        shared.append(level[0])
    return "".join(part + "/" for part in shared)
