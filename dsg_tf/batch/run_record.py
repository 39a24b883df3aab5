"""The record of a batch: one SQLite file, a row a run.

Written by the driver alone. A row is set in one transaction, so that a killed
driver leaves either the old row or the new one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any

from dsg_tf.core import disk_space, errors, files

NAME = "runs.sqlite"
# Of the table below: changes when it does.
SCHEMA_VERSION = 2
# For another program that reads the record to be done with it.
_PATIENCE_S = 20
_LEAST_SQLITE = (3, 37, 0)  # STRICT tables

_SCHEMA = f"""
BEGIN;
CREATE TABLE runs (
  key TEXT PRIMARY KEY,
  kind TEXT NOT NULL
    CHECK (kind IN ('samples', 'float', 'quantize', 'evaluate')),
  folder TEXT NOT NULL UNIQUE,
  status TEXT NOT NULL CHECK (status IN ('running', 'done', 'failed')),
  config TEXT NOT NULL CHECK (json_valid(config)),
  metrics TEXT NOT NULL CHECK (json_valid(metrics)),
  artifact TEXT,
  host TEXT NOT NULL,
  started TEXT NOT NULL,
  finished TEXT,
  error TEXT
) STRICT;
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""


@dataclasses.dataclass(frozen=True)
class Row:
    """What is known of a run.

    Attributes:
      key: identifies what was asked for, and of what.
      kind: `quantize`; `samples`, which several of these share; `evaluate`,
        on real images, of what one of them made; `float`, of the model itself.
      folder: of the run, below the output folder.
      status: `running`, `done` or `failed`.
      config: what was asked for.
      metrics: what came of it.
      artifact: the file or SavedModel, below the output folder.
      host: where it ran.
      started, finished: UTC, ISO 8601.
      error: one line, where it failed.
    """

    key: str
    kind: str
    folder: str
    status: str
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    artifact: str | None
    host: str
    started: str
    finished: str | None = None
    error: str | None = None


_COLUMNS = tuple(field.name for field in dataclasses.fields(Row))
_JSON = ("config", "metrics")


def now() -> str:
    """The time as rows hold it: UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(
        timespec="seconds"
    )


class RunRecord:
    """Rows by key.

    Args:
      folder: the output folder; the file is made if it is not there.
      create: whether it may be made.

    Raises:
      errors.UserError: the file is of another version, is no SQLite file, or
        is not there and may not be made.

    Examples:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     record = RunRecord(folder)
      ...     row = Row("k", "float", "net/float", "running", {}, {}, None,
      ...               "host", now())
      ...     record.put(row)
      ...     record.put(dataclasses.replace(row, status="done"))
      ...     [(r.key, r.status) for r in record.rows()]
      [('k', 'done')]
    """

    def __init__(self, folder: str | os.PathLike, *, create: bool = True):
        self.path = pathlib.Path(folder) / NAME
        if sqlite3.sqlite_version_info < _LEAST_SQLITE:
            raise errors.UserError(
                "SQLite",
                got=sqlite3.sqlite_version,
                expected=".".join(map(str, _LEAST_SQLITE)) + " or newer",
                remedy="a newer Python brings one",
            )
        if not create and not self.path.is_file():
            raise errors.UserError(
                str(self.path),
                got="no such file",
                expected="the record of a batch",
                remedy="run it with --models first",
            )
        files.refuse_special(self.path, expected="the record of a batch")
        with self._told():
            # The default rollback journal: it works on network disks too.
            self._db = sqlite3.connect(
                self.path, timeout=_PATIENCE_S, isolation_level=None
            )
            self._prepare(create)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Makes of what SQLite says an error that the user can mend.

        Not of a row that breaks the table's rules: that is a defect.
        """
        try:
            with disk_space.reported(self.path):
                yield
        except sqlite3.IntegrityError:
            raise
        except sqlite3.OperationalError as error:
            busy = "locked" in str(error)
            raise errors.UserError(
                str(self.path),
                got="a record that another program has locked"
                if busy
                else f"a record that cannot be used ({error})",
                expected="the record of a batch, readable and writable",
                remedy="end the other program"
                if busy
                else "take another --output_dir, or move the file away",
            ) from error
        except sqlite3.Error as error:
            raise errors.UserError(
                str(self.path),
                got=f"an unreadable file ({error})",
                expected="the record of a batch",
                remedy="take another --output_dir, or move the file away",
            ) from error

    def _prepare(self, create: bool) -> None:
        (damage,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if damage != "ok":
            raise sqlite3.DatabaseError(damage)
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        (tables,) = self._db.execute(
            "SELECT count(*) FROM sqlite_master"
        ).fetchone()
        if create and version == 0 and tables == 0:
            self._db.executescript(_SCHEMA)
        elif version != SCHEMA_VERSION:
            raise errors.UserError(
                str(self.path),
                got=f"a record of version {version}",
                expected=f"version {SCHEMA_VERSION}, this dsg_tf's",
                remedy="take another --output_dir, or the dsg_tf that wrote it",
            )

    def put(self, row: Row) -> None:
        """Writes a row; what was there under its key is replaced.

        A folder holds one run: a row of another that has it goes.
        """
        values = [
            json.dumps(value, sort_keys=True) if name in _JSON else value
            for name, value in ((name, getattr(row, name)) for name in _COLUMNS)
        ]
        updates = ", ".join(f"{n} = excluded.{n}" for n in _COLUMNS[1:])
        # All, or nothing.
        with self._told(), self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute(
                "DELETE FROM runs WHERE folder = ? AND key != ?",
                (row.folder, row.key),
            )
            self._db.execute(
                f"INSERT INTO runs ({', '.join(_COLUMNS)})"
                f" VALUES ({', '.join('?' * len(_COLUMNS))})"
                f" ON CONFLICT (key) DO UPDATE SET {updates}",
                values,
            )

    def delete(self, key: str) -> None:
        """Forgets a run, unless it has come to an end."""
        with self._told():
            self._db.execute(
                "DELETE FROM runs WHERE key = ? AND status = 'running'", (key,)
            )

    def rows(self) -> list[Row]:
        """All rows, by folder."""
        with self._told():
            found = self._db.execute(
                f"SELECT {', '.join(_COLUMNS)} FROM runs ORDER BY folder"
            ).fetchall()
            return [self._row(values) for values in found]

    def close(self) -> None:
        self._db.close()

    @staticmethod
    def _row(values) -> Row:
        """A row of the file, whose values are what tables do with them."""
        named = dict(zip(_COLUMNS, values, strict=True))
        for name in _JSON:
            try:
                named[name] = json.loads(named[name])
            except (RecursionError, TypeError, ValueError):
                named[name] = None
            if not isinstance(named[name], dict):
                raise sqlite3.DatabaseError(
                    f"{name} of {named['folder']!r} is no JSON object"
                )
        row = Row(**named)
        fault = _fault(row)
        if fault:
            raise sqlite3.DatabaseError(f"{fault} of {row.folder!r}")
        return row


# Of what is in a row where it is known, the kind that others rely on.
_TEXTS = ("model", "method", "label")
_OF_DATA = {
    "evaluate": ("quantized", "data", "data_key"),
    "float": ("data", "data_key"),
}
_NUMBERS = (
    *("top1_percent", "top1_standard_error_percent", "float_top1_percent"),
    *("same_class_percent", "agreement", "sqnr_db", "sqnr_mean_db"),
    *("doubts", "size_bytes", "peak_bytes", "seconds"),
)
_LISTS = ("doubt_texts", "low_sqnr")


def _fault(row: Row) -> str:
    """Which value is not of the kind that others rely on; empty if none is."""
    for name in (*_TEXTS, *_OF_DATA.get(row.kind, ())):
        if not isinstance(row.config.get(name), str | None):
            return f"{name} that is no text"
    stages = row.metrics.get("stage_seconds")
    if not isinstance(stages, dict | None):
        return "stage_seconds that is no JSON object"
    numbers = {n: row.metrics.get(n) for n in _NUMBERS} | (stages or {})
    for name, value in numbers.items():
        if not isinstance(value, int | float | None):
            return f"{name} that is no number"
    for name in _LISTS:
        value = row.metrics.get(name, [])
        if not isinstance(value, list) or not all(
            isinstance(text, str) for text in value
        ):
            return f"{name} that is no list of texts"
    return ""
