"""Recordings at one rate, each decoded once, and mapped into memory from the disk."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.files import replacing
from edge.sources.file import SoundFile

F32 = NDArray[np.float32]
I16 = NDArray[np.int16]

FULL_SCALE = 32768


class Decoded:
    """Recordings as one channel at ``rate`` Hz; ``folder`` keeps them for the next time, None only as long as this."""

    def __init__(self, rate: int, folder: Path | None = None) -> None:
        self.rate = rate
        self.folder = folder
        self._held: dict[str, I16] = {}

    def read(self, path: Path, start: float = 0.0, end: float | None = None) -> I16:
        """From ``start`` to ``end`` seconds, [n]. Raises InputError for what cannot be read."""
        key = f"{identity(path)} {start} {end} {self.rate}"
        if key not in self._held:
            self._held[key] = self._load(key, path, start, end)
        return self._held[key]

    def _load(self, key: str, path: Path, start: float, end: float | None) -> I16:
        if self.folder is None:
            return self._decode(path, start, end)
        stored = self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npy"
        if not stored.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(stored) as part, part.open("wb") as file:
                np.save(file, self._decode(path, start, end))
        mapped: I16 = np.load(stored, mmap_mode="r")
        return mapped

    def _decode(self, path: Path, start: float, end: float | None) -> I16:
        samples = SoundFile(path, start=start, end=end).read(self.rate)
        return np.clip(np.round(samples * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


def as_float(samples: I16) -> F32:
    """In [-1, 1]."""
    return samples.astype(np.float32) / np.float32(FULL_SCALE)


def identity(path: Path) -> str:
    """Changes when the recording does; the same recording may lie elsewhere."""
    try:
        stat = path.stat()
    except OSError:  # whoever reads it says so
        return path.name
    return f"{path.name} {stat.st_size} {stat.st_mtime_ns}"
