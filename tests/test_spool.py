"""The spool on disk: bounded, in order, over restarts, kills and a disk that does not take it."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from edge.delivery import Delivery
from edge.spool import Spool, SpoolError
from tests.conftest import ROOT
from tests.receivers import AWAY, Fallible, event, ids, wait_until

QUICK = dict(first_wait=0.01, longest_wait=0.05)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "spool.sqlite"


def drain(spool):
    records = []
    while (kept := spool.first()) is not None:
        records.append(kept.record)
        spool.remove(kept)
    return records


def test_what_goes_in_comes_out_in_order_also_after_a_restart(path):
    spool = Spool(path)
    spool.append([event(0), event(1)])
    spool.append([event(2, label="Bellen — 犬")])
    assert len(spool) == 3
    spool.remove(spool.first())
    spool.close()
    again = Spool(path)
    again.open()
    assert len(again) == 2
    assert drain(again) == [event(1), event(2, label="Bellen — 犬")]
    assert len(again) == 0
    again.append([event(3)])
    assert drain(again) == [event(3)]


def test_a_record_stays_until_it_is_removed(path):
    spool = Spool(path)
    spool.append([event(0)])
    assert spool.first() == spool.first()
    spool.close()
    assert Spool(path).first().record == event(0)


def test_too_many_records_lose_the_oldest(path):
    spool = Spool(path, max_records=10)
    for i in range(25):
        spool.append([event(i)])
    assert (len(spool), spool.evicted) == (10, 15)
    spool.append([event(i) for i in range(25, 50)])
    assert (len(spool), spool.evicted) == (10, 40)
    assert ids(drain(spool)) == ids(event(i) for i in range(40, 50))


def test_too_many_bytes_lose_the_oldest(path):
    size = len(json.dumps(event(0)).encode())
    spool = Spool(path, max_bytes=5 * size + size // 2)
    for i in range(8):
        spool.append([event(i)])
    assert (len(spool), spool.evicted) == (5, 3)
    reopened = Spool(path, max_bytes=5 * size + size // 2)
    reopened.append([event(8)])
    assert ids(drain(reopened)) == ids(event(i) for i in range(4, 9))


def test_the_file_stays_bounded(path):
    spool = Spool(path, max_records=200)
    for i in range(100):
        spool.append([event(i * 50 + j) for j in range(50)])
    spool.close()
    assert len(spool) == 200
    assert sum(p.stat().st_size for p in path.parent.iterdir()) < 3 * 200 * len(json.dumps(event(0)))


def test_a_damaged_file_makes_room(path):
    path.parent.mkdir()
    path.write_bytes(b"this is no database, but long enough to be taken for one" * 100)
    spool = Spool(path)
    with pytest.raises(SpoolError, match="not a database"):
        spool.append([event(0)])
    spool.append([event(0)])
    assert drain(spool) == [event(0)]
    assert path.with_name("spool.sqlite.damaged").exists()


def test_another_file_in_its_place_is_read_from_its_beginning(path):
    spool = Spool(path)
    spool.append([event(i) for i in range(5)])
    drain(spool)
    spool.close()
    path.unlink()
    spool.append([event(9)])
    assert drain(spool) == [event(9)]


def test_what_cannot_be_deleted_does_not_come_twice_in_this_run(path):
    spool = Spool(path)
    spool.append([event(0), event(1)])
    first = spool.first()
    with locked(path):
        with pytest.raises(SpoolError, match="locked"):
            spool.remove(first)
        assert len(spool) == 1
    assert spool.first().record == event(1)
    spool.append([event(2)])
    assert ids(drain(spool)) == ["e00001", "e00002"]
    assert Spool(path).first() is None


@contextmanager
def locked(path):
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    yield
    other.execute("ROLLBACK")
    other.close()


@contextmanager
def mounted(folder, options):
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no right to mount: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def delivers_from_memory(path, caplog, n=20):
    """A delivery whose spool does not work: n records get through an outage, and it is said once."""
    sink = Fallible()
    sink.error = AWAY
    delivery = Delivery(sink, "test", spool=path, **QUICK)
    for i in range(n):
        delivery.write(event(i))
    wait_until(lambda: delivery.stats().spool_errors and sink.attempts > 2)
    sink.error = None
    wait_until(lambda: len(sink.taken) == n, 15)
    stats = delivery.stats()
    assert ids(sink.taken) == ids(event(i) for i in range(n))
    assert (stats.delivered, stats.dropped, stats.spooled) == (n, 0, 0)
    assert len([r for r in caplog.records if str(path) in r.getMessage()]) == 1
    return delivery


def test_a_folder_that_cannot_be_written(tmp_path, caplog):
    folder = tmp_path / "folder"
    if os.geteuid() == 0:
        with mounted(folder, "ro"):
            delivers_from_memory(folder / "spool", caplog).close()
    else:
        folder.mkdir(mode=0o555)
        delivers_from_memory(folder / "spool", caplog).close()


def test_a_folder_that_cannot_be_made(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    delivers_from_memory(tmp_path / "file" / "spool", caplog).close()


def test_a_locked_database(path, caplog):
    Spool(path).append([])
    with locked(path):
        delivery = delivers_from_memory(path, caplog)
    delivery.close()


def test_a_lock_that_goes_away(path):
    """What came meanwhile goes to disk then."""
    Spool(path).append([])
    sink = Fallible()
    sink.error = AWAY
    with locked(path):
        delivery = Delivery(sink, "test", spool=path, **QUICK)
        for i in range(5):
            delivery.write(event(i))
        wait_until(lambda: delivery.stats().spool_errors)
        assert delivery.stats().queued == 5
    wait_until(lambda: delivery.stats().spooled == 5)
    sink.error = None
    wait_until(lambda: len(sink.taken) == 5)
    delivery.close()
    assert ids(sink.taken) == ids(event(i) for i in range(5))


def test_records_on_disk_that_cannot_be_read_do_not_hold_up_the_others(path):
    former = Spool(path)
    former.append([event(0), event(1)])
    former.close()
    sink = Fallible()
    delivery = Delivery(sink, "test", spool=path, **QUICK)
    wait_until(lambda: len(sink.taken) == 2)
    sink.error = AWAY
    delivery.write(event(2))
    wait_until(lambda: delivery.stats().spooled == 1)
    with locked(path):
        sink.error = None
        delivery.write(event(3))
        wait_until(lambda: sink.taken[-1]["id"] == "e00003")
    wait_until(lambda: delivery.stats().delivered == 4)
    delivery.close()
    assert ids(sink.taken) == ["e00000", "e00001", "e00003", "e00002"]


def test_what_is_no_utf_8_does_not_hold_up_the_others(path):
    sink, odd = Fallible(), event(0, label="caf\udce9")
    sink.error = AWAY
    delivery = Delivery(sink, "test", spool=path, **QUICK)
    for record in (odd, event(1)):
        delivery.write(record)
    wait_until(lambda: delivery.stats().spooled == 2)
    sink.error = None
    wait_until(lambda: len(sink.taken) == 2)
    delivery.close()
    assert sink.taken == [odd, event(1)]


def test_a_full_disk(tmp_path, caplog):
    """Some records fit, the others wait in memory; nothing is lost, and the order is kept."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    with mounted(tmp_path / "disk", "size=256k") as disk:
        sink = Fallible()
        sink.error = AWAY
        delivery = Delivery(sink, "test", spool=disk / "spool", capacity=2000, **QUICK)
        for i in range(300):
            delivery.write(event(i))
            if i % 20 == 0:
                wait_until(lambda i=i: delivery.stats().spooled > i or delivery.stats().spool_errors)
        wait_until(lambda: delivery.stats().spool_errors)
        stats = delivery.stats()
        assert stats.spooled > 0
        assert stats.queued > 0
        sink.error = None
        wait_until(lambda: delivery.stats().delivered == 300, 20)
        delivery.close()
    assert ids(sink.taken) == ids(event(i) for i in range(300))
    stats = delivery.stats()
    assert (stats.delivered, stats.dropped, stats.failed) == (300, 0, 0)


WRITER = """
import sys
import time
from pathlib import Path
from edge.delivery import Delivery
from tests.receivers import AWAY, Fallible, event

sink = Fallible()
sink.error = AWAY
delivery = Delivery(sink, "test", spool=Path(sys.argv[1]), first_wait=60)
first = int(sys.argv[2])
for i in range(first, first + 100_000):
    delivery.write(event(i))
    while delivery.stats().spooled <= i:
        time.sleep(0.001)
    print(i, flush=True)
"""


def killed_while_it_prints(code, *arguments, lines):
    """Run ``code`` until it has printed ``lines`` lines, then kill -9; returns what it had printed."""
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, cwd=ROOT)
    printed = [process.stdout.readline() for _ in range(lines)]
    process.send_signal(signal.SIGKILL)
    printed += process.stdout.readlines()
    process.wait()
    process.stdout.close()
    return [int(line) for line in printed if line.endswith(b"\n")]


def test_kill_9_loses_nothing_that_was_on_disk(path):
    first = 0
    for _ in range(2):
        last = killed_while_it_prints(WRITER, path, first, lines=20)[-1]
        spool = Spool(path)
        spool.open()
        assert len(spool) - 1 in (last, last + 1)  # the one whose number could not be printed any more
        first = len(spool)
        spool.close()
    assert ids(drain(Spool(path))) == ids(event(i) for i in range(first))


def test_the_next_start_delivers_what_a_former_run_has_left(path):
    last = killed_while_it_prints(WRITER, path, 0, lines=20)[-1]
    sink = Fallible()
    delivery = Delivery(sink, "test", spool=path)
    delivery.write(event(99_999))
    wait_until(lambda: sink.taken and sink.taken[-1]["id"] == "e99999")
    delivery.close()
    assert ids(sink.taken)[: last + 1] == ids(event(i) for i in range(last + 1))
    assert delivery.stats().spooled == 0


@pytest.mark.slow
def test_a_long_outage_of_ten_thousand_records(path):
    sink = Fallible()
    sink.error = AWAY
    delivery = Delivery(sink, "test", spool=path, **QUICK)
    for i in range(10_000):
        delivery.write(event(i))
        while delivery.stats().queued > 100:  # a queue that is full drops: not what is tried here
            time.sleep(0.001)
    wait_until(lambda: delivery.stats().spooled == 10_000, 60)
    sink.error = None
    wait_until(lambda: len(sink.taken) == 10_000, 300)
    delivery.close()
    assert ids(sink.taken) == ids(event(i) for i in range(10_000))
