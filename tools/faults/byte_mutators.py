"""Damage to bytes, of any format: what disks, networks and editors do."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

Mutator = Callable[[bytes, np.random.Generator], bytes]

# Lengths that a parser may believe.
_LENGTHS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


def flip_bits(content: bytes, rng: np.random.Generator) -> bytes:
    """Flips one to sixteen bits.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> len(flip_bits(b"abc", rng)) == 3
      True
    """
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 17))):
        changed[_position(content, rng)] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def truncate(content: bytes, rng: np.random.Generator) -> bytes:
    """Keeps a beginning, which may be empty."""
    return content[: _position(content, rng)]


def duplicate(content: bytes, rng: np.random.Generator) -> bytes:
    """Repeats a range of bytes, so that all behind it moves."""
    start, stop = _range(content, rng)
    return content[:stop] + content[start:]


def zero(content: bytes, rng: np.random.Generator) -> bytes:
    """Sets a range of bytes to zero."""
    start, stop = _range(content, rng)
    return content[:start] + bytes(stop - start) + content[stop:]


def remove(content: bytes, rng: np.random.Generator) -> bytes:
    """Takes a range of bytes out."""
    start, stop = _range(content, rng)
    return content[:start] + content[stop:]


def insert(content: bytes, rng: np.random.Generator) -> bytes:
    """Puts random bytes in."""
    position = _position(content, rng)
    return content[:position] + rng.bytes(16) + content[position:]


def corrupt_length(content: bytes, rng: np.random.Generator) -> bytes:
    """Overwrites a few bytes by a number that a length may have."""
    width = int(rng.choice([1, 2, 4, 8]))
    value = int(rng.choice(_LENGTHS)) & ((1 << (8 * width)) - 1)
    position = _position(content, rng)
    number = value.to_bytes(width, str(rng.choice(["little", "big"])))
    return (content[:position] + number + content[position + width :])[
        : len(content)
    ]


def corrupt_head(content: bytes, rng: np.random.Generator) -> bytes:
    """Flips bits in the first 64 bytes, where formats keep what counts."""
    return flip_bits(content[:64], rng) + content[64:]


def corrupt_tail(content: bytes, rng: np.random.Generator) -> bytes:
    """Flips bits in the last 64 bytes, where archives keep their index."""
    cut = max(len(content) - 64, 0)
    return content[:cut] + flip_bits(content[cut:], rng)


MUTATORS: Mapping[str, Mutator] = {
    "bits": flip_bits,
    "truncated": truncate,
    "duplicated": duplicate,
    "zeroed": zero,
    "removed": remove,
    "inserted": insert,
    "length": corrupt_length,
    "head": corrupt_head,
    "tail": corrupt_tail,
}
# Their names.
NAMES = tuple(MUTATORS)


def _position(content: bytes, rng: np.random.Generator) -> int:
    return int(rng.integers(len(content)))


def _range(content: bytes, rng: np.random.Generator) -> tuple[int, int]:
    start = _position(content, rng)
    length = int(rng.integers(1, max(len(content) // 4, 2)))
    return start, min(start + length, len(content))
