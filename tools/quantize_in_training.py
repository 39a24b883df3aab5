"""Quantizes the demo's model at each epoch of its training, without data.

    python -m tools.quantize_in_training [--training_epochs=20]

Prints a Markdown table: top-1 on the held-out digits of the float model and of
the .tflite, as the callback has it and as the file has it by hand, agreement,
drift of the BatchNormalization moments and seconds. `--figure` draws it;
docs/how_to/training.md holds both.
"""

from __future__ import annotations

import pathlib
import tempfile

import numpy as np
from absl import app, flags

from tools import digits, train_demo_model

_EPOCHS = flags.DEFINE_integer("training_epochs", 20, "Passes.", 1)
_FIGURE = flags.DEFINE_string("figure", "", "An .svg to draw.")
_HEADINGS = (
    *("epoch", "float top-1", "val_int8_accuracy", "by hand"),
    *("int8_agreement", "bn_drift", "s"),
)


def measure(epochs: int) -> list[dict[str, float]]:
    """A row for each epoch."""
    import keras

    import dsg_tf
    from dsg_tf.fidelity import classifiers

    train, held_out = digits.load_split()
    keras.utils.set_random_seed(0)
    model = train_demo_model.build_model()
    model.compile(
        keras.optimizers.Adam(1e-3),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = str(pathlib.Path(folder) / "digits_{epoch}.tflite")
        quantize = dsg_tf.callbacks.QuantizeDataFree(
            path, validation_data=held_out
        )
        moments = dsg_tf.callbacks.BatchNormMoments()
        history = model.fit(
            train.images,
            train.labels,
            batch_size=32,
            epochs=epochs,
            validation_data=held_out,
            callbacks=[moments, quantize],
            verbose=0,
        ).history
        for epoch in range(1, epochs + 1):
            predict = classifiers.load_predictor(path.format(epoch=epoch))
            found = classifiers.classify(predict, held_out.images)
            drift = [float("nan"), *history["bn_drift"]][epoch - 1]
            rows.append(
                {
                    "epoch": epoch,
                    "float top-1": 100 * history["val_accuracy"][epoch - 1],
                    "val_int8_accuracy": 100
                    * history["val_int8_accuracy"][epoch - 1],
                    "by hand": 100 * float(np.mean(found == held_out.labels)),
                    "int8_agreement": 100
                    * history["int8_agreement"][epoch - 1],
                    "bn_drift": drift,
                    "s": quantize.seconds[epoch],
                }
            )
    return rows


def draw(rows: list[dict[str, float]], path: str) -> None:
    """Draws top-1 over epochs."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
    epochs = [row["epoch"] for row in rows]
    for name, style in (("float top-1", "-"), ("val_int8_accuracy", "--")):
        axes.plot(epochs, [row[name] for row in rows], style, label=name)
    axes.set_xlabel("epoch")
    axes.set_ylabel("top-1 on held-out digits, %")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, metadata={"Date": None})


def main(argv: list[str]) -> None:
    """Prints the table."""
    del argv
    rows = measure(_EPOCHS.value)
    print(f"| {' | '.join(_HEADINGS)} |")
    print(f"|{' --- |' * len(_HEADINGS)}")
    for row in rows:
        cells = [f"{row['epoch']}"]
        cells += [f"{row[name]:.2f}" for name in _HEADINGS[1:-1]]
        print(f"| {' | '.join([*cells, format(row['s'], '.1f')])} |")
    if _FIGURE.value:
        draw(rows, _FIGURE.value)


if __name__ == "__main__":
    app.run(main)
