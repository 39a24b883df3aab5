"""The order of the passes, and what each config makes of a layer."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny_graphs
import tiny_models

from dsg_tf.analysis import linear_layers
from dsg_tf.config import export_config
from dsg_tf.graph import evaluation
from dsg_tf.graph.load import loading
from dsg_tf.transforms import passes


@pytest.fixture(scope="module")
def graph():
    return loading.load(tiny_models.classifier())


@pytest.fixture(scope="module")
def arrays():
    images = np.random.default_rng(0).normal(size=(8, 8, 8, 3))
    return {"image": images.astype(np.float32)}


def _names(prepared):
    return [report.name for report in prepared.reports]


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"bias_correction": "none"}, ["fold_batch_norm", "round_weights"]),
        ({}, ["fold_batch_norm", "round_weights", "bias_correction"]),
        (
            {"equalize": True, "absorb_bias": True},
            [
                "fold_batch_norm",
                "cross_layer_equalization",
                "bias_absorption",
                "round_weights",
                "bias_correction",
            ],
        ),
        ({"weight_rounding": "adaround"}, ["fold_batch_norm", "adaround"]),
    ],
)
def test_passes_run_in_their_order(graph, arrays, changes, names):
    prepared = passes.run(graph, arrays, export_config.ExportConfig(**changes))
    assert _names(prepared) == names


def test_the_reference_is_the_float_function(graph, arrays):
    settings = export_config.ExportConfig(equalize=True, weight_bits=2)
    prepared = passes.run(graph, arrays, settings)
    # float32 through three layers of a few dozen products each.
    assert evaluation.relative_change(graph, prepared.reference, arrays) < 1e-5
    assert evaluation.relative_change(graph, prepared.graph, arrays) > 1e-2


def test_graph_and_reference_have_the_same_nodes(graph, arrays):
    for rounding in ("nearest", "adaround"):
        prepared = passes.run(
            graph, arrays, export_config.ExportConfig(weight_rounding=rounding)
        )
        assert set(prepared.graph.nodes) == set(prepared.reference.nodes)


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_every_layer_is_on_the_grid_of_its_width(graph, arrays, granularity):
    settings = export_config.ExportConfig(
        weight_bits=3, granularity=granularity, keep_first_last_8bit=True
    )
    prepared = passes.run(graph, arrays, settings)
    layers = linear_layers.find(prepared.graph)
    grids = [prepared.graph.weight_grids[x.kernel_tensor] for x in layers]
    assert [grid.qmax for grid in grids] == [127, 3, 127]
    for layer, grid in zip(layers, grids, strict=True):
        channels = layer.out_channels if granularity == "channel" else 1
        assert grid.scale.size == channels


def test_every_branch_has_a_first_layer():
    model = tiny_models.two_inputs()
    graph = loading.load(model)
    layers = linear_layers.find(graph)
    ends = passes._first_and_last(graph, layers)
    # An image's convolution, a vector's product, and the scores of both.
    assert len(layers) == len(ends) == 3


def test_layers_that_no_pass_treats_are_named():
    kernel = tf.constant(np.ones((4, 5), np.float32))
    graph = tiny_graphs.freeze(
        lambda x: tf.einsum("ijk,kl->ijl", x, kernel), (None, 2, 4)
    )
    prepared = passes.run(
        graph,
        {"x": np.ones((2, 2, 4), np.float32)},
        export_config.ExportConfig(),
    )
    ((_, op),) = prepared.untreated
    assert op == "Einsum"


def test_a_layer_without_a_bias_gets_one_in_both_graphs(arrays):
    inputs = keras.Input((8, 8, 3), name="image")
    outputs = keras.layers.Conv2D(4, 3, use_bias=False)(inputs)
    graph = loading.load(keras.Model(inputs, outputs))
    prepared = passes.run(
        graph, arrays, export_config.ExportConfig(weight_bits=4)
    )
    for each in (prepared.graph, prepared.reference):
        (layer,) = linear_layers.find(each)
        assert layer.bias is not None
