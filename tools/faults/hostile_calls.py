"""SavedModels that write a file where they are called."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable

from tools.faults import cases, originals, plots

# Name of the folder, beside the inputs of the command.
PATH = "evil"


def call_unguarded(work: pathlib.Path) -> None:
    """Loads the model, and calls it."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(work / PATH))
    loaded.signatures["serving_default"](
        **{"image": tf.zeros((1, *originals.SHAPE))}
    )


def network_module(tf, effect: Callable | None = None):
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
        module = network_module(tf, bound)
        tf.saved_model.save(
            module, str(bench.work / PATH), signatures=module.serve
        )
        return PATH

    return prepare


def write_file(tf, image, *, sentinel: str):
    """The effect itself; all others are roads to it, or to the like."""
    del image
    return tf.io.write_file(sentinel, "x")


def _true(tf, image):
    return tf.reduce_sum(image) > -1e30


def in_branch(tf, image, *, sentinel: str):
    """The effect in one branch of a condition."""

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


def abort(tf, image, *, sentinel: str):
    """Ends the process, with exit code 0."""
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

    module = network_module(tf)

    @tf.function(input_signature=[])
    def evil():
        with tf.control_dependencies([tf.io.write_file(sentinel, "x")]):
            return {"x": tf.constant(1.0)}

    module.evil = evil
    tf.saved_model.save(
        module,
        str(bench.work / PATH),
        signatures={"serving_default": module.serve, "evil": evil},
    )
    return PATH


def _gradient(bench: cases.Bench, sentinel: str) -> str:
    import tensorflow as tf

    @tf.custom_gradient
    def identity(value):
        def gradient(upstream):
            with tf.control_dependencies([tf.io.write_file(sentinel, "x")]):
                return tf.identity(upstream)

        return tf.identity(value), gradient

    module = network_module(tf, lambda tf, image: identity(image))
    tf.saved_model.save(
        module,
        str(bench.work / PATH),
        signatures=module.serve,
        options=tf.saved_model.SaveOptions(experimental_custom_gradients=True),
    )
    return PATH


def _renamed_op(name: str):
    """An operation of another name in place of the writing one."""

    def prepare(bench: cases.Bench, sentinel: str) -> str:
        from tensorflow.core.protobuf import saved_model_pb2

        _in_call(write_file)(bench, sentinel)
        file = bench.work / PATH / "saved_model.pb"
        model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
        for function in model.meta_graphs[0].graph_def.library.function:
            for node in function.node_def:
                if node.op == "WriteFile":
                    node.op = name
        file.write_bytes(model.SerializeToString())
        return PATH

    return prepare


_CALLS = {
    "write_in_signature": write_file,
    "branch": in_branch,
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
        plots.Plot(
            name,
            "SavedModel, called",
            _in_call(effect),
            call_unguarded,
        )
        for name, effect in _CALLS.items()
    ),
    plots.Plot("python", "SavedModel, called", _in_call(_python)),
    plots.Plot("abort", "SavedModel, called", _in_call(abort)),
    plots.Plot("custom_op", "SavedModel, called", _renamed_op("EvilOp")),
    plots.Plot(
        "xla_call_module", "SavedModel, called", _renamed_op("XlaCallModule")
    ),
    plots.Plot("gradient", "SavedModel, called", _gradient),
    plots.Plot("unused_signature", "SavedModel, called", _unused_signature),
)
