"""How near a quantized .tflite comes to the float model.

Signal to quantization noise, sqnr_db = 10 log10(sum r^2 / sum (r - q)^2) with
reference r and quantized q, cosine similarity, agreement of the best class:
of outputs, and tensor by tensor to find where a network breaks. NaN or
infinity in the quantized model's values is the worst score there is.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np

from dsg_tf.tflite import flatbuffer, interpreter


@dataclasses.dataclass(frozen=True)
class Fidelity:
    """How near one output comes to its reference.

    Attributes:
      sqnr_db: signal to quantization noise, dB; inf where equal.
      cosine: cosine similarity of all values at once, -1..1.
      top1_agreement: share of samples with the same best class, 0..1; None
        for outputs that are not (N, classes > 1).
      max_abs_error: greatest absolute difference, in the output's units.
    """

    sqnr_db: float
    cosine: float
    top1_agreement: float | None
    max_abs_error: float


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
    """

    tensor: str
    op: str
    sqnr_db: float
    input_sqnr_db: float
    cosine: float


class Moments:
    """Sums from which SQNR and cosine follow; fed part by part."""

    def __init__(self):
        self._reference = self._output = self._product = self._error = 0.0
        self._finite = True

    def update(self, reference: np.ndarray, output: np.ndarray) -> None:
        """Takes in a part of both, of one shape.

        Raises:
          ValueError: unlike shapes, or a reference that is not finite.
        """
        r = np.asarray(reference, np.float64)
        q = np.asarray(output, np.float64)
        if r.shape != q.shape:
            raise ValueError(
                f"shapes: got {q.shape}; expected the reference's {r.shape}"
            )
        if not np.isfinite(r).all():
            raise ValueError("reference: got NaN or infinity")
        if not np.isfinite(q).all():
            self._finite = False
            return
        self._reference += float(np.sum(r * r))
        self._output += float(np.sum(q * q))
        self._product += float(np.sum(r * q))
        self._error += float(np.sum((r - q) ** 2))

    @property
    def sqnr_db(self) -> float:
        """10 log10(signal / noise), dB."""
        if not self._finite:
            return -math.inf
        if self._error == 0:
            return math.inf
        if self._reference == 0:
            return -math.inf
        return 10 * math.log10(self._reference / self._error)

    @property
    def cosine(self) -> float:
        """Cosine similarity; two zero vectors are alike."""
        if not self._finite:
            return -1.0
        norm = math.sqrt(self._reference) * math.sqrt(self._output)
        if norm == 0:
            return 1.0 if self._reference == self._output else 0.0
        return max(-1.0, min(1.0, self._product / norm))


def compare(reference: np.ndarray, output: np.ndarray) -> Fidelity:
    """Compares an output with its reference.

    Args:
      reference: (N, ...) of the float model, finite.
      output: (N, ...) of the quantized model, dequantized.

    Returns:
      The measures.

    Raises:
      ValueError: unlike shapes, or a reference that is not finite.

    Example:
      >>> f = compare(np.array([[3.0, 4.0]]), np.array([[3.0, 3.5]]))
      >>> round(f.sqnr_db, 2), f.top1_agreement, f.max_abs_error
      (20.0, 1.0, 0.5)
    """
    moments = Moments()
    moments.update(reference, output)
    r = np.asarray(reference, np.float64)
    q = np.asarray(output, np.float64)
    finite = np.isfinite(q)
    error = np.abs(r - q).max(initial=0.0) if finite.all() else math.inf
    agreement = None
    if r.ndim == 2 and r.shape[0] and r.shape[1] > 1:
        same = r.argmax(axis=1) == q.argmax(axis=1)
        agreement = float(np.mean(same & finite.all(axis=1)))
    return Fidelity(moments.sqnr_db, moments.cosine, agreement, float(error))


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
    moments = {name: Moments() for name in pairs}
    total = interpreter.num_samples(reference.view, samples)
    for done, sample in enumerate(
        interpreter.iterate(reference.view, samples), start=1
    ):
        reference.invoke(sample)
        quantized.invoke(sample)
        for name, (left, right) in pairs.items():
            moments[name].update(reference.tensor(left), quantized.real(right))
        if progress is not None:
            progress(done, total)
    rows = _rows(reference.view, moments)
    return sorted(rows, key=lambda row: row.sqnr_db)


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
    view: flatbuffer.Model, moments: Mapping[str, Moments]
) -> list[LayerFidelity]:
    rows = []
    for name, own in moments.items():
        op = view.producers.get(view.by_name[name].index)
        before = [
            moments[view.tensors[i].name].sqnr_db
            for i in (op.inputs if op else ())
            if i >= 0 and view.tensors[i].name in moments
        ]
        rows.append(
            LayerFidelity(
                tensor=name,
                op=op.name if op else "INPUT",
                sqnr_db=own.sqnr_db,
                input_sqnr_db=min(before, default=math.inf),
                cosine=own.cosine,
            )
        )
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

    Example:
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
