"""The table of traits, and that nobody spells it out a second time."""

from __future__ import annotations

import ast
import pathlib

import pytest

from dsg_tf.graph import ops

_PACKAGE = pathlib.Path(ops.__file__).parent.parent
_NAMED = {
    name: value
    for name, value in vars(ops).items()
    if isinstance(value, frozenset)
}


@pytest.mark.parametrize("trait", list(ops.Trait))
def test_every_trait_is_of_some_operation(trait):
    assert ops.having(trait)


def test_having_two_traits_is_having_either():
    both = ops.having(ops.Trait.ADD | ops.Trait.SUBTRACT)
    assert both == {"Add", "AddV2", "Sub"}
    assert ops.having(ops.Trait(0)) == frozenset()


def _spelled_out(source: str) -> list[frozenset[str]]:
    """Displays of two or more texts: sets, tuples and lists."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Set | ast.Tuple | ast.List):
            texts = [
                e.value
                for e in node.elts
                if isinstance(e, ast.Constant) and isinstance(e.value, str)
            ]
            if len(texts) == len(node.elts) >= 2:
                found.append(frozenset(texts))
    return found


def test_no_module_spells_out_what_the_table_has():
    again = {
        (str(path.relative_to(_PACKAGE)), name)
        for path in _PACKAGE.rglob("*.py")
        for texts in _spelled_out(path.read_text(encoding="utf-8"))
        for name, value in _NAMED.items()
        if texts == value
    }
    assert again == set()
