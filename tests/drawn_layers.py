"""Keras models of one layer of any kind, drawn by hypothesis."""

from __future__ import annotations

import dataclasses

import hypothesis.strategies as st

_ACTIVATIONS = [
    *("linear", "relu", "relu6", "leaky_relu", "elu", "silu", "sigmoid"),
    *("tanh", "hard_swish", "hard_sigmoid", "gelu", "softplus", "selu"),
]
# Class by name; how many spatial dimensions; what it can do.
_KINDS = {
    "Conv1D": (1, {"dilation", "groups", "causal"}),
    "Conv2D": (2, {"dilation", "groups"}),
    "DepthwiseConv1D": (1, {"dilation", "multiplier"}),
    "DepthwiseConv2D": (2, {"dilation", "multiplier"}),
    "SeparableConv1D": (1, {"dilation", "multiplier"}),
    "SeparableConv2D": (2, {"dilation", "multiplier"}),
    "Conv1DTranspose": (1, set()),
    "Conv2DTranspose": (2, set()),
    "Dense": (2, set()),
}


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A model in words, which `build` makes.

    Attributes:
      kind: class of the layer.
      options: its arguments.
      before: layers between the input and it.
      behind: layers between it and the output.
      spatial: number of spatial dimensions.
    """

    kind: str
    options: dict
    before: tuple[str, ...]
    behind: tuple[str, ...]
    spatial: int


@st.composite
def models(draw) -> Drawn:
    """Draws a layer, its arguments, and what stands around it."""
    kind = draw(st.sampled_from(sorted(_KINDS)))
    spatial, able = _KINDS[kind]
    options = {
        "use_bias": draw(st.booleans()),
        "activation": draw(st.sampled_from(_ACTIVATIONS)),
    }
    if kind == "Dense":
        options["units"] = 6
    else:
        options["kernel_size"] = draw(st.integers(1, 3))
        paddings = ["valid", "same"] + ["causal"] * ("causal" in able)
        options["padding"] = draw(st.sampled_from(paddings))
        stride = draw(st.integers(1, 2))
        if "dilation" in able and stride == 1:
            options["dilation_rate"] = draw(st.integers(1, 2))
        options["strides"] = stride
        if "Depthwise" not in kind:
            options["filters"] = 6
        if "multiplier" in able:
            options["depth_multiplier"] = draw(st.integers(1, 2))
        if "groups" in able:
            options["groups"] = draw(st.sampled_from([1, 2]))
    around = st.sampled_from(
        [(), ("BatchNormalization",), ("BatchNormalization", "ReLU")]
    )
    return Drawn(kind, options, draw(around), draw(around), spatial)


def build(drawn: Drawn):
    """The Keras model, seeded, with moving statistics that are not 0 and 1."""
    import keras
    import numpy as np

    layers = keras.layers
    keras.utils.set_random_seed(0)
    image = keras.Input((*(9,) * drawn.spatial, 4), name="image")
    value = layers.Conv2D(4, 1)(image) if drawn.spatial == 2 else image
    for name in drawn.before:
        value = getattr(layers, name)()(value)
    value = getattr(layers, drawn.kind)(**drawn.options)(value)
    for name in drawn.behind:
        value = getattr(layers, name)()(value)
    model = keras.Model(image, value)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            size = layer.gamma.shape
            layer.set_weights(
                [
                    rng.uniform(0.5, 2.0, size),
                    rng.normal(0.0, 1.0, size),
                    rng.normal(0.0, 1.0, size),
                    rng.uniform(0.5, 2.0, size),
                ]
            )
    return model
