"""Simulated quantization: the graph rounds where an integer .tflite would.

.tflite has activations of 8 and of 16 bits only. For other widths the same
graph, with TensorFlow's FakeQuantWithMinMaxVars behind every tensor that has
a grid, evaluates in TensorFlow what integers of that width would give, up to
the rounding of biases and of products inside the kernels.

References:
  Jacob et al., "Quantization and Training of Neural Networks for Efficient
  Integer-Arithmetic-Only Inference", CVPR 2018, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from dsg_tf.analysis import linear_layers
from dsg_tf.analysis import quantization_points as points_lib
from dsg_tf.graph import evaluation, ir
from dsg_tf.quant import qtypes, uniform
from dsg_tf.transforms import pass_report

_NAME = "insert_fake_quant"
_POINTS = (points_lib.Kind.OWN, points_lib.Kind.FIXED)


def quantization_points(graph: ir.Graph) -> tuple[str, ...]:
    """Tensors that have a grid of their own in an integer .tflite.

    Args:
      graph: a frozen graph, BN folded or not.

    Returns:
      Float tensors, `node:index`, in topological order; those among them
      whose grid the kernels prescribe (Softmax, Sigmoid, Tanh ...), too.

    Examples:
      >>> from dsg_tf.graph.load import loading
      >>> shifted = tf.function(
      ...     lambda x: tf.nn.relu(x + 1.0),
      ...     input_signature=[tf.TensorSpec((None, 3), name="x")],
      ... )
      >>> quantization_points(loading.load(shifted))
      ('x:0', 'Relu:0')
    """
    places = points_lib.find(graph).places.values()
    return tuple(p.tensor for p in places if p.kind in _POINTS)


def insert(
    graph: ir.Graph, grids: Mapping[str, qtypes.QuantParams]
) -> tuple[ir.Graph, pass_report.PassReport]:
    """Rounds every quantization point to its grid, and constant operands.

    Who reads a point, the outputs of the graph included, reads the rounded
    tensor. Outputs of a pooling or a resize, which compute on their input's
    grid, are rounded to it as well. A constant that is no weight (the other
    operand of an Add or Mul) is replaced by its values on the least grid that
    holds them, of the same width. The bias of a layer whose weights lie on a
    grid (`graph.weight_grids`) is rounded to the step of an integer bias,
    input scale * weight scale. Weights are left as they are.

    Args:
      graph: the frozen graph.
      grids: by `quantization_points`: 2 to 16 bits, asymmetric (all codes) or
        symmetric. Of a point whose grid the kernels prescribe, [0, 1] for
        Sigmoid and so on, only width and symmetry count, and it may be
        missing where all others are alike.

    Returns:
      The graph, and a row for each float tensor that depends on the inputs.

    Raises:
      ValueError: a point without a grid, a grid without a point, or a grid
        that FakeQuant cannot express.

    Examples:
      >>> from dsg_tf.graph.load import loading
      >>> shifted = tf.function(
      ...     lambda x: tf.nn.relu(x + 1.0),
      ...     input_signature=[tf.TensorSpec((None, 3), name="x")],
      ... )
      >>> grid = uniform.affine_params(qtypes.TensorRange(-1, 2), 4, False)
      >>> simulated, report = insert(
      ...     loading.load(shifted), {"x:0": grid, "Relu:0": grid}
      ... )
      >>> report.summary()
      'insert_fake_quant: 2 of 3 applied (1 merged with Relu)'
    """
    found = points_lib.find(graph)
    grids = _all_grids(found, grids)
    editor = _Editor(graph, found.unrounded)
    fed = {port.tensor for port in graph.inputs}
    rows = []
    for place in found.places.values():
        node = graph.producer(place.tensor).name
        reason, measured = place.reason, {}
        applied = place.kind is not points_lib.Kind.NONE
        if applied and graph.dtype(place.tensor) != tf.float32:
            applied = False
            reason = f"{graph.dtype(place.tensor).name}, not float32"
        if applied:
            params = grids[place.of]
            # At 8 bits, pixels that were scaled to [-1, 1] are ties, all of
            # them: half a step from two codes.
            editor.round_tensor(
                place.tensor, params, half_to_even=place.tensor in fed
            )
            measured = {
                "bits": _spec(params).bits,
                "scale": float(params.scale[0]),
                "zero_point": int(params.zero_point[0]),
            }
        rows.append(pass_report.Row(node, applied, reason, measured))
    values = evaluation.evaluate(graph, [o.tensor for o in found.operands])
    for operand in found.operands:
        if graph.dtype(operand.tensor) == tf.float32:
            editor.round_operand(
                operand, values[operand.tensor], _spec(grids[operand.of])
            )
    biases = _round_biases(editor, graph, found, grids)
    return editor.graph(), pass_report.PassReport(
        _NAME, tuple(rows), {"rounded_biases": biases}
    )


def _round_biases(
    editor: _Editor,
    graph: ir.Graph,
    found: points_lib.Points,
    grids: Mapping[str, qtypes.QuantParams],
) -> int:
    """Puts biases on the grids of a .tflite; how many."""
    count = 0
    for layer in linear_layers.find(graph):
        weights = graph.weight_grids.get(layer.kernel_tensor)
        data = found.places.get(layer.input)
        if weights is None or layer.bias is None or data is None:
            continue
        # What is scaled before the layer is so inside it, in a .tflite.
        if data.of != found.places[layer.output].of:
            step = grids[data.of].scale.astype(np.float64) * weights.scale
            editor.round_bias(layer, step)
            count += 1
    return count


def _all_grids(
    found: points_lib.Points, grids: Mapping[str, qtypes.QuantParams]
) -> dict[str, qtypes.QuantParams]:
    """The grid of every point, prescribed ones included."""
    points = [p for p in found.places.values() if p.kind in _POINTS]
    needed = {p.tensor for p in points if p.fixed is None}
    missing = sorted(needed - set(grids))
    unknown = sorted(set(grids) - {p.tensor for p in points})
    if missing or unknown:
        raise ValueError(
            f"grids: got none of {missing}, and {unknown}, which are no"
            " points; expected one for each quantization point"
        )
    specs = {tensor: _spec(params) for tensor, params in grids.items()}
    complete = dict(grids)
    for point in points:
        if point.fixed is None:
            continue
        spec = specs.get(point.tensor)
        if spec is None:
            if len(set(specs.values())) != 1:
                raise ValueError(
                    f"grid of {point.tensor}: got none, and several widths or"
                    " none elsewhere; expected one"
                )
            (spec,) = set(specs.values())
        complete[point.tensor] = _prescribed(point.fixed, spec)
    return complete


def _prescribed(
    value_range: qtypes.TensorRange, spec: qtypes.QuantSpec
) -> qtypes.QuantParams:
    """The kernels' grid of a range: [0, 1] has scale 1/256, ends at 255/256."""
    if spec.symmetric:
        bound = max(-value_range.min, value_range.max)
        scale = bound / 2 ** (spec.bits - 1)
        return qtypes.QuantParams(
            np.array([scale], np.float32),
            np.zeros(1, np.int64),
            spec.qmin,
            spec.qmax,
        )
    scale = value_range.width / 2**spec.bits
    zero_point = min(spec.qmin - round(value_range.min / scale), spec.qmax)
    return qtypes.QuantParams(scale, zero_point, spec.qmin, spec.qmax)


def _spec(params: qtypes.QuantParams) -> qtypes.QuantSpec:
    """Width and symmetry of a grid that FakeQuant can express."""
    bits = (params.qmax + 1).bit_length()
    if params.axis is None and 2 <= bits <= 16:
        for symmetric in (False, True):
            spec = qtypes.QuantSpec(bits, symmetric)
            if (spec.qmin, spec.qmax) == (params.qmin, params.qmax):
                return spec
    raise ValueError(
        f"grid of codes {params.qmin}..{params.qmax}, axis {params.axis}: no"
        " FakeQuant; expected one scale and the codes of 2 to 16 bits"
    )


class _Editor:
    """New nodes, and who reads them instead of what they were made of."""

    def __init__(self, graph: ir.Graph, unrounded: frozenset[tuple[str, str]]):
        self._graph = graph
        self._unrounded = unrounded
        self._added: dict[str, ir.Node] = {}
        self._rounded: dict[str, str] = {}
        self._operands: dict[tuple[str, str], str] = {}

    def round_tensor(
        self, tensor: str, params: qtypes.QuantParams, *, half_to_even: bool
    ) -> None:
        """Puts a FakeQuant behind a tensor; by itself it rounds half up."""
        name, _, index = tensor.rpartition(":")
        base = f"{name}/fake_quant" + (f"_{index}" if index != "0" else "")
        source = tensor
        if half_to_even:
            source = self._half_to_even(tensor, base, params.scale[0])
        spec, ends = _spec(params), params.range
        low = self._constant(f"{base}/min", np.asarray(ends.min, np.float32))
        high = self._constant(f"{base}/max", np.asarray(ends.max, np.float32))
        node = ir.Node.of(
            self._free(base),
            "FakeQuantWithMinMaxVars",
            [source, low, high],
            num_bits=spec.bits,
            # Symmetric grids drop the lowest code.
            narrow_range=spec.symmetric,
        )
        self._rounded[tensor] = self._add(node)

    def _half_to_even(self, tensor: str, base: str, scale: np.float32) -> str:
        """scale * rint(tensor / scale), not clipped."""

        def times(name: str, tensor: str, factor: np.float32) -> str:
            value = np.asarray(factor)
            operands = [tensor, self._constant(f"{name}/factor", value)]
            return self._add(
                ir.Node.of(self._free(name), "Mul", operands, T=tf.float32)
            )

        steps = times(f"{base}/steps", tensor, 1 / scale)
        name = self._free(f"{base}/codes")
        codes = self._add(ir.Node.of(name, "Round", [steps], T=tf.float32))
        return times(f"{base}/rounded", codes, scale)

    def round_operand(
        self,
        operand: points_lib.Operand,
        values: np.ndarray,
        spec: qtypes.QuantSpec,
    ) -> None:
        """Replaces a constant, which holds `values`, for one reader."""
        reader = self._graph[operand.node]
        # A .tflite multiplies by the reciprocal of a constant, and 1 / (1 / 0)
        # lets x / inf = 0 be what it makes of one that is rounded to zero.
        divisor = reader.op == "RealDiv" and reader.inputs[1] == operand.tensor
        with np.errstate(divide="ignore"):
            stored = 1 / values if divisor else values
            ends = qtypes.TensorRange(stored.min(), stored.max()).with_zero()
            params = uniform.affine_params(ends, spec.bits, spec.symmetric)
            rounded = uniform.fake_quantize(stored, params)
            rounded = 1 / rounded if divisor else rounded
        name = f"{ir.node_name(operand.tensor)}/quantized"
        self._operands[operand.node, operand.tensor] = self._constant(
            name, rounded.astype(np.float32)
        )

    def round_bias(
        self, layer: linear_layers.LinearLayer, step: np.ndarray
    ) -> None:
        """Rounds a layer's bias to integers times `step`, (O,) or (1,)."""
        codes = np.rint(layer.bias.astype(np.float64) / step)
        rounded = (codes * step).astype(np.float32)
        shape = self._graph.shape(layer.bias_tensor)
        if np.prod(shape, dtype=int) == rounded.size:
            rounded = rounded.reshape(shape)
        reader = ir.node_name(layer.output)
        self._operands[reader, layer.bias_tensor] = self._constant(
            f"{ir.node_name(layer.bias_tensor)}/quantized", rounded
        )

    def graph(self) -> ir.Graph:
        """The edited graph."""
        nodes = dict(self._added)
        for node in self._graph:
            inputs = tuple(self._read(node.name, t) for t in node.inputs)
            if inputs != node.inputs:
                nodes[node.name] = node.with_inputs(inputs)
        fed = {port.tensor for port in self._graph.inputs}
        outputs = [
            # An input that is an output passes a .tflite as it comes.
            port if port.tensor in fed else self._behind(port)
            for port in self._graph.outputs
        ]
        return self._graph.replace_nodes(nodes, outputs=outputs)

    def _read(self, reader: str, tensor: str) -> str:
        """What a node reads in place of a tensor."""
        if (reader, tensor) in self._operands:
            return self._operands[reader, tensor]
        if (reader, tensor) in self._unrounded:
            return tensor
        return self._rounded.get(tensor, tensor)

    def _behind(self, port: ir.Port) -> ir.Port:
        tensor = self._rounded.get(port.tensor, port.tensor)
        return ir.Port(port.name, tensor, port.dtype, port.shape)

    def _constant(self, name: str, value: np.ndarray) -> str:
        return self._add(ir.Node.constant(self._free(name), value))

    def _free(self, name: str) -> str:
        return ir.free_name(name, self._graph.nodes.keys() | self._added)

    def _add(self, node: ir.Node) -> str:
        self._added[node.name] = node
        return node.output
