"""SavedModels that write a file where they are loaded, or called."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

from tools.faults import cases, hostile_calls, originals, plots


def _load(work: pathlib.Path) -> None:
    import tensorflow as tf

    tf.saved_model.load(str(work / hostile_calls.PATH), tags=["serve"])


def _resource(method: str):
    """A resource whose functions loading calls by name."""

    def prepare(bench: cases.Bench, sentinel: str) -> str:
        import tensorflow as tf

        def write(name: str):
            effect = [tf.io.write_file(sentinel, "x")]
            with tf.control_dependencies(effect if name == method else []):
                return tf.constant(1)

        class Resource(tf.saved_model.experimental.TrackableResource):
            def _create_resource(self):
                handle = tf.raw_ops.VarHandleOp(
                    dtype=tf.float32, shape=[], shared_name="x"
                )
                with tf.control_dependencies([write("_create_resource")]):
                    return tf.identity(handle)

            def _initialize(self):
                write("_initialize")

            def _destroy_resource(self):
                write("_destroy_resource")

        module = hostile_calls.network_module(tf)
        module.resource = Resource()
        module.used = tf.function(
            lambda: tf.raw_ops.VarIsInitializedOp(
                resource=module.resource.resource_handle
            ),
            input_signature=[],
        )
        tf.saved_model.save(
            module,
            str(bench.work / hostile_calls.PATH),
            signatures=module.serve,
        )
        for path in bench.folder.glob("SENTINEL*"):
            path.unlink()
        return hostile_calls.PATH

    return prepare


def _restore(bench: cases.Bench, sentinel: str) -> str:
    """An object with a function of its own that restores it."""
    import tensorflow as tf
    from tensorflow.python.trackable import base

    class Restored(base.Trackable):
        def _serialize_to_tensors(self):
            return {"x": tf.constant(1.0)}

        @tf.function
        def _restore_from_tensors(self, tensors):
            with tf.control_dependencies([tf.io.write_file(sentinel, "x")]):
                return tf.identity(tensors["x"])

    module = hostile_calls.network_module(tf)
    module.restored = Restored()
    tf.saved_model.save(
        module, str(bench.work / hostile_calls.PATH), signatures=module.serve
    )
    for path in bench.folder.glob("SENTINEL*"):
        path.unlink()
    return hostile_calls.PATH


def _old(place: str, effect: Callable | None = None):
    """A SavedModel of TensorFlow 1 with an effect at a place of its own."""

    def prepare(bench: cases.Bench, sentinel: str) -> str:
        import tensorflow as tf

        v1 = tf.compat.v1
        with tf.Graph().as_default(), v1.Session() as session:
            image = v1.placeholder(tf.float32, (None, *originals.SHAPE))
            kernel = v1.get_variable("kernel", (192, originals.CLASSES))
            scores = tf.nn.softmax(tf.reshape(image, (-1, 192)) @ kernel)
            fed = image if place == "signature" else tf.zeros((1, 8, 8, 3))
            write = (effect or hostile_calls.write_file)(
                tf, fed, sentinel=sentinel
            )
            if place == "signature":
                with tf.control_dependencies([write]):
                    scores = tf.identity(scores)
            if place == "local_variable":
                with tf.control_dependencies([write]):
                    start = tf.constant(1.0)
                v1.get_variable(
                    "local",
                    initializer=start,
                    collections=[v1.GraphKeys.LOCAL_VARIABLES],
                )
            session.run(v1.global_variables_initializer())
            if place == "legacy_init_op":
                v1.add_to_collection("legacy_init_op", tf.group(write))
            _build(bench, session, image, scores, place, write)
        if place == "restore":
            _poison_restore(bench.work / hostile_calls.PATH, sentinel)
        return hostile_calls.PATH

    return prepare


def _build(bench, session, image, scores, place: str, write) -> None:
    import tensorflow as tf

    v1 = tf.compat.v1
    builder = v1.saved_model.Builder(str(bench.work / hostile_calls.PATH))
    builder.add_meta_graph_and_variables(
        session,
        ["serve"],
        signature_def_map={
            "serving_default": v1.saved_model.predict_signature_def(
                {"image": image}, {"scores": scores}
            )
        },
        main_op=tf.group(write) if place == "main_op" else None,
        strip_default_attrs=True,
    )
    builder.save()


def _poison_restore(path: pathlib.Path, sentinel: str) -> None:
    """Makes the operation that restores variables wait for a write."""
    del sentinel  # The graph has the writing node already.
    from tensorflow.core.protobuf import saved_model_pb2

    file = path / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    graph = model.meta_graphs[0]
    name = graph.saver_def.restore_op_name.split(":")[0]
    writer = next(n.name for n in graph.graph_def.node if n.op == "WriteFile")
    node = next(n for n in graph.graph_def.node if n.name == name)
    node.input.append(f"^{writer}")
    file.write_bytes(model.SerializeToString())


def _two_graphs(hostile_first: bool):
    """Two meta graphs of the same tags, one of them hostile."""

    def prepare(bench: cases.Bench, sentinel: str) -> str:
        from tensorflow.core.protobuf import saved_model_pb2

        _old("main_op")(bench, sentinel)
        file = bench.work / hostile_calls.PATH / "saved_model.pb"
        model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
        harmless = saved_model_pb2.SavedModel.FromString(file.read_bytes())
        good = harmless.meta_graphs[0]
        del good.collection_def["saved_model_main_op"]
        both = [model.meta_graphs[0], good]
        model = saved_model_pb2.SavedModel(
            saved_model_schema_version=1,
            meta_graphs=both if hostile_first else both[::-1],
        )
        file.write_bytes(model.SerializeToString())
        return hostile_calls.PATH

    return prepare


def _vocabulary(bench: cases.Bench, sentinel: str) -> str:
    """A table whose file is a pipe that nobody writes to."""
    import os

    import tensorflow as tf

    words = bench.work / "words.txt"
    words.write_text("a\nb\n")
    module = hostile_calls.network_module(tf)
    module.table = tf.lookup.StaticHashTable(
        tf.lookup.TextFileInitializer(
            str(words),
            tf.string,
            tf.lookup.TextFileIndex.WHOLE_LINE,
            tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
        ),
        -1,
    )
    module.find = tf.function(
        module.table.lookup, input_signature=[tf.TensorSpec([], tf.string)]
    )
    tf.saved_model.save(
        module, str(bench.work / hostile_calls.PATH), signatures=module.serve
    )
    asset = bench.work / hostile_calls.PATH / "assets" / "words.txt"
    asset.unlink()
    os.mkfifo(asset)
    return hostile_calls.PATH


init_op = _old("main_op")


PLOTS = (
    plots.Plot(
        "old_signature",
        "SavedModel, called",
        _old("signature"),
        hostile_calls.call_unguarded,
    ),
    plots.Plot("init_op", "SavedModel, loaded", init_op, _load),
    plots.Plot(
        "legacy_init_op", "SavedModel, loaded", _old("legacy_init_op"), _load
    ),
    plots.Plot(
        "local_variable", "SavedModel, loaded", _old("local_variable"), _load
    ),
    plots.Plot("restore_op", "SavedModel, loaded", _old("restore"), _load),
    plots.Plot(
        "init_abort", "SavedModel, loaded", _old("main_op", hostile_calls.abort)
    ),
    plots.Plot(
        "init_branch",
        "SavedModel, loaded",
        _old("main_op", hostile_calls.in_branch),
        _load,
    ),
    plots.Plot("two_graphs", "SavedModel, loaded", _two_graphs(True), _load),
    plots.Plot("two_graphs_last", "SavedModel, loaded", _two_graphs(False)),
    plots.Plot(
        "create_resource",
        "SavedModel, loaded",
        _resource("_create_resource"),
        _load,
    ),
    plots.Plot(
        "initialize", "SavedModel, loaded", _resource("_initialize"), _load
    ),
    plots.Plot(
        "destroy_resource",
        "SavedModel, loaded",
        _resource("_destroy_resource"),
        _load,
    ),
    plots.Plot("restore_function", "SavedModel, loaded", _restore, _load),
    plots.Plot("vocabulary_pipe", "SavedModel, loaded", _vocabulary),
)
