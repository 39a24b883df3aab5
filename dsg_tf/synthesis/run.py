"""Synthesises batches of samples, saves each one, resumes killed runs."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import pathlib
from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from dsg_tf.analysis import (
    bn_statistics,
    classifier_head,
    index_inputs,
    input_domain,
)
from dsg_tf.config import synthesis_config
from dsg_tf.core import progress
from dsg_tf.graph import frozen, ir
from dsg_tf.samples import sample_folder
from dsg_tf.synthesis import callbacks as callbacks_lib
from dsg_tf.synthesis import (
    natural_images,
    padding_trial,
    sample_space,
    settling,
)
from dsg_tf.synthesis import synthesizer as synthesizer_lib

# Steps of an epoch at most: what callbacks that act on epochs (CSVLogger,
# TensorBoard, DistanceLog) see as one row.
_EPOCH_STEPS = 10
# Where samples note what the edge trial found, and what each batch took.
_EDGES = "edges"
_ROUNDS = "rounds"
# On a GPU: 600 steps save what compiling costs; a trial compiles twice.
_STEPS_WORTH_COMPILING = 1000


def synthesize(
    graph: ir.Graph,
    config: synthesis_config.SynthesisConfig,
    *,
    layers: Sequence[bn_statistics.BatchNorm],
    domains: Mapping[str, input_domain.InputDomain],
    count: int,
    folder: str | os.PathLike,
    key: str,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> sample_folder.SampleFolder:
    """Makes `count` samples in `folder`; resumes a killed run.

    Args:
      graph: the frozen graph, BN intact, as the model's owner made it.
      config: how.
      layers: the graph's BN layers; may be empty for the method `noise`.
      domains: the domain of each input, by name.
      count: samples to make.
      folder: where the samples and `distances.csv` go.
      key: text that identifies model and config, for resuming.
      callbacks: the user's own, Keras callbacks.

    Returns:
      The finished folder.

    Raises:
      FloatingPointError: the loss is not finite.
    """
    folder = pathlib.Path(folder)
    if config.most_steps is None:
        config = dataclasses.replace(config, most_steps=config.steps)
    float_graph = with_float_inputs(graph)
    store = sample_folder.SampleFolder(
        folder / "samples.parts",
        shapes={p.name: p.shape[1:] for p in graph.inputs},
        dtypes={p.name: p.dtype.as_numpy_dtype for p in graph.inputs},
        count=count,
        key=key,
    )
    size = batch_size(float_graph, config)
    if size != config.batch_size:
        logging.info(
            "the model's batch size is fixed: samples are made %d at a time",
            size,
        )
        config = dataclasses.replace(config, batch_size=size)
    starts = range(0, count, size)
    open_starts = [s for s in starts if s not in store.finished]
    if len(open_starts) < len(starts):
        logging.info(
            "resuming: %d of %d batches are there",
            len(starts) - len(open_starts),
            len(starts),
        )
    if config.steps == 0 or all(d.table for d in domains.values()):
        _noise(float_graph, config, domains, store, open_starts)
        return store
    if not open_starts:
        return store

    def of_fill(fill: str) -> synthesizer_lib.Synthesizer:
        return build(
            float_graph,
            layers,
            domains=domains,
            config=dataclasses.replace(config, fill=fill),
            steps=len(starts) * config.steps,
        )

    steps = min(config.steps, config.most_steps)
    if steps < 2 * padding_trial.STEPS and config.fill == "auto":
        # A trial would take longer than the samples.
        config = dataclasses.replace(config, fill="wrap")
    fills = padding_trial.candidates(float_graph.inputs, domains, config)
    if _EDGES in store.notes:
        fills = (store.notes[_EDGES]["fill"],)
    tries = len(fills) if len(fills) > 1 else 0
    total = len(starts) * steps + tries * padding_trial.STEPS
    with progress.task("synthesis", total, unit="steps") as stage:
        stage.skip((len(starts) - len(open_starts)) * steps)
        if tries:
            chosen, model, distances = padding_trial.decide(
                fills,
                build=of_fill,
                optimise=functools.partial(_try, stage=stage),
            )
            # JSON has no infinity.
            told = {
                f: d if np.isfinite(d) else None for f, d in distances.items()
            }
            store.note(_EDGES, {"fill": chosen, "distances": told})
        else:
            model = of_fill(*fills)
        finished = [s // size for s in starts if s in store.finished]
        targets = callbacks_lib.BatchNormTargets()
        watchers = [*_watchers(config, folder, finished=finished), *callbacks]
        for start in open_starts:
            index = start // size
            model.reset(index)
            taken = _settle(model, config, stage, targets, watchers)
            rounds = {**store.notes.get(_ROUNDS, {}), str(index): taken}
            store.note(_ROUNDS, rounds)
            whole = {n: domains[n].finish(v) for n, v in model.values().items()}
            store.write(start, whole, model.labels.numpy())
    return store


def with_float_inputs(graph: ir.Graph) -> ir.Graph:
    """The graph with its integer inputs moved behind their casts.

    Indices of a table get a cast of their own.
    """
    for port in graph.inputs:
        if not port.dtype.is_integer:
            continue
        if index_inputs.table_size(graph, port):
            graph = frozen.with_cast_input(graph, port.name)
        else:
            graph = frozen.with_float_input(graph, port.name)
    return graph


def batch_size(
    graph: ir.Graph, config: synthesis_config.SynthesisConfig
) -> int:
    """The batch size to work with: the config's, or the model's if fixed."""
    fixed = {port.shape[0] for port in graph.inputs} - {None}
    if not fixed or fixed == {config.batch_size}:
        return config.batch_size
    if frozen.accepts_batch_size(graph, config.batch_size):
        return config.batch_size
    return fixed.pop()


def build(
    graph: ir.Graph,
    layers: Sequence[bn_statistics.BatchNorm],
    *,
    domains: Mapping[str, input_domain.InputDomain],
    config: synthesis_config.SynthesisConfig,
    steps: int = 0,
) -> synthesizer_lib.Synthesizer:
    """The synthesizer of a config, ready to fit.

    Args:
      graph: the frozen graph, float inputs.
      layers: its BN layers.
      domains: the domain of each input, by name.
      config: whose counts are all given.
      steps: about how many it will make, of all batches.
    """
    model = synthesizer_lib.Synthesizer(
        graph,
        layers,
        domains=domains,
        head=classifier_head.find(graph),
        config=config,
    )
    model.compile(
        optimizer=keras.optimizers.Adam(config.learning_rate),
        jit_compile=worth_compiling(steps),
    )
    return model


def worth_compiling(steps: int) -> bool:
    """Whether XLA, which compiles for half a minute, saves more than that.

    On a GPU a step of operations one by one takes about 50 ms, whatever the
    batch, and a compiled one 3 (MobileNetV1 0.25, batches of 8 to 32). On a CPU
    XLA makes these graphs a hundred times slower.
    """
    on_gpu = bool(tf.config.list_logical_devices("GPU"))
    return on_gpu and steps >= _STEPS_WORTH_COMPILING


def _try(model, callbacks, steps: int, *, stage) -> None:
    """A trial: the first batch, in few steps."""
    model.reset(0)
    ours = _callbacks(model.config, stage, steps=steps)
    targets = callbacks_lib.BatchNormTargets()
    _optimise(model, [targets, *ours, *callbacks], steps)


def _settle(model, config, stage, targets, callbacks) -> dict:
    """Optimises a batch until it has settled; see `settling`.

    Returns:
      `steps` that it took, whether it has `settled` (None where nobody asked),
      and the fields of `settling.Settling`.
    """
    done, reached = 0, None
    for steps in settling.rounds(config.steps, config.most_steps):
        if done:
            stage.extend(steps)
            model.restart()
        ours = _callbacks(config, stage, steps=steps)
        _optimise(model, [targets, *ours, *callbacks], steps)
        done += steps
        reached = model.settling()
        if not config.tolerance or reached.reached(config.tolerance):
            break
    told = {
        # JSON has no infinity.
        name: round(value, 3) if math.isfinite(value) else None
        for name, value in dataclasses.asdict(reached).items()
    }
    settled = None
    if config.tolerance:
        settled = reached.reached(config.tolerance)
    return {"steps": done, "settled": settled, **told}


def _optimise(model, callbacks, steps: int) -> None:
    """Makes steps on the batch at work.

    Raises:
      FloatingPointError: the loss is not finite.
    """
    per_epoch = max(n for n in range(1, _EPOCH_STEPS + 1) if steps % n == 0)
    # The same seed shall give the same bytes.
    with frozen.in_fixed_order():
        history = model.fit(
            _ticks(steps),
            steps_per_epoch=per_epoch,
            epochs=steps // per_epoch,
            verbose=0,
            shuffle=False,
            callbacks=callbacks,
        )
    if not np.isfinite(history.history["loss"][-1]):
        raise FloatingPointError(
            f"the synthesis loss of batch {model.batch_index} is not finite"
        )


def _ticks(steps: int) -> tf.data.Dataset:
    """A dataset of `steps` dummy elements for `fit`.

    With an end, or tf.data would run ahead as far as it can; and without its
    tuning, which `fit` waits for at its own end.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    options.threading.private_threadpool_size = 1
    return tf.data.Dataset.from_tensors(0).repeat(steps).with_options(options)


def _callbacks(config, stage, *, steps: int) -> list[keras.callbacks.Callback]:
    """The callbacks of one round, in their order."""
    chosen = []
    if config.jitter or config.mirror:
        chosen.append(callbacks_lib.ChangeViews())
    if config.schedule == "cosine":
        chosen.append(callbacks_lib.CosineAnneal(config.learning_rate, steps))
    elif config.schedule == "plateau":
        chosen.append(
            callbacks_lib.PlateauAnneal(config.learning_rate, steps // 5)
        )
    chosen.append(callbacks_lib.ShowProgress(stage, steps))
    return chosen


def _watchers(config, folder, *, finished) -> list[keras.callbacks.Callback]:
    """The callbacks of all rounds: early stopping and the log."""
    chosen = []
    if config.patience:
        chosen.append(callbacks_lib.StopWhenSettled(config.patience))
    log = folder / "distances.csv"
    chosen.append(callbacks_lib.DistanceLog(log, finished=finished))
    return chosen


def _noise(graph, config, domains, store, starts) -> None:
    """White noise, with the domain's moments and bounds if these are used."""
    graph = frozen.with_batch_size(graph, config.batch_size)
    for start in starts:
        rng = np.random.default_rng([config.seed, start // config.batch_size])
        values = {}
        for port in graph.inputs:
            domain = domains[port.name]
            space = sample_space.InputSpace.of(port, domain, config)
            noise = (
                space.initial(rng)
                if domain.table
                else natural_images.white(rng, space.shape)
            )
            values[port.name] = domain.finish(space.to_model(noise))
        store.write(start, values, np.full(config.batch_size, -1))
