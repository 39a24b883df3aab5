"""Damage to protocol buffers: messages that parse, and say what none would."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from google.protobuf import message

_INTEGERS = (0, 1, -1, 2, 127, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63))
_FLOATS = (0.0, -1.0, 1e38, float("nan"), float("inf"))
_TEXTS = ("", "x", "PartitionedCall", "../x", "\n", "x" * 5000, "image:7")


def mutate(found: message.Message, rng: np.random.Generator) -> None:
    """Changes a message in place, at one to three of its fields."""
    for _ in range(int(rng.integers(1, 4))):
        sites = list(_sites(found))
        # One field first: names of nodes are many, everything else is few.
        names = sorted({field.full_name for _, field in sites})
        name = names[int(rng.integers(len(names)))]
        alike = [site for site in sites if site[1].full_name == name]
        _change(*alike[int(rng.integers(len(alike)))], rng)


def _sites(found: message.Message) -> Iterator[tuple[message.Message, Any]]:
    """Every (message, field) that is set, of a message and all below."""
    stack = [found]
    while stack:
        holder = stack.pop()
        for field, value in holder.ListFields():
            yield holder, field
            if field.message_type is None:
                continue
            if _is_map(field):
                if _of_messages(field):
                    stack += [value[key] for key in sorted(value)]
            elif _is_repeated(field):
                stack += list(value)
            else:
                stack.append(value)


def _change(
    holder: message.Message, field: Any, rng: np.random.Generator
) -> None:
    value = getattr(holder, field.name)
    if _is_map(field):
        _change_map(value, field, rng)
    elif _is_repeated(field):
        _change_list(value, field, rng)
    elif field.message_type is not None or rng.integers(4) == 0:
        holder.ClearField(field.name)
    else:
        setattr(holder, field.name, _other(field, value, rng))


def _change_map(value: Any, field: Any, rng: np.random.Generator) -> None:
    keys = sorted(value)
    key = keys[int(rng.integers(len(keys)))]
    if rng.integers(2) or not _of_messages(field):
        del value[key]
    else:
        value[key].CopyFrom(value[keys[int(rng.integers(len(keys)))]])


def _change_list(value: Any, field: Any, rng: np.random.Generator) -> None:
    at = int(rng.integers(len(value)))
    how = int(rng.integers(4))
    if how == 0:
        del value[at]
    elif how == 1:
        item = value[at]
        value.extend([item])
    elif how == 2:
        items = [value[i] for i in rng.permutation(len(value))]
        if field.message_type is not None:
            copies = [
                type(item).FromString(item.SerializeToString())
                for item in items
            ]
        else:
            copies = items
        del value[:]
        value.extend(copies)
    elif field.message_type is None:
        value[at] = _other(field, value[at], rng)
    else:
        value[at].Clear()


def _other(field: Any, value: Any, rng: np.random.Generator) -> Any:
    """Another value of a plain field, within what its type can hold."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return _TEXTS[int(rng.integers(len(_TEXTS)))]
    if isinstance(value, bytes):
        return rng.bytes(len(value)) if value else b"\xff"
    if isinstance(value, float):
        return _FLOATS[int(rng.integers(len(_FLOATS)))]
    number = _INTEGERS[int(rng.integers(len(_INTEGERS)))]
    kind = field.cpp_type
    if kind in (field.CPPTYPE_UINT32, field.CPPTYPE_UINT64):
        number = abs(number)
    if kind in (
        field.CPPTYPE_INT32,
        field.CPPTYPE_ENUM,
        field.CPPTYPE_UINT32,
    ):
        number = int(np.clip(number, -(2**31), 2**31 - 1))
    return number


def _is_repeated(field: Any) -> bool:
    if hasattr(field, "is_repeated"):
        return bool(field.is_repeated)
    return field.label == field.LABEL_REPEATED


def _is_map(field: Any) -> bool:
    kind = field.message_type
    return kind is not None and kind.GetOptions().map_entry


def _of_messages(field: Any) -> bool:
    return field.message_type.fields_by_name["value"].message_type is not None
