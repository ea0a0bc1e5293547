"""Where in the last seconds a sound began and ended: what scores of whole windows cannot tell."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

BANDS = 8  # groups of mel bands, in each of which a sound may begin
RISE_SECONDS = 0.5  # averaged on each side of a rise, where there is so much: a syllable or a click is no beginning
LEAST_RISE = 0.02  # in log-mel units, mean over the bands; less is no beginning
EARLY, LATE = 1.0, 0.3  # seconds, standard deviations of a beginning that is before or after where it is expected
SMOOTH_FRAMES = 5  # averaged, so that one frame alone neither begins nor ends anything
ACTIVE = 0.35  # share of its usual strength above the background, in dB, from which a sound is still there
DROP = 20.0  # dB below its usual strength, from which it is not, however quiet the background was


def banded(frames: F32) -> F32:
    """Log-mel frames [channels, n_mels, n] → means of groups of mel bands, [BANDS or fewer, n]."""
    n_mels = frames.shape[1]
    groups = min(BANDS, n_mels)
    starts = np.arange(groups) * n_mels // groups
    sums: F32 = np.add.reduceat(frames.mean(axis=0), starts, axis=0)
    sums /= np.diff(starts, append=n_mels)[:, None].astype(np.float32)
    return sums


class Beginning(NamedTuple):
    """Where a sound begins."""

    time: float  # seconds of stream
    rise: float | None = None  # of the spectrum, dB, mean over the bands; 0 where nothing rises; None: nobody knows


class Envelope:
    """The bands of the last ``seconds``, on the stream's clock."""

    def __init__(self, seconds: float, frame_seconds: float, log_std: float = 4.0) -> None:
        """``frame_seconds``: from one frame to the next; ``log_std``: nepers of power in one unit of log-mel."""
        self._units_of_db = math.log(10) / 10 / log_std
        self._frame_seconds = frame_seconds
        self._size = max(1, round(seconds / frame_seconds))
        self._bands: F32 = np.zeros((BANDS, 0), np.float32)  # empty, or up to _size frames
        self._end = 0.0  # seconds of stream, where the newest frame ends

    def push(self, bands: F32, offset: float) -> None:
        """The newest frames [BANDS, n], which end at ``offset`` seconds of stream."""
        first = offset - bands.shape[1] * self._frame_seconds
        if bands.shape[0] != self._bands.shape[0] or abs(first - self._end) > 2 * self._frame_seconds:  # a gap
            self._bands = bands[:, :0]
        self._bands = np.concatenate([self._bands, bands], axis=1)[:, -self._size :]
        self._end = offset

    def onset(self, earliest: float, latest: float, expected: float | None = None) -> Beginning:
        """The clearest rise between two times (seconds of stream), where one near to what is ``expected`` is likelier;
        ``latest`` where nothing rises.
        """
        first = max(SMOOTH_FRAMES, self._place(earliest))
        last = min(self._bands.shape[1] - SMOOTH_FRAMES, self._place(latest))
        if first > last:
            return Beginning(latest, 0.0)
        rise = self._rise(first, last)
        likely = np.ones(len(rise))
        if expected is not None:
            late = self._time(first) + np.arange(len(rise)) * self._frame_seconds - expected
            likely = np.exp(-0.5 * np.square(late / np.where(late < 0, EARLY, LATE)))
        best = int((rise * likely).argmax())
        if rise[best] < LEAST_RISE:
            return Beginning(latest, 0.0)
        return Beginning(self._time(first + best), float(rise[best]) / self._units_of_db)

    def _rise(self, first: int, last: int) -> F64:
        """From before each frame ``first`` to ``last`` to after it, in log-mel units."""
        n = max(SMOOTH_FRAMES, round(RISE_SECONDS / self._frame_seconds))
        start = max(0, first - n)
        x = self._bands[:, start : last + n]
        sums = np.zeros((len(x), x.shape[1] + 1))
        np.cumsum(x, axis=1, dtype=np.float64, out=sums[:, 1:])
        at = np.arange(first, last + 1) - start
        before, after = np.maximum(at - n, 0), np.minimum(at + n, x.shape[1])
        rise = (sums[:, after] - sums[:, at]) / (after - at) - (sums[:, at] - sums[:, before]) / (at - before)
        return np.asarray(np.maximum(rise, 0).mean(axis=0))

    def offset(self, onset: float, latest: float) -> float:
        """When a sound that began at ``onset`` was last heard, at most ``latest`` (seconds of stream)."""
        start, stop = max(0, self._place(onset)), min(self._bands.shape[1], self._place(latest))
        if stop - start < SMOOTH_FRAMES:
            return latest
        before = self._bands[:, max(0, start - 2 * self._size // 5) : max(1, start - 1)]
        background = np.median(before, axis=1) if start > 1 else self._bands[:, start:stop].min(axis=1)
        strength = np.maximum(self._bands[:, start:stop] - background[:, None], 0).mean(axis=0)
        strength = np.convolve(strength, np.full(SMOOTH_FRAMES, 1 / SMOOTH_FRAMES), "same")
        usual = np.quantile(strength, 0.95)
        heard = np.flatnonzero(strength > max(ACTIVE * usual, usual - DROP * self._units_of_db))
        return min(latest, self._time(start + int(heard[-1]) + 1)) if usual > LEAST_RISE and len(heard) else latest

    def _place(self, time: float) -> int:
        """The frame at a time; negative before the oldest."""
        return int(self._bands.shape[1]) - round((self._end - time) / self._frame_seconds)

    def _time(self, place: int) -> float:
        return self._end - (int(self._bands.shape[1]) - place) * self._frame_seconds
