"""The folder of clips: their names, and the bounds on their age and size, which hold before a new one is written."""

from __future__ import annotations

import re
import shutil
import time
import unicodedata
from bisect import insort
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from edge.errors import EdgeError
from edge.files import replacing

DAY = 86_400.0  # seconds
DAY_NAME = re.compile(r"\d{4}-\d\d-\d\d")
CLIP_NAME = re.compile(r"\d{6}\.\d{3}Z_.+_[^_]+\.flac")  # what else lies there is not ours, and not counted
PART_NAME = re.compile(CLIP_NAME.pattern + r"\.\d+\.part")
LONGEST = 80  # bytes of a label in a name


class NoRoom(Exception):
    """The clip cannot be written without breaking a bound."""


class Clip(NamedTuple):
    """A file that is there."""

    time: float  # of the event's onset, seconds since the Unix epoch
    path: Path
    size: int  # bytes


class ClipFolder:
    """For threads that write: every method waits for the disk. Those that share one hold ``lock`` meanwhile."""

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int,
        max_days: float,
        min_free_bytes: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder, self._max_bytes, self._max_days, self._min_free = folder, max_bytes, max_days, min_free_bytes
        self._clock = clock
        self.lock = Lock()
        self._clips: list[Clip] = []  # the oldest first
        self.bytes = 0  # of all clips

    def scan(self) -> None:
        """Count the clips that are there, and delete what a power cut has left half written. Raises OSError."""
        for part in clips_in(self._folder, half_written=True):
            part.path.unlink(missing_ok=True)
        self._clips = clips_in(self._folder)
        self.bytes = sum(clip.size for clip in self._clips)

    def make_room(self, size: int, pruned: Callable[[Path], None]) -> None:
        """Delete the oldest clips until ``size`` bytes more break no bound; each is told to ``pruned``.

        Raises:
            NoRoom: ``size`` is more than all clips may have, or the disk has too little free space.
            OSError: a clip cannot be deleted.
        """
        oldest = self._clock() - self._max_days * DAY
        if size > self._max_bytes:
            raise NoRoom(f"{size} bytes are more than all clips may have")
        while self._clips and (self._clips[0].time < oldest or self.bytes + size > self._max_bytes):
            clip = self._clips[0]
            delete(clip.path)
            self._clips.pop(0)
            self.bytes -= clip.size
            pruned(clip.path)
        free = shutil.disk_usage(self._folder).free if size else 0
        if size and free - size < self._min_free:
            raise NoRoom(f"{free} bytes of the disk are free, {self._min_free} must remain")

    def save(self, path: Path, data: bytes) -> None:
        """Write a clip, for its owner's eyes; whole, or not at all. Raises OSError."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with replacing(path) as part:
            part.touch(0o600)
            part.write_bytes(data)
        at = _time_of(path)
        assert at is not None
        insort(self._clips, Clip(at, path, len(data)))
        self.bytes += len(data)


def clips_in(folder: Path, *, half_written: bool = False) -> list[Clip]:
    """The clips that are there, or what is being written or was left half written, the oldest first. Raises OSError."""
    name = PART_NAME if half_written else CLIP_NAME
    found = []
    for path in folder.glob("*/*"):
        at = _time_of(path) if DAY_NAME.fullmatch(path.parent.name) and name.fullmatch(path.name) else None
        with suppress(FileNotFoundError):  # renamed, or deleted, just now
            if at is not None:
                found.append(Clip(at, path, path.stat().st_size))
    return sorted(found)


def delete(clip: Path) -> bool:
    """Delete a clip, and the folder of its day with the last one; whether it was there. Raises OSError."""
    try:
        clip.unlink()
    except FileNotFoundError:
        return False
    with suppress(OSError):
        clip.parent.rmdir()
    return True


def make_folder(folder: Path) -> None:
    """Create the folder and write to it once. Raises EdgeError where that is not possible."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = folder / ".probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise EdgeError(
            f"clips cannot be written to {folder}: {error.strerror}", remedy="name a folder of yours, or keep no clips"
        ) from None


def clip_path(folder: Path, onset_time: float, label: str, event_id: str) -> Path:
    """``folder/YYYY-MM-DD/HHMMSS.mmmZ_label_id.flac``, in UTC, so that names sort by time."""
    at = datetime.fromtimestamp(onset_time, timezone.utc)
    moment = f"{at:%H%M%S}.{at.microsecond // 1000:03d}Z"
    return folder / f"{at:%Y-%m-%d}" / f"{moment}_{safe(label)}_{safe(event_id[:8]).replace('_', '-')}.flac"


def safe(text: str) -> str:
    """``text`` as a part of a file name on any file system: letters, marks and digits of any script, - and _."""
    kept = "".join(
        char if char in "-_" or unicodedata.category(char)[0] in "LMN" else "-"
        for char in unicodedata.normalize("NFC", text)
    )
    return kept.encode()[:LONGEST].decode(errors="ignore").strip("-") or "x"


def _time_of(path: Path) -> float | None:
    """Seconds since the Unix epoch; None where the name holds no time."""
    text = f"{path.parent.name} {path.name[:10]}+0000"
    try:
        return datetime.strptime(text, "%Y-%m-%d %H%M%S.%f%z").timestamp()
    except ValueError:
        return None
