"""Real values in, real values out, whatever the file's types."""

from __future__ import annotations

import numpy as np
import pytest
import tflite_nets

from dsg_tf.core import errors
from dsg_tf.export import calibration
from dsg_tf.quant import uniform
from dsg_tf.tflite import export, flatbuffer, interpreter


def _samples(count=4):
    return tflite_nets.samples(count)


def test_a_float_file_computes_the_functions_values():
    samples = _samples()
    found = interpreter.Interpreter(tflite_nets.float_tflite("residual")).run(
        samples
    )["output_0"]
    expected = tflite_nets.NETS["residual"](samples["x"]).numpy()
    assert found.shape == expected.shape
    # Sums of 36 products in float32, in another order.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_integer_inputs_take_real_values_by_their_scale():
    model = tflite_nets.float_tflite("input_is_output")
    exported = export.export(
        model, calibration.calibrate(model, _samples()), io_type="int8"
    )
    runner = interpreter.Interpreter(exported.model)
    found = runner.run(_samples())["output_0"]
    params = runner.view.input_names()["x"].params
    expected = uniform.fake_quantize(_samples()["x"], params)
    # The output is the input: what came in, on the input's grid, as float32.
    np.testing.assert_array_equal(found, expected.astype(np.float32))


def test_all_tensors_are_kept_on_request():
    runner = interpreter.Interpreter(
        tflite_nets.float_tflite("residual"), all_tensors=True
    )
    runner.invoke({"x": _samples()["x"][0]})
    view = runner.view
    conv, add = view.ops
    x = runner.tensor(view.tensors[view.inputs[0]])
    inner = runner.tensor(view.tensors[conv.outputs[0]])
    out = runner.tensor(view.tensors[add.outputs[0]])
    np.testing.assert_array_equal(x[0], _samples()["x"][0])
    np.testing.assert_array_equal(out, np.maximum(x + inner, 0))


def test_no_delegate_is_taken_where_all_tensors_are_kept():
    for options, expected in (
        ({}, True),
        ({"delegates": False}, False),
        ({"all_tensors": True}, False),
    ):
        runner = interpreter.Interpreter(
            tflite_nets.float_tflite("residual"), **options
        )
        ops = runner._interpreter._get_ops_details()
        assert any(op["op_name"] == "DELEGATE" for op in ops) == expected


@pytest.mark.parametrize(
    ("samples", "word"),
    [
        ({"y": np.zeros((2, 8, 8, 4))}, "expected inputs x"),
        ({}, "expected inputs x"),
        ({"x": np.zeros((2, 8, 8, 3))}, "shape"),
        ({"x": np.zeros((8, 8, 4))}, "shape"),
        ({"x": np.zeros((0, 8, 8, 4))}, "counts 0"),
    ],
)
def test_samples_that_do_not_fit_are_refused(samples, word):
    runner = interpreter.Interpreter(tflite_nets.float_tflite("conv"))
    with pytest.raises(errors.UserError, match=word):
        runner.run(samples)


def test_a_file_that_the_kernels_refuse_is_a_users_error():
    view = flatbuffer.read(tflite_nets.float_tflite("conv"))
    view.raw.subgraphs[0].operators[0].inputs = [0]
    with pytest.raises(errors.UserError, match="refusal"):
        interpreter.Interpreter(flatbuffer.write(view.raw))


def test_nothing_is_written_to_the_screen(capfd):
    interpreter.Interpreter(tflite_nets.float_tflite("conv")).run(_samples())
    interpreter.Interpreter(tflite_nets.float_tflite("conv"), all_tensors=True)
    assert capfd.readouterr() == ("", "")
