"""A data set in figures, and what is wrong with it."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from train.clip import Clip
from train.facts import Facts
from train.manifest import Manifest, ManifestError, ReadOptions, read_manifest

SHORT = 0.5  # seconds; a clip below is hardly more than padding
SILENT = 0.9  # share of silence of a clip that is called silent
CLIPPED = 0.001  # share of clipped samples of a clip that is called clipped
OFFSET = 0.01  # of full scale

Measured = tuple[Clip, Facts]
T = TypeVar("T", int, str)


@dataclass(frozen=True)
class Summary:
    """The readable clips of one class, or all."""

    label: str
    clips: int
    folds: dict[int, int]  # clips in each fold
    seconds: float  # in all
    shortest: float  # seconds
    median: float  # seconds
    longest: float  # seconds
    level_db: float  # median of the clips' RMS, relative to full scale
    silence: float  # share of the time
    clipped: int  # clips

    @classmethod
    def of(cls, label: str, measured: Sequence[Measured]) -> Summary:
        """The summary of ``measured``, of which there may be none."""
        seconds = [facts.seconds for _, facts in measured] or [0.0]
        return cls(
            label,
            len(measured),
            dict(sorted(Counter(clip.fold for clip, _ in measured).items())),
            sum(seconds),
            min(seconds),
            statistics.median(seconds),
            max(seconds),
            statistics.median([facts.level_db for _, facts in measured] or [-200.0]),
            sum(facts.silence * facts.seconds for _, facts in measured) / max(sum(seconds), 1e-9),
            sum(facts.clipped > CLIPPED for _, facts in measured),
        )


@dataclass(frozen=True)
class Duplicate:
    """Clips with the same samples."""

    clips: tuple[str, ...]  # their names
    labels: tuple[str, ...]  # more than one: they contradict each other
    folds: tuple[int, ...]  # more than one: what is tested was trained on


@dataclass(frozen=True)
class Description:
    """All that ``describe`` says."""

    name: str
    multi_label: bool
    digest: str  # of the manifest
    total: Summary
    classes: tuple[Summary, ...]
    sample_rates: dict[int, int]  # clips by Hz
    channels: dict[int, int]
    formats: dict[str, int]
    unreadable: tuple[str, ...]  # reasons, with the name
    skipped: tuple[str, ...]  # what the reader could not use: name and reason
    short: tuple[str, ...]  # names
    silent: tuple[str, ...]
    clipped: tuple[str, ...]
    offset: tuple[str, ...]  # with a mean that is not zero
    duplicates: tuple[Duplicate, ...]
    sources_in_folds: dict[str, tuple[int, ...]]  # sources that stand in several folds
    not_trainable: str  # why it cannot be split as it is; empty where it can

    @property
    def bad_files(self) -> int:
        """How many files cannot be used."""
        return len(self.unreadable) + len(self.skipped)

    def bad(self) -> str:
        """The same in words, as the lists count them."""
        counts = (len(self.skipped), "skipped"), (len(self.unreadable), "not readable")
        return f"{self.bad_files} files cannot be used: {', '.join(f'{n} {what}' for n, what in counts if n)}"


def read_for_description(data: Path, options: ReadOptions) -> tuple[Manifest, str]:
    """The manifest, and why it cannot be trained on; one that cannot be split is described unsplit.

    Raises:
        ManifestError: when it cannot be read.
    """
    options = replace(options, strict=False)  # bad files are what a description is for
    try:
        return read_manifest(data, options), ""
    except ManifestError as error:
        return read_manifest(data, replace(options, n_folds=1)), str(error)


def describe(manifest: Manifest, facts: Iterable[Facts], not_trainable: str = "") -> Description:
    """The description of ``manifest``, whose clips have ``facts``."""
    pairs = list(zip(manifest.clips, facts, strict=True))
    measured = [(clip, fact) for clip, fact in pairs if not fact.error]
    by_label = {label: [m for m in measured if label in m[0].labels] for label in manifest.labels}

    def named(test: Callable[[Facts], bool]) -> tuple[str, ...]:
        return tuple(clip.name for clip, fact in measured if test(fact))

    return Description(
        name=manifest.name,
        multi_label=manifest.multi_label,
        digest=manifest.digest(),
        total=Summary.of("all", measured),
        classes=tuple(Summary.of(label, own) for label, own in by_label.items()),
        sample_rates=_counts(fact.sample_rate for _, fact in measured),
        channels=_counts(fact.channels for _, fact in measured),
        formats=_counts(fact.format for _, fact in measured),
        unreadable=tuple(fact.error for _, fact in pairs if fact.error),
        skipped=manifest.skipped,
        short=named(lambda fact: fact.seconds < SHORT),
        silent=named(lambda fact: fact.silence > SILENT),
        clipped=named(lambda fact: fact.clipped > CLIPPED),
        offset=named(lambda fact: fact.offset > OFFSET),
        duplicates=tuple(duplicates(measured)),
        sources_in_folds=sources_in_folds(manifest.clips),
        not_trainable=not_trainable,
    )


def duplicates(measured: Sequence[Measured]) -> Iterator[Duplicate]:
    """Clips with the same samples, the worst first: those that contradict each other, then those across folds."""
    same: dict[str, list[Clip]] = defaultdict(list)
    for clip, facts in measured:
        same[facts.digest].append(clip)
    found = []
    for clips in same.values():
        if len(clips) > 1:
            labels = sorted({" + ".join(clip.labels) for clip in clips})
            folds = sorted({clip.fold for clip in clips})
            found.append(Duplicate(tuple(clip.name for clip in clips), tuple(labels), tuple(folds)))
    yield from sorted(found, key=lambda d: (-len(d.labels), -len(d.folds), d.clips))


def sources_in_folds(clips: Sequence[Clip]) -> dict[str, tuple[int, ...]]:
    """Groups that stand in more than one fold, and the folds."""
    folds: dict[str, set[int]] = defaultdict(set)
    for clip in clips:
        folds[clip.origin].add(clip.fold)
    return {origin: tuple(sorted(own)) for origin, own in sorted(folds.items()) if len(own) > 1}


def _counts(values: Iterable[T]) -> dict[T, int]:
    return dict(Counter(values).most_common())
