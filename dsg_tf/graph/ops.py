"""What operations of a frozen graph do: one table of traits.

A trait holds whatever the attributes and operands are. What depends on them
(the axes of a Mean, the padding of a convolution) is looked at where it
matters.
"""

from __future__ import annotations

import enum


class Trait(enum.Flag):
    """What an operation does with its first operand."""

    # Returns it. TensorFlow marks custom gradients so (for instance of silu).
    IDENTITY = enum.auto()
    # Gives it another shape: the same values in the same order.
    RESHAPE = enum.auto()
    # Adds values at its borders.
    PAD = enum.auto()
    # The mean or the greatest of each window, (N, H, W, C).
    POOL = enum.auto()
    # Puts values to other places, leaves some out or repeats some.
    MOVE = enum.auto()
    # Joins operands along an axis.
    JOIN = enum.auto()
    # A convolution over images, or each channel with its own kernel.
    CONVOLUTION = enum.auto()
    # A matrix product.
    PRODUCT = enum.auto()
    # Adds a second operand.
    ADD = enum.auto()
    # Adds one value per channel.
    BIAS = enum.auto()
    SUBTRACT = enum.auto()
    MULTIPLY = enum.auto()
    DIVIDE = enum.auto()
    # BatchNormalization as one operation.
    BATCH_NORM = enum.auto()
    # f(s x) = s f(x) for one positive factor s per channel, the last axis.
    KEEPS_FACTORS = enum.auto()
    # Mean and deviation of each channel over the positions hardly change.
    KEEPS_MOMENTS = enum.auto()


_BY_CHANNEL = Trait.KEEPS_FACTORS | Trait.KEEPS_MOMENTS
_TRAITS = {
    "Add": Trait.ADD,
    "AddV2": Trait.ADD,
    "AvgPool": Trait.POOL | _BY_CHANNEL,
    "BatchMatMul": Trait.PRODUCT,
    "BatchMatMulV2": Trait.PRODUCT,
    "BatchMatMulV3": Trait.PRODUCT,
    "BatchToSpaceND": _BY_CHANNEL,
    "BiasAdd": Trait.BIAS,
    "CheckNumerics": Trait.IDENTITY,
    "ConcatV2": Trait.JOIN,
    "Conv2D": Trait.CONVOLUTION,
    "DepthwiseConv2dNative": Trait.CONVOLUTION,
    "Einsum": Trait.PRODUCT,
    "EnsureShape": Trait.IDENTITY,
    "ExpandDims": Trait.RESHAPE | Trait.KEEPS_MOMENTS,
    "FusedBatchNorm": Trait.BATCH_NORM,
    "FusedBatchNormV2": Trait.BATCH_NORM,
    "FusedBatchNormV3": Trait.BATCH_NORM,
    "Identity": Trait.IDENTITY | _BY_CHANNEL,
    "IdentityN": Trait.IDENTITY,
    "LeakyRelu": Trait.KEEPS_FACTORS,
    "MatMul": Trait.PRODUCT,
    "MaxPool": Trait.POOL | Trait.KEEPS_FACTORS,
    "Mean": Trait.KEEPS_MOMENTS,
    "MirrorPad": Trait.PAD | _BY_CHANNEL,
    "Mul": Trait.MULTIPLY,
    "Pack": Trait.JOIN,
    "Pad": Trait.PAD | _BY_CHANNEL,
    # The value that it pads with is an operand.
    "PadV2": Trait.PAD,
    "PreventGradient": Trait.IDENTITY,
    "RealDiv": Trait.DIVIDE,
    "Relu": Trait.KEEPS_FACTORS,
    "Reshape": Trait.RESHAPE,
    "ResizeBilinear": _BY_CHANNEL,
    "ResizeNearestNeighbor": _BY_CHANNEL,
    "ReverseV2": Trait.MOVE,
    "Slice": Trait.MOVE,
    "Snapshot": Trait.IDENTITY,
    "SpaceToBatchND": _BY_CHANNEL,
    "Squeeze": Trait.RESHAPE | Trait.KEEPS_MOMENTS,
    "StopGradient": Trait.IDENTITY,
    "StridedSlice": Trait.MOVE,
    "Sub": Trait.SUBTRACT,
    "Transpose": Trait.MOVE,
}


def having(traits: Trait) -> frozenset[str]:
    """Operations that have at least one of the traits.

    Examples:
      >>> sorted(having(Trait.ADD | Trait.SUBTRACT))
      ['Add', 'AddV2', 'Sub']
    """
    return frozenset(op for op, own in _TRAITS.items() if own & traits)


IDENTITIES = having(Trait.IDENTITY)
RESHAPES = having(Trait.RESHAPE)
PADS = having(Trait.PAD)
POOLS = having(Trait.POOL)
CONVOLUTIONS = having(Trait.CONVOLUTION)
PRODUCTS = having(Trait.PRODUCT)
ADDITIONS = having(Trait.ADD)
# What adds a bias: an operand of one value per channel.
BIAS_ADDITIONS = having(Trait.ADD | Trait.BIAS)
SUMS = having(Trait.ADD | Trait.SUBTRACT)
ARITHMETIC = having(Trait.ADD | Trait.SUBTRACT | Trait.MULTIPLY | Trait.DIVIDE)
BATCH_NORMS = having(Trait.BATCH_NORM)
# May stand between a layer and its bias or BN, and leaves channels alone.
BEHIND_LAYERS = RESHAPES | {"BatchToSpaceND"}
