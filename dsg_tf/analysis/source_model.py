"""The model that is quantized: its graph, its BN layers, its input domains."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Mapping

from absl import logging

from dsg_tf.analysis import (
    bn_statistics,
    classifier_head,
    domain_recovery,
    index_inputs,
    input_domain,
)
from dsg_tf.config import run_config
from dsg_tf.core import errors
from dsg_tf.graph import fake_quant, frozen, ir
from dsg_tf.graph.load import formats, loading


@dataclasses.dataclass(frozen=True, eq=False)
class SourceModel:
    """A loaded model and what is known of its inputs.

    Attributes:
      graph: the frozen graph, BN intact, all dimensions but the batch known.
      layers: its BN layers.
      domains: the domain of each input, by name.
      fingerprint: hash of the graph, hex.
    """

    graph: ir.Graph
    layers: tuple[bn_statistics.BatchNorm, ...]
    domains: Mapping[str, input_domain.InputDomain]
    fingerprint: str

    @functools.cached_property
    def head(self) -> classifier_head.ClassifierHead | None:
        """The classifier at the end of the graph, None where there is none."""
        return classifier_head.find(self.graph)

    def log(self) -> None:
        """Tells the log what was found."""
        for name, domain in self.domains.items():
            logging.info("input %r: %s", name, domain.describe())
        logging.info("%d BatchNormalization layers", len(self.layers))

    @property
    def sample_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of one sample, by input name."""
        return {port.name: port.shape[1:] for port in self.graph.inputs}


def load(model: object, config: run_config.PipelineConfig) -> SourceModel:
    """Loads a model and recovers what its inputs look like.

    Args:
      model: as for `pipeline.quantize_model`.
      config: only its model fields, its method and `samples` are used.

    Raises:
      errors.UserError: it cannot be loaded, or it has no BN, or an input that
        no gradient reaches, where the method needs it.
    """
    if isinstance(model, str | os.PathLike):
        formats.find(pathlib.Path(model), needs_moments=config.needs_moments)
    graph = loading.load(
        model,
        signature=config.signature or None,
        tags=config.tags or None,
        input_shapes=_shapes(config),
        input_names=config.input_names or None,
        output_names=config.output_names or None,
        allow_unsafe_ops=config.allow_unsafe_ops,
    )
    _refuse_quantized(graph)
    graph = fake_quant.without(graph)
    find = bn_statistics.find
    if config.needs_moments:
        find = bn_statistics.require
    layers = find(graph)
    if not config.samples:
        _check_synthesisable(graph)
    domains = {
        port.name: domain_recovery.recover(
            graph, port.name, layers=layers, user_range=config.input_range
        )
        for port in graph.inputs
    }
    return SourceModel(graph, layers, domains, fingerprint(graph))


def _shapes(config: run_config.PipelineConfig):
    if not config.input_shapes:
        return None
    shapes = dict(config.input_shapes)
    return shapes[""] if set(shapes) == {""} else shapes


def fingerprint(graph: ir.Graph) -> str:
    """A hash of a graph's operations, constants and interface, hex."""
    digest = hashlib.sha256()
    for node in graph:
        digest.update(node.definition.SerializeToString(deterministic=True))
    for port in (*graph.inputs, *graph.outputs):
        digest.update(repr((port.name, port.tensor, port.shape)).encode())
    return digest.hexdigest()


def _refuse_quantized(graph: ir.Graph) -> None:
    node = fake_quant.quantized_op(graph)
    if node is not None:
        raise errors.UserError(
            "model",
            got=f"one that is quantized already ({node.op} {node.name})",
            expected="a float model, or one with FakeQuant operations",
            remedy="give the model that it was made of",
        )


def _check_synthesisable(graph: ir.Graph) -> None:
    for port in graph.inputs:
        if index_inputs.table_size(graph, port):
            continue
        try:
            if port.dtype.is_integer:
                frozen.with_float_input(graph, port.name)
            elif not port.dtype.is_floating:
                raise ValueError(f"input {port.name!r} is {port.dtype.name}")
        except ValueError as error:
            raise errors.UserError(
                f"input {port.name!r}",
                got=str(error),
                expected="numbers that a gradient can reach",
                remedy="pass your own inputs with --samples",
            ) from error
