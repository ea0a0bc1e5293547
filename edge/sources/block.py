"""What every source yields, and what every source is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Signal:
    """What a device delivers, measured on its own samples: before the mix, before resampling."""

    clipped: float  # share of the samples that are at full scale
    dc_offset: float  # mean of the samples in [-1, 1], of the channel where it is furthest from zero
    dead_channels: tuple[int, ...] = ()  # those that deliver nothing but zeros while others do not
    drift_ppm: float | None = None  # how much faster the device's clock is than the computer's; None: not yet known


@dataclass(frozen=True, slots=True)
class Block:
    """A run of consecutive samples."""

    samples: F32  # [n] or [n, channels] in [-1, 1]; valid until the next block is taken
    position: int  # stream position of the first sample, counting those that were lost
    adc_time: float  # when the first sample was converted, seconds since the Unix epoch; of a file, as if played now
    lost: int = 0  # samples that are missing right before this block
    overflows: int = 0  # overflows that PortAudio has flagged since the block before
    signal: Signal | None = None  # of the last seconds; None of a source that is no device


@dataclass(frozen=True, slots=True)
class Outage:
    """Comes instead of a block while a source is away, about once a second, until there are blocks again."""

    reason: str  # a key of edge.health.REASONS
    message: str  # what has happened, for people
    remedy: str  # what they can do
    seconds: float  # since the last sample, or since the start where there has been none


class Source(Protocol):
    """Where samples come from."""

    @property
    def name(self) -> str:
        """What the user knows it by: a device's name, a file's path."""

    def blocks(
        self, sample_rate: int, length: int, first: int | None = None, channels: int = 1
    ) -> Iterator[Block | Outage]:
        """Open, and give blocks of ``length`` samples at ``sample_rate`` Hz, the first of ``first``; the last may be
        shorter. Closing the iterator closes the device or file. Of two ``channels`` both are given, of one the mix; a
        source with one gives it twice. A source that comes back by itself gives outages while it is away.

        Raises:
            EdgeError: what went wrong, and the remedy.
        """
