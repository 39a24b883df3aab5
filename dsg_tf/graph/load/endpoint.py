"""Freezes a concrete function to a graph and checks the graph.

The loaders of all formats produce an `Endpoint`: a concrete function with the
public names of its inputs and outputs. The requirements of the rest of dsg_tf
are checked here once: no side effects, dense numeric inputs with a batch axis,
finite weights, and known dimensions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
from absl import logging

from dsg_tf.core import errors
from dsg_tf.graph import (
    frozen,
    inlining,
    ir,
    precision,
    unrolling,
    volumes,
)
from dsg_tf.graph.load import open_shapes, safety, sizes

_INFERENCE = (
    "export the model for inference: model.export(path), or a tf.function that"
    " calls it with training=False"
)
# A constant operand of these is a weight; a mask with -inf is not one.
_WEIGHTED_OPS = frozenset(
    {
        "BiasAdd",
        "Conv2D",
        "Conv2DBackpropInput",
        "Conv3D",
        "DepthwiseConv2dNative",
        "FusedBatchNorm",
        "FusedBatchNormV2",
        "FusedBatchNormV3",
        "MatMul",
    }
)

Shapes = open_shapes.Shapes


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """What a loader finds in a model.

    Attributes:
      function: computes the outputs, in inference mode.
      inputs: names of its inputs, in the order of `function.inputs` without
        the captured ones.
      outputs: names of its flat outputs.
    """

    function: tf.types.experimental.ConcreteFunction
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @classmethod
    def of(cls, function: tf.types.experimental.ConcreteFunction) -> Endpoint:
        """Makes an endpoint with the names of the function's signature."""
        return cls(function, input_names(function), output_names(function))


def to_graph(
    endpoint: Endpoint,
    subject: str,
    *,
    input_shapes: Shapes | None = None,
    default_shape: open_shapes.Shape | None = None,
    output_names: Sequence[str] | None = None,
    allow_unsafe_ops: bool = False,
) -> ir.Graph:
    """Freezes an endpoint, checks it, and completes its input shapes.

    Args:
      endpoint: the endpoint.
      subject: what errors call the model.
      input_shapes: see `loading.load`.
      default_shape: see `loading.load`.
      output_names: see `loading.load`.
      allow_unsafe_ops: accept graphs that touch files or call Python.

    Raises:
      errors.UserError: as `loading.load`.
    """
    if not allow_unsafe_ops:
        safety.check_function(endpoint.function, subject)
    _refuse_writes(endpoint.function, subject)
    _refuse_bad_variables(endpoint.function, subject)
    _refuse_promises(endpoint.function, subject)
    try:
        graph = frozen.freeze(
            endpoint.function,
            input_names=endpoint.inputs,
            output_names=endpoint.outputs,
        )
    except ValueError as error:
        raise errors.UserError(
            subject,
            got=f"a graph that cannot be frozen ({errors.first_line(error)})",
            expected="an inference graph",
            remedy=_INFERENCE,
        ) from error
    graph = precision.in_float32(graph)
    if output_names is not None:
        graph = _with_outputs(graph, subject, output_names)
    _check_outputs(graph, subject)
    graph = _without_unused_inputs(graph)
    _check_inputs(graph, subject)
    _refuse_bad_constants(graph, subject)
    graph = open_shapes.complete(
        graph, subject, input_shapes, default=default_shape
    )
    try:
        graph = unrolling.unrolled(graph)
    except unrolling.TooLongError as error:
        raise errors.UserError(
            subject,
            got=str(error),
            expected="recurrent layers over fewer steps",
            remedy="give a shorter sequence by --input_shape",
        ) from error
    graph = volumes.as_images(graph)
    sizes.check_graph(graph, subject)
    return graph


def input_names(
    function: tf.types.experimental.ConcreteFunction,
) -> tuple[str, ...]:
    """Names of the inputs, in the order of `function.inputs`.

    Keyword arguments are named by their keys, all other inputs by their
    tensor specs.
    """
    _, keywords = function.structured_input_signature
    specs = tf.nest.flatten(
        function.structured_input_signature, expand_composites=True
    )
    specs = [s for s in specs if isinstance(s, tf.TypeSpec)]
    fed = len(function.inputs) - len(function.captured_inputs)
    if all(isinstance(s, tf.TensorSpec) for s in specs) and len(specs) == fed:
        if len(keywords) == fed:
            # tf.nest orders dictionaries by their keys.
            return tuple(sorted(keywords))
        names = [s.name for s in specs]
        if all(names) and len(set(names)) == fed:
            return tuple(names)
    return tuple(t.op.name for t in function.inputs[:fed])


def output_names(
    function: tf.types.experimental.ConcreteFunction,
) -> tuple[str, ...]:
    """Names of the flat outputs: the keys of a dictionary, or `output_<i>`."""
    structured = function.structured_outputs
    count = len(function.outputs)
    if isinstance(structured, Mapping) and len(structured) == count:
        return tuple(sorted(structured))
    return tuple(f"output_{i}" for i in range(count))


def _refuse_writes(
    function: tf.types.experimental.ConcreteFunction, subject: str
) -> None:
    """Refuses a graph that assigns to variables: it is a training graph."""
    graph_def = function.graph.as_graph_def()
    library = {f.signature.name: f for f in graph_def.library.function}
    stack = list(graph_def.node)
    seen: set[str] = set()
    while stack:
        node = stack.pop()
        if node.op.startswith(
            ("Assign", "ResourceApply", "ResourceScatter", "ApplyGradient")
        ):
            raise errors.UserError(
                subject,
                got=f"a graph that changes variables ({node.op} {node.name})",
                expected="an inference graph",
                remedy=_INFERENCE,
            )
        for name in inlining.called_functions(node):
            if name in library and name not in seen:
                seen.add(name)
                stack += library[name].node_def


def _refuse_promises(
    function: tf.types.experimental.ConcreteFunction, subject: str
) -> None:
    """Refuses a graph whose constants would not fit in memory when frozen."""
    graph_def = function.graph.as_graph_def()
    sizes.check_promises(graph_def.node, subject)
    for inner in graph_def.library.function:
        sizes.check_promises(inner.node_def, subject)


def _refuse_bad_variables(
    function: tf.types.experimental.ConcreteFunction, subject: str
) -> None:
    for variable in function.variables:
        if variable.dtype.is_floating:
            values = np.asarray(variable.numpy())
            if not np.isfinite(values).all():
                raise _bad_weights(subject, variable.name, values)


def _refuse_bad_constants(graph: ir.Graph, subject: str) -> None:
    """Refuses NaN anywhere, and infinity except in masks and bounds."""
    for node in graph:
        if node.op != "Const" or not graph.dtype(node.output).is_floating:
            continue
        values = graph.literal(node.output)
        if np.isfinite(values).all():
            continue
        weighted = any(
            c.op in _WEIGHTED_OPS for c in graph.consumers(node.output)
        )
        if weighted or np.isnan(values).any():
            raise _bad_weights(subject, node.name, values)


def _bad_weights(
    subject: str, name: str, values: np.ndarray
) -> errors.UserError:
    nan, bad = int(np.isnan(values).sum()), int((~np.isfinite(values)).sum())
    return errors.UserError(
        subject,
        got=f"{nan} NaN and {bad - nan} infinite among the {values.size} values"
        f" of {name.removesuffix(':0')!r}",
        expected="finite weights",
        remedy="the training of this model diverged or the file is damaged;"
        " export it again",
    )


def _with_outputs(
    graph: ir.Graph, subject: str, names: Sequence[str]
) -> ir.Graph:
    """Keeps only the outputs with these names, in the model's order.

    `x:0`, the name of a GraphDef's tensor, stands for its node's.
    """
    known = [port.name for port in graph.outputs]
    kept = []
    for name in names:
        kept.append(name if name in known else name.removesuffix(":0"))
        if kept[-1] not in known:
            raise errors.UserError(
                "--output_names",
                got=repr(name),
                expected=f"outputs of {subject}: {', '.join(known)}",
            )
    outputs = [port for port in graph.outputs if port.name in kept]
    return graph.replace_nodes({}, outputs=outputs)


def _check_outputs(graph: ir.Graph, subject: str) -> None:
    """Refuses non-numeric outputs, for instance strings with class names."""

    def is_number(port: ir.Port) -> bool:
        dtype = port.dtype
        return dtype.is_floating or dtype.is_integer or dtype.is_bool

    numbers = [port.name for port in graph.outputs if is_number(port)]
    others = [
        f"{port.name} ({port.dtype.name})"
        for port in graph.outputs
        if not is_number(port)
    ]
    if not others and numbers:
        return
    raise errors.UserError(
        subject,
        got="outputs that are no numbers: " + ", ".join(others)
        if others
        else "no output at all",
        expected="outputs that are numbers",
        remedy=f"--output_names={','.join(numbers)} leaves the others out"
        if numbers
        else "choose another --signature, or export one that returns the"
        " scores",
    )


def _without_unused_inputs(graph: ir.Graph) -> ir.Graph:
    """Removes inputs that no output depends on, such as `training`."""
    read = {
        node.name
        for port in graph.outputs
        for node in graph.ancestors(port.tensor)
    }
    kept = [p for p in graph.inputs if ir.node_name(p.tensor) in read]
    if len(kept) == len(graph.inputs):
        return graph
    names = sorted(p.name for p in graph.inputs if p not in kept)
    logging.warning("inputs that no output reads: %s", ", ".join(names))
    return graph.replace_nodes({}, inputs=kept)


def _check_inputs(graph: ir.Graph, subject: str) -> None:
    ports = {ir.node_name(port.tensor): port for port in graph.inputs}
    if not ports:
        raise errors.UserError(
            subject,
            got="a function whose outputs depend on no input",
            expected="a model of at least one input",
            remedy="choose another --signature",
        )
    for node in graph:
        if node.op == "Placeholder" and node.name not in ports:
            raise errors.UserError(
                subject,
                got=f"{graph.dtype(node.output).name} {node.name!r}, which is"
                " neither an input nor a variable",
                expected="a graph of tensors and variables alone",
                remedy="export a function without lookup tables and other"
                " resources",
            )
    for port in ports.values():
        dtype = port.dtype
        if not (dtype.is_floating or dtype.is_integer) or dtype.is_quantized:
            raise errors.UserError(
                f"{subject}, input {port.name!r}",
                got=f"{dtype.name} values",
                expected="float or integer values",
                remedy="export a function that starts behind the decoding, or"
                " choose another --signature",
            )
        if port.shape == ():
            raise errors.UserError(
                f"{subject}, input {port.name!r}",
                got="a scalar",
                expected="a batch of samples",
                remedy="export a function in which it is fixed",
            )
