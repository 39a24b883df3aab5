"""Operations under another's code come out integer, themselves and right."""

from __future__ import annotations

import pytest
import tflite_nets

from dsg_tf.export import calibration
from dsg_tf.fidelity import verify
from dsg_tf.tflite import (
    export,
    flatbuffer,
    interpreter,
    op_aliases,
    op_support,
    readback,
)

_CASES = [
    (name, bits)
    for name, stand_in in sorted(op_aliases.STAND_INS.items())
    for bits in stand_in.activation_bits
]


def test_every_stand_in_has_a_net():
    assert set(tflite_nets.STAND_IN_NETS) == set(op_aliases.STAND_INS)


@pytest.mark.parametrize(("name", "bits"), _CASES)
def test_the_operation_is_integer_and_near(name, bits):
    model = tflite_nets.float_tflite(name)
    assert name in [op.name for op in flatbuffer.read(model).ops]
    assert op_support.unsupported_ops(model, activation_bits=bits) == []
    samples = tflite_nets.samples(12)
    exported = export.export(
        model, calibration.calibrate(model, samples), activation_bits=bits
    )
    assert readback.check(exported.model, exported.requested).float_ops == 0
    view = flatbuffer.read(exported.model)
    ops = [op.name for op in view.ops]
    assert name in ops
    assert op_aliases.STAND_INS[name].op not in set(ops) - {
        op.name for op in flatbuffer.read(model).ops
    }
    reference = interpreter.Interpreter(model).run(samples)["output_0"]
    for delegates in (True, False):
        found = interpreter.Interpreter(
            exported.model, delegates=delegates
        ).run(samples)["output_0"]
        fidelity = verify.compare(reference, found)
        if name.startswith("ARG_"):
            # Classes of means that are far apart; two in twelve may tie.
            assert (reference == found).mean() >= 10 / 12
        else:
            # As in tflite_export_test; a wrong kernel gives single digits. A
            # comparison flips where the threshold is less than a step away.
            assert fidelity.sqnr_db > (24 if bits == 8 else 40)


@pytest.mark.parametrize(("name", "bits"), _CASES)
def test_no_code_of_a_stand_in_stays_in_the_file(name, bits):
    model = tflite_nets.float_tflite(name)
    exported = export.export(
        model,
        calibration.calibrate(model, tflite_nets.samples(2)),
        activation_bits=bits,
    )
    raw = flatbuffer.read(exported.model).raw
    used = {op.opcodeIndex for op in raw.subgraphs[0].operators}
    assert used == set(range(len(raw.operatorCodes)))


def test_disguising_and_revealing_leaves_the_file_as_it_was():
    model = tflite_nets.float_tflite("LEAKY_RELU")
    source = flatbuffer.read(model)
    disguised = op_aliases.disguised(model, 8)
    names = [op.name for op in flatbuffer.read(disguised).ops]
    assert "LEAKY_RELU" not in names
    assert "RELU" in names
    again = flatbuffer.read(op_aliases.revealed(disguised, source))
    assert again.ops == source.ops
    assert again.tensors == source.tensors


def test_operations_without_a_16_bit_kernel_stay_as_they_are():
    model = tflite_nets.float_tflite("ELU")
    assert flatbuffer.read(op_aliases.disguised(model, 16)).ops == (
        flatbuffer.read(model).ops
    )
    (found,) = op_support.unsupported_ops(model, activation_bits=16)
    assert (found.op, found.reason) == (
        "ELU",
        "no integer form with 16-bit activations",
    )
