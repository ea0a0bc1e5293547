"""Where in a clip its sound is: the truth of a clip that only says what it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
Region = tuple[int, int]  # first sample, and the one after the last

FRAME, STEP = 0.02, 0.01  # seconds, of which the power is taken


@dataclass(frozen=True)
class Activity:
    """When a clip counts as sounding."""

    active_db: float = 25.0  # a sound reaches from where it is less than this below the clip's loudest moment
    loud_db: float = 15.0  # and must somewhere be less than this below it
    merge_gap: float = 0.5  # seconds; a shorter pause does not end a sound
    max_event: float = 5.0  # seconds; the clip is cut where a sound gets longer


def regions(samples: F32, rate: int, activity: Activity) -> list[Region]:
    """Where ``samples`` [n] are active, in samples; nowhere in silence."""
    step, frame = round(STEP * rate), round(FRAME * rate)
    power = frame_power(samples, frame, step)
    if not len(power) or power.max() == 0:
        return []
    loudest = power.max()
    active = np.flatnonzero(power > loudest * 10 ** (-activity.active_db / 10))
    pieces = np.split(active, np.flatnonzero(np.diff(active) * STEP > activity.merge_gap) + 1)
    least = loudest * 10 ** (-activity.loud_db / 10)
    found = [(int(p[0]) * step, min(len(samples), int(p[-1]) * step + frame)) for p in pieces if power[p].max() > least]
    return _shortened(found, round(activity.max_event * rate))


def frame_power(samples: F32, frame: int, step: int) -> NDArray[np.float64]:
    """Mean square of each frame of ``frame`` samples, one every ``step``."""
    total = np.concatenate([[0.0], np.cumsum(np.square(samples, dtype=np.float64))])
    starts = np.arange(0, len(samples) - frame + 1, step)
    power: NDArray[np.float64] = np.maximum(total[starts + frame] - total[starts], 0) / frame
    return power


def _shortened(found: list[Region], most: int) -> list[Region]:
    """Up to the first that is longer than ``most`` samples, of which ``most`` are left."""
    for number, (start, end) in enumerate(found):
        if end - start > most:
            return [*found[:number], (start, start + most)]
    return found
