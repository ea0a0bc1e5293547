"""Events, and now and then the state of health, into the embedded store; few writes, for the sake of SD cards."""

from __future__ import annotations

import json
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any

from edge.errors import SinkError, StoreBusyError, StoreError
from edge.records import Record
from edge.store import StoreConfig, bytes_of, explanation, limit_pages, open_to_write, retain, shrink, transaction

HEALTH_SECONDS = 60.0  # between two status records that are kept, and between two commits without an event
PENDING = 256  # statements that wait for the next commit; of more, the oldest go

Statement = tuple[str, dict[str, Any]]

NEXT = "(SELECT 1 + max((SELECT ifnull(max(seq), 0) FROM events), (SELECT ifnull(max(seq), 0) FROM health)))"
# The end completes what the beginning has inserted, or stands alone; written twice, either changes nothing.
EVENT = f"""
    INSERT INTO events VALUES ({NEXT}, :id, :source, :label, :classes, :onset, :offset, :onset_time, :offset_time,
        :peak, :mean, :level_dbfs, :model, :latency_ms, :clip, NULL)
    ON CONFLICT (id) DO UPDATE SET label = excluded.label, classes = excluded.classes, offset = excluded.offset,
        offset_time = excluded.offset_time, peak = excluded.peak, mean = excluded.mean,
        level_dbfs = excluded.level_dbfs, clip = ifnull(excluded.clip, clip)
    WHERE excluded.offset IS NOT NULL
"""  # noqa: S608
HEALTH = f"INSERT INTO health VALUES ({NEXT}, :type, :source, :time, :record)"  # noqa: S608
CLIP = {
    "written": "UPDATE events SET clip = :path, clip_pruned_at = NULL WHERE id = :id",
    "pruned": "UPDATE events SET clip_pruned_at = :time WHERE clip = :path",
    "withheld": "UPDATE events SET clip = NULL WHERE id = :id",
    "dropped": "UPDATE events SET clip = NULL WHERE id = :id",
}


class SqliteStore:
    """A sink: every event is committed at once, health at most once a minute, news of clips with the next commit.

    Takes calls from one thread at a time. Two processes may share one database.
    """

    types = frozenset({"event", "clip", "start", "health", "status", "error", "end"})

    def __init__(
        self,
        config: StoreConfig,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open or create the database. ``clock`` gives seconds since the Unix epoch.

        One that is locked is opened with the first record that wants to be kept.

        Raises:
            StoreError: see :func:`edge.store.open_to_write`.
        """
        self._config, self._clock, self._monotonic = config, clock, monotonic
        self._file = config.file
        self._pending: deque[Statement] = deque(maxlen=PENDING)
        self._committed = -HEALTH_SECONDS  # by the monotonic clock
        self._statuses: dict[str, float] = {}  # source → time of the last status that was kept
        self._db: sqlite3.Connection | None = None
        with suppress(StoreBusyError):
            self._db = self._opened()

    def write(self, record: Record) -> None:
        """Keep an event, its clip's fate, or a sign of health; other records are passed over.

        Raises:
            SinkError: nothing of ``record`` is kept, nothing that was is lost; with ``retry`` it may be kept later.
        """
        kind = record["type"]
        statement = self._statement(record)
        if statement is None:
            return
        self._pending.append(statement)
        if kind == "event" or self._monotonic() - self._committed >= HEALTH_SECONDS:
            try:
                self._commit()
            except SinkError:
                self._pending.pop()
                raise
        if kind == "status":
            self._statuses[record["source"]] = statement[1]["time"]

    def close(self) -> None:
        """Commit what waits, and write the log back into the file. Raises SinkError where that fails."""
        try:
            if self._pending:
                self._commit()
        finally:
            self._shut()

    def _statement(self, record: Record) -> Statement | None:
        kind = record["type"]
        if kind == "event":
            return EVENT, _event_values(record)
        if kind == "clip":
            values = {"id": record["id"], "path": record["path"], "time": seconds(record["time"])}
            return (CLIP[record["state"]], values) if record["state"] in CLIP else None
        if kind not in self.types:
            return None
        at = seconds(record["time"])
        # The distance may be negative: clocks are set back.
        if kind == "status" and abs(at - self._statuses.get(record["source"], -HEALTH_SECONDS)) < HEALTH_SECONDS:
            return None
        rest = {key: value for key, value in record.items() if key not in ("type", "source", "time")}
        text = json.dumps(rest, ensure_ascii=False)
        return HEALTH, {"type": kind, "source": record["source"], "time": at, "record": text}

    def _commit(self) -> None:
        try:
            db = self._there()
            self._make_room_in_log(db)
            with transaction(db):
                retain(db, self._config, self._clock())
                for sql, values in self._pending:
                    db.execute(sql, values)
            self._pending.clear()
            self._committed = self._monotonic()
            shrink(db, self._config)
        except sqlite3.Error as error:
            what, remedy, retry = explanation(error, self._file)
            raise SinkError(what, remedy=remedy, retry=retry) from None
        except StoreError as error:  # it was to be opened
            raise SinkError(error.what, remedy=error.remedy) from None

    def _there(self) -> sqlite3.Connection:
        """The database, opened again where somebody has deleted or replaced the file."""
        if self._db is None or self._moved():
            self._shut()
            self._db = self._opened()
        return self._db

    def _shut(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.close()

    def _opened(self) -> sqlite3.Connection:
        db = open_to_write(self._file, busy_seconds=self._config.busy_seconds)
        limit_pages(db, self._config)
        self._inode = self._file.stat().st_ino
        return db

    def _moved(self) -> bool:
        """Whether somebody has deleted or replaced the file: what is written would go nowhere."""
        try:
            return self._file.stat().st_ino != self._inode
        except OSError:
            return True

    def _make_room_in_log(self, db: sqlite3.Connection) -> None:
        """Raises SinkError while a reader, who does not end, keeps the log from being written back."""
        most = self._config.max_bytes - self._config.wal_bytes // 2
        if bytes_of(self._file) <= most:
            return
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if bytes_of(self._file) > most and bytes_of(self._file, log=False) <= most:
            raise SinkError(f"{self._file} is full while another program reads it", remedy="end that program")


def _event_values(record: Record) -> dict[str, Any]:
    ended = record["offset_time"] is not None
    return record | {
        "classes": json.dumps(record["classes"], ensure_ascii=False),
        "onset_time": seconds(record["onset_time"]),
        "offset_time": seconds(record["offset_time"]) if ended else None,
        "clip": record.get("clip"),
    }


def seconds(text: str) -> float:
    """RFC 3339 → seconds since the Unix epoch."""
    return datetime.fromisoformat(text).timestamp()
