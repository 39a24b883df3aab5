"""Drawn moments of samples at BN layers, for the tests of the pictures."""

from __future__ import annotations

import numpy as np

from dsg_tf.analysis import bn_statistics
from dsg_tf.diversity import sample_moments


def layer(name: str, channels: int, *, dead=()) -> bn_statistics.BatchNorm:
    """A BN layer with mean 0.5 and variance 4; dead channels have none."""
    variance = np.full(channels, 4.0, np.float32)
    variance[list(dead)] = 0
    return bn_statistics.BatchNorm(
        name=name,
        input="x:0",
        output="y:0",
        channel_axis=3,
        mean=np.full(channels, 0.5, np.float32),
        variance=variance,
        epsilon=1e-3,
        gamma=np.ones(channels, np.float32),
        beta=np.zeros(channels, np.float32),
        producer="Conv2D",
    )


def side(
    count: int,
    *,
    layers: int = 3,
    channels: int = 4,
    seed: int = 0,
    dead=(),
    pooled=(),
    size: float = 1.0,
) -> list[sample_moments.SampleMoments]:
    """Moments of `count` samples; those of pooled layers have no deviation."""
    rng = np.random.default_rng(seed)
    return [
        sample_moments.SampleMoments(
            layer(f"net/bn_{index}", channels, dead=dead),
            size * rng.normal(size=(count, channels)),
            None
            if index in pooled
            else size * rng.uniform(1, 2, (count, channels)),
        )
        for index in range(layers)
    ]
