"""What is heard behind the events: recordings by kind, and which classes may be in them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.soundscapes.decoded import Decoded, as_float
from edge.errors import InputError
from train.effects import power
from train.manifest import ManifestError
from train.negatives import TABLE, halves, read_negatives
from train.readers.walk import walk

F32 = NDArray[np.float32]

PINK_SECONDS = 60.0
# What is heard in the background noise of the Speech Commands set, which comes without a table.
SPEECH_COMMANDS = {
    "doing_the_dishes": ("pouring_water",),
    "dude_miaowing": ("cat",),
    "running_tap": ("pouring_water",),
}


@dataclass(frozen=True)
class Background:
    """A recording, or synthetic noise."""

    path: Path | None  # None: synthetic pink noise
    kind: str  # such as speech, music, ambience
    source: str  # where it came from; the two halves share none
    classes: tuple[str, ...] = ()  # that may be heard in it: neither expected there, nor false


PINK = Background(None, "pink", "synthetic")


def read_backgrounds(folders: Iterable[Path], half: str | None = None) -> tuple[Background, ...]:
    """The recordings of ``folders``, by their ``negatives.csv`` where they have one; pink noise where there are none.

    ``half``: of :data:`HALVES`, or None for all. Raises InputError for a folder or a half without recordings.
    """
    found = [background for folder in folders for background in _read(folder)]
    if not found:
        return (PINK,)
    of = halves((b.kind, b.source) for b in found)
    chosen = [b for b in found if half in (None, of[b.source])]
    if not chosen:
        raise InputError(f"the half {half!r} has no backgrounds", remedy="give more of them, or leave --half out")
    return tuple(chosen)


def sound_of(background: Background, decoded: Decoded) -> F32:
    """Its samples with unit power, [n]; of silence, silence."""
    if background.path is None:
        return _pink_minute(decoded.rate)
    samples = as_float(decoded.read(background.path))
    return samples / np.float32(np.sqrt(max(power(samples), 1e-20)))


def length_of(background: Background, decoded: Decoded) -> int:
    """Its samples."""
    return round(PINK_SECONDS * decoded.rate) if background.path is None else len(decoded.read(background.path))


def pink(n: int, rng: np.random.Generator) -> F32:
    """Noise of unit power with as much of it in every octave, [n]."""
    spectrum = np.fft.rfft(rng.standard_normal(n))
    spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 1))
    spectrum[0] = 0
    noise = np.fft.irfft(spectrum, n)
    return (noise / np.sqrt(np.mean(noise**2))).astype(np.float32)


@lru_cache(1)
def _pink_minute(rate: int) -> F32:
    return pink(round(PINK_SECONDS * rate), np.random.default_rng(0))


def _read(folder: Path) -> list[Background]:
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder", remedy="give one of recordings, with or without negatives.csv")
    found = _by_table(folder) if (folder / TABLE).is_file() else _by_folder(folder)
    if not found:
        raise InputError(f"{folder} has no recordings", remedy="give a folder of recordings")
    return found


def _by_table(folder: Path) -> list[Background]:
    try:
        rows = read_negatives(folder)
    except ManifestError as error:
        raise InputError(str(error), remedy="correct the table") from None
    return [Background(n.path, n.kind, n.source, tuple(sorted({*n.overlap, *n.partial}))) for n in rows]


def _by_folder(folder: Path) -> list[Background]:
    """A kind is a folder's name; every recording is a source of its own."""
    paths = walk(folder)[0]
    return [Background(p, p.parent.name, p.name, SPEECH_COMMANDS.get(p.stem, ())) for p in paths]
