"""Plans the scale and zero point of every tensor before the export.

From ranges of the activations and the constants in the float file, a plan
fixes scale and zero point of each activation, and the integers of each
weight and bias too. The exporter makes LiteRT Quantizer write exactly this,
and the read-back compares the file with it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

import numpy as np

from dsg_tf.core import errors
from dsg_tf.quant import qtypes, uniform
from dsg_tf.tflite import flatbuffer, op_support
from dsg_tf.tflite import weights as weights_lib

# XNNPACK refuses a whole file in which input_scale * weight_scale /
# output_scale reaches 2^8; half of that leaves room for rounding.
_MAX_MULTIPLIER = 2.0**7
# The int8 kernel of ADD aborts the process where the output's step is below
# 2^-19 of an input's; XNNPACK accepts ratios down to 2^-10. A finer output
# grid would add no information to that of the inputs' grids.
_MAX_STEP_RATIO = 2.0**10
# Kernels with a fused RELU6 compute 6 / scale as an int32; half of its range.
_LEAST_SCALE = 6.0 / 2.0**30
_SUMS = frozenset({"ABS", "ADD", "LEAKY_RELU", "PRELU", "RELU", "RELU6", "SUB"})
_PRODUCTS = frozenset({"BATCH_MATMUL", "MUL"})


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """The planned grids and integers of a whole file.

    Attributes:
      activations: grid by tensor name.
      weights: grid and integers by tensor name.
      biases: likewise.
      operands: likewise, for all other float constants.
      float_ops: (operation, first output's name) of those that stay float.
    """

    activations: dict[str, qtypes.QuantParams]
    weights: dict[str, weights_lib.Quantized]
    biases: dict[str, weights_lib.Quantized]
    operands: dict[str, weights_lib.Quantized]
    float_ops: tuple[tuple[str, str], ...]

    @property
    def constants(self) -> dict[str, weights_lib.Quantized]:
        """Weights, biases and other operands."""
        return self.weights | self.biases | self.operands


def make(
    view: flatbuffer.Model,
    ranges: Mapping[str, qtypes.TensorRange],
    *,
    chosen: weights_lib.WeightGrids,
    activation_bits: int = 8,
    stay_float: Collection[int] = (),
) -> Plan:
    """Plans the quantization of a float .tflite.

    Args:
      view: the file; constants are not shared between uses of different
        kinds (`export` sees to that).
      ranges: by name of every activation.
      chosen: grids of all weights, by `weights.choose`.
      activation_bits: 8, 16, or 32: weights alone become integers, and no
        ranges are needed.
      stay_float: positions of operations that stay float although integers
        have them.

    Returns:
      The plan.

    Raises:
      UserError: ranges are missing.
    """
    if activation_bits == op_support.FLOAT_BITS:
        return _weights_alone(view, chosen)
    resolver = _Resolver(view, ranges, chosen, activation_bits, stay_float)
    grids = resolver.activations()
    found: tuple[dict, dict, dict] = ({}, {}, {})
    for op in resolver.integer_ops:
        if weights_lib.operand(view, op) is not None:
            found[0].update(weights_lib.quantized(view, op, grids, chosen))
            found[1].update(
                weights_lib.quantized_bias(view, op, grids, found[0])
            )
        else:
            found[2].update(resolver.operands(op, grids))
    return Plan(
        activations={view.tensors[i].name: p for i, p in grids.items()},
        weights=found[0],
        biases=found[1],
        operands=found[2],
        float_ops=_float_ops(view, resolver.integer_ops),
    )


def _weights_alone(
    view: flatbuffer.Model, chosen: weights_lib.WeightGrids
) -> Plan:
    """Integer weights in a file that computes in float."""
    found: dict[str, weights_lib.Quantized] = {}
    for op in view.ops:
        if weights_lib.operand(view, op) is not None:
            found.update(weights_lib.quantized(view, op, None, chosen))
    return Plan({}, found, {}, {}, _float_ops(view, ()))


def _float_ops(
    view: flatbuffer.Model, integer_ops: Collection[flatbuffer.Op]
) -> tuple[tuple[str, str], ...]:
    """(operation, first output's name) of those that stay float."""
    return tuple(
        (op.name, view.tensors[op.outputs[0]].name)
        for op in view.ops
        if op not in integer_ops and op_support.touches_float(view, op)
    )


class _Resolver:
    """Computes grids from ranges under the kernels' constraints on scales."""

    def __init__(
        self,
        view: flatbuffer.Model,
        ranges: Mapping[str, qtypes.TensorRange],
        chosen: weights_lib.WeightGrids,
        activation_bits: int,
        stay_float: Collection[int],
    ):
        self._view = view
        self._bits = activation_bits
        self._spec = op_support.activation_spec(activation_bits)
        self._chosen = chosen
        self.integer_ops = [
            op
            for op in view.ops
            if op.index not in stay_float
            and not op_support.reason_for_float(op, activation_bits)
        ]
        self._ranges = self._checked(ranges)
        self._adopt_output_ranges()

    def activations(self) -> dict[int, qtypes.QuantParams]:
        """Grid by tensor index, of all float activations."""
        grids: dict[int, qtypes.QuantParams] = {}
        producers = {
            index: op for op in self.integer_ops for index in op.outputs
        }
        # Inputs of the model and outputs of float operations are unconstrained.
        for index, bounds in self._ranges.items():
            if index not in producers:
                grids[index] = self._grid(bounds)
        for index, op in producers.items():
            if index in self._ranges:
                grids[index] = self._output_grid(op, index, grids)
        return grids

    def operands(
        self, op: flatbuffer.Op, grids: Mapping[int, qtypes.QuantParams]
    ) -> dict[str, weights_lib.Quantized]:
        """Float constants of an operation without weights, by name."""
        found = {}
        for index in op.inputs:
            if not self._is_float_constant(index):
                continue
            tensor = self._view.tensors[index]
            if op_support.scales(op) is op_support.Scales.AS_OUTPUT:
                params = grids[op.outputs[0]]
                codes = uniform.quantize(self._view.constant(tensor), params)
                found[tensor.name] = weights_lib.Quantized(params, codes)
            else:
                found[tensor.name] = self._operand(op, index)
        return found

    def _checked(
        self, ranges: Mapping[str, qtypes.TensorRange]
    ) -> dict[int, qtypes.TensorRange]:
        needed = self._view.float_activations()
        missing = [t.name for t in needed if t.name not in ranges]
        if missing:
            raise errors.UserError(
                f"ranges of {len(missing)} activations",
                got="none for " + ", ".join(missing[:3]),
                expected="a range for every activation",
                remedy="calibrate on this very .tflite",
            )
        return {t.index: ranges[t.name].with_zero() for t in needed}

    def _adopt_output_ranges(self) -> None:
        """Gives the operands of a CONCATENATION the range of its output.

        Otherwise the quantizer inserts a QUANTIZE, which rounds a second time.
        Only for tensors that nothing else reads.
        """
        view = self._view
        free = {
            index
            for op in self.integer_ops
            if op_support.scales(op) is not op_support.Scales.FIXED
            and op_support.scales(op) is not op_support.Scales.AS_INPUT
            for index in op.outputs
            if index in self._ranges and len(view.consumers[index]) == 1
        } - set(view.outputs)
        for op in reversed(self.integer_ops):
            if op_support.scales(op) is not op_support.Scales.AS_OUTPUT:
                continue
            for index in op.inputs:
                if index in free:
                    self._ranges[index] = self._ranges[op.outputs[0]]

    def _grid(self, bounds: qtypes.TensorRange) -> qtypes.QuantParams:
        return uniform.affine_params(
            bounds, self._spec.bits, self._spec.symmetric
        )

    def _output_grid(
        self,
        op: flatbuffer.Op,
        index: int,
        grids: Mapping[int, qtypes.QuantParams],
    ) -> qtypes.QuantParams:
        kind = op_support.scales(op)
        if kind is op_support.Scales.FIXED:
            scale, zero_point = op_support.FIXED_OUTPUTS[op.name][self._bits]
            return qtypes.QuantParams(
                np.array([scale], np.float32),
                np.array([zero_point]),
                self._spec.qmin,
                self._spec.qmax,
            )
        if kind is op_support.Scales.AS_INPUT:
            for source in op.inputs:
                if source in grids:
                    return grids[source]
                if self._is_float_constant(source):
                    return self._operand(op, source).params
        bounds = self._ranges[index]
        grid = self._grid(bounds)
        least = max(_LEAST_SCALE, self._least_output_scale(op, grids))
        if grid.scale[0] >= least:
            return grid
        # The tensor was nearly constant in calibration; its inputs were not.
        width = 1.001 * least * (self._spec.qmax - self._spec.qmin)
        if bounds.width == 0:
            return self._grid(qtypes.TensorRange(0.0, width))
        factor = width / bounds.width
        return self._grid(
            qtypes.TensorRange(bounds.min * factor, bounds.max * factor)
        )

    def _least_output_scale(
        self, op: flatbuffer.Op, grids: Mapping[int, qtypes.QuantParams]
    ) -> float:
        """Least output scale: below it, kernels reject the file or abort."""
        tensor = weights_lib.operand(self._view, op)
        if tensor is not None:
            where = op_support.WEIGHTS[op.name]
            data = float(grids[op.inputs[where.data]].scale[0])
            product = data * float(self._chosen.grids[tensor.index].scale.max())
            bias = weights_lib.bias_operand(self._view, op)
            if bias is not None:  # It raises scales: see weights._scale_floor.
                largest = float(abs(self._view.constant(bias)).max())
                product = max(product, largest / 2.0**30)
            return product / _MAX_MULTIPLIER
        steps = [
            float(self._operand_grid(op, index, grids).scale[0])
            for index in op.inputs
            if index in grids or self._is_float_constant(index)
        ]
        if op.name in _SUMS:
            return max(steps) / _MAX_STEP_RATIO
        if op.name in _PRODUCTS:
            return steps[0] * steps[-1] / _MAX_MULTIPLIER
        return 0.0

    def _operand_grid(
        self,
        op: flatbuffer.Op,
        index: int,
        grids: Mapping[int, qtypes.QuantParams],
    ) -> qtypes.QuantParams:
        return grids.get(index) or self._operand(op, index).params

    def _operand(self, op: flatbuffer.Op, index: int) -> weights_lib.Quantized:
        # The quantizer treats constants of a BATCH_MATMUL as weights.
        spec = (
            qtypes.QuantSpec(8, symmetric=True)
            if op.name == "BATCH_MATMUL"
            else self._spec
        )
        return weights_lib.other_operand(self._view, index, spec)

    def _is_float_constant(self, index: int) -> bool:
        tensor = self._view.tensors[index]
        return index >= 0 and tensor.constant and tensor.dtype == "float32"
