"""A ring buffer between the audio callback and the thread that listens."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]


class Overrun(Exception):
    """The samples asked for have been overwritten; ``oldest`` is the first position that can still be read."""

    def __init__(self, oldest: int) -> None:
        super().__init__(f"overwritten up to position {oldest}")
        self.oldest = oldest


class RingBuffer:
    """Single producer, single consumer, without a lock.

    Only the producer changes ``written``, and only after the samples are in place, so whoever sees the count sees the
    samples. Before it touches any, it claims them, so that the consumer can tell after its copy whether it was lapped.
    """

    def __init__(self, capacity: int, channels: int = 1) -> None:
        if capacity < 1 or channels < 1:
            raise ValueError(f"capacity {capacity} and channels {channels} must be 1 or more")
        self.capacity, self.channels = capacity, channels  # samples kept
        self.written = 0  # samples ever written: the position after the newest
        self._claimed = 0  # samples written, and those that are being written
        self._data: F32 = np.zeros((capacity, channels), np.float32)

    def write(self, block: F32) -> None:
        """Append ``block`` [n, channels]; allocates no array. Of more than ``capacity`` samples the newest stay."""
        skipped = max(0, len(block) - self.capacity)
        block = block[skipped:]
        n = len(block)
        start = (self.written + skipped) % self.capacity
        first = min(n, self.capacity - start)
        self._claimed = self.written + skipped + n
        self._data[start : start + first] = block[:first]
        self._data[: n - first] = block[first:]
        self.written = self._claimed

    def read(self, position: int, n: int) -> F32:
        """A copy of the ``n`` samples from ``position`` on: [n, channels].

        Raises:
            Overrun: when the producer has overwritten some of them.
            ValueError: when they are not all written yet, or more than the ring holds.
        """
        if n > self.capacity or position < 0 or position + n > self.written:
            raise ValueError(f"cannot read {n} samples from {position}: {self.written} written, {self.capacity} kept")
        start = position % self.capacity
        first = min(n, self.capacity - start)
        out = np.empty((n, self._data.shape[1]), np.float32)
        out[:first] = self._data[start : start + first]
        out[first:] = self._data[: n - first]
        if position < self._claimed - self.capacity:
            raise Overrun(self._claimed - self.capacity)
        return out

    def latest(self, n: int) -> F32:
        """A copy of the newest ``n`` samples, fewer while fewer are there: [≤ n, channels]."""
        while True:
            written = self.written
            count = min(n, written, self.capacity)
            try:
                return self.read(written - count, count)
            except Overrun:
                continue  # lapped during the copy: take the newer ones
