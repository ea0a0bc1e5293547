"""What the subjects hear: a recording or a synthesised sound, never silence."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.audio import to_channels
from edge.errors import InputError
from edge.sources.block import Block
from edge.sources.file import SoundFile

F32 = NDArray[np.float32]
LONGEST = 30.0  # seconds of a recording that are used
SHORTEST = 0.1  # below, it may be less than a frame, on which no model decides

Sound = Callable[[int], F32]  # a sample rate in Hz → the sound at that rate, float32 [n_samples]


def synthetic_sound(sample_rate: int) -> F32:
    """Ten seconds of sweeps and noise: never silence, whose zeros some processors multiply faster."""
    seconds = np.arange(10 * sample_rate) / sample_rate
    sweep = np.sin(2 * np.pi * (200 * seconds + 300 * seconds**2)) * (0.6 + 0.4 * np.sin(5 * seconds))
    noise = np.random.default_rng(0).standard_normal(len(seconds))
    return (0.2 * sweep + 0.05 * noise).astype(np.float32)


def sound_of(path: Path | None) -> Sound:
    """The first LONGEST seconds of the recording ``path``, or the synthesised sound.

    The returned function raises InputError for what cannot be read, is shorter than SHORTEST, or digital silence.
    """

    @lru_cache
    def sound(sample_rate: int) -> F32:
        samples = synthetic_sound(sample_rate) if path is None else SoundFile(path, end=LONGEST).read(sample_rate)
        if (seconds := len(samples) / sample_rate) < SHORTEST - 0.001:  # the resampler may round off a few
            raise InputError(f"{path} lasts {seconds:.3f} s", remedy=f"give {SHORTEST:g} s or more, as of a recording")
        if not samples.any():
            raise InputError(f"{path} is digital silence", remedy="give a recording with sound in it")
        return samples

    return sound


def looped(samples: F32, n_samples: int) -> F32:
    """``samples`` [n, …] repeated or cut to ``n_samples``."""
    result: F32 = np.resize(samples, (n_samples, *samples.shape[1:]))
    return result


class Turns:
    """A sound that goes round: every call gives the next ``step`` samples, [step, …] or the latest ``length``."""

    def __init__(self, samples: F32, step: int, length: int | None = None) -> None:
        self._step, self._length = step, length or step
        self._turns = max(2, len(samples) // step)
        # The samples, and as many again as the last turn needs.
        self._samples = looped(samples, self._turns * step + self._length)
        self._turn = 0

    def __call__(self) -> F32:
        """The next ones, as a view."""
        start = self._turn * self._step
        self._turn = (self._turn + 1) % self._turns
        return self._samples[start : start + self._length]


class Endless:
    """A source that goes round, as fast as it is taken."""

    def __init__(self, sound: Sound) -> None:
        self.name = "endless sound"
        self._sound = sound

    def blocks(self, sample_rate: int, length: int, first: int | None = None, channels: int = 1) -> Iterator[Block]:
        """See :class:`edge.sources.Source`."""
        samples, first = to_channels(self._sound(sample_rate)[:, None], channels), first or length
        yield Block(looped(samples, first), 0, time.time() - first / sample_rate)
        turn, position = Turns(samples, length), first
        while True:
            yield Block(turn(), position, time.time() - length / sample_rate)
            position += length
