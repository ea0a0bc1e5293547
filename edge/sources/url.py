"""A stream on the network, through ffmpeg: RTSP cameras, HTTP radios."""

from __future__ import annotations

import atexit
import errno
import os
import select
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from io import RawIOBase
from typing import IO, BinaryIO, cast
from urllib.parse import urlsplit

from edge.errors import InputError
from edge.secret import without_password
from edge.sources.block import Block
from edge.sources.pcm import PcmStream

SCHEMES = ("http", "https", "rtsp", "rtsps", "rtmp", "srt", "udp")
CONNECT_SECONDS, STALL_SECONDS = 30.0, 10.0  # without a sample, at the beginning and later, until it is given up
ENDING_SECONDS = 2.0  # that ffmpeg has to end by itself, once its output is over
SAID_BYTES = 4096  # of its last complaints that are kept: a stream may go on for months
RECORDING_SPEED = 1.25  # times its own speed, from which what comes over HTTP is a recording: it may end


class _Children:
    """The processes of this module. None is left behind: not of a thread that waits for a stream without sound, nor of
    one that is just starting it when the program ends.
    """

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock, self._over = threading.Lock(), False
        atexit.register(self.end)

    def start(self, command: list[str]) -> subprocess.Popen[bytes]:
        """In a session of its own: Ctrl-C is for us, and else would look as if the stream had ended. Raises OSError."""
        with self._lock:
            if self._over:
                raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
            self._running.add(process)
        return process

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """End it, if it has not."""
        process.kill()
        with self._lock:
            self._running.discard(process)

    def end(self) -> None:
        """Kill them all, and start no other."""
        with self._lock:
            self._over = True
            for process in self._running:
                process.kill()


_children = _Children()


class _Output(RawIOBase):
    """What ffmpeg writes: the sound, which is not waited for without end, and the last of what it complains of."""

    def __init__(self, sound: IO[bytes], words: IO[bytes]) -> None:
        self._sound, self._words, self._limit = sound, words, CONNECT_SECONDS
        self._open = [sound, words]
        self._said = b""
        self.read_bytes = 0  # of sound

    def read1(self, size: int) -> bytes:
        """The sound that is there, as soon as some is. Raises InputError after too long a time."""
        until, ready = time.monotonic() + self._limit, list[IO[bytes]]()
        while self._sound not in ready:
            left = until - time.monotonic()
            ready = select.select(self._open, [], [], max(0.0, left))[0]
            if self._words in ready:
                self._hear()
            if left <= 0 and self._sound not in ready:
                raise InputError(
                    f"no sound for {self._limit:g} s", remedy="check the address, and the network", reason="unreachable"
                )
        self._limit = STALL_SECONDS
        data = os.read(self._sound.fileno(), size)
        self.read_bytes += len(data)
        return data

    def last_words(self) -> str:
        """The last line of its complaints, once it has ended."""
        if self._words in select.select(self._open, [], [], 0)[0]:
            self._hear()
        lines = self._said.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def _hear(self) -> None:
        words = os.read(self._words.fileno(), 1 << 16)  # as much as a pipe holds
        self._said = (self._said + words)[-SAID_BYTES:]
        if not words:
            self._open.remove(self._words)


class UrlStream:
    """The sound of a URL. ffmpeg is started when it is opened, and ends with it.

    Raises InputError for what is no URL, or of a scheme that is not known.
    """

    def __init__(self, url: str, *, channel: int | None = None) -> None:
        self._url, self._channel = url, channel
        self.name = without_password(url)
        self._live: bool | None = None  # whether it comes as fast as it sounds; None: not known
        try:
            known = urlsplit(url).scheme in SCHEMES
        except ValueError:
            known = False
        if not known:
            raise InputError(f"{self.name} is no stream", remedy=f"a file, or a URL of: {', '.join(SCHEMES)}")

    def ready(self) -> bool:
        """Always: only an attempt tells."""
        return True

    def ended(self) -> bool:
        """Whether it was a recording, which may end: one comes as fast as the network can. A live stream is lost."""
        return self._live is False

    def blocks(self, sample_rate: int, length: int, first: int | None = None, channels: int = 1) -> Iterator[Block]:
        """See :class:`edge.sources.block.Source`; raises InputError, at once where there is no ffmpeg."""
        ffmpeg = shutil.which("ffmpeg")
        if ffmpeg is None:
            raise InputError(f"{self.name} needs ffmpeg, which is not there", remedy="apt install ffmpeg", reason="")
        return self._blocks(ffmpeg, sample_rate, length, first, channels)

    def _blocks(self, ffmpeg: str, rate: int, length: int, first: int | None, channels: int) -> Iterator[Block]:
        captured = channels if self._channel is None else self._channel + 1
        transport = ["-rtsp_transport", "tcp"] if self._url.lower().startswith("rtsp") else []
        command = [ffmpeg, "-nostdin", "-loglevel", "error", *transport, "-i", self._url, "-vn"]
        command += ["-ac", str(captured), "-ar", str(rate), "-f", "s16le", "-"]
        try:
            process = _children.start(command)
        except OSError as error:  # no memory, too many files: it may pass
            raise InputError(
                f"{self.name}: ffmpeg cannot be started: {error.strerror}",
                remedy="free memory, processes or files",
                reason="unreachable",
            ) from None
        with process:
            output = _Output(cast(IO[bytes], process.stdout), cast(IO[bytes], process.stderr))
            try:
                started = time.monotonic()
                pcm = PcmStream(rate, captured, channel=self._channel, file=cast(BinaryIO, output))
                yield from pcm.blocks(rate, length, first, channels)
                if _exit_code(process):
                    raise self._error(output)
                seconds = output.read_bytes / (2 * captured * rate)
                fast = seconds > RECORDING_SPEED * (time.monotonic() - started)
                # Once live, always: it begins with what it has buffered, and may be lost again before that is heard.
                self._live = self._live or not (fast and self._url.lower().startswith("http"))
            except InputError as error:
                if process.poll() is None and error.reason:
                    raise InputError(f"{self.name}: {error.what}", remedy=error.remedy, reason=error.reason) from None
                _exit_code(process)
                raise self._error(output) from None
            finally:
                _children.kill(process)

    def _error(self, output: _Output) -> InputError:
        why = output.last_words().replace(self._url, self.name)[:200]
        return InputError(
            f"{self.name} cannot be heard: {why or 'it has ended'}",
            remedy="check the address, and that it has sound",
            reason="unreachable",
        )


def _exit_code(process: subprocess.Popen[bytes]) -> int:
    """That of one whose output is over. If it does not end, it is killed."""
    with suppress(subprocess.TimeoutExpired):
        return process.wait(ENDING_SECONDS)
    process.kill()
    return process.wait()
