"""Recordings of others, with their own truth beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmarks.soundscapes.hear import Heard, hear
from benchmarks.soundscapes.truth import Span, Truth, read_spans
from edge.classifier import Classifier
from edge.errors import InputError
from edge.sources.file import SoundFile
from train.readers.walk import walk

SUFFIXES = (".csv", ".tsv", ".txt", ".ann")


def hear_recordings(
    paths: Iterable[Path], classifier: Classifier, hop: float | None = None, table: Path | None = None
) -> Iterator[Heard]:
    """Each recording of ``paths`` (files and folders). The truth is in ``table``, which names the recordings, or in
    a list beside each, with its name.

    Raises InputError for a recording without truth, and for what cannot be read.
    """
    listed = read_spans(table) if table else None
    for path in [found for given in paths for found in (walk(given)[0] if given.is_dir() else [given])]:
        events = _beside(path) if listed is None else _listed(path, listed, table)
        windows = hear(SoundFile(path), classifier, hop)
        seconds = max([windows[-1].offset, *(event.offset for event in events)])
        yield Heard(str(path), Truth(seconds, tuple(events), *_more(path)), windows)


def _beside(path: Path) -> list[Span]:
    for suffix in SUFFIXES:
        if (beside := path.with_suffix(suffix)).is_file():
            return _only(read_spans(beside), beside)
    raise InputError(f"{path} has no truth beside it", remedy=f"write {path.with_suffix('.csv').name}, or give --truth")


def _listed(path: Path, listed: dict[str, list[Span]], table: Path | None) -> list[Span]:
    """A recording that is named without events has none: its line says so by being absent from a list of one."""
    for name, events in listed.items():
        if Path(name).name in (path.name, path.stem):
            return events
    if set(listed) <= {""}:
        return listed.get("", [])
    raise InputError(f"{table} has no events of {path.name}", remedy="leave the recording out, or correct the name")


def _only(found: dict[str, list[Span]], where: Path) -> list[Span]:
    if len(found) > 1:
        raise InputError(f"{where} is of {len(found)} recordings", remedy="give it as --truth")
    return next(iter(found.values()), [])


def _more(path: Path) -> Iterator[tuple[Span, ...]]:
    """What this benchmark writes beside its own scenes."""
    for suffix in (".ignored.csv", ".backgrounds.csv"):
        beside = path.with_suffix(suffix)
        yield tuple(_only(read_spans(beside), beside)) if beside.is_file() else ()
