"""Clips of events: what was heard before, during and after one, as a FLAC file. ``docs/clips.md`` is their page.

The thread that listens only copies samples into a ring and notes what is wanted; another thread writes. A disk that
hangs costs clips, which are counted, and never sound.
"""

from __future__ import annotations

import io
import logging
import queue
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge.clip_folder import ClipFolder, NoRoom, clip_path, make_folder
from edge.events import Event
from edge.names import encodable
from edge.records import Record, record, rfc3339
from edge.ring import Overrun, RingBuffer
from edge.settings import require

F32 = NDArray[np.float32]

log = logging.getLogger("edge.clips")

SLACK_SECONDS = 10.0  # of sound kept beyond the longest clip: time for an event to be told, and for the disk
MAX_OPEN = 16  # clips that are being recorded at a time
MAX_WAITING = 8  # clips that wait for the disk
PRUNE_SECONDS = 3600.0  # between two looks at the age of clips, where none is written
TOO_SLOW = "the disk is too slow"


@dataclass(frozen=True)
class ClipsConfig:
    """Whether, where and how much sound is kept."""

    folder: str = ""  # of the clips; "": none are kept
    pre_roll: float = 3.0  # seconds before the onset
    post_roll: float = 2.0  # seconds after the offset
    max_seconds: float = 30.0  # of one clip with its pre- and post-roll; of a longer event the beginning is kept
    max_bytes: int = 1_000_000_000  # of all clips; the oldest go first
    max_days: float = 30.0  # age at which a clip is deleted
    min_free_bytes: int = 500_000_000  # of the disk: where less is free, no clip is written

    def __post_init__(self) -> None:
        require(0 <= self.pre_roll <= 60, "pre_roll", self.pre_roll, "0 to 60")
        require(0 <= self.post_roll <= 60, "post_roll", self.post_roll, "0 to 60")
        least = self.pre_roll + self.post_roll
        require(least < self.max_seconds <= 600, "max_seconds", self.max_seconds, f"above {least:g}, at most 600")
        require(self.max_bytes > 0, "max_bytes", self.max_bytes, "above 0")
        require(0 < self.max_days <= 36_500, "max_days", self.max_days, "above 0, at most 36500")
        require(self.min_free_bytes >= 0, "min_free_bytes", self.min_free_bytes, "0 or more")


class Voice(Protocol):
    """Tells whether a voice is heard; see :class:`edge.privacy.VoiceFilter`."""

    def __call__(self, samples: F32, sample_rate: int, onset: float, offset: float) -> bool:
        """Of [n, channels], between two points in seconds of stream."""


@dataclass
class Wanted:
    """A clip that is being recorded, or waits to be written."""

    event: Event  # as it began
    path: Path
    start: int  # position in the ring of its first sample
    stop: int  # position in the ring after its last sample
    onset: float  # of its first sample, seconds of stream


class ClipRecorder:
    """``push``, ``begin`` and ``end`` never wait for the disk; they and ``close`` are for the thread that listens.

    What becomes of each clip is told to ``news``, as a record of type ``clip``, from the one thread or the other: it
    must not block.
    """

    def __init__(
        self,
        config: ClipsConfig,
        sample_rate: int,
        channels: int = 1,
        *,
        source: str = "",
        voice: Voice | None = None,
        news: Callable[[Record], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
        patient: bool = False,
        folder: ClipFolder | None = None,
    ) -> None:
        """``patient``: wait for the disk, for a recording, which can; it is heard faster than clips are written.
        ``folder`` is that of ``config``, where several recorders share it.

        Raises EdgeError where it cannot be written to, or is none.
        """
        require(config.folder != "", "clips folder", config.folder, "a folder")
        self._root = Path(config.folder).absolute()
        root = str(self._root)  # a record must hold it as it is: clips are found, and erased, by their paths in records
        require(encodable(root) == root, "clips folder", root, "a path in UTF-8")
        make_folder(self._root)
        self._config, self._rate, self._source = config, sample_rate, source
        self._voice, self._news, self._clock = voice, news, clock
        self._folder = folder or folder_of(config, clock)
        seconds = config.max_seconds + SLACK_SECONDS
        self._ring = RingBuffer(round(seconds * sample_rate), channels)
        self._zeros: F32 = np.zeros((sample_rate, channels), np.float32)
        self._origin = 0  # position in the stream of the ring's position 0
        self._oldest = 0  # position in the ring at which this stretch of stream begins
        self._open: dict[str, Wanted] = {}  # by the id of the event
        self._jobs: queue.Queue[Wanted | None] = queue.Queue(MAX_WAITING)
        self._patient, self._closing = patient, False
        self._worker = Thread(target=self._work, name="clips", daemon=True)  # from the first sample on

    def push(self, samples: F32, position: int) -> None:
        """Keep float32 [n] or [n, channels]; the first of them is at ``position`` in the stream, in samples.

        What is missing before them counts as silence, up to the length of the ring.
        """
        if self._worker.ident is None:
            self._worker.start()
        self._reach(position)
        self._ring.write(samples[:, None] if samples.ndim == 1 else samples)
        written = self._ring.written
        for wanted in [wanted for wanted in self._open.values() if wanted.stop <= written]:
            self._submit(wanted)
        if self._patient:
            self._jobs.join()

    def begin(self, event: Event) -> Path | None:
        """Record a clip of the event. The file that it will be, unless it is withheld or dropped; None: too many."""
        path = clip_path(self._root, event.onset_time, event.label, event.id)
        if len(self._open) >= MAX_OPEN:
            self._tell("dropped", event, path, f"{MAX_OPEN} clips are being recorded")
            return None
        start = max(
            self._at(event.onset - self._config.pre_roll), self._oldest, self._ring.written - self._ring.capacity
        )
        stop = start + round(self._config.max_seconds * self._rate)
        self._open[event.id] = Wanted(event, path, start, stop, (start + self._origin) / self._rate)
        return path

    def end(self, event: Event) -> None:
        """The clip of the event is complete with the post-roll, or was with its longest length."""
        wanted = self._open.get(event.id)
        if wanted is None or event.offset is None:
            return
        wanted.stop = min(wanted.stop, self._at(event.offset + self._config.post_roll))
        if wanted.stop <= self._ring.written:
            self._submit(wanted)

    def close(self, timeout: float = 10.0) -> None:
        """Write what has been recorded; clips that take longer than ``timeout`` seconds are dropped."""
        if self._worker.ident is None:
            return
        self.cut()
        self._closing = True
        with suppress(queue.Full):
            self._jobs.put_nowait(None)  # wakes it; where it is full, it is awake
        self._worker.join(timeout)
        with suppress(queue.Empty):
            while self._worker.is_alive():
                if (wanted := self._jobs.get_nowait()) is not None:
                    self._tell("dropped", wanted.event, wanted.path, TOO_SLOW)

    def _at(self, seconds: float) -> int:
        """Seconds of stream → position in the ring."""
        return round(seconds * self._rate) - self._origin

    def _reach(self, position: int) -> None:
        """Fill what is missing up to ``position``, or begin anew where that is longer than the ring, or in the past."""
        missing = position - self._origin - self._ring.written
        if not 0 <= missing <= self._ring.capacity:
            self.cut()
            self._origin = position - self._ring.written
            self._oldest = self._ring.written
            return
        for done in range(0, missing, len(self._zeros)):
            self._ring.write(self._zeros[: missing - done])

    def cut(self) -> None:
        """End all clips with what there is: the source is away, or at its end."""
        for wanted in list(self._open.values()):
            wanted.stop = min(wanted.stop, self._ring.written)
            self._submit(wanted)

    def _submit(self, wanted: Wanted) -> None:
        del self._open[wanted.event.id]
        try:
            self._jobs.put_nowait(wanted)
        except queue.Full:
            self._tell("dropped", wanted.event, wanted.path, TOO_SLOW)

    def _tell(self, state: str, event: Event | None, path: Path, reason: str | None = None) -> None:
        fields = {"state": state, "path": str(path), "reason": reason}
        self._news(record("clip", self._source, self._clock(), **_of(event), **fields))

    def _work(self) -> None:
        """The other thread."""
        folder, scanned = self._folder, False
        while not (self._closing and self._jobs.empty()):
            try:
                if not scanned:
                    with folder.lock:
                        folder.scan()
                        scanned = True
                        folder.make_room(0, self._pruned)
                wanted = self._jobs.get(timeout=PRUNE_SECONDS)
            except queue.Empty:
                scanned = False  # others may have deleted some; those that are too old go
                continue
            except OSError as error:
                log.warning("the clips in %s cannot be counted: %s", self._root, error.strerror)
                wanted = self._jobs.get()
            if wanted is not None:
                self._finish(wanted, folder if scanned else None)
            self._jobs.task_done()

    def _finish(self, wanted: Wanted, folder: ClipFolder | None) -> None:
        """Write a clip, or say why not."""
        state, reason = "dropped", None
        try:
            samples = self._ring.read(wanted.start, max(0, wanted.stop - wanted.start))
            if not len(samples):
                reason = "nothing of it was recorded"
            elif self._is_private(samples, wanted):
                state, reason = "withheld", "a voice is heard"
            elif folder is None:
                reason = "the folder cannot be read"
            else:
                data = as_flac(samples, self._rate)
                with folder.lock:
                    folder.make_room(len(data), self._pruned)
                    folder.save(wanted.path, data)
                state = "written"
        except Overrun:
            reason = TOO_SLOW
        except NoRoom as error:
            reason = str(error)
        except Exception as error:  # also of the encoder: it costs this clip, and no other
            reason = f"it cannot be written: {getattr(error, 'strerror', None) or error}"
        self._tell(state, wanted.event, wanted.path, reason)

    def _is_private(self, samples: F32, wanted: Wanted) -> bool:
        if self._voice is None:
            return False
        try:
            return self._voice(samples, self._rate, wanted.onset, wanted.onset + len(samples) / self._rate)
        except Exception:
            log.exception("the voice filter failed: the clip is withheld")
            return True

    def _pruned(self, path: Path) -> None:
        self._tell("pruned", None, path)


def folder_of(config: ClipsConfig, clock: Callable[[], float] = time.time) -> ClipFolder:
    """The folder of ``config``, with its bounds."""
    return ClipFolder(
        Path(config.folder).absolute(),
        max_bytes=config.max_bytes,
        max_days=config.max_days,
        min_free_bytes=config.min_free_bytes,
        clock=clock,
    )


def _of(event: Event | None) -> Record:
    """What a clip's record says of its event; nothing of one that was deleted long after."""
    if event is None:
        return dict.fromkeys(("id", "label", "onset_time"))
    return {"id": event.id, "label": event.label, "onset_time": rfc3339(event.onset_time)}


def as_flac(samples: F32, sample_rate: int) -> bytes:
    """[n, channels] as a FLAC file of 16 bits; what exceeds full scale is clipped."""
    import soundfile

    file = io.BytesIO()
    samples = np.clip(np.nan_to_num(samples), -1.0, 1.0)
    soundfile.write(file, samples, sample_rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()
