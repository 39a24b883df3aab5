"""A batch size of 1, where the graph has not another one inside.

What users say of open dimensions is tested in `graph_loading_test`.
"""

from __future__ import annotations

import dataclasses

import pytest
import tensorflow as tf
import tiny_graphs

from dsg_tf.core import errors
from dsg_tf.graph.load import open_shapes


@pytest.mark.parametrize("batch", [None, 1, 4])
def test_one_sample_goes_through_where_the_graph_lets_it(batch):
    graph = tiny_graphs.freeze(tf.nn.relu, (batch, 3))
    single = open_shapes.of_one_sample(graph)
    assert single.inputs[0].shape == (1, 3)
    assert single.shape(single.outputs[0].tensor) == (1, 3)


def test_a_batch_that_is_fixed_inside_is_refused():
    graph = tiny_graphs.freeze(lambda x: tf.reshape(x, (4, 3, 1)), (4, 3))
    with pytest.raises(errors.UserError, match="batch size fixed to 4"):
        open_shapes.of_one_sample(graph)


def test_a_shape_without_a_name_is_answered_by_one_that_fits():
    graph = tiny_graphs.freeze(tf.nn.relu, (None, None, 4))
    graph = dataclasses.replace(graph, inputs=graph.inputs * 2)
    with pytest.raises(errors.UserError, match="=128,4"):
        open_shapes.complete(graph, "model", (9, 4))
