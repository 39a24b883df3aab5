"""Points are where the converted file has a grid, on every tiny net."""

from __future__ import annotations

import pytest
import simulated_nets
import tensorflow as tf
import tiny_graphs

from dsg_tf.analysis import quantization_points
from dsg_tf.tflite import flatbuffer, op_support

_Kind = quantization_points.Kind


def _kinds(function, *shapes) -> dict[str, str]:
    """Kind by tensor of a function of 8x8 images."""
    graph = tiny_graphs.freeze(function, *(shapes or [(1, 8, 8, 4)]))
    places = quantization_points.find(graph).places
    return {name: place.kind.name for name, place in places.items()}


def _operands(view: flatbuffer.Model) -> int:
    """Constants that the file quantizes on grids of their own."""
    return sum(
        index >= 0
        and view.tensors[index].constant
        and view.tensors[index].dtype == "float32"
        for op in view.ops
        if op.name not in op_support.WEIGHTS
        and op.name != "BATCH_MATMUL"
        and op_support.scales(op) is not op_support.Scales.AS_OUTPUT
        for index in op.inputs
    )


@pytest.mark.parametrize(
    "name", sorted(set(simulated_nets.NETS) - simulated_nets.WITH_TWINS)
)
def test_points_are_the_tensors_with_a_grid_of_their_own_in_the_file(name):
    graph, model, matched = simulated_nets.case(name)
    assert matched.graph_only == []
    assert matched.tflite_only == []
    operands = quantization_points.find(graph).operands
    assert len(operands) == _operands(flatbuffer.read(model))


def test_every_tensor_leads_to_one_with_a_grid():
    for name in simulated_nets.NETS:
        places = quantization_points.find(simulated_nets.case(name)[0]).places
        for place in places.values():
            end = places[place.of]
            assert end.kind in (_Kind.OWN, _Kind.FIXED), place
            assert (end is place) == (place.kind in (_Kind.OWN, _Kind.FIXED))
            assert place.reason


def test_a_chain_ends_where_someone_else_reads():
    kernel = simulated_nets._draw(3, 3, 4, 4)

    def twice_read(x):
        y = tf.nn.conv2d(x, kernel, 1, "SAME")
        return tf.nn.relu(y + 1.0) + y

    assert _kinds(twice_read) == {
        "x:0": "OWN",
        "Conv2D:0": "OWN",
        "add:0": "NONE",
        "Relu:0": "OWN",
        "add_1:0": "OWN",
    }


def test_a_chain_ends_at_an_output():
    kernel = simulated_nets._draw(3, 3, 4, 4)

    def shown(x):
        y = tf.nn.conv2d(x, kernel, 1, "SAME")
        return y, tf.nn.relu(y)

    assert _kinds(shown) == {"x:0": "OWN", "Conv2D:0": "OWN", "Relu:0": "OWN"}


def test_a_concat_does_not_change_what_others_read():
    def shared(x):
        y = tf.nn.relu(x)
        return tf.concat([y, tf.abs(x)], -1), tf.exp(y)

    assert _kinds(shared) == {
        "x:0": "OWN",
        "Relu:0": "OWN",
        "Abs:0": "NONE",
        "concat:0": "OWN",
        "Exp:0": "OWN",
    }


def test_batch_norms_that_are_not_folded_merge_all_the_same():
    kernel = simulated_nets._draw(3, 3, 4, 4)
    ones = tf.ones(4)

    def normalized(x):
        y = tf.nn.conv2d(x, kernel, 1, "SAME")
        y = tf.compat.v1.nn.fused_batch_norm(
            y, ones, ones, mean=ones, variance=ones, is_training=False
        )[0]
        y = tiny_graphs.batch_norm(
            tf.nn.conv2d(tf.nn.relu(y), kernel, 1, "SAME"), [0.1] * 4, [2.0] * 4
        )
        return tf.nn.relu6(y)

    own = [n for n, kind in _kinds(normalized).items() if kind == "OWN"]
    assert own == ["x:0", "Relu:0", "Relu6:0"]


def test_whole_numbers_and_truth_values_have_no_grid():
    def count(x):
        y = tf.cast(x, tf.float32)
        return tf.where(y > 1.0, y, -y), tf.argmax(y, -1)

    graph = tiny_graphs.freeze(count, (1, 8), dtype=tf.int32)
    places = quantization_points.find(graph).places
    assert {graph.dtype(name) for name in places} == {tf.float32}
    assert places["Cast:0"].kind is _Kind.OWN


def test_a_table_is_an_operand_of_what_looks_it_up():
    table = simulated_nets._draw(10, 4)
    graph = tiny_graphs.freeze(
        lambda x: tf.exp(tf.gather(table, x)), (1, 8), dtype=tf.int32
    )
    (operand,) = quantization_points.find(graph).operands
    assert graph.shape(operand.tensor) == (10, 4)
    assert operand.of == graph[operand.node].output


def test_fused_operations_whose_parts_are_read_stay_apart():
    def shown(x):
        gate = tf.nn.relu6(x + 3)
        return x * gate / 6, tf.exp(gate)

    kinds = _kinds(shown)
    assert kinds["Relu6:0"] == "OWN"
    assert kinds["mul:0"] == "OWN"
