"""Sound files as a source: all that libsndfile reads, at any rate and with any number of channels."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from edge.audio import Resampler, to_mono
from edge.errors import InputError
from edge.sources.block import Block
from edge.sources.reblock import reblock

F32 = NDArray[np.float32]

CHUNK = 1 << 16  # frames read at once, so that a day-long recording needs no memory
# libsndfile believes what a header says; beyond these it is no sound, and would take all memory.
MAX_CHANNELS = 64
MIN_RATE, MAX_RATE = 1_000, 768_000  # Hz
# libsndfile reads a cut WAV, AIFF or AU file as a shorter one, and says so only in its log.
TRUNCATED = re.compile(r"^\s*(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
STREAMED_BYTES = 0x7FFF0000  # a header with more was written to a pipe, before the length was known


class SoundFile:
    """A recording, read as fast as it is taken, or paced like a microphone with ``realtime``."""

    def __init__(self, path: str | Path, *, channel: int | None = None, realtime: bool = False) -> None:
        self.path = Path(path)
        self.channel = channel  # from 0; None mixes all
        self.realtime = realtime

    @property
    def name(self) -> str:
        """The path as it was given."""
        return str(self.path)

    @property
    def live(self) -> bool:
        """Whether it is paced."""
        return self.realtime

    def blocks(self, sample_rate: int, length: int, first: int | None = None) -> Iterator[Block]:
        """See :class:`edge.sources.Source`; raises InputError for what cannot be read."""
        return paced(reblock(self._chunks(sample_rate), length, first), sample_rate, realtime=self.realtime)

    def read(self, sample_rate: int) -> F32:
        """The whole recording at ``sample_rate`` Hz: float32 [n_samples]. Raises InputError."""
        return np.concatenate(list(self._chunks(sample_rate)))

    def _chunks(self, sample_rate: int) -> Iterator[F32]:
        try:
            with soundfile.SoundFile(self.path) as file:
                yield from self._decode(file, sample_rate)
        except soundfile.LibsndfileError as error:
            if not self.path.exists():
                raise InputError(f"{self.path} does not exist", remedy="check the path") from None
            if self.path.is_dir():
                raise InputError(f"{self.path} is a folder", remedy="edge-classify reads folders") from None
            if self.path.stat().st_size == 0:
                raise InputError(f"{self.path} is empty", remedy="give a recording with sound in it") from None
            reason = error.error_string.rstrip(". \n")
            raise InputError(
                f"{self.path} cannot be read: {reason}", remedy="give a WAV, FLAC, Ogg or MP3 file"
            ) from None
        except OSError as error:
            raise InputError(f"{self.path} cannot be read: {error.strerror}", remedy="check the path") from None

    def _decode(self, file: soundfile.SoundFile, sample_rate: int) -> Iterator[F32]:
        if not (1 <= file.channels <= MAX_CHANNELS and MIN_RATE <= file.samplerate <= MAX_RATE):
            raise InputError(
                f"{self.path} claims {file.channels} channels at {file.samplerate} Hz",
                remedy=f"allowed are 1 to {MAX_CHANNELS} channels at {MIN_RATE} to {MAX_RATE} Hz",
            )
        if self.channel is not None and self.channel >= file.channels:
            raise InputError(
                f"channel {self.channel} of {self.path} does not exist",
                remedy=f"it has {file.channels}, counted from 0",
            )
        if cut := TRUNCATED.search(file.extra_info):
            declared, there = int(cut[1]), int(cut[2])
            if there < declared < STREAMED_BYTES:
                raise InputError(
                    f"{self.path} is truncated: {there} of {declared} bytes", remedy="copy the recording again"
                )
        resample = Resampler(file.samplerate, sample_rate)
        done = 0
        while len(chunk := file.read(CHUNK, dtype="float32", always_2d=True)):
            mono = to_mono(chunk, self.channel)
            if not np.isfinite(mono).all():
                bad = done + int(np.argmin(np.isfinite(mono)))
                raise InputError(
                    f"{self.path} has a value that is not a number at {bad / file.samplerate:.3f} s",
                    remedy="repair the recording, or convert it to 16-bit PCM",
                )
            done += len(mono)
            yield resample(mono)
        if done == 0:
            raise InputError(f"{self.path} has no samples", remedy="give a recording with sound in it")
        if 0 <= done < file.frames < 1 << 62:  # libsndfile gives 2**63 - 1 where it does not know
            raise InputError(
                f"{self.path} is truncated: {done} of {file.frames} samples", remedy="copy the recording again"
            )
        yield resample(np.empty(0, np.float32), last=True)


def paced(chunks: Iterator[F32], sample_rate: int, *, realtime: bool) -> Iterator[Block]:
    """``chunks`` as blocks; with ``realtime``, each is given out when its last sample would have been recorded."""
    started, position = time.monotonic(), 0
    for samples in chunks:
        due = started + (position + len(samples)) / sample_rate
        if realtime and (wait := due - time.monotonic()) > 0:
            time.sleep(wait)
        age = time.monotonic() - due + len(samples) / sample_rate if realtime else 0.0
        yield Block(samples, position, time.time() - age)
        position += len(samples)
