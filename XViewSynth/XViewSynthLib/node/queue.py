"""The durable queue of a node: series and instances in SQLite, each change on disk before the call returns.

Series and instances are known by keys, salted hashes of their UIDs; no name, identifier or UID is stored.

A series is `RECEIVING` until it is complete, `ENHANCING` while a process works on it, `DELIVERING` until the archive
has the result, and then `DONE`. It is `SKIPPED` if it does not qualify, and `FAILED` if it cannot be enhanced. An
instance that arrives late makes the series `RECEIVING` again.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError

RECEIVING, ENHANCING, DELIVERING = "receiving", "enhancing", "delivering"
DONE, SKIPPED, FAILED = "done", "skipped", "failed"
STATES = (RECEIVING, ENHANCING, DELIVERING, DONE, SKIPPED, FAILED)
#: States of series that need nothing more.
ENDED = (DONE, SKIPPED, FAILED)

_FILE = "queue.sqlite"
_VERSION = 1
_SCHEMA = """
CREATE TABLE series (
    key TEXT PRIMARY KEY, state TEXT NOT NULL, changed REAL NOT NULL, due REAL NOT NULL,
    arrived INTEGER NOT NULL DEFAULT 1, expected INTEGER NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0,
    before INTEGER NOT NULL DEFAULT 0, reason TEXT NOT NULL DEFAULT '', seconds REAL NOT NULL DEFAULT 0
);
CREATE TABLE instances (
    key TEXT PRIMARY KEY, series TEXT NOT NULL REFERENCES series, bytes INTEGER NOT NULL
);
CREATE INDEX instances_of_series ON instances (series);
CREATE INDEX series_in_state ON series (state);
CREATE TABLE salt (value BLOB NOT NULL);
"""
_BUSY_SECONDS = 30.0
_LATEST = 20


@dataclass(frozen=True)
class Series:
    """A series of the queue.

    Attributes:
        key: salted hash of its UID.
        instances: how many have arrived; work that began with fewer does not count.
        missing: how many fewer images it has than when it ended before.
        attempts: failures of its enhancement, or of its delivery, so far.
    """

    key: str
    instances: int
    attempts: int
    missing: int = 0


class Queue:
    """The queue in a folder; any number of threads may use it.

    Attributes:
        files: held while the files of a series appear or vanish together with its state.

    Raises:
        InputError: the database is damaged, of another version, or cannot be used.
        sqlite3.Error: the disk is full or fails (all methods).
    """

    def __init__(self, folder: Path):
        self.files = threading.Lock()
        self._lock = threading.Lock()
        self._database = _opened(folder / _FILE)
        (salt,) = self._database.execute("SELECT value FROM salt").fetchone()
        self._salt: bytes = salt

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def key_of(self, uid: str) -> str:
        """The key of a series or an instance."""
        return hmac.new(self._salt, uid.encode(), hashlib.sha256).hexdigest()[:20]

    def knows(self, instance: str) -> bool:
        """Whether an instance, by its key, has been received."""
        with self._changes() as database:
            return database.execute("SELECT 1 FROM instances WHERE key = ?", (instance,)).fetchone() is not None

    def add(self, series: str, instance: str, size: int, expected: int = 0) -> None:
        """Add a new instance of a series, whose file is on disk.

        Args:
            series, instance: their keys.
            size: of the file, in bytes.
            expected: number of the instances of the series, or 0 if it is not known.
        """
        now = time.time()
        with self._changes() as database:
            known = database.execute("SELECT state FROM series WHERE key = ?", (series,)).fetchone()
            if known is None:
                database.execute(
                    "INSERT INTO series (key, state, changed, due, expected) VALUES (?, ?, ?, ?, ?)",
                    (series, RECEIVING, now, now, expected),
                )
            else:
                if known[0] in (DONE, SKIPPED):
                    # Its files are gone. All of its instances can be sent again.
                    gone = database.execute("DELETE FROM instances WHERE series = ?", (series,)).rowcount
                    database.execute("UPDATE series SET before = ? WHERE key = ?", (gone, series))
                database.execute(
                    "UPDATE series SET state = ?, changed = ?, arrived = arrived + 1, due = ?, attempts = 0, "
                    "reason = '', expected = max(expected, ?) WHERE key = ?",
                    (RECEIVING, now, now, expected, series),
                )
            database.execute("INSERT OR REPLACE INTO instances VALUES (?, ?, ?)", (instance, series, size))

    def next_complete(self, quiet_seconds: float) -> Series | None:
        """The complete series that has waited longest, or None."""
        now = time.time()
        return self._first(
            "state = ? AND due <= ? AND (changed <= ? OR (expected > 0 AND expected <= "
            "(SELECT count(*) FROM instances WHERE instances.series = series.key)))",
            (RECEIVING, now, now - quiet_seconds),
        )

    def next_delivery(self) -> Series | None:
        """The series whose delivery is due, or None."""
        return self._first("state = ? AND due <= ?", (DELIVERING, time.time()))

    def begin(self, series: Series) -> bool:
        """Note that a series is being enhanced; False if instances have arrived meanwhile."""
        return self._move(series, (RECEIVING,), ENHANCING)

    def put_back(self, series: Series) -> bool:
        """Note that the enhancement of a series was stopped on request."""
        return self._move(series, (ENHANCING,), RECEIVING)

    def enhanced(self, series: Series, seconds: float) -> bool:
        """Note that the result of a series is on disk; False if instances have arrived meanwhile."""
        return self._move(series, (ENHANCING,), DELIVERING, attempts=0, seconds=seconds)

    def end(self, series: Series, state: str, reason: str = "") -> bool:
        """Note one of `ENDED`, with the reason; False if instances have arrived meanwhile."""
        return self._move(series, (ENHANCING, DELIVERING), state, reason=reason)

    def retry(self, series: Series, state: str, seconds: float, reason: str) -> bool:
        """Note that work on a series has failed, and is to be tried again after some seconds."""
        due = time.time() + seconds
        return self._move(series, (ENHANCING, DELIVERING), state, attempts=series.attempts + 1, due=due, reason=reason)

    def resume(self) -> None:
        """Put the series whose enhancement was interrupted back into the queue, and begin the quiet time of all anew.

        What their senders could not deliver while the node was away is still to come. An interrupted enhancement counts
        as a failure: it may have taken the node down.
        """
        with self._changes() as database:
            database.execute(
                "UPDATE series SET attempts = attempts + (state = ?), state = ?, changed = ? WHERE state IN (?, ?)",
                (ENHANCING, RECEIVING, time.time(), RECEIVING, ENHANCING),
            )

    def forget(self, before: float) -> None:
        """Forget the instances of series that ended before a time, in seconds since the epoch."""
        ended = "SELECT key FROM series WHERE state IN (?, ?, ?) AND due < ?"
        with self._changes() as database:
            database.execute(f"DELETE FROM instances WHERE series IN ({ended})", (*ENDED, before))

    def forget_instances(self, series: str) -> None:
        """Forget the instances of a series, by its key."""
        with self._changes() as database:
            database.execute("DELETE FROM instances WHERE series = ?", (series,))

    def state_of(self, series: str) -> str | None:
        """State of a series by its key, or None."""
        with self._changes() as database:
            row = database.execute("SELECT state FROM series WHERE key = ?", (series,)).fetchone()
        return None if row is None else row[0]

    def waiting_bytes(self) -> int:
        """Bytes of the instances of series that have not ended."""
        with self._changes() as database:
            (total,) = database.execute(
                "SELECT coalesce(sum(bytes), 0) FROM instances JOIN series ON series.key = series "
                "WHERE state NOT IN (?, ?, ?)",
                ENDED,
            ).fetchone()
        return int(total)

    def summary(self) -> dict[str, Any]:
        """Numbers of series by state, throughput and the last failures, as JSON can hold them."""
        with self._changes() as database:
            counts = dict(database.execute("SELECT state, count(*) FROM series GROUP BY state").fetchall())
            (instances, size) = database.execute("SELECT count(*), coalesce(sum(bytes), 0) FROM instances").fetchone()
            (hour,) = database.execute(
                "SELECT count(*) FROM series WHERE state = ? AND due > ?", (DONE, time.time() - 3600)
            ).fetchone()
            (seconds,) = database.execute(
                "SELECT coalesce(avg(seconds), 0) FROM series WHERE state = ?", (DONE,)
            ).fetchone()
            troubles = database.execute(
                "SELECT key, state, attempts, reason FROM series WHERE reason != '' ORDER BY due DESC LIMIT ?",
                (_LATEST,),
            ).fetchall()
        return {
            "series": {state: counts.get(state, 0) for state in STATES},
            "instances": instances,
            "instance_bytes": size,
            "waiting_bytes": self.waiting_bytes(),
            "done_in_last_hour": hour,
            "mean_seconds": round(seconds, 1),
            "troubles": [dict(zip(("series", "state", "attempts", "reason"), row, strict=True)) for row in troubles],
        }

    def keys_in(self, *states: str) -> list[str]:
        """Keys of the series in some states."""
        marks = ", ".join("?" * len(states))
        with self._changes() as database:
            return [key for (key,) in database.execute(f"SELECT key FROM series WHERE state IN ({marks})", states)]

    def _first(self, condition: str, values: tuple[object, ...]) -> Series | None:
        with self._changes() as database:
            row = database.execute(
                "SELECT key, arrived, attempts, max(0, before - (SELECT count(*) FROM instances "
                f"WHERE instances.series = series.key)) FROM series WHERE {condition} ORDER BY due LIMIT 1",
                values,
            ).fetchone()
        return None if row is None else Series(*row)

    def _move(self, series: Series, states: tuple[str, ...], state: str, **columns: float | str) -> bool:
        """Change the state of a series that is in one of `states` and has no new instance since it was read."""
        columns = {"due": time.time(), **columns, "state": state}
        assignments = ", ".join(f"{column} = ?" for column in columns)
        marks = ", ".join("?" * len(states))
        with self._changes() as database:
            done = database.execute(
                f"UPDATE series SET {assignments} WHERE key = ? AND arrived = ? AND state IN ({marks})",
                (*columns.values(), series.key, series.instances, *states),
            )
            return done.rowcount == 1

    @contextmanager
    def _changes(self) -> Iterator[sqlite3.Connection]:
        """All changes or none, on disk afterwards."""
        with self._lock, self._database:
            yield self._database


def read_summary(folder: Path) -> dict[str, Any]:
    """`Queue.summary` of a folder, also while a node uses it.

    Raises:
        InputError: the folder holds no queue, or it cannot be used.
    """
    if not os.path.isfile(folder / _FILE):
        raise InputError(f"{folder} holds no queue of a node: give the --folder of a node.")
    queue = Queue(folder)
    try:
        return queue.summary()
    finally:
        queue.close()


def _opened(path: Path) -> sqlite3.Connection:
    try:
        database = sqlite3.connect(path, timeout=_BUSY_SECONDS, check_same_thread=False)
    except sqlite3.Error as error:
        raise InputError(f"The queue in {path.parent} cannot be opened ({error}): check its permissions.") from error
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        with database:
            database.execute("BEGIN IMMEDIATE")
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    database.execute(statement)
                database.execute("INSERT INTO salt VALUES (?)", (os.urandom(32),))
                database.execute(f"PRAGMA user_version = {_VERSION}")
            elif version != _VERSION:
                raise InputError(f"The queue in {path.parent} is of another version: choose another --folder.")
    except sqlite3.OperationalError as error:  # such as a full disk
        database.close()
        raise InputError(f"The queue in {path.parent} cannot be used ({error}): check disk and permissions.") from error
    except sqlite3.DatabaseError as error:
        database.close()
        raise InputError(f"The queue in {path.parent} is damaged ({error}): choose another --folder.") from error
    except InputError:
        database.close()
        raise
    return database
