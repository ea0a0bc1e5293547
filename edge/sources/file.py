"""Sound files as a source: all that libsndfile reads, at any rate and with any number of channels."""

from __future__ import annotations

import math
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from edge.audio import Resampler, first_bad, silence, to_channels
from edge.errors import InputError
from edge.sources.block import Block
from edge.sources.reblock import reblock

F32 = NDArray[np.float32]

CHUNK = 1 << 16  # frames read at once, so that a day-long recording needs no memory
# libsndfile believes what a header says; beyond these it is no sound, and would take all memory.
MAX_CHANNELS = 64
MIN_RATE, MAX_RATE = 1_000, 768_000  # Hz
# libsndfile reads a cut file of these formats as a shorter one, and says so only in its log.
TRUNCATED = re.compile(r"^\s*(?:data|SSND|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
STREAMED_BYTES = 0x7FFF0000  # a header with more was written to a pipe, before the length was known
TRUNCATED_OGG = "lacks an end-of-stream bit"
# The first frame of an MP3 may say how many there are; else libsndfile guesses from the file's size, tags and all.
MP3_LENGTH = (b"Xing", b"Info", b"VBRI")
ID3_HEADER = 10  # bytes, before the tag itself
FIRST_FRAME = 4096  # bytes in which one that follows a tag lies


class SoundFile:
    """A recording or a segment of it, read as fast as it is taken, or paced like a microphone with ``realtime``."""

    def __init__(
        self,
        path: str | Path,
        *,
        channel: int | None = None,
        realtime: bool = False,
        start: float = 0.0,
        end: float | None = None,
    ) -> None:
        self.path = Path(path)
        self.channel = channel  # from 0; None takes all
        self.realtime = realtime
        self.start = start  # seconds, of the segment
        self.end = end  # seconds; None, and what is beyond the recording, is its end

    @property
    def name(self) -> str:
        """The path as it was given."""
        return str(self.path)

    def blocks(self, sample_rate: int, length: int, first: int | None = None, channels: int = 1) -> Iterator[Block]:
        """See :class:`edge.sources.Source`; raises InputError for what cannot be read."""
        chunks = self._chunks(self._open(), sample_rate, channels)
        return played(reblock(chunks, length, first), sample_rate, realtime=self.realtime)

    def read(self, sample_rate: int, channels: int = 1) -> F32:
        """All of it at ``sample_rate`` Hz: float32 [n] for one channel, [n, channels] for two. Raises InputError."""
        return np.concatenate(list(self._chunks(self._open(), sample_rate, channels)))

    def _open(self) -> soundfile.SoundFile:
        try:
            file = soundfile.SoundFile(os.fsencode(self.path))  # bytes: a name need not be UTF-8
        except (soundfile.LibsndfileError, OSError, TypeError, ValueError) as error:
            raise self._unreadable(error) from None
        try:
            self._check_header(file)
        except InputError:
            file.close()
            raise
        return file

    def _check_header(self, file: soundfile.SoundFile) -> None:
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
        self._seek(file)
        log = file.extra_info
        cut = TRUNCATED.search(log)
        if TRUNCATED_OGG in log or (cut and int(cut[2]) < int(cut[1]) < STREAMED_BYTES):
            raise self._truncated(f"{cut[2]} of {cut[1]} bytes" if cut else "its end is missing")

    def _seek(self, file: soundfile.SoundFile) -> None:
        """Go to the segment's start."""
        end = math.inf if self.end is None else self.end
        if not (0 <= self.start < end):
            raise InputError(
                f"{self.start:g} to {end:g} s of {self.path} is no segment", remedy="its end must be after its start"
            )
        first = round(self.start * file.samplerate)
        if first and first >= file.frames:
            raise InputError(
                f"{self.path} ends at {file.frames / file.samplerate:.3f} s, before its segment from {self.start:g} s",
                remedy="correct the segment's start",
            )
        try:
            if first:
                file.seek(first)
        except soundfile.LibsndfileError as error:
            raise self._unreadable(error) from None

    def _chunks(self, file: soundfile.SoundFile, sample_rate: int, channels: int) -> Iterator[F32]:
        resample = Resampler(file.samplerate, sample_rate, channels)
        done = first = round(self.start * file.samplerate)
        last = file.frames
        if self.end is not None and self.end * file.samplerate < last:
            last = round(self.end * file.samplerate)
        with file:
            while len(chunk := self._read(file, min(CHUNK, last - done))):
                samples = to_channels(chunk, channels, self.channel)
                if (bad := first_bad(samples)) is not None:
                    raise InputError(
                        f"{self.path} has a value that is no sample, {bad[1]:g}, "
                        f"at {(done + bad[0]) / file.samplerate:.3f} s",
                        remedy="repair the recording, or convert it to 16-bit PCM",
                    )
                done += len(samples)
                yield resample(samples)
            if done == first:
                raise InputError(f"{self.path} has no samples", remedy="give a recording with sound in it")
            if done < last < 1 << 62 and self._tells_length(file):  # libsndfile gives 2**63 - 1 where it does not know
                raise self._truncated(f"{done} of {file.frames} samples")
        yield resample(silence(0, channels), last=True)

    def _tells_length(self, file: soundfile.SoundFile) -> bool:
        """Whether the number of samples is the file's own, and no guess."""
        if file.format != "MP3":
            return True
        with self.path.open("rb") as raw:
            header = raw.read(ID3_HEADER)
            tag = 0
            if header[:3] == b"ID3":  # its length has seven bits a byte
                tag = ID3_HEADER + sum((byte & 0x7F) << shift for byte, shift in zip(header[6:], (21, 14, 7, 0)))
            raw.seek(tag)
            frame = raw.read(FIRST_FRAME)
        return any(mark in frame for mark in MP3_LENGTH)

    def _read(self, file: soundfile.SoundFile, n: int) -> F32:
        """The next ``n`` samples, fewer at the end: [≤ n, channels]."""
        try:
            chunk: F32 = file.read(n, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise self._unreadable(error) from None
        return chunk

    def _truncated(self, how_much: str) -> InputError:
        return InputError(f"{self.path} is truncated: {how_much}", remedy="copy the recording again")

    def _unreadable(self, error: Exception) -> InputError:
        """Why libsndfile failed, in words: the system's reason where there is one."""
        empty = False
        try:
            mode = self.path.stat().st_mode
            if stat.S_ISREG(mode) or stat.S_ISDIR(mode):  # a pipe that has been read would wait for another writer
                with self.path.open("rb") as file:
                    empty = not file.read(1)
        except (OSError, ValueError) as reason:
            if isinstance(reason, FileNotFoundError):
                return InputError(f"{self.path} does not exist", remedy="check the path")
            if isinstance(reason, IsADirectoryError):
                return InputError(f"{self.path} is a folder", remedy="edge-classify reads folders")
            why = getattr(reason, "strerror", None) or str(reason)
            remedy = "allow this user to read it" if isinstance(reason, PermissionError) else "check the path"
            return InputError(f"{self.path} cannot be read: {why}", remedy=remedy)
        if empty:
            return InputError(f"{self.path} is empty", remedy="give a recording with sound in it")
        why = getattr(error, "error_string", "its format must be guessed").rstrip(". \n")
        return InputError(f"{self.path} cannot be read: {why}", remedy="give a WAV, FLAC, Ogg or MP3 file")


def played(chunks: Iterator[F32], sample_rate: int, *, realtime: bool = False) -> Iterator[Block]:
    """``chunks`` as blocks of what is played from now on; with ``realtime``, each is given out when its last sample
    would have been recorded. Read faster than that, it is ahead of the clock: what comes later in it has a later time.
    """
    started, position = time.monotonic(), 0
    for samples in chunks:
        ahead = started + (position + len(samples)) / sample_rate - time.monotonic()
        if realtime and ahead > 0:
            time.sleep(ahead)
        elif not realtime and ahead < 0:
            started -= ahead  # the machine is slower than it is played: that is no lateness
        yield Block(samples, position, time.time() - (time.monotonic() - started) + position / sample_rate)
        position += len(samples)
