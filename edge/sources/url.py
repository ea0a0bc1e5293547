"""A stream on the network, through ffmpeg: RTSP cameras, HTTP radios."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from typing import BinaryIO, cast
from urllib.parse import urlsplit

from edge.errors import InputError
from edge.secret import without_password
from edge.sources.block import Block
from edge.sources.pcm import PcmStream

SCHEMES = ("http", "https", "rtsp", "rtsps", "rtmp", "srt", "udp")


class UrlStream:
    """The sound of a URL. ffmpeg is started when it is opened, and ends with it.

    Raises InputError for what is no URL, or of a scheme that is not known.
    """

    def __init__(self, url: str, *, channel: int | None = None) -> None:
        self._url, self._channel = url, channel
        self.name = without_password(url)
        try:
            known = urlsplit(url).scheme in SCHEMES
        except ValueError:
            known = False
        if not known:
            raise InputError(f"{self.name} is no stream", remedy=f"a file, or a URL of: {', '.join(SCHEMES)}")

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
                pcm = PcmStream(rate, captured, channel=self._channel, file=cast(BinaryIO, process.stdout))
                yield from pcm.blocks(rate, length, first, channels)
                if process.wait():
                    raise self._error(said)
            except InputError:
                process.wait()
                raise self._error(said) from None
            finally:
                process.kill()
                atexit.unregister(process.kill)

    def _error(self, said: object) -> InputError:
        said.seek(0)  # type: ignore[attr-defined]
        lines = said.read().decode(errors="replace").strip().splitlines()  # type: ignore[attr-defined]
        why = lines[-1].replace(self._url, self.name)[:200] if lines else "it ended without a sample"
        return InputError(f"{self.name} cannot be heard: {why}", remedy="check the address, and that it has sound", reason="unreachable")
