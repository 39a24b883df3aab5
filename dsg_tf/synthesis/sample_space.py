"""Converts between a model input's units and the variables of samples.

Samples are kept in deviations from the domain's mean, so that one learning rate
fits a 0..255 model and a [-1, 1] model alike. Images are optimised before a map
that makes images of white noise (`natural_images`).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from dsg_tf.analysis import input_domain
from dsg_tf.config import synthesis_config
from dsg_tf.core import errors
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
      scatter: whether images start with brightness, contrast and sharpness of
        their own.
      is_image: whether it looks like an image.
      reach: largest shift that the network sees it under, in positions of
        height and width.
      black: whether a shift fills the positions that become free with the
        lower bound (black); otherwise with the opposite side of the image.
      mirror: whether the network also sees it mirrored.
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
    reach: tuple[int, int]
    black: bool
    mirror: bool
    keep: bool

    @classmethod
    def of(
        cls,
        port: ir.Port,
        domain: input_domain.InputDomain,
        config: synthesis_config.SynthesisConfig,
    ) -> InputSpace:
        """The space of an input whose shape is known, batch included.

        A `fill` of `auto` that no trial has decided counts as `wrap`.

        Raises:
          errors.UserError: `fill=black` where no image has black borders.
        """
        image = input_domain.is_image(port)
        use = config.use_domain
        farthest = reach(port, config)
        black = config.fill == "black" and any(farthest)
        if black:
            domain = inside_of_borders(port, domain, config)
        natural = None
        if image and config.initializer == "natural":
            natural = natural_images.NaturalImages.of(
                port.shape,
                channel_correlation=domain.channel_correlation,
                neighbour_correlation=domain.neighbour_correlation,
                brightness_share=config.scatter
                * natural_images.BRIGHTNESS_SHARE,
                exponent_deviation=config.scatter
                * natural_images.EXPONENT_DEVIATION,
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
            reach=farthest,
            black=black,
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
        if self.domain.table:
            low, high = int(self.domain.minimum), int(self.domain.maximum)
            indices = rng.integers(low, high, self.shape, endpoint=True)
            return ((indices - self.center) / self.unit).astype(np.float32)
        noise = natural_images.white(rng, self.shape)
        if self.natural is None:
            return np.array(self.projected(noise))
        coefficients = self.natural.coefficients(noise)
        if self.scatter:
            coefficients = self.natural.scattered(rng, coefficients)
        if self.spectral:
            return coefficients
        return np.array(self.projected(self.natural(coefficients)))

    def projected(self, variables: tf.Tensor) -> tf.Tensor:
        """Variables brought back to where they may be.

        Those before a map may be anywhere: `deviations` keeps the bounds.
        """
        if self.spectral or not self.keep:
            return variables
        low, high = (self._by_row(bound) for bound in self.bounds)
        rows = tf.clip_by_value(self._rows(variables), low, high)
        return tf.reshape(rows, self.shape)

    def deviations(self, variables: tf.Tensor) -> tf.Tensor:
        """The samples of variables, in deviations, with a gradient."""
        if not self.spectral:
            return variables
        images = self.natural(variables)
        return _bounded(images, *self.bounds) if self.keep else images

    def to_model(self, values: np.ndarray) -> np.ndarray:
        """Deviations to the model's units, within bounds if they are kept."""
        values = (values * self.unit + self.center).astype(np.float32)
        if self.domain.table:
            values = np.rint(values)
        if self.keep:
            values = np.clip(values, self.domain.minimum, self.domain.maximum)
        return values

    def views(self, rng: np.random.Generator) -> np.ndarray:
        """A random view of each sample, for `seen`.

        Returns:
          int64 (B, 3): shift down, shift right, and 1 if mirrored.
        """
        batch = self.shape[0]
        columns = [
            rng.integers(-most, most, batch, endpoint=True)
            for most in self.reach
        ]
        columns.append(self.mirror * rng.integers(2, size=batch))
        return np.stack(columns, axis=1).astype(np.int64)

    def seen(self, values: tf.Tensor, views: tf.Tensor) -> tf.Tensor:
        """Samples in deviations as the network sees them, each in its view."""
        if not any(self.reach) and not self.mirror:
            return values
        # Every sample on its own: a BN layer's moments are over a batch of
        # images each cropped differently, and one shift for all would make
        # the moments of a batch a matter of chance.
        return tf.stack(
            [
                self._seen(one, view)
                for one, view in zip(
                    tf.unstack(values),
                    tf.unstack(views, num=self.shape[0]),
                    strict=True,
                )
            ]
        )

    def _seen(self, image: tf.Tensor, view: tf.Tensor) -> tf.Tensor:
        """One image, (H, W, C), in its view, int64 (3,)."""
        # Only operations that XLA compiles once for all views: it would compile
        # a slice from a padded image, or axes in a tensor, anew for each.
        if self.black:
            low = self.bounds[0]
            moved = tf.roll(image - low, view[:2], (0, 1))
            image = moved * self._moved_in(view) + low
        elif any(self.reach):
            image = tf.roll(image, view[:2], (0, 1))
        if self.mirror:
            # Not tf.where, which would compute both.
            image = tf.cond(
                view[2] > 0, lambda: tf.reverse(image, [1]), lambda: image
            )
        return image

    def _moved_in(self, view: tf.Tensor) -> tf.Tensor:
        """1 where a shifted image still is, 0 beyond its edges: (H, W, 1)."""
        inside = []
        for axis, size in enumerate(self.shape[1:3]):
            origin = tf.range(size, dtype=view.dtype) - view[axis]
            inside.append((origin >= 0) & (origin < size))
        rows, columns = inside
        return tf.cast((rows[:, None] & columns)[..., None], tf.float32)

    def to_model_tensor(self, values: tf.Tensor) -> tf.Tensor:
        """Deviations to the model's units, with a gradient."""
        unit, center = self._by_row(self.unit), self._by_row(self.center)
        rows = self._rows(values) * unit + center
        if self.domain.table:
            # Else a cast to whole numbers could cut 3 to 2.
            rows = tf.round(rows)
        return tf.reshape(rows, self.shape)

    def _rows(self, values: tf.Tensor) -> tf.Tensor:
        """Samples with their last two axes as one: (B, H, W * C).

        An operation with a value for each of three channels takes four times
        as long as one with a value for each number of a row.
        """
        if len(self.shape) < 3:
            return tf.convert_to_tensor(values)
        *front, width, channels = self.shape
        return tf.reshape(values, (*front, width * channels))

    def _by_row(self, values: np.ndarray) -> np.ndarray:
        """A value for each channel, (C,), (1,) or (), for `_rows`."""
        if len(self.shape) < 3 or np.size(values) == 1:
            return np.asarray(values, np.float32)
        return np.tile(np.asarray(values, np.float32), self.shape[-2])


def whole_images(
    port: ir.Port,
    domain: input_domain.InputDomain,
    config: synthesis_config.SynthesisConfig,
) -> input_domain.InputDomain | None:
    """The domain of images that training showed shifted, with black borders.

    Returns:
      The domain, for images behind the shifts of the config; None where there
      are no such images, or an input is not shifted at all.
    """
    farthest = reach(port, config)
    if not any(farthest):
        return None
    # A shift of at most r is r (r + 1) / (2 r + 1) in the mean.
    kept = [
        1 - most * (most + 1) / (2 * most + 1) / side
        for most, side in zip(farthest, port.shape[1:3], strict=True)
    ]
    return domain.without_borders(1 - kept[0] * kept[1])


def inside_of_borders(
    port: ir.Port,
    domain: input_domain.InputDomain,
    config: synthesis_config.SynthesisConfig,
) -> input_domain.InputDomain:
    """`whole_images`, of a config that says that borders are black.

    Raises:
      errors.UserError: no image has such borders.
    """
    whole = whole_images(port, domain, config)
    if whole is None:
        raise errors.UserError(
            "--synthesis=fill",
            got=f"'black' for {port.name!r}: {domain.describe()}",
            expected="bounds, and variance that black borders leave",
            remedy="use --synthesis=fill=wrap, or give --input_range",
        )
    return whole


def reach(
    port: ir.Port, config: synthesis_config.SynthesisConfig
) -> tuple[int, int]:
    """The largest shift of an input, in positions; of images alone."""
    if not input_domain.is_image(port):
        return 0, 0
    height, width = port.shape[1:3]
    return int(config.jitter * height), int(config.jitter * width)


@tf.custom_gradient
def _bounded(values: tf.Tensor, low: tf.Tensor, high: tf.Tensor):
    """A clip that lets pass what would bring a value back from beyond."""

    def gradient(upstream):
        away = ((values > high) & (upstream < 0)) | (
            (values < low) & (upstream > 0)
        )
        return tf.where(away, tf.zeros_like(upstream), upstream), None, None

    return tf.clip_by_value(values, low, high), gradient
