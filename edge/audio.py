"""Sound as arrays: channels to one, one rate to another."""

from __future__ import annotations

import numpy as np
import soxr
from numpy.typing import NDArray

F32 = NDArray[np.float32]

MOST = 1000.0  # full scale is 1; float files may exceed it, but not by this


def to_mono(samples: F32, channel: int | None) -> F32:
    """[n, channels] → [n]: one channel (counted from 0), or the mean of all."""
    if channel is not None:
        return np.ascontiguousarray(samples[:, channel])
    return samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)


def first_bad(samples: F32) -> int | None:
    """The index of the first value that cannot be a sample: NaN, infinite, or a thousand times full scale."""
    fine = np.abs(samples) < MOST
    return None if fine.all() else int(np.argmin(fine))


class Resampler:
    """A streaming resampler for mono float32: soxr where the rates differ, nothing where they are equal."""

    def __init__(self, from_rate: int, to_rate: int) -> None:
        self._stream = None if from_rate == to_rate else soxr.ResampleStream(from_rate, to_rate, 1, dtype="float32")

    def __call__(self, samples: F32, *, last: bool = False) -> F32:
        """[n] → [about n * to_rate / from_rate]; ``last`` flushes what the filter holds."""
        if self._stream is None:
            return samples
        resampled: F32 = self._stream.resample_chunk(samples, last=last)
        return resampled
