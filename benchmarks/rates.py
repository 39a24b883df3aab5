"""Rates of the two long loops, beside an earlier version and PyTorch.

    python -m benchmarks.rates [--what=step,rounding] [--models=mobilenet] \
        [--before=../earlier_checkout] [--torch=../venv-torch/bin/python]

`step`: image-steps a second of the synthesis of a batch of 8. A command with
few steps and one with many are run in turns; what the further steps take is
the rate, whatever the version does before and after. Beside it, the floor of
`benchmarks.synthesis_speed`.

`rounding`: seconds of all passes of `--weight_bits=4` on 64 samples of noise,
nearly all of them AdaRound's, against depth: ResNet-20, networks of its kind
with 32, 44 and 56 layers (random weights), MobileNetV1 and MobileNetV2. PyTorch
learns the same number of rows and steps by autograd (benchmarks/peers).

Prints Markdown tables; medians over three turns.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import numpy as np
from absl import app, flags, logging

from benchmarks import cases, command

_SHARED = flags.DEFINE_string("shared", "../shared", "Models.")
_WHAT = flags.DEFINE_list("what", ["step", "rounding"], "What to measure.")
_MODELS = flags.DEFINE_list("models", [], "Which to run; default: all.")
_BEFORE = flags.DEFINE_string(
    "before", "", "Checkout of an earlier version, to run in turns."
)
_TORCH = flags.DEFINE_string("torch", "", "A Python that has PyTorch.")
_FIGURE = flags.DEFINE_string(
    "figure", "", "A .png of seconds of rounding against depth."
)
_TURNS = flags.DEFINE_integer("turns", 3, "How often all is measured.", 1)

_BATCH = 8
_FEW = 20
# Further steps: some seconds of them.
_STEPS = {"mobilenet": 120, "mobilenet_v2": 40, "resnet20": 200}
_ROUNDED = ("resnet20", "resnet32", "resnet44", "resnet56")
_ROUNDED += ("mobilenet", "mobilenet_v2")
_PEERS = pathlib.Path(__file__).parent / "peers"


def _versions() -> dict[str, str]:
    """Folders by name, ours first."""
    found = {"ours": os.getcwd()}
    if _BEFORE.value:
        found["before"] = os.path.abspath(_BEFORE.value)
    return found


def _chosen(names) -> list[str]:
    return [n for n in names if not _MODELS.value or n in _MODELS.value]


def _seconds(folder: str, model: str, steps: int) -> float:
    """Of a command that makes one batch of samples."""
    with tempfile.TemporaryDirectory() as place:
        return command.run(
            [
                *("env", f"--chdir={folder}"),
                *(sys.executable, "-m", "dsg_tf.synthetic_samples"),
                f"--saved_model={model}",
                f"--output={place}/samples.npz",
                *(f"--num_samples={_BATCH - 1}", "--verify_samples=1"),
                *(f"--batch_size={_BATCH}", f"--steps={steps}"),
                "--synthesis=fill=wrap",
            ]
        ).seconds


def _torch(script: str, *argv: str) -> float:
    """The number that a script of `peers` prints."""
    done = subprocess.run(
        [_TORCH.value, str(_PEERS / script), *argv],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return float(done.stdout)


def _floor(model: str) -> str:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.synthesis_speed"),
            *(f"--saved_model={model}", f"--batch_size={_BATCH}"),
        ],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return re.search(r"floor (\d+)", done.stdout)[1]


def steps() -> None:
    """Prints image-steps a second of each model."""
    shared = pathlib.Path(_SHARED.value).absolute()
    names = [*_versions(), *(["PyTorch"] if _TORCH.value else [])]
    print(f"| model | {' | '.join(names)} | floor |")
    print("| --- " * (len(names) + 2) + "|", flush=True)
    for name in _chosen(_STEPS):
        model, more = str(shared / cases.CASES[name].model), _STEPS[name]
        rates: dict[str, list[float]] = {n: [] for n in names}
        for _ in range(_TURNS.value):
            for version, folder in _versions().items():
                few, many = (
                    _seconds(folder, model, n) for n in (_FEW, _FEW + more)
                )
                rates[version].append(_BATCH * more / (many - few))
            if _TORCH.value:
                rates["PyTorch"].append(_torch("zeroq_step.py", name))
        logging.info("%s: %s", name, rates)
        cells = [f"{np.median(rates[n]):.0f}" for n in names]
        title = cases.CASES[name].title
        print(f"| {title} | {' | '.join(cells)} | {_floor(model)} |")
        sys.stdout.flush()


@contextlib.contextmanager
def _model(name: str, shared: pathlib.Path) -> Iterator[str]:
    """The path of a model; those of no case are made."""
    if name in cases.CASES:
        yield str(shared / cases.CASES[name].model)
        return
    with tempfile.TemporaryDirectory() as place:
        path = os.path.join(place, f"{name}.keras")
        resnet(int(name.removeprefix("resnet"))).save(path)
        yield path


def resnet(depth: int):
    """A CIFAR ResNet of so many layers, 6 n + 2, with random weights."""
    import keras

    layers = keras.layers
    keras.utils.set_random_seed(0)

    def convolved(x, filters, stride):
        x = layers.Conv2D(filters, 3, stride, padding="same", use_bias=False)(x)
        return layers.BatchNormalization()(x)

    inputs = keras.Input((32, 32, 3))
    x = layers.ReLU()(convolved(inputs, 16, 1))
    for filters in (16, 32, 64):
        for number in range((depth - 2) // 6):
            stride = 2 if number == 0 and filters > 16 else 1
            y = layers.ReLU()(convolved(x, filters, stride))
            y = convolved(y, filters, 1)
            if stride > 1:
                x = layers.Conv2D(filters, 1, stride)(x)
            x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))


def _passes(folder: str, model: str) -> tuple[float, int]:
    """Seconds of the passes, and how many layers AdaRound has rounded."""
    with tempfile.TemporaryDirectory() as place:
        output = os.path.join(place, "model.tflite")
        subprocess.run(
            [
                *(sys.executable, "-m", "dsg_tf.quantize"),
                *(f"--saved_model={model}", f"--output={output}"),
                *("--method=noise", "--weight_bits=4", "--num_samples=64"),
            ],
            cwd=folder,
            stdout=subprocess.DEVNULL,
        )
        report = json.loads(
            pathlib.Path(f"{output}.run", "report.json").read_text()
        )
    (rows,) = (
        p["rows"] for p in report["passes"] if p.get("pass") == "adaround"
    )
    return report["seconds"]["passes"], sum(r["applied"] for r in rows)


def _shapes(model: str) -> list[tuple[int, ...]]:
    """(G, R, K, O / G) of the layers that AdaRound rounds, 64 samples."""
    from dsg_tf.analysis import layer_rows, linear_layers
    from dsg_tf.graph.load import loading
    from dsg_tf.transforms import adaround, fold_batch_norm

    graph, _ = fold_batch_norm.fold_batch_norm(loading.load(model))
    found = []
    for layer in linear_layers.find(graph):
        if layer_rows.reason_against(layer):
            continue
        groups, taps, outs = layer_rows.grouped(layer, layer.kernel).shape
        shape = graph.shape(graph[layer.node].output)
        positions = 64 * int(np.prod([d or 1 for d in shape[1:-1]], dtype=int))
        fitting = adaround.MAX_BYTES // (4 * layer_rows.size(layer))
        rows = min(positions, adaround.MAX_ROWS, fitting)
        found.append((groups, rows, taps, outs))
    return found


def rounding() -> None:
    """Prints the seconds of AdaRound by model."""
    from dsg_tf.transforms import learned_rounding

    shared = pathlib.Path(_SHARED.value).absolute()
    names = [*_versions(), *(["PyTorch"] if _TORCH.value else [])]
    print(f"| model | layers | {' | '.join(names)} |")
    print("| --- " * (len(names) + 2) + "|", flush=True)
    settings = learned_rounding.Config()
    measured: dict[str, list[tuple[int, float]]] = {n: [] for n in names}
    for name in _chosen(_ROUNDED):
        found: dict[str, list[float]] = {n: [] for n in names}
        with _model(name, shared) as model, tempfile.TemporaryDirectory() as at:
            shapes = pathlib.Path(at, "shapes.json")
            shapes.write_text(json.dumps(_shapes(model)))
            for _ in range(_TURNS.value):
                for version, folder in _versions().items():
                    seconds, layers = _passes(folder, model)
                    found[version].append(seconds)
                if _TORCH.value:
                    counts = (settings.steps, settings.batch_rows)
                    argv = (str(shapes), *map(str, counts))
                    found["PyTorch"].append(_torch("adaround.py", *argv))
        logging.info("%s: %s", name, found)
        cells = [f"{np.median(found[n]):.1f}" for n in names]
        print(f"| {name} | {layers} | {' | '.join(cells)} |", flush=True)
        if name.startswith("resnet"):
            for version, values in found.items():
                measured[version].append((layers, float(np.median(values))))
    if _FIGURE.value:
        draw(measured, _FIGURE.value)


def draw(measured: dict[str, list[tuple[int, float]]], path: str) -> None:
    """Draws seconds against layers, a line for each version.

    Args:
      measured: (layers, seconds) of networks of one kind, by version.
      path: the .png to write.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(5, 3.2), dpi=150)
    for version, points in measured.items():
        axis.plot(*zip(*points, strict=True), marker="o", label=version)
    axis.set_xlabel("layers")
    axis.set_ylabel("seconds of the passes")
    axis.set_xlim(left=0)
    axis.set_ylim(bottom=0)
    axis.legend()
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def main(argv: list[str]) -> None:
    del argv
    for what in _WHAT.value:
        {"step": steps, "rounding": rounding}[what]()
        print()


if __name__ == "__main__":
    app.run(main)
