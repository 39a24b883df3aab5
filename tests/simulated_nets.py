"""Frozen graphs beside their .tflite: tensors matched by what they hold."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import tensorflow as tf
import tflite_nets
import tiny_graphs

from dsg_tf.analysis import quantization_points
from dsg_tf.export import calibration
from dsg_tf.graph import evaluation, frozen, ir
from dsg_tf.quant import qtypes, uniform
from dsg_tf.tflite import convert, export, flatbuffer, interpreter, op_support

_draw = tflite_nets._weights
_conv = tflite_nets._conv
_V = _draw(8)


def _upscaled(x):
    return tf.nn.conv2d_transpose(
        x, _draw(3, 3, 6, 4), [1, 16, 16, 6], 2, "SAME"
    )


def _dense(x):
    return tf.matmul(tf.reshape(x, [1, -1]), _draw(256, 10))


def _hard_swish(x):
    y = _conv(x)
    return y * tf.nn.relu6(y + 3) / 6


def _hard_swish_scaled_first(x):
    y = _conv(x)
    return y * ((1 / 6) * tf.nn.relu6(y + 3))


def _residual_with_concat(x):
    y = tf.nn.relu(_conv(x) + _V)
    z = tf.nn.relu6(y + _conv(y, _draw(3, 3, 8, 8)) * _V)
    y = _conv(y, _draw(2, 2, 8, 8), padding="VALID")
    y = tf.concat([tf.nn.max_pool2d(z, 2, 1, "VALID"), y], -1)
    return tf.nn.softmax(tf.reduce_mean(y, [1, 2]) @ _draw(16, 10) + _draw(10))


# What the converter merges, and what it does not although it could.
MERGES = {
    "add_clipped_to_0_6": lambda x: tf.clip_by_value(x + x[:, ::-1], 0.0, 6.0),
    "add_clipped_to_unit": lambda x: tf.clip_by_value(
        x + x[:, ::-1], -1.0, 1.0
    ),
    "concat_relu": lambda x: tf.nn.relu(
        tf.concat([_conv(x), 2 * _conv(x, _draw(1, 1, 4, 8))], -1)
    ),
    "conv1d_bias_relu": lambda x: tf.nn.relu(
        tf.nn.conv1d(tf.reshape(x, [1, 64, 4]), _draw(3, 4, 8), 1, "SAME") + _V
    ),
    "conv_bias_scale": lambda x: (_conv(x) + _V) * _V,
    "conv_clipped_to_0_1": lambda x: tf.clip_by_value(_conv(x), 0.0, 1.0),
    "conv_clipped_to_2": lambda x: tf.clip_by_value(_conv(x), -2.0, 2.0),
    "conv_divided": lambda x: _conv(x) / (_V + 2),
    "conv_flattened_relu": lambda x: tf.nn.relu(tf.reshape(_conv(x), [1, -1])),
    "conv_minus": lambda x: _conv(x) - _V,
    "conv_plus_map": lambda x: _conv(x) + _draw(1, 8, 8, 8),
    "conv_relu_scale": lambda x: tf.nn.relu(_conv(x)) * _V,
    "conv_subtracted": lambda x: _V - _conv(x),
    "dense_bias": lambda x: tf.nn.relu(_dense(x) + _draw(10)),
    "dense_minus": lambda x: _dense(x) - _draw(10),
    "dense_reshaped_bias": lambda x: (
        tf.reshape(_dense(x), [1, 1, 10]) + _draw(10)
    ),
    "dilated_depthwise_bias": lambda x: tf.nn.relu(
        tf.nn.depthwise_conv2d(
            x, _draw(3, 3, 4, 1), [1] * 4, "SAME", dilations=[2, 2]
        )
        + _draw(4)
    ),
    "gelu_by_tanh": lambda x: tf.nn.gelu(x, approximate=True),
    "hard_swish_alone": _hard_swish,
    "hard_swish_scaled_first": _hard_swish_scaled_first,
    "matrix_plus_vector": lambda x: (
        tf.matmul(tf.reshape(x, [1, 32, 8]), _draw(1, 8, 8)) + _V
    ),
    "maximum_0": lambda x: tf.maximum(_conv(x), 0.0),
    "mean_clipped_to_unit": lambda x: tf.clip_by_value(
        tf.reduce_mean(x, [1, 2]), -1.0, 1.0
    ),
    "mean_relu": lambda x: tf.nn.relu(tf.reduce_mean(x, [1, 2])),
    "pool_relu": lambda x: tf.nn.relu(tf.nn.avg_pool2d(x, 2, 2, "SAME")),
    "relu_twice": lambda x: tf.nn.relu6(tf.nn.relu(_conv(x))),
    "residual_with_concat": _residual_with_concat,
    "scaled_by_1": lambda x: tf.nn.relu(x * 1.0) * 1.0,
    "scaled_conv": lambda x: _conv(0.5 * x),
    "scaled_conv_by_channel": lambda x: _conv(_draw(4) * x),
    "scaled_conv_relu": lambda x: _conv(tf.nn.relu(0.5 * x)),
    "scaled_dense": lambda x: _dense(0.5 * x),
    "shifted_conv": lambda x: _conv(x + 0.5),
    "shifted_conv_unpadded": lambda x: _conv(0.1 * x + 0.5, padding="VALID"),
    "tensordot_bias_relu": lambda x: tf.nn.relu(
        tf.tensordot(x, _draw(4, 8), 1) + _V
    ),
    "transpose_conv_bias_relu": lambda x: tf.nn.relu(_upscaled(x) + _draw(6)),
    "transpose_conv_relu": lambda x: tf.nn.relu(_upscaled(x)),
}
NETS = tflite_nets.NETS | tflite_nets.STAND_IN_NETS | MERGES
# The converter computes once what these compute twice.
WITH_TWINS = frozenset({"concat_input", "hard_swish", "one_tensor_two_outputs"})

# Which axes of a kernel are its output channels.
_CHANNELS = {
    "BatchMatMulV2": (-1,),
    "Conv2D": (3,),
    "Conv2DBackpropInput": (2,),
    "DepthwiseConv2dNative": (2, 3),
    "MatMul": (1,),
}


def on_grid(graph: ir.Graph) -> ir.Graph:
    """The graph with weights on the 8-bit grid that the export chooses.

    Every channel reaches code 127, so that the exported integers are these.
    """
    nodes, grids = {}, {}
    for node in graph:
        if node.op not in _CHANNELS or not graph.is_constant(node.inputs[1]):
            continue
        (values,) = evaluation.evaluate(graph, [node.inputs[1]]).values()
        axes = [a % values.ndim for a in _CHANNELS[node.op]]
        if node.op == "BatchMatMulV2" and values.ndim != 2:
            axes = []  # One scale: the file keeps a BATCH_MATMUL.
        others = tuple(i for i in range(values.ndim) if i not in axes)
        bound = np.abs(values).max(others, keepdims=True)
        scale = uniform.symmetric_params(bound.ravel(), 8, axis=0).scale
        scale = scale.reshape(bound.shape).astype(np.float64)
        snapped = (np.rint(values / scale) * scale).astype(np.float32)
        constant = ir.Node.constant(f"{node.name}/on_grid", snapped)
        nodes[constant.name] = constant
        if len(axes) == 1 or node.op == "DepthwiseConv2dNative":
            grids[constant.output] = qtypes.QuantParams(
                scale.ravel(), np.zeros(scale.size, int), -127, 127, axis=0
            )
        inputs = list(node.inputs)
        inputs[1] = constant.output
        nodes[node.name] = node.with_inputs(inputs)
    return graph.replace_nodes(nodes, weight_grids=grids)


def to_float_tflite(graph: ir.Graph) -> bytes:
    """A graph of batch size 1 as a float .tflite."""
    return convert.to_float(
        frozen.to_function(graph, as_written=True),
        input_names=[port.name for port in graph.inputs],
        output_names=[port.name for port in graph.outputs],
    )


@dataclasses.dataclass(frozen=True)
class Matched:
    """Points of a graph and of its float .tflite, by the values they hold.

    Attributes:
      pairs: name in the .tflite by tensor of the graph.
      graph_only: points that the .tflite has not.
      tflite_only: (operation, tensor) the other way round.
    """

    pairs: dict[str, str]
    graph_only: list[str]
    tflite_only: list[tuple[str, str]]


def own_grids(view: flatbuffer.Model) -> list[int]:
    """Activations of a file whose grid is tied to none behind or before."""
    activations = {t.index for t in view.float_activations()}
    found = [i for i in view.inputs if i in activations]
    for op in view.ops:
        kind = op_support.scales(op)
        for index in op.outputs:
            readers = view.consumers[index]
            read = readers or index in view.outputs
            adopts = (
                kind is not op_support.Scales.FIXED
                and len(readers) == 1
                and index not in view.outputs
                and op_support.scales(readers[0]) is op_support.Scales.AS_OUTPUT
            )
            tied = kind is op_support.Scales.AS_INPUT or adopts
            if index in activations and read and not tied:
                found.append(index)
    return found


def match(
    graph: ir.Graph, float_tflite: bytes, sample: dict[str, np.ndarray]
) -> Matched:
    """Matches points by their sorted values on one sample, (1, ...)."""
    places = quantization_points.find(graph).places.values()
    kinds = quantization_points.Kind
    points = [p.tensor for p in places if p.kind in (kinds.OWN, kinds.FIXED)]
    feeds = [tf.constant(sample[port.name]) for port in graph.inputs]
    values = frozen.to_function(graph, points)(*feeds)
    runner = interpreter.Interpreter(float_tflite, all_tensors=True)
    runner.invoke({name: value[0] for name, value in sample.items()})
    left = {
        runner.view.tensors[i]: np.sort(
            runner.tensor(runner.view.tensors[i]), axis=None
        )
        for i in own_grids(runner.view)
    }
    pairs, graph_only = {}, []
    for point, value in zip(points, values, strict=True):
        wanted = np.sort(value.numpy(), axis=None)
        hits = [
            tensor
            for tensor, found in left.items()
            # Sums of a few hundred float32 products in another order.
            if found.shape == wanted.shape
            and np.allclose(found, wanted, rtol=1e-4, atol=1e-5)
        ]
        if hits:
            pairs[point] = hits[0].name
            del left[hits[0]]
        else:
            graph_only.append(point)
    makers = runner.view.producers
    return Matched(
        pairs,
        graph_only,
        [
            (makers[t.index].name if t.index in makers else "INPUT", t.name)
            for t in left
        ],
    )


def export_int8(
    float_tflite: bytes, samples: dict[str, np.ndarray]
) -> tuple[bytes, dict[str, qtypes.QuantParams]]:
    """The W8A8 .tflite, and its grids by tensor name."""
    ranges = calibration.calibrate(float_tflite, samples)
    exported = export.export(float_tflite, ranges)
    tensors = exported.requested.tensors
    return exported.model, {n: q.params for n, q in tensors.items()}


@functools.cache
def case(name: str) -> tuple[ir.Graph, bytes, Matched]:
    """A net with weights on the 8-bit grid, its float .tflite, both matched."""
    graph = on_grid(tiny_graphs.freeze(NETS[name], (1, *tflite_nets.SHAPE)))
    model = to_float_tflite(graph)
    return graph, model, match(graph, model, tflite_nets.samples(1))
