"""Many recordings at once, over several processes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.classifier import Classifier
from edge.errors import EdgeError, InputError
from edge.listener import listen
from edge.models import resolve
from edge.sources.block import Source
from edge.sources.file import SoundFile
from edge.workers import mapped

F32 = NDArray[np.float32]

# The containers that libsndfile reads and that people have; other files in a folder are passed over.
SUFFIXES = frozenset(
    {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".w64", ".rf64"}
)


@dataclass(frozen=True)
class FileResult:
    """What was found in one recording, or why it could not be read."""

    path: Path
    probs: F32 | None  # [n_labels], the mean over the windows
    windows: F32 | None  # [n_windows, n_labels]
    energies: F32 | None = None  # [n_windows]; None also of a model that does not tell
    unknown: tuple[bool, ...] = ()  # of each window: probably none of the classes
    spans: tuple[tuple[float, float], ...] = ()  # onset and offset of each window, seconds
    error: str | None = None  # one line


def find_recordings(paths: Iterable[Path]) -> list[Path]:
    """Files as they are named, folders as the recordings in and below them, sorted.

    A folder that may not be entered stands for itself: whoever reads it as a recording is told why. Raises InputError
    where there are none.
    """
    paths = list(paths)
    found: list[Path] = []
    for path in paths:
        found += sorted(_recordings_below(path)) if os.path.isdir(path) else [path]  # noqa: PTH112  (it never raises)
    if not found:
        names = ", ".join(map(str, paths))
        raise InputError(f"no recordings in {names}", remedy="give sound files, or a folder of them")
    return found


def _recordings_below(folder: Path) -> Iterator[Path]:
    closed: list[Path] = []
    for place, _, names in os.walk(folder, onerror=lambda error: closed.append(Path(error.filename))):
        yield from (path for path in map(Path(place).joinpath, names) if _is_recording(path))
    yield from closed


def _is_recording(path: Path) -> bool:
    if path.suffix.lower() not in SUFFIXES:
        return False
    try:
        return path.is_file()
    except OSError:
        return True  # it will be named as unreadable


def classify_source(classifier: Classifier, source: Source, hop: float | None = None) -> FileResult:
    """Every window of one recording, through the very loop that listens. An unreadable one has ``error``."""
    path = Path(source.name)
    try:
        heard = list(listen(source, classifier, hop))
    except EdgeError as error:
        return FileResult(path, None, None, error=str(error))
    windows = np.stack([w.probs for w in heard])
    told = [w.energy for w in heard if w.energy is not None]
    energies = np.array(told, np.float32) if told else None
    spans = tuple((w.onset, w.offset) for w in heard)
    return FileResult(path, windows.mean(axis=0), windows, energies, tuple(w.unknown for w in heard), spans)


def classify_files(
    paths: Iterable[Path],
    model: str | Path | None = None,
    *,
    hop: float | None = None,
    channel: int | None = None,
    provider: str = "auto",
    workers: int | None = None,
) -> Iterator[FileResult]:
    """The results of ``paths``, in their order; see :func:`classify_sources`."""
    sources = [SoundFile(path, channel=channel) for path in paths]
    return classify_sources(sources, model, hop=hop, provider=provider, workers=workers)


def classify_sources(
    sources: Sequence[Source],
    model: str | Path | None = None,
    *,
    hop: float | None = None,
    provider: str = "auto",
    workers: int | None = None,
) -> Iterator[FileResult]:
    """The results of ``sources``, which can be pickled, in their order, by ``workers`` processes (one for each core).

    Raises:
        EdgeError: when the model cannot be used, or a worker dies.
    """
    path = resolve(model)  # once: workers do not ask the network
    workers = min(workers or os.cpu_count() or 1, len(sources))
    if workers <= 1:
        classifier = Classifier(path, provider=provider)
        yield from (classify_source(classifier, source, hop) for source in sources)
        return
    tasks = [(source, hop) for source in sources]
    yield from mapped(_work, tasks, workers, start=_start_worker, arguments=(path, provider), chunk=4)


_worker: Classifier  # of this process


def _start_worker(model: Path, provider: str) -> None:
    global _worker  # noqa: PLW0603
    _worker = Classifier(model, provider=provider)


def _work(task: tuple[Source, float | None]) -> FileResult:
    return classify_source(_worker, *task)
