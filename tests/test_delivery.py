"""Delivery: nobody waits for a sink, order is kept, every record is accounted for."""

import logging
import random
import threading
import time

import pytest

from edge.delivery import Delivery, backoff
from edge.errors import SinkError
from edge.spool import Spool
from tests.receivers import AWAY, REFUSED, Fallible, event, ids, wait_until

pytestmark = pytest.mark.timed

QUICK = dict(first_wait=0.01, longest_wait=0.05)


@pytest.fixture
def sink():
    sink = Fallible()
    yield sink
    sink.open.set()


def accounted(delivery):
    stats = delivery.stats()
    return stats.delivered + stats.dropped + stats.failed + stats.queued + stats.spooled


def test_records_arrive_in_order_and_are_counted(sink):
    delivery = Delivery(sink, "test")
    for i in range(100):
        delivery.write(event(i))
    delivery.close()
    assert sink.taken == [event(i) for i in range(100)]
    assert sink.closed
    stats = delivery.stats()
    assert (stats.delivered, stats.dropped, stats.failed, stats.retries, stats.queued) == (100, 0, 0, 0, 0)
    assert stats.last_error is None


@pytest.mark.parametrize("capacity", [1, 2, 5])
def test_a_full_queue_loses_its_oldest_and_never_the_one_in_hand(sink, capacity):
    sink.open.clear()
    delivery = Delivery(sink, "test", capacity=capacity)
    delivery.write(event(0))
    wait_until(lambda: sink.attempts == 1)
    for i in range(1, 10):
        delivery.write(event(i))
    assert delivery.stats().queued == capacity + 1
    assert delivery.stats().dropped == 9 - capacity
    sink.open.set()
    delivery.close()
    assert ids(sink.taken) == ids(event(i) for i in [0, *range(10 - capacity, 10)])
    assert accounted(delivery) == 10


def test_writing_does_not_wait_for_a_sink_that_hangs(sink):
    sink.open.clear()
    delivery = Delivery(sink, "test", capacity=100)
    records = [event(i) for i in range(2000)]
    took = []
    for record in records:
        start = time.perf_counter()
        delivery.write(record)
        took.append(time.perf_counter() - start)
    took.sort()
    assert took[int(0.99 * len(took))] < 0.005  # the rest is the scheduler's, of a busy machine
    assert took[-1] < 0.2
    start = time.monotonic()
    delivery.close(timeout=0.5)
    assert time.monotonic() - start < 1.0
    assert delivery.stats().dropped == 2000
    assert delivery.stats().queued == 0


def nothing():
    pass


def test_whoever_can_wait_loses_nothing(sink):
    sink.open.clear()
    delivery = Delivery(sink, "test", capacity=2)
    threading.Timer(0.2, sink.open.set).start()
    for i in range(50):
        delivery.write(event(i))
        delivery.wait(nothing)
    delivery.wait(nothing, to_end=True)
    assert sink.taken == [event(i) for i in range(50)]
    delivery.close()
    assert delivery.stats().dropped == 0


def test_what_fails_for_long_is_not_waited_for(sink, monkeypatch):
    monkeypatch.setattr("edge.delivery.TROUBLE_SECONDS", 0.3)
    sink.error = AWAY
    delivery = Delivery(sink, "test", **QUICK)
    delivery.write(event(0))
    start = time.monotonic()
    delivery.wait(nothing, to_end=True)
    assert 0.2 < time.monotonic() - start < 3
    sink.error = None
    delivery.close()
    assert ids(sink.taken) == ["e00000"]


@pytest.mark.parametrize("how", ["hangs", "refuses"])
def test_what_takes_nothing_for_long_is_not_waited_for(sink, monkeypatch, how):
    """Not once for each record: a program that hangs is ended and refused, one after the other."""
    monkeypatch.setattr("edge.delivery.TROUBLE_SECONDS", 0.5)
    if how == "hangs":
        sink.open.clear()
    else:

        def slow(record):
            time.sleep(0.2)
            raise SinkError("ended", remedy="-", retry=False)

        sink.write = slow
    delivery, turns = Delivery(sink, "test"), []
    for i in range(100):
        delivery.write(event(i))
    start = time.monotonic()
    delivery.wait(lambda: turns.append(1), to_end=True)
    assert 0.4 < time.monotonic() - start < 3
    assert turns
    sink.open.set()
    delivery.close()


def test_what_waits_on_disk_is_not_waited_for(sink, tmp_path):
    sink.error = AWAY
    delivery = Delivery(sink, "test", spool=tmp_path / "spool")
    delivery.write(event(0))
    start = time.monotonic()
    delivery.wait(nothing, to_end=True)
    assert time.monotonic() - start < 3
    delivery.close()
    assert delivery.stats().spooled == 1


def test_what_is_left_by_a_sink_that_hangs_goes_to_the_spool(sink, tmp_path):
    sink.open.clear()
    delivery = Delivery(sink, "test", spool=tmp_path / "spool")
    for i in range(20):
        delivery.write(event(i))
    wait_until(lambda: sink.attempts == 1)
    start = time.monotonic()
    delivery.close(timeout=0.5)
    assert time.monotonic() - start < 1.0
    assert (delivery.stats().spooled, delivery.stats().dropped) == (20, 0)
    sink.open.set()  # it comes back, too late
    delivery._thread.join(5)
    after = Fallible()
    Delivery(after, "test", spool=tmp_path / "spool").close()  # nothing is read when it is closed at once …
    again = Delivery(after, "test", spool=tmp_path / "spool")
    wait_until(lambda: len(after.taken) == 20)
    again.close()
    assert ids(after.taken) == ids(event(i) for i in range(20))  # … the first twice: at least once


def test_a_receiver_that_is_away_is_tried_again_in_order(sink, caplog):
    sink.error = AWAY
    with caplog.at_level(logging.INFO, "edge.delivery"):
        delivery = Delivery(sink, "test", **QUICK)
        for i in range(10):
            delivery.write(event(i))
        wait_until(lambda: sink.attempts > 5)
        sink.error = None
        delivery.close()
    assert ids(sink.taken) == ids(event(i) for i in range(10))
    stats = delivery.stats()
    assert (stats.delivered, stats.dropped) == (10, 0)
    assert stats.retries == sink.attempts - 10
    assert "away" in stats.last_error
    assert [r.levelname for r in caplog.records] == ["WARNING", "INFO"]  # once away, once back


@pytest.mark.parametrize(("failures", "longest"), [(1, 1), (2, 2), (3, 4), (4, 8), (5, 8), (10_000, 8)])
def test_the_pauses_grow_and_are_bounded(failures, longest):
    pauses = [backoff(failures, 1.0, 8.0) for _ in range(300)]
    assert longest / 2 <= min(pauses) < 0.55 * longest  # no two devices in step
    assert 0.95 * longest < max(pauses) <= longest


def test_the_receivers_wish_to_wait_is_heard(sink):
    sink.error = SinkError("busy", remedy="wait", after=0.3)
    delivery = Delivery(sink, "test", **QUICK)
    start = time.monotonic()
    delivery.write(event(0))
    wait_until(lambda: sink.attempts == 1)
    sink.error = None
    wait_until(lambda: sink.taken)
    assert 0.28 < time.monotonic() - start < 2
    delivery.close()


def test_a_refused_record_is_given_up(sink):
    sink.error = REFUSED
    delivery = Delivery(sink, "test", **QUICK)
    delivery.write(event(0))
    wait_until(lambda: delivery.stats().failed == 1)
    sink.error = None
    delivery.write(event(1))
    delivery.close()
    assert ids(sink.taken) == ["e00001"]
    stats = delivery.stats()
    assert (stats.delivered, stats.failed, stats.retries) == (1, 1, 0)


def test_a_sink_that_crashes_starts_anew_and_goes_on(caplog):
    made = []

    def make():
        made.append(Fallible())
        return made[-1]

    first = make()
    first.error = ZeroDivisionError("a bug")
    delivery = Delivery(first, "test", factory=make, **QUICK)
    for i in range(5):
        delivery.write(event(i))
    wait_until(lambda: delivery.stats().delivered == 5)
    delivery.close()
    assert len(made) == 2
    assert first.closed
    assert ids(made[1].taken) == ids(event(i) for i in range(5))
    assert delivery.stats().restarts == 1
    assert [r.levelname for r in caplog.records] == ["WARNING"]


def test_a_record_on_which_it_always_crashes_does_not_stop_the_others(sink):
    crash = sink.write

    def write(record):
        crash(record)
        if record["id"] == "e00001":
            sink.taken.pop()
            raise KeyError("a field")

    sink.write = write
    delivery = Delivery(sink, "test", **QUICK)
    for i in range(3):
        delivery.write(event(i))
    delivery.close()
    assert ids(sink.taken) == ["e00000", "e00002"]
    assert delivery.stats().failed == 1


def test_a_sink_that_cannot_be_made_again_is_tried_again(sink):
    tries = []

    def make():
        tries.append(1)
        if len(tries) < 3:
            raise OSError("no such device")
        return sink

    crashing = Fallible()
    crashing.error = RuntimeError("bug")
    delivery = Delivery(crashing, "test", factory=make, **QUICK)
    delivery.write(event(0))
    wait_until(lambda: sink.taken)
    delivery.close()
    assert delivery.stats().failed == 0
    assert len(tries) == 3


def test_types_that_the_sink_does_not_want_are_not_queued(sink):
    sink.types = frozenset({"event"})
    delivery = Delivery(sink, "test", capacity=2)
    for _ in range(100):
        delivery.write({"type": "window"})
    delivery.write(event(0))
    delivery.close()
    assert sink.taken == [event(0)]
    assert accounted(delivery) == 1


def test_closing_delivers_what_comes_late_and_ends_in_time_without_a_receiver(sink):
    sink.error = AWAY
    delivery = Delivery(sink, "test", first_wait=60)
    delivery.write(event(0))
    wait_until(lambda: sink.attempts == 1)  # now it pauses for half a minute or more
    start = time.monotonic()
    delivery.close(timeout=1.0)
    assert 0.5 < time.monotonic() - start < 1.5  # it has tried again, more than once
    assert sink.attempts > 2
    assert sink.closed
    assert delivery.stats().dropped == 1
    delivery.write(event(1))  # nothing happens
    delivery.close()
    assert delivery.stats().dropped == 2


def test_closing_with_a_spool_does_not_wait_for_an_absent_receiver(sink, tmp_path):
    sink.error = AWAY
    delivery = Delivery(sink, "test", spool=tmp_path / "spool", first_wait=60)
    for i in range(10):
        delivery.write(event(i))
    wait_until(lambda: delivery.stats().spooled == 10)
    start = time.monotonic()
    delivery.close(timeout=3.0)
    assert time.monotonic() - start < 1.5
    assert (delivery.stats().spooled, delivery.stats().dropped) == (10, 0)


def test_a_queue_needs_room(sink):
    with pytest.raises(SinkError, match="capacity is 0"):
        Delivery(sink, "test", capacity=0)


def test_the_thread_ends(sink):
    delivery = Delivery(sink, "ends")
    assert "delivery-ends" in {t.name for t in threading.enumerate()}
    delivery.close()
    assert "delivery-ends" not in {t.name for t in threading.enumerate()}


def test_an_outage_with_a_spool_loses_nothing_and_keeps_the_order(sink, tmp_path):
    """Also what is written while the spool is emptied, and more than the queue holds."""
    sink.error = AWAY
    delivery = Delivery(sink, "test", capacity=50, spool=tmp_path / "spool", **QUICK)
    for i in range(500):
        delivery.write(event(i))
        if i % 25 == 24:
            wait_until(lambda i=i: delivery.stats().spooled == i + 1)
    sink.error = None
    for i in range(500, 600):
        delivery.write(event(i))
        time.sleep(0.001)
    wait_until(lambda: len(sink.taken) == 600, 20)
    delivery.close()
    assert ids(sink.taken) == ids(event(i) for i in range(600))
    stats = delivery.stats()
    assert (stats.delivered, stats.dropped, stats.spooled, stats.queued) == (600, 0, 0, 0)
    assert Spool(tmp_path / "spool").first() is None


def test_a_healthy_receiver_costs_no_disk(sink, tmp_path):
    delivery = Delivery(sink, "test", spool=tmp_path / "spool")
    for i in range(10):
        delivery.write(event(i))
    delivery.close()
    spool = Spool(tmp_path / "spool")
    assert spool.first() is None
    spool.append([event(0)])
    assert spool.first().key == 1  # nothing was ever in it


class Moody(Fallible):
    """Takes, refuses, is away, crashes: by chance."""

    def __init__(self, rng):
        super().__init__()
        self.rng = rng

    def write(self, record):
        mood = self.rng.random()
        if mood < 0.3:
            raise AWAY
        if mood < 0.4:
            raise REFUSED
        if mood < 0.5:
            raise RuntimeError("bug")
        self.taken.append(record)


@pytest.mark.parametrize("with_spool", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_whatever_happens_order_is_kept_and_every_record_is_counted_once(tmp_path, seed, with_spool):
    rng = random.Random(seed)
    sink = Moody(rng)
    settings = dict(capacity=rng.choice([1, 3, 20]), first_wait=0.0005, longest_wait=0.002)
    if with_spool:
        settings |= dict(spool=tmp_path / "spool", spool_records=rng.choice([1, 5, 50]))
    delivery = Delivery(sink, "test", factory=lambda: sink, **settings)
    for i in range(200):
        delivery.write(event(i))
        if rng.random() < 0.3:
            time.sleep(0.002)
    delivery.close()
    stats = delivery.stats()
    assert accounted(delivery) == 200
    assert (stats.queued, stats.delivered) == (0, len(sink.taken))
    assert ids(sink.taken) == sorted(set(ids(sink.taken)))
    assert stats.spooled == 0 or with_spool
