"""SavedModels that TensorFlow loads as something else than was saved."""

from __future__ import annotations

import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from dsg_tf.core import errors
from dsg_tf.graph.load import loading


def test_signatures_of_another_kind_are_one_line(tmp_path):
    net = tf.Module()
    net.call = tf.function(
        lambda x: x * 2.0, input_signature=[tf.TensorSpec((None, 3))]
    )
    tf.saved_model.save(net, tmp_path, signatures=net.call)
    file = tmp_path / "saved_model.pb"
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString(file.read_bytes())
    for node in saved.meta_graphs[0].object_graph_def.nodes:
        if node.user_object.identifier == "signature_map":
            node.user_object.identifier = "_generic_user_object"
    file.write_bytes(saved.SerializeToString())
    with pytest.raises(errors.UserError) as caught:
        loading.load(tmp_path)
    assert "a SavedModel that TensorFlow cannot load" in str(caught.value)
