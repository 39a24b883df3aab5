"""Scores that outlive the process that measured them.

>>> import pathlib, tempfile
>>> folder = tempfile.TemporaryDirectory()
>>> record = ScoreRecord(pathlib.Path(folder.name) / "scores.jsonl")
>>> key = record.key({"model": "net", "seed": 0})
>>> record.put(key, {"W8A8": [99.0, 26.0]})
>>> ScoreRecord(record.path).get(key)
{'W8A8': [99.0, 26.0]}
>>> folder.cleanup()
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import dsg_tf
from dsg_tf.core import errors, fingerprints


class ScoreRecord:
    """A file of JSON lines, one a run; processes may share it.

    Args:
      path: of the file. It need not exist, its folder must.

    Raises:
      errors.UserError: the file cannot be written there.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path)
        try:
            self.path.open("a").close()
        except OSError as error:
            raise errors.UserError(
                "--record",
                got=f"{path} ({error.strerror})",
                expected="a file that can be written",
            ) from error

    def key(self, settings: Mapping[str, Any]) -> str:
        """Of a run: what it depends on, and the code that makes it.

        Args:
          settings: anything that JSON holds.
        """
        return fingerprints.of_settings([_code(), settings])

    def get(self, key: str) -> Any:
        """The score under a key; None before one is there."""
        found = None
        for line in self.path.read_text().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                # The last words of a process that was killed.
                continue
            if entry["key"] == key:
                found = entry["score"]
        return found

    def put(self, key: str, score: Any) -> None:
        """Keeps a score, in a line of its own whatever was cut off before."""
        line = json.dumps({"key": key, "score": score})
        with self.path.open("a") as file:
            file.write(f"\n{line}\n")
            file.flush()
            os.fsync(file.fileno())


@functools.cache
def _code() -> str:
    """Of the library's sources: a score of other code is none of this."""
    package = pathlib.Path(dsg_tf.__file__).parent
    sources = sorted(package.rglob("*.py"))
    return fingerprints.of_settings(
        {
            source.relative_to(package).as_posix(): fingerprints.of_path(source)
            for source in sources
        }
    )
