"""Raw PCM on standard input, as ``arecord -t raw`` and ``ffmpeg -f s16le`` write it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import BinaryIO
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from edge.audio import Resampler, silence, to_channels
from edge.errors import InputError
from edge.sources.block import Block
from edge.sources.file import MAX_CHANNELS, MAX_RATE, MIN_RATE
from edge.sources.reblock import reblock

F32 = NDArray[np.float32]

CHUNK_SECONDS = 0.05
FULL_SCALE = 32768.0  # of signed 16-bit samples
# What was read of a file and is not heard yet. After SIGHUP another stream goes on with it, where a frame begins.
UNHEARD: WeakKeyDictionary[BinaryIO, list[bytes]] = WeakKeyDictionary()


class PcmStream:
    """Signed 16-bit little-endian samples, interleaved, from a pipe."""

    name = "stdin"

    def __init__(
        self, rate: int, channels: int = 1, *, channel: int | None = None, file: BinaryIO | None = None
    ) -> None:
        if not (MIN_RATE <= rate <= MAX_RATE and 1 <= channels <= MAX_CHANNELS):
            raise InputError(
                f"raw PCM of {channels} channels at {rate} Hz is not possible",
                remedy=f"allowed are 1 to {MAX_CHANNELS} channels at {MIN_RATE} to {MAX_RATE} Hz",
            )
        if channel is not None and channel >= channels:
            raise InputError(f"channel {channel} does not exist", remedy=f"there are {channels}, counted from 0")
        self.rate, self.channels, self.channel = rate, channels, channel
        if file is None and sys.stdin is None:
            raise InputError("standard input is closed", remedy="pipe 16-bit PCM into it")
        self._file = sys.stdin.buffer if file is None else file

    def blocks(self, sample_rate: int, length: int, first: int | None = None, channels: int = 1) -> Iterator[Block]:
        """See :class:`edge.sources.Source`; raises InputError when the pipe ends without a sample."""
        position = 0
        for samples in reblock(self._chunks(sample_rate, channels), length, first):
            yield Block(samples, position, time.time() - len(samples) / sample_rate)  # as if just recorded
            position += len(samples)

    def _chunks(self, sample_rate: int, channels: int) -> Iterator[F32]:
        frame = 2 * self.channels  # bytes
        size = max(1, round(CHUNK_SECONDS * self.rate)) * frame
        resample, empty = Resampler(self.rate, sample_rate, channels), True
        unheard = UNHEARD.setdefault(self._file, [])
        read = getattr(self._file, "read1", self._file.read)  # what is there now, without waiting for more
        while True:
            unheard.extend(map(read, (size,)))  # one step, so that no signal comes between reading and keeping
            if not unheard[-1]:
                break
            data = b"".join(unheard)
            whole = len(data) - len(data) % frame
            unheard[:] = [data[whole:]]
            if whole:
                samples = np.frombuffer(data[:whole], "<i2").reshape(-1, self.channels).astype(np.float32)
                empty = False
                yield resample(to_channels(samples / np.float32(FULL_SCALE), channels, self.channel))
        if empty:
            raise InputError("standard input ended without a sample", remedy="pipe 16-bit PCM into it")
        yield resample(silence(0, channels), last=True)
