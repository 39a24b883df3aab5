"""Between the units of a model's input and the variables of its samples.

Samples are kept in deviations from the domain's mean, so that one learning rate
fits a 0..255 model and a [-1, 1] model alike. Images are optimised before a map
that makes images of white noise (`natural_images`).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from dsg_tf import input_domain, synthesis_config
from dsg_tf.graph import ir
from dsg_tf.synthesis import natural_images


@dataclasses.dataclass(frozen=True, eq=False)
class InputSpace:
    """One input: its shape, and the way between its units and the variables.

    A sample of value x is `(x - center) / unit` in deviations.

    Attributes:
      shape: (B, ...), all known.
      domain: where its values live.
      center, unit: float32 (C,), (1,) or scalars.
      natural: the map from white noise to natural images, where samples start
        as such; else they start as white noise.
      spectral: whether the variables are coefficients before that map; else
        they are the samples, in deviations.
      scatter: whether images start with brightness and contrast of their own.
      is_image: whether it looks like an image.
      jitter: largest shift that the network sees it under, a share of its
        height and width.
      mirror: whether the network sees it mirrored, too.
      keep: whether values must stay within the domain's bounds.
    """

    shape: tuple[int, ...]
    domain: input_domain.InputDomain
    center: np.ndarray
    unit: np.ndarray
    natural: natural_images.NaturalImages | None
    spectral: bool
    scatter: bool
    is_image: bool
    jitter: float
    mirror: bool
    keep: bool

    @classmethod
    def of(
        cls,
        port: ir.Port,
        domain: input_domain.InputDomain,
        config: synthesis_config.SynthesisConfig,
    ) -> InputSpace:
        """The space of an input whose shape is known, batch included."""
        image = input_domain.is_image(port)
        use = config.use_domain
        natural = None
        if image and config.initializer == "natural":
            share = natural_images.BRIGHTNESS_SHARE if config.scatter else 0.0
            natural = natural_images.NaturalImages.of(
                port.shape,
                channel_correlation=domain.channel_correlation,
                neighbour_correlation=domain.neighbour_correlation,
                brightness_share=share,
            )
        return cls(
            shape=tuple(port.shape),
            domain=domain,
            center=np.asarray(domain.mean if use else 0.0, np.float32),
            unit=np.asarray(domain.deviation if use else 1.0, np.float32),
            natural=natural,
            spectral=natural is not None and config.basis == "spectrum",
            scatter=natural is not None and config.scatter,
            is_image=image,
            jitter=config.jitter if image else 0.0,
            # A digit or a spectrogram is another thing in the mirror; photos,
            # by and large, are not.
            mirror=config.mirror and image and port.shape[-1] > 1,
            keep=config.keep_domain,
        )

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The domain's bounds, in deviations."""
        return tuple(
            ((b - self.center) / self.unit).astype(np.float32)
            for b in (self.domain.minimum, self.domain.maximum)
        )

    @property
    def variable_shape(self) -> tuple[int, ...]:
        """Of the variables, batch first."""
        if not self.spectral:
            return self.shape
        batch, height, width, channels = self.shape
        return batch, channels, height, width // 2 + 1, 2

    def initial(self, rng: np.random.Generator) -> np.ndarray:
        """Where the variables start, float32."""
        noise = natural_images.white(rng, self.shape, scatter=self.scatter)
        if self.natural is None:
            return self.project(noise)
        coefficients = self.natural.coefficients(noise)
        if self.spectral:
            return coefficients
        return self.project(self.natural(coefficients).numpy())

    def project(self, variables: np.ndarray) -> np.ndarray:
        """Variables brought back to where they may be.

        Those before a map may be anywhere: `deviations` keeps the bounds.
        """
        if self.spectral or not self.keep:
            return variables
        return np.clip(variables, *self.bounds)

    def deviations(self, variables: tf.Tensor) -> tf.Tensor:
        """The samples of variables, in deviations, with a gradient."""
        if not self.spectral:
            return variables
        images = self.natural(variables)
        return _bounded(images, *self.bounds) if self.keep else images

    def to_model(self, values: np.ndarray) -> np.ndarray:
        """Deviations to the model's units, within bounds if they are kept."""
        values = (values * self.unit + self.center).astype(np.float32)
        if self.keep:
            values = np.clip(values, self.domain.minimum, self.domain.maximum)
        return values

    def view(self, rng: np.random.Generator) -> np.ndarray:
        """A random view, for `seen`.

        Returns:
          int32 (3,): shift down, shift right, and 1 if mirrored.
        """
        reach = [int(self.jitter * side) for side in self.shape[1:3]]
        reach += [0] * (2 - len(reach))
        shifts = [rng.integers(-most, most, endpoint=True) for most in reach]
        return np.array([*shifts, self.mirror and rng.integers(2)], np.int32)

    def seen(self, values: tf.Tensor, view: tf.Tensor) -> tf.Tensor:
        """Values as the network sees them in a view: around the edges."""
        if self.jitter:
            values = tf.roll(values, view[:2], (1, 2))
        if self.mirror:
            # Along width, or along no axis: a choice between the two images
            # would cost as much as a layer of a small network.
            values = tf.reverse(values, tf.range(2, 2 + view[2]))
        return values

    def to_model_tensor(self, values: tf.Tensor) -> tf.Tensor:
        """Deviations to the model's units, with a gradient."""
        return values * self.unit + self.center


@tf.custom_gradient
def _bounded(values: tf.Tensor, low: tf.Tensor, high: tf.Tensor):
    """A clip that lets pass what would bring a value back from beyond."""

    def gradient(upstream):
        away = ((values > high) & (upstream < 0)) | (
            (values < low) & (upstream > 0)
        )
        return tf.where(away, tf.zeros_like(upstream), upstream), None, None

    return tf.clip_by_value(values, low, high), gradient
