"""Float .tflite files become the graph that they were made of."""

from __future__ import annotations

import hypothesis
import numpy as np
import pytest
import tensorflow as tf

import dsg_tf
from dsg_tf.config import export_config, run_config
from dsg_tf.core import errors
from dsg_tf.graph import evaluation
from dsg_tf.graph.load import formats, loading, tflite_files, tflite_ops
from dsg_tf.tflite import flatbuffer, interpreter, op_support
from tests import drawn_layers


def _file(path, function, *shapes, dtype=tf.float32, optimizations=()):
    """Converts a function of tensors of these shapes, as users do."""
    traced = tf.function(function).get_concrete_function(
        *(tf.TensorSpec(shape, dtype) for shape in shapes)
    )
    return _written(path, [traced], optimizations)


def _written(path, functions, optimizations=()):
    converter = tf.lite.TFLiteConverter.from_concrete_functions(functions)
    converter.optimizations = list(optimizations)
    path.write_bytes(converter.convert())
    return path


def _differences(path):
    """Largest relative difference of each output from the interpreter's."""
    graph = loading.load(path)
    original = interpreter.Interpreter(path.read_bytes())
    rng = np.random.default_rng(5)
    samples = {
        port.name: rng.normal(size=(3, *port.shape[1:])).astype(np.float32)
        for port in graph.inputs
    }
    expected = original.run(samples)
    made = [
        np.concatenate(parts)
        for parts in zip(
            *evaluation.batches(
                graph, [port.tensor for port in graph.outputs], samples
            ),
            strict=True,
        )
    ]
    return {
        port.name: float(
            np.abs(values - expected[port.name]).max()
            / max(np.abs(expected[port.name]).max(), 1e-6)
        )
        for port, values in zip(graph.outputs, made, strict=True)
    }


# Another kernel size, stride or padding gives another shape or other numbers.
_KERNEL = np.linspace(-1, 1, 2 * 3 * 4 * 5, dtype=np.float32).reshape(
    2, 3, 4, 5
)
_FUNCTIONS = {
    "conv_2d": lambda x: tf.nn.relu6(
        tf.nn.bias_add(
            tf.nn.conv2d(x, _KERNEL, [1, 2, 1, 1], "SAME"),
            [1.0, 2.0, 3.0, 4.0, 5.0],
        )
    ),
    "dilated": lambda x: tf.nn.conv2d(x, _KERNEL, 1, "VALID", dilations=2),
    "depthwise": lambda x: tf.nn.depthwise_conv2d(
        x, _KERNEL, [1, 1, 1, 1], "SAME"
    ),
    "transposed": lambda x: tf.nn.conv2d_transpose(
        x, _KERNEL.transpose(0, 1, 3, 2), [1, 16, 16, 5], 2, "SAME"
    ),
    "pools": lambda x: tf.concat(
        [
            tf.nn.max_pool2d(x, [3, 2], [2, 1], "VALID"),
            tf.nn.avg_pool2d(x, [3, 2], [2, 1], "VALID"),
        ],
        3,
    ),
    "resizes": lambda x: tf.concat(
        [
            tf.image.resize(x, (11, 13)),
            tf.image.resize(x, (11, 13), method="nearest"),
            tf.compat.v1.image.resize_bilinear(x, (11, 13), True),
        ],
        3,
    ),
    "strided_slice": lambda x: x[:, 1:-2:2, tf.newaxis, ..., 1],
    "pads": lambda x: tf.pad(
        tf.pad(x, [[0, 0], [1, 2], [0, 1], [0, 0]], constant_values=3.0),
        [[0, 0], [1, 2], [0, 1], [0, 0]],
        "REFLECT",
    ),
    "moves": lambda x: tf.stack(
        tf.unstack(tf.transpose(tf.reverse(x, [2]), [0, 3, 1, 2]), axis=1), -1
    ),
    "splits": lambda x: (
        tf.add(*tf.split(x, 2, 3)) * tf.split(x, [1, 1, 2], 3)[2]
    ),
    "reductions": lambda x: (
        tf.reduce_mean(x, [1, 2])
        + tf.reduce_max(x, [1, 2])
        + tf.reduce_sum(x, [1, 2], keepdims=True)[:, 0, 0]
    ),
    "softmaxes": lambda x: tf.nn.softmax(x) + tf.nn.log_softmax(2.0 * x),
    "curves": lambda x: (
        tf.tanh(x)
        + tf.sigmoid(x)
        + tf.nn.elu(x)
        + tf.nn.leaky_relu(x, 0.3)
        + tf.nn.gelu(x)
        + tf.math.rsqrt(tf.square(x) + 1.0)
        + tf.exp(-tf.abs(x))
    ),
    "hard_swish": lambda x: x * tf.nn.relu6(x + 3.0) / 6.0,
    "comparisons": lambda x: tf.where(x > 0.5, tf.maximum(x, 1.0), -x),
    "dense": lambda x: tf.nn.relu(
        tf.matmul(tf.reshape(x, (-1, 4)), _KERNEL[0, 0]) + 1.0
    ),
    "batch_matmul": lambda x: tf.matmul(x, x, transpose_b=True),
    "gather": lambda x: tf.gather(x, [3, 1, 1], axis=3),
    "blocks": lambda x: (
        tf.nn.depth_to_space(x, 2)
        + tf.nn.depth_to_space(
            tf.nn.space_to_depth(tf.nn.depth_to_space(x, 2), 2), 2
        )
    ),
    "running_sum": lambda x: tf.cumsum(x, 2, reverse=True),
    "l2": lambda x: tf.math.l2_normalize(x, 3),
}


class TestOperations:
    @pytest.mark.parametrize("name", sorted(_FUNCTIONS))
    def test_an_operation_computes_what_the_interpreter_does(
        self, name, tmp_path
    ):
        path = _file(tmp_path / "net.tflite", _FUNCTIONS[name], (1, 8, 8, 4))
        assert max(_differences(path).values()) < 1e-5

    @hypothesis.settings(max_examples=12, deadline=None)
    @hypothesis.given(drawn_layers.models())
    def test_any_layer_of_keras(self, tmp_path_factory, drawn):
        model = drawn_layers.build(drawn)
        path = tmp_path_factory.mktemp("net") / "net.tflite"
        call = tf.function(lambda x: model(x, training=False))
        shape = (1, *model.inputs[0].shape[1:])
        traced = call.get_concrete_function(tf.TensorSpec(shape, tf.float32))
        _written(path, [traced])
        view = flatbuffer.read(path.read_bytes())
        if op_support.short_biases(view):
            with pytest.raises(errors.UserError, match="interpreter reads"):
                loading.load(path)
        else:
            assert max(_differences(path).values()) < 1e-4

    def test_weights_of_half_precision(self, tmp_path):
        weights = np.random.default_rng(0).normal(size=(3, 3, 4, 64))
        path = tmp_path / "net.tflite"
        traced = tf.function(
            lambda x: tf.nn.conv2d(x, weights.astype(np.float32), 1, "SAME")
        ).get_concrete_function(tf.TensorSpec((1, 8, 8, 4)))
        converter = tf.lite.TFLiteConverter.from_concrete_functions([traced])
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
        path.write_bytes(converter.convert())
        dtypes = {t.dtype for t in flatbuffer.read(path.read_bytes()).tensors}
        assert "float16" in dtypes
        assert max(_differences(path).values()) < 1e-5

    def test_weights_that_are_integers(self, tmp_path):
        weights = np.random.default_rng(0).normal(size=(64, 64))
        path = _file(
            tmp_path / "net.tflite",
            lambda x: tf.matmul(x, weights.astype(np.float32)),
            (1, 64),
            optimizations=[tf.lite.Optimize.DEFAULT],
        )
        dtypes = {t.dtype for t in flatbuffer.read(path.read_bytes()).tensors}
        assert "int8" in dtypes
        assert max(_differences(path).values()) < 0.03

    def test_inputs_and_outputs_keep_names_and_open_batch(self, tmp_path):
        class Net(tf.Module):
            @tf.function(
                input_signature=[
                    tf.TensorSpec((None, 3), name="left"),
                    tf.TensorSpec((None, 3), name="right"),
                ]
            )
            def __call__(self, left, right):
                return {"sum": left + right, "difference": left - right}

        net = Net()
        tf.saved_model.save(net, str(tmp_path / "m"), signatures=net.__call__)
        path = tmp_path / "net.tflite"
        path.write_bytes(
            tf.lite.TFLiteConverter.from_saved_model(
                str(tmp_path / "m")
            ).convert()
        )
        graph = loading.load(path)
        assert {p.name: p.shape for p in graph.inputs} == {
            "left": (None, 3),
            "right": (None, 3),
        }
        assert {p.name for p in graph.outputs} == {"sum", "difference"}
        assert max(_differences(path).values()) < 1e-6

    def test_an_output_that_is_an_input_or_a_constant(self, tmp_path):
        path = _file(
            tmp_path / "net.tflite",
            lambda x: (tf.identity(x), tf.nn.relu(x), tf.ones((1, 2))),
            (1, 4),
        )
        assert max(_differences(path).values()) < 1e-6

    def test_operations_that_know_one_sample_only(self, tmp_path):
        """The file leaves the batch open, and a reshape does not."""

        def net(x):
            return tf.nn.softmax(tf.reshape(tf.nn.relu(x), (1, 4)))

        path = _file(tmp_path / "net.tflite", net, (None, 2, 2))
        graph = loading.load(path)
        assert [port.shape for port in graph.inputs] == [(1, 2, 2)]
        assert max(_differences(path).values()) < 1e-6


class TestRefusals:
    def test_a_quantized_file(self, tmp_path):
        source = _file(tmp_path / "net.tflite", tf.nn.relu, (1, 8))
        result = dsg_tf.quantize_model(
            source, samples=np.ones((20, 8), np.float32)
        )
        with pytest.raises(errors.UserError, match="quantized already"):
            loading.load(result.output)

    def test_an_operation_without_a_row(self, tmp_path, monkeypatch):
        path = _file(tmp_path / "net.tflite", tf.sin, (1, 4))
        monkeypatch.delitem(tflite_ops._OPS, "SIN")
        with pytest.raises(errors.UserError, match=r"SIN \(.*cannot read"):
            loading.load(path)

    def test_a_reading_that_computes_something_else(
        self, tmp_path, monkeypatch
    ):
        path = _file(tmp_path / "net.tflite", tf.sin, (1, 4))
        monkeypatch.setitem(
            tflite_ops._OPS, "SIN", lambda call: tf.cos(call.inputs[0])
        )
        with pytest.raises(errors.UserError, match="differs when"):
            tflite_files.load(path)

    def test_without_samples_there_are_no_moments(self, tmp_path):
        path = _file(tmp_path / "net.tflite", tf.sin, (1, 4))
        assert formats.identify(path) is formats.Format.TFLITE
        with pytest.raises(errors.UserError, match=r"--samples=images\.npz"):
            dsg_tf.quantize_model(path, output=tmp_path / "out.tflite")
        assert not (tmp_path / "out.tflite.run").exists()


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_a_float_file_is_quantized_with_samples(tmp_path, granularity):
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 3, 3, 8)).astype(np.float32)
    dense = rng.normal(size=(8, 4)).astype(np.float32)

    def net(x):
        x = tf.nn.relu(tf.nn.conv2d(x, kernel, 2, "SAME"))
        return tf.matmul(tf.reduce_mean(x, [1, 2]), dense)

    path = _file(tmp_path / "net.tflite", net, (1, 8, 8, 3))
    samples = rng.normal(size=(24, 8, 8, 3)).astype(np.float32)
    result = dsg_tf.quantize_model(
        path,
        output=tmp_path / "out.tflite",
        samples=samples,
        config=run_config.PipelineConfig(
            export=export_config.ExportConfig(granularity=granularity)
        ),
    )
    (output,) = result.report.outputs.values()
    assert output.sqnr_db > 25
    assert result.report.float_operations == ()
