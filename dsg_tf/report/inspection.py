"""What dsg_tf finds in a model, before the long work; nothing is written."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping
from typing import Any

from dsg_tf.analysis import (
    bn_statistics,
    channel_paths,
    classifier_head,
    linear_layers,
    source_model,
)
from dsg_tf.config import needs, run_config
from dsg_tf.core import errors, stages, strict_json
from dsg_tf.export import writers
from dsg_tf.fidelity import output_kinds
from dsg_tf.graph import ir, naming
from dsg_tf.report import cost, run_report
from dsg_tf.tflite import flatbuffer, float_edges
from dsg_tf.transforms import passes


@dataclasses.dataclass(frozen=True)
class Input:
    """An input, and where its values lie.

    Attributes:
      name: in the signature.
      shape: batch first; None where open.
      dtype: TensorFlow's name.
      domain: bounds, mean and deviation, in the model's units, with the
        evidence.
      known: whether anything in the model tells them.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    domain: str
    known: bool


@dataclasses.dataclass(frozen=True)
class Output:
    """An output, and what fixes its values in synthesised samples.

    Attributes:
      name: in the signature.
      shape: batch first; None where open.
      kind: see `output_kinds.Kind`.
      covered_by: what drives the samples to the values that real inputs give.
    """

    name: str
    shape: tuple[int | None, ...]
    kind: str
    covered_by: str


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer with weights.

    Attributes:
      name: in the source model.
      operation: TensorFlow's.
      weights: number of them.
      shape: of its output, batch first.
      batch_norm: the BatchNormalization that describes its output; empty where
        none does.
    """

    name: str
    operation: str
    weights: int
    shape: tuple[int | None, ...]
    batch_norm: str


@dataclasses.dataclass(frozen=True)
class BatchNorm:
    """A BatchNormalization layer.

    Attributes:
      name: in the source model.
      channels: number of them.
      describes: the operation whose output its moments are of.
      treatment: folded into the layer before it, or what else.
    """

    name: str
    channels: int
    describes: str
    treatment: str


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What is known of a model before it is quantized.

    Attributes:
      model: its path, or what kind of object it is.
      fingerprint: hash of the graph, hex.
      inputs: see `Input`.
      outputs: see `Output`.
      layers: with weights, in order.
      batch_norms: in order.
      pairs: `first -> second` of layers that equalization can treat; reasons
        by layer are in `unpaired`.
      unpaired: why a layer has no pair, by name.
      untreated: (layer, operation) that no pass treats.
      float_operations: that stay float at the ends.
      float_bytes: of the float .tflite; None for a simulation.
      integer_bytes: about, of the integer .tflite; likewise.
      cost: the expected time and memory; None where the model is refused.
      refusal: why it cannot be quantized by this config; empty where it can.
      seconds: that the inspection took.
    """

    model: str
    fingerprint: str
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    layers: tuple[Layer, ...]
    batch_norms: tuple[BatchNorm, ...]
    pairs: tuple[str, ...]
    unpaired: Mapping[str, str]
    untreated: tuple[tuple[str, str], ...]
    float_operations: tuple[run_report.FloatOperation, ...]
    float_bytes: int | None
    integer_bytes: int | None
    cost: cost.Cost | None
    refusal: str
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON has them."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """The text that `--format=json` prints."""
        return strict_json.dumps(self.to_dict())


def inspect_model(
    model: object, *, config: run_config.PipelineConfig | None = None
) -> Inspection:
    """Looks at a model as `quantize_model` would, and stops before the work.

    Args:
      model: as for `quantize_model`.
      config: what would be done; by default int8 per channel.

    Returns:
      What was found. A model that loads, and that this config cannot export,
      has a `refusal`.

    Raises:
      errors.UserError: the model cannot be loaded, or has nothing to synthesise
        samples from.

    Examples:
      >>> found = inspect_model("examples/digits_saved_model")
      >>> [i.name for i in found.inputs], len(found.batch_norms), found.refusal
      (['image'], 13, '')
    """
    start = time.monotonic()
    config = needs.complete(config or run_config.PipelineConfig())
    with stages.within("load"):
        source = source_model.load(model, config)
    load_s = time.monotonic() - start
    with stages.within("inspect"):
        return _of(source, model, config, start=start, load_s=load_s)


def _of(
    source: source_model.SourceModel,
    model: object,
    config: run_config.PipelineConfig,
    *,
    start: float,
    load_s: float,
) -> Inspection:
    folded = passes.folded(source.graph)
    writer = writers.of(config.export)
    refusal, expected = "", None
    try:
        writer.check_model(source)
    except errors.UserError as error:
        refusal = str(error)
    else:
        expected = cost.estimate(source, folded, config, load_s=load_s)
    float_tflite = writer.float_tflite
    paths = channel_paths.find(folded)
    return Inspection(
        model=str(model)
        if isinstance(model, str | os.PathLike)
        else type(model).__name__,
        fingerprint=source.fingerprint,
        inputs=tuple(_inputs(source)),
        outputs=tuple(_outputs(source)),
        layers=tuple(_layers(source, folded)),
        batch_norms=tuple(_batch_norms(source, folded)),
        pairs=tuple(p.name for p in paths if isinstance(p, channel_paths.Path)),
        unpaired={
            p.first: p.reason
            for p in paths
            if isinstance(p, channel_paths.Broken)
        },
        untreated=linear_layers.untreated(folded),
        float_operations=_float_operations(float_tflite, config),
        float_bytes=None if float_tflite is None else len(float_tflite),
        integer_bytes=None
        if float_tflite is None
        else cost.integer_bytes(float_tflite, config),
        cost=expected,
        refusal=refusal,
        seconds=round(time.monotonic() - start, 2),
    )


def _inputs(source: source_model.SourceModel):
    for port in source.graph.inputs:
        domain = source.domains[port.name]
        yield Input(
            port.name,
            tuple(port.shape),
            port.dtype.name,
            domain.describe(),
            not domain.assumed,
        )


def _outputs(source: source_model.SourceModel):
    graph = source.graph
    kinds = output_kinds.find(graph)
    head = source.head
    behind = _behind_last_bn(source)
    for port in graph.outputs:
        yield Output(
            port.name,
            tuple(graph.shape(port.tensor) or ()),
            kinds[port.name].value,
            _coverage(port, head, behind),
        )


def _coverage(
    port: ir.Port,
    head: classifier_head.ClassifierHead | None,
    behind: Mapping[str, str],
) -> str:
    if head is not None and head.output == port.name:
        return f"a classification loss over {head.num_classes} classes"
    if behind[port.name]:
        return f"BatchNormalization {behind[port.name]}, before it"
    return "nothing: no BatchNormalization is before it"


def _behind_last_bn(source: source_model.SourceModel) -> dict[str, str]:
    """The last BN layer before each output, by name; empty without one."""
    ends = {ir.node_name(layer.output): layer.name for layer in source.layers}
    found = {}
    for port in source.graph.outputs:
        before = [
            ends[node.name]
            for node in source.graph.ancestors(port.tensor)
            if node.name in ends
        ]
        found[port.name] = before[-1] if before else ""
    return found


def _layers(source: source_model.SourceModel, folded: ir.Graph):
    made = {
        tensor: layer.name
        for layer in linear_layers.find(source.graph)
        for tensor in (layer.output, layer.linear_output)
    }
    described = {made.get(x.input, ""): x.name for x in source.layers}
    for layer in linear_layers.find(folded):
        yield Layer(
            layer.name,
            layer.op,
            int(layer.kernel.size),
            tuple(folded.shape(layer.output) or ()),
            described.get(layer.name, ""),
        )


def _batch_norms(source: source_model.SourceModel, folded: ir.Graph):
    names = naming.LayerNames(source.graph)
    left = {layer.name for layer in bn_statistics.find(folded)}
    before = {layer.name for layer in linear_layers.find(source.graph)}
    own = {
        layer.name
        for layer in linear_layers.find(folded)
        if layer.name not in before
    }
    for layer in source.layers:
        treatment = "folded into the layer with weights beside it"
        if layer.name in left:
            treatment = "multiply and add: no layer takes it"
        elif layer.name in own:
            treatment = "a depthwise convolution: no layer takes it"
        yield BatchNorm(
            layer.name,
            layer.num_channels,
            f"{layer.producer} {names(layer.input)}",
            treatment,
        )


def _float_operations(
    float_tflite: bytes | None, config: run_config.PipelineConfig
) -> tuple[run_report.FloatOperation, ...]:
    if float_tflite is None or not config.export.float_edges:
        return ()
    view = flatbuffer.read(float_tflite)
    edges = float_edges.find(
        view, activation_bits=config.export.activation_bits
    )
    return tuple(
        run_report.FloatOperation(
            view.ops[index].name,
            view.tensors[view.ops[index].outputs[0]].name,
            reason,
        )
        for index, reason in sorted({**edges.head, **edges.tail}.items())
    )
