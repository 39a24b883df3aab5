"""Flags that the documentation uses exist."""

from __future__ import annotations

import pathlib
import re

import pytest
from absl import flags

from dsg_tf import inspect, quantize
from dsg_tf.batch import batch_flags

_ROOT = pathlib.Path(__file__).absolute().parent.parent
_PAGES = [_ROOT / "README.md", *sorted((_ROOT / "docs").glob("**/*.md"))]
_COMMAND = re.compile(
    r"(?:python -m dsg_tf\.|dsg-)(quantize|batch|inspect)\b((?:[^\n`]|\\\n)*)"
)
_FLAG = re.compile(r"--(?:no)?([a-z][a-z_]*)")


def _known(command: str) -> set[str]:
    values = flags.FlagValues()
    batch_flags.define(values)
    groups = {"quantize": quantize.GROUPS, "inspect": inspect.GROUPS}
    names = {n for group in groups.get(command, {}).values() for n in group}
    # absl's own.
    return (names or set(values)) | {"flagfile", "help", "verbosity"}


def _uses() -> list[tuple[str, str, str]]:
    """Page, command and flag, of every command on every page."""
    found = []
    for page in _PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for command, rest in _COMMAND.findall(text):
            found += [(page.name, command, f) for f in _FLAG.findall(rest)]
    return sorted(set(found))


def test_there_are_flags_to_check():
    assert len(_uses()) > 20


@pytest.mark.parametrize(("page", "command", "flag"), _uses())
def test_a_flag_on_a_page_exists(page, command, flag):
    assert flag in _known(command), page
