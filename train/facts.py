"""What can be said of one clip without knowing what it is."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import soundfile
from numpy.typing import NDArray

from edge.errors import EdgeError
from edge.workers import mapped
from train.clip import Clip

F32 = NDArray[np.float32]

SILENT_FRAME = 0.01  # seconds that are silent or not
SILENCE_DB = -70.0  # RMS of a silent frame, at most; dB below full scale. The noise of 16 bits is at -98
FULL_SCALE = 0.999  # what a sample reaches that is clipped
CLIPPED_RUN = 3  # samples at full scale in a row: a peak that is merely loud touches it once or twice


@dataclass(frozen=True)
class Facts:
    """One clip, measured at its own rate. Without ``error``, all of it is there."""

    error: str = ""  # why it cannot be read; empty where it can
    seconds: float = 0.0
    sample_rate: int = 0  # Hz
    channels: int = 0
    format: str = ""  # container and coding
    peak: float = 0.0  # full scale is 1
    level_db: float = -200.0  # RMS, relative to full scale; -200 at least
    silence: float = 0.0  # share of the time that is silent
    clipped: float = 0.0  # share of the samples that are clipped
    offset: float = 0.0  # mean of the samples, "DC"
    digest: str = ""  # of the samples, their rate and channels: the same in two files of any lossless format


def measure(clip: Clip) -> Facts:
    """The facts of one clip; what cannot be read has only ``error``."""
    try:
        info = soundfile.info(os.fsencode(clip.path))
        rate, channels, coding = info.samplerate, info.channels, f"{info.format} {info.subtype}"
    except (soundfile.LibsndfileError, OSError, TypeError, ValueError):
        rate, channels, coding = 16_000, 1, ""  # the source will say why, in words
    try:
        samples = clip.source().read(rate, channels=min(channels, 2))
    except EdgeError as error:
        return Facts(error=str(error))
    samples = samples.reshape(len(samples), -1)  # [n, channels]
    power = np.square(samples, dtype=np.float64).mean(axis=1)
    return Facts(
        seconds=len(samples) / rate,
        sample_rate=rate,
        channels=channels,
        format=coding,
        peak=float(np.abs(samples).max()),
        level_db=decibels(float(power.mean())),
        silence=silence(power, rate),
        clipped=max(clipped(channel) for channel in samples.T),
        offset=float(np.abs(samples.mean(axis=0, dtype=np.float64)).max()),
        digest=hashlib.sha256(f"{rate} {channels} ".encode() + samples.tobytes()).hexdigest()[:16],
    )


def measure_all(clips: Sequence[Clip], workers: int | None = None) -> Iterator[Facts]:
    """The facts of ``clips``, in their order, by ``workers`` processes (one for each core).

    Raises:
        EdgeError: when a process dies.
    """
    workers = min(workers or os.cpu_count() or 1, len(clips))
    if workers <= 1:
        yield from map(measure, clips)
        return
    yield from mapped(measure, clips, workers, chunk=16)


def decibels(power: float) -> float:
    """Power relative to full scale in dB, not below -200."""
    return float(10 * np.log10(max(power, 1e-20)))


def silence(power: NDArray[np.float64], sample_rate: int) -> float:
    """The share of the frames of 10 ms whose mean of ``power`` [n] is that of silence."""
    starts = np.arange(0, len(power), max(1, round(SILENT_FRAME * sample_rate)))
    lengths = np.diff(np.append(starts, len(power)))
    return float((np.add.reduceat(power, starts) / lengths < 10 ** (SILENCE_DB / 10)).mean())


def clipped(samples: F32) -> float:
    """The share of ``samples`` [n] that are at full scale, at least three in a row."""
    loud = np.concatenate([[False], np.abs(samples) >= FULL_SCALE, [False]])
    edges = np.flatnonzero(loud[1:] != loud[:-1])
    runs = edges[1::2] - edges[::2]
    return float(runs[runs >= CLIPPED_RUN].sum() / len(samples))
