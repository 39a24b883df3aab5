"""The examples in docstrings run and give what they say."""

from __future__ import annotations

import doctest
import importlib
import pathlib

import pytest

_ROOT = pathlib.Path(__file__).absolute().parent.parent
_MODULES = sorted(
    ".".join(path.relative_to(_ROOT).with_suffix("").parts)
    for folder in ("benchmarks", "dsg_tf", "tools")
    for path in (_ROOT / folder).rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


def test_some_docstrings_hold_examples():
    assert "dsg_tf.core.errors" in _MODULES


@pytest.mark.parametrize("module", _MODULES)
def test_examples_give_what_they_say(module):
    failed, attempted = doctest.testmod(importlib.import_module(module))
    assert attempted > 0
    assert failed == 0
