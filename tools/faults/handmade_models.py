"""Models that are whole files, and which no quantizer can take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tools.faults import attempts, cases, commands, originals

_PATH = "odd"
# Elements of a constant that no machine holds.
_VAST = 1 << 42


def all_cases() -> list[cases.Case]:
    """Every odd model, on every command that loads it."""
    return [
        _case(name, command, make)
        for name, make in _MODELS.items()
        for command in ("quantize", "evaluate")
        # To evaluate it is to run it, however long that takes.
        if (name, command) != ("long_loop", "evaluate")
    ] + list(_inputs())


def _case(
    name: str, command: str, make: Callable, flags: Sequence[str] = ()
) -> cases.Case:
    def prepare(bench: cases.Bench) -> Sequence[str]:
        given, needed = commands.with_model(command, _PATH)
        originals.copy(bench, *needed)
        make(bench)
        return [*given, *flags]

    return cases.Case(
        f"malformed/model-{name}-{command}",
        "odd models",
        attempts.Attempt(
            command, prepare, limit_s=90.0, check=commands.check_or_nothing
        ),
    )


def _inputs() -> Iterator[cases.Case]:
    """Dimensions that the user gives, of a model that leaves them open."""
    for name, shape in (
        ("vast", "100000,100000,3"),
        ("beyond", f"{2**31},{2**31},3"),
        ("one", "1,1,3"),
        ("rank", "8,8"),
    ):
        yield _case(
            f"open_{name}",
            "quantize",
            _graph(lambda tf, x: x, (None, None, None, 3)),
            [f"--input_shape={shape}"],
        )


def _graph(
    body: Callable,
    shape: Sequence[int | None] = (None, *originals.SHAPE),
    *,
    dtype: str = "float32",
):
    """A SavedModel of a function; `body` gets TensorFlow and the input."""

    def make(bench: cases.Bench) -> None:
        import tensorflow as tf

        module = tf.Module()

        @tf.function(
            input_signature=[tf.TensorSpec(shape, dtype, name="image")]
        )
        def serve(image):
            return {"scores": body(tf, image)}

        module.serve = serve
        tf.saved_model.save(module, str(bench.work / _PATH), signatures=serve)

    return make


def _edited(body: Callable, edit: Callable):
    """A SavedModel whose file is changed behind TensorFlow's back."""

    def make(bench: cases.Bench) -> None:
        from tensorflow.core.protobuf import saved_model_pb2

        _graph(body)(bench)
        path = bench.work / _PATH / "saved_model.pb"
        model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
        for meta_graph in model.meta_graphs:
            for function in meta_graph.graph_def.library.function:
                for node in function.node_def:
                    edit(node)
            edit_all = getattr(edit, "whole", None)
            if edit_all:
                edit_all(meta_graph)
        path.write_bytes(model.SerializeToString())

    return make


def _scores(tf, x, constant: float = 1.0):
    flat = tf.reshape(x, (-1, int(np.prod(originals.SHAPE))))
    kernel = tf.constant(constant, shape=(flat.shape[1], originals.CLASSES))
    return tf.nn.softmax(flat @ kernel)


def _vast_constant(node) -> None:
    """A constant of one value that stands for a shape beyond memory."""
    if node.op == "Const" and "shape" not in node.name:
        tensor = node.attr["value"].tensor
        if tensor.dtype == 1:
            del tensor.tensor_shape.dim[:]
            tensor.tensor_shape.dim.add(size=_VAST)
            tensor.tensor_shape.dim.add(size=4)
            tensor.tensor_content = b""
            tensor.float_val[:] = [1.0]


def _negative_shape(node) -> None:
    if node.op == "Const":
        for dim in node.attr["value"].tensor.tensor_shape.dim:
            dim.size = -1


def _overflowing_shape(node) -> None:
    if node.op == "Const":
        for dim in node.attr["value"].tensor.tensor_shape.dim:
            dim.size = 2**62


def _circle(node) -> None:
    """A node that waits for itself."""
    if node.op == "MatMul":
        node.input[0] = f"{node.name}:product:0"


def _recursion(node) -> None:
    node.input.append(f"^{node.name}")


def _odd_type(node) -> None:
    if "T" in node.attr:
        node.attr["T"].type = 9999


def _no_signature(node) -> None:
    del node


def _drop_signatures(meta_graph) -> None:
    meta_graph.signature_def.clear()


_no_signature.whole = _drop_signatures


def _conv(tf, x, kernel: Sequence[int], **options):
    options.setdefault("strides", 1)
    options.setdefault("padding", "SAME")
    return tf.nn.conv2d(x, tf.ones(tuple(kernel)), **options)


def _deep(tf, x):
    for _ in range(3000):
        x = x + 1.0
    return _scores(tf, x)


def _loop(tf, x):
    return tf.while_loop(
        lambda i, y: i < 2**30,
        lambda i, y: (i + 1, y * 1.0001),
        [tf.constant(0), _scores(tf, x)],
    )[1]


_SHAPE = (None, *originals.SHAPE)
_MODELS: dict[str, Callable[[cases.Bench], None]] = {
    "identity": _graph(lambda tf, x: x),
    "no_width": _graph(lambda tf, x: tf.reshape(x, (-1, 0)), (None, 8, 0, 3)),
    "no_channels": _graph(lambda tf, x: x, (None, 8, 8, 0)),
    "batch_0": _graph(lambda tf, x: x + 1.0, (0, 8, 8, 3)),
    "batch_5": _graph(lambda tf, x: _scores(tf, x), (5, 8, 8, 3)),
    "scalar": _graph(lambda tf, x: x * 2.0, ()),
    "rank_9": _graph(lambda tf, x: x + 1.0, (None, *(2,) * 8)),
    "unknown_rank": _graph(lambda tf, x: x + 1.0, None),
    "empty_output": _graph(lambda tf, x: x[:, :0]),
    "constant_output": _graph(lambda tf, x: tf.ones((1, 4))),
    "text_input": _graph(
        lambda tf, x: tf.strings.length(x), (None,), dtype="string"
    ),
    "text_output": _graph(lambda tf, x: tf.strings.as_string(x)),
    "bool_output": _graph(lambda tf, x: x > 0),
    "complex": _graph(lambda tf, x: x * 2, dtype="complex64"),
    "double": _graph(lambda tf, x: x * 2, dtype="float64"),
    "half": _graph(lambda tf, x: x * 2, dtype="float16"),
    "nan_weights": _graph(lambda tf, x: _scores(tf, x, float("nan"))),
    "inf_weights": _graph(lambda tf, x: _scores(tf, x, float("inf"))),
    "vast_weights": _graph(lambda tf, x: _scores(tf, x, 3e38)),
    "zero_weights": _graph(lambda tf, x: _scores(tf, x, 0.0)),
    "nan_output": _graph(lambda tf, x: _scores(tf, x * float("nan"))),
    "overflow": _graph(lambda tf, x: tf.exp(100 * _conv(tf, x, (3, 3, 3, 4)))),
    "no_filters": _graph(lambda tf, x: _conv(tf, x, (3, 3, 3, 0))),
    "large_stride": _graph(
        lambda tf, x: _conv(tf, x, (3, 3, 3, 4), strides=1000)
    ),
    "large_kernel": _graph(lambda tf, x: _conv(tf, x, (99, 99, 3, 4))),
    "no_output_pixels": _graph(
        lambda tf, x: tf.reduce_mean(
            _conv(tf, x[:, :0], (1, 1, 3, 4)), axis=(1, 2)
        )
    ),
    "fill": _graph(
        lambda tf, x: _scores(tf, x) + tf.reduce_sum(tf.fill([2**40], 1.0))
    ),
    "tile": _graph(
        lambda tf, x: (
            tf.reduce_sum(tf.tile(x, [1, 2**20, 2**20, 1])) + _scores(tf, x)
        )
    ),
    "random": _graph(lambda tf, x: x + tf.random.normal(tf.shape(x))),
    "assertion": _graph(
        lambda tf, x: tf.ensure_shape(x, (7, *originals.SHAPE))
    ),
    "deep": _graph(_deep),
    "long_loop": _graph(_loop),
    "vast_constant": _edited(_scores, _vast_constant),
    "negative_shape": _edited(_scores, _negative_shape),
    "overflowing_shape": _edited(_scores, _overflowing_shape),
    "circle": _edited(_scores, _circle),
    "self_control": _edited(_scores, _recursion),
    "odd_type": _edited(_scores, _odd_type),
    "no_signature": _edited(_scores, _no_signature),
}
