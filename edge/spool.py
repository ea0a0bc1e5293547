"""Records on disk while their receiver is away: an SQLite file that survives a restart and kill -9."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from edge.errors import EdgeError
from edge.records import Record

MAX_RECORDS = 100_000
MAX_BYTES = 64 << 20  # of JSON; the file is a little larger
BUSY_SECONDS = 0.2  # to wait for a database that another program has locked


class SpoolError(EdgeError):
    """The file cannot be read or written now: full disk, read-only folder, locked database."""


class Kept(NamedTuple):
    """One record of the spool."""

    key: int  # rises from record to record
    size: int  # bytes on disk
    record: Record


class Spool:
    """A queue on disk, oldest first. Opened when it is first used, and again after an error.

    Every method raises SpoolError where the file cannot be used; the next call tries again. Threads may share it.
    """

    def __init__(self, path: Path, *, max_records: int = MAX_RECORDS, max_bytes: int = MAX_BYTES) -> None:
        self._path, self._max_records, self._max_bytes = path, max_records, max_bytes
        self._lock = Lock()
        self._db: sqlite3.Connection | None = None
        self._count = self._bytes = 0
        self._done = 0  # the key up to which everything is delivered, also where it could not be deleted
        self.evicted = 0  # records that had to go because it was full

    def __len__(self) -> int:
        """Records that wait, as far as is known: 0 before :meth:`open`."""
        return self._count

    def open(self) -> None:
        """Look at what a former run has left."""
        with self._transaction():
            pass

    def append(self, records: list[Record]) -> None:
        """Add ``records``, all or none. The oldest go when there are too many."""
        # In ASCII, which holds every text: a record that cannot be written would hold up those after it.
        bodies = [json.dumps(record, default=str, skipkeys=True).encode() for record in records]
        with self._transaction() as db:
            db.execute("DELETE FROM records WHERE key <= ?", (self._done,))
            db.executemany("INSERT INTO records (body) VALUES (?)", ((body,) for body in bodies))
            count, size = self._count + len(bodies), self._bytes + sum(map(len, bodies))
            evicted, freed = self._evict(db, count, size)
        self._count, self._bytes = count - evicted, size - freed
        self.evicted += evicted

    def first(self) -> Kept | None:
        """The oldest record that :meth:`remove` was not called for."""
        with self._transaction() as db:
            row = db.execute(
                "SELECT key, body FROM records WHERE key > ? ORDER BY key LIMIT 1", (self._done,)
            ).fetchone()
        if row is None:
            self._count = self._bytes = 0
            return None
        key, body = row
        try:
            return Kept(key, len(body), json.loads(body))
        except ValueError:  # the disk has lost it
            self.evicted += 1
            self.remove(Kept(key, len(body), {}))
            return self.first()

    def remove(self, kept: Kept) -> None:
        """``kept``, the first, is delivered. It does not come again in this run, even where it cannot be deleted."""
        self._done = kept.key
        self._count, self._bytes = self._count - 1, self._bytes - kept.size
        with self._transaction(durable=False) as db:  # lost in a power cut, it is delivered twice
            db.execute("DELETE FROM records WHERE key <= ?", (self._done,))

    def close(self) -> None:
        """Let go of the file; what is in it stays."""
        with self._lock:
            self._disconnect()

    def _evict(self, db: sqlite3.Connection, count: int, size: int) -> tuple[int, int]:
        """Delete the oldest until the rest fits. Returns how many, and their bytes."""
        evicted = freed = 0
        for key, length in db.execute("SELECT key, length(body) FROM records ORDER BY key"):
            if count - evicted <= self._max_records and size - freed <= self._max_bytes:
                break
            db.execute("DELETE FROM records WHERE key = ?", (key,))
            evicted, freed = evicted + 1, freed + length
        return evicted, freed

    @contextmanager
    def _transaction(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """All of what is done inside, or nothing; on the disk at the end, where ``durable``."""
        with self._lock:
            try:
                if self._db is None:
                    self._db = self._open()
                self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except (sqlite3.Error, OSError) as error:
                self._disconnect()  # rolls back
                if type(error) is sqlite3.DatabaseError:  # the file is damaged; its subclasses say: locked, full …
                    self._move_away()
                raise SpoolError(
                    f"{self._path} cannot be used: {error}",
                    remedy="waiting records stay in memory; free space, or name a folder that can be written",
                ) from None

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA journal_size_limit = 1048576")
            # AUTOINCREMENT: a key is never used again, so that _done stays true.
            db.execute("CREATE TABLE IF NOT EXISTS records (key INTEGER PRIMARY KEY AUTOINCREMENT, body BLOB NOT NULL)")
            last = db.execute("SELECT max(seq) FROM sqlite_sequence").fetchone()[0] or 0
            self._done = self._done if self._done <= last else 0  # another file is there now
            self._count, self._bytes = db.execute(
                "SELECT count(*), coalesce(sum(length(body)), 0) FROM records WHERE key > ?", (self._done,)
            ).fetchone()
        except BaseException:
            db.close()
            raise
        return db

    def _move_away(self) -> None:
        """A damaged file makes room for a new one, so that delivery goes on; a person may look into it."""
        for suffix in ("", "-wal", "-shm"):
            with suppress(OSError):
                Path(f"{self._path}{suffix}").replace(f"{self._path}.damaged{suffix}")
        self._count = self._bytes = 0

    def _disconnect(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            with suppress(sqlite3.Error):
                db.close()
