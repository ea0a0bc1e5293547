"""Folds: official ones by name or number, and the dealing of clips where there are none."""

from __future__ import annotations

import logging
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from train.clip import Clip, ManifestError

log = logging.getLogger("train.splits")

# As people call them; so that test is a fold that can be held out, and validation one that can be looked at.
NAMED = {"train": 1, "training": 1, "val": 2, "valid": 2, "validation": 2, "dev": 2, "test": 3, "testing": 3, "eval": 3}
ATTEMPTS = 100  # orders that are tried where sources of several classes stand in each other's way
NUMBERED = re.compile(r"(?:(?:fold|split)[ _-]?)?(\d+)(?:\.0)?")


def is_fold(text: str) -> bool:
    """Whether ``text`` is the name of a fold: ``train``, ``fold3``; a number alone may be a class."""
    return text.lower() in NAMED or (NUMBERED.fullmatch(text.lower()) is not None and not text[0].isdigit())


def fold_number(text: str, place: str) -> int:
    """The fold that ``text`` names. Raises ManifestError, with ``place``, where it names none."""
    if text.lower() in NAMED:
        return NAMED[text.lower()]
    found = NUMBERED.fullmatch(text.lower())
    if found is None:
        raise ManifestError(f"{place}: fold {text!r}; allowed are whole numbers, fold1, train, validation and test")
    return int(found[1])


def from_zero(texts: Iterable[str]) -> bool:
    """Whether one of ``texts`` names the fold 0, so that folds are counted from there."""
    found = (NUMBERED.fullmatch(text.lower()) for text in texts)
    return any(match is not None and int(match[1]) == 0 for match in found)


def from_one(clips: Sequence[Clip]) -> list[Clip]:
    """Official folds that are counted from 0 are counted from 1."""
    first = 1 if any(clip.fold == 0 for clip in clips) else 0
    return [replace(clip, fold=clip.fold + first) for clip in clips]


def deal(clips: Sequence[Clip], n_folds: int, seed: int) -> list[Clip]:
    """``clips`` with folds 1 to ``n_folds``: a group in one fold, the same share of each label in every fold.
    Where there are too few groups there are fewer folds, and the log says so.

    Iterative stratification (Sechidis 2011, section 3.2) of groups: the rarest label first, its largest group first, to
    the fold that lacks most of it. sklearn's StratifiedGroupKFold takes one label a clip, and does not see to it that a
    small class is in the fold that is held out: here a tie goes to the highest fold, and that one gets a group of every
    label before the others get any.

    Raises:
        ManifestError: for a label of one group, which cannot be trained and tested, or groups of several labels that
            were not found to leave each of them something to train on.
    """
    if n_folds == 1:
        return [replace(clip, fold=1) for clip in clips]
    sources = _sources(clips)
    groups = _groups(clips, sources)
    _check_sources(clips, groups)
    for attempt in range(ATTEMPTS):
        dealer = _Dealer(groups, n_folds)
        order = _shuffled(groups, f"{seed}/{attempt}" if attempt else f"{seed}")
        if not (stuck := dealer.serve_last_fold(order, by_size=attempt == 0)):
            dealer.serve_all(order)
            dealt = [replace(clip, fold=dealer.folds[source]) for clip, source in zip(clips, sources, strict=True)]
            return _without_holes(dealt, n_folds)
    raise ManifestError(
        f"no fold was found to hold out a source of class {stuck!r} and leave every class one to train on: its sources "
        "are the last ones of other classes; try another --split-seed, add recordings, or do not split with --n-folds 1"
    )


def _without_holes(clips: Sequence[Clip], n_folds: int) -> list[Clip]:
    """Folds that nothing was dealt to are left out, and the others numbered from 1."""
    numbers = {fold: number for number, fold in enumerate(sorted({clip.fold for clip in clips}), start=1)}
    if 0 < len(numbers) < n_folds:
        log.warning(
            "only %d folds are possible, not %d: no class has so many sources; "
            "add recordings of others, or give --n-folds",
            len(numbers),
            n_folds,
        )
    return [replace(clip, fold=numbers[clip.fold]) for clip in clips]


def _sources(clips: Sequence[Clip]) -> list[str]:
    """The group of each clip, else the first path of its file: folds do not depend on where links lead."""
    first: dict[str, str] = {}
    return [first.setdefault(clip.origin, clip.group or str(clip.path)) for clip in clips]


def _groups(clips: Sequence[Clip], sources: Sequence[str]) -> dict[str, Counter[str]]:
    """How many clips of each label a group has; those without a label count as one of their own."""
    groups: dict[str, Counter[str]] = defaultdict(Counter)
    for clip, source in zip(clips, sources, strict=True):
        groups[source].update(clip.labels or ("",))
    return groups


def _check_sources(clips: Sequence[Clip], groups: dict[str, Counter[str]]) -> None:
    sources = Counter(label for counts in groups.values() for label in counts)
    for label, count in sorted(sources.items()):
        if count == 1 and label:
            own = [clip for clip in clips if label in clip.labels]
            what = f"one clip, {own[0].name}" if len(own) == 1 else f"{len(own)} clips of one source, {own[0].origin}"
            raise ManifestError(
                f"class {label!r} has {what}; needs two, to train on one and test the other: add recordings, leave the "
                "class out with --class, or do not split with --n-folds 1"
            )


def _shuffled(groups: dict[str, Counter[str]], seed: str) -> list[str]:
    """Shuffled within each label, so that another class more or less moves no clip of the others."""
    by_label: dict[str, list[str]] = defaultdict(list)
    for group in sorted(groups):
        by_label[min(groups[group])].append(group)
    return [
        g for label, own in sorted(by_label.items()) for g in random.Random(f"{seed}/{label}").sample(own, len(own))
    ]


class _Dealer:
    """The folds of the groups dealt so far, and how much of each label every fold still lacks."""

    def __init__(self, groups: dict[str, Counter[str]], n_folds: int) -> None:
        self.groups, self.n_folds = groups, n_folds
        self.folds: dict[str, int] = {}
        total: Counter[str] = Counter()
        for counts in groups.values():
            total.update(counts)
        # In clips times n_folds, so that shares are whole numbers and ties are exact.
        self.lacks = {fold: dict(total) for fold in range(1, n_folds + 1)}
        self.left = dict(total)  # clips of each label not yet dealt
        self.sources = Counter(label for counts in groups.values() for label in counts)  # groups not in the last fold

    def serve_last_fold(self, order: Sequence[str], *, by_size: bool) -> str:
        """A group of every label to the last fold, which leaves each label another one to train on: the one nearest to
        its share, or without ``by_size`` the first. Returns the label that has no such group; empty when all have.
        """
        last, share = self.n_folds, dict(self.lacks[self.n_folds])
        by_label = self._by_label(order)
        for label in sorted(by_label, key=lambda name: (len(by_label[name]), name)):
            if self.lacks[last][label] < share[label] or self.sources[label] < 2:
                continue  # it is there, or is no label

            def distance(group: str, label: str = label) -> int:
                return abs(self.groups[group][label] * self.n_folds - share[label]) if by_size else 0

            spare = [group for group in by_label[label] if not self._is_last_source(group)]
            if spare:
                self._deal(min(spare, key=distance), last)
            elif label:
                return label
        return ""

    def serve_all(self, order: Sequence[str]) -> None:
        """The rest, the rarest label first; the last source to train on does not go to the last fold."""
        by_label = self._by_label(order)
        while remaining := [label for label, count in self.left.items() if count]:
            label = min(remaining, key=lambda name: (self.left[name], name))
            for group in sorted(by_label[label], key=lambda name: -self.groups[name][label]):
                if group not in self.folds:
                    folds = range(1, self.n_folds + (not self._is_last_source(group)))
                    self._deal(group, max(folds, key=lambda fold: (self.lacks[fold][label], fold)))

    def _is_last_source(self, group: str) -> bool:
        """Whether a label is in no other group outside the last fold; clips without a label have none to lose."""
        return any(self.sources[label] == 1 for label in self.groups[group] if label)

    def _by_label(self, order: Sequence[str]) -> dict[str, list[str]]:
        by_label: dict[str, list[str]] = defaultdict(list)
        for group in order:
            for label in self.groups[group]:
                by_label[label].append(group)
        return by_label

    def _deal(self, group: str, fold: int) -> None:
        self.folds[group] = fold
        for label, count in self.groups[group].items():
            self.lacks[fold][label] -= count * self.n_folds
            self.left[label] -= count
            self.sources[label] -= fold == self.n_folds
