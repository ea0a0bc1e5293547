"""What a device delivers, measured: clipping, an offset, dead channels."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]

SECONDS = 5.0  # that a measurement looks back on
# The highest sample of 16 bits is 0.99997 of full scale. A converter that clips stays there; a loud sound passes it.
FULL_SCALE = 0.9999


@dataclass(frozen=True, slots=True)
class _Part:
    """What is kept of one array of samples."""

    n: int  # samples of each channel
    clipped: int  # of all channels
    sums: tuple[float, ...]  # of each channel
    alive: tuple[bool, ...]  # of each channel: not all is zero


class Quality:
    """Of the last SECONDS of a device of ``rate`` Hz: its own samples, before the mix and before resampling."""

    def __init__(self, rate: int, channels: int) -> None:
        self._most, self._channels = round(SECONDS * rate), channels
        self._parts: deque[_Part] = deque()
        self._n = 0  # samples in the parts

    def push(self, native: F32) -> None:
        """Take [n, channels] in."""
        if not len(native):
            return
        clipped = 0
        if max(native.max(), -native.min()) >= FULL_SCALE:
            clipped = int(np.count_nonzero(np.abs(native) >= FULL_SCALE))
        columns = np.ascontiguousarray(native.T)  # numpy's reductions of so narrow an array are far slower
        sums = tuple(columns.sum(axis=1).tolist())
        alive = tuple(bool(np.dot(column, column) > 0) for column in columns)
        self._parts.append(_Part(len(native), clipped, sums, alive))
        self._n += len(native)
        while self._n - self._parts[0].n >= self._most:
            self._n -= self._parts.popleft().n

    @property
    def clipped(self) -> float:
        """Share of the samples at full scale."""
        return sum(part.clipped for part in self._parts) / max(1, self._n * self._channels)

    @property
    def dc_offset(self) -> float:
        """Mean of the channel whose mean is furthest from zero."""
        if not self._parts:
            return 0.0
        means = [sum(part.sums[c] for part in self._parts) / self._n for c in range(self._channels)]
        return max(means, key=abs)

    @property
    def dead_channels(self) -> tuple[int, ...]:
        """Those of nothing but zeros, where others are not."""
        if not self._parts:
            return ()
        alive = [any(part.alive[c] for part in self._parts) for c in range(self._channels)]
        return tuple(c for c, lives in enumerate(alive) if not lives) if any(alive) else ()
