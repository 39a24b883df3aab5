"""What a report comes to: one sentence, and the next command to try."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from dsg_tf.config import run_config

FIT, LOOK, STOP = "fit", "look", "stop"


@dataclasses.dataclass(frozen=True)
class Advice:
    """What to do with a result.

    Attributes:
      state: `FIT`, `LOOK` or `STOP`.
      verdict: one sentence.
      reason: why the command is the next to try; empty without one.
      command: to run in a shell; empty where nothing is left to try.
    """

    state: str
    verdict: str
    reason: str
    command: str


def of(report: Mapping[str, Any]) -> Advice:
    """The advice that follows from a report.json.

    Args:
      report: the parsed file, of this version or one before.
    """
    verdict, layers = report["verdict"], report["layers"]
    worst = layers[0] if layers else None
    reason, flags = _next(report, worst)
    command = command_line(report, flags) if flags else ""
    percent = f"{100 * report['agreement']:.1f} % agreement with float"
    if not report["passed"]:
        why = [*verdict["doubts"], *verdict["missed"]]
        return Advice(STOP, f"Do not ship: {why[0]}.", reason, command)
    if worst and _low(worst):
        return Advice(
            LOOK,
            f"Look at layer {worst['layer']} ({worst['sqnr_db']:.1f} dB): the"
            f" result passes with {percent}.",
            reason,
            command,
        )
    return Advice(
        FIT,
        f"Fit for use: {percent} on synthetic samples, an upper bound.",
        reason,
        command,
    )


def _low(row: Mapping[str, Any]) -> bool:
    if row["sqnr_db"] is None or row.get("zero"):
        return False
    return row["sqnr_db"] < run_config.LEAST_SQNR_DB


def command_line(report: Mapping[str, Any], more: Sequence[str] = ()) -> str:
    """The command of a run, for a shell.

    Args:
      report: a parsed report.json. A live model, and samples in memory, get
        the name of a file in capitals: they have to be saved first.
      more: flags that take the place of its own of the same name.

    Examples:
      >>> report = {"model": "a net", "output": "x.tflite", "flags": []}
      >>> command_line(report, ["--weight_bits=4"])
      "python -m dsg_tf.quantize --saved_model='a net' --output=x.tflite \
--weight_bits=4"
    """
    names = {_name(flag) for flag in more}
    in_memory = f"--samples={run_config.IN_MEMORY}"
    own = [
        "--samples=FILE.npz" if flag == in_memory else flag
        for flag in report.get("flags", ())
        if _name(flag) not in names
    ]
    model = "MODEL" if report.get("live_model") else report["model"]
    words = [
        f"--saved_model={shlex.quote(model)}",
        f"--output={shlex.quote(report['output'])}",
    ]
    words += [shlex.quote(flag) for flag in (*own, *more)]
    return " ".join(["python -m dsg_tf.quantize", *words])


def _name(flag: str) -> str:
    name, _, value = flag.removeprefix("--").partition("=")
    # Of --synthesis=steps=25, the field.
    return value.partition("=")[0] if name == "synthesis" else name


def _next(
    report: Mapping[str, Any], worst: Mapping[str, Any] | None
) -> tuple[str, list[str]]:
    """Why, and which flags to try next: the cheapest remedy that is open."""
    export = report["config"]["export"]
    good = report["passed"] and not (worst and _low(worst))
    rounds = (report.get("rounds") or {}).values()
    unsettled = any(row["settled"] is False for row in rounds)
    if unsettled and not report["config"]["input_range"]:
        return (
            "The samples did not reach BatchNorm's statistics: say where the"
            " model's inputs lie.",
            ["--input_range=LOW,HIGH"],
        )
    if good:
        return "", []
    if export["weight_bits"] < 8 and export["recipe"] != "best":
        return (
            "Weights of few bits: learn their rounding on more samples.",
            ["--recipe=best"],
        )
    if export["granularity"] == "tensor":
        return (
            "One scale for all weights of a layer: give each channel its own"
            " if the target allows it.",
            ["--granularity=channel"],
        )
    if export["activation_bits"] == 8:
        return (
            "Activations of 8 bits: 16 bits keep small values beside large"
            " ones.",
            ["--activation_bits=16"],
        )
    if not report["config"]["samples"]:
        return (
            "Synthetic samples may not reach what real inputs do: calibrate"
            " on some.",
            ["--samples=FILE.npz"],
        )
    return "", []
