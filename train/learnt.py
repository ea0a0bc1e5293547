"""How many of the clips that a model is measured on it has learnt from."""

from __future__ import annotations

import filecmp
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from edge.config import Provenance
from train.manifest import Clip, Manifest, ManifestError
from train.readers import read_listing
from train.readers.options import ReadOptions


def learnt_from(model: Path | None, origin: Provenance, manifest: Manifest, clips: Sequence[Clip]) -> int | None:
    """How many of ``clips``, which are of ``manifest``, are in training folds of ``model``; None where nothing tells.

    What the run wrote beside its checkpoint tells it of the recordings themselves, whatever the data set is called now
    and however it was dealt. Without that, official folds tell it of a data set of the training's name.
    """
    if trained := trained_on(model, origin.dataset, origin.train_folds):
        return len(heard(trained, clips))
    if manifest.official and manifest.name == origin.dataset:
        return sum(clip.fold in origin.train_folds for clip in clips)
    return None


def heard(trained: Sequence[Clip], clips: Sequence[Clip]) -> list[Clip]:
    """Those of ``clips`` that have some of their sound in common with ``trained``."""
    known = defaultdict(list)
    for clip in trained:
        known[clip.path.resolve().name].append(clip)
    return [clip for clip in clips if any(_overlap(clip, other) for other in known[clip.path.resolve().name])]


def trained_on(model: Path | None, dataset: str, train_folds: Sequence[int]) -> list[Clip]:
    """The training clips that the ``manifest.jsonl`` beside ``model`` names, and that are still there."""
    if model is None or not (beside := model.parent / "manifest.jsonl").is_file():
        return []
    try:
        listing = read_listing(beside, ReadOptions())
    except ManifestError:  # another program's
        return []
    if listing.name != dataset:
        return []
    return [clip for clip in listing.clips if clip.fold in train_folds and clip.path.is_file()]


def _overlap(clip: Clip, other: Clip) -> bool:
    """Whether both are of the same file, or of copies of it, and have some of its sound in common."""
    apart = max(clip.start, other.start) >= min(math.inf if c.end is None else c.end for c in (clip, other))
    try:
        return not apart and (clip.path.samefile(other.path) or filecmp.cmp(clip.path, other.path, shallow=False))
    except OSError:  # one cannot be read
        return False
