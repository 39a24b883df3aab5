"""The reference page of all options, from where they are declared.

python -m tools.reference        # writes docs/reference/options.md
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

from dsg_tf.command_line import quantize_flags
from dsg_tf.config import options

_ROOT = pathlib.Path(__file__).absolute().parent.parent
PAGE = _ROOT / "docs" / "reference" / "options.md"

_HEAD = """# Options

Every field of the configs, with its flag of `dsg_tf.quantize`; this page is
made from them by `python -m tools.reference`. On the command line:
`--weight_bits=4`; in Python: `ExportConfig(weight_bits=4)`. Both give the same
run, and refuse the same values.
"""
_CLASSES = {config.__name__: config for config in quantize_flags.CONFIGS}


def text() -> str:
    """The page, Markdown."""
    return _HEAD + "".join(
        f"\n## {name}\n{''.join(_table(config))}"
        for name, config in _CLASSES.items()
    )


def _table(config: type) -> Iterator[str]:
    yield "| field | flag | default | takes | what it does |\n"
    yield "| --- | --- | --- | --- | --- |\n"
    for entry in options.declared(config).values():
        cells = (
            f"`{entry.name}`",
            f"`--{entry.flag}`",
            "" if entry.default in (None, "", ()) else f"`{entry.default}`",
            _takes(entry),
            entry.option.help,
        )
        yield "| " + " | ".join(cells) + " |\n"


def _takes(entry: options.Declared) -> str:
    """The values of an option in words."""
    own = entry.option
    if own.choices:
        return ", ".join(map(str, own.choices))
    if entry.kind is bool:
        return "true, false"
    if entry.kind in (int, float):
        kind = "whole number" if entry.kind is int else "number"
        if own.above_least:
            return f"{kind} > {own.least:g}"
        if own.most < float("inf"):
            return f"{kind}, {own.least:g} to {own.most:g}"
        return f"{kind} >= {own.least:g}"
    return "text" if entry.kind is str else ""


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
