"""Recordings that are none of the classes: speech, music, places. One half is for learning, the other for reporting."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from train.manifest import Manifest, ManifestError
from train.readers.walk import walk

TABLE = "negatives.csv"
HALVES = ("develop", "report")
COLUMNS = ("filename", "kind", "esc50_overlap", "esc50_partial", "source")


@dataclass(frozen=True)
class Negative:
    """A recording that is no event: a row of the table."""

    path: Path
    kind: str  # "speech", "music", "ambience"
    source: str  # the collection it was taken from
    overlap: tuple[str, ...]  # classes that are what is heard
    partial: tuple[str, ...]  # classes that may be heard now and then
    half: str  # "develop": may be learnt from; "report": never, so that it can be reported on


def halves(sources: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The half that all recordings of a source are in, of (kind, source) of every recording.

    The sources are taken in the order of the SHA-256 of their names; each goes to the half that has fewer recordings of
    its kind so far. No source is in both: its microphone and its voices would give it away.
    """
    count = Counter(sources)
    found: dict[str, str] = {}
    held: Counter[tuple[str, str]] = Counter()
    for kind, source in sorted(count, key=lambda pair: (hashlib.sha256(pair[1].encode()).hexdigest(), *pair)):
        half = found.setdefault(source, min(HALVES, key=lambda h: held[h, kind]))
        held[half, kind] += count[kind, source]
    return found


def read_negatives(folder: Path) -> list[Negative]:
    """The rows of ``folder/negatives.csv``, in their order. Raises ManifestError."""
    try:
        with (folder / TABLE).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), reader.fieldnames or ()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(
            f"{folder / TABLE} cannot be read: {error}; it is a table of {', '.join(COLUMNS)}"
        ) from None
    if missing := [name for name in COLUMNS if name not in columns]:
        raise ManifestError(f"{folder / TABLE} has no column {missing[0]!r}; it needs {', '.join(COLUMNS)}")
    of = halves((row["kind"] or "", row["source"] or "") for row in rows)
    return [_negative(folder, row, of[row["source"] or ""]) for row in rows]


def none_of(labels: Sequence[str], negatives: Sequence[Negative], *, faint: bool = False) -> list[Negative]:
    """Those that are none of ``labels``. ``faint``: also those in which one of them may be heard now and then."""
    classes = set(labels)
    return [n for n in negatives if not classes & set(n.overlap if faint else n.overlap + n.partial)]


def recordings(folders: Iterable[str | Path], labels: Sequence[str], *, faint: bool = False) -> list[Negative]:
    """What may be learnt from ``folders`` as none of ``labels``; see :func:`none_of`.

    Of a folder with a table it is the half "develop"; of another one all recordings in and below it, as a data set is
    read, whose kind is the name of the folder that they lie in. A file is one itself.

    Raises:
        ManifestError: for a folder that does not exist, and a table that cannot be read.
    """
    found: list[Negative] = []
    for folder in map(Path, folders):
        if (folder / TABLE).is_file():
            found += [n for n in none_of(labels, read_negatives(folder), faint=faint) if n.half == "develop"]
        elif not folder.exists():
            raise ManifestError(f"{folder} does not exist; give a folder of recordings")
        else:
            paths = walk(folder)[0] if folder.is_dir() else [folder]
            found += [Negative(p, p.parent.name, str(p), (), (), "develop") for p in paths]
    return found


def passed_over(folders: Iterable[str | Path]) -> list[str]:
    """What :func:`recordings` cannot take of ``folders``: sound in other formats, folders that cannot be read."""
    walked = [folder for folder in map(Path, folders) if folder.is_dir() and not (folder / TABLE).is_file()]
    return [line for folder in walked for line in walk(folder)[1]]


def check_none_are_clips(negatives: Sequence[Negative], manifest: Manifest) -> None:
    """Raises ManifestError where some of ``negatives`` are clips of the data set, and so not none of its classes."""
    own = {clip.path.resolve() for clip in manifest.clips}
    if known := [n for n in negatives if n.path.resolve() in own]:
        raise ManifestError(
            f"{len(known)} of the outliers are clips of {manifest.name}, the first: {known[0].path}; they would be "
            "taught to be none of its classes: give --outliers a folder without them"
        )


def kind_weights(negatives: Sequence[Negative]) -> NDArray[np.float64]:
    """How often each is drawn, relatively, so that every kind is drawn as often as any other."""
    count = Counter(n.kind for n in negatives)
    return np.array([1 / count[n.kind] for n in negatives])


def _negative(folder: Path, row: dict[str, str | None], half: str) -> Negative:
    filename, kind, overlap, partial, source = (row[name] or "" for name in COLUMNS)
    if not filename:
        raise ManifestError(f"{folder / TABLE}: a row has no filename; each row names a recording below {folder}")
    return Negative(folder / filename, kind, source, _labels(overlap), _labels(partial), half)


def _labels(cell: str) -> tuple[str, ...]:
    return tuple(filter(None, map(str.strip, cell.split(";"))))
