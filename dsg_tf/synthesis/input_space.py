"""Between the units of a model's input and deviations of its domain.

Samples are variables in deviations from the domain's mean, so that one learning
rate fits a 0..255 model and a [-1, 1] model alike.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from dsg_tf import config as config_lib
from dsg_tf import input_domain
from dsg_tf.graph import ir
from dsg_tf.synthesis import initializers


@dataclasses.dataclass(frozen=True, eq=False)
class InputSpace:
    """One input: its shape, and the way between its units and deviations.

    A sample of value x is kept as `(x - center) / unit`.

    Attributes:
      shape: (B, ...), all known.
      domain: where its values live.
      center, unit: float32 (C,), (1,) or scalars.
      natural: whether samples start with the spectrum of natural images.
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
    natural: bool
    is_image: bool
    jitter: float
    mirror: bool
    keep: bool

    @classmethod
    def of(
        cls,
        port: ir.Port,
        domain: input_domain.InputDomain,
        config: config_lib.SynthesisConfig,
    ) -> InputSpace:
        """The space of an input whose shape is known, batch included."""
        image = input_domain.is_image(port)
        use = config.use_domain
        return cls(
            shape=tuple(port.shape),
            domain=domain,
            center=np.asarray(domain.mean if use else 0.0, np.float32),
            unit=np.asarray(domain.deviation if use else 1.0, np.float32),
            natural=image and config.initializer == "natural",
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

    def initial(self, rng: np.random.Generator) -> np.ndarray:
        """Where samples start, in deviations."""
        make = initializers.natural if self.natural else initializers.gaussian
        values = make(
            rng,
            self.shape,
            channel_correlation=self.domain.channel_correlation,
        )
        return np.clip(values, *self.bounds) if self.keep else values

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
            values = tf.where(view[2] > 0, tf.reverse(values, [2]), values)
        return values

    def to_model_tensor(self, values: tf.Tensor) -> tf.Tensor:
        """Deviations to the model's units, with a gradient."""
        return values * self.unit + self.center
