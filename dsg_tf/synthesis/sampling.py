"""The samples of a run: the user's own, or synthesised ones."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
from absl import logging

import dsg_tf
from dsg_tf.analysis import source_model
from dsg_tf.config import run_config, synthesis_config
from dsg_tf.core import disk_space, errors
from dsg_tf.samples import sample_sets, sample_values
from dsg_tf.synthesis import run as synthesis
from dsg_tf.synthesis import sample_space


def given(
    source: source_model.SourceModel, samples: object
) -> sample_sets.SampleSet:
    """The user's samples, checked against the inputs' shapes and domains.

    Args:
      source: the model.
      samples: the path of a file, or what `sample_sets.of_values` takes.

    Raises:
      errors.UserError: they cannot be inputs of this model.
    """
    shapes = source.sample_shapes
    if isinstance(samples, str | os.PathLike):
        subject = os.fspath(samples)
        sample_set = sample_sets.read(samples, inputs=shapes)
    else:
        subject = "samples"
        sample_set = sample_sets.of_values(samples, inputs=shapes)
    for name, domain in source.domains.items():
        sample_values.check(
            subject,
            name,
            sample_set.arrays[name],
            minimum=float(np.min(domain.minimum)),
            maximum=float(np.max(domain.maximum)),
            deviation=float(np.median(domain.deviation)),
            integer=domain.integer,
        )
    return sample_set


def check(
    source: source_model.SourceModel,
    config: synthesis_config.SynthesisConfig,
) -> None:
    """Refuses a config that does not fit the model's inputs.

    Called before the run writes anything.

    Raises:
      errors.UserError: black borders of an input that cannot have any.
    """
    for port in source.graph.inputs:
        if config.fill == "black" and any(sample_space.reach(port, config)):
            domain = source.domains[port.name]
            sample_space.inside_of_borders(port, domain, config)


def make(
    source: source_model.SourceModel,
    config: synthesis_config.SynthesisConfig,
    *,
    folder: pathlib.Path,
    output: pathlib.Path,
    count: int,
    callbacks: Sequence = (),
    tell: bool = False,
) -> sample_sets.SampleSet:
    """Synthesises and packs samples; reuses a pack with the same key.

    Args:
      source: the model.
      config: how.
      folder: for samples under way and `distances.csv`.
      output: the samples.npz.
      count: how many.
      callbacks: the user's Keras callbacks.
      tell: whether the log says that an output was replaced.

    Raises:
      errors.UserError: the synthesis diverged, or there is no room for the
        samples.
    """
    metadata = _metadata(source, config, count)
    key = metadata["key"]
    packed = _packed_before(source, output, key)
    if packed is not None:
        return packed
    _check_room(source, folder=folder, output=output, count=count)
    try:
        store = synthesis.synthesize(
            source.graph,
            config,
            layers=source.layers,
            domains=source.domains,
            count=count,
            folder=folder,
            key=key,
            callbacks=callbacks,
        )
    except FloatingPointError as error:
        raise errors.UserError(
            "synthesis",
            got=str(error),
            expected="a loss that falls",
            remedy="lower --synthesis=learning_rate=, now"
            f" {config.learning_rate:g}, or give --input_range",
        ) from error
    packed = store.pack(output, metadata, tell=tell)
    store.remove()
    return packed


def _packed_before(
    source: source_model.SourceModel, output: pathlib.Path, key: str
) -> sample_sets.SampleSet | None:
    """The packed samples of an earlier run with this key, or None."""
    if not os.path.lexists(output):
        return None
    why, log = "of another model or config", logging.info
    try:
        packed = sample_sets.read(output, inputs=source.sample_shapes)
        if packed.metadata.get("key") == key:
            logging.info("samples of the same model and config: %s", output)
            return packed
    except errors.UserError as error:
        why, log = error.got, logging.warning
    if output.is_symlink():
        raise errors.UserError(
            str(output),
            got=f"a symbolic link to samples that do not serve ({why})",
            expected="samples of this model and config, or nothing",
            remedy="remove the link",
        )
    log("%s: %s; samples are made anew", output, why)
    return None


def _check_room(
    source: source_model.SourceModel,
    *,
    folder: pathlib.Path,
    output: pathlib.Path,
    count: int,
) -> None:
    """Checks that the disk has space for the samples and their pack."""
    size = sum(
        count * math.prod(port.shape[1:]) * port.dtype.size
        for port in source.graph.inputs
    )
    there = sum(
        disk_space.allocated_bytes(file)
        for file in (folder / "samples.parts").glob("*.npy")
    )
    disk_space.require([(folder, max(size - there, 0)), (output, size)])


def split(
    sample_set: sample_sets.SampleSet, config: run_config.PipelineConfig
) -> tuple[sample_sets.SampleSet, sample_sets.SampleSet]:
    """Samples to calibrate with, and others to verify on.

    Samples of an earlier run are split as in that run. Of a user's own samples
    at most a fifth are held out.
    """
    if len(sample_set) == 1:
        logging.warning("a single sample: it is verified on itself")
        return sample_set, sample_set
    held_out = config.verify_samples
    if config.samples:
        held_out = _meant(sample_set) or sample_sets.held_out(
            len(sample_set), held_out
        )
    return sample_set.split(held_out)


def _meant(sample_set: sample_sets.SampleSet) -> int:
    """How many samples of an earlier run were for verification; 0 if none."""
    metadata = sample_set.metadata
    synthesis_fields = metadata.get("synthesis")
    if not isinstance(synthesis_fields, Mapping):
        return 0
    calibrating = synthesis_fields.get("num_samples")
    if (
        not isinstance(calibrating, int)
        or metadata.get("count") != len(sample_set)
        or not 0 < calibrating < len(sample_set)
    ):
        return 0
    return len(sample_set) - calibrating


def _metadata(source, config, count) -> dict:
    """Where samples come from; `key` is the same for the same samples."""
    metadata = {
        "dsg_tf": dsg_tf.__version__,
        "tensorflow": tf.__version__,
        "model": source.fingerprint,
        "synthesis": dataclasses.asdict(config),
        "domains": {
            name: domain.describe() for name, domain in source.domains.items()
        },
        "count": count,
    }
    key = hashlib.sha256(repr(sorted(metadata.items())).encode()).hexdigest()
    return {**metadata, "key": key}
