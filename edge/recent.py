"""The newest samples of a stream of blocks, in one piece."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from edge.audio import silence
from edge.sources.block import Block

F32 = NDArray[np.float32]


class Recent:
    """Keeps ``n_samples`` at least; what was lost is silence, as everywhere."""

    def __init__(self, n_samples: int, channels: int) -> None:
        self.n_samples, self._channels = n_samples, channels
        self._pieces: deque[F32] = deque()
        self._held = 0  # samples

    def push(self, block: Block) -> None:
        """Take its samples, which may change after the call."""
        if block.lost:
            self._append(silence(min(block.lost, self.n_samples), self._channels))
        self._append(block.samples.copy())
        while self._held - len(self._pieces[0]) >= self.n_samples:
            self._held -= len(self._pieces.popleft())

    def _append(self, samples: F32) -> None:
        self._pieces.append(samples)
        self._held += len(samples)

    def last(self, n_samples: int) -> F32 | None:
        """The newest ``n_samples``, [n] or [n, channels]; None while fewer are there."""
        if self._held < n_samples:
            return None
        joined: F32 = np.concatenate([silence(0, self._channels), *self._pieces])
        return joined[len(joined) - n_samples :]
