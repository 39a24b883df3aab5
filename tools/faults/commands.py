"""How each command is asked to take what a case has made, and its outputs."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence

import numpy as np

from tools.faults import originals

TFLITE = "out.tflite"
# Flags of a batch of one quick run a model.
BATCH = (
    "--method=noise",
    "--num_samples=4",
    "--verify_samples=2",
    "--recipe=fast",
)
# How each command is given a model, by its name.
MODEL_COMMANDS = ("quantize", "evaluate", "synthetic_samples", "figures")


def with_model(command: str, path: str) -> tuple[list[str], tuple[str, ...]]:
    """Flags of a command for a model, and the originals that it needs.

    Args:
      command: one of `MODEL_COMMANDS`.
      path: the model.
    """
    if command == "evaluate":
        flags = [f"--model={path}", f"--data={originals.IMAGES}"]
        return [*flags, "--output=out.json"], (originals.IMAGES,)
    flags = [f"--saved_model={path}"]
    if command == "figures":
        flags += [f"--samples=own={originals.OWN_NPZ}", "--output_dir=out"]
        return flags, (originals.OWN_NPZ,)
    if command == "synthetic_samples":
        return [*flags, *originals.QUICK, "--output=out.npz"], ()
    return [*flags, *originals.FAST, f"--output={TFLITE}"], ()


def with_samples(command: str, path: str) -> tuple[list[str], tuple[str, ...]]:
    """Flags of `quantize` or `figures` for samples, and the originals."""
    flags = [f"--saved_model={originals.KERAS}"]
    if command == "figures":
        flags += [f"--samples=own={path}", "--output_dir=out"]
    else:
        flags += [f"--samples={path}", "--recipe=fast", f"--output={TFLITE}"]
    return flags, (originals.KERAS,)


def with_images(command: str, path: str) -> tuple[list[str], tuple[str, ...]]:
    """Flags of a command for images, and the originals that it needs."""
    if command == "evaluate":
        flags = [f"--model={originals.TFLITE}", f"--data={path}"]
        return [*flags, "--output=out.json"], (originals.TFLITE,)
    if command == "image_samples":
        return [f"--data={path}", "--output=out.npz"], ()
    flags = [f"--models={originals.KERAS}", f"--eval_data={path}"]
    return [*flags, "--dry_run", "--output_dir=out"], (originals.KERAS,)


def check(work: pathlib.Path) -> Sequence[str]:
    """What is wrong with the outputs of a command that says it is done."""
    checks = {
        TFLITE: _check_tflite,
        "out.json": _check_json,
        "out.npz": _check_npz,
        "out.csv": _check_text,
        "out.md": _check_text,
    }
    for name, checked in checks.items():
        if (work / name).exists():
            return checked(work / name)
    if (work / "out").is_dir():
        return []
    return ["output: exit code 0 or 2, and nothing is there"]


def check_or_nothing(work: pathlib.Path) -> Sequence[str]:
    """As `check`, for commands that may do nothing but print."""
    return check(work) if any(work.glob("out*")) else []


def _check_tflite(path: pathlib.Path) -> Sequence[str]:
    """It runs on zeros, and its report is whole."""
    from ai_edge_litert import interpreter

    loaded = interpreter.Interpreter(model_content=path.read_bytes())
    loaded.allocate_tensors()
    for detail in loaded.get_input_details():
        # Memory of inputs that nobody sets holds anything, NaN included.
        zeros = np.zeros(detail["shape"], detail["dtype"])
        loaded.set_tensor(detail["index"], zeros)
    loaded.invoke()
    for detail in loaded.get_output_details():
        if not np.isfinite(loaded.get_tensor(detail["index"])).all():
            return [f"output: {detail['name']} is not finite on zeros"]
    return _check_json(path.with_name(path.name + ".run") / "report.json")


def _check_json(path: pathlib.Path) -> Sequence[str]:
    found = json.loads(path.read_text(), parse_constant=_refuse_constant)
    return [] if found else [f"output: {path.name} is empty"]


def _check_text(path: pathlib.Path) -> Sequence[str]:
    return [] if path.read_text() else [f"output: {path.name} is empty"]


def _refuse_constant(text: str):
    raise ValueError(f"{text} is no JSON")


def _check_npz(path: pathlib.Path) -> Sequence[str]:
    with np.load(path) as arrays:
        for name in arrays.files:
            array = arrays[name] if name != "metadata.json" else np.zeros(1)
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                return [f"output: {name} of {path.name} is not finite"]
    return []
