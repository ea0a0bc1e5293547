"""Any data set as one manifest: which file, which label, which fold."""

from __future__ import annotations

import csv
import hashlib
import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from edge.bulk import SUFFIXES

N_FOLDS = 5  # made where the data set has none


class ManifestError(Exception):
    """A data set that cannot be read; says what is wrong and what would be right."""


@dataclass(frozen=True)
class Clip:
    """One labelled recording."""

    path: Path
    label: str
    fold: int


@dataclass(frozen=True)
class Manifest:
    """A data set: its labels, in the order of the network's outputs, and its clips."""

    name: str
    labels: tuple[str, ...]
    clips: tuple[Clip, ...]

    def digest(self) -> str:
        """Changes when a clip, a label or a fold does."""
        rows = [(clip.path.name, clip.label, clip.fold) for clip in self.clips]
        return hashlib.sha256(repr((self.labels, rows)).encode()).hexdigest()[:16]

    def in_folds(self, folds: list[int]) -> list[Clip]:
        """The clips of ``folds``, in the manifest's order.

        Raises:
            ManifestError: for a fold without clips.
        """
        there = {clip.fold for clip in self.clips}
        for fold in folds:
            if fold not in there:
                raise ManifestError(f"fold {fold} has no clips; folds of {self.name}: {sorted(there)}")
        return [clip for clip in self.clips if clip.fold in folds]


def read_manifest(root: Path, *, seed: int = 0) -> Manifest:
    """The data set under ``root``: ESC-50's official layout, else a folder for each class.

    A folder for each class is split into five stratified folds, seeded, by file.

    Raises:
        ManifestError: when ``root`` is neither.
    """
    if not root.is_dir():
        raise ManifestError(f"{root} is not a folder; give the folder of a data set")
    if (root / "meta" / "esc50.csv").is_file():
        return _read_esc50(root)
    return _read_folders(root, seed)


def _read_esc50(root: Path) -> Manifest:
    """``meta/esc50.csv`` with filename, fold, target and category beside ``audio/`` (Piczak 2015)."""
    table = root / "meta" / "esc50.csv"
    targets: dict[str, int] = {}
    clips = []
    with table.open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            try:
                path = root / "audio" / row["filename"]
                targets[row["category"]] = int(row["target"])
                clips.append(Clip(path, row["category"], int(row["fold"])))
            except (KeyError, TypeError, ValueError) as error:
                raise ManifestError(
                    f"{table}, line {number}: {error!r}; needs filename, fold, target, category"
                ) from None
    if not clips:
        raise ManifestError(f"{table} names no clips")
    missing = [clip.path for clip in clips if not clip.path.is_file()]
    if missing:
        raise ManifestError(f"{len(missing)} of {len(clips)} files of {table} are missing, the first is {missing[0]}")
    return Manifest("ESC-50", tuple(sorted(targets, key=lambda label: targets[label])), tuple(clips))


def _read_folders(root: Path, seed: int) -> Manifest:
    """``root/<label>/**/*.wav`` and every other format that libsndfile reads."""
    by_label: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        if path.suffix.lower() in SUFFIXES and len(relative.parts) > 1:
            by_label[relative.parts[0]].append(path)
    if len(by_label) < 2:
        raise ManifestError(
            f"{root} has {len(by_label)} folders with sound files; needs at least two, one for each class"
        )
    clips = []
    for label, paths in sorted(by_label.items()):
        if len(paths) < 2:
            raise ManifestError(
                f"class {label!r} has one clip, {paths[0]}; needs two, to train on one and test the other"
            )
        shuffled = random.Random(f"{seed}/{label}").sample(paths, len(paths))
        # From the last fold down, which is held out by default: every class is in it.
        clips += [Clip(path, label, N_FOLDS - i % N_FOLDS) for i, path in enumerate(shuffled)]
    return Manifest(root.resolve().name, tuple(sorted(by_label)), tuple(sorted(clips, key=lambda clip: clip.path)))
