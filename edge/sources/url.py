"""A stream on the network, through ffmpeg: RTSP cameras, HTTP radios."""

from __future__ import annotations

import atexit
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from io import RawIOBase
from typing import IO, BinaryIO, cast
from urllib.parse import urlsplit

from edge.errors import InputError
from edge.secret import without_password
from edge.sources.block import Block
from edge.sources.pcm import PcmStream

SCHEMES = ("http", "https", "rtsp", "rtsps", "rtmp", "srt", "udp")
CONNECT_SECONDS, STALL_SECONDS = 30.0, 10.0  # without a sample, at the beginning and later, until it is given up
RECORDING_SPEED = 1.25  # times its own speed, from which what comes over HTTP is a recording: it may end


class _Patient(RawIOBase):
    """The readable end of a pipe, which is not waited for without end."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe, self._limit = pipe, CONNECT_SECONDS
        self.read_bytes = 0

    def read1(self, size: int) -> bytes:
        """What is there, as soon as something is. Raises InputError after too long a time."""
        if not select.select([self._pipe], [], [], self._limit)[0]:
            raise InputError(
                f"no sound for {self._limit:g} s", remedy="check the address, and the network", reason="unreachable"
            )
        self._limit = STALL_SECONDS
        data = os.read(self._pipe.fileno(), size)
        self.read_bytes += len(data)
        return data


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
        with (
            tempfile.TemporaryFile() as said,
            # In a session of its own: Ctrl-C is for us, and else would look as if the stream had ended.
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, start_new_session=True) as process,
        ):
            atexit.register(process.kill)  # a thread that waits for a stream without sound does not come to its end
            try:
                started, pipe = time.monotonic(), _Patient(cast(IO[bytes], process.stdout))
                pcm = PcmStream(rate, captured, channel=self._channel, file=cast(BinaryIO, pipe))
                yield from pcm.blocks(rate, length, first, channels)
                if process.wait():
                    raise self._error(said)
                seconds = pipe.read_bytes / (2 * captured * rate)
                fast = seconds > RECORDING_SPEED * (time.monotonic() - started)
                # Once live, always: it begins with what it has buffered, and may be lost again before that is heard.
                self._live = self._live or not (fast and self._url.lower().startswith("http"))
            except InputError as error:
                if process.poll() is None and error.reason:
                    raise InputError(f"{self.name}: {error.what}", remedy=error.remedy, reason=error.reason) from None
                process.wait()
                raise self._error(said) from None
            finally:
                process.kill()
                atexit.unregister(process.kill)

    def _error(self, said: object) -> InputError:
        said.seek(0)  # type: ignore[attr-defined]
        lines = said.read().decode(errors="replace").strip().splitlines()  # type: ignore[attr-defined]
        why = lines[-1].replace(self._url, self.name)[:200] if lines else "it ended without a sample"
        return InputError(
            f"{self.name} cannot be heard: {why}",
            remedy="check the address, and that it has sound",
            reason="unreachable",
        )
