"""SavedModels whose graphs write a file: each by another road."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable

from tools.faults import cases, originals, plots

_PATH = "evil"


def _load(work: pathlib.Path) -> None:
    import tensorflow as tf

    tf.saved_model.load(str(work / _PATH), tags=["serve"])


def _serve(work: pathlib.Path) -> None:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(work / _PATH))
    loaded.signatures["serving_default"](
        **{"image": tf.zeros((1, *originals.SHAPE))}
    )


def _module(tf, effect: Callable | None = None):
    """A module of the tiny network that does something more when called."""
    import keras

    module = tf.Module()
    module.network = originals.network(keras)

    @tf.function(
        input_signature=[tf.TensorSpec((None, *originals.SHAPE), name="image")]
    )
    def serve(image):
        # Arguments that keep graph transformations from doing it at once.
        if effect is not None:
            with tf.control_dependencies([effect(tf, image)]):
                image = tf.identity(image)
        return {"scores": module.network(image, training=False)}

    module.serve = serve
    return module


def _in_call(effect: Callable[..., object]):
    """A model that has an effect whenever it is called."""

    def prepare(bench: cases.Bench, sentinel: str) -> str:
        import tensorflow as tf

        bound = functools.partial(effect, sentinel=sentinel)
        module = _module(tf, bound)
        tf.saved_model.save(
            module, str(bench.work / _PATH), signatures=module.serve
        )
        return _PATH

    return prepare


def _write(tf, image, *, sentinel: str):
    del image
    return tf.io.write_file(sentinel, "x")


def _true(tf, image):
    return tf.reduce_sum(image) > -1e30


def _in_branch(tf, image, *, sentinel: str):
    def write():
        with tf.control_dependencies([tf.io.write_file(sentinel, "x")]):
            return tf.constant(1)

    return tf.cond(_true(tf, image), write, lambda: tf.constant(0))


def _in_loop(tf, image, *, sentinel: str):
    def body(index):
        with tf.control_dependencies([tf.io.write_file(sentinel, "x")]):
            return index + 1

    most = tf.cast(_true(tf, image), tf.int32)
    return tf.while_loop(lambda i: i < most, body, [tf.constant(0)])[0]


def _in_case(tf, image, *, sentinel: str):
    def write():
        with tf.control_dependencies([tf.io.write_file(sentinel, "x")]):
            return tf.constant(1)

    chosen = tf.cast(_true(tf, image), tf.int32)
    return tf.switch_case(chosen, [lambda: tf.constant(0), write, write])


def _nested(tf, image, *, sentinel: str):
    @tf.function
    def inner(image):
        with tf.control_dependencies([tf.io.write_file(sentinel, "x")]):
            return tf.reduce_sum(image)

    @tf.function
    def outer(image):
        return inner(image) + inner(2.0 * image)

    return outer(image)


def _in_dataset(tf, image, *, sentinel: str):
    def write(value):
        with tf.control_dependencies([tf.io.write_file(sentinel, "x")]):
            return tf.identity(value)

    data = tf.data.Dataset.from_tensors(tf.reduce_sum(image)).map(write)
    return data.reduce(0.0, lambda state, value: state + value)


def _cache(tf, image, *, sentinel: str):
    data = tf.data.Dataset.from_tensors(tf.reduce_sum(image)).cache(sentinel)
    return data.reduce(0.0, lambda state, value: state + value)


def _print(tf, image, *, sentinel: str):
    text = tf.strings.as_string(tf.reduce_sum(image))
    return tf.raw_ops.PrintV2(
        input=text, output_stream=f"file://{sentinel}", end="\n"
    )


def _checkpoint(tf, image, *, sentinel: str):
    return tf.raw_ops.SaveV2(
        prefix=sentinel,
        tensor_names=["x"],
        shape_and_slices=[""],
        tensors=[tf.reduce_sum(image)],
    )


def _old_checkpoint(tf, image, *, sentinel: str):
    return tf.raw_ops.Save(
        filename=sentinel, tensor_names=["x"], data=[tf.reduce_sum(image)]
    )


def _summary(tf, image, *, sentinel: str):
    writer = tf.raw_ops.SummaryWriter(shared_name="", container="")
    made = tf.raw_ops.CreateSummaryFileWriter(
        writer=writer,
        logdir=sentinel,
        max_queue=1,
        flush_millis=1,
        filename_suffix="SENTINEL",
    )
    with tf.control_dependencies([made]):
        written = tf.raw_ops.WriteScalarSummary(
            writer=writer, step=1, tag="x", value=tf.reduce_sum(image)
        )
    with tf.control_dependencies([written]):
        return tf.raw_ops.FlushSummaryWriter(writer=writer)


def _debug(tf, image, *, sentinel: str):
    return tf.raw_ops.DebugIdentityV2(
        input=image,
        tfdbg_context_id="SENTINEL",
        op_name="x",
        output_slot=0,
        tensor_debug_mode=2,
        debug_urls=[f"file://{sentinel}"],
    )


def _python(tf, image, *, sentinel: str):
    return tf.py_function(lambda: open(sentinel, "w").close(), [], [])


def _abort(tf, image, *, sentinel: str):
    del image
    return tf.raw_ops.Abort(error_msg="x", exit_without_error=True)


def _in_assert(tf, image, *, sentinel: str):
    @tf.function(experimental_implements=f"x {sentinel}")
    def inner(image):
        with tf.control_dependencies([tf.io.write_file(sentinel, "x")]):
            return tf.reduce_sum(image)

    return tf.debugging.assert_less(-1e30, inner(image))


def _unused_signature(bench: cases.Bench, sentinel: str) -> str:
    import tensorflow as tf

    module = _module(tf)

    @tf.function(input_signature=[])
    def evil():
        with tf.control_dependencies([tf.io.write_file(sentinel, "x")]):
            return {"x": tf.constant(1.0)}

    module.evil = evil
    tf.saved_model.save(
        module,
        str(bench.work / _PATH),
        signatures={"serving_default": module.serve, "evil": evil},
    )
    return _PATH


def _gradient(bench: cases.Bench, sentinel: str) -> str:
    import tensorflow as tf

    @tf.custom_gradient
    def identity(value):
        def gradient(upstream):
            with tf.control_dependencies([tf.io.write_file(sentinel, "x")]):
                return tf.identity(upstream)

        return tf.identity(value), gradient

    module = _module(tf, lambda tf, image: identity(image))
    tf.saved_model.save(
        module,
        str(bench.work / _PATH),
        signatures=module.serve,
        options=tf.saved_model.SaveOptions(experimental_custom_gradients=True),
    )
    return _PATH


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

        module = _module(tf)
        module.resource = Resource()
        module.used = tf.function(
            lambda: tf.raw_ops.VarIsInitializedOp(
                resource=module.resource.resource_handle
            ),
            input_signature=[],
        )
        tf.saved_model.save(
            module, str(bench.work / _PATH), signatures=module.serve
        )
        for path in bench.folder.glob("SENTINEL*"):
            path.unlink()
        return _PATH

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

    module = _module(tf)
    module.restored = Restored()
    tf.saved_model.save(
        module, str(bench.work / _PATH), signatures=module.serve
    )
    for path in bench.folder.glob("SENTINEL*"):
        path.unlink()
    return _PATH


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
            write = (effect or _write)(tf, fed, sentinel=sentinel)
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
            _poison_restore(bench.work / _PATH, sentinel)
        return _PATH

    return prepare


def _build(bench, session, image, scores, place: str, write) -> None:
    import tensorflow as tf

    v1 = tf.compat.v1
    builder = v1.saved_model.Builder(str(bench.work / _PATH))
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
        file = bench.work / _PATH / "saved_model.pb"
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
        return _PATH

    return prepare


def _renamed_op(name: str):
    """An operation of another name in place of the writing one."""

    def prepare(bench: cases.Bench, sentinel: str) -> str:
        from tensorflow.core.protobuf import saved_model_pb2

        _in_call(_write)(bench, sentinel)
        file = bench.work / _PATH / "saved_model.pb"
        model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
        for function in model.meta_graphs[0].graph_def.library.function:
            for node in function.node_def:
                if node.op == "WriteFile":
                    node.op = name
        file.write_bytes(model.SerializeToString())
        return _PATH

    return prepare


def _vocabulary(bench: cases.Bench, sentinel: str) -> str:
    """A table whose file is a pipe that nobody writes to."""
    import os

    import tensorflow as tf

    words = bench.work / "words.txt"
    words.write_text("a\nb\n")
    module = _module(tf)
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
        module, str(bench.work / _PATH), signatures=module.serve
    )
    asset = bench.work / _PATH / "assets" / "words.txt"
    asset.unlink()
    os.mkfifo(asset)
    return _PATH


init_op = _old("main_op")

_CALLS = {
    "write_in_signature": _write,
    "branch": _in_branch,
    "loop": _in_loop,
    "case": _in_case,
    "nested": _nested,
    "dataset_map": _in_dataset,
    "dataset_cache": _cache,
    "print": _print,
    "checkpoint": _checkpoint,
    "old_checkpoint": _old_checkpoint,
    "summary": _summary,
    "debug": _debug,
    "implements": _in_assert,
}

PLOTS = (
    *(
        plots.Plot(name, "SavedModel, called", _in_call(effect), _serve)
        for name, effect in _CALLS.items()
    ),
    plots.Plot("python", "SavedModel, called", _in_call(_python)),
    plots.Plot("abort", "SavedModel, called", _in_call(_abort)),
    plots.Plot("custom_op", "SavedModel, called", _renamed_op("EvilOp")),
    plots.Plot(
        "xla_call_module", "SavedModel, called", _renamed_op("XlaCallModule")
    ),
    plots.Plot("gradient", "SavedModel, called", _gradient),
    plots.Plot("unused_signature", "SavedModel, called", _unused_signature),
    plots.Plot(
        "old_signature", "SavedModel, called", _old("signature"), _serve
    ),
    plots.Plot("init_op", "SavedModel, loaded", init_op, _load),
    plots.Plot(
        "legacy_init_op", "SavedModel, loaded", _old("legacy_init_op"), _load
    ),
    plots.Plot(
        "local_variable", "SavedModel, loaded", _old("local_variable"), _load
    ),
    plots.Plot("restore_op", "SavedModel, loaded", _old("restore"), _load),
    plots.Plot("init_abort", "SavedModel, loaded", _old("main_op", _abort)),
    plots.Plot(
        "init_branch", "SavedModel, loaded", _old("main_op", _in_branch), _load
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
