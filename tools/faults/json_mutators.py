"""Damage to JSON: valid text that says what no writer would."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

# Beyond what Python's own parser takes; and what it takes, but little else.
DEEP = 200_000
_NESTED = 900


def _nested() -> list:
    value: list = []
    for _ in range(_NESTED):
        value = [value]
    return value


def _values() -> list[Any]:
    return [
        *(None, True, False, 0, -1, 2**31, 2**63, 10**40, 0.5, 1e308),
        *(float("nan"), float("inf"), "", "x" * 5000, "\ud800", "../x", "\n"),
        *([], {}, [[]], {"": {}}, [None], [-1, -1], [0], _nested()),
    ]


def mutate(document: Any, rng: np.random.Generator) -> str:
    """Changes a document at one to three places; returns it as text.

    Args:
      document: what `json.loads` returns; is left as it is.
      rng: decides what changes.

    Example:
      >>> mutate({"a": 1}, np.random.default_rng(0)) != '{"a": 1}'
      True
    """
    before = json.dumps(document)
    while True:
        changed = copy.deepcopy(document)
        for _ in range(int(rng.integers(1, 4))):
            changed = _change(changed, rng)
        text = json.dumps(changed)
        if text != before:
            return text


def _change(document: Any, rng: np.random.Generator) -> Any:
    places = list(_places(document))
    if not places:
        return _pick(_values(), rng)
    holder, key = _pick(places, rng)
    how = int(rng.integers(6))
    if how == 0:
        del holder[key]
    elif how == 1:  # A part of the document in place of another.
        other, name = _pick(places, rng)
        if name in other if isinstance(other, dict) else name < len(other):
            holder[key] = copy.deepcopy(other[name])
    elif how == 2 and isinstance(holder, dict):
        holder[str(_pick(["", "class_name", "x", "config"], rng))] = holder.pop(
            key
        )
    elif how == 3 and isinstance(holder, list):
        holder.append(copy.deepcopy(holder[key]))
    else:
        holder[key] = _pick(_values(), rng)
    return document


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Every (list or dictionary, index or key) of a document."""
    stack = [document]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            keys = list(value)
        elif isinstance(value, list):
            keys = list(range(len(value)))
        else:
            continue
        for key in keys:
            yield value, key
            stack.append(value[key])


def _pick(values, rng: np.random.Generator):
    return values[int(rng.integers(len(values)))]


def odd_texts() -> dict[str, bytes]:
    """Texts that are no JSON, or none that a parser likes, by name."""
    return {
        "empty": b"",
        "spaces": b"  \n",
        "null": b"null",
        "number": b"17",
        "nan": b"NaN",
        "text": b'"Functional"',
        "list": b"[]",
        "object": b"{}",
        "deep": b"[" * DEEP + b"]" * DEEP,
        "deep_objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
        "utf16": '{"class_name": "Functional"}'.encode("utf-16"),
        "bom": b'\xef\xbb\xbf{"class_name": "Functional", "config": {}}',
        "latin1": b'{"class_name": "\xe9"}',
        "nul": b'{"class_name": "\x00"}',
        "long_number": b'{"class_name": ' + b"9" * 10_000 + b"}",
        "half": b'{"class_name": "Functional", "config": {"layers": [',
        "surrogate": b'{"class_name": "\\ud800", "config": {}}',
        "twice": b'{"class_name": "A", "class_name": "B"}',
        "no_config": b'{"class_name": "Functional"}',
        "no_layers": b'{"class_name": "Functional", "config": {}}',
        "sequential": b'{"class_name": "Sequential", "config": []}',
        "config_list": b'{"class_name": "Functional", "config": [1, 2]}',
        "class_number": b'{"class_name": 3, "module": 4, "config": {}}',
        "class_list": b'{"class_name": [], "module": {}, "config": null}',
    }
