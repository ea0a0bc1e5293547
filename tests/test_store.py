"""The embedded store: what is kept, how long, and through which faults."""

import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
import uuid
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from edge import store
from edge.config import build
from edge.delivery import Delivery
from edge.errors import EdgeError, SinkError, StoreError
from edge.history import Filter, find
from edge.records import rfc3339
from edge.sinks.sqlite import SqliteStore
from edge.store import StoreConfig, bytes_of, open_to_read, open_to_write
from tests.conftest import ROOT
from tests.receivers import wait_until

NOON = 1_760_000_000.0  # some time in 2025


def event(phase="end", *, name=None, at=NOON, label="dog", source="mic", peak=0.9, seconds=1.5, **more):
    """An event record, as edge.records.event_record makes it."""
    ended = phase == "end"
    return {
        "type": "event", "source": source, "time": rfc3339(at), "id": name or str(uuid.uuid4()), "phase": phase,
        "label": label, "classes": [label], "onset": 10.0, "offset": 10.0 + seconds if ended else None,
        "duration": seconds if ended else None, "onset_time": rfc3339(at),
        "offset_time": rfc3339(at + seconds) if ended else None, "peak": peak, "mean": 0.8, "level_dbfs": -20.5,
        "model": "edge-listen int8 1234abcd", "latency_ms": 12.0, **more,
    }  # fmt: skip


def status(at=NOON, source="mic"):
    return {
        "type": "status", "source": source, "time": rfc3339(at), "silent": False, "load": 0.1, "level_dbfs": -40.0,
        "windows": 1, "overflows": 0, "lost_samples": 0,
    }  # fmt: skip


@pytest.fixture
def path():
    """In memory where that is possible: what a disk costs is not what is tested."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder) / "state" / "events.db"


def config(path, **more):
    return StoreConfig(path=str(path), **{"busy_seconds": 0.1, "max_days": 36_500.0, **more})


def events(path):
    with closing(open_to_read(path)) as db:
        return list(find(db, Filter()))


def rows(path, sql):
    with closing(open_to_read(path)) as db:
        return db.execute(sql).fetchall()


def test_the_beginning_is_there_at_once_and_the_end_completes_it(path):
    sink = SqliteStore(config(path))
    sink.write(event("begin", name="a" * 36, peak=0.6))
    (begun,) = events(path)  # another connection: it is committed
    assert (begun.label, begun.peak, begun.offset, begun.offset_time, begun.duration) == ("dog", 0.6, None, None, None)
    sink.write(event("end", name="a" * 36, peak=0.9, clip="/clips/a.flac"))
    (ended,) = events(path)
    assert (ended.id, ended.peak, ended.duration, ended.clip) == ("a" * 36, 0.9, 1.5, "/clips/a.flac")
    assert ended.onset_time == NOON
    assert ended.offset_time == NOON + 1.5
    assert ended.classes == ("dog",)
    sink.close()


def test_written_twice_or_late_nothing_changes(path):
    sink = SqliteStore(config(path))
    sink.write(event("end", name="x"))  # its beginning was lost on the way
    for record in (event("end", name="x"), event("begin", name="x", peak=0.1)):
        sink.write(record)
    (only,) = events(path)
    assert (only.peak, only.duration) == (0.9, 1.5)
    sink.close()


def test_health_is_thinned_and_committed_once_a_minute(path):
    now = 0.0
    sink = SqliteStore(config(path), monotonic=lambda: now)
    count = "SELECT type, count(*) FROM health GROUP BY type ORDER BY type"
    sink.write(status(NOON) | {"type": "start"})
    assert rows(path, count) == [("start", 1)]  # the first one: nothing was committed in the minute before
    for second in range(600):
        now = float(second)
        sink.write(status(NOON + second))
        sink.write({"type": "window", "source": "mic", "time": rfc3339(NOON)})  # passed over
    assert rows(path, count)[1] == ("status", 10)
    sink.write(status(NOON + 600, source="other"))
    assert rows(path, count)[1] == ("status", 10)  # the last commit was a minute less one second ago
    sink.write(event())
    assert rows(path, count)[1] == ("status", 11)  # an event takes along what waits
    sink.write(status(NOON) | {"type": "error", "code": 4})
    sink.close()
    assert rows(path, count) == [("error", 1), ("start", 1), ("status", 11)]
    (record,) = rows(path, "SELECT record FROM health WHERE type = 'error'")[0]
    assert json.loads(record)["code"] == 4


def test_windows_push_no_event_out_of_its_queue(path):
    """While another program has locked the database, they would, in minutes."""
    sink = SqliteStore(config(path))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        delivery = Delivery(sink, "store", capacity=10, first_wait=0.01, longest_wait=0.05)
        for record in (event(), *[{"type": "window", "source": "mic", "time": rfc3339(NOON)}] * 20):
            delivery.write(record)
    wait_until(lambda: events(path))
    delivery.close()
    assert delivery.stats().dropped == 0


def test_one_that_is_locked_at_the_start_is_waited_for(path, tmp_path):
    SqliteStore(config(path)).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        sink = SqliteStore(config(path, busy_seconds=0.05))
        with pytest.raises(SinkError, match="locked by another program") as caught:
            sink.write(event(name="a"))
        assert caught.value.retry
        SqliteStore(config(path, busy_seconds=0.05)).close()  # it has nothing to lose
    sink.write(event(name="a"))
    sink.close()
    assert [e.id for e in events(path)] == ["a"]
    with pytest.raises(StoreError, match="is a folder"):  # what waiting does not mend ends it at once
        SqliteStore(config(tmp_path))


def test_each_change_of_health_is_kept(path):
    sink = SqliteStore(config(path))
    for second, state in enumerate(("starting", "listening", "lost")):
        at = rfc3339(NOON + second)
        sink.write({"type": "health", "source": "mic", "time": at, "state": state, "reasons": [], "message": ""})
    sink.close()
    kept = rows(path, "SELECT record FROM health WHERE type = 'health' ORDER BY seq")
    assert [json.loads(record)["state"] for (record,) in kept] == ["starting", "listening", "lost"]


def test_a_clock_set_back_loses_nothing(path):
    sink = SqliteStore(config(path))
    for hours in (0, -1, -48, 2):
        sink.write(event(at=NOON + hours * 3600, label=str(hours)))
        sink.write(status(NOON + hours * 3600))
    sink.close()
    assert [e.label for e in events(path)] == ["-48", "-1", "0", "2"]
    assert rows(path, "SELECT count(*) FROM health") == [(4,)]


def test_what_is_too_old_goes_the_oldest_first_and_a_batch_at_a_time(path):
    sink = SqliteStore(config(path, max_days=1.0), clock=lambda: NOON)
    n = store.BATCH
    for i in range(n + n // 2):
        sink.write(event(at=NOON, name=f"kept {i}"))
    with closing(open_to_write(path)) as db:
        db.execute("UPDATE events SET onset_time = onset_time - 86401 + seq / 1000.0 WHERE seq <= ?", (n + 10,))
    sink.write(event(at=NOON))
    assert rows(path, "SELECT count(*), min(seq) FROM events") == [(n // 2 + 1, n + 1)]
    sink.write(event(at=NOON))
    assert rows(path, "SELECT count(*), min(seq) FROM events") == [(n // 2 + 2 - 10, n + 11)]
    sink.close()


def test_the_correction_goes_with_its_event(path):
    sink = SqliteStore(config(path, max_days=1.0), clock=lambda: NOON)
    sink.write(event(name="a", at=NOON - 86_000))
    with closing(open_to_write(path)) as db:
        db.execute("INSERT INTO corrections (event_id, label, time, note) VALUES ('a', 'cat', 0, '')")
    sink._clock = lambda: NOON + 86_400
    sink.write(event(at=NOON + 86_400))
    assert rows(path, "SELECT count(*) FROM corrections") == [(0,)]
    sink.close()


def fill(path, n, most=4 << 20, start=0, **more):
    """Write large events; the greatest size that the files ever had."""
    sink = SqliteStore(config(path, max_bytes=most))
    greatest = 0
    for i in range(start, start + n):
        sink.write(event(name=f"{uuid.uuid4()}", at=NOON + i, label=f"{i}", model="m" * 6000, **more))
        greatest = max(greatest, bytes_of(path))
    sink.close()
    return greatest


def test_the_files_never_exceed_their_bound(path):
    greatest = fill(path, 1500)
    assert 2 << 20 < greatest <= 4 << 20
    kept = [int(e.label) for e in events(path)]
    assert kept == list(range(kept[0], 1500))  # the newest, without a gap
    assert 200 < len(kept) < 700
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]


def test_not_even_one_event_exceeds_the_bound(path):
    sink = SqliteStore(config(path, max_bytes=4 << 20))
    sink.write(event(name="small"))
    with pytest.raises(SinkError, match="its bound reached"):
        sink.write(event(model="m" * (5 << 20)))
    assert bytes_of(path) <= 4 << 20
    sink.close()
    assert [e.id for e in events(path)] == ["small"]


def test_size_takes_the_first_stored_whatever_their_clock_says(path):
    fill(path, 300)
    sink = SqliteStore(config(path, max_bytes=4 << 20))
    sink.write(event(name="from 1970", at=1000.0))
    sink.close()
    fill(path, 200, start=1000)
    assert events(path)[0].id == "from 1970"


def test_a_lowered_bound_is_reached_step_by_step(path):
    fill(path, 1500, most=16 << 20)
    before = bytes_of(path)
    assert before > 8 << 20
    fill(path, 100)
    assert bytes_of(path) <= 4 << 20


@pytest.mark.slow
def test_a_busy_day_fits(path):
    """An event of two commits every ten seconds, a status every minute."""
    now, greatest = 0.0, 0
    sink = SqliteStore(config(path, max_bytes=4 << 20), monotonic=lambda: now)
    for ten in range(8640):
        now = 10.0 * ten
        one = str(uuid.uuid4())
        sink.write(event("begin", name=one, at=NOON + now))
        sink.write(event("end", name=one, at=NOON + now))
        if ten % 6 == 0:
            sink.write(status(NOON + now))
        greatest = max(greatest, bytes_of(path))
    sink.close()
    assert greatest <= 4 << 20
    assert rows(path, "SELECT count(*) FROM health") == [(1440,)]
    assert rows(path, "SELECT count(*) FROM events WHERE offset IS NULL") == [(0,)]


WRITER = """
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from edge.sinks.sqlite import SqliteStore
from tests.test_store import config, event
sink = SqliteStore(config(Path(sys.argv[1]), busy_seconds=5.0))
for i in range(100_000):
    sink.write(event("begin" if i % 2 else "end", name=f"{sys.argv[2]}-{i}"))
    print(i, flush=True)
"""


@pytest.mark.slow
def test_kill_nine_loses_nothing_that_was_committed(path):
    for life in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(life)], stdout=subprocess.PIPE, cwd=ROOT, text=True
        )
        with process:
            said = [process.stdout.readline() for _ in range(100 + 37 * life)]
            process.send_signal(signal.SIGKILL)
            said += process.stdout.readlines()
        committed = {f"{life}-{i}" for i in range(len([line for line in said if line.endswith("\n")]))}
        assert len(committed) >= 100
        assert rows(path, "PRAGMA integrity_check") == [("ok",)]
        assert committed <= {e.id for e in events(path)}
    sink = SqliteStore(config(path))  # and it goes on
    sink.write(event(name="after"))
    sink.close()
    assert "after" in {e.id for e in events(path)}


def test_locked_by_another_program_is_told_and_may_be_tried_again(path):
    sink = SqliteStore(config(path))
    sink.write(event(name="before"))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for record in (event(name="refused"), event(name="refused")):
            with pytest.raises(SinkError, match="locked") as caught:
                sink.write(record)
            assert caught.value.retry
        assert [e.id for e in events(path)] == ["before"]  # readers are not locked out
    sink.write(event(name="refused"))
    sink.close()
    assert [e.id for e in events(path)] == ["before", "refused"]


def test_it_waits_for_a_short_lock(path):
    sink = SqliteStore(config(path, busy_seconds=30.0))
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.2, lambda: other.execute("COMMIT"))
    release.start()
    sink.write(event(name="patient"))
    release.join()
    other.close()
    sink.close()
    assert [e.id for e in events(path)] == ["patient"]


def test_a_reader_that_does_not_end_cannot_make_it_grow_beyond_its_bound(path):
    sink = SqliteStore(config(path, max_bytes=4 << 20))
    sink.write(event())
    refused = 0
    with closing(open_to_read(path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM events").fetchall()
        for i in range(700):
            try:
                sink.write(event(at=NOON + i, model="m" * 6000))
            except SinkError as error:
                refused += error.retry
                if refused == 3:
                    break
            assert bytes_of(path) <= 4 << 20
    assert refused == 3
    sink.write(event(name="free again"))
    sink.close()
    assert "free again" in {e.id for e in events(path)}


def test_a_deleted_database_is_begun_again(path):
    sink = SqliteStore(config(path))
    sink.write(event(name="gone"))
    for file in path.parent.iterdir():
        file.unlink()
    sink.write(event(name="new"))
    sink.close()
    assert [e.id for e in events(path)] == ["new"]


def test_a_folder_that_is_gone_may_come_back(path):
    sink = SqliteStore(config(path))
    sink.write(event(name="gone"))
    away = path.parent.rename(path.parent.with_name("away"))
    path.parent.touch()  # a file, where the folder was
    with pytest.raises(SinkError, match="cannot be opened") as caught:
        sink.write(event(name="again"))
    assert caught.value.retry
    path.parent.unlink()
    away.rename(path.parent)
    sink.write(event(name="again"))
    sink.close()
    assert [e.id for e in events(path)] == ["gone", "again"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of two megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True).returncode
    ):
        pytest.skip("only root may mount a small disk")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_is_told_and_what_is_stored_stays(small_disk):
    path = small_disk / "events.db"
    sink = SqliteStore(config(path))
    ballast, kept = small_disk / "ballast", []
    ballast.write_bytes(bytes(1 << 20))

    def write_on():
        while True:
            sink.write(event(name=f"{len(kept)}", at=NOON + len(kept), model="m" * 3000))
            kept.append(f"{len(kept)}")

    with pytest.raises(SinkError, match="disk is full") as caught:
        write_on()
    assert caught.value.retry
    assert len(kept) > 20
    assert [e.id for e in events(path)] == kept
    ballast.unlink()
    sink.write(event(name="again", at=NOON + 5000))
    sink.close()
    assert [e.id for e in events(path)] == [*kept, "again"]
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]


def test_a_read_only_folder(small_disk):
    path = small_disk / "events.db"
    SqliteStore(config(path)).close()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StoreError, match="Read-only file system"):
        SqliteStore(config(path))
    assert events(path) == []  # reading needs no more than the file
    with pytest.raises(StoreError, match="Read-only file system"):
        SqliteStore(config(small_disk / "other" / "events.db"))


def test_a_disk_that_becomes_read_only_may_be_tried_again(small_disk):
    path = small_disk / "events.db"
    sink = SqliteStore(config(path))
    sink.write(event(name="before"))
    sink._db.execute("PRAGMA query_only = ON")
    with pytest.raises(SinkError, match="may not be written") as caught:
        sink.write(event(name="after"))
    assert caught.value.retry
    sink._db.execute("PRAGMA query_only = OFF")
    sink.write(event(name="after"))
    sink.close()
    assert [e.id for e in events(path)] == ["before", "after"]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path.write_bytes(b"not a database, but long enough to be looked at" * 100), "is not a database"),
        (lambda path: sqlite3.connect(path).execute("CREATE TABLE t (x)").connection.close(), "another program"),
        (lambda path: path.mkdir(), "is a folder"),
    ],
    ids=["text", "another program", "folder"],
)
def test_what_is_not_ours_is_refused_and_left_alone(tmp_path, make, says):
    path = tmp_path / "x.db"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    for opened in (lambda: SqliteStore(config(path)), lambda: open_to_read(path)):
        with pytest.raises(StoreError, match=says) as caught:
            opened()
        assert caught.value.exit_code == 8
        assert "\n" not in str(caught.value)
    assert before is None or path.read_bytes() == before


def test_an_empty_file_becomes_a_database_only_where_one_is_to_be_written(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    for opened in (lambda: open_to_read(path), lambda: open_to_write(path, create=False)):
        with pytest.raises(StoreError, match=r"is empty, and no database \(name another file\)"):
            opened()
        assert path.stat().st_size == 0
        assert list(path.parent.iterdir()) == [path]
    SqliteStore(config(path)).close()
    assert list(events(path)) == []


def test_a_later_version_is_refused(path):
    SqliteStore(config(path)).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    for opened in (lambda: SqliteStore(config(path)), lambda: open_to_read(path)):
        with pytest.raises(StoreError, match=r"version 99; .* reads up to 1 \(upgrade"):
            opened()


def test_a_former_version_is_brought_up_to_date_with_its_rows(path, monkeypatch):
    sink = SqliteStore(config(path))
    sink.write(event(name="old"))
    sink.close()
    step = "ALTER TABLE health ADD COLUMN place TEXT;\nCREATE TABLE places (name TEXT);\n"
    monkeypatch.setattr(store, "MIGRATIONS", (*store.MIGRATIONS, step))
    assert [e.id for e in events(path)] == ["old"]
    assert rows(path, "PRAGMA user_version") == [(2,)]
    assert rows(path, "SELECT count(*) FROM places") == [(0,)]


def test_a_migration_that_fails_changes_nothing(path, monkeypatch):
    SqliteStore(config(path)).close()
    step = "CREATE TABLE places (name TEXT);\nCREATE TABLE events (name TEXT);\n"
    monkeypatch.setattr(store, "MIGRATIONS", (*store.MIGRATIONS, step))
    with pytest.raises(StoreError, match="already exists"):
        SqliteStore(config(path))
    monkeypatch.undo()
    assert rows(path, "SELECT count(*) FROM sqlite_master WHERE name = 'places'") == [(0,)]
    SqliteStore(config(path)).close()


def test_a_damaged_file_is_told(path):
    fill(path, 50)
    data = bytearray(path.read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    path.write_bytes(data)
    with pytest.raises((StoreError, SinkError), match="damaged"):
        SqliteStore(config(path)).write(event())


def test_only_its_owner_may_read_it(path):
    sink = SqliteStore(config(path))
    sink.write(event())
    assert [stat.S_IMODE(file.stat().st_mode) & 0o077 for file in path.parent.iterdir()] == [0, 0, 0]
    sink.close()


def test_the_news_of_clips(path):
    sink = SqliteStore(config(path))

    def clip(state, name, file):
        news = {"id": name, "state": state, "path": file, "reason": None}
        sink.write({"type": "clip", "source": "mic", "time": rfc3339(NOON), **news})

    for name in ("a", "b", "c"):
        sink.write(event(name=name, clip=f"/{name}.flac"))
    clip("written", "a", "/a.flac")
    clip("pruned", None, "/a.flac")
    clip("withheld", "b", "/b.flac")
    clip("written", "c", "/c.flac")
    sink.close()
    assert [(e.clip, e.clip_pruned_at) for e in events(path)] == [("/a.flac", NOON), (None, None), ("/c.flac", None)]


def test_its_settings_come_from_json_and_are_checked():
    made = build(StoreConfig, {"path": "/x.db", "max_days": 3, "max_bytes": 1 << 23, "busy_seconds": 1})
    assert made == StoreConfig("/x.db", 3.0, 1 << 23, 1.0)
    for wrong in ({"max_days": 0.0}, {"max_bytes": 1000}, {"busy_seconds": -1.0}):
        with pytest.raises(EdgeError, match=next(iter(wrong))):
            StoreConfig(**wrong)


def test_the_default_place(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert StoreConfig().file == tmp_path / "edge-listen" / "events.db"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    with pytest.raises(StoreError, match="--db FILE"):
        _ = StoreConfig().file


def test_two_writers_share_a_database(path):
    sinks = [SqliteStore(config(path, busy_seconds=20.0)) for _ in range(2)]

    def write(sink, name):
        for i in range(100):
            sink.write(event(name=f"{name}-{i}"))

    threads = [threading.Thread(target=write, args=(sink, name)) for name, sink in enumerate(sinks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for sink in sinks:
        sink.close()
    assert len(events(path)) == 200


def test_a_write_is_quick(path):
    """A retention that looked at every row would show here."""
    sink = SqliteStore(config(path))
    for i in range(300):
        sink.write(event(at=NOON + i))
    began = time.process_time()
    for i in range(300):
        sink.write(event(at=NOON + i))
    assert time.process_time() - began < 3.0
    sink.close()
