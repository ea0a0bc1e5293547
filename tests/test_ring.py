"""The ring buffer: boundaries, lapping, and a producer in another thread."""

import sys
import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.ring import Overrun, RingBuffer


def ramp(start: int, n: int) -> np.ndarray:
    return np.arange(start, start + n, dtype=np.float32)[:, None]


@given(st.integers(1, 50), st.lists(st.integers(0, 120), max_size=20))
@settings(deadline=None)
def test_latest_is_what_was_written_last(capacity, blocks):
    ring, written = RingBuffer(capacity), 0
    for n in blocks:
        ring.write(ramp(written, n))
        written += n
        assert ring.written == written
        for ask in (0, 1, capacity - 1, capacity, capacity + 1):
            count = min(ask, written, capacity)
            assert np.array_equal(ring.latest(ask), ramp(written - count, count))


def test_read_by_position():
    ring = RingBuffer(10)
    ring.write(ramp(0, 7))
    ring.write(ramp(7, 6))
    assert np.array_equal(ring.read(3, 10), ramp(3, 10))
    assert np.array_equal(ring.read(12, 1), ramp(12, 1))
    assert len(ring.read(13, 0)) == 0


def test_overwritten_samples_are_refused():
    ring = RingBuffer(10)
    ring.write(ramp(0, 13))
    with pytest.raises(Overrun) as overrun:
        ring.read(2, 5)
    assert overrun.value.oldest == 3


@pytest.mark.parametrize(("position", "n"), [(5, 1), (0, 6), (-1, 2), (0, 11)])
def test_reading_what_is_not_there(position, n):
    ring = RingBuffer(10)
    ring.write(ramp(0, 5))
    with pytest.raises(ValueError, match="cannot read"):
        ring.read(position, n)


@pytest.mark.parametrize(("capacity", "channels"), [(0, 1), (10, 0)])
def test_impossible_sizes(capacity, channels):
    with pytest.raises(ValueError, match="1 or more"):
        RingBuffer(capacity, channels)


def test_write_allocates_nothing():
    ring, block = RingBuffer(16_000, 2), np.ones((320, 2), np.float32)
    for _ in range(200):
        ring.write(block)

    def most():
        tracemalloc.start()
        ring.write(block)
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in range(1000):
            ring.write(block)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak - before

    least = min(most() for _ in range(5))  # other threads of the test run may allocate something meanwhile
    assert least < block.nbytes / 2  # counters and views, but no array


def test_a_producer_in_another_thread_is_never_seen_half_done():
    ring, block = RingBuffer(4096), 160
    most = 2**24 // block * block  # float32 counts no further than 2**24, and a slow reader lets the producer get there
    seen_enough = threading.Event()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # so that the threads really interrupt each other

    def produce():
        for start in range(0, most, block):
            if seen_enough.is_set():
                return
            ring.write(ramp(start, block))

    producer = threading.Thread(target=produce)
    producer.start()
    seen = 0
    try:
        while producer.is_alive() and seen < 500:
            samples = ring.latest(1024)[:, 0]
            if len(samples):
                assert np.array_equal(np.diff(samples), np.ones(len(samples) - 1))
                seen += 1
    finally:
        seen_enough.set()
        producer.join()
        sys.setswitchinterval(interval)
    assert seen > 10
    assert ring.latest(1)[0, 0] == ring.written - 1
