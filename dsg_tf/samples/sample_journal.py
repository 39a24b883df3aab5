"""The journal of a folder of unfinished samples, for resuming a run."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import zlib

import numpy as np

# Increase it when the format below changes.
_VERSION = 2


@dataclasses.dataclass(frozen=True)
class Journal:
    """The finished batches, and notes on all of them.

    Attributes:
      key: text that identifies model and config.
      done: of each finished batch its first sample, its labels, and for each
        input a checksum of its samples.
      notes: findings that hold for all batches, by name; JSON values.
    """

    key: str
    done: tuple[tuple[int, list[int], list[int]], ...]
    notes: dict

    def encode(self) -> bytes:
        """JSON, with a checksum of all else that it holds."""
        whole = {"version": _VERSION, **dataclasses.asdict(self)}
        return json.dumps({**whole, "checksum": _sum(whole)}).encode()

    def check_bounds(self, count: int) -> None:
        """Makes sure that all batches lie within `count` samples.

        Raises:
          ValueError: one does not.
        """
        for start, labels, _ in self.done:
            if start < 0 or start + len(labels) > count:
                raise ValueError("a batch outside of the samples")


def read(path: pathlib.Path) -> Journal:
    """Reads and checks a journal.

    Raises:
      ValueError: it is not as `Journal.encode` made it.
      OSError: it cannot be read.
    """
    try:
        whole = json.loads(path.read_bytes())
        if whole.pop("checksum", None) != _sum(whole):
            raise ValueError("its journal is torn, or of another version")
        if whole["version"] != _VERSION:
            raise ValueError("its journal is of another version")
        done = tuple(
            (_whole(start), [*map(_whole, labels)], [*map(_whole, sums)])
            for start, labels, sums in whole["done"]
        )
        return Journal(str(whole["key"]), done, dict(whole["notes"]))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError("its journal is torn") from error
    except (AttributeError, TypeError, KeyError, RecursionError) as error:
        raise ValueError("its journal holds something else") from error


def checksum(array: np.ndarray) -> int:
    """A checksum of values and their order, independent of the shape.

    Examples:
      >>> checksum(np.zeros(4, "u1")) == checksum(np.zeros((2, 2), "u1"))
      True
    """
    return zlib.crc32(np.ascontiguousarray(array))


def _sum(whole: dict) -> int:
    return zlib.crc32(json.dumps(whole).encode())


def _whole(value: object) -> int:
    if not isinstance(value, int) or not -(2**31) <= value < 2**32:
        raise ValueError("its journal holds something that is no number")
    return value
