"""Whole models, samples and images, small enough that a run takes a second.

Everything is made once, in a folder that cases copy from.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import signal

import numpy as np

from tools.faults import cases, processes, trips

# Flags of a run that takes as little time as one can.
QUICK = ("--method=noise", "--num_samples=4", "--verify_samples=2")
FAST = (*QUICK, "--recipe=fast")
# Of a run that synthesises, and of one that learns rounding.
SYNTHESIS = (
    *("--num_samples=8", "--batch_size=4", "--steps=5"),
    *("--verify_samples=2", "--recipe=fast", "--synthesis=fill=wrap"),
)
LEARNED = (*QUICK, "--recipe=best")
SHAPE = (8, 8, 3)
CLASSES = 4

SAVED_MODEL, GRAPH = "saved_model", "graph"
KERAS, KERAS_2 = "net.keras", "net2.keras"
HDF5, HDF5_2 = "net.h5", "net2.h5"
GRAPH_DEF = "net.pb"
TFLITE, FLOAT_TFLITE = "net.tflite", "net_float.tflite"
SAMPLES, OWN_NPZ, OWN_NPY = "samples.npz", "own.npz", "own.npy"
IMAGES, IMAGE_FOLDER, CLASS_FOLDER = "images.npz", "pictures", "classes"
RECORD = "record"
# Outputs of killed runs, and of the same ones uninterrupted.
KILLED, WHOLE = "killed", "whole"
SYNTHESIS_RUN, LEARNED_RUN, FINISHED_RUN = "synthesis", "learned", "finished"
# How long a run may take here; nothing is judged by it.
_LIMIT_S = 180.0


def make(folder: pathlib.Path) -> None:
    """Makes all originals in a folder, which is to be empty."""
    work = folder / "work"
    processes.call(lambda: _models(work), folder)
    processes.call(lambda: _images(work), folder)
    processes.call(lambda: _record(work), folder)
    _run(folder, [f"--output={TFLITE}", *FAST])
    shutil.copyfile(work / f"{TFLITE}.run" / SAMPLES, work / SAMPLES)
    for name, flags, path in (
        (SYNTHESIS_RUN, SYNTHESIS, "*/samples.parts/journal.json"),
        (LEARNED_RUN, LEARNED, "*/rounding.parts/*.npz"),
    ):
        _killed(folder, name, flags, path)
    for place in (KILLED, WHOLE):
        shutil.copytree(
            work / WHOLE / SYNTHESIS_RUN, work / place / FINISHED_RUN
        )


def state_of(name: str) -> tuple[str, ...]:
    """The flags of a run that was killed; see `KILLED`."""
    return LEARNED if name == LEARNED_RUN else SYNTHESIS


def copy(bench: cases.Bench, *names: str) -> None:
    """Copies originals into the folder that the command will run in."""
    for name in names:
        source, target = bench.originals / name, bench.work / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copyfile(source, target)


def network(keras):
    """Two convolutions with BN and a softmax of four classes.

    Args:
      keras: `keras`, or `tf_keras` for a model of Keras 2.
    """
    keras.utils.set_random_seed(1)
    layers = keras.layers
    x = inputs = keras.Input(SHAPE, name="image")
    for filters in (6, 8):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization()(x)
        x = layers.ReLU()(x)
    x = layers.GlobalAveragePooling2D()(x)
    outputs = layers.Dense(CLASSES, activation="softmax", name="scores")(x)
    model = keras.Model(inputs, outputs)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, layers.__dict__["BatchNormalization"]):
            size = layer.moving_mean.shape
            layer.gamma.assign(rng.uniform(0.8, 1.5, size))
            layer.beta.assign(rng.normal(0.2, 0.3, size))
            layer.moving_mean.assign(rng.normal(0, 0.3, size))
            layer.moving_variance.assign(rng.uniform(0.3, 1.5, size))
    dense = model.layers[-1]
    # Scores that differ, so that a run's agreement means something.
    dense.set_weights([4.0 * w for w in dense.get_weights()])
    return model


def _models(work: pathlib.Path) -> None:
    import keras
    import tensorflow as tf
    import tf_keras

    from dsg_tf.graph import writing
    from dsg_tf.graph.load import loading

    model = network(keras)
    model.export(work / SAVED_MODEL, verbose=False)
    model.save(work / KERAS)
    model.save(work / HDF5)
    model_2 = network(tf_keras)
    model_2.save(work / HDF5_2)
    model_2.save(work / KERAS_2)
    graph = loading.load(work / SAVED_MODEL)
    writing.save(graph, work / GRAPH)
    content = graph.to_graph_def().SerializeToString(deterministic=True)
    (work / GRAPH_DEF).write_bytes(content)
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(work / SAVED_MODEL)
    )
    (work / FLOAT_TFLITE).write_bytes(converter.convert())


def _images(work: pathlib.Path) -> None:
    import PIL.Image

    rng = np.random.default_rng(2)
    own = rng.normal(0, 1, (12, *SHAPE)).astype(np.float32)
    np.savez_compressed(work / OWN_NPZ, image=own)
    np.save(work / OWN_NPY, own)
    images = rng.integers(0, 256, (8, *SHAPE), np.uint8)
    labels = np.arange(8) % CLASSES
    np.savez(work / IMAGES, images=images, labels=labels)
    for index, image in enumerate(images):
        picture = PIL.Image.fromarray(image)
        flat = work / IMAGE_FOLDER
        nested = work / CLASS_FOLDER / f"class{index % CLASSES}"
        flat.mkdir(exist_ok=True)
        nested.mkdir(parents=True, exist_ok=True)
        if index < CLASSES:  # Here the name is the label.
            picture.save(flat / f"{index}.jpg")
        picture.save(nested / f"{index}.png")


# What rows of images have on top.
_DATA = {"data": "images.npz", "data_key": "01234567", "images": {}}
_COLUMNS = {"evaluate": {**_DATA, "quantized": "key1"}, "float": _DATA}


def _record(work: pathlib.Path) -> None:
    """The record of a batch as a batch writes it, with a row of each kind."""
    from dsg_tf.batch import run_record

    (work / RECORD).mkdir()
    record = run_record.RunRecord(work / RECORD)
    moment = "2025-01-01T00:00:00+00:00"
    config = {"model": "net", "method": "dsg", "label": "W8A8", "seed": 0}
    metrics = {"agreement": 0.99, "seconds": 3.0, "top1_percent": 50.0}
    for number, (kind, status) in enumerate(
        (
            ("samples", "done"),
            ("quantize", "done"),
            ("quantize", "failed"),
            ("evaluate", "done"),
            ("float", "done"),
        )
    ):
        record.put(
            run_record.Row(
                f"key{number}",
                kind,
                f"net/{kind}{number}",
                status,
                {**config, **_COLUMNS.get(kind, {})},
                metrics if status == "done" else {},
                f"net/{kind}{number}/artifact",
                "host",
                moment,
                moment,
                None if status == "done" else "out of luck",
            )
        )
    record.close()


def _run(folder: pathlib.Path, argv, *, before=None, code: int = 0) -> None:
    ended = processes.command(
        "quantize",
        [f"--saved_model={SAVED_MODEL}", *argv],
        folder=folder,
        before=before,
    ).wait(_LIMIT_S)
    # Of noise little agreement may be left, which is no matter here.
    if ended.code not in (code, 2 if code == 0 else code):
        raise RuntimeError(f"exit code {ended.code}: {ended.stderr[-2000:]}")


def _killed(folder: pathlib.Path, name: str, flags, path: str) -> None:
    """A run killed before it finishes `path` for the second time, and whole."""
    work = folder / "work"
    for place in (KILLED, WHOLE):
        (work / place / name).mkdir(parents=True)
    output = f"{WHOLE}/{name}/out.tflite"
    _run(folder, [f"--output={output}", *flags])

    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    output = f"{KILLED}/{name}/out.tflite"
    _run(
        folder,
        [f"--output={output}", *flags],
        before=lambda: trips.at(path, kill, times=2, event="os.rename"),
        code=-signal.SIGKILL,
    )
