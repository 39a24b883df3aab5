"""Flags and flagfiles that no user means."""

from __future__ import annotations

import os
from collections.abc import Iterator

from tools.faults import (
    cases,
    commands,
    given,
    originals,
)


def flags() -> Iterator[cases.Case]:
    """Values of flags, on a model that is whole."""
    odd = (
        *("--num_samples=-1", "--num_samples=0", "--num_samples=1e3"),
        *(f"--num_samples={10**30}", f"--seed={10**30}", "--seed=-1"),
        *(f"--steps={2**63}", f"--batch_size={2**31}", "--batch_size=0"),
        *(f"--verify_samples={10**20}", "--verify_samples=-1"),
        *("--min_agreement=nan", "--min_agreement=2", "--min_agreement=-inf"),
        *("--input_range=nan,1", "--input_range=1,-1", "--input_range=0,inf"),
        *("--input_range=1e308,-1e308", "--input_range=0,0"),
        *("--input_shape=0,0,0", f"--input_shape={2**62},8,3"),
        *(
            f"--input_shape={10**30}",
            "--input_shape=image=8",
            "--input_shape=,",
        ),
        *("--weight_bits=1", "--weight_bits=99", "--activation_bits=0"),
        *("--synthesis=learning_rate=nan", "--synthesis=learning_rate=inf"),
        *("--synthesis=x", "--synthesis=", "--method=", "--recipe=\udcff"),
        *("--nothing=1", "argument", "--tags=\x1b", "--signature=x\ny"),
        *("--io_type=x", "--exporter=x", "--granularity=\n", "--equalize=2"),
    )
    for index, flag in enumerate(odd):
        yield given.case(
            f"flag-{index}",
            "values of flags",
            "quantize",
            [*given.quantize(originals.KERAS), flag],
            copies=(originals.KERAS,),
            allowed=(1,),
        )
    images = commands.with_images("evaluate", originals.IMAGES)[0]
    for index, flag in enumerate(
        (
            *("--batch=0", f"--batch={2**63}", "--preprocess=x", "--mean=nan"),
            *("--preprocess=standardize", "--signature=x", "--reference=x"),
        )
    ):
        yield given.case(
            f"flag-evaluate-{index}",
            "values of flags",
            "evaluate",
            [*images, flag],
            copies=(originals.IMAGES, originals.TFLITE),
            allowed=(0, 1) if "batch=9" in flag else (1,),
        )


def flagfiles() -> Iterator[cases.Case]:
    """Flagfiles that are no text, or name what they should not."""
    good = "\n".join(given.quantize(originals.KERAS)).encode()
    contents = {
        "latin1": good + b"\n--signature=\xe9\n",
        "utf16": good.decode().encode("utf-16"),
        "bom": b"\xef\xbb\xbf" + good,
        "nul": good + b"\n--signature=\x00\n",
        "itself": good + b"\n--flagfile=all.flags\n",
        "nowhere": good + b"\n--flagfile=nowhere.flags\n",
        "pipe": good + b"\n--flagfile=pipe\n",
        "no_dashes": b"saved_model=net.keras\n",
        "words": b"--saved_model net.keras --output out.tflite\n",
        "long": good + b"\n--signature=" + b"x" * 5_000_000 + b"\n",
        "unknown": good + b"\n--nothing_of_this_name=1\n",
        "empty": b"",
        "binary": bytes(range(256)) * 20,
    }
    for name, content in contents.items():
        for command in ("quantize", "batch"):

            def setup(bench: cases.Bench, content=content) -> None:
                (bench.work / "all.flags").write_bytes(content)
                os.mkfifo(bench.work / "pipe")

            yield given.case(
                f"flagfile-{name}-{command}",
                "flagfiles",
                command,
                ["--flagfile=all.flags"],
                copies=(originals.KERAS,),
                setup=setup,
            )
