"""What people ask of the store, and change in it: events found, corrected, counted and erased."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from edge.clip_folder import clips_in, delete
from edge.errors import StoreError
from edge.store import explaining, explanation, transaction

NOTHING = "nothing"  # the correction of an event that was none of the classes
LEAST_ID = 4  # characters of an id that may stand for it


@dataclass(frozen=True)
class Filter:
    """Which events; None does not restrict."""

    since: float | None = None  # seconds since the Unix epoch; of the onset, included
    until: float | None = None  # seconds since the Unix epoch; of the onset, excluded
    label: str | None = None  # as it was reported or corrected
    source: str | None = None  # a part of its name, in small or capital letters
    min_score: float | None = None  # least peak

    def where(self) -> tuple[str, dict[str, Any]]:
        """The condition in SQL, on ``e`` (events) and ``c`` (their last corrections), and its values."""
        conditions = {
            "since": "e.onset_time >= :since",
            "until": "e.onset_time < :until",
            "label": "(e.label = :label OR c.label = :label)",
            "source": "instr(lower(e.source), lower(:source)) > 0",
            "min_score": "e.peak >= :min_score",
        }
        values = {name: getattr(self, name) for name in conditions if getattr(self, name) is not None}
        return " AND ".join(conditions[name] for name in values) or "TRUE", values


@dataclass(frozen=True)
class StoredEvent:
    """One event of the store, and what a person has said of it."""

    id: str
    source: str
    label: str  # as it was reported
    corrected: str | None  # what it really was, NOTHING included; None: nobody has said
    note: str | None  # with the correction
    onset_time: float  # seconds since the Unix epoch
    offset_time: float | None  # seconds since the Unix epoch; None: it goes on, or its end never came
    onset: float  # seconds of stream
    offset: float | None  # seconds of stream
    peak: float  # highest score
    mean: float  # of its scores
    level_dbfs: float | None  # highest level, 0 dB is full scale; None for all zeros
    model: str
    clip: str | None  # file of its sound
    clip_pruned_at: float | None  # when that file was deleted, seconds since the Unix epoch
    classes: tuple[str, ...]  # the model's classes that were heard in it

    @property
    def duration(self) -> float | None:
        """Seconds; None without an end."""
        return None if self.offset is None else self.offset - self.onset

    @property
    def is_really(self) -> str:
        """The label that holds: the correction, else what was reported."""
        return self.corrected or self.label


CORRECTED = "e.id = c.event_id AND c.seq = (SELECT max(seq) FROM corrections WHERE event_id = e.id)"
COLUMNS = (
    "e.id, e.source, e.label, CASE WHEN c.seq IS NULL THEN NULL ELSE ifnull(c.label, :nothing) END, c.note,"
    " e.onset_time, e.offset_time, e.onset, e.offset, e.peak, e.mean, e.level_dbfs, e.model, e.clip,"
    " e.clip_pruned_at, e.classes"
)


NAMES = tuple(field.name for field in fields(StoredEvent))[:-1]  # of COLUMNS; the last one is JSON


def find(db: sqlite3.Connection, wanted: Filter, limit: int | None = None) -> Iterator[StoredEvent]:
    """The events in the order of their onsets; with ``limit`` the latest of them. One by one, as they are read."""
    where, values = wanted.where()
    rows = db.execute(
        f"SELECT * FROM (SELECT {COLUMNS}, e.seq AS seq FROM events e LEFT JOIN corrections c ON {CORRECTED}"  # noqa: S608
        f" WHERE {where} ORDER BY e.onset_time DESC, e.seq DESC LIMIT :limit) ORDER BY onset_time, seq",
        values | {"nothing": NOTHING, "limit": -1 if limit is None else limit},
    )
    for row in rows:
        *values, classes, _ = row
        yield StoredEvent(**dict(zip(NAMES, values)), classes=tuple(json.loads(classes)))


def correct(db: sqlite3.Connection, event_id: str, label: str, note: str = "") -> str:
    """Note what the event really was, and return its whole id, of which ``event_id`` may be the beginning.

    Raises:
        StoreError: no event, or more than one, has that id.
    """
    found = [
        row[0]
        for row in db.execute("SELECT id FROM events WHERE substr(id, 1, ?) = ? LIMIT 3", (len(event_id), event_id))
    ]
    if len(event_id) < LEAST_ID or len(found) != 1:
        what = "no event" if not found else "more than one event" if len(found) > 1 else "a part of an id"
        raise StoreError(
            f"{event_id!r} is the id of {what}",
            remedy=f"edge-events list shows ids; give {LEAST_ID} characters or more",
        )
    with transaction(db):
        db.execute(
            "INSERT INTO corrections (event_id, label, time, note) VALUES (?, ?, ?, ?)",
            (found[0], None if label == NOTHING else label, time.time(), note),
        )
    return str(found[0])


@dataclass(frozen=True)
class LabelStats:
    """What was reported as one label."""

    label: str
    events: int
    mean_score: float  # mean of the peaks
    hours: float  # together, of those that have ended
    wrong: int  # of which a person has said that they were something else, or nothing


def count(db: sqlite3.Connection, wanted: Filter) -> list[LabelStats]:
    """By label, the most frequent first."""
    where, values = wanted.where()
    rows = db.execute(
        "SELECT e.label, count(*), avg(e.peak), total(e.offset - e.onset) / 3600,"  # noqa: S608
        " count(CASE WHEN c.seq IS NOT NULL AND c.label IS NOT e.label THEN 1 END)"
        f" FROM events e LEFT JOIN corrections c ON {CORRECTED} WHERE {where} GROUP BY e.label ORDER BY 2 DESC, 1",
        values,
    )
    return [LabelStats(*row) for row in rows]


def hours_of(events: Iterator[StoredEvent], day: date) -> dict[str, list[int]]:
    """Label → events that went on in each of the 24 hours of the local ``day``; without what was nothing."""
    counts: dict[str, list[int]] = {}
    for event in events:
        if event.is_really == NOTHING:
            continue
        row = counts.setdefault(event.is_really, [0] * 24)
        for hour in _hours(event.onset_time, event.offset_time or event.onset_time, day):
            row[hour] += 1
    return {label: row for label, row in sorted(counts.items()) if any(row)}


def _hours(onset: float, offset: float, day: date) -> set[int]:
    """The hours of the local day that a time touches."""
    begin, end = day_bounds(day)
    at, last, hours = max(onset, begin), min(offset, end - 0.001), set[int]()
    while at < last:
        hours.add(datetime.fromtimestamp(at).hour)
        at += 1800  # whole zones are off by half hours at most… and a quarter, which the last one covers
    if begin <= last:
        hours.add(datetime.fromtimestamp(last).hour)
    return hours


def day_bounds(day: date) -> tuple[float, float]:
    """Its beginning and its end by the local clock, seconds since the Unix epoch."""
    begin = datetime(day.year, day.month, day.day)
    return begin.timestamp(), (begin + timedelta(days=1)).timestamp()


def erase(db: sqlite3.Connection, path: Path, wanted: Filter, *, everything: bool = False) -> tuple[int, int]:
    """Delete these events with their corrections and clips (and, of all labels, the health of that time); the number of
    events and of clips. What is deleted is overwritten, in the file and in its log.

    Raises:
        StoreError: the store is locked; or the rows are gone, but another program keeps the log.
    """
    where, values = Filter().where() if everything else wanted.where()
    db.execute("PRAGMA secure_delete = ON")
    chosen = f"SELECT e.id FROM events e LEFT JOIN corrections c ON {CORRECTED} WHERE {where}"  # noqa: S608
    with transaction(db):
        clips = db.execute(
            f"SELECT clip FROM events WHERE clip IS NOT NULL AND clip_pruned_at IS NULL AND id IN ({chosen})",  # noqa: S608
            values,
        ).fetchall()
        events = db.execute(f"DELETE FROM events WHERE id IN ({chosen})", values).rowcount  # noqa: S608
        if everything or (wanted.until is not None and wanted == Filter(until=wanted.until)):
            db.execute("DELETE FROM health WHERE :all OR time < :until", {"all": everything, "until": wanted.until})
        # What a database names that is no clip is left alone.
        gone = sum(_delete(Path(clip)) for (clip,) in clips if clip.endswith(".flac"))
    _rewrite(db, path)
    return events, gone


def erase_clips(folder: Path, before: float | None = None) -> int:
    """Delete the clips of a folder, those of ``before`` a time alone, also half written ones; their number. Raises
    StoreError.
    """
    found = [*clips_in(folder), *clips_in(folder, half_written=True)]
    return sum(_delete(clip.path) for clip in found if before is None or clip.time < before)


def _delete(clip: Path) -> bool:
    """Whether there was a clip, and is none any more."""
    try:
        return delete(clip)
    except OSError as error:
        raise StoreError(f"{clip} cannot be deleted: {error.strerror}", remedy="run as the user who owns it") from None


def _rewrite(db: sqlite3.Connection, path: Path) -> None:
    """The file without what was deleted, and an empty log."""
    failure = None
    try:
        db.execute("VACUUM")
    except sqlite3.OperationalError as error:  # it takes as much space again
        failure = error
    with explaining(path):
        kept = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    if kept:
        raise StoreError(f"erased, but another program still reads the log of {path}", remedy="end it, and erase again")
    if failure:
        what, remedy, _ = explanation(failure, path)
        raise StoreError(f"erased, but not made smaller: {what}", remedy=remedy)
