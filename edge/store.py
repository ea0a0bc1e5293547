"""The embedded store: events, corrections and health in one SQLite file, opened, brought up to date and kept small."""

from __future__ import annotations

import math
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edge.errors import StoreBusyError, StoreError
from edge.files import state_folder
from edge.settings import require

APPLICATION_ID = 0x45444745  # "EDGE": in the file's header, so that another program's database is not taken for ours
LEAST_BYTES = 4 << 20
BATCH = 100  # rows that one call of `retain` deletes at most, of each table
DAY = 86_400.0  # seconds

# MIGRATIONS[n] makes version n + 1 of version n; PRAGMA user_version holds the version. Never change one that is out.
MIGRATIONS = (
    """
    CREATE TABLE events (
        seq INTEGER PRIMARY KEY,  -- one count for events and health, in the order of storing, whatever the clock does
        id TEXT NOT NULL UNIQUE,
        source TEXT NOT NULL,
        label TEXT NOT NULL,
        classes TEXT NOT NULL,  -- JSON
        onset REAL NOT NULL,  -- seconds of stream
        offset REAL,  -- null: it goes on, or its end never came
        onset_time REAL NOT NULL,  -- seconds since the Unix epoch
        offset_time REAL,
        peak REAL NOT NULL,
        mean REAL NOT NULL,
        level_dbfs REAL,
        model TEXT NOT NULL,
        latency_ms REAL NOT NULL,
        clip TEXT,  -- file of its sound
        clip_pruned_at REAL  -- when that file was deleted, seconds since the Unix epoch
    );
    CREATE INDEX events_onset_time ON events (onset_time);
    CREATE INDEX events_clip ON events (clip) WHERE clip IS NOT NULL;
    CREATE TABLE corrections (
        seq INTEGER PRIMARY KEY,  -- the last one of an event holds
        event_id TEXT NOT NULL REFERENCES events (id) ON DELETE CASCADE,
        label TEXT,  -- null: it was nothing
        time REAL NOT NULL,  -- seconds since the Unix epoch
        note TEXT NOT NULL
    );
    CREATE INDEX corrections_event ON corrections (event_id);
    CREATE TABLE health (
        seq INTEGER PRIMARY KEY,
        type TEXT NOT NULL,  -- start, status, error or end
        source TEXT NOT NULL,
        time REAL NOT NULL,  -- seconds since the Unix epoch
        record TEXT NOT NULL  -- JSON
    );
    CREATE INDEX health_time ON health (time);
    """,
)


@dataclass(frozen=True)
class StoreConfig:
    """Where events are kept, how long, and in how much space."""

    path: str = ""  # of the database; "": default_path()
    max_days: float = 90.0  # age of an event, from its beginning, at which it may be deleted
    max_bytes: int = 200_000_000  # of the database with its write-ahead log; the oldest go first
    busy_seconds: float = 5.0  # how long to wait for another program that has locked it

    def __post_init__(self) -> None:
        require(0 < self.max_days <= 36_500, "max_days", self.max_days, "above 0, at most 36500")
        require(self.max_bytes >= LEAST_BYTES, "max_bytes", self.max_bytes, f"{LEAST_BYTES} or more")
        require(0 <= self.busy_seconds <= 60, "busy_seconds", self.busy_seconds, "0 to 60")

    @property
    def file(self) -> Path:
        """The database. Raises StoreError without a home folder."""
        return Path(self.path) if self.path else default_path()

    @property
    def wal_bytes(self) -> int:
        """What the write-ahead log may take of ``max_bytes``; the rest is the database's."""
        return min(4 << 20, self.max_bytes // 4)


def default_path() -> Path:
    """The database of this user's device. Raises StoreError without a home folder."""
    folder = state_folder()
    if folder is None:
        raise StoreError("there is no home folder to keep events in", remedy="name a database: --db FILE")
    return folder / "events.db"


def open_to_write(path: Path, *, busy_seconds: float = 5.0, create: bool = True) -> sqlite3.Connection:
    """The database, created where ``create`` allows it, brought up to this version; usable from any one thread a time.

    Raises:
        StoreError: it is not there, not ours (but an empty file may become one where ``create`` allows it), of a later
            version, damaged, locked, or may not be written.
    """
    with explaining(path):
        _prepare(path, os.O_RDWR | (os.O_CREAT if create else 0))
        db = sqlite3.connect(path, timeout=busy_seconds, isolation_level=None, check_same_thread=False)
        try:
            _check(db, path, or_empty=create)
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # of a new file; the others have it
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("PRAGMA foreign_keys = ON")
            _migrate(db)
        except BaseException:
            db.close()
            raise
    return db


def open_to_read(path: Path, *, busy_seconds: float = 5.0) -> sqlite3.Connection:
    """The database as it is, nothing of which can be changed; one of a former version is brought up to date first.

    Raises:
        StoreError: as :func:`open_to_write`.
    """
    with explaining(path):
        _prepare(path, os.O_RDONLY)
        beside = [path.with_name(path.name + end) for end in ("-wal", "-shm")]
        # A reader takes part in the log, and creates it; where it may not, and nobody writes, the file is all there is.
        alone = not os.access(path.parent, os.W_OK) and not any(file.exists() for file in beside)
        address = path.absolute().as_uri() + ("?immutable=1" if alone else "?mode=ro")
        db = sqlite3.connect(address, uri=True, timeout=busy_seconds, isolation_level=None)
        try:
            version = _check(db, path)
        except BaseException:
            db.close()
            raise
    if version == len(MIGRATIONS):
        return db
    db.close()
    open_to_write(path, busy_seconds=busy_seconds, create=False).close()
    return open_to_read(path, busy_seconds=busy_seconds)


def _prepare(path: Path, flags: int) -> None:
    """Whether the file can be opened; a new one is for its owner alone: it says what happens in a home."""
    try:
        if flags & os.O_CREAT:
            path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise StoreError(f"{path} is a folder", remedy="name a file in it")
        os.close(os.open(path, flags, 0o600))
    except FileNotFoundError:
        raise StoreError(
            f"there is no database {path}",
            remedy="edge-listen --db FILE writes one; name it with --db or EDGE_LISTEN_DB",
        ) from None
    except OSError as error:
        raise StoreError(
            f"{path} cannot be opened: {error.strerror}", remedy="name a file that you may read and write"
        ) from None


def _check(db: sqlite3.Connection, path: Path, *, or_empty: bool = False) -> int:
    """The version of the database, 0 of an empty file. Raises StoreError when it is not ours, or of a later version."""
    version, application = _number(db, "user_version"), _number(db, "application_id")
    if application != APPLICATION_ID and not (or_empty and _number(db, "page_count") == 0):
        what = "is the database of another program" if _number(db, "page_count") else "is empty, and no database"
        raise StoreError(f"{path} {what}", remedy="name another file")
    if version > len(MIGRATIONS):
        what = f"{path} has version {version}; this edge-listen reads up to {len(MIGRATIONS)}"
        raise StoreError(what, remedy="upgrade edge-listen, or name another file")
    return version


def _migrate(db: sqlite3.Connection) -> None:
    """All steps that are missing, or none: a power cut leaves the former version."""
    if _number(db, "user_version") == len(MIGRATIONS):
        return
    with transaction(db):
        version = _number(db, "user_version")  # another program may have been first
        for script in MIGRATIONS[version:]:
            for statement in _statements(script):
                db.execute(statement)
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


def _statements(script: str) -> Iterator[str]:
    """One by one, since executescript() would commit what went before."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _number(db: sqlite3.Connection, pragma: str) -> int:
    return int(db.execute(f"PRAGMA {pragma}").fetchone()[0])


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All of it or nothing; the lock is taken at once, so that it cannot fail half way for that."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # SQLite has rolled back by itself what a full disk has stopped
            db.execute("ROLLBACK")
        raise


def bytes_of(path: Path, *, log: bool = True) -> int:
    """What the database takes on the disk, with its log or without."""
    total = 0
    for end in ("", "-wal") if log else ("",):
        try:
            total += path.with_name(path.name + end).stat().st_size
        except FileNotFoundError:
            continue
    return total


def limit_pages(db: sqlite3.Connection, config: StoreConfig) -> None:
    """Let SQLite itself hold the bound: the file never grows beyond it, the log is written back in time."""
    page = _number(db, "page_size")
    db.execute(f"PRAGMA max_page_count = {(config.max_bytes - config.wal_bytes) // page}")
    db.execute(f"PRAGMA wal_autocheckpoint = {config.wal_bytes // 4 // page}")
    db.execute(f"PRAGMA journal_size_limit = {config.wal_bytes // 2}")


def retain(db: sqlite3.Connection, config: StoreConfig, now: float) -> int:
    """Delete what is too old or too much, the oldest first, a batch at most; how many rows went. In a transaction.

    Age is by the clock, ``now`` in seconds since the Unix epoch; space is by the order of storing.
    """
    gone = 0
    for table, column in (("events", "onset_time"), ("health", "time")):
        gone += db.execute(
            f"DELETE FROM {table} WHERE seq IN (SELECT seq FROM {table} WHERE {column} < ? ORDER BY {column} LIMIT ?)",  # noqa: S608
            (now - config.max_days * DAY, BATCH),
        ).rowcount
    if gone or not _crowded(db, config):
        return gone
    last = db.execute(
        "SELECT max(seq) FROM (SELECT seq FROM (SELECT * FROM (SELECT seq FROM events ORDER BY seq LIMIT :n)"
        " UNION ALL SELECT * FROM (SELECT seq FROM health ORDER BY seq LIMIT :n)) ORDER BY seq LIMIT :n)",
        {"n": BATCH},
    ).fetchone()[0]
    return sum(db.execute(f"DELETE FROM {table} WHERE seq <= ?", (last,)).rowcount for table in ("events", "health"))  # noqa: S608


def _crowded(db: sqlite3.Connection, config: StoreConfig) -> bool:
    """Whether less than a twentieth of the file's share is free."""
    used = (_number(db, "page_count") - _number(db, "freelist_count")) * _number(db, "page_size")
    return used > 0.95 * (config.max_bytes - config.wal_bytes)


def shrink(db: sqlite3.Connection, config: StoreConfig) -> None:
    """Give back a batch of free pages where the file is larger than its share: the bound was lowered."""
    excess = _number(db, "page_count") - math.floor((config.max_bytes - config.wal_bytes) / _number(db, "page_size"))
    if excess > 0:
        db.executescript(f"PRAGMA incremental_vacuum({min(excess, BATCH)})")  # execute() takes its first step only


def explanation(error: sqlite3.Error, path: Path) -> tuple[str, str, bool]:
    """What happened to ``path``, the remedy, and whether the same may succeed later."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    known = {
        sqlite3.SQLITE_BUSY: (f"{path} is locked by another program", "end it, or wait", True),
        sqlite3.SQLITE_LOCKED: (f"{path} is locked by another program", "end it, or wait", True),
        sqlite3.SQLITE_FULL: (f"{path} cannot grow: the disk is full, or its bound reached", "free some space", True),
        sqlite3.SQLITE_READONLY: (f"{path} may not be written", "name a file that you may read and write", True),
        sqlite3.SQLITE_CANTOPEN: (f"{path} cannot be opened", "name a file in a folder that you may write to", True),
        sqlite3.SQLITE_PERM: (f"{path} may not be opened", "name a file that you may read and write", True),
        sqlite3.SQLITE_IOERR: (f"{path} cannot be read or written: {error}", "check the disk and its free space", True),
        sqlite3.SQLITE_NOTADB: (f"{path} is not a database", "name another file", False),
        sqlite3.SQLITE_CORRUPT: (
            f"{path} is damaged",
            "move it away; sqlite3 FILE .recover may save what is in it",
            False,
        ),
    }
    return known.get(code, (f"{path}: {error}", "report it, with this line", False))


@contextmanager
def explaining(path: Path) -> Iterator[None]:
    """Within, what SQLite raises becomes a StoreError, StoreBusyError where the same may succeed later."""
    try:
        yield
    except sqlite3.Error as error:
        what, remedy, _ = explanation(error, path)
        busy = getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
        raise (StoreBusyError if busy else StoreError)(what, remedy=remedy) from None
