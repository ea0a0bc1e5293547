"""Samples against the computer's clock: how fast a device runs, and what it has lost, whether it says so or not.

Sample i of a stream is converted at ``zero + i / rate``, and cannot be here earlier. So of what has arrived in a
second, the earliest tells where zero is: a machine that is busy, and a host that delivers in lumps, only ever come
later. Lost samples shift zero for good. Time stamps of hosts are not used: PulseAudio's are wrong by up to a fifth of a
second.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

SETTLING = 3  # seconds at the beginning, in which buffers fill
LOSS_SECONDS = 0.05  # by which zero must have moved, for two whole seconds, until samples count as lost
FOLLOW = 0.001  # seconds a second by which zero may move without loss: the drift of any clock that is not broken
FLAG_SECONDS = 0.002  # the same of what is flagged
FLAG_CALLS = 8  # calls before and after an overflow flag that are held against each other
DRIFT_SECONDS, DRIFT_LONGEST = 60, 900  # from which the drift is known; that it is measured over
DRIFT_EVERY = 10  # seconds after which it is measured again: that costs more than a decision
MISMATCH = 0.005  # drift from which it is the wrong rate rather than a clock


@dataclass(frozen=True)
class _Flag:
    """An overflow that the host has flagged."""

    second: int  # the first of which all calls come after it
    before: float  # zero by the calls before it
    lost: int  # what was known to be lost then
    after: list[float] = field(default_factory=list)  # zero by the calls since


class StreamClock:
    """The clock of a stream of ``rate`` Hz. Times are those of ``time.monotonic()``.

    ``whole``: the host is known to drop whole buffers, as long as what it hands over at once.
    """

    def __init__(self, rate: int, *, whole: bool = False) -> None:
        self.lost = 0  # samples that never came, so far
        # How much faster the device is than the computer; None before a minute is over.
        self.drift_ppm: float | None = None
        self._rate, self._whole = rate, whole
        self._recent: deque[float] = deque(maxlen=FLAG_CALLS)  # zero by the last calls, raw
        self._flags: deque[_Flag] = deque()  # those that are not settled yet
        self._second: int | None = None  # the one that is being counted
        self._low = self._zero = np.inf  # zero by that second: raw, and as corrected by what has been lost
        self._zeros: deque[float] = deque(maxlen=2)  # the same of the two seconds before, corrected
        self._lows: deque[tuple[int, float]] = deque(maxlen=DRIFT_LONGEST)  # second, raw zero by it
        self._losses: deque[tuple[int, float]] = deque(maxlen=1000)  # second, what zero moved by through a loss
        self._ended = 0  # seconds that have been counted
        self._reference: float | None = None  # where zero is, as corrected by what has been lost
        self._ahead = 0.0  # seconds that were counted as lost too much

    def called(self, written: int, now: float, flagged: bool, frames: int = 1) -> None:
        """The host has delivered ``frames``, up to position ``written``; ``flagged``: it says that some are missing."""
        zero, second = now - written / self._rate, int(now)
        if flagged and self._recent:
            self._flags.append(_Flag(second + (second == self._second), min(self._recent), self.lost))
        for flag in self._flags:
            flag.after.append(zero)
        while self._flags and len(self._flags[0].after) == FLAG_CALLS:
            self._settle(self._flags.popleft(), frames if self._whole else 1)
        self._recent.append(zero)
        if second != self._second:
            self._end_second()
            self._second, self._low, self._zero = second, np.inf, np.inf
        self._low = min(self._low, zero)
        if not self._flags:  # else it is not known yet what is lost
            self._zero = min(self._zero, zero - self.lost / self._rate)

    def time_of(self, position: float) -> float:
        """When the sample at ``position`` was converted."""
        zeros = [self._zero, *self._zeros] if self._reference is None else [self._zero, self._reference]
        return min(zeros) + (position + self.lost) / self._rate

    def _drift(self) -> float:
        seconds = np.array([second for second, _ in self._lows], float)
        lows = np.array([low for _, low in self._lows])
        steps = np.diff(lows[-DRIFT_SECONDS:]) / np.diff(seconds[-DRIFT_SECONDS:])
        coarse = float(np.median(steps))  # a loss is one step of many
        if abs(coarse) >= MISMATCH:
            return -coarse * 1e6
        for second, moved in self._losses:
            lows[seconds >= second] -= moved
        return float(-np.polyfit(seconds - seconds[0], lows, 1)[0] * 1e6)

    def _settle(self, flag: _Flag, unit: int) -> None:
        """A flag says that samples are missing, not how many, nor whether any are: the clock does."""
        moved = min(flag.after) - flag.before - (self.lost - flag.lost) / self._rate
        gap = unit * round(moved * self._rate / unit)
        if gap > 0 and (unit > 1 or moved > FLAG_SECONDS):
            self.lost += gap
            self._losses.append((flag.second, gap / self._rate))

    def _end_second(self) -> None:
        if self._second is None:
            return
        self._ended += 1
        self._lows.append((self._second, self._low))
        if len(self._lows) >= DRIFT_SECONDS and self._ended % DRIFT_EVERY == 0:
            self.drift_ppm = self._drift()
        if np.isfinite(self._zero):
            self._zeros.append(self._zero)
        if self._flags or len(self._lows) < SETTLING:
            return
        zero = min(self._zeros)
        if self._reference is None:
            self._reference = zero
        moved = zero - self._reference
        if moved > LOSS_SECONDS:
            missing = max(0.0, moved - self._ahead)
            self._ahead -= moved - missing
            self.lost += round(missing * self._rate)
            self._losses.append((self._lows[-2][0], missing))
            self._zeros = deque((zero - missing for zero in self._zeros), maxlen=2)
            self._reference += moved - missing
            return
        if moved < -LOSS_SECONDS and self._losses:
            self._ahead -= moved
        self._reference += min(moved, FOLLOW)
