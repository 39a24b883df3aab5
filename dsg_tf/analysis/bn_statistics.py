"""BatchNormalization layers of a frozen graph, and their statistics.

A BN layer holds, for every channel, the mean and the variance of its *input*
over the training set (moving_mean, moving_variance). Samples are synthesised
from these statistics.

Layers are found through edges: fused (FusedBatchNorm, V2, V3) and decomposed
(what Keras 3, tf.nn.batch_normalization and hand-written code leave behind),
with or without scale and centre, after any operation, of any rank.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from dsg_tf.analysis import bn_patterns, other_norms
from dsg_tf.core import errors
from dsg_tf.graph import evaluation, ir, memo, naming, ops


@dataclasses.dataclass(frozen=True, eq=False)
class BatchNorm:
    """One BatchNormalization layer in inference mode.

    Its output is `gamma * (x - mean) / sqrt(variance + epsilon) + beta`.

    Attributes:
      name: the layer's name as its owner knows it.
      input: the tensor x that the moments describe.
      output: the normalised tensor.
      channel_axis: the axis of x that mean and variance run along, >= 0.
      mean: moving mean, float32 (C,).
      variance: moving variance, float32 (C,).
      epsilon: the constant that was added to the variance.
      gamma: scale, float32 (C,); ones where the layer has none.
      beta: centre, float32 (C,); zeros where the layer has none.
      producer: the operation that computes x, bias included: `Conv2D`,
        `MatMul`, `Placeholder`, ...
    """

    name: str
    input: str
    output: str
    channel_axis: int
    mean: np.ndarray
    variance: np.ndarray
    epsilon: float
    gamma: np.ndarray
    beta: np.ndarray
    producer: str

    @property
    def sigma(self) -> np.ndarray:
        """Deviation with epsilon, `sqrt(variance + epsilon)`, float32 (C,)."""
        return np.sqrt(self.variance + np.float32(self.epsilon))

    @property
    def num_channels(self) -> int:
        return len(self.mean)


def output_moments(layer: BatchNorm) -> ir.Moments:
    """Mean and deviation of a BN layer's output: beta and |gamma|."""
    variance = layer.variance.astype(np.float64)
    # Where epsilon is not small beside the variance, the output varies less.
    share = np.sqrt(variance / np.maximum(variance + layer.epsilon, 1e-30))
    return ir.Moments(
        layer.beta.astype(np.float64),
        np.abs(layer.gamma.astype(np.float64)) * share,
    )


@memo.per_graph
def find(graph: ir.Graph) -> tuple[BatchNorm, ...]:
    """All BN layers of the graph, in topological order.

    Args:
      graph: a frozen graph.

    Returns:
      The layers; empty where the graph has none.

    Raises:
      errors.UserError: a layer is in training mode, or its moments are not
        finite or are negative.
    """
    found = []
    taken: set[str] = set()
    for node in reversed(list(graph)):
        if node.name in taken:
            continue
        if node.op in ops.BATCH_NORMS:
            matched = _fused(graph, node)
            if matched:
                found.append(matched)
        else:
            matched = bn_patterns.match(graph, node)
            if matched:
                found.append(matched)
                taken.update(_between(graph, matched))
    for norm in other_norms.find(graph):
        if norm.kind == other_norms.BATCH:
            raise _training_mode(graph, norm.node)
    found.reverse()
    return tuple(_resolve(graph, found))


def require(graph: ir.Graph) -> tuple[BatchNorm, ...]:
    """Like `find`, but a graph without BN is an error.

    Raises:
      errors.UserError: as in `find`, and where there is no BN; it names what
        was found instead and what can be done.
    """
    layers = find(graph)
    if layers:
        return layers
    raise errors.UserError(
        "model",
        got=f"no BatchNormalization layer ({other_norms.describe(graph)})",
        expected="BatchNormalization in inference mode, which samples are"
        " synthesised from",
        remedy="export the model before BN is folded, or pass your own inputs"
        " with --samples, or use --method=noise",
    )


def _fused(graph: ir.Graph, node: ir.Node) -> bn_patterns.Layer | None:
    if node.attr("is_training", True):
        if other_norms.is_fused_layer_norm(graph, node):
            return None
        raise _training_mode(graph, node)
    x, gamma, beta, mean, variance = node.inputs[:5]
    tensors = {
        "gamma": gamma,
        "beta": beta,
        "mean": mean,
        "variance": variance,
    }
    for what, tensor in tensors.items():
        if not graph.is_constant(tensor):
            raise errors.UserError(
                f"BatchNormalization {naming.LayerNames(graph)(node.output)}",
                got=f"a {what} that depends on the input",
                expected=f"a constant {what}",
                remedy="export the model in inference mode",
            )
    channels_first = node.attr("data_format", "NHWC").startswith("NC")
    rank = len(graph.shape(x) or (None,) * 4)
    return bn_patterns.Layer(
        input=x,
        output=node.output,
        tensors=tensors,
        epsilon=node.attr("epsilon", 1e-4),
        channel_axis=1 if channels_first else rank - 1,
    )


def _between(graph: ir.Graph, found: bn_patterns.Layer) -> set[str]:
    """Nodes of the layer itself, which no other layer may begin at."""
    inside = set()
    stack = [ir.node_name(found.output)]
    stop = ir.node_name(found.input)
    while stack:
        name = stack.pop()
        if name == stop or graph.is_constant(f"{name}:0"):
            continue
        inside.add(name)
        stack += [ir.node_name(t) for t in graph[name].inputs]
    return inside


def _resolve(
    graph: ir.Graph, found: list[bn_patterns.Layer]
) -> list[BatchNorm]:
    wanted = [t for f in found for t in f.tensors.values()]
    values = evaluation.evaluate(graph, wanted)
    names = naming.LayerNames(graph)
    layers = []
    for f in found:
        value = {
            k: np.asarray(values[t], np.float32) for k, t in f.tensors.items()
        }
        layers.append(_layer(graph, f, value, names))
    return layers


def _layer(
    graph: ir.Graph,
    found: bn_patterns.Layer,
    value: dict,
    names: naming.LayerNames,
) -> BatchNorm:
    variance, epsilon = _split_epsilon(value, found.epsilon)
    value["variance"] = variance
    channels = max(array.size for array in value.values())
    layer = BatchNorm(
        name=names(found.output),
        input=found.input,
        output=found.output,
        channel_axis=found.channel_axis,
        mean=_along(value["mean"], channels),
        variance=_along(variance, channels),
        epsilon=epsilon,
        gamma=_along(value.get("gamma", np.ones(1, np.float32)), channels),
        beta=_along(value.get("beta", np.zeros(1, np.float32)), channels),
        producer=_producer_op(graph, found.input),
    )
    for what in ("mean", "variance", "gamma", "beta"):
        array = getattr(layer, what)
        bad = int(np.sum(~np.isfinite(array)))
        if bad or (what == "variance" and (array < 0).any()):
            raise errors.UserError(
                f"BatchNormalization {layer.name}",
                got=f"{bad} of {channels} channels of its {what} not finite"
                if bad
                else "negative variance",
                expected="finite moments",
                remedy="the training of this model diverged or the file is"
                " damaged; export it again",
            )
    return layer


def _split_epsilon(
    value: dict[str, np.ndarray], epsilon: float | None
) -> tuple[np.ndarray, float]:
    """Tells the variance from the epsilon that was added to it.

    Addition commutes, so the pattern may have bound them the other way round.
    Epsilon is one number: the one of lower rank, or of fewer elements, or the
    smaller one. Where the sum was folded into one constant (`total`), epsilon
    is zero: only their sum matters anywhere.
    """
    if epsilon is not None:
        return value["variance"], float(epsilon)
    if "total" in value:
        return value.pop("total"), 0.0
    pair = value["variance"], value.pop("epsilon")
    small, large = sorted(pair, key=lambda a: (a.size, a.ndim, a.min()))
    if small.size > 1:
        return small + large, 0.0
    return large, float(small.item())


def _along(array: np.ndarray, channels: int) -> np.ndarray:
    return np.ascontiguousarray(np.broadcast_to(array.ravel(), (channels,)))


def _producer_op(graph: ir.Graph, tensor: str) -> str:
    """The operation behind x, looking through its bias, shape and type."""
    node = graph.producer(tensor)
    while True:
        if node.op in ("BiasAdd", "Squeeze", "ExpandDims", "Reshape", "Cast"):
            ahead = list(node.inputs[:1])
        elif node.op in ops.ADDITIONS:
            ahead = [t for t in node.inputs if not graph.is_constant(t)]
        else:
            break
        if len(ahead) != 1:
            break
        node = graph.producer(ahead[0])
    return node.op


def _training_mode(graph: ir.Graph, node: ir.Node) -> errors.UserError:
    return errors.UserError(
        f"BatchNormalization {naming.LayerNames(graph)(node.output)}",
        got="training mode (it uses the moments of the batch)",
        expected="inference mode",
        remedy="export with training=False: model.export(path), or"
        " tf.function(lambda x: model(x, training=False))",
    )
